// `layer` of model.json, and what stands beside it.
extension Describer {
  private static let affineNorm = JSONNode.object([
    ("kind", .text("layer_norm")), ("affine", .bool(true)), ("epsilon", .number("1e-6")),
  ])
  private static let plainNorm = JSONNode.object([
    ("kind", .text("layer_norm")), ("affine", .bool(false)), ("epsilon", .number("1e-6")),
  ])

  private static func activations(_ u: String, _ others: String) -> JSONNode {
    .object([("u", .text(u)), ("v", .text(others)), ("q", .text(others)), ("k", .text(others))])
  }

  /// A layer of generative-recommenders' STULayer. nil where something must be told first. `withSlots` where contextual rows precede
  /// sequences, of which a mask must say how many it counts.
  mutating func productionLayer(withSlots: Bool) throws(ModelError) -> JSONNode? {
    let dimensions = try productionDimensions()
    let alpha = passOn(.alpha)
    let divisor = passOn(.divisor)
    let mask = mask(withSlots: withSlots)
    noteFamily("activations", "silu on u", "STULayer")
    noteFamily("norms of layers", "epsilon 1e-6", "STULayer")
    guard let dimensions else { return nil }
    let outputNorm = JSONNode.object([
      ("kind", .text(dimensions.norm)), ("affine", .bool(true)), ("epsilon", .number("1e-6")),
    ])
    return .object([
      ("heads", .integer(dimensions.heads)), ("attention_dim", .integer(dimensions.attentionDim)),
      ("hidden_dim", .integer(dimensions.hiddenDim)), ("alpha", alpha), ("divisor", divisor),
      ("activations", Self.activations("silu", "none")), ("input_norm", Self.affineNorm),
      ("uvqk", .object([("bias", .bool(true))])), ("mask", mask), ("output_norm", outputNorm),
      ("concatenate", .list(dimensions.parts.map { .text($0) })), ("output", .object([("bias", .bool(false))])),
    ])
  }

  /// A layer of the research code. nil where something must be told first.
  mutating func researchLayer() throws(ModelError) -> JSONNode? {
    let dimensions = try researchDimensions()
    let length = try maskSize()
    var divisor = length.map { JSONNode.integer($0) }
    if divisor == nil {
      divisor = passOn(
        .divisor, hint: "the research code divides by the size of its mask, max_sequence_len + max_output_len")
    } else if let told = settings[.divisor] {
      let value = try told.read { (reader) throws(ModelError) in try reader.positiveNumber() }
      guard value == length.map(Double.init) else {
        throw told.error("the research code divides by the size of its mask, \(length ?? 0)", hint: "leave it out")
      }
    }
    var activation = "silu"
    if let told = settings[.linearActivation] {
      activation = try told.word(["silu", "none"])
      note("activations", "\(activation) on u, v, q and k", .told, told.source)
    } else {
      noteFamily("activations", "silu on u, v, q and k", "the published configurations")
    }
    noteFamily("alpha", "1", "the research code")
    noteFamily("mask", "causal", "the research code")
    noteFamily("norms of layers", "epsilon 1e-6, without weights", "the research code")
    var bias: JSONNode?
    if let length, found[.positionBias] != nil {
      var buckets: Int?
      if let count = found[.timeBias] {
        guard count > 0, let tensor = found.extents[.timeBias]?.tensor else {
          throw missingTensor("_hstu._attention_layers.0._rel_attn_bias._ts_w", "its shape is empty")
        }
        buckets = count - 1
        note("last time bucket", "\(count - 1)", .checkpoint, "\(tensor.name) \(tensor.entry.shape)")
      }
      bias = .object([("max_length", .integer(length)), ("time_buckets", buckets.map { .integer($0) })])
    }
    guard let dimensions else { return nil }
    return .object([
      ("heads", .integer(dimensions.heads)), ("attention_dim", .integer(dimensions.attentionDim)),
      ("hidden_dim", .integer(dimensions.hiddenDim)), ("alpha", .integer(1)), ("divisor", divisor),
      ("activations", Self.activations(activation, activation)), ("input_norm", Self.plainNorm),
      ("uvqk", .object([("bias", .bool(false))])), ("mask", .object([("form", .text("causal"))])),
      ("relative_bias", bias), ("output_norm", Self.plainNorm),
      ("concatenate", .list(dimensions.parts.map { .text($0) })), ("output", .object([("bias", .bool(true))])),
    ])
  }

