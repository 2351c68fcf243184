import TensorIR
import TileIR

extension GPUPlan {
  /// Where attention by groups of four warps has what it multiplies in shared memory.
  ///
  /// All sides lie in tiles of 64 columns of 128 rows, 128 bytes a row, swizzled. First the queries of a block, and of the one after it;
  /// then a ring of slots, each with 128 keys or their values; then what is known of both blocks and of each slot's keys,
  /// and the barriers. Where blocks of a cluster share keys, the second queries' place is large enough for the sums that they exchange:
  /// a shared block has both places.
  struct MatrixAttention: Equatable {
    /// Keys of a turn, and queries of a block.
    static let keys = 128
    static let queries = 128
    /// Columns of a tile, and its bytes.
    static let tileColumns = 64
    static let tileBytes = 128 * 128
    /// Bytes in which a block of the domain is told of.
    static let blockBytes = 80

    var queryColumns: Int
    var valueColumns: Int
    /// Whether there is room for sums of other blocks.
    var isShared: Bool
    var slots = 0

    var queryBytes: Int { queryColumns / Self.tileColumns * Self.tileBytes }
    /// The second queries.
    var otherBytes: Int { isShared ? max(queryBytes, Self.queries * valueColumns * 4) : queryBytes }
    var slotBytes: Int { max(queryColumns, valueColumns) / Self.tileColumns * Self.tileBytes }
    var sums: Int { queryBytes }
    var ring: Int { queryBytes + otherBytes }
    var blocks: Int { ring + slots * slotBytes }
    /// Of each slot with keys, 8 bytes: the first one, and whether all rows see all of them.
    var turns: Int { blocks + 2 * Self.blockBytes }
    /// Full, then empty, of each slot.
    var barriers: Int { turns + 8 * slots }
    /// Of both queries.
    var queriesFull: Int { barriers + 16 * slots }
    var queriesEmpty: Int { queriesFull + 16 }
    /// This block's part of the sums of all blocks of the cluster is there; all have read theirs.
    var sumsFull: Int { queriesEmpty + 16 }
    var sumsRead: Int { sumsFull + 8 }
    /// Two words for the number of the next block.
    var ticket: Int { sumsRead + 8 }
    var end: Int { ticket + 8 }
    /// Registers of a thread's sums.
    var sumCount: Int { valueColumns / 2 }
  }

  /// How a block of attention is multiplied by groups of four warps; nil where it is not of whole tiles of bf16, or there is no room.
  static func matrixAttention(
    _ attention: AttentionBlock, of kernel: Kernel, in program: Program, target: GPUTarget, isShared: Bool
  ) -> MatrixAttention? {
    func isWhole(_ slice: TileSlice) -> Bool {
      let tile = kernel[slice.tile]
      guard tile.element == .bf16, slice.count % MatrixAttention.tileColumns == 0,
        slice.count <= 2 * MatrixAttention.tileColumns
      else { return false }
      let places: [BufferColumns]
      switch tile.home {
      case .window(let buffer, let first, let perPart):
        places = [BufferColumns(buffer, column: first, columnsPerPart: perPart)]
      case .joined(let kept, let own): places = [kept, own]
      case .scratch, .columns: return false
      }
      return places.allSatisfy { place in
        [program[place.buffer].columns, place.column + slice.first, place.columnsPerPart].allSatisfy { $0 % 8 == 0 }
      }
    }
    // Biases of pairs take registers that there are not.
    guard target.hasMatrices, attention.activation.canFinish, kernel.domain.block % MatrixAttention.queries == 0,
      attention.queries.count == attention.keys.count, !isShared || attention.values.count / 8 % 8 == 0,
      attention.into.count == attention.values.count,
      [attention.queries, attention.keys, attention.values].allSatisfy(isWhole)
    else { return nil }
    var plan = MatrixAttention(
      queryColumns: attention.queries.count, valueColumns: attention.values.count, isShared: isShared)
    // Keys on their way while others are multiplied, and the values of those before.
    while plan.slots < 5 {
      plan.slots += 1
      if plan.end > target.sharedBytes {
        plan.slots -= 1
        break
      }
    }
    return plan.slots >= 4 ? plan : nil
  }
}
