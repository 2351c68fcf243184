import TensorIR

/// The shape and options of one production STU layer (SEMANTICS section 2), as tests build it.
public struct ProductionLayer: Sendable {
  /// Which norm attention's result passes through: over all heads, or over each head.
  public enum OutputNorm: Sendable, CaseIterable { case layer, group }
  /// What u passes through before it gates.
  public enum Gate: Sendable, CaseIterable { case plain, sigmoid, silu }

  /// D: columns of x.
  public var width: Int
  /// H.
  public var heads: Int
  /// dqk: columns of a query and a key, each head.
  public var queryWidth: Int
  /// dv: columns of u and of a value, each head.
  public var valueWidth: Int
  /// The score scale.
  public var alpha: Double
  /// N, which activated scores are divided by.
  public var divisor: Attention.Divisor
  /// Which keys a row sees.
  public var mask = Mask.causal
  /// What a score passes through.
  public var activation = Attention.Activation.silu
  /// Whether the norm of attention's result is a layer norm or a group norm.
  public var outputNorm = OutputNorm.layer
  /// What u passes through again before it gates: the `mul_u_activation` of newer GR.
  public var gate = Gate.plain
  /// Whether u is the first slot of the output projection's input.
  public var concatenatesU = true
  /// Whether attention, before its norm, is the middle slot of the output projection's input.
  public var concatenatesAttention = true
  /// Whether v, q and k pass through SiLU too (paper, NV); u always does.
  public var activatesAll = false
  /// The epsilon of both norms.
  public var epsilon = 1e-6

  /// A layer with SiLU on u and on scores, a layer norm of attention, and u, attention and gated attention projected.
  public init(
    width: Int, heads: Int, queryWidth: Int, valueWidth: Int, alpha: Double, divisor: Attention.Divisor,
    mask: Mask = .causal
  ) {
    self.width = width
    self.heads = heads
    self.queryWidth = queryWidth
    self.valueWidth = valueWidth
    self.alpha = alpha
    self.divisor = divisor
    self.mask = mask
  }
}

/// The shape of one layer of the research variant (SEMANTICS section 7).
public struct ResearchLayer: Sendable {
  /// D: columns of x.
  public var width: Int
  /// H.
  public var heads: Int
  /// dqk: columns of a query and a key, each head.
  public var queryWidth: Int
  /// dv: columns of u and of a value, each head.
  public var valueWidth: Int
  /// N, which activated scores are divided by.
  public var divisor: Attention.Divisor
  /// The longest sequence, which fixes the position weights' number.
  public var n: Int
  /// The number of time weights.
  public var buckets = 129
  /// What is added to a score.
  public var bias = Attention.Bias.positionAndTime
  /// Which keys a row sees.
  public var mask = Mask.causal
  /// Whether u, normed attention and their product are all projected (GR's concat_ua), or the product alone.
  public var concatenates = false
  /// The epsilon of both norms.
  public var epsilon = 1e-6

  /// A layer with position and time bias.
  public init(
    width: Int, heads: Int, queryWidth: Int, valueWidth: Int, divisor: Attention.Divisor, n: Int
  ) {
    self.width = width
    self.heads = heads
    self.queryWidth = queryWidth
    self.valueWidth = valueWidth
    self.divisor = divisor
    self.n = n
  }
}

