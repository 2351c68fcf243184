import TensorIR
import TileIR

// Attention, a block of queries of one head at a time: never more of rows x rows than a tile.
extension TileLowering {
  /// Queries lie transposed in a tile, so that a tile of scores [keys, queries] and the product with the values both
  /// stream through keys and values as they lie in memory.
  mutating func lowerAttention(_ operation: Operation) throws(LoweringError) {
    guard case .attention(let attention) = operation.payload else { return }
    let operands = operation.operands
    let queryWidth = width(of: operands[0]) / attention.heads
    let valueWidth = width(of: operands[2]) / attention.heads
    let block = schedule.attentionRows
    let offsets = try buffer(of: operands[3])
    let targets = attention.hasTargets ? try buffer(of: operands[4]) : nil
    let table = blockTable(offsets, block: block)
    let divisor = try divisorScalar(attention, offsets: offsets, targets: targets)
    let bias = try biasExpression(attention, operands, offsets: offsets)

    begin(
      "attention",
      .sequences(offsets: offsets, targets: targets, table: table, block: block, parts: attention.heads))
    let query = try headWindow(operands[0], width: queryWidth, rows: .block)
    let key = try headWindow(operands[1], width: queryWidth, rows: .keys)
    let value = try headWindow(operands[2], width: valueWidth, rows: .keys)
    _ = try newMemory(for: operation.results[0])
    let out = try headWindow(operation.results[0], width: valueWidth, rows: .block)
    let queries = TileSlice(
      kernel.addTile(
        Tile(
          name: "queries", rows: .fixed(queryWidth), columns: block,
          home: .scratch(capacity: queryWidth, rowStride: block))), first: 0, count: block)
    let scores = TileSlice(
      kernel.addTile(
        Tile(
          name: "scores", rows: .keys, columns: block, home: .scratch(capacity: schedule.keys, rowStride: block))),
      first: 0, count: block)
    let sum = scratch("sum", rows: .block, capacity: block, columns: valueWidth)

    var score = Expression.tile(scores)
    if let bias { score = .binary(.add, score, bias) }
    let activated: Expression
    switch attention.activation {
    case .silu: activated = .unary(.silu, score)
    case .identity: activated = score
    }
    kernel.body = [
      .transpose(into: queries, from: query, factor: attention.alpha),
      .clear(sum),
      .forKeys(
        attention.mask, step: schedule.keys,
        body: [
          .contract(Contraction(into: scores, left: key, right: .tile(queries), accumulate: false)),
          .map(into: scores, activated, masked: true),
          .contract(
            Contraction(into: sum, left: scores, leftTransposed: true, right: .tile(value), accumulate: true)),
        ]),
      .map(into: out, .binary(.multiply, .tile(sum), divisor)),
    ]
    end()
  }

  private mutating func headWindow(_ value: ValueID, width: Int, rows: Tile.Rows) throws(LoweringError) -> TileSlice {
    guard case .buffer(let buffer, let first, _) = try place(of: value) else {
      throw LoweringError(message: "attention reads %\(function[value].name), which does not lie in memory")
    }
    return window(buffer, first: first, count: width, rows: rows, columnsPerPart: width)
  }

  private mutating func divisorScalar(
    _ attention: Attention, offsets: BufferID, targets: BufferID?
  ) throws(LoweringError) -> Expression {
    let formula: Scalar.Formula
    switch attention.divisor {
    case .fixed(let divisor): return .constant(1 / divisor)
    case .longestSequence: formula = .reciprocalOfLongestSequence(offsets: offsets)
    case .longestHistoryPlusTargets:
      formula = .reciprocalOfLongestHistoryPlusTargets(offsets: offsets, targets: targets)
    }
    if let known = program.scalars.firstIndex(where: { $0.formula == formula }) {
      return .scalar(ScalarID(index: known))
    }
    return .scalar(program.addScalar(Scalar(name: "divisor.\(program.scalars.count)", formula: formula)))
  }

  private mutating func biasExpression(
    _ attention: Attention, _ operands: [ValueID], offsets: BufferID
  ) throws(LoweringError) -> Expression? {
    let first = attention.hasTargets ? 5 : 4
    guard attention.bias != .none else { return nil }
    let longest = (width(of: operands[first]) + 1) / 2
    let check = SetupStep.checkLengths(offsets: offsets, maximum: longest)
    if !program.setup.contains(check) { program.setup.append(check) }
    let position = Expression.positionBias(
      try weightBuffer(operands[first], .reversed), reference: longest - 1)
    guard attention.bias == .positionAndTime else { return position }
    let buckets = width(of: operands[first + 1])
    let thresholds: BufferID
    if let known = timeTables[buckets] {
      thresholds = known
    } else {
      let numbers = TimeBuckets.thresholds(last: buckets - 1)
      thresholds = program.addBuffer(
        Buffer(
          name: "time_thresholds.\(buckets)", element: .f32, rows: Extent(.fixed(1)), columns: numbers.count,
          home: .table(numbers)))
      timeTables[buckets] = thresholds
    }
    let time = TimeBias(
      weights: try weightBuffer(operands[first + 1], .plain), thresholds: thresholds,
      queryTimes: try buffer(of: operands[first + 2]), keyTimes: try buffer(of: operands[first + 3]))
    return .binary(.add, position, .timeBias(time))
  }
}
