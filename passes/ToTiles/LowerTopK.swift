import TensorIR
import TileIR

// The best items of every query: a block of queries against one part of the items after the other, at once, then the best of
// what the parts have found.
extension TileLowering {
  mutating func lowerTopK(_ operation: Operation) throws(LoweringError) {
    guard case .topK(let top) = operation.payload, let rows = function[operation.operands[0]].type.tensor?.shape.first
    else { return }
    let operands = operation.operands
    let panel = schedule.panel
    let items = try weightBuffer(
      operands[1], top.rows.map { .codedPanels($0, width: panel) } ?? .panels(width: panel, transposed: true))
    let seen =
      operands.count == 4
      ? BestColumns.Groups(
        ids: try sorted(operands[2], operands[3], modulo: top.seenModulo, rows),
        offsets: try buffer(of: operands[3])) : nil
    guard case .buffer(let scores, _, _) = try newMemory(for: operation.results[0]),
      case .buffer(let ids, _, _) = try newMemory(for: operation.results[1])
    else { return }
    let count = program[items].rows.dimension.extent ?? 0
    let parts = schedule.itemParts(of: count, best: top.count)
    let (partScores, partIDs) = parts == 1 ? (scores, ids) : partLists(of: scores, ids, parts: parts)

    begin("top_k", .rows(rows, block: schedule.rows, parts: parts))
    kernel.summary = "top_k"
    let columns = min(max(schedule.itemColumns / panel, 1), (count + panel - 1) / panel) * panel
    let left = slice(of: try place(of: operands[0]))
    _ = try element(of: operands[0])
    kernel.body = [
      .best(
        BestColumns(
          scores: window(
            partScores, first: 0, count: top.count, rows: .block, columnsPerPart: parts == 1 ? 0 : top.count),
          ids: partIDs, left: left, right: items,
          products: scratch("products", rows: .block, capacity: schedule.rows, columns: columns),
          firstID: top.firstID, seen: seen))
    ]
    end()
    guard parts > 1 else { return }
    begin("merge", .rows(rows, block: schedule.rows))
    kernel.body = [
      .merge(
        MergedParts(
          scores: window(scores, first: 0, count: top.count, rows: .block), ids: ids, partScores: partScores,
          partIDs: partIDs, parts: parts))
    ]
    end()
  }

  /// Memory for what each part finds: lists side by side.
  private mutating func partLists(
    of scores: BufferID, _ ids: BufferID, parts: Int
  ) -> (scores: BufferID, ids: BufferID) {
    func list(_ whole: BufferID) -> BufferID {
      var buffer = program[whole]
      buffer.name += ".parts"
      buffer.columns *= parts
      buffer.home = .workspace(slot: workspaceCount)
      workspaceCount += 1
      return program.addBuffer(buffer)
    }
    return (list(scores), list(ids))
  }

  /// The items that each query's seen ids stand for, in ascending order, so that one is found in a few steps.
  private mutating func sorted(
    _ ids: ValueID, _ offsets: ValueID, modulo: Int?, _ rows: Dimension
  ) throws(LoweringError) -> BufferID {
    let key = SortKey(ids: ids, offsets: offsets, modulo: modulo)
    if let known = sortedGroups[key] { return known }
    let (from, cuts) = (try buffer(of: ids), try buffer(of: offsets))
    var buffer = program[from]
    buffer.name += ".sorted"
    buffer.home = .workspace(slot: workspaceCount)
    workspaceCount += 1
    let into = program.addBuffer(buffer)
    begin("sort", .rows(rows, block: schedule.groups))
    kernel.body = [.sort(into: into, from: from, offsets: cuts, modulo: modulo)]
    end()
    sortedGroups[key] = into
    return into
  }
}

extension TileSchedule {
  /// How many parts so many items have, of which the best `count` are wanted: enough for some threads, each so large that what
  /// its list takes is little beside its products.
  func itemParts(of items: Int, best count: Int) -> Int {
    min(max(items / (itemsOfPart * max(count / 16, 1)), 1), mostItemParts)
  }
}
