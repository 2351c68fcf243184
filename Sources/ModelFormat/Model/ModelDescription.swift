import TensorIR

/// What a model computes and where its weights are: model.json as a value. Field by field in docs/model-json.md.
public struct ModelDescription: Hashable, Sendable {
  /// The name of the model.
  public var name: String
  /// D of SEMANTICS.md: the width of a row.
  public var width: Int
  public var names: WeightNames
  public var input: Input
  /// Rows at the start of every sequence that describe its owner.
  public var contextual: Int
  /// Whether the last rows of a sequence are candidates, counted by the argument `num_targets`.
  public var hasTargets: Bool
  public var layers: [Layer]
  /// In the order in which they take effect.
  public var truncations: [Truncation]
  public var output: Output
  /// Intermediate values that are returned too; see `Stage`.
  public var stages: [Stage]

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

  /// Where the rows of the first layer come from.
  public enum Input: Hashable, Sendable {
    /// The caller gives them: argument `x`.
    case rows
    /// They are made from ids: argument `item_ids`, and `actions` where there is an action table.
    case embedding(Embedding)
  }

  /// `scale * (item[id] + action[id]) + position[p]`, zeroed where the item's id is `paddingID`.
  public struct Embedding: Hashable, Sendable {
    public var item: Table
    public var action: Table?
    public var scale: Double
    public var position: PositionTable?
    public var paddingID: Int?

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
    public var rows: Int
    public var outOfRange: Gather.OutOfRange

    public init(rows: Int, outOfRange: Gather.OutOfRange = .error) {
      self.rows = rows
      self.outOfRange = outOfRange
    }
  }

  public struct PositionTable: Hashable, Sendable {
    public var rows: Int
    public var order: Positions.Order
    /// The largest row of the table that is used.
    public var limit: Int

    public init(rows: Int, order: Positions.Order, limit: Int? = nil) {
      self.rows = rows
      self.order = order
      self.limit = limit ?? rows - 1
    }
  }

  /// An element-wise function.
  public enum Activation: String, Hashable, Sendable, CaseIterable { case none, silu, sigmoid }

  public struct Norm: Hashable, Sendable {
    public enum Kind: String, Hashable, Sendable, CaseIterable {
      case none
      case layerNorm = "layer_norm"
      /// Each head apart, one weight and one bias a head. Of the output norm only.
      case groupNorm = "group_norm"
    }

    public var kind: Kind
    /// Whether it has a trained weight and bias.
    public var affine: Bool
    public var epsilon: Double

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

    public init(maxLength: Int, timeBuckets: Int? = nil) {
      self.maxLength = maxLength
      self.timeBuckets = timeBuckets
    }
  }

  public struct Layer: Hashable, Sendable {
    public var heads: Int
    /// Width of a query and of a key, each head.
    public var attentionDim: Int
    /// Width of u and of a value, each head.
    public var hiddenDim: Int
    public var alpha: Double
    public var divisor: Attention.Divisor
    public var activations: Activations
    public var inputNorm: Norm
    public var uvqkBias: Bool
    /// The order of the slices in the first product's columns; each of the four once.
    public var uvqkOrder: [Slice]
    /// nil takes the layout of the names' preset.
    public var uvqkLayout: Linear.Orientation?
    public var mask: Mask
    /// Whether attention sets targets apart where the model has any.
    public var targetAware: Bool
    public var relativeBias: RelativeBias?
    public var outputNorm: Norm
    public var gate: Activation
    public var concatenate: [Part]
    public var outputBias: Bool
    /// nil takes the layout of the names' preset.
    public var outputLayout: Linear.Orientation?
    public var residual: Bool

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
    public var u: Activation
    public var v: Activation
    public var q: Activation
    public var k: Activation
    public var scores: Attention.Activation

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
    public enum Form: Hashable, Sendable {
      /// The older rows are gone.
      case drop
      /// The older rows pass by the layers up to `until` (not included) and are put back in their places.
      case skip(until: Int)
    }

    public var form: Form
    /// Layers that run before it takes effect.
    public var after: Int
    /// History rows kept of each sequence; contextual rows and targets are kept too.
    public var keep: Int
    /// Contextual rows kept; nil for the model's.
    public var contextual: Int?

    public init(_ form: Form, after: Int, keep: Int, contextual: Int? = nil) {
      self.form = form
      self.after = after
      self.keep = keep
      self.contextual = contextual
    }
  }

  public struct Output: Hashable, Sendable {
    public enum Rows: String, Hashable, Sendable, CaseIterable { case all, last, targets }

    public enum Norm: Hashable, Sendable {
      case none
      case l2(epsilon: Double)
    }

    /// Scores of all items: the product of the output with rows of the item table.
    public struct Scores: Hashable, Sendable {
      /// The first row of the item table that is an item: 1 where row 0 is padding.
      public var firstRow: Int
      /// The norm of each item's row.
      public var norm: Norm

      public init(firstRow: Int, norm: Norm) {
        self.firstRow = firstRow
        self.norm = norm
      }
    }

    public var rows: Rows
    public var norm: Norm
    /// The name of the result; nil for `out`, `last` or `targets`, as `rows`.
    public var name: String?
    public var scores: Scores?

    public init(rows: Rows, norm: Norm = .none, name: String? = nil, scores: Scores? = nil) {
      self.rows = rows
      self.norm = norm
      self.name = name
      self.scores = scores
    }

    /// The name of the result.
    public var resultName: String {
      name ?? (rows == .all ? "out" : rows.rawValue)
    }
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

    /// The rows of the first layer.
    case inputEmbedding
    case layer(Int, Part)
    /// The rows of the last layer, after the output's norm.
    case encoded

    public var description: String {
      switch self {
      case .inputEmbedding: "input_embedding"
      case .layer(let index, let part): "layers.\(index).\(part.rawValue)"
      case .encoded: "encoded"
      }
    }

    /// Every stage of a model with so many layers, in the order of the computation.
    public static func all(layerCount: Int) -> [Stage] {
      [.inputEmbedding] + (0..<layerCount).flatMap { index in Part.allCases.map { .layer(index, $0) } } + [.encoded]
    }
  }
}