  /// n of the research code: 2n - 1 relative positions, and the extent of its mask. nil where neither is there.
  private mutating func maskSize() throws(ModelError) -> Int? {
    var size: Int?
    if let positions = found.extents[.positionBias] {
      guard positions.value % 2 == 1 else {
        throw error(
          positions.tensor, "shape \(positions.tensor.entry.shape), expected an odd number of positions, 2n - 1")
      }
      size = positions.value / 2 + 1
      note("n, the divisor", positions.value / 2 + 1, .positionBias)
    }
    guard let mask = found.extents[.maskSize] else { return size }
    if let size, size != mask.value {
      throw error(
        mask.tensor,
        "shape \(mask.tensor.entry.shape), but the layers' biases are of \(2 * size - 1) positions, for n = \(size)")
    }
    if size == nil { note("n, the divisor", mask.value, .maskSize) }
    markRead(mask.tensor)
    return mask.value
  }

  private mutating func mask(withSlots: Bool) -> JSONNode? {
    guard let node = passOn(.mask) else { return nil }
    var members: [(key: String, value: JSONNode?)]
    switch node.value {
    case .string: members = [("form", node)]
    case .object(let told): members = told.map { ($0.key, $0.value) }
    default: return node
    }
    if withSlots, node["contextual"] == nil {
      members.append(("contextual", .integer(0)))
      noteFamily("contextual rows of masks", "0", "DlrmHSTU")
    }
    return .object(members)
  }

  /// The list of truncations; nil where there are none.
  mutating func truncation() throws(ModelError) -> JSONNode? {
    // L2STU and stochastic depth wrap layers alike; which it was the names do not tell.
    let wrapped = found.layers.compactMap { path in
      LayerRole.allCases.compactMap { found[.layer(path: path, $0)] }.first { $0.name.contains("._stu.") }
    }.first
    let node: JSONNode?
    if let wrapped {
      node = passOn(.truncation, hint: "\(quoted(wrapped.name)) is of a layer in L2STU (skip) or SDSTU (none)")
    } else {
      node = passOn(.truncation, required: false)
    }
    guard let node else {
      if wrapped == nil { noteFamily("truncation", "none", "nothing says otherwise") }
      return nil
    }
    switch node.value {
    case .string("none"): return nil
    case .object: return .list([node])
    default: return node
    }
  }

  /// `layer_count` and `layer`, with truncation where there is any.
  mutating func stackMembers(_ layer: JSONNode?) throws(ModelError) -> [(key: String, value: JSONNode?)] {
    [("layer_count", .integer(found.layers.count)), ("layer", layer), ("truncation", try truncation())]
  }

  /// The norm of a model's output.
  mutating func outputNorm() throws(ModelError) -> JSONNode {
    if let combiner = found[.timeCombinerWeight] {
      noteFamily("output norm", "layer norm with the time, epsilon 1e-5, pi 3.14", "TimestampLayerNormPostprocessor")
      var periods: JSONNode?
      if let units = try integers(of: .periodUnits, "periods, seconds"),
        let counts = try integers(of: .periodCounts, "periods, units")
      {
        periods = .list(
          zip(units, counts).map { .object([("unit", .integer($0)), ("count", .integer($1))]) })
      } else {
        periods = passOn(.periods, hint: "\(quoted(combiner.name)) has shape \(combiner.entry.shape)")
      }
      return .object([
        ("kind", .text("timestamp_layer_norm")), ("epsilon", .number("1e-5")), ("periods", periods),
        ("pi", .number("3.14")),
      ])
    }
    if found[.rowNormWeight] != nil {
      noteFamily("output norm", "layer norm, epsilon 1e-5", "LayerNormPostprocessor")
      return .object([("kind", .text("layer_norm")), ("epsilon", .number("1e-5"))])
    }
    if let told = settings[.userNorm] {
      let kind = try told.word(["l2", "none"])
      note("output norm", kind, .told, told.source)
      return .object([("kind", .text(kind)), ("epsilon", kind == "l2" ? .number("1e-6") : nil)])
    }
    noteFamily("output norm", "l2, epsilon 1e-6", "the default of this family")
    return .object([("kind", .text("l2")), ("epsilon", .number("1e-6"))])
  }
}
