import ArgumentParser
import ModelFormat

/// What `import` is told of layers.
struct ImportLayerArguments: ParsableArguments {
  @Option(help: ArgumentHelp("Attention heads.", valueName: "n"))
  var heads: Int?

  @Option(help: ArgumentHelp("The width of a query and a key, each head.", valueName: "n"))
  var attentionDim: Int?

  @Option(help: ArgumentHelp("The width of u and of a value, each head.", valueName: "n"))
  var hiddenDim: Int?

  @Option(
    help: ArgumentHelp(
      "The score scale: a number, 1/sqrt(attention_dim) or 1/attention_dim.", valueName: "number|word"))
  var alpha: String?

  @Option(
    help: ArgumentHelp(
      "N of SiLU(score)/N: a number, longest_sequence or longest_history_plus_targets.", valueName: "number|word"))
  var divisor: String?

  @Option(
    help: ArgumentHelp(
      "Which keys a row sees: causal, windowed{window=W,full_tail=F} or key_prefix{local=K1,global=K2}.",
      valueName: "form"))
  var mask: String?

  @Option(
    parsing: .singleValue,
    help: ArgumentHelp(
      """
      Layers on the latest rows only: none, drop{after=2,keep=512} or skip{after=1,until=3,keep=512}; may be given \
      several times.
      """, valueName: "form"))
  var truncation: [String] = []

  @Option(help: ArgumentHelp("What a layer's last product reads, with commas.", valueName: "parts"))
  var concatenate: String?

  func flags() throws(ModelError) -> [ImportOptions.Flag] {
    var flags: [ImportOptions.Flag] = []
    func add(_ name: String, _ key: String, _ value: Int?) {
      if let value { flags.append(.value(name, key, "\(value)")) }
    }
    add("--heads", "heads", heads)
    add("--attention-dim", "attention_dim", attentionDim)
    add("--hidden-dim", "hidden_dim", hiddenDim)
    if let alpha { flags.append(.value("--alpha", "alpha", alpha)) }
    if let divisor { flags.append(.value("--divisor", "divisor", divisor)) }
    if let mask { flags.append(try .braced("--mask", "mask", mask, word: "form")) }
    if truncation == ["none"] {
      flags.append(.value("--truncation", "truncation", "none"))
    } else if !truncation.isEmpty {
      flags.append(try .bracedList("--truncation", "truncation", truncation, word: "form"))
    }
    if let concatenate { flags.append(.words("--concatenate", "concatenate", concatenate)) }
    return flags
  }
}

/// What `import` is told of retrieval models.
struct ImportRetrievalArguments: ParsableArguments {
  @Option(help: ArgumentHelp("The embedding table of items, where there are several.", valueName: "table"))
  var itemTable: String?

  @Option(
    help: ArgumentHelp("The table whose rows are added to the items', or none (default: action).", valueName: "table"))
  var actionTable: String?

  @Option(help: ArgumentHelp("Which rows are given back: last (default), all or targets.", valueName: "word"))
  var rows: String?

  @Option(help: ArgumentHelp("The norm of users' rows: l2 (default) or none.", valueName: "word"))
  var userNorm: String?

  @Flag(help: "Give back scores of all items too.")
  var scores = false

  @Option(help: ArgumentHelp("Give back the best n items too.", valueName: "n"))
  var topK: Int?

  @Option(help: ArgumentHelp("Whether the history's items may be among them: leave_out or keep.", valueName: "word"))
  var seen: String?

  @Option(help: ArgumentHelp("The first row of the item table that is an item.", valueName: "n"))
  var firstRow: Int?

  @Option(help: ArgumentHelp("The norm of items in scores: l2 or none.", valueName: "word"))
  var itemNorm: String?

  func flags() -> [ImportOptions.Flag] {
    let words = [
      ("--item-table", "item_table", itemTable), ("--action-table", "action_table", actionTable),
      ("--rows", "rows", rows), ("--user-norm", "user_norm", userNorm), ("--seen", "seen", seen),
      ("--item-norm", "item_norm", itemNorm),
    ]
    let numbers = [("--top-k", "top_k", topK), ("--first-row", "first_row", firstRow)]
    return words.compactMap { name, key, word in word.map { ImportOptions.Flag(name, key, .text($0)) } }
      + numbers.compactMap { name, key, value in value.map { ImportOptions.Flag(name, key, .integer($0)) } }
      + (scores ? [.value("--scores", "scores", "true")] : [])
  }
}

/// What `import` is told of ranking models.
struct ImportRankingArguments: ParsableArguments {
  @Option(help: ArgumentHelp("The features that an event is of, with commas.", valueName: "features"))
  var content: String?

  @Option(help: ArgumentHelp("The features that are added to it, with commas.", valueName: "features"))
  var additional: String?

  @Option(
    help: ArgumentHelp("The features of candidates that the item tower reads, with commas.", valueName: "features"))
  var items: String?

  @Option(
    parsing: .singleValue,
    help: ArgumentHelp(
      """
      A feature with rows before each sequence, user_id{slots=1,minimum_events=20}; once for each, in the order of \
      their slots.
      """, valueName: "feature"))
  var contextual: [String] = []

  @Option(
    name: .customLong("feature"), parsing: .singleValue,
    help: ArgumentHelp(
      "The table of a feature that is called otherwise; may be given several times.", valueName: "feature=table"))
  var features: [String] = []

  @Option(
    name: .customLong("task"), parsing: .singleValue,
    help: ArgumentHelp("A task, binary or regression; once for each, in order.", valueName: "name=kind"))
  var tasks: [String] = []

  @Option(
    help: ArgumentHelp("The bits of actions, where the checkpoint does not have them.", valueName: "bits"))
  var actionBits: String?

  @Option(help: ArgumentHelp("How actions meet content: sum or interleave.", valueName: "word"))
  var combine: String?

  func flags() throws(ModelError) -> [ImportOptions.Flag] {
    var flags: [ImportOptions.Flag] = []
    for (name, key, text) in [
      ("--content", "content", content), ("--additional", "additional", additional), ("--items", "items", items),
    ] {
      if let text { flags.append(.words(name, key, text)) }
    }
    if let actionBits { flags.append(.numbers("--action-bits", "action_bits", actionBits)) }
    if !contextual.isEmpty {
      flags.append(try .bracedList("--contextual", "contextual", contextual, word: "feature"))
    }
    if !features.isEmpty { flags.append(try .mapping("--feature", "features", features)) }
    if !tasks.isEmpty { flags.append(try .pairs("--task", "tasks", tasks, "name", "kind")) }
    if let combine { flags.append(ImportOptions.Flag("--combine", "combine", .text(combine))) }
    return flags
  }
}
