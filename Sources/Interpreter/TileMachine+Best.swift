import TensorIR
import TileIR

// The best columns of a product, and what they need.
extension TileMachine {
  mutating func best(_ best: BestColumns, _ block: TileBlock) throws(InterpreterError) {
    guard case .weight(_, let packing) = program[best.right].home,
      let panels = packing.panels(rows: rows(program[best.right].rows), columns: program[best.right].columns)
    else { return }
    var contracted = panels.contracted
    if case .codedPanels(let format, _) = packing { contracted = format.columns(ofRow: contracted) }
    let (left, count) = (view(best.left, block), best.scores.count)
    let lefts = memory[left.memory]
    let rights = memory[places[best.right.index]]
    let total = (panels.columns + panels.width - 1) / panels.width
    let parts = block.kernel.domain.parts
    // Within a group the last product is added first, as in a contraction.
    let together = left.element.contractedTogether
    let order = stride(from: 0, to: best.left.count, by: together).flatMap { first in
      (first..<min(first + together, best.left.count)).reversed()
    }
    for row in 0..<block.rowCount {
      let own = seen(best.seen, row: block.firstRow + row)
      var found: [(score: Number, id: Int64)] = []
      for panel in total * block.part / parts..<total * (block.part + 1) / parts {
        let columns = min(panels.width, panels.columns - panel * panels.width)
        var sums = [Number](repeating: 0, count: columns)
        for step in order {
          let factor = lefts[left.first + row * left.stride + step]
          let start = (panel * contracted + step) * panels.width
          for lane in 0..<columns { sums[lane] = sums[lane].addingProduct(factor, rights[start + lane]) }
        }
        for (lane, score) in sums.enumerated() {
          let id = Int64(best.firstID + panel * panels.width + lane)
          if !own.contains(id) { found.append((score, id)) }
        }
      }
      let places = found.sorted(by: TopK.isBefore).prefix(count)
      storePlaces(places, best.scores, best.ids, first: block.part * count, row: row, block)
    }
    // What a turn left there means nothing.
    let products = view(best.products, block)
    for row in 0..<block.rowCount {
      for column in 0..<best.products.count { store(.nan, products, row, column) }
    }
  }

  private func seen(_ groups: BestColumns.Groups?, row: Int) -> Set<Int64> {
    guard let groups else { return [] }
    return Set((integer(groups.offsets, row)..<integer(groups.offsets, row + 1)).map { integer(groups.ids, Int($0)) })
  }

  mutating func merge(_ merged: MergedParts, _ block: TileBlock) {
    let count = merged.scores.count
    for row in 0..<block.rowCount {
      let start = (block.firstRow + row) * merged.parts * count
      let all = (start..<start + merged.parts * count)
        .map { (score: number(merged.partScores, $0), id: integer(merged.partIDs, $0)) }
      let places = all.filter { $0.id >= 0 }.sorted(by: TopK.isBefore).prefix(count)
      storePlaces(places, merged.scores, merged.ids, first: 0, row: row, block)
    }
  }

  /// Writes the places of a row, whose ids begin at column `first`; those that are left get no item.
  private mutating func storePlaces(
    _ places: ArraySlice<(score: Number, id: Int64)>, _ scores: TileSlice, _ ids: BufferID, first: Int, row: Int,
    _ block: TileBlock
  ) {
    let target = view(scores, block)
    let start = (block.firstRow + row) * program[ids].columns + first
    for place in 0..<scores.count {
      let item = place < places.count ? places[places.startIndex + place] : (score: -.infinity, id: -1)
      store(item.score, target, row, place)
      store(item.id, ids, start + place)
    }
  }

  mutating func sort(into: BufferID, from: BufferID, offsets: BufferID, modulo: Int?, _ block: TileBlock) {
    for row in block.firstRow..<block.firstRow + block.rowCount {
      let group = Int(integer(offsets, row))..<Int(integer(offsets, row + 1))
      let ids = group.map { integer(from, $0) }.map { id in modulo.map { Gather.hashed(id, rows: $0) } ?? id }
      for (index, id) in zip(group, ids.sorted()) { store(id, into, index) }
    }
  }
}
