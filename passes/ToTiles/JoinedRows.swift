import TensorIR
import TileIR

// Keys and values that attention reads in two places.
extension TileLowering {
  /// The columns of keys, or values, that belong to the part at hand, `count` for each.
  mutating func joinedColumns(_ rows: JoinedRows, count: Int) throws(LoweringError) -> TileSlice {
    func columns(_ value: ValueID) throws(LoweringError) -> BufferColumns {
      guard case .buffer(let buffer, let first, _) = try place(of: value) else {
        throw LoweringError(message: "%\(function[value].name) does not lie in memory")
      }
      return BufferColumns(buffer, column: first, columnsPerPart: count)
    }
    let own = try columns(rows.own)
    var kept = try columns(rows.kept)
    kept.scales = try rows.scales.map { (scales) throws(LoweringError) in try buffer(of: scales) }
    return known(
      Tile(
        name: program[kept.buffer].name, rows: .keys, columns: count, home: .joined(kept: kept, own: own),
        element: program[own.buffer].element))
  }
}
