import TensorIR
import TileIR

// Attention, a block of queries at a time: never more of rows x rows than a tile.
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

    var before: [Statement] = []
    var body: [Statement] = []
    var after: [Statement] = []
    // A time bias is the same for all heads and costs more than a head's products: a block then takes all heads.
    let together = attention.bias == .positionAndTime && attention.heads <= Self.mostHeadsTogether

    begin(
      "attention",
      .sequences(offsets: offsets, targets: targets, table: table, block: block, parts: together ? 1 : attention.heads))
    _ = try newMemory(for: operation.results[0])
    let scores = keyTile("scores", block)
    var sharedBias: TileSlice?
    if together, let bias {
      let tile = keyTile("bias", block)
      body.append(.map(into: tile, bias))
      sharedBias = tile
    }
    var score = Expression.tile(scores)
    if let bias { score = .binary(.add, score, sharedBias.map { .tile($0) } ?? bias) }
    let activated: Expression
    switch attention.activation {
    case .silu: activated = .unary(.silu, score)
    case .identity: activated = score
    }

    for head in 0..<(together ? attention.heads : 1) {
      func window(_ operand: ValueID, _ width: Int, _ rows: Tile.Rows) throws(LoweringError) -> TileSlice {
        try headWindow(operand, width: width, rows: rows, head: together ? head : nil)
      }
      let queries = TileSlice(
        kernel.addTile(
          Tile(
            name: "queries", rows: .fixed(queryWidth), columns: block,
            home: .scratch(capacity: queryWidth, rowStride: block))), first: 0, count: block)
      let sum = scratch("sum", rows: .block, capacity: block, columns: valueWidth)
      before += [
        .transpose(into: queries, from: try window(operands[0], queryWidth, .block), factor: attention.alpha),
        .clear(sum),
      ]
      body += [
        .contract(
          Contraction(
            into: scores, left: try window(operands[1], queryWidth, .keys), right: .tile(queries), accumulate: false)),
        .map(into: scores, activated, masked: true),
        .contract(
          Contraction(
            into: sum, left: scores, leftTransposed: true,
            right: .tile(try window(operands[2], valueWidth, .keys)), accumulate: true)),
      ]
      let out = try window(operation.results[0], valueWidth, .block)
      after.append(.map(into: out, .binary(.multiply, .tile(sum), divisor)))
    }
    kernel.body = before + [.forKeys(attention.mask, step: schedule.keys, body: body)] + after
    end()
  }

  /// The most heads that a block takes one after the other: each is code of its own.
  private static let mostHeadsTogether = 8

  /// A tile [keys, rows of the block].
  private mutating func keyTile(_ name: String, _ block: Int) -> TileSlice {
    let home = Tile.Home.scratch(capacity: schedule.keys, rowStride: block)
    let tile = kernel.addTile(Tile(name: name, rows: .keys, columns: block, home: home))
    return TileSlice(tile, first: 0, count: block)
  }

  /// A head's columns of a value: those of `head`, or of the block's part where that is nil.
  private mutating func headWindow(
    _ value: ValueID, width: Int, rows: Tile.Rows, head: Int?
  ) throws(LoweringError) -> TileSlice {
    guard case .buffer(let buffer, let first, _) = try place(of: value) else {
      throw LoweringError(message: "attention reads %\(function[value].name), which does not lie in memory")
    }
    return window(
      buffer, first: first + (head ?? 0) * width, count: width, rows: rows, columnsPerPart: head == nil ? width : 0)
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
