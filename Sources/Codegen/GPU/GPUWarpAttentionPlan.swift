import TensorIR
import TileIR

extension GPUPlan {
  /// How attention by `mma.sync` is divided, and where its sides lie in shared memory: the queries, then two turns of keys and their values,
  /// then the bounds of intervals.
  ///
  /// A warp has 32 queries, of which it reads keys and values once; of wide heads 16, whose sums registers have room for.
  struct WarpAttention: Equatable {
    /// Queries of a block, and tiles of 16 of them in a warp.
    var queries: Int
    var rowTiles: Int
    /// Keys of a turn, and those whose scores a warp holds at once.
    var turn: Int
    var pass: Int
    /// Columns, whole groups of sixteen.
    var queryColumns: Int
    var valueColumns: Int
    var intervals: Int

    /// Columns of values whose sums of 32 queries find registers.
    private static let widest = 128
    /// Columns of values whose sums of 16 leave registers for the scores of 32 keys.
    private static let widestWithScores = 224

    // An odd number of 16 bytes from row to row keeps eight rows in different banks.
    var queryStride: Int { queryColumns * 2 + 16 }
    var valueStride: Int { valueColumns * 2 + 16 }
    /// Where the first turn's keys begin, and where its values do, counted from there.
    var keys: Int { queries * queryStride }
    var keyBytes: Int { turn * queryStride }
    var turnBytes: Int { keyBytes + turn * valueStride }
    var bounds: Int { keys + 2 * turnBytes }
    var end: Int { bounds + intervals * 2 * queries * 4 }
    var warpQueries: Int { 16 * rowTiles }
    var threads: Int { queries / warpQueries * 32 }
    /// Whether sums leave registers for more than the scores of 16 keys.
    var leavesRegisters: Bool { valueColumns <= Self.widestWithScores }
    /// Registers of a thread's sums.
    var sumCount: Int { rowTiles * valueColumns / 8 * 4 }

    /// The division of blocks of so many queries that finds room in shared memory; nil where none does.
    init?(_ attention: AttentionBlock, block: Int, within bytes: Int) {
      func columns(_ slice: TileSlice) -> Int { (slice.count + 15) / 16 * 16 }
      (queryColumns, valueColumns) = (columns(attention.queries), columns(attention.values))
      intervals = attention.mask.intervals.count
      // Biases of pairs take registers of their own, and sums of the widest heads nearly all.
      pass = attention.activation.canFinish && valueColumns <= Self.widestWithScores ? 32 : 16
      (queries, rowTiles, turn) = (block, 2, 64)
      let isWide = valueColumns > Self.widest
      for division in [(block, 2, 64), (64, 1, 64), (64, 1, 32), (32, 1, 32), (16, 1, 32)].dropFirst(isWide ? 1 : 0) {
        (queries, rowTiles, turn) = division
        if block % queries == 0, queries % warpQueries == 0, end <= bytes { return }
      }
      return nil
    }
  }
}
