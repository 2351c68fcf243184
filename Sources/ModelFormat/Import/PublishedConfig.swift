/// Fields of generative-recommenders' own configurations, so that they can be handed over as they are: `DlrmHSTUConfig` as
/// `json.dump(dataclasses.asdict(config), file)` writes it, and the arguments of the research code's `HSTU`.
struct PublishedConfig {
  /// In the order of the text; none is null.
  var fields: [(key: String, value: JSONReader)] = []

  /// Fields that say the same as a setting of ours.
  private static let renamed: [(field: String, key: ImportKey)] = [
    ("hstu_num_heads", .heads), ("hstu_attn_qk_dim", .attentionDim), ("hstu_attn_linear_dim", .hiddenDim),
    ("hstu_attn_num_layers", .layerCount), ("hstu_embedding_table_dim", .tableWidth),
    ("hstu_transducer_embedding_dim", .width), ("action_weights", .actionBits), ("embedding_dim", .width),
    ("item_embedding_dim", .width), ("num_blocks", .layerCount), ("num_heads", .heads), ("dqk", .attentionDim),
    ("dv", .hiddenDim), ("linear_dim", .hiddenDim),
  ]
  /// Fields that a setting of ours is made of.
  private static let composed = [
    "hstu_group_norm", "contextual_feature_to_max_length", "contextual_feature_to_min_uih_length",
    "multitask_configs", "user_embedding_feature_names", "item_embedding_feature_names", "uih_post_id_feature_name",
    "merge_uih_candidate_feature_mapping", "concat_ua",
  ]
  /// Fields without an effect on what is computed at inference, or that the checkpoint says.
  private static let idle = [
    "max_seq_len", "max_num_candidates", "max_num_candidates_inference", "hstu_preprocessor_hidden_dim",
    "hstu_input_dropout_ratio", "hstu_input_dropout_rate", "hstu_linear_dropout_rate",
    "candidates_weight_feature_name", "candidates_watchtime_feature_name", "candidates_querytime_feature_name",
    "causal_multitask_weights", "uih_action_time_feature_name", "uih_weight_feature_name", "hstu_uih_feature_names",
    "hstu_candidate_feature_names", "action_embedding_init_std", "enable_postprocessor",
    "use_layer_norm_postprocessor", "hstu_ultra_stack_name", "hstu_fp8_addmm_fwd", "max_sequence_len",
    "max_output_len", "linear_dropout_rate", "attn_dropout_rate", "normalization", "linear_config",
    "enable_relative_attention_bias", "verbose",
  ]

  static let keys = renamed.map(\.field) + composed + idle

  var withoutEffect: [String] { fields.map(\.key).filter(Self.idle.contains) }

  private subscript(key: String) -> JSONReader? { fields.first { $0.key == key }?.value }

  /// What the fields say, as settings of ours at the places of the fields.
  func settings() throws(ModelError) -> [(key: ImportKey, reader: JSONReader)] {
    var settings: [(key: ImportKey, reader: JSONReader)] = []
    for (field, key) in Self.renamed {
      if let value = self[field] { settings.append((key, value)) }
    }
    func add(_ key: ImportKey, _ node: JSONNode, at place: JSONReader) {
      let placed = JSONNode(value: node.value, line: place.node.line)
      settings.append((key, JSONReader(node: placed, path: place.path, file: place.file)))
    }
    if let group = self["hstu_group_norm"] {
      add(.outputNorm, .text(try group.bool() ? "group_norm" : "layer_norm"), at: group)
    }
    if let concat = self["concat_ua"] {
      let parts = try concat.bool() ? ["u", "normed_attention", "gated"] : ["gated"]
      add(.concatenate, .list(parts.map { .text($0) }), at: concat)
    }
    if let slots = self["contextual_feature_to_max_length"] {
      add(.contextual, try contextual(slots), at: slots)
    }
    if let tasks = self["multitask_configs"] { add(.tasks, .list(try tasks.elements().map(Self.task)), at: tasks) }
    let pairs = try self["merge_uih_candidate_feature_mapping"].map(Self.pairs) ?? []
    let post = self["uih_post_id_feature_name"]
    if let post { add(.content, .list([.text(try post.string())]), at: post) }
    if let items = self["item_embedding_feature_names"] {
      // Candidates' features by the names of history's: a call brings both in one list of ids.
      let names = try Self.strings(items)
      add(.items, .list(names.map { name in .text(pairs.first { $0.candidate == name }?.history ?? name) }), at: items)
      if let users = self["user_embedding_feature_names"] {
        let ofHistory = try Self.strings(users)
        let content = try post?.string()
        let additional = pairs.filter { pair in
          names.contains(pair.candidate) && ofHistory.contains(pair.history) && pair.history != content
        }
        if !additional.isEmpty { add(.additional, .list(additional.map { .text($0.history) }), at: users) }
      }
    }
    return settings
  }

  private static func strings(_ reader: JSONReader) throws(ModelError) -> [String] {
    try reader.elements().map { (element) throws(ModelError) in try element.string() }
  }

  private static func pairs(_ reader: JSONReader) throws(ModelError) -> [(history: String, candidate: String)] {
    try reader.elements().map { (element) throws(ModelError) in
      let names = try strings(element)
      guard names.count == 2 else { throw element.mismatch(expected: "a feature of history and one of candidates") }
      return (names[0], names[1])
    }
  }

  private func contextual(_ slots: JSONReader) throws(ModelError) -> JSONNode {
    let minimums = try self["contextual_feature_to_min_uih_length"]?.anyObject()
    return .list(
      try slots.anyObject().values.map { (name, count) throws(ModelError) in
        .object([
          ("feature", .text(name)), ("slots", .integer(try count.positiveInteger())),
          (
            "minimum_events",
            try minimums?.optional(name).map { (value) throws(ModelError) in
              .integer(try value.nonNegativeInteger())
            }
          ),
        ])
      })
  }

  /// A `TaskConfig`, whose type is a number or its name.
  private static func task(_ reader: JSONReader) throws(ModelError) -> JSONNode {
    let object = try reader.object(["task_name", "task_weight", "task_type"])
    let type = try object.required("task_type", "0 for binary classification, 1 for regression")
    let kind: String
    switch type.node.value {
    case .number(JSONNumber(text: "0")), .string("BINARY_CLASSIFICATION"): kind = "binary"
    case .number(JSONNumber(text: "1")), .string("REGRESSION"): kind = "regression"
    default: throw type.mismatch(expected: "0 (binary classification) or 1 (regression)")
    }
    return .object([("name", .text(try object.required("task_name").string())), ("kind", .text(kind))])
  }
}
