import TensorIR

/// One layer of model.json.
struct LayerDecoder {
  /// Contextual rows of the model's sequences: what a mask takes unless it says otherwise.
  let contextual: Int
  /// Whether masks must say it themselves: published models with contextual slots differ.
  var mustTell = false

  func layer(_ reader: JSONReader) throws(ModelError) -> ModelDescription.Layer {
    let object = try reader.object(ModelKeys.layer)
    let attentionDim = try dimension(object, "attention_dim", "the width of a query, each head")
    let heads = try dimension(object, "heads", "the number of attention heads")
    let hiddenDim = try dimension(object, "hidden_dim", "the width of a value, each head")
    let width = Double(attentionDim)
    let alpha = try number(
      object.required(
        "alpha",
        "the score scale: a number, \"1/sqrt(attention_dim)\" as GR's STULayer, \"1/attention_dim\" as its ULTRA configurations; 1 in the research variant"
      ), words: [("1/sqrt(attention_dim)", 1 / width.squareRoot()), ("1/attention_dim", 1 / width)])
    let divisor = try self.divisor(
      object.required(
        "divisor",
        "the N of SiLU(..)/N: a number (recommended), \"longest_sequence\" or \"longest_history_plus_targets\"; with the last two a result depends on the batch"
      ))
    let activations = try self.activations(
      object.required(
        "activations",
        "which of u, v, q and k pass through SiLU: u alone in GR's production layers, all four in the research variant")
    )
    let inputNorm = try norm(object.required("input_norm"), allowing: [.none, .layerNorm])
    let outputNorm = try norm(object.required("output_norm"), allowing: ModelDescription.Norm.Kind.allCases)

    let uvqk = try object.required("uvqk", "the first product: {\"bias\": true or false}").object(ModelKeys.uvqk)
    let output = try object.required("output", "the last product: {\"bias\": true or false}").object(
      ModelKeys.layerOutput)
    var layer = ModelDescription.Layer(
      heads: heads, attentionDim: attentionDim, hiddenDim: hiddenDim, alpha: alpha, divisor: divisor,
      activations: activations, inputNorm: inputNorm, uvqkBias: try uvqk.required("bias").bool(),
      uvqkLayout: try uvqk.optional("layout")?.choice(Linear.Orientation.self), mask: .causal, outputNorm: outputNorm,
      concatenate: try concatenation(
        object.required(
          "concatenate",
          "what the last product reads: [\"u\", \"attention\", \"gated\"] in GR's production layers, [\"gated\"] in the research variant"
        )),
      outputBias: try output.required("bias").bool(),
      outputLayout: try output.optional("layout")?.choice(Linear.Orientation.self))
    if let order = uvqk.optional("order") { layer.uvqkOrder = try self.order(order) }
    try decodeMask(object.required("mask", "its form is \"causal\", \"windowed\" or \"key_prefix\""), &layer)
    if let bias = object.optional("relative_bias") { layer.relativeBias = try relativeBias(bias) }
    if let gate = object.optional("gate") {
      layer.gate = try gate.choice(ModelDescription.Activation.self)
      if !layer.concatenate.contains(.gated) {
        throw gate.error(.unexpectedValue, "a gate has no effect unless \"concatenate\" lists \"gated\"")
      }
    }
    layer.residual = try object.optional("residual")?.bool() ?? true
    return layer
  }

  private func dimension(_ object: JSONObjectReader, _ key: String, _ what: String) throws(ModelError) -> Int {
    try object.required(key, what).integer(in: 1...1_048_576, expected: "a positive integer")
  }

  private func divisor(_ reader: JSONReader) throws(ModelError) -> Attention.Divisor {
    switch reader.node.value {
    case .number: return .fixed(try reader.positiveNumber())
    case .string("longest_sequence"): return .longestSequence
    case .string("longest_history_plus_targets"): return .longestHistoryPlusTargets
    default:
      throw reader.mismatch(
        expected: "a positive number, \"longest_sequence\" or \"longest_history_plus_targets\"")
    }
  }

  private func activations(_ reader: JSONReader) throws(ModelError) -> ModelDescription.Activations {
    let object = try reader.object(ModelKeys.activations)
    func slice(_ key: String) throws(ModelError) -> ModelDescription.Activation {
      try object.required(key, "it is \"none\", \"silu\" or \"sigmoid\"").choice(ModelDescription.Activation.self)
    }
    return ModelDescription.Activations(
      u: try slice("u"), v: try slice("v"), q: try slice("q"), k: try slice("k"),
      scores: try object.optional("scores")?.choice(Attention.Activation.self) ?? .silu)
  }

