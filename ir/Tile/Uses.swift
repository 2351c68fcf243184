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
    if let keys { ([keys.offsets] + (keys.kept.map { [$0] } ?? [])).forEach(note) }
    for tile in tiles { tile.buffers.forEach(note) }
    for statement in body { statement.forEachBuffer(note) }
    return found
  }
}

extension Statement {
  /// Calls `body` with every buffer named here, those behind tiles excepted.
  public func forEachBuffer(_ body: (BufferID) -> Void) {
    switch self {
    case .map(_, let expression, _), .reduce(_, let expression, _), .maximum(_, let expression, _):
      expression.forEachBuffer(body)
    case .contract(let contraction):
      if case .panels(let buffer, _, _, _) = contraction.right { body(buffer) }
      contraction.finish?.forEachBuffer(body)
    case .transpose, .clear: break
    case .indices(_, let source):
      switch source {
      case .loaded(let buffer, _, _), .lastRow(let buffer), .afterSelection(_, let buffer),
        .beforeAddition(_, _, let buffer), .afterAddition(_, let buffer), .calendar(let buffer, _, _),
        .marked(_, _, let buffer, _):
        body(buffer)
      case .bucket(let times, let queries, let thresholds): [times, queries, thresholds].forEach(body)
      case .pickedRow(_, let offsets, let lengths, _):
        body(offsets)
        lengths.map(body)
      case .beforeSelection(_, let offsets, let targets):
        body(offsets)
        targets.map(body)
      case .expression, .sequence: break
      }
    case .gather(_, let buffer, _, _, _): body(buffer)
    case .gatherIntegers(let into, let from, _, _):
      body(into)
      body(from)
    case .nextIntegers(let into, let from, let last): [into, from, last].forEach(body)
    case .storeIndices(let buffer, _): body(buffer)
    case .best(let best):
      [best.ids, best.right].forEach(body)
      if let seen = best.seen { [seen.ids, seen.offsets].forEach(body) }
    case .merge(let merged): [merged.ids, merged.partScores, merged.partIDs].forEach(body)
    case .sort(let into, let from, let offsets, _): [into, from, offsets].forEach(body)
    case .forKeys(_, _, let statements), .forParts(_, let statements):
      for statement in statements { statement.forEachBuffer(body) }
    }
  }
}

extension Statement {
  /// Calls `body` with every slice of a tile named here, the one that the statement fills first; those of the statements in a loop excepted.
  public func forEachSlice(_ body: (TileSlice) -> Void) {
    switch self {
    case .map(let into, let expression, _), .reduce(let into, let expression, _),
      .maximum(let into, let expression, _):
      body(into)
      expression.forEachSlice(body)
    case .contract(let contraction):
      body(contraction.into)
      body(contraction.left)
      if case .tile(let right) = contraction.right { body(right) }
      contraction.finish?.forEachSlice(body)
    case .transpose(let into, let from, _):
      body(into)
      body(from)
    case .gather(let into, _, _, _, _), .clear(let into): body(into)
    case .best(let best): [best.scores, best.left, best.products].forEach(body)
    case .merge(let merged): body(merged.scores)
    case .indices, .gatherIntegers, .nextIntegers, .sort, .storeIndices, .forKeys, .forParts: break
    }
  }

  /// Calls `body` with every tile named here, those of the statements in a loop excepted.
  public func forEachTile(_ body: (TileID) -> Void) { forEachSlice { body($0.tile) } }
}

extension Expression {
  /// Calls `body` with every slice of a tile named here.
  public func forEachSlice(_ body: (TileSlice) -> Void) {
    switch self {
    case .tile(let slice), .rowValue(let slice): body(slice)
    case .unary(_, let operand), .unlessIndex(_, _, let operand), .whereBits(_, _, let operand):
      operand.forEachSlice(body)
    case .binary(_, let left, let right):
      left.forEachSlice(body)
      right.forEachSlice(body)
    case .product, .columnValue, .gathered, .element, .constant, .scalar, .positionBias, .timeBias: break
    }
  }

  /// Calls `body` with every tile named here.
  public func forEachTile(_ body: (TileID) -> Void) { forEachSlice { body($0.tile) } }

  /// Calls `body` with every buffer named here, those behind tiles excepted.
  public func forEachBuffer(_ body: (BufferID) -> Void) {
    switch self {
    case .columnValue(let buffer, _), .gathered(let buffer, _), .element(let buffer, _), .positionBias(let buffer, _):
      body(buffer)
    case .timeBias(let bias): [bias.weights, bias.thresholds, bias.queryTimes, bias.keyTimes].forEach(body)
    case .unary(_, let operand), .unlessIndex(_, _, let operand), .whereBits(_, _, let operand):
      operand.forEachBuffer(body)
    case .binary(_, let left, let right):
      left.forEachBuffer(body)
      right.forEachBuffer(body)
    case .tile, .product, .rowValue, .constant, .scalar: break
    }
  }
}

extension Expression {
  /// Whether it can be computed for products in registers: from numbers at the same place, row or column.
  public var canFinish: Bool {
    switch self {
    case .tile, .product, .rowValue, .columnValue, .element, .constant, .scalar: true
    case .unary(_, let operand): operand.canFinish
    case .binary(_, let left, let right): left.canFinish && right.canFinish
    case .gathered, .unlessIndex, .whereBits, .positionBias, .timeBias: false
    }
  }

