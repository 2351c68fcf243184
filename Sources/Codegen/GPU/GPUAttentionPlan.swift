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
}
