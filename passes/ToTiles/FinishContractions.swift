import TensorIR
import TileIR

extension Kernel {
  /// Joins statements where what they read and write allows it, so that less lies between them. Packed weights have panels of
  /// so many columns.
  mutating func joinStatements(panel: (BufferID) -> Int) {
    mergeMaps()
    finishContractions(panel: panel)
    removeUnusedTiles()
  }

  /// Lets products become what the maps right behind a contraction make of them while they are in registers: a bias, an
  /// activation, a mask, a rounding. A product whose columns go several ways becomes a contraction for each of them, and the
  /// tile between is gone.
  mutating func finishContractions(panel: (BufferID) -> Int) {
    body = finished(hoisted(body), panel)
  }

  /// The statements with each map of a product right behind its contraction and the maps that are there already, where
  /// nothing between has to do with it.
  private func hoisted(_ statements: [Statement]) -> [Statement] {
    var result: [Statement] = []
    for statement in statements {
      result.insert(statement, at: placeBehindProduct(statement, in: result) ?? result.endIndex)
    }
    return result
  }

  private func placeBehindProduct(_ statement: Statement, in earlier: [Statement]) -> Int? {
    guard case .map(let into, let expression, _) = statement else { return nil }
    for index in earlier.indices.reversed() {
      guard case .contract(let contraction) = earlier[index] else { continue }
      let tile = contraction.into.tile
      guard onlySlice(expression, of: tile) != nil else { continue }
      let maps = earlier[(index + 1)...].prefix { isMap($0) && mentions($0, tile) }
      return earlier[maps.endIndex...].allSatisfy { areApart($0, into, expression) } ? maps.endIndex : nil
    }
    return nil
  }

  private func isMap(_ statement: Statement) -> Bool { if case .map = statement { true } else { false } }

  /// Whether a statement may as well come behind a map.
  private func areApart(_ statement: Statement, _ into: TileSlice, _ expression: Expression) -> Bool {
    guard let written = statement.filledTile else { return false }
    var areApart = true
    statement.forEachTile { if isSameMemory($0, into.tile) { areApart = false } }
    expression.forEachTile { if isSameMemory($0, written) { areApart = false } }
    return areApart
  }

  private func finished(_ statements: [Statement], _ panel: (BufferID) -> Int) -> [Statement] {
    var result: [Statement] = []
    var rest = statements[...]
    while let statement = rest.popFirst() {
      switch statement {
      case .contract(let contraction) where !contraction.accumulate:
        var current = contraction
        let count = rest.count
        while case .map(let into, let expression, let masked)? = rest.first,
          let next = finishing(current, into, expression, masked)
        {
          current = next
          rest.removeFirst()
        }
        let maps = rest.prefix { reads($0, of: current.into.tile) }
        if let parts = distributed(current, maps, panel, statements: 1 + count - rest.count) {
          rest.removeFirst(maps.count)
          // What became of a single part may be finished further.
          if parts.count == 1 {
            rest.insert(.contract(parts[0]), at: rest.startIndex)
          } else {
            result += parts.map { .contract($0) }
          }
        } else {
          result.append(.contract(current))
        }
      case .forKeys(let mask, let step, let body):
        result.append(.forKeys(mask, step: step, body: finished(body, panel)))
      case .forParts(let count, let body): result.append(.forParts(count: count, body: finished(body, panel)))
      default: result.append(statement)
      }
    }
    return result
  }

  /// The contraction with a map of its whole result in place.
  private func finishing(
    _ contraction: Contraction, _ into: TileSlice, _ expression: Expression, _ masked: Bool
  ) -> Contraction? {
    guard into == contraction.into else { return nil }
    return composed(contraction, reading: into, into, expression, masked)
  }

  /// A contraction for each of the maps, which are all that reads the result; nil where that cannot be. So many statements
  /// became the contraction.
  private func distributed(
    _ contraction: Contraction, _ maps: ArraySlice<Statement>, _ panel: (BufferID) -> Int, statements own: Int
  )
    -> [Contraction]?
  {
    let tile = contraction.into.tile
    guard !maps.isEmpty, case .scratch = self[tile].home,
      statements.filter({ mentions($0, tile) }).count == maps.count + own
    else { return nil }
    var parts: [Part] = []
    for case .map(let into, let expression, let masked) in maps {
      guard let source = onlySlice(expression, of: tile), !isShared(into, contraction),
        !parts.contains(where: { overlap($0.columns, source) }),
        var part = cut(contraction, to: source, panel)
      else { return nil }
      part.into = source
      guard let finished = composed(part, reading: source, into, expression, masked) else { return nil }
      parts.append(Part(columns: source, contraction: finished))
    }
    return parts.map(\.contraction)
  }