  /// The expression with every part replaced that `replacement` gives something for.
  public func replacing(_ replacement: (Expression) -> Expression?) -> Expression {
    if let other = replacement(self) { return other }
    switch self {
    case .tile, .product, .rowValue, .columnValue, .gathered, .element, .constant, .scalar, .positionBias, .timeBias:
      return self
    case .unary(let function, let operand): return .unary(function, operand.replacing(replacement))
    case .binary(let function, let left, let right):
      return .binary(function, left.replacing(replacement), right.replacing(replacement))
    case .unlessIndex(let vector, let id, let operand):
      return .unlessIndex(vector, is: id, operand.replacing(replacement))
    case .whereBits(let vector, let mask, let operand):
      return .whereBits(vector, mask: mask, operand.replacing(replacement))
    }
  }
}

extension Statement {
  /// The statement with other tiles in place of those that it names, also of the statements in a loop.
  public func renaming(_ name: (TileID) -> TileID) -> Statement {
    func renamed(_ slice: TileSlice) -> TileSlice {
      TileSlice(name(slice.tile), first: slice.first, count: slice.count)
    }
    func renamed(_ expression: Expression) -> Expression {
      expression.replacing { part in
        switch part {
        case .tile(let slice): .tile(renamed(slice))
        case .rowValue(let slice): .rowValue(renamed(slice))
        default: nil
        }
      }
    }
    switch self {
    case .map(let into, let expression, let masked):
      return .map(into: renamed(into), renamed(expression), masked: masked)
    case .reduce(let into, let sum, let columns):
      return .reduce(into: renamed(into), sum: renamed(sum), columns: columns)
    case .maximum(let into, let of, let columns):
      return .maximum(into: renamed(into), of: renamed(of), columns: columns)
    case .contract(var contraction):
      contraction.into = renamed(contraction.into)
      contraction.left = renamed(contraction.left)
      if case .tile(let right) = contraction.right { contraction.right = .tile(renamed(right)) }
      contraction.finish = contraction.finish.map { renamed($0) }
      return .contract(contraction)
    case .transpose(let into, let from, let factor):
      return .transpose(into: renamed(into), from: renamed(from), factor: factor)
    case .gather(let into, let from, let first, let indices, let keepMissing):
      return .gather(into: renamed(into), from: from, first: first, indices: indices, keepMissing: keepMissing)
    case .clear(let slice): return .clear(renamed(slice))
    case .best(var best):
      (best.scores, best.left, best.products) = (renamed(best.scores), renamed(best.left), renamed(best.products))
      return .best(best)
    case .merge(var merged):
      merged.scores = renamed(merged.scores)
      return .merge(merged)
    case .forKeys(let mask, let step, let body):
      return .forKeys(mask, step: step, body: body.map { $0.renaming(name) })
    case .forParts(let count, let body): return .forParts(count: count, body: body.map { $0.renaming(name) })
    case .indices, .gatherIntegers, .nextIntegers, .sort, .storeIndices: return self
    }
  }
}

extension Statement {
  /// The tile that the statement fills; nil for loops and for what fills vectors and buffers of integers.
  public var filledTile: TileID? {
    switch self {
    case .map(let into, _, _), .reduce(let into, _, _), .maximum(let into, _, _), .transpose(let into, _, _),
      .gather(let into, _, _, _, _), .clear(let into):
      into.tile
    case .contract(let contraction): contraction.into.tile
    case .best(let best): best.scores.tile
    case .merge(let merged): merged.scores.tile
    case .indices, .gatherIntegers, .nextIntegers, .sort, .storeIndices, .forKeys, .forParts: nil
    }
  }
}

extension SetupStep {
  /// The buffers that this step fills.
  public var writtenBuffers: [BufferID] {
    switch self {
    case .selectOffsets(_, _, _, let into, _), .extendOffsets(_, _, _, let into, _), .blockTable(_, _, let into),
      .lengths(_, let into):
      [into]
    case .checkOffsets, .checkTargets, .checkIDs, .checkLengths: []
    }
  }
}

extension Program {
  /// For each workspace buffer that is used the first and the last kernel that names it; what setup fills is alive from
  /// before all kernels, step -1.
  ///
  /// Blocks of a kernel run in any order: while it runs, all that it names is alive.
  public var workspaceLifetimes: [BufferID: ClosedRange<Int>] {
    var lifetimes: [BufferID: ClosedRange<Int>] = [:]
    func note(_ id: BufferID, _ step: Int) {
      guard case .workspace = self[id].home else { return }
      lifetimes[id] = (lifetimes[id]?.lowerBound ?? step)...step
    }
    for id in setup.flatMap(\.writtenBuffers) { note(id, -1) }
    for (index, kernel) in kernels.enumerated() {
      for id in kernel.buffers { note(id, index) }
    }
    return lifetimes
  }

  /// The workspace buffers of each slot, by slot and in the order of buffers.
  public var slots: [(slot: Int, buffers: [BufferID])] {
    var slots: [Int: [BufferID]] = [:]
    for index in buffers.indices {
      if case .workspace(let slot) = buffers[index].home { slots[slot, default: []].append(BufferID(index: index)) }
    }
    return slots.sorted { $0.key < $1.key }.map { ($0.key, $0.value) }
  }

  /// Bytes of all workspace buffers, those of a slot counted once, for a batch of one sequence of so many rows.
  public func workspaceBytes(forOneSequenceOf rows: Int) -> Int {
    slots.reduce(0) { sum, slot in sum + (slot.buffers.map { byteCount(of: $0, forOneSequenceOf: rows) }.max() ?? 0) }
  }

  /// Bytes that a buffer may take for a batch of one sequence of so many rows. What counts sequences is told by the
  /// offsets, which have one more.
  public func byteCount(of id: BufferID, forOneSequenceOf rows: Int) -> Int {
    let buffer = self[id]
    let extent = greatestRows(buffer.rows) { name in
      buffers.contains { $0.rows == Extent(.symbol(name), plus: 1) } ? 1 : rows
    }
    return extent * buffer.columns * buffer.element.workingByteCount
  }
}
