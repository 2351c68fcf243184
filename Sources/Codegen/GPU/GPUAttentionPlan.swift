import TensorIR
import TileIR

extension GPUPlan {
  /// Attention of a block's rows in one head: `into = finish(activated((factor * queries) * keys) * values)`.
  struct AttentionBlock {
    var queries: TileSlice
    /// What queries are multiplied with before all else.
    var factor: Double
    var keys: TileSlice
    var values: TileSlice
    var mask: Mask
    /// What a product of a query and a key becomes, biases of pairs in it.
    var activation: Expression
    var into: TileSlice
    var finish: Expression

    /// The bias by times in what a product becomes; nil where there is none.
    var timeBias: TimeBias? {
      var found: TimeBias?
      _ = activation.replacing { part in
        if case .timeBias(let bias) = part { found = bias }
        return nil
      }
      return found
    }
  }

  /// The kernel's body as one block of attention; nil where it is something else.
  static func attention(_ kernel: Kernel) -> AttentionBlock? {
    guard case .sequences = kernel.domain, kernel.body.count == 4,
      case .transpose(let queries, let source, let factor) = kernel.body[0],
      case .clear(let sum) = kernel.body[1],
      case .forKeys(let mask, _, let turn) = kernel.body[2],
      case .map(let into, let finish, masked: false) = kernel.body[3],
      let first = turn.first, case .contract(let scores) = first,
      let last = turn.last, case .contract(let weighted) = last,
      let (weights, activation) = activation(of: scores, turn.dropFirst().dropLast()),
      case .tile(queries) = scores.right, !scores.leftTransposed, !scores.accumulate,
      weighted.left == weights, weighted.leftTransposed, weighted.into == sum, weighted.accumulate,
      weighted.finish == nil, case .tile(let values) = weighted.right
    else { return nil }
    return AttentionBlock(
      queries: source, factor: factor, keys: scores.left, values: values, mask: mask, activation: activation,
      into: into, finish: finish.finishing(sum))
  }

  /// Where masked scores lie, and what a product became there: in registers, or, where biases of pairs are added, by a map
  /// behind the contraction.
  private static func activation(
    of scores: Contraction, _ between: ArraySlice<Statement>
  ) -> (weights: TileSlice, activation: Expression)? {
    guard let map = between.first else { return scores.finish.flatMap { scores.masked ? (scores.into, $0) : nil } }
    guard between.count == 1, case .map(let weights, let expression, masked: true) = map, !scores.masked else {
      return nil
    }
    let product = scores.finish ?? .product
    let activation = expression.replacing { $0 == .tile(scores.into) ? product : nil }
    var readsTiles = false
    activation.forEachTile { _ in readsTiles = true }
    return readsTiles ? nil : (weights, activation)
  }

  // MARK: - Division

  /// Plans a kernel that is one block of attention: by fused multiply-adds where its numbers are fp32, otherwise by groups of four warps, by
  /// warps or by waves. Throws where its sides find no room.
  mutating func plan(_ attention: AttentionBlock, of program: Program, target: GPUTarget) throws(GPUError) {
    stages = [.attention(attention)]
    if [attention.queries, attention.keys, attention.values].allSatisfy({ kernel[$0.tile].element == .f32 }) {
      guard let division = ScalarAttention(attention, within: target.sharedBytes) else {
        throw error("attention of heads \(attention.queries.count) wide")
      }
      (scalarAttention, rows, threads) = (division, division.queries, division.threads)
      return
    }
    // Scores with biases of pairs leave no registers for what clusters need to know, nor do the sums of the widest heads.
    if target.hasClusters, attention.activation.canFinish {
      cluster = Self.cluster(of: attention.mask, isOfSelectedRows: kernel.keys != nil)
    }
    matrixAttention = Self.matrixAttention(
      attention, of: kernel, in: program, target: target, isShared: cluster > 1)
    if matrixAttention != nil {
      (rows, threads) = (MatrixAttention.queries, Self.allWarps * 32)
      // A block takes a multiprocessor: larger clusters find no place in some of a card's parts.
      cluster = min(cluster, 8)
      return
    }
    switch target.vendor {
    case .amd: threads = rows / Self.warpQueries * target.lanes
    case .nvidia:
      guard let division = WarpAttention(attention, block: rows, within: target.sharedBytes) else {
        throw error("attention of heads \(attention.queries.count) wide")
      }
      (warpAttention, rows, threads) = (division, division.queries, division.threads)
      if !division.leavesRegisters { cluster = 1 }
    }
  }

  /// Queries of attention that one of AMD's waves takes.
  static let warpQueries = 32

  /// Blocks that take the keys of long rows together. Where all rows are long there are many blocks of them, and pairs do, which leave
  /// no multiprocessor of an H100 idle; where few are, large clusters.
  private static func cluster(of mask: Mask, isOfSelectedRows: Bool) -> Int {
    switch mask.form {
    case .causal where !isOfSelectedRows: 2
    case .windowed(_, fullTail: 0) where mask.contextual == 0: 1
    default: 16
    }
  }
}
