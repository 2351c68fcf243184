/// Families of checkpoints that can be imported.
public enum ImportFamily: String, Hashable, Sendable, CaseIterable {
  /// Whole ranking models: generative-recommenders' DlrmHSTU, MLPerf's DLRMv3.
  case ranking = "gr-ranking"
  /// Retrieval models: the research code's HSTU, or production layers on summed embeddings (the ULTRA form).
  case retrieval = "gr-retrieval"
}

/// What an import is told, beside the checkpoint.
public struct ImportOptions: Sendable {
  /// A setting that the command line gives.
  public struct Flag: Sendable {
    /// As a user writes it, for errors: `--heads`.
    public var name: String
    /// The setting's key: `heads`.
    public var key: String
    /// The value, in the form that the key has in a configuration.
    public var value: JSONNode

    /// A setting of this key.
    public init(_ name: String, _ key: String, _ value: JSONNode) {
      self.name = name
      self.key = key
      self.value = value
    }
  }

  /// The family whose names the checkpoint has.
  public var family: ImportFamily
  /// The model's name.
  public var name: String
  /// What model.json calls the files of weights: their paths relative to its folder.
  public var weights: [String]
  /// Only tensors whose names begin so are looked at.
  public var prefix = ""
  /// Settings, under the keys of `ImportKey` or those of generative-recommenders' own configurations.
  public var config: JSONDocument?
  /// Settings that go before those of `config`.
  public var flags: [Flag] = []

  /// An import of a family's checkpoint.
  public init(family: ImportFamily, name: String, weights: [String]) {
    self.family = family
    self.name = name
    self.weights = weights
  }
}

/// What can be told of a checkpoint. The raw value is the key in a configuration; the flag is the same with dashes.
public enum ImportKey: String, Hashable, Sendable, CaseIterable {
  case width
  case layerCount = "layer_count"
  case heads
  case attentionDim = "attention_dim"
  case hiddenDim = "hidden_dim"
  case alpha, divisor, mask, truncation, concatenate
  case outputNorm = "output_norm"
  case linearActivation = "linear_activation"
  case itemTable = "item_table"
  case actionTable = "action_table"
  case rows
  case userNorm = "user_norm"
  case scores
  case topK = "top_k"
  case seen
  case firstRow = "first_row"
  case itemNorm = "item_norm"
  case tableWidth = "table_width"
  case features, content, additional, items, contextual, tasks
  case actionBits = "action_bits"
  case watchTime = "watch_time"
  case combine, periods
  case timeLimit = "time_limit"

  /// How the value is written after its flag; nil where only a configuration has it.
  var flagValue: String? {
    switch self {
    case .heads, .attentionDim, .hiddenDim, .topK, .firstRow: "N"
    case .alpha, .divisor: "NUMBER|WORD"
    case .mask, .truncation: "FORM{...}"
    case .concatenate, .content, .additional, .items, .actionBits: "A,B,..."
    case .itemTable, .actionTable: "TABLE"
    case .rows, .userNorm, .seen, .itemNorm, .combine: "WORD"
    case .contextual: "FEATURE{...}"
    case .features: "FEATURE=TABLE"
    case .tasks: "NAME=KIND"
    case .scores: ""
    case .width, .layerCount, .outputNorm, .linearActivation, .tableWidth, .watchTime, .periods, .timeLimit: nil
    }
  }

  /// As a user writes it on a command line; the key alone where there is no flag.
  var flag: String {
    switch self {
    // One of these a flag.
    case .features: "--feature"
    case .tasks: "--task"
    default: flagValue == nil ? rawValue : "--" + rawValue.replacing("_", with: "-")
    }
  }

  /// What it means, and what the published models have.
  var meaning: String {
    switch self {
    case .width: "the width of a row"
    case .layerCount: "the number of layers"
    case .heads: "attention heads"
    case .attentionDim: "the width of a query and a key, each head"
    case .hiddenDim: "the width of u and of a value, each head"
    case .alpha:
      "the score scale: 1/sqrt(attention_dim) in GR's STULayer unless attn_alpha says otherwise, 1/attention_dim in its ULTRA configurations"
    case .divisor:
      "N in SiLU(score)/N: a number (recommended), or longest_history_plus_targets as DlrmHSTU, or longest_sequence"
    case .mask:
      "which keys a row sees: causal, as DlrmHSTU; windowed{window=W,full_tail=F}; or key_prefix{local=K1,global=K2}"
    case .truncation: "layers on the latest rows only: none, drop{after=2,keep=512} or skip{after=1,until=3,keep=512}"
    case .concatenate:
      "what a layer's last product reads: u,attention,gated in STULayer; gated in the research code, u,normed_attention,gated with its concat_ua"
    case .outputNorm: "the norm of attention: layer_norm or group_norm"
    case .linearActivation: "what u, v, q and k pass through: silu or none"
    case .itemTable: "the embedding table of items"
    case .actionTable: "the embedding table whose rows are added to the items', or none"
    case .rows: "which rows are given back: last, all or targets"
    case .userNorm: "how they are normed: l2 or none"
    case .scores: "whether scores of all items are given back too"
    case .topK: "how many items are given back, the best for each row"
    case .seen: "whether items of the history may be among the best: leave_out or keep"
    case .firstRow: "the first row of the item table that is an item: 1 where row 0 is padding, else 0"
    case .itemNorm: "the norm of the items' rows in scores: l2 where training set item_l2_norm, else none"
    case .tableWidth: "the width of embedding tables"
    case .features: "the table that a feature is looked up in, where its name is another"
    case .content: "the features that an event is of: uih_post_id_feature_name"
    case .additional: "the features that are added to it"
    case .items: "the features of candidates that the item tower reads, in order, under the names of history's"
    case .contextual: "a feature with rows before each sequence: user_id{slots=1,minimum_events=20}"
    case .tasks: "the tasks in order, each binary or regression"
    case .actionBits: "the bits of actions that rows of the action table are for: action_weights"
    case .watchTime: "bits that watch times set: {\"thresholds\": [...], \"bits\": [...]}"
    case .combine: "how actions meet content: sum, or interleave"
    case .periods: "parts of the calendar: [{\"unit\": 3600, \"count\": 24}, {\"unit\": 86400, \"count\": 7}] in GR"
    case .timeLimit: "the last row of the time table that is used"
    }
  }
}
