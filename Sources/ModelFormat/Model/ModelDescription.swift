import TensorIR

/// What a model computes and where its weights are: model.json as a value. Field by field in docs/model-json.md.
public struct ModelDescription: Hashable, Sendable {
  /// The name of the model.
  public var name: String
  /// D of SEMANTICS.md: the width of a row.
  public var width: Int
  /// What the checkpoint calls the weights.
  public var names: WeightNames
  /// Where the rows of the first layer come from.
  public var input: Input
  /// Rows at the start of every sequence that describe its owner.
  public var contextual: Int
  /// Whether the last rows of a sequence are candidates, counted by the argument `num_targets`.
  public var hasTargets: Bool
  /// Several stacks in place of one. Then the input is the first transducer's, which says what candidates are, and layers and
  /// truncations are those of the transducers: there are none here. Nil for one stack.
  public var mixture: Mixture?
  /// In the order in which they run.
  public var layers: [Layer]
  /// In the order in which they take effect.
  public var truncations: [Truncation]
  /// What a call gives back.
  public var output: Output
  /// Intermediate values that are returned too; see `Stage`.
  public var stages: [Stage]

  /// A description as given; `build(from:)` says where it contradicts itself.
  public init(
    name: String, width: Int, names: WeightNames, input: Input, contextual: Int = 0, hasTargets: Bool = false,
    layers: [Layer], truncations: [Truncation] = [], output: Output, stages: [Stage] = []
  ) {
    self.name = name
    self.width = width
    self.names = names
    self.input = input
    self.contextual = contextual
    self.hasTargets = hasTargets
    self.layers = layers
    self.truncations = truncations
    self.output = output
    self.stages = stages
  }

  /// Transducers that share targets and contextual features, each over sequences of its own (SEMANTICS section 5): the rows that
  /// each gives back lie side by side, and one product makes the model's of them.
  public struct Mixture: Hashable, Sendable {
    /// Each a model of one stack, with its name, names of weights, input, contextual rows, layers and truncations; what else
    /// they say is the model's own.
    public var transducers: [ModelDescription]
    /// How the product's matrix is stored.
    public var layout: Linear.Orientation
    /// Whether the product has a bias, one number a column.
    public var bias: Bool

    /// A mixture as given.
    public init(transducers: [ModelDescription], layout: Linear.Orientation, bias: Bool) {
      self.transducers = transducers
      self.layout = layout
      self.bias = bias
    }
  }

  /// Where the rows of the first layer come from.
  public enum Input: Hashable, Sendable {
    /// The caller gives them: argument `x`.
    case rows
    /// They are made from ids: argument `item_ids`, and `actions` where there is an action table.
    case embedding(Embedding)
    /// They are made from events: several ids each, what the user did, and when.
    case events(Events)
  }

  /// `scale * (item[id] + action[id]) + position[p]`, zeroed where the item's id is `paddingID`.
  public struct Embedding: Hashable, Sendable {
    /// The item table; its rows are looked up by `item_ids`.
    public var item: Table
    /// The table whose rows are added to the items', looked up by `actions`; nil where actions play no part.
    public var action: Table?
    /// The factor on item plus action; GR's is the root of the width.
    public var scale: Double
    /// The table of positions, added after the factor; nil where positions play no part.
    public var position: PositionTable?
    /// The item id whose rows become 0, position included; nil where there is no such id.
    public var paddingID: Int?

    /// An embedding from these tables.
    public init(
      item: Table, action: Table? = nil, scale: Double = 1, position: PositionTable? = nil, paddingID: Int? = nil
    ) {
      self.item = item
      self.action = action
      self.scale = scale
      self.position = position
      self.paddingID = paddingID
    }
  }

  /// An embedding table of `rows` rows of the model's width.
  public struct Table: Hashable, Sendable {
    /// How many ids there are: they are 0 ..< `rows`.
    public var rows: Int
    /// What is done with an id that is no row of the table.
    public var outOfRange: Gather.OutOfRange

    /// A table of this many rows.
    public init(rows: Int, outOfRange: Gather.OutOfRange = .error) {
      self.rows = rows
      self.outOfRange = outOfRange
    }
  }

  /// A table with a row of the model's width for each position.
  public struct PositionTable: Hashable, Sendable {
    /// How many rows the table has.
    public var rows: Int
    /// From which end positions count.
    public var order: Positions.Order
    /// The largest row of the table that is used.
    public var limit: Int

    /// A table of this many rows; without `limit` its last row is the last that is used.
    public init(rows: Int, order: Positions.Order, limit: Int? = nil) {
      self.rows = rows
      self.order = order
      self.limit = limit ?? rows - 1
    }
  }

  /// An element-wise function.
  public enum Activation: String, Hashable, Sendable, CaseIterable { case none, silu, sigmoid }

  /// A norm of rows, with its trained parts.
  public struct Norm: Hashable, Sendable {
    /// Over which columns a norm takes its statistics.
    public enum Kind: String, Hashable, Sendable, CaseIterable {
      case none
      case layerNorm = "layer_norm"
      /// Each head apart, one weight and one bias a head. Of the output norm only.
      case groupNorm = "group_norm"
    }

    /// Over which columns statistics are taken; `none` leaves rows as they are.
    public var kind: Kind
    /// Whether it has a trained weight and bias.
    public var affine: Bool
    /// What is added to the variance: 1e-6 in GR, 1e-5 in NV. Positive, except in a norm of kind `none`, which reads
    /// none.
    public var epsilon: Double

