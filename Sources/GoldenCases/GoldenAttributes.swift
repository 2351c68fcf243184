import ModelFormat
import TensorIR

extension JSONObjectReader {
  /// The value of a key; nil where it is absent or null.
  func present(_ key: String) -> JSONReader? {
    optional(key).flatMap { if case .null = $0.node.value { nil } else { $0 } }
  }

  /// Throws where the key's text is not one of those that this reading of the case honours.
  func require(_ key: String, _ texts: String...) throws(ModelError) {
    guard let value = present(key) else { return }
    guard case .string(let text) = value.node.value, texts.contains(text) else {
      throw value.mismatch(expected: texts.map { "\"\($0)\"" }.joined(separator: " or "))
    }
  }

  func require(_ key: String, _ flag: Bool, _ reason: String) throws(ModelError) {
    if let value = present(key), try value.bool() != flag { throw value.error(.unexpectedValue, reason) }
  }

  func count(_ key: String) throws(ModelError) -> Int { try present(key)?.nonNegativeInteger() ?? 0 }

  func flag(_ key: String, _ absent: Bool) throws(ModelError) -> Bool { try present(key)?.bool() ?? absent }
}

/// One layer's attributes, as a layer of a model.
struct LayerAttributes {
  static let keys = [
    "embedding_dim", "num_heads", "attention_dim", "hidden_dim", "alpha", "divisor_N", "causal", "target_aware",
    "max_attn_len", "min_full_attn_seq_len", "contextual_seq_len", "input_norm", "uvqk_layout", "uvqk_bias",
    "activations", "output_norm", "concat_u", "concat_x", "concat_order", "mul_u_activation", "output_bias",
    "residual", "dropout", "sla_k1", "sla_k2", "window_includes_self", "target_sees_itself",
  ]

  var width: Int
  var layer: ModelDescription.Layer

  /// `divisor` is that of all layers where the case says it elsewhere.
  init(_ reader: JSONReader, divisor: Attention.Divisor? = nil) throws(ModelError) {
    let object = try reader.object(Self.keys)
    try object.require("uvqk_layout", "[embedding_dim, u|v|q|k], head-major inside each block")
    let own: Attention.Divisor
    if let divisor {
      try object.require("divisor_N", "see divisor_N")
      own = divisor
    } else {
      own = .fixed(try object.required("divisor_N").positiveNumber())
    }
    // Dropout is the identity at inference, whatever its rate.
    _ = try object.present("dropout")?.finiteNumber()
    width = try object.required("embedding_dim").positiveInteger()
    layer = ModelDescription.Layer(
      heads: try object.required("num_heads").positiveInteger(),
      attentionDim: try object.required("attention_dim").positiveInteger(),
      hiddenDim: try object.required("hidden_dim").positiveInteger(),
      alpha: try object.required("alpha").finiteNumber(),
      divisor: own,
      activations: try activations(object.required("activations")),
      inputNorm: try norm(object.required("input_norm"), over: [.layerNorm: "embedding_dim"]),
      uvqkBias: try object.required("uvqk_bias").bool(), mask: try mask(object),
      targetAware: try object.flag("target_aware", true),
      outputNorm: try norm(
        object.required("output_norm"),
        over: [.layerNorm: "num_heads*hidden_dim", .groupNorm: "hidden_dim, each head apart"]),
      gate: try object.present("mul_u_activation")?.choice(ModelDescription.Activation.self) ?? .none,
      concatenate: try concatenation(object), outputBias: try object.flag("output_bias", false),
      residual: try object.flag("residual", true))
  }
}

/// The mask of an attention or of a layer, in the words of either reference.
func mask(_ object: JSONObjectReader) throws(ModelError) -> Mask {
  try object.require("causal", true, "attention that sees later rows has no mask here")
  let contextual = try object.count("contextual_seq_len")
  let window = try object.count("max_attn_len")
  let tail = try object.count("min_full_attn_seq_len")
  let local = try object.count("sla_k1")
  let global = try object.count("sla_k2")
  try object.require("window_includes_self", true, "a key-prefix window counts the row itself")
  let targetSeesItself = try object.present("target_sees_itself")?.bool()
  if local > 0 || global > 0 || targetSeesItself == false {
    if targetSeesItself == true {
      throw object.reader.error(.unexpectedValue, "under the key-prefix mask a target sees the history and not itself")
    }
    if window > 0 || tail > 0 {
      throw object.reader.error(.unexpectedValue, "a key-prefix mask and a window exclude each other")
    }
    return Mask(.keyPrefix(local: local, global: global, targets: .history), contextual: contextual)
  }
  return Mask(window > 0 ? .windowed(window: window, fullTail: tail) : .causal, contextual: contextual)
}

func activations(_ reader: JSONReader) throws(ModelError) -> ModelDescription.Activations {
  let object = try reader.object(["u", "v", "q", "k", "scores"])
  func slice(_ key: String) throws(ModelError) -> ModelDescription.Activation {
    try object.required(key).choice(ModelDescription.Activation.self)
  }
  return ModelDescription.Activations(
    u: try slice("u"), v: try slice("v"), q: try slice("q"), k: try slice("k"),
    scores: try object.required("scores").choice(Attention.Activation.self))
}

/// `over` gives, for each kind of norm that may stand here, the text that says what it runs over.
func norm(
  _ reader: JSONReader, over: [ModelDescription.Norm.Kind: String]
) throws(ModelError) -> ModelDescription.Norm {
  let object = try reader.object(["kind", "affine", "eps", "over"])
  let kindReader = try object.required("kind")
  let kind = try kindReader.choice(ModelDescription.Norm.Kind.self)
  if kind == .none { return ModelDescription.Norm(.none, affine: false, epsilon: 0) }
  guard let text = over[kind] else { throw kindReader.error(.unexpectedValue, "this norm cannot stand here") }
  try object.require("over", text)
  let affine = try object.required("affine")
  let isAffine: Bool
  switch affine.node.value {
  case .bool(let value): isAffine = value
  case .string("one weight and bias a channel") where kind == .layerNorm: isAffine = true
  case .string("one weight and bias a head") where kind == .groupNorm: isAffine = true
  default: throw affine.mismatch(expected: "true, false or one weight and bias a channel or head")
  }
  return ModelDescription.Norm(kind, affine: isAffine, epsilon: try object.required("eps").positiveNumber())
}

/// What the last product reads, from `concat_u`, `concat_x` and the order they are put in.
private func concatenation(_ object: JSONObjectReader) throws(ModelError) -> [ModelDescription.Part] {
  var parts: [ModelDescription.Part] = []
  if try object.flag("concat_u", true) { parts.append(.u) }
  if try object.flag("concat_x", true) { parts.append(.attention) }
  parts.append(.gated)
  guard let order = object.present("concat_order") else { return parts }
  var listed: [ModelDescription.Part] = []
  for text in try order.string().split(separator: "|") {
    switch text.split(separator: " ").joined(separator: " ") {
    case "u": listed.append(.u)
    case "attn (before the norm)": listed.append(.attention)
    case let part where part.hasSuffix("u*norm(attn)") || part.hasSuffix("(u)*norm(attn)"): listed.append(.gated)
    default: throw order.error(.unexpectedValue, "cannot read the part \"\(text)\"")
    }
  }
  // The text may name parts that the flags leave out, but no others and in no other order.
  guard listed.filter(parts.contains) == parts else {
    throw order.error(.unexpectedValue, "contradicts concat_u and concat_x")
  }
  return parts
}
