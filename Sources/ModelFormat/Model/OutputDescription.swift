import TensorIR

extension ModelDescription {
  /// What a call gives back.
  public struct Output: Hashable, Sendable {
    /// Which rows of the last layer are given back: all, each sequence's last, or its targets.
    public enum Rows: String, Hashable, Sendable, CaseIterable { case all, last, targets }

    /// How rows are normed before they are given back.
    public enum Norm: Hashable, Sendable {
      case none
      case l2(epsilon: Double)
      /// Layer norm with a trained weight and bias.
      case layer(epsilon: Double)
      /// The same after a product that mixes in when the row happened: cosine and sine of an angle for each period, whose
      /// full turn is `2 * pi` (GR takes 3.14).
      case timestampLayer(epsilon: Double, periods: [Period], pi: Double)
    }

    /// A part of the calendar, such as the hours of a day.
    public struct Period: Hashable, Sendable {
      /// Seconds of one unit.
      public var unit: Int
      /// Units until they begin again.
      public var count: Int

      /// Periods of `count` units.
      public init(unit: Int, count: Int) {
        self.unit = unit
        self.count = count
      }
    }

    /// Scores of all items: the product of the output with rows of the item table.
    public struct Scores: Hashable, Sendable {
      /// The first row of the item table that is an item: 1 where row 0 is padding.
      public var firstRow: Int
      /// The norm of each item's row.
      public var norm: Norm
      /// Of an input of events, the feature whose table's rows are the items; nil where there is one item table.
      public var feature: String?

      /// Scores of the items from row `firstRow` of the item table on.
      public init(firstRow: Int, norm: Norm, feature: String? = nil) {
        self.firstRow = firstRow
        self.norm = norm
        self.feature = feature
      }
    }

    /// The items of greatest score for each row of the output.
    public struct TopK: Hashable, Sendable {
      /// How many.
      public var count: Int
      /// What is scored, and how; an item's id is its row of the item table.
      public var scores: Scores
      /// Whether items of the row's own sequence are left out.
      public var leavesOutSeen: Bool

      /// The best `count` items by these scores.
      public init(count: Int, scores: Scores, leavesOutSeen: Bool) {
        self.count = count
        self.scores = scores
        self.leavesOutSeen = leavesOutSeen
      }
    }

    /// Which rows are given back.
    public var rows: Rows
    /// Their norm.
    public var norm: Norm
    /// The name of the result; nil for `out`, `last` or `targets`, as `rows`.
    public var name: String?
    /// Scores that are given back too, under the name `scores`; nil where there are none.
    public var scores: Scores?
    /// Scores of candidates that are given back in place of their rows, under the name `scores`; nil where there are none.
    public var ranking: Ranking?
    /// The best items, under the names `top_scores` and `top_ids`; nil where they are not wanted.
    public var topK: TopK?

    /// An output as given.
    public init(
      rows: Rows, norm: Norm = .none, name: String? = nil, scores: Scores? = nil, ranking: Ranking? = nil,
      topK: TopK? = nil
    ) {
      self.rows = rows
      self.norm = norm
      self.name = name
      self.scores = scores
      self.ranking = ranking
      self.topK = topK
    }

    /// The name of the result.
    public var resultName: String {
      ranking == nil ? name ?? (rows == .all ? "out" : rows.rawValue) : "scores"
    }

    /// Whether its norm reads when rows happened.
    var readsTimestamps: Bool { if case .timestampLayer = norm { true } else { false } }
  }

  /// A value between input and output that can be returned. Its description is its name in model.json and its result's.
  public enum Stage: Hashable, Sendable, CustomStringConvertible {
    /// A value inside a layer.
    public enum Part: String, Hashable, Sendable, CaseIterable {
      /// The slices of the first product, after their activations.
      case u, v, q, k
      /// Attention before its norm.
      case attn
      /// The layer's rows, before skipped rows are put back.
      case out
    }

    /// What events are made of: content, what is added to it, the bits of actions, and what a perceptron makes of them.
    case content, additional, actionEmbedding, action
    /// Rows before scale, position and time, contextual ones included, with what cuts them and when they happened.
    case preprocessed, preprocessedOffsets, preprocessedTimestamps
    /// Rows of the position table and of the time table.
    case positionIndex, timeBucket
    /// The rows of the first layer.
    case inputEmbedding
    case layer(Int, Part)
    /// The rows of the last layer, after the output's norm.
    case encoded
    /// Of candidates: the user's rows after the output's norm, their own rows, and scores before they become probabilities.
    case userEmbeddings, itemEmbeddings, taskLogits

    /// The name in model.json and of the result: `input_embedding`, `layers.3.attn`, `encoded`.
    public var description: String {
      switch self {
      case .content: "content"
      case .additional: "additional"
      case .actionEmbedding: "action_embedding"
      case .action: "action"
      case .preprocessed: "preprocessed"
      case .preprocessedOffsets: "preprocessed_offsets"
      case .preprocessedTimestamps: "preprocessed_timestamps"
      case .positionIndex: "position_index"
      case .timeBucket: "time_bucket"
      case .inputEmbedding: "input_embedding"
      case .layer(let index, let part): "layers.\(index).\(part.rawValue)"
      case .encoded: "encoded"
      case .userEmbeddings: "user_embeddings"
      case .itemEmbeddings: "item_embeddings"
      case .taskLogits: "task_logits"
      }
    }
  }

  /// Every stage of the model, in the order of the computation.
  public var knownStages: [Stage] {
    var stages: [Stage] = []
    if case .events(let events) = input {
      stages.append(.content)
      if events.additional != nil { stages.append(.additional) }
      if events.action != nil { stages += [.actionEmbedding, .action] }
      stages.append(.preprocessed)
      // Of events as they are given, a call brings these itself.
      if events.changesRows {
        stages.append(.preprocessedOffsets)
        if readsTimestamps { stages.append(.preprocessedTimestamps) }
      }
      if events.position != nil { stages.append(.positionIndex) }
      if events.time != nil { stages.append(.timeBucket) }
    }
    stages.append(.inputEmbedding)
    stages += layers.indices.flatMap { index in Stage.Part.allCases.map { .layer(index, $0) } }
    stages.append(.encoded)
    if output.ranking != nil { stages += [.userEmbeddings, .itemEmbeddings, .taskLogits] }
    return stages
  }

  /// Whether a call brings when each row happened.
  var readsTimestamps: Bool {
    if case .events(let events) = input, events.time != nil { return true }
    return output.readsTimestamps || hasTimeBias
  }

  /// Whether some layer's scores depend on time.
  var hasTimeBias: Bool { layers.contains { $0.relativeBias?.timeBuckets != nil } }
}

extension ModelDescription.Events {
  /// Whether the first layer has other rows than there are events.
  var changesRows: Bool { slotCount > 0 || (isInterleaved && action != nil) }
}
