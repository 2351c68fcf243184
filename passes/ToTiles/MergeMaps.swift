import TileIR

extension Kernel {
  /// Computes what a map writes into a tile within the one map that reads it, so that the tile is gone: norm, gate and
  /// rounding become one walk over the rows. No number changes.
  mutating func mergeMaps() {
    var index = 0
    while index < body.count {
      if let reader = soleReader(of: index), let merged = merged(index, into: reader) {
        body[reader] = merged
        body.remove(at: index)
      } else {
        index += 1
      }
    }
  }

  /// The statement that alone reads the tile which this one, a map of all its columns, alone writes.
  private func soleReader(of index: Int) -> Int? {
    guard case .map(let into, _, false) = body[index], case .scratch = self[into.tile].home,
      self[into.tile].element == .f32, into.count == self[into.tile].columns
    else { return nil }
    let mentions = body.indices.filter { other in body[other].flattened.contains { self.mentions($0, into.tile) } }
    guard mentions.count == 2, mentions[0] == index else { return nil }
    return mentions[1]
  }

  private func merged(_ index: Int, into reader: Int) -> Statement? {
    guard case .map(let source, let value, _) = body[index],
      case .map(let into, let expression, let masked) = body[reader],
      onlySlice(expression, of: source.tile) == source, expression.count(of: source) == 1,
      body[index + 1..<reader].allSatisfy({ !writes($0, toWhat: value) })
    else { return nil }
    // A result may take the place of what it is computed from, at the same place only.
    let writesOperand = value.tiles.contains { operand in
      operand != .tile(into) && isSameMemory(operand.slice.tile, into.tile)
    }
    return writesOperand
      ? nil : .map(into: into, expression.replacing { $0 == .tile(source) ? value : nil }, masked: masked)
  }

  /// Whether the statement may change what the expression reads.
  private func writes(_ statement: Statement, toWhat expression: Expression) -> Bool {
    statement.flattened.contains { inner in
      guard let into = inner.filledTile else {
        if case .forKeys = inner { return false }
        if case .forParts = inner { return false }
        return true
      }
      return expression.tiles.contains { isSameMemory($0.slice.tile, into) }
    }
  }
}

/// A slice that an expression reads, at the same place or as one number a row.
private enum Operand: Hashable {
  case tile(TileSlice)
  case rowValue(TileSlice)

  var slice: TileSlice {
    switch self {
    case .tile(let slice), .rowValue(let slice): slice
    }
  }
}

extension Expression {
  fileprivate var tiles: [Operand] {
    var found: [Operand] = []
    _ = replacing { part in
      switch part {
      case .tile(let slice): found.append(.tile(slice))
      case .rowValue(let slice): found.append(.rowValue(slice))
      default: break
      }
      return nil
    }
    return found
  }
}