extension FunctionBuilder {
  /// Appends a production layer. Weights have the names of GR's STULayer after `prefix`.
  public mutating func productionLayer(
    _ layer: ProductionLayer, prefix: String, x: ValueID, offsets: ValueID, targets: ValueID?
  ) throws(OperationError) -> ValueID {
    let inner = layer.heads * layer.valueWidth
    let scores = layer.heads * layer.queryWidth
    let norm = try emit(
      .layerNorm(LayerNorm(epsilon: layer.epsilon)), x, weight(prefix + "_input_norm_weight", [layer.width]),
      weight(prefix + "_input_norm_bias", [layer.width]))
    let projected = try emit(
      .linear(Linear()), norm, weight(prefix + "_uvqk_weight", [layer.width, 2 * (inner + scores)]),
      weight(prefix + "_uvqk_beta", [2 * (inner + scores)]))
    var parts = try append(
      .split(Split(widths: [inner, inner, scores, scores])), [projected], names: ["u", "v", "q", "k"])
    for index in parts.indices where index == 0 || layer.activatesAll {
      parts[index] = try emit(.silu(SiLU()), parts[index])
    }
    let (u, v, q, k) = (parts[0], parts[1], parts[2], parts[3])
    let attention = Attention(
      heads: layer.heads, alpha: layer.alpha, divisor: layer.divisor, activation: layer.activation, mask: layer.mask,
      hasTargets: targets != nil)
    let a = try append(.attention(attention), [q, k, v, offsets] + (targets.map { [$0] } ?? []), names: ["a"])[0]
    let normWidth = layer.outputNorm == .layer ? inner : layer.heads
    let outputNorm: Payload =
      layer.outputNorm == .layer
      ? .layerNorm(LayerNorm(epsilon: layer.epsilon))
      : .groupNorm(GroupNorm(groups: layer.heads, epsilon: layer.epsilon))
    let normed = try emit(
      outputNorm, a, weight(prefix + "_output_norm_weight", [normWidth]),
      weight(prefix + "_output_norm_bias", [normWidth]))
    let gate: ValueID =
      switch layer.gate {
      case .plain: u
      case .sigmoid: try emit(.sigmoid(Sigmoid()), u)
      case .silu: try emit(.silu(SiLU()), u)
      }
    let y = try emit(.multiply(Multiply()), gate, normed, name: "y")
    let slots = (layer.concatenatesU ? [u] : []) + (layer.concatenatesAttention ? [a] : []) + [y]
    let joined = slots.count == 1 ? y : try append(.concatenate(Concatenate()), slots)[0]
    let output = try emit(
      .linear(Linear()), joined, weight(prefix + "_output_weight", [slots.count * inner, layer.width]))
    return try emit(.add(Add()), x, output, name: "out")
  }

  /// Appends a research layer. Weights have the names of GR's research SequentialTransductionUnitJagged after `prefix`.
  /// `times` are the times of queries and keys, read where the layer's bias has a time part.
  public mutating func researchLayer(
    _ layer: ResearchLayer, prefix: String, x: ValueID, offsets: ValueID, times: (queries: ValueID, keys: ValueID)?
  ) throws(OperationError) -> ValueID {
    let inner = layer.heads * layer.valueWidth
    let scores = layer.heads * layer.queryWidth
    let norm = try emit(.layerNorm(LayerNorm(epsilon: layer.epsilon)), x)
    let projected = try emit(
      .linear(Linear()), norm, weight(prefix + "_uvqk", [layer.width, 2 * (inner + scores)]))
    let activated = try emit(.silu(SiLU()), projected)
    let parts = try append(
      .split(Split(widths: [inner, inner, scores, scores])), [activated], names: ["u", "v", "q", "k"])
    let (u, v, q, k) = (parts[0], parts[1], parts[2], parts[3])
    var operands = [q, k, v, offsets]
    if layer.bias != .none {
      operands.append(try weight(prefix + "_rel_attn_bias._pos_w", [2 * layer.n - 1]))
    }
    if layer.bias == .positionAndTime, let times {
      operands += [try weight(prefix + "_rel_attn_bias._ts_w", [layer.buckets]), times.queries, times.keys]
    }
    let attention = Attention(
      heads: layer.heads, alpha: 1, divisor: layer.divisor, bias: layer.bias, mask: layer.mask)
    let a = try append(.attention(attention), operands, names: ["a"])[0]
    let normed = try emit(.layerNorm(LayerNorm(epsilon: layer.epsilon)), a)
    let y = try emit(.multiply(Multiply()), u, normed, name: "y")
    let joined = layer.concatenates ? try append(.concatenate(Concatenate()), [u, normed, y])[0] : y
    let output = try emit(
      .linear(Linear(.outIn)), joined,
      weight(prefix + "_o.weight", [layer.width, layer.concatenates ? 3 * inner : inner]),
      weight(prefix + "_o.bias", [layer.width]))
    return try emit(.add(Add()), x, output, name: "out")
  }
}
