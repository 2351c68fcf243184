import TensorIR
import TileIR

extension GPUPlan {
  /// How attention of fp32 is divided among the threads of a block, and where it has in shared memory what it multiplies.
  ///
  /// Threads stand in a grid: those of a row have the same queries, those of a column the same keys of a turn, later the same columns of
  /// values. Shared memory has the queries, then the keys of a turn, whose values take their place, then what scores became.
  struct ScalarAttention: Equatable {
    /// Keys of a thread.
    static let keysEach = 4
    /// Numbers that are read from shared memory together.
    static let together = 4
    /// The grid, and the queries of a thread: the first that there is room for.
    private static let grids = [(16, 16, 8), (16, 16, 4), (16, 8, 4), (8, 8, 4)]

    var gridRows: Int
    var gridColumns: Int
    var queriesEach: Int
    /// Columns, whole groups of four.
    var queryColumns: Int
    var valueColumns: Int
    /// Neighbouring columns of values that a thread takes together, and how often it takes such.
    var columnsTogether: Int
    var columnSteps: Int

    var threads: Int { gridRows * gridColumns }
    /// Queries of a block, and keys of a turn.
    var queries: Int { gridRows * queriesEach }
    var keys: Int { gridColumns * Self.keysEach }

    /// Bytes from row to row: an odd number of 16 keeps eight rows, side by side or one under the other, in different banks.
    private static func stride(_ columns: Int) -> Int { (columns / together | 1) * 16 }
    var queryStride: Int { Self.stride(queryColumns) }
    var valueStride: Int { Self.stride(valueColumns) }
    var weightStride: Int { Self.stride(keys) }
    /// Bytes of shared memory before each part.
    var turn: Int { queries * queryStride }
    var weights: Int { turn + keys * max(queryStride, valueStride) }
    var bounds: Int { weights + queries * weightStride }
    /// All of them, with the ends of so many intervals of each query.
    func end(intervals: Int) -> Int { bounds + intervals * 2 * queries * 4 }

    /// The division for a head; nil where its widths leave no room.
    init?(_ attention: AttentionBlock, within bytes: Int) {
      let width = attention.values.count
      for (gridRows, gridColumns, queriesEach) in Self.grids {
        func steps(_ together: Int) -> Int {
          let pieces = (width + together - 1) / together
          return (pieces + gridColumns - 1) / gridColumns
        }
        // As few columns as can be that nobody needs, and of those ways the one with the fewest reads.
        let columnsTogether = [4, 2, 1].min { steps($0) * $0 < steps($1) * $1 } ?? 1
        (self.gridRows, self.gridColumns, self.queriesEach) = (gridRows, gridColumns, queriesEach)
        (self.columnsTogether, columnSteps) = (columnsTogether, steps(columnsTogether))
        queryColumns = (attention.queries.count + Self.together - 1) / Self.together * Self.together
        valueColumns = (width + Self.together - 1) / Self.together * Self.together
        if end(intervals: attention.mask.intervals.count) <= bytes { return }
      }
      return nil
    }
  }
}
