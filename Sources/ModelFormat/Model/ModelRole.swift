/// A perceptron of a model of events.
public enum PerceptronRole: String, Hashable, Sendable, CaseIterable {
  case content, additional, action, item, task
}

/// A weight of a perceptron, in the order of their use.
public enum PerceptronPart: String, Hashable, Sendable, CaseIterable {
  case firstWeight = "first_weight"
  case firstBias = "first_bias"
  case normWeight = "norm_weight"
  case normBias = "norm_bias"
  case secondWeight = "second_weight"
  case secondBias = "second_bias"
  case outputNormWeight = "output_norm_weight"
  case outputNormBias = "output_norm_bias"
}

/// What a weight is for, beside the layers.
public enum ModelRole: Hashable, Sendable {
  case itemTable, actionTable, positionTable, timeTable
  /// A row for each bit of actions, and what stands for the actions of candidates.
  case actionBits, targetAction
  /// A matrix and a bias for each contextual row.
  case contextualWeight, contextualBias
  /// The norm of the output.
  case rowNormWeight, rowNormBias
  /// The product before it that mixes in when rows happened.
  case timeCombinerWeight, timeCombinerBias
  case perceptron(PerceptronRole, PerceptronPart)
  /// The product that makes one row of those of several transducers.
  case fusionWeight, fusionBias
  /// The embedding table of this name.
  case table(String)

  /// Those that have a key of their own.
  static let plain: [(role: ModelRole, key: String)] = [
    (.itemTable, "item_table"), (.actionTable, "action_table"), (.positionTable, "position_table"),
    (.timeTable, "time_table"), (.actionBits, "action_bits"), (.targetAction, "target_action"),
    (.contextualWeight, "contextual_weight"), (.contextualBias, "contextual_bias"),
    (.rowNormWeight, "row_norm_weight"), (.rowNormBias, "row_norm_bias"),
    (.timeCombinerWeight, "time_combiner_weight"), (.timeCombinerBias, "time_combiner_bias"),
    (.fusionWeight, "fusion_weight"), (.fusionBias, "fusion_bias"),
  ]

  /// All but tables, which have names of their own.
  static let withoutTables: [ModelRole] =
    plain.map(\.role)
    + PerceptronRole.allCases.flatMap { role in PerceptronPart.allCases.map { .perceptron(role, $0) } }

  /// Its key in `names.map`: `item_table`, `content.first_weight`, `tables.user_id`.
  public var key: String {
    switch self {
    case .perceptron(let role, let part): "\(role.rawValue).\(part.rawValue)"
    case .table(let name): "tables.\(name)"
    default: Self.plain.first { $0.role == self }?.key ?? ""
    }
  }

  /// The role of a key; nil where there is none.
  public init?(key: String) {
    let tables = "tables."
    if key.hasPrefix(tables), key.count > tables.count {
      self = .table(String(key.dropFirst(tables.count)))
    } else if let role = Self.withoutTables.first(where: { $0.key == key }) {
      self = role
    } else {
      return nil
    }
  }
}

extension WeightNames.Preset {
  func name(of role: ModelRole) -> String? {
    switch self {
    case .production: productionName(of: role)
    case .research:
      switch role {
      case .itemTable: "_embedding_module._item_emb.weight"
      case .positionTable: "_input_features_preproc._pos_emb.weight"
      default: nil
      }
    case .none: nil
    }
  }

  private func productionName(of role: ModelRole) -> String? {
    let preprocessor = "_hstu_transducer._input_preprocessor."
    let positions = "_hstu_transducer._positional_encoder."
    let postprocessor = "_hstu_transducer._output_postprocessor."
    return switch role {
    case .fusionWeight, .fusionBias: nil
    case .itemTable: productionName(of: .table("item"))
    case .actionTable: productionName(of: .table("action"))
    case .table(let name): "_embedding_collection.embeddings.\(name).weight"
    case .positionTable: positions + "_position_embeddings_weight"
    case .timeTable: positions + "_timestamp_embeddings_weight"
    case .actionBits: preprocessor + "_action_encoder._action_embedding_table"
    case .targetAction: preprocessor + "_action_encoder._target_action_embedding_table"
    case .contextualWeight: preprocessor + "_batched_contextual_linear_weights"
    case .contextualBias: preprocessor + "_batched_contextual_linear_bias"
    case .rowNormWeight: postprocessor + "_layer_norm.weight"
    case .rowNormBias: postprocessor + "_layer_norm.bias"
    case .timeCombinerWeight: postprocessor + "_time_feature_combiner.weight"
    case .timeCombinerBias: postprocessor + "_time_feature_combiner.bias"
    case .perceptron(let perceptron, let part):
      switch perceptron {
      case .content, .additional, .action:
        "\(preprocessor)_\(perceptron.rawValue)_embedding_mlp.\(part.sequentialName)"
      case .item: "_item_embedding_mlp.\(part.sequentialName)"
      case .task: "_multitask_module._prediction_module.\(part.sequentialName)"
      }
    }
  }
}

/// A setting that checkpoints keep beside the weights, though model.json says it too: both must agree.
enum StoredSetting {
  case actionBits, periodUnits, periodCounts
}

extension WeightNames.Preset {
  func name(of setting: StoredSetting) -> String? {
    guard self == .production else { return nil }
    return switch setting {
    case .actionBits: "_hstu_transducer._input_preprocessor._action_encoder._combined_action_weights"
    case .periodUnits: "_hstu_transducer._output_postprocessor._period_units"
    case .periodCounts: "_hstu_transducer._output_postprocessor._units_per_period"
    }
  }
}

extension PerceptronPart {
  /// As a torch.nn.Sequential of the four has it.
  fileprivate var sequentialName: String {
    switch self {
    case .firstWeight: "0.weight"
    case .firstBias: "0.bias"
    case .normWeight: "1.weight"
    case .normBias: "1.bias"
    case .secondWeight: "2.weight"
    case .secondBias: "2.bias"
    case .outputNormWeight: "3.weight"
    case .outputNormBias: "3.bias"
    }
  }
}
