import TensorIR

/// What a weight is for, in a layer.
public enum LayerRole: String, Hashable, Sendable, CaseIterable {
  case uvqkWeight = "uvqk_weight"
  case uvqkBias = "uvqk_bias"
  case inputNormWeight = "input_norm_weight"
  case inputNormBias = "input_norm_bias"
  case outputWeight = "output_weight"
  case outputBias = "output_bias"
  case outputNormWeight = "output_norm_weight"
  case outputNormBias = "output_norm_bias"
  case positionBias = "position_bias"
  case timeBias = "time_bias"
}

/// Under which names a checkpoint keeps the weights of a model.
public struct WeightNames: Hashable, Sendable {
  /// A family of checkpoints with its names (SEMANTICS sections 2 and 7).
  public enum Preset: String, Hashable, Sendable, CaseIterable {
    /// generative-recommenders, the modules in production.
    case production = "gr-production"
    /// generative-recommenders, the research code.
    case research = "gr-research"
    /// No names but those of the map.
    case none
  }

  /// What precedes the names of a layer.
  public enum LayerPrefix: Hashable, Sendable {
    /// `{i}` stands for the number of the layer, from 0.
    case pattern(String)
    /// One for each layer.
    case list([String])
  }

  /// The family whose names are taken where the map has none.
  public var preset: Preset
  /// Precedes every name of the preset.
  public var prefix: String
  /// nil takes the preset's.
  public var layerPrefix: LayerPrefix?
  /// Whole names that replace the preset's, by role. `{i}` stands for the number of the layer.
  public var modelNames: [ModelRole: String]
  /// By role, for all layers; `{i}` stands for the number of the layer.
  public var layerNames: [LayerRole: String]
  /// Names of one layer's weights; they go before `layerNames`.
  public var singleLayerNames: [Int: [LayerRole: String]]

  /// The names of a preset, with exceptions.
  public init(
    preset: Preset, prefix: String = "", layerPrefix: LayerPrefix? = nil, modelNames: [ModelRole: String] = [:],
    layerNames: [LayerRole: String] = [:], singleLayerNames: [Int: [LayerRole: String]] = [:]
  ) {
    self.preset = preset
    self.prefix = prefix
    self.layerPrefix = layerPrefix
    self.modelNames = modelNames
    self.layerNames = layerNames
    self.singleLayerNames = singleLayerNames
  }

  /// The name of a weight beside the layers; nil where neither the map nor the preset has one.
  public func name(of role: ModelRole) -> String? {
    modelNames[role] ?? preset.name(of: role).map { prefix + $0 }
  }

  /// The name of a layer's weight; nil where neither the map nor the preset has one.
  /// `withTime` tells the two forms of the research code's bias apart, which name the position weights differently.
  public func name(of role: LayerRole, layer: Int, withTime: Bool = false) -> String? {
    let mapped = singleLayerNames[layer]?[role] ?? layerNames[role]
    if let mapped { return Self.fill(mapped, layer) }
    guard let suffix = preset.name(of: role, withTime: withTime) else { return nil }
    switch layerPrefix ?? preset.layerPrefix.map(LayerPrefix.pattern) {
    case .pattern(let pattern)?: return prefix + Self.fill(pattern, layer) + suffix
    case .list(let prefixes)?: return prefixes.indices.contains(layer) ? prefix + prefixes[layer] + suffix : nil
    case nil: return nil
    }
  }

  private static func fill(_ pattern: String, _ layer: Int) -> String {
    pattern.split(separator: "{i}", omittingEmptySubsequences: false).joined(separator: "\(layer)")
  }
}

extension WeightNames.Preset {
  var layerPrefix: String? {
    switch self {
    case .production: "_hstu_transducer._stu_module._stu_layers.{i}."
    case .research: "_hstu._attention_layers.{i}."
    case .none: nil
    }
  }

  /// How the family stores a layer's last matrix; nil where it is not known.
  var outputLayout: Linear.Orientation? {
    switch self {
    case .production: .inOut
    case .research: .outIn
    case .none: nil
    }
  }

  /// How the family stores a layer's first matrix; nil where it is not known.
  var uvqkLayout: Linear.Orientation? { self == .none ? nil : .inOut }

  func name(of role: LayerRole, withTime: Bool) -> String? {
    switch (self, role) {
    case (.production, .uvqkWeight): "_uvqk_weight"
    case (.production, .uvqkBias): "_uvqk_beta"
    case (.production, .inputNormWeight): "_input_norm_weight"
    case (.production, .inputNormBias): "_input_norm_bias"
    case (.production, .outputWeight): "_output_weight"
    case (.production, .outputNormWeight): "_output_norm_weight"
    case (.production, .outputNormBias): "_output_norm_bias"
    case (.research, .uvqkWeight): "_uvqk"
    case (.research, .outputWeight): "_o.weight"
    case (.research, .outputBias): "_o.bias"
    case (.research, .positionBias): withTime ? "_rel_attn_bias._pos_w" : "_rel_attn_bias._w"
    case (.research, .timeBias): "_rel_attn_bias._ts_w"
    default: nil
    }
  }
}
