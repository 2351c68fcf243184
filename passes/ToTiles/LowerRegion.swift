import TensorIR
import TileIR

// A region, or an operation outside of regions, as one kernel, with what stays inside it in tiles.
extension TileLowering {
  mutating func lower(_ operations: [OperationID]) throws(LoweringError) {
    let members = operations.filter { !operationsReadInPlace.contains($0) }
    if members.isEmpty { return }
    if members.count == 1 {
      let operation = function[members[0]]
      switch operation.payload {
      case .extendOffsets, .selectOffsets: return try lowerOffsets(operation)
      case .lengths: return try lowerLengths(operation)
      case .attention: return try lowerAttention(operation)
      case .topK: return try lowerTopK(operation)
      default: break
      }
    }
    let start = self
    // Code for keys works on whole vectors of queries, and panels of them; the micro-kernel has eight rows.
    let hasAttention = members.contains { function[$0].isAttention }
    let most = hasAttention ? schedule.attentionRows : schedule.rows
    try emitKernel(members, block: BlockHeight(most))
    joinStatements()
    // As many rows as keep the block's tiles within the schedule's bytes.
    let bytes = ScratchLayout(kernel).byteCount
    func fitting(_ scratchBytes: Int, step: Int) -> Int {
      min(max(scratchBytes * most / max(bytes, 1) / step * step, step), most)
    }
    var block: BlockHeight
    if hasAttention {
      block = BlockHeight(fitting(schedule.attentionScratchBytes, step: schedule.panel))
      let short = min(fitting(schedule.scratchBytes, step: schedule.panel), schedule.shortAttention.rows)
      if short < block.most { block.short = .init(rows: short, below: schedule.shortAttention.below) }
    } else {
      block = BlockHeight(holdsNoRows ? most * schedule.tableBlocks : fitting(schedule.scratchBytes, step: 8))
    }
    if block != BlockHeight(most) {
      self = start
      try emitKernel(members, block: block)
      joinStatements()
    }
    if !kernel.body.isEmpty { end() }
  }

  /// Joins the statements of the kernel at hand.
  mutating func joinStatements() {
    let (program, usual) = (program, schedule.panel)
    kernel.joinStatements { buffer in
      guard case .weight(_, let packing) = program[buffer].home else { return usual }
      return packing.contractedPanels?.width ?? usual
    }
  }

  /// Whether rows go from tables straight to memory.
  private var holdsNoRows: Bool {
    kernel.tiles.allSatisfy { if case .window = $0.home { true } else { false } }
      && kernel.body.contains { if case .map(_, let sum, _) = $0 { sum.readsTables } else { false } }
  }

  private mutating func emitKernel(_ members: [OperationID], block: BlockHeight) throws(LoweringError) {
    let inside = Set(members)
    var domain = RowDomain.any
    for id in members {
      guard let own = function[id].rowDomain, let joined = domain.joined(with: own) else {
        throw LoweringError(message: "\(function[id].payload.mnemonic) does not fit into its region")
      }
      domain = joined
    }
    guard let rows = function.rows(of: members[0]) else {
      throw LoweringError(message: "\(function[members[0]].payload.mnemonic) has a result without rows")
    }
    let working = members.filter { if case .split = function[$0].payload { false } else { true } }
    let main = working.first { function[$0].isAttention } ?? working.first ?? members[0]
    let tileDomain: Domain
    switch domain {
    case .any, .acrossSequences: tileDomain = .rows(rows, block: block.most)
    case .anyTargets(let offsets): tileDomain = try sequenceDomain(offsets, nil, block: block, parts: 1)
    case .sequences(let offsets, let targets): tileDomain = try sequenceDomain(offsets, targets, block: block, parts: 1)
    }
    begin(function[main].payload.mnemonic, tileDomain)
    kernel.summary = working.map { function[$0].payload.mnemonic }.joined(separator: " + ")
    let virtual = virtualConcatenations(members, inside)
    for id in members {
      let operation = function[id]
      switch operation.payload {
      case .split(let split):
        let source = try place(of: operation.operands[0])
        var first = 0
        for (result, width) in zip(operation.results, split.widths) {
          places[result] = columns(of: source, first: first, count: width)
          first += width
        }
      case .concatenate where virtual.contains(id):
        virtualConcatenations[operation.results[0]] = operation.operands
      case .convert(let convert) where virtualConcatenations[operation.operands[0]] != nil:
        virtualConcatenations[operation.results[0]] = virtualConcatenations[operation.operands[0]]
        conversions[operation.results[0]] = convert.element
      case .quantizeRows(let quantize):
        let codes = slice(of: try findPlace(of: operation.results[0], by: operation, inside))
        let scales = slice(of: try findPlace(of: operation.results[1], by: operation, inside))
        try lowerQuantizeRows(quantize, operation.operands[0], codes: codes, scales: scales)
      case .attention(let attention):
        try findPlace(of: operation.results[0], by: operation, inside)
        try emitAttention(operation, attention.bias == .positionAndTime ? .sharingBias : .inTurn)
      case .bucketTimes, .calendarUnits, .extendRows, .lastRows, .markBits, .nextRows, .originalRows,
        .pickRows, .positions, .replaceTargets, .restoreRows, .selectRows:
        try findPlace(of: operation.results[0], by: operation, inside)
        try lowerSequenceOperation(operation)
      case _ where isPartOfSum(operation, inside):
        inlined[operation.results[0]] = try elementwise(operation)
      default:
        let place = try findPlace(of: operation.results[0], by: operation, inside)
        try lowerRowOperation(operation, into: slice(of: place))
      }
    }
  }

