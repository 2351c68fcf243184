// When buffers of the workspace may lie in the same memory.
extension Program {
  /// Whether two workspace buffers may share memory: they are never alive at once, or one takes the other's place in the
  /// kernel that reads the one for the last time and writes the other for the first. `lifetimes` are `workspaceLifetimes`.
  public func canShareMemory(_ one: BufferID, _ other: BufferID, _ lifetimes: [BufferID: ClosedRange<Int>]) -> Bool {
    guard let first = lifetimes[one], let second = lifetimes[other], first.overlaps(second) else { return true }
    return takesPlace(one, first, of: other, second) || takesPlace(other, second, of: one, first)
  }

  private func takesPlace(
    _ new: BufferID, _ life: ClosedRange<Int>, of old: BufferID, _ before: ClosedRange<Int>
  ) -> Bool {
    guard before.upperBound == life.lowerBound, kernels.indices.contains(life.lowerBound) else { return false }
    // Then a row has the same bytes in both.
    let (made, read) = (self[new], self[old])
    guard made.element == read.element, made.rows == read.rows, made.columns == read.columns else { return false }
    return kernels[life.lowerBound].overwrites(old, with: new)
  }
}

extension Kernel {
  /// Whether the kernel is done with a row of `old` wherever it writes that row of `new`, which has the same shape, so that
  /// both can be one memory.
  ///
  /// Blocks run in any order, so a block may name rows of its own only, and be the only one that has them. Within the block
  /// nothing names `old` after the first write to `new`, a loop counted as one statement; only a map, or what finishes a
  /// contraction, may read an element where it writes it.
  func overwrites(_ old: BufferID, with new: BufferID) -> Bool {
    if domain.parts > 1 { return false }
    var olds: Set<TileID> = []
    var news: Set<TileID> = []
    for (index, tile) in tiles.enumerated() {
      guard tile.buffers.contains(where: { $0 == old || $0 == new }) else { continue }
      guard case .window(let buffer, _, _) = tile.home, tile.rows == .block else { return false }
      if buffer == old { olds.insert(TileID(index: index)) } else { news.insert(TileID(index: index)) }
    }
    // What is named without a tile may be read at any row.
    guard !buffersWithoutTiles.contains(where: { $0 == old || $0 == new }) else { return false }
    var isWritten = false
    for statement in body {
      let tiles = statement.flattened.flatMap(\.tiles)
      let namesNew = tiles.contains(where: news.contains)
      let namesOld = tiles.contains(where: olds.contains)
      if namesOld, isWritten { return false }
      if namesOld, namesNew, !statement.replaces(olds, in: self) { return false }
      isWritten = isWritten || namesNew
    }
    return true
  }

  /// The buffers that the domain and statements name, those behind tiles excepted.
  private var buffersWithoutTiles: [BufferID] {
    var found: [BufferID] = []
    if case .sequences(let offsets, let targets, let table, _, _) = domain {
      found += [offsets, table] + (targets.map { [$0] } ?? [])
    }
    if let keys { found += [keys.offsets] + (keys.kept.map { [$0] } ?? []) }
    for statement in body { statement.forEachBuffer { found.append($0) } }
    return found
  }
}

extension Statement {
  fileprivate var tiles: [TileID] {
    var found: [TileID] = []
    forEachTile { found.append($0) }
    return found
  }

  /// Whether this is a map, or what finishes a contraction, that reads the tiles, windows on a buffer, only at the columns
  /// that it writes of another one.
  fileprivate func replaces(_ olds: Set<TileID>, in kernel: Kernel) -> Bool {
    switch self {
    case .map(let into, let expression, _): return expression.reads(olds, onlyWhere: into, in: kernel)
    case .contract(let contraction):
      if olds.contains(contraction.left.tile) { return false }
      if case .tile(let right) = contraction.right, olds.contains(right.tile) { return false }
      return contraction.finish?.reads(olds, onlyWhere: contraction.into, in: kernel) == true
    default: return false
    }
  }
}

extension Expression {
  fileprivate func reads(_ olds: Set<TileID>, onlyWhere into: TileSlice, in kernel: Kernel) -> Bool {
    switch self {
    case .tile(let slice):
      guard olds.contains(slice.tile) else { return true }
      guard case .window(_, let from, let stride) = kernel[slice.tile].home,
        case .window(_, let to, let step) = kernel[into.tile].home
      else { return false }
      return from + slice.first == to + into.first && stride == step
    case .rowValue(let slice): return !olds.contains(slice.tile)
    case .unary(_, let operand), .unlessIndex(_, _, let operand), .whereBits(_, _, let operand):
      return operand.reads(olds, onlyWhere: into, in: kernel)
    case .binary(_, let left, let right):
      return left.reads(olds, onlyWhere: into, in: kernel) && right.reads(olds, onlyWhere: into, in: kernel)
    case .product, .columnValue, .gathered, .element, .constant, .scalar, .positionBias, .timeBias: return true
    }
  }
}
