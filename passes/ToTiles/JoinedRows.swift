import TensorIR
import TileIR

/// Rows that are kept of each sequence, and others that were put behind them.
struct JoinedRows: Hashable {
  var kept: ValueID
  var own: ValueID
  /// What cuts the kept rows.
  var offsets: ValueID
}

// Keys and values of a call behind those that are kept: attention reads both where they lie, so that a call moves no row of a long
// history but those that it multiplies.
extension TileLowering {
  /// The matrices that only attention reads, as keys or values, by the rows that were put behind others.
  func findJoinedRows() -> [ValueID: JoinedRows] {
    var found: [ValueID: JoinedRows] = [:]
    for id in function.body {
      let operation = function[id]
      guard case .extendRows(let extend) = operation.payload, extend.addition == .appended,
        let type = function[operation.results[0]].type.tensor, type.rank == 2
      else { continue }
      let result = operation.results[0]
      let places = extend.places(among: operation.operands.count)
      let own = operation.operands[places.added.lowerBound]
      guard !function.results.contains(where: { $0.value == result }),
        readers[result, default: []].allSatisfy({ joins(result, function[$0], operation.operands, places) })
      else { continue }
      found[result] = JoinedRows(
        kept: operation.operands[places.x], own: own, offsets: operation.operands[places.offsets])
    }
    return found
  }

  /// Whether the operation is attention of the rows that were put behind others, over all of them.
  private func joins(
    _ result: ValueID, _ operation: Operation, _ extended: [ValueID], _ places: ExtendRows.Places
  ) -> Bool {
    guard case .attention(let attention) = operation.payload, attention.queries == .targets,
      let targets = places.targets, operation.operands[3] == extended[places.extended],
      operation.operands[4] == extended[targets]
    else { return false }
    return operation.operands.enumerated().allSatisfy { $1 != result || (1...2).contains($0) }
  }

  /// The columns of keys, or values, that belong to the part at hand, `count` for each.
  mutating func joinedColumns(_ rows: JoinedRows, count: Int) throws(LoweringError) -> TileSlice {
    func columns(_ value: ValueID) throws(LoweringError) -> BufferColumns {
      guard case .buffer(let buffer, let first, _) = try place(of: value) else {
        throw LoweringError(message: "%\(function[value].name) does not lie in memory")
      }
      return BufferColumns(buffer, column: first, columnsPerPart: count)
    }
    let (kept, own) = (try columns(rows.kept), try columns(rows.own))
    return known(
      Tile(
        name: program[kept.buffer].name, rows: .keys, columns: count, home: .joined(kept: kept, own: own),
        element: program[own.buffer].element))
  }
}