  /// Blocks of the rows of sequences.
  mutating func sequenceDomain(
    _ offsets: ValueID, _ targets: ValueID?, block: BlockHeight, parts: Int
  ) throws(LoweringError) -> Domain {
    let offsetsBuffer = try buffer(of: offsets)
    var targetsBuffer: BufferID?
    if let targets { targetsBuffer = try buffer(of: targets) }
    return .sequences(
      offsets: offsetsBuffer, targets: targetsBuffer, table: blockTable(offsetsBuffer, block: block), block: block,
      parts: parts)
  }

  /// A concatenation that only one contraction of the region reads, as it is or in codes or other elements, is never
  /// written down.
  private func virtualConcatenations(_ members: [OperationID], _ inside: Set<OperationID>) -> Set<OperationID> {
    Set(
      members.filter { id in
        guard case .concatenate = function[id].payload, let user = onlyUser(of: function[id].results[0], inside)
        else { return false }
        switch user.payload {
        case .linear: return user.operands[0] == function[id].results[0]
        case .quantizeRows: return true
        case .convert(let convert):
          guard let product = onlyUser(of: user.results[0], inside), case .linear = product.payload,
            product.operands[0] == user.results[0]
          else { return false }
          // Parts begin with whole groups of the contracted rows.
          return function[id].operands.dropLast().allSatisfy {
            width(of: $0) % convert.element.contractedTogether == 0
          }
        default: return false
        }
      })
  }

  /// Whether the operation reads a table, or goes on with what does, and only such a statement reads its result as can
  /// do this on its way: rows of tables then cross no tile before they are added up.
  private func isPartOfSum(_ operation: Operation, _ inside: Set<OperationID>) -> Bool {
    let result = operation.results[0]
    guard function[result].type.tensor?.element == .f32, let user = onlyUser(of: result, inside),
      user.operands.filter({ $0 == result }).count == 1
    else { return false }
    switch operation.payload {
    case .gather: break
    default: if !operation.operands.contains(where: { inlined[$0] != nil }) { return false }
    }
    switch user.payload {
    case .add, .convert, .multiply, .scale, .sigmoid, .silu, .zeroRows: return true
    default: return false
    }
  }

  /// The operation that alone reads a value, where it is in the region.
  private func onlyUser(of value: ValueID, _ inside: Set<OperationID>) -> Operation? {
    let users = users(of: value)
    guard users.count == 1, inside.contains(users[0]), !isResult(value) else { return nil }
    return function[users[0]]
  }

  private func columns(of place: Place, first: Int, count: Int) -> Place {
    switch place {
    case .buffer(let buffer, let start, _): .buffer(buffer, first: start + first, count: count)
    case .tile(let slice): .tile(TileSlice(slice.tile, first: slice.first + first, count: count))
    }
  }

  // MARK: - Tile or memory

  private func users(of value: ValueID) -> [OperationID] { readers[value] ?? [] }

  private func isResult(_ value: ValueID) -> Bool { function.results.contains { $0.value == value } }

  /// Whether something outside the region reads the value, or a slice of it.
  private func outlives(_ value: ValueID, _ inside: Set<OperationID>) -> Bool {
    if isResult(value) { return true }
    return users(of: value).contains { user in
      if !inside.contains(user) { return true }
      guard case .split = function[user].payload else { return false }
      return function[user].results.contains { outlives($0, inside) }
    }
  }

  /// Gives a result of the operation a tile, or memory where it outlives the region. Integers have no tiles.
  @discardableResult
  private mutating func findPlace(
    of value: ValueID, by operation: Operation, _ inside: Set<OperationID>
  ) throws(LoweringError) -> Place {
    if function[value].type.tensor?.element.isTileElement == true, !outlives(value, inside) {
      places[value] = .tile(
        scratch(
          function[value].name, rows: .block, capacity: kernel.domain.block, columns: width(of: value),
          element: try element(of: value)))
    } else if let place = placeToOverwrite(by: operation, inside) {
      places[value] = place
    } else {
      return try newMemory(for: value)
    }
    return try place(of: value)
  }

  /// The place of an operand that the operation, element by element, is the last to read: columns of workspace that
  /// this kernel wrote.
  private func placeToOverwrite(by operation: Operation, _ inside: Set<OperationID>) -> Place? {
    switch operation.payload {
    case .scale, .sigmoid, .silu: break
    default: return nil
    }
    guard outputs[operation.results[0]] == nil, case .buffer(let buffer, _, _)? = places[operation.operands[0]],
      case .workspace = program[buffer].home
    else { return nil }
    var value = operation.operands[0]
    while users(of: value).count == 1, !isResult(value), case .result(let id, _) = function[value].definition,
      inside.contains(id)
    {
      // Columns of a value that is not read otherwise are read by nobody else.
      guard case .split = function[id].payload else { return places[operation.operands[0]] }
      value = function[id].operands[0]
    }
    return nil
  }
}

extension Expression {
  fileprivate var readsTables: Bool {
    switch self {
    case .gathered: true
    case .unary(_, let operand), .unlessIndex(_, _, let operand), .whereBits(_, _, let operand): operand.readsTables
    case .binary(_, let left, let right): left.readsTables || right.readsTables
    case .tile, .product, .rowValue, .columnValue, .element, .constant, .scalar, .positionBias, .timeBias: false
    }
  }
}