  private func norm(
    _ reader: JSONReader, allowing kinds: [ModelDescription.Norm.Kind]
  ) throws(ModelError) -> ModelDescription.Norm {
    let object = try reader.object(ModelKeys.norm)
    let kindReader = try object.required("kind", "it is \(alternatives(kinds.map { quoted($0.rawValue) }))")
    let kind = try kindReader.choice(ModelDescription.Norm.Kind.self)
    guard kinds.contains(kind) else {
      throw kindReader.mismatch(expected: alternatives(kinds.map { quoted($0.rawValue) }))
    }
    if kind == .none {
      for key in ["affine", "epsilon"] {
        if let value = object.optional(key) {
          throw value.error(.unexpectedValue, "a norm of kind \"none\" has no \(key)")
        }
      }
      return ModelDescription.Norm(.none, affine: false, epsilon: 0)
    }
    let affine = try object.required("affine", "whether the norm has a trained weight and bias")
    let norm = ModelDescription.Norm(
      kind, affine: try affine.bool(),
      epsilon: try object.required("epsilon", "1e-6 in generative-recommenders, 1e-5 in recsys-examples")
        .positiveNumber())
    if kind == .groupNorm && !norm.affine {
      throw affine.error(.unexpectedValue, "a group norm has one weight and one bias a head", hint: "set it to true")
    }
    return norm
  }

  private func order(_ reader: JSONReader) throws(ModelError) -> [ModelDescription.Slice] {
    let slices = try reader.elements().map { (element) throws(ModelError) in
      try element.choice(ModelDescription.Slice.self)
    }
    guard slices.count == 4, Set(slices).count == 4 else {
      throw reader.error(.unexpectedValue, "expected \"u\", \"v\", \"q\" and \"k\" once each")
    }
    return slices
  }

  private func concatenation(_ reader: JSONReader) throws(ModelError) -> [ModelDescription.Part] {
    let elements = try reader.elements()
    var parts: [ModelDescription.Part] = []
    for element in elements {
      let part = try element.choice(ModelDescription.Part.self)
      if parts.contains(part) { throw element.error(.unexpectedValue, "\(element.found) is listed twice") }
      parts.append(part)
    }
    guard !parts.isEmpty else { throw reader.error(.unexpectedValue, "expected at least one part") }
    return parts
  }

  private enum MaskForm: String, CaseIterable {
    case causal, windowed
    case keyPrefix = "key_prefix"

    /// The keys that this form has beside those of every mask.
    var keys: [String] {
      switch self {
      case .causal: []
      case .windowed: ["window", "full_tail"]
      case .keyPrefix: ["local", "global", "targets"]
      }
    }
  }

  private func decodeMask(_ reader: JSONReader, _ layer: inout ModelDescription.Layer) throws(ModelError) {
    let object = try reader.object(ModelKeys.mask)
    let form = try object.required("form", "it is \"causal\", \"windowed\" or \"key_prefix\"").choice(MaskForm.self)
    let common = ["form", "contextual", "target_aware"]
    for (key, value) in object.values where !common.contains(key) && !form.keys.contains(key) {
      throw value.error(.unexpectedValue, "a mask of form \(quoted(form.rawValue)) has no \(key)")
    }
    switch form {
    case .causal: layer.mask.form = .causal
    case .windowed:
      layer.mask.form = .windowed(
        window: try object.required("window", "earlier rows that a row sees").positiveInteger(),
        fullTail: try object.optional("full_tail")?.nonNegativeInteger() ?? 0)
    case .keyPrefix:
      layer.mask.form = .keyPrefix(
        local: try object.required("local", "latest rows that a row sees, itself included").nonNegativeInteger(),
        global: try object.required("global", "first rows that every row sees").nonNegativeInteger(),
        targets: try object.optional("targets")?.choice(Mask.PrefixTargets.self) ?? .history)
    }
    if mustTell {
      layer.mask.contextual = try object.required(
        "contextual", "contextual rows as the mask counts them: 0 in GR's DlrmHSTU, whatever the slots"
      ).nonNegativeInteger()
    } else {
      layer.mask.contextual = try object.optional("contextual")?.nonNegativeInteger() ?? contextual
    }
    layer.targetAware = try object.optional("target_aware")?.bool() ?? true
  }

  private func relativeBias(_ reader: JSONReader) throws(ModelError) -> ModelDescription.RelativeBias {
    let object = try reader.object(ModelKeys.relativeBias)
    return ModelDescription.RelativeBias(
      maxLength: try object.required("max_length", "the longest sequence, n").positiveInteger(),
      timeBuckets: try object.optional("time_buckets")?.nonNegativeInteger())
  }
}
