import TensorIR
import TileIR

/// What a statement of rows reads or writes in memory that lanes share, each lane its columns.
private struct RowAccess {
  enum Memory: Hashable {
    case tile(TileID)
    case buffer(BufferID)
  }

  var memory: Memory
  var first: Int
  var count: Int
  var isWrite: Bool

  /// Whether lanes may touch each other's columns: of the same columns each has the same ones, but a single one is written by one lane
  /// and read by all.
  func meets(_ other: RowAccess) -> Bool {
    guard memory == other.memory, isWrite || other.isWrite else { return false }
    let overlap = first < other.first + other.count && other.first < first + count
    return overlap && (count == 1 || first != other.first || count != other.count)
  }
}

extension GPUPlan {
  /// Of statements that follow each other in rows of a warp, whether its lanes meet before each, since it reads what others have written or
  /// writes what others may still read.
  func meetings(_ statements: [Statement], of program: Program) -> [Bool] {
    var open: [RowAccess] = []
    return statements.map { statement in
      let own = accesses(statement, of: program)
      let meets = own.contains { one in open.contains { one.meets($0) } }
      if meets { open = [] }
      open += own
      // One lane writes a single column, and then all meet.
      if own.contains(where: { $0.isWrite && $0.count == 1 }) { open = [] }
      return meets
    }
  }

  private func accesses(_ statement: Statement, of program: Program) -> [RowAccess] {
    var accesses: [RowAccess] = []
    var isWrite = true
    statement.forEachSlice { slice in
      if let access = access(slice, isWrite: isWrite, of: program) { accesses.append(access) }
      // The first is what the statement fills.
      isWrite = false
    }
    return accesses
  }

  /// Nil where the slice is in registers.
  private func access(_ slice: TileSlice, isWrite: Bool, of program: Program) -> RowAccess? {
    switch kernel[slice.tile].home {
    case .scratch:
      guard places[slice.tile] != nil else { return nil }
      return RowAccess(memory: .tile(slice.tile), first: slice.first, count: slice.count, isWrite: isWrite)
    case .columns(let base, let column, _):
      return access(TileSlice(base, first: column + slice.first, count: slice.count), isWrite: isWrite, of: program)
    case .window(let buffer, let column, _):
      return RowAccess(
        memory: .buffer(program.memory(of: buffer)), first: column + slice.first, count: slice.count, isWrite: isWrite)
    // Keys, which no statement of rows reads.
    case .joined: return nil
    }
  }
}
