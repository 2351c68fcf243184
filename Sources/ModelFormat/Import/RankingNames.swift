extension FamilyNames {
  /// Whole ranking models: generative-recommenders' DlrmHSTU, MLPerf's DLRMv3 (SEMANTICS section 6).
  ///
  /// Names are those of meta-recsys/generative-recommenders and mlcommons/inference (recommendation/dlrm_v3), which agree; of earlier
  /// versions under facebookresearch/generative-recommenders, whose norms keep `_weight` and `_bias` and whose preprocessor keeps actions
  /// itself; and of ContextualInterleavePreprocessor, whose perceptrons are one module deeper.
  static let ranking = FamilyNames(
    title: "a ranking model (gr-ranking)", example: "_hstu_transducer._stu_module._stu_layers.0._uvqk_weight",
    roots: ["_hstu_transducer", "_embedding_collection", "_multitask_module", "_item_embedding_mlp"],
    patterns: productionLayers(["_hstu_transducer._stu_module._stu_layers.{i}."])
      + [NamePattern("_embedding_collection.embeddings.{table}.weight", .table, [])]
      + preset(.positionTable, [.positionRows, .width]) + preset(.timeTable, [.timeRows, .width])
      + preset(
        .actionBits, [.bits, .bitWidth], also: ["_hstu_transducer._input_preprocessor._action_embeddings"])
      + preset(
        .targetAction, [.fixed(1), .actionWidth],
        also: ["_hstu_transducer._input_preprocessor._candidate_action_embedding"])
      + preset(.contextualWeight, [.slots, .contextualWidth, .width]) + preset(.contextualBias, [.slots, .width])
      + outputNorm + PerceptronRole.allCases.flatMap(perceptron) + stored,
    refusals: [
      (
        "_hstu_transducer._input_preprocessor._content_encoder", "a content encoder with features of targets",
        "only DlrmHSTU's own features can be imported"
      ),
      (
        "_hstu_transducer._input_preprocessor._content_embedding_mlp._dense_features_compress",
        "a perceptron whose weights follow from contextual features", "only the plain perceptrons can be imported"
      ),
      (
        "_hstu_transducer._input_preprocessor._action_embedding_mlp._dense_features_compress",
        "a perceptron whose weights follow from contextual features", "only the plain perceptrons can be imported"
      ),
    ])

  /// The layers of generative-recommenders' STULayer (SEMANTICS section 2) below these modules.
  static func productionLayers(_ prefixes: [String]) -> [NamePattern] {
    let shapes: [(LayerRole, [Extent])] = [
      (.uvqkWeight, [.width, .uvqk]), (.uvqkBias, [.uvqk]), (.inputNormWeight, [.width]), (.inputNormBias, [.width]),
      (.outputWeight, [.outputInner, .width]), (.outputNormWeight, [.outputNorm]), (.outputNormBias, [.outputNorm]),
    ]
    return prefixes.flatMap { prefix in
      shapes.compactMap { role, shape in
        WeightNames.Preset.production.name(of: role, withTime: false).map {
          NamePattern(prefix + $0, .layer(role), shape)
        }
      }
    }
  }

  /// The norm that a model's output passes through, with the product before it.
  static let outputNorm =
    preset(.rowNormWeight, [.width]) + preset(.rowNormBias, [.width])
    + preset(.timeCombinerWeight, [.width, .combined]) + preset(.timeCombinerBias, [.width])

  /// Buffers that say what a configuration says too.
  static let stored: [NamePattern] = [
    (StoredSetting.actionBits, [Extent.bits]), (.periodUnits, [.fixed(1), .periods]),
    (.periodCounts, [.fixed(1), .periods]),
  ].compactMap { setting, shape in
    WeightNames.Preset.production.name(of: setting).map { NamePattern($0, .stored(setting), shape) }
  }

  /// The preset's name, and others.
  static func preset(_ role: ModelRole, _ shape: [Extent], also others: [String] = []) -> [NamePattern] {
    let name = WeightNames.Preset.production.name(of: role)
    return ((name.map { [$0] } ?? []) + others).map { NamePattern($0, .model(role), shape) }
  }

  /// The weights of a perceptron, under the names of every version.
  private static func perceptron(_ role: PerceptronRole) -> [NamePattern] {
    let outer: Extent = role == .task ? .tasks : .width
    let parts = PerceptronPart.allCases.filter {
      role != .task || ($0 != .outputNormWeight && $0 != .outputNormBias)
    }
    return parts.flatMap { part -> [NamePattern] in
      let shape: [Extent] =
        switch part {
        case .firstWeight: [.hidden(role), .inner(role)]
        case .firstBias, .normWeight, .normBias: [.hidden(role)]
        case .secondWeight: [outer, .hidden(role)]
        case .secondBias, .outputNormWeight, .outputNormBias: [outer]
        }
      guard let name = WeightNames.Preset.production.name(of: .perceptron(role, part)) else { return [] }
      var names = [name]
      switch part {
      case .normWeight, .normBias, .outputNormWeight, .outputNormBias:
        if let dot = name.lastIndex(of: ".") { names.append("\(name[..<dot])._\(name[name.index(after: dot)...])") }
      default: break
      }
      if role == .content || role == .action {
        names += names.map { $0.replacing("_embedding_mlp.", with: "_embedding_mlp._mlp.") }
      }
      return names.map { NamePattern($0, .model(.perceptron(role, part)), shape) }
    }
  }
}
