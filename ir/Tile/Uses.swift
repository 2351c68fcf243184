import TensorIR

extension Kernel {
  /// Every buffer that the kernel reads or writes, in order of first mention, each once.
  public var buffers: [BufferID] {
    var found: [BufferID] = []
    func note(_ buffer: BufferID) { if !found.contains(buffer) { found.append(buffer) } }
    if case .sequences(let offsets, let targets, let table, _, _) = domain {
      [offsets, table].forEach(note)
      targets.map(note)
    }
    for tile in tiles { if case .window(let buffer, _, _) = tile.home { note(buffer) } }
    for statement in body { statement.forEachBuffer(note) }
    return found
  }
}

extension Statement {
  /// Calls `body` with every buffer named here, those behind tiles excepted.
  public func forEachBuffer(_ body: (BufferID) -> Void) {
    switch self {
    case .map(_, let expression, _), .reduce(_, let expression, _): expression.forEachBuffer(body)
    case .contract(let contraction):
      if case .panels(let buffer, _, _) = contraction.right { body(buffer) }
    case .transpose, .clear: break
    case .indices(_, let source):
      switch source {
      case .loaded(let buffer, _, _), .lastRow(let buffer), .afterSelection(_, let buffer): body(buffer)
      case .beforeSelection(_, let offsets, let targets):
        body(offsets)
        targets.map(body)
      case .expression: break
      }
    case .gather(_, let buffer, _, _, _): body(buffer)
    case .gatherIntegers(let into, let from, _):
      body(into)
      body(from)
    case .nextIntegers(let into, let from, let last): [into, from, last].forEach(body)
    case .storeIndices(let buffer, _): body(buffer)
    case .forKeys(_, _, let statements): for statement in statements { statement.forEachBuffer(body) }
    }
  }
}

extension Expression {
  /// Calls `body` with every buffer named here, those behind tiles excepted.
  public func forEachBuffer(_ body: (BufferID) -> Void) {
    switch self {
    case .columnValue(let buffer, _), .element(let buffer, _), .positionBias(let buffer, _): body(buffer)
    case .timeBias(let bias): [bias.weights, bias.thresholds, bias.queryTimes, bias.keyTimes].forEach(body)
    case .unary(_, let operand), .unlessIndex(_, _, let operand): operand.forEachBuffer(body)
    case .binary(_, let left, let right):
      left.forEachBuffer(body)
      right.forEachBuffer(body)
    case .tile, .rowValue, .constant, .scalar: break
    }
  }
}

extension SetupStep {
  /// The buffers that this step fills.
  public var writtenBuffers: [BufferID] {
    switch self {
    case .selectOffsets(_, _, _, let into, _), .blockTable(_, _, let into): [into]
    case .checkOffsets, .checkTargets, .checkIDs, .checkLengths: []
    }
  }
}
