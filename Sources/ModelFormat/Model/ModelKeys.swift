/// The keys of model.json, by the definition in docs/model.schema.json that describes the object they stand in.
///
/// Decoders read with these lists and a test holds them against the schema, so neither knows a key that the other lacks.
enum ModelKeys {
  static let model = [
    "$schema", "format", "name", "weights", "width", "names", "sequence", "input", "layer", "layer_count", "layers",
    "truncation", "transducers", "fusion", "output", "stages", "training",
  ]
  static let names = ["preset", "prefix", "layer_prefix", "map"]
  static let sequence = ["targets", "contextual"]
  static let input = [
    "kind", "item", "action", "scale", "position", "padding_id", "tables", "features", "content", "additional",
    "combine", "contextual", "time",
  ]
  static let featureTable = ["rows", "width", "out_of_range"]
  static let encoder = ["features", "mlp"]
  static let perceptron = ["hidden", "epsilon"]
  static let actionEncoder = ["bits", "width", "targets", "watch_time", "mlp"]
  static let watchTime = ["thresholds", "bits"]
  static let contextualFeature = ["feature", "table", "slots", "minimum_events"]
  static let timeTable = ["rows", "scale", "unit", "limit"]
  static let table = ["rows", "out_of_range"]
  static let fallback = ["fallback"]
  static let positionTable = ["rows", "order", "limit"]
  static let layer = [
    "heads", "attention_dim", "hidden_dim", "alpha", "divisor", "activations", "input_norm", "uvqk", "mask",
    "relative_bias", "output_norm", "gate", "concatenate", "output", "residual",
  ]
  static let activations = ["u", "v", "q", "k", "scores"]
  static let norm = ["kind", "affine", "epsilon"]
  static let uvqk = ["bias", "order", "layout"]
  static let mask = ["form", "window", "full_tail", "local", "global", "targets", "contextual", "target_aware"]
  static let relativeBias = ["max_length", "time_buckets"]
  static let layerOutput = ["bias", "layout"]
  static let truncation = ["form", "after", "until", "keep", "contextual"]
  static let transducer = ["name", "names", "input", "layer", "layer_count", "layers", "truncation"]
  static let fusion = ["bias", "layout"]
  static let output = ["rows", "norm", "name", "scores", "ranking", "top_k"]
  static let outputNorm = ["kind", "epsilon", "periods", "pi"]
  static let period = ["unit", "count"]
  static let ranking = ["items", "mlp", "tasks"]
  static let task = ["name", "kind"]
  static let scores = ["first_row", "norm", "feature"]
  static let topK = ["k", "first_row", "norm", "feature", "seen"]

  /// Every list, by the name of its definition in the schema; the document itself is `model`.
  static let byDefinition: [(definition: String, keys: [String])] = [
    ("model", model), ("names", names), ("sequence", sequence), ("input", input), ("table", table),
    ("fallback", fallback), ("position_table", positionTable), ("feature_table", featureTable), ("encoder", encoder),
    ("perceptron", perceptron), ("action_encoder", actionEncoder), ("watch_time", watchTime),
    ("contextual_feature", contextualFeature), ("time_table", timeTable), ("layer", layer),
    ("activations", activations),
    ("norm", norm), ("uvqk", uvqk), ("mask", mask), ("relative_bias", relativeBias), ("layer_output", layerOutput),
    ("truncation", truncation), ("transducer", transducer), ("fusion", fusion), ("output", output),
    ("output_norm", outputNorm), ("scores", scores), ("period", period),
    ("ranking", ranking), ("task", task), ("top_k", topK),
  ]
}
