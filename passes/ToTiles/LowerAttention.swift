import TensorIR
import TileIR

// Attention, a block of queries at a time: never more of rows x rows than a tile.
extension TileLowering {
  /// A kernel of its own: one block takes one head, or, where heads share a time bias, all of them.
  mutating func lowerAttention(_ operation: Operation) throws(LoweringError) {
    guard case .attention(let attention) = operation.payload,
      case .sequences(let offsets, let targets)? = operation.rowDomain
    else { return }
    let heads: Heads = attention.bias == .positionAndTime && schedule.sharesTimeBias ? .sharingBias : .apart
    begin(
      "attention",
      try sequenceDomain(
        offsets, targets, block: BlockHeight(min(schedule.attentionRows, schedule.shortAttention.rows)),
        parts: heads == .apart ? attention.heads : 1))
    kernel.summary = "attention"
    _ = try newMemory(for: operation.results[0])
    try emitAttention(operation, heads)
    joinStatements()
    end()
  }

  /// Who runs the heads of a block.
  enum Heads {
    /// The domain: each head is a block of its own.
    case apart
    /// A loop over heads around the loop over keys.
    case inTurn
    /// A loop over heads within the loop over keys, whose bias they share.
    case sharingBias
  }

  /// Attention's statements in the kernel at hand, whose domain is that of the rows.
  ///
  /// Queries lie transposed in a tile, so that a tile of scores [keys, queries] and the product with the values both
  /// stream through keys and values as they lie in memory.
  mutating func emitAttention(_ operation: Operation, _ heads: Heads) throws(LoweringError) {
    guard case .attention(let attention) = operation.payload else { return }
    let operands = operation.operands
    let block = kernel.domain.block
    let count = attention.heads
    let queryWidth = width(of: operands[0]) / count
    let valueWidth = width(of: operands[2]) / count
    let offsets = try buffer(of: operands[3])
    // What continues the history is no target of the divisor either.
    let targets = attention.hasTargets && !attention.continuesHistory ? try buffer(of: operands[4]) : nil
    let joined = operands[1...2].compactMap { joinedRows[$0] }.first
    let kept = try joined.map { (rows) throws(LoweringError) in try buffer(of: rows.offsets) }
    kernel.keys = attention.queries.map {
      KeyRows($0, of: offsets, continuesHistory: attention.continuesHistory, kept: kept)
    }
    let divisor = try divisorScalar(attention, offsets: offsets, targets: targets)
    var bias = try biasExpression(attention, operands, offsets: offsets)
    /// The columns of the head at hand among those of all heads.
    func ofHead(_ value: ValueID, _ width: Int, _ rows: Tile.Rows = .block) throws(LoweringError) -> TileSlice {
      if rows == .keys, let joined = joinedRows[value] { return try joinedColumns(joined, count: width) }
      return try partColumns(of: try place(of: value), count: width, rows: rows)
    }

    let scores = keyTile("scores", block)
    // Of bf16, activated scores are rounded, in pairs of keys as their product with the values takes them.
    let element = try element(of: operands[0])
    let isNarrow = element == .bf16
    let weights = isNarrow ? keyTile("activated", block, element) : scores
    // A head's transposed queries, and the sums that its values are added to.
    let allHeads = heads == .sharingBias ? count : 1
    let allQueries = scratch(
      "queries", rows: .fixed(queryWidth), capacity: queryWidth, columns: allHeads * block, element: element,
      isGrouped: isNarrow)
    let queries = allHeads == 1 ? allQueries : try partColumns(of: .tile(allQueries), count: block)
    let result = try place(of: operation.results[0])
    let allSums: TileSlice
    let sum: TileSlice
    if case .tile(let slice) = result {
      allSums = slice
      sum = try ofHead(operation.results[0], valueWidth)
    } else {
      allSums = scratch("sum", rows: .block, capacity: block, columns: allHeads * valueWidth)
      sum = allHeads == 1 ? allSums : try partColumns(of: .tile(allSums), count: valueWidth)
    }

    var body: [Statement] = []
    if heads == .sharingBias, let expression = bias {
      let tile = keyTile("bias", block)
      body.append(.map(into: tile, expression))
      bias = .tile(tile)
    }
    var score = Expression.tile(scores)
    if isNarrow, attention.alpha != 1 { score = .binary(.multiply, score, .constant(attention.alpha)) }
    if let bias { score = .binary(.add, score, bias) }
    let activated: Expression
    switch attention.activation {
    case .silu: activated = .unary(.silu, score)
    case .identity: activated = score
    }
    let before: [Statement] = [
      .transpose(
        into: queries, from: try ofHead(operands[0], queryWidth), factor: isNarrow ? 1 : attention.alpha),
      .clear(sum),
    ]
    let turn: [Statement] = [
      .contract(
        Contraction(
          into: scores, left: try ofHead(operands[1], queryWidth, .keys), right: .tile(queries), accumulate: false)),
      .map(into: weights, activated, masked: true),
      .contract(
        Contraction(
          into: sum, left: weights, leftTransposed: true, right: .tile(try ofHead(operands[2], valueWidth, .keys)),
          accumulate: true)),
    ]
    let into = heads == .sharingBias ? slice(of: result) : try ofHead(operation.results[0], valueWidth)
    let after: [Statement] = [
      .map(into: into, .binary(.multiply, .tile(heads == .sharingBias ? allSums : sum), divisor))
    ]
    func keys(_ body: [Statement]) -> Statement { .forKeys(attention.mask, step: schedule.keys, body: body) }
    switch heads {
    case .apart: kernel.body += before + [keys(body + turn)] + after
    case .inTurn: kernel.body.append(.forParts(count: count, body: before + [keys(body + turn)] + after))
    case .sharingBias:
      kernel.body += [
        .forParts(count: count, body: before), keys(body + [.forParts(count: count, body: turn)]),
      ]
      kernel.body += after
    }
  }

  /// A tile [keys, rows of the block].
  private mutating func keyTile(_ name: String, _ block: Int, _ element: ElementType = .f32) -> TileSlice {
    let home = Tile.Home.scratch(capacity: schedule.keys, rowStride: block)
    let tile = Tile(
      name: name, rows: .keys, columns: block, home: home, element: element, isGrouped: element == .bf16)
    return TileSlice(kernel.addTile(tile), first: 0, count: block)
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
    let first = attention.firstBiasOperand
    guard attention.bias != .none else { return nil }
    let longest = (width(of: operands[first]) + 1) / 2
    let check = SetupStep.checkLengths(offsets: offsets, maximum: longest)
    if !program.setup.contains(check) { program.setup.append(check) }
    let position = Expression.positionBias(
      try weightBuffer(operands[first], .reversed), reference: longest - 1)
    guard attention.bias == .positionAndTime else { return position }
    let buckets = width(of: operands[first + 1])
    let time = TimeBias(
      weights: try weightBuffer(operands[first + 1], .plain), thresholds: timeTable(.research, last: buckets - 1),
      queryTimes: try buffer(of: operands[first + 2]), keyTimes: try buffer(of: operands[first + 3]))
    return .binary(.add, position, .timeBias(time))
  }
}