  private struct Part {
    var columns: TileSlice
    var contraction: Contraction
  }

  private func overlap(_ first: TileSlice, _ second: TileSlice) -> Bool {
    first.first < second.first + second.count && second.first < first.first + first.count
  }

  /// The contraction of some columns only: whole panels of a packed weight.
  private func cut(_ contraction: Contraction, to source: TileSlice, _ panel: (BufferID) -> Int) -> Contraction? {
    if source == contraction.into { return contraction }
    guard case .panels(let buffer, let firstRow, let rows, let firstColumn) = contraction.right else { return nil }
    let first = source.first - contraction.into.first
    let end = first + source.count
    guard first >= 0, end <= contraction.into.count, first % panel(buffer) == 0,
      end % panel(buffer) == 0 || end == contraction.into.count
    else { return nil }
    var part = contraction
    part.right = .panels(buffer, firstRow: firstRow, rows: rows, firstColumn: firstColumn + first)
    part.finish = contraction.finish?.replacing { operand in
      switch operand {
      case .columnValue(let buffer, let start): .columnValue(buffer, first: start + first)
      case .tile(let slice): .tile(TileSlice(slice.tile, first: slice.first + first, count: source.count))
      default: nil
      }
    }
    return part
  }

  private func composed(
    _ contraction: Contraction, reading source: TileSlice, _ into: TileSlice, _ expression: Expression, _ masked: Bool
  ) -> Contraction? {
    guard expression.canFinish, onlySlice(expression, of: source.tile) == source, self[source.tile].element == .f32,
      !contraction.masked, !self[into.tile].element.isCode
    else { return nil }
    let product = contraction.finish ?? .product
    // What is computed once is not computed twice.
    if product != .product, expression.count(of: source) > 1 { return nil }
    var result = contraction
    result.into = into
    let finish = expression.replacing { $0 == .tile(source) ? product : nil }
    result.finish = finish == .product && !masked ? nil : finish
    result.masked = masked
    return result
  }

  // MARK: - What statements name

  /// The slice of a tile that an expression reads, where it is one, at the same place.
  func onlySlice(_ expression: Expression, of tile: TileID) -> TileSlice? {
    var slices: Set<TileSlice> = []
    var others = false
    _ = expression.replacing { part in
      switch part {
      case .tile(let slice) where owner(of: slice.tile) == owner(of: tile):
        if slice.tile == tile { slices.insert(slice) } else { others = true }
      case .rowValue(let slice) where owner(of: slice.tile) == owner(of: tile): others = true
      default: break
      }
      return nil
    }
    return slices.count == 1 && !others ? slices.first : nil
  }

  private func reads(_ statement: Statement, of tile: TileID) -> Bool {
    guard case .map(let into, let expression, _) = statement, owner(of: into.tile) != owner(of: tile) else {
      return false
    }
    return onlySlice(expression, of: tile) != nil
  }

  func mentions(_ statement: Statement, _ tile: TileID) -> Bool {
    var found = false
    statement.forEachTile { if owner(of: $0) == owner(of: tile) { found = true } }
    return found
  }

  /// Whether writing the slice may change what the contraction reads, which other parts of it read later.
  private func isShared(_ into: TileSlice, _ contraction: Contraction) -> Bool {
    var read = [contraction.left.tile]
    if case .tile(let right) = contraction.right { read.append(right.tile) }
    contraction.finish?.forEachTile { read.append($0) }
    return read.contains { isSameMemory($0, into.tile) }
  }

  func isSameMemory(_ first: TileID, _ second: TileID) -> Bool {
    if case .window(let buffer, _, _) = self[first].home, case .window(buffer, _, _) = self[second].home { return true }
    return owner(of: first) == owner(of: second)
  }
}

extension Expression {
  func count(of slice: TileSlice) -> Int {
    var count = 0
    _ = replacing { part in
      if part == .tile(slice) { count += 1 }
      return nil
    }
    return count
  }
}