    /// A norm as given.
    public init(_ kind: Kind, affine: Bool, epsilon: Double) {
      self.kind = kind
      self.affine = affine
      self.epsilon = epsilon
    }
  }

  /// The four slices of a layer's first product.
  public enum Slice: String, Hashable, Sendable, CaseIterable { case u, v, q, k }

  /// What a layer's last product reads, side by side.
  public enum Part: String, Hashable, Sendable, CaseIterable {
    case u
    /// Attention before its norm.
    case attention
    case normedAttention = "normed_attention"
    /// `gate(u) * normed attention`.
    case gated
  }

  /// The bias that attention adds to scores, as in the research variant.
  public struct RelativeBias: Hashable, Sendable {
    /// n: the longest sequence; there are 2n - 1 position weights.
    public var maxLength: Int
    /// The number of the last time bucket; there is one weight more. nil where time plays no part.
    public var timeBuckets: Int?

    /// A bias for sequences of up to `maxLength` rows.
    public init(maxLength: Int, timeBuckets: Int? = nil) {
      self.maxLength = maxLength
      self.timeBuckets = timeBuckets
    }
  }

  /// One HSTU layer (SEMANTICS sections 2 and 7), every variant spelled out.
  public struct Layer: Hashable, Sendable {
    /// H: how many heads attention has.
    public var heads: Int
    /// Width of a query and of a key, each head.
    public var attentionDim: Int
    /// Width of u and of a value, each head.
    public var hiddenDim: Int
    /// The score scale: 1/sqrt(attentionDim) in GR's STULayer, 1/attentionDim in its ULTRA configurations, 1 in the
    /// research variant.
    public var alpha: Double
    /// N: what activated scores are divided by.
    public var divisor: Attention.Divisor
    /// Which function each slice and each score passes through.
    public var activations: Activations
    /// The norm before the first product.
    public var inputNorm: Norm
    /// Whether the first product has a bias, one number a column.
    public var uvqkBias: Bool
    /// The order of the slices in the first product's columns; each of the four once.
    public var uvqkOrder: [Slice]
    /// nil takes the layout of the names' preset.
    public var uvqkLayout: Linear.Orientation?
    /// Which keys a row sees.
    public var mask: Mask
    /// Whether attention sets targets apart where the model has any.
    public var targetAware: Bool
    /// What is added to scores; nil for nothing.
    public var relativeBias: RelativeBias?
    /// The norm of attention's result.
    public var outputNorm: Norm
    /// What u passes through where it multiplies normed attention, after its own activation.
    public var gate: Activation
    /// What the last product reads, in this order; at least one part, none twice.
    public var concatenate: [Part]
    /// Whether the last product has a bias, one number a column.
    public var outputBias: Bool
    /// nil takes the layout of the names' preset.
    public var outputLayout: Linear.Orientation?
    /// Whether the layer's rows are added to its result.
    public var residual: Bool

    /// A layer as given.
    public init(
      heads: Int, attentionDim: Int, hiddenDim: Int, alpha: Double, divisor: Attention.Divisor,
      activations: Activations, inputNorm: Norm, uvqkBias: Bool, uvqkOrder: [Slice] = Slice.allCases,
      uvqkLayout: Linear.Orientation? = nil, mask: Mask, targetAware: Bool = true, relativeBias: RelativeBias? = nil,
      outputNorm: Norm, gate: Activation = .none, concatenate: [Part], outputBias: Bool,
      outputLayout: Linear.Orientation? = nil, residual: Bool = true
    ) {
      self.heads = heads
      self.attentionDim = attentionDim
      self.hiddenDim = hiddenDim
      self.alpha = alpha
      self.divisor = divisor
      self.activations = activations
      self.inputNorm = inputNorm
      self.uvqkBias = uvqkBias
      self.uvqkOrder = uvqkOrder
      self.uvqkLayout = uvqkLayout
      self.mask = mask
      self.targetAware = targetAware
      self.relativeBias = relativeBias
      self.outputNorm = outputNorm
      self.gate = gate
      self.concatenate = concatenate
      self.outputBias = outputBias
      self.outputLayout = outputLayout
      self.residual = residual
    }
  }

  /// Which function each slice passes through, and each score.
  public struct Activations: Hashable, Sendable {
    /// Of the slice that gates attention's result.
    public var u: Activation
    /// Of values.
    public var v: Activation
    /// Of queries.
    public var q: Activation
    /// Of keys.
    public var k: Activation
    /// Of scores, after their bias.
    public var scores: Attention.Activation

    /// One function for each slice; scores pass through SiLU unless told otherwise.
    public init(u: Activation, v: Activation, q: Activation, k: Activation, scores: Attention.Activation = .silu) {
      self.u = u
      self.v = v
      self.q = q
      self.k = k
      self.scores = scores
    }
  }

  /// Layers that run on the latest rows only (SEMANTICS section 4).
  public struct Truncation: Hashable, Sendable {
    /// What becomes of the rows that are left out.
    public enum Form: Hashable, Sendable {
      /// The older rows are gone.
      case drop
      /// The older rows pass by the layers up to `until` (not included) and are put back in their places.
      case skip(until: Int)
    }

    /// What becomes of the older rows.
    public var form: Form
    /// Layers that run before it takes effect.
    public var after: Int
    /// History rows kept of each sequence; contextual rows and targets are kept too.
    public var keep: Int
    /// Contextual rows kept; nil for the model's.
    public var contextual: Int?

    /// A truncation as given.
    public init(_ form: Form, after: Int, keep: Int, contextual: Int? = nil) {
      self.form = form
      self.after = after
      self.keep = keep
      self.contextual = contextual
    }
  }
}
