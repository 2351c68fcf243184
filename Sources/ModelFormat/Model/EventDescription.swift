import TensorIR

extension ModelDescription {
  /// Rows that are made from events, history first and then candidates: the input of a whole ranking model (GR's DlrmHSTU, SEMANTICS
  /// section 6).
  ///
  /// Each event becomes the sum of its content, of what is known of it besides, and of what the user did; or content and action are
  /// rows in turn. Rows that describe the user precede them.
  public struct Events: Hashable, Sendable {
    /// Embedding tables; no name twice.
    public var tables: [FeatureTable]
    /// What a call brings an id of for each event; no name twice.
    public var features: [Feature]
    /// What an event is of.
    public var content: Encoder
    /// What is added to the content; nil for nothing.
    public var additional: Encoder?
    /// What the user did; nil where actions play no part.
    public var action: ActionEncoder?
    /// Whether action rows stand behind content rows, rather than being added to them; candidates have content alone.
    public var isInterleaved: Bool
    /// Rows before each sequence.
    public var contextual: [ContextualFeature]
    /// The factor on rows, contextual ones included, before positions and times are added.
    public var scale: Double
    /// A row for each position, added after the factor; nil where positions play no part.
    public var position: PositionTable?
    /// A row for how long ago something happened, added after the factor; nil where time plays no part.
    public var time: TimeTable?

    /// Events with this content and nothing else.
    public init(tables: [FeatureTable], features: [Feature], content: Encoder) {
      self.tables = tables
      self.features = features
      self.content = content
      isInterleaved = false
      contextual = []
      scale = 1
    }

    /// The rows before each sequence: the slots of all contextual features.
    public var slotCount: Int { contextual.reduce(0) { $0 + $1.slots } }

    /// The table of this name.
    public func table(_ name: String) -> FeatureTable? { tables.first { $0.name == name } }

    /// The feature of this name.
    public func feature(_ name: String) -> Feature? { features.first { $0.name == name } }
  }

  /// An embedding table, which several features may share.
  public struct FeatureTable: Hashable, Sendable {
    /// What features call it, and presets name its weight after.
    public var name: String
    /// How many ids there are.
    public var rows: Int
    /// Elements of a row.
    public var width: Int
    /// What is done with an id that is no row of the table.
    public var outOfRange: Gather.OutOfRange

    /// A table of this many rows.
    public init(name: String, rows: Int, width: Int, outOfRange: Gather.OutOfRange = .error) {
      self.name = name
      self.rows = rows
      self.width = width
      self.outOfRange = outOfRange
    }
  }

  /// An id of each event.
  public struct Feature: Hashable, Sendable {
    /// The argument that brings it.
    public var name: String
    /// The table that it is looked up in.
    public var table: String

    /// A feature as given.
    public init(name: String, table: String) {
      self.name = name
      self.table = table
    }
  }

  /// `Linear -> x * sigmoid(LayerNorm(x)) -> Linear`, and where a norm is asked for `-> LayerNorm`; both norms affine, both
  /// products with a bias and stored [out, in].
  public struct Perceptron: Hashable, Sendable {
    /// The width between the two products.
    public var hidden: Int
    /// Of all its norms; GR uses 1e-5.
    public var epsilon: Double

    /// A perceptron of this width.
    public init(hidden: Int, epsilon: Double) {
      self.hidden = hidden
      self.epsilon = epsilon
    }
  }

  /// The rows of some features side by side, through a perceptron.
  public struct Encoder: Hashable, Sendable {
    /// Names of features; one at least.
    public var features: [String]
    /// What makes a row of the wanted width of them.
    public var perceptron: Perceptron

    /// An encoder of these features.
    public init(features: [String], _ perceptron: Perceptron) {
      self.features = features
      self.perceptron = perceptron
    }
  }

  /// What the user did, as bits: a row of a table for each bit, side by side, through a perceptron.
  public struct ActionEncoder: Hashable, Sendable {
    /// What stands for the actions of candidates, which nobody knows.
    public enum Targets: String, Hashable, Sendable, CaseIterable {
      /// A trained row.
      case learned
      case zero
    }

    /// The bits of an action that each row of the table is for.
    public var masks: [Int]
    /// Elements of a row.
    public var width: Int
    /// What candidates have.
    public var targets: Targets
    /// Bits that are set where something was watched for long enough; nil where it does not count. Each has a row of the table
    /// too, after those of `masks`.
    public var watchTime: MarkBits?
    /// What makes a row of the model's width of them.
    public var perceptron: Perceptron

    /// An encoder of these bits.
    public init(
      masks: [Int], width: Int, targets: Targets, watchTime: MarkBits? = nil, _ perceptron: Perceptron
    ) {
      self.masks = masks
      self.width = width
      self.targets = targets
      self.watchTime = watchTime
      self.perceptron = perceptron
    }

    /// The bits that each row of the table is for.
    public var allMasks: [Int] { masks + (watchTime?.bits ?? []) }
  }

  /// Ids that describe the user, each with a row of its own before the sequence, and a matrix and bias of its own.
  public struct ContextualFeature: Hashable, Sendable {
    /// The argument that brings the ids; `<name>_offsets` brings which of them are whose.
    public var name: String
    /// The table that they are looked up in; of one width for all contextual features.
    public var table: String
    /// Rows for it; a sequence that has fewer ids has zeros before the matrix, so that the bias is left.
    public var slots: Int
    /// Events that a sequence must have, history and candidates together, for its ids to count.
    public var minimumEvents: Int

    /// A feature as given.
    public init(name: String, table: String, slots: Int, minimumEvents: Int = 0) {
      self.name = name
      self.table = table
      self.slots = slots
      self.minimumEvents = minimumEvents
    }
  }

  /// A row for each bucket of the time between a row and the last one of its sequence.
  public struct TimeTable: Hashable, Sendable {
    /// How many rows the table has.
    public var rows: Int
    /// How buckets follow from seconds.
    public var buckets: BucketTimes

    /// A table of this many rows; the last bucket must be one of them.
    public init(rows: Int, buckets: BucketTimes) {
      self.rows = rows
      self.buckets = buckets
    }
  }

  /// The scores of candidates: of each task one, from the product of the user's row and the item's.
  public struct Ranking: Hashable, Sendable {
    /// What a task's score is.
    public enum Task: String, Hashable, Sendable, CaseIterable {
      /// A probability: the sigmoid of the last product.
      case binary
      /// The last product itself.
      case regression
    }

    /// The candidates' own rows.
    public var items: Encoder
    /// What makes a number a task of the product of both rows; without a norm at its end.
    public var perceptron: Perceptron
    /// The name and the kind of each task, in the order of scores.
    public var tasks: [(name: String, kind: Task)] {
      get { zip(taskNames, taskKinds).map { ($0, $1) } }
      set {
        taskNames = newValue.map(\.name)
        taskKinds = newValue.map(\.kind)
      }
    }

    private var taskNames: [String]
    private var taskKinds: [Task]

    /// A head of these tasks.
    public init(items: Encoder, _ perceptron: Perceptron, tasks: [(name: String, kind: Task)]) {
      self.items = items
      self.perceptron = perceptron
      taskNames = tasks.map(\.name)
      taskKinds = tasks.map(\.kind)
    }
  }
}
