import TensorIR

/// A valid module with weights and inputs, made from a seed: the same seed gives the same program, everywhere.
///
/// Its function is `forward`. Widths are odd more often than not, batches are jagged: empty sequences, sequences of one row
/// or of targets alone, and now and then no sequence at all. Symbolic dimensions are `rows`, `sequences` and, after a
/// truncation, `kept`, whose offsets are then the result `kept_offsets`.
public struct RandomProgram: Sendable, CustomStringConvertible {
  /// What a program is made of.
  public enum Kind: String, Sendable, CaseIterable {
    /// One operation.
    case operation
    /// One to three production layers.
    case production
    /// Production layers with truncation that drops rows, and that puts them back.
    case truncationDrop, truncationSkip
    /// Research layers, with or without position and time bias.
    case research
    /// From ids: embedding, positions, zeroed padding, a layer, last rows, L2 norm.
    case embedding
    /// Layers of any kind, of whose rows the output needs a few: the last one, the targets, the latest.
    case recommendation
    /// One operation on narrow numbers or codes, or a lookup in a table of few bits.
    case precision
    /// Attention of bf16 numbers.
    case narrowAttention
    /// Contextual rows before each sequence, and perhaps an action row behind each history row, then layers.
    case contextual
    /// Stacks over sequences of their own that share contextual rows and targets, whose rows one product reads side by side.
    case mixture
    /// The best items for each query, with and without those that it has seen.
    case ranking

    /// The greatest difference from the fp64 result `expected` that fp32 may show.
    ///
    /// It is a share of the result's largest number, since error grows with magnitude (some stacks reach 200). Over seeds
    /// 1...200 the fp32 interpreter shows up to 4e-7 of it for one operation, 1e-5 for stacks: their norms divide small
    /// attention outputs by small deviations (with epsilon 1 in place of 1e-6 the same stacks show 1.3e-6).
    public func tolerance(of expected: HostTensor) -> Double {
      let largest = expected.doubles.reduce(1) { max($0, abs($1)) }
      switch self {
      case .operation, .precision: return 1e-6 * largest
      // A score between two bf16 numbers may be rounded to either.
      case .narrowAttention: return 0x1p-8 * largest
      // Its numbers are exact, and an id is right or wrong.
      case .ranking: return 0
      default: return 2e-5 * largest
      }
    }
  }

  /// What a test needs of its programs.
  public struct Options: Sendable {
    /// Only fixed divisors, so that a sequence's result does not depend on the others.
    public var fixedDivisor = false
    /// Rows of the longest sequence, now and then reached.
    public var longest = 70
    /// Of a ranking, how many items there are, of which 20 at most are wanted; nil for any numbers.
    public var items: Int?
    /// Of a ranking, how many are wanted, where there are as many; nil for any number.
    public var best: Int?

    /// By default any divisor, and sequences of up to 70 rows.
    public init(fixedDivisor: Bool = false, longest: Int = 70, items: Int? = nil, best: Int? = nil) {
      self.fixedDivisor = fixedDivisor
      self.longest = longest
      self.items = items
      self.best = best
    }
  }

  /// What it is made of.
  public let kind: Kind
  /// What it was made from, with its kind and options.
  public let seed: UInt64
  /// The module, whose function is `forward`.
  public let module: Module
  /// A tensor for every weight of the module.
  public let weights: WeightTable
  /// The arguments of `forward`, by name.
  public var inputs: [String: HostTensor]

  /// The kind and seed, which make it again.
  public var description: String { "\(kind.rawValue) program of seed \(seed)" }

  /// Makes the program of a seed. Throws where the maker is at fault: every seed gives a valid
  /// program.
  public init(_ kind: Kind, seed: UInt64, options: Options = Options()) throws {
    var maker = ProgramMaker(kind, seed: seed, options: options)
    try maker.make(kind)
    self.kind = kind
    self.seed = seed
    inputs = maker.inputs
    module = maker.build.finish()
    weights = maker.weights(of: module)
  }
}

/// Makes one program: a function and, beside it, its inputs.
struct ProgramMaker {
  var random: Random
  let options: RandomProgram.Options
  let batch: RandomBatch
  var build: FunctionBuilder
  var inputs: [String: HostTensor] = [:]
  private var weightRandom: Random

  static let rows = Dimension.symbol("rows")
  static let sequences = Dimension.symbol("sequences")
  static let widths = [1, 3, 5, 8, 16, 25, 33, 48, 50, 64]
  static let headWidths = [1, 3, 7, 8, 16, 25, 32]

  init(_ kind: RandomProgram.Kind, seed: UInt64, options: RandomProgram.Options) {
    // Kinds differ in their programs for one seed, too.
    let number = UInt64(RandomProgram.Kind.allCases.firstIndex(of: kind) ?? 0)
    random = Random(seed: seed &* 64 &+ number)
    self.options = options
    batch = RandomBatch(&random, longest: options.longest)
    weightRandom = Random(seed: random.next())
    build = FunctionBuilder(module: Module(name: "\(kind.rawValue)_\(seed)"), name: "forward")
  }

  mutating func make(_ kind: RandomProgram.Kind) throws {
    switch kind {
    case .operation: try makeOperation()
    case .production: try makeProduction()
    case .truncationDrop: try makeTruncation(restores: false)
    case .truncationSkip: try makeTruncation(restores: true)
    case .research: try makeResearch()
    case .embedding: try makeEmbedding()
    case .contextual: try makeContextual()
    case .mixture: try makeMixture()
    case .precision: try makePrecision()
    case .narrowAttention: try makeAttention(of: .bf16)
    case .ranking: try makeRanking()
    case .recommendation: try makeRecommendation()
    }
  }

  /// Values for every weight, sized so that a stack neither vanishes nor explodes.
  mutating func weights(of module: Module) -> WeightTable {
    var table = WeightTable()
    for weight in module.weights where weight.formula == nil {
      let shape = weight.type.shape.compactMap(\.extent)
      if let form = GridForm(rawValue: weight.name) {
        table.tensors[weight.name] = weightRandom.items(form, shape)
      } else if weight.name.hasSuffix("norm_weight") {
        table.tensors[weight.name] = weightRandom.tensor(shape, center: 1, spread: 0.5)
      } else if shape.count == 2, !weight.name.hasSuffix("table") {
        let spread = 1.5 / Float(shape.min() ?? 1).squareRoot()
        table.tensors[weight.name] = weightRandom.tensor(shape, spread: spread)
      } else {
        table.tensors[weight.name] = weightRandom.tensor(shape)
      }
    }
    return table
  }

  // MARK: - Arguments

  mutating func argumentX(_ width: Int, name: String = "x") -> ValueID {
    inputs[name] = random.tensor([batch.rows, width], spread: 2)
    return build.argument(name, .tensor([Self.rows, .fixed(width)], .f32))
  }

  /// Rows and offsets of another batch of the same sequences, which ends with the same numbers of targets.
  mutating func argumentBatch(_ name: String, width: Int) -> (x: ValueID, offsets: ValueID) {
    var offsets: [Int64] = [0]
    for targets in batch.targets {
      offsets.append((offsets.last ?? 0) + Int64(targets + random.integer(in: 0...random.pick([0, 4, 30]))))
    }
    let rows = Dimension.symbol("\(name)_rows")
    inputs["\(name)_x"] = random.tensor([Int(offsets.last ?? 0), width], spread: 2)
    inputs["\(name)_offsets"] = HostTensor(offsets)
    return (
      build.argument("\(name)_x", .tensor([rows, .fixed(width)], .f32)),
      build.argument("\(name)_offsets", .offsets(sequences: Self.sequences, rows: rows))
    )
  }

  mutating func argumentOffsets() -> ValueID {
    inputs["offsets"] = HostTensor(batch.offsets.map(Int64.init))
    return build.argument("offsets", .offsets(sequences: Self.sequences, rows: Self.rows))
  }

  /// Target counts, or nil: then every row is history.
  mutating func argumentTargets() -> ValueID? {
    if random.once(in: 4) { return nil }
    inputs["targets"] = HostTensor(batch.targets.map(Int64.init))
    return build.argument("targets", .tensor([Self.sequences], .i64))
  }

  /// Ids in range; `outside` makes some that are not.
  mutating func argumentIds(entries: Int, outside: Bool = false) -> ValueID {
    let ids = (0..<batch.rows).map { _ in
      outside && random.once(in: 5)
        ? random.pick([Int64.min, -1, Int64(entries), Int64.max]) : Int64(random.integer(in: 0...entries - 1))
    }
    inputs["ids"] = HostTensor(ids)
    return build.argument("ids", .tensor([Self.rows], .i64))
  }

  /// A number matrix with a row for each sequence.
  mutating func argumentOfSequences(_ name: String, width: Int) -> ValueID {
    inputs[name] = random.tensor([batch.lengths.count, width], spread: 2)
    return build.argument(name, .tensor([Self.sequences, .fixed(width)], .f32))
  }

  /// Ids of a feature, none to three a sequence, with offsets of their own.
  mutating func argumentFeature(_ name: String, entries: Int) -> (ids: ValueID, offsets: ValueID) {
    var offsets: [Int64] = [0]
    for _ in batch.lengths { offsets.append((offsets.last ?? 0) + Int64(random.integer(in: 0...3))) }
    let rows = Dimension.symbol("\(name)_rows")
    let ids = (0..<(offsets.last ?? 0)).map { _ in Int64(random.integer(in: 0...entries - 1)) }
    inputs["\(name)_ids"] = HostTensor(ids)
    inputs["\(name)_offsets"] = HostTensor(offsets)
    return (
      build.argument("\(name)_ids", .tensor([rows], .i64)),
      build.argument("\(name)_offsets", .offsets(sequences: Self.sequences, rows: rows))
    )
  }

  /// Any numbers, small ones and the extremes of 64 bits more often than not.
  mutating func argumentNumbers(_ name: String) -> ValueID {
    let numbers = (0..<batch.rows).map { _ in
      switch random.integer(in: 0...3) {
      case 0: random.pick([Int64.min, .min + 1, -1, .max - 1, .max])
      case 1: Int64(bitPattern: random.next() >> UInt64(random.integer(in: 0...63)))
      default: Int64(random.integer(in: 0...63))
      }
    }
    inputs[name] = HostTensor(numbers)
    return build.argument(name, .tensor([Self.rows], .i64))
  }

  /// Times of rows and of requests: a few seconds to years apart, mostly ascending, now and then not.
  mutating func argumentTimes() -> (times: ValueID, requests: ValueID) {
    var times: [Int64] = []
    var requests: [Int64] = []
    for length in batch.lengths {
      var now: Int64 = 1_600_000_000
      for _ in 0...length {
        times.append(now)
        let step = Int64(random.pick([0, 1, 2, 30, 4000, 90_000, 40_000_000]))
        now += random.once(in: 8) ? -step : step * Int64(random.integer(in: 0...3))
      }
      requests.append(times.removeLast())
    }
    inputs["times"] = HostTensor(times)
    inputs["request_times"] = HostTensor(requests)
    return (
      build.argument("times", .tensor([Self.rows], .i64)),
      build.argument("request_times", .tensor([Self.sequences], .i64))
    )
  }

  // MARK: - Attributes

  mutating func mask() -> Mask {
    let contextual = random.once(in: 2) ? 0 : random.integer(in: 1...4)
    let form: Mask.Form =
      switch random.integer(in: 0...2) {
      case 0: .causal
      case 1: .windowed(window: random.integer(in: 1...12), fullTail: random.pick([0, 0, 1, 5, 100]))
      default:
        .keyPrefix(
          local: random.pick([0, 1, 3, 8, 40]), global: random.pick([0, 1, 4, 9]),
          targets: random.pick(Mask.PrefixTargets.allCases))
      }
    return Mask(form, contextual: contextual)
  }

  mutating func divisor() -> Attention.Divisor {
    if options.fixedDivisor || random.once(in: 2) { return .fixed(random.pick([1, 7, 16, 50.5, 64])) }
    return random.pick([.longestSequence, .longestHistoryPlusTargets])
  }

  mutating func productionLayer(width: Int) -> ProductionLayer {
    let queryWidth = random.pick(Self.headWidths)
    var layer = ProductionLayer(
      width: width, heads: random.integer(in: 1...4), queryWidth: queryWidth, valueWidth: random.pick(Self.headWidths),
      alpha: random.pick([1, 1 / Double(queryWidth), 1 / Double(queryWidth).squareRoot()]), divisor: divisor(),
      mask: mask())
    layer.activation = random.once(in: 6) ? .identity : .silu
    layer.outputNorm = random.pick(ProductionLayer.OutputNorm.allCases)
    layer.gate = random.pick(ProductionLayer.Gate.allCases)
    layer.concatenatesU = !random.once(in: 3)
    layer.concatenatesAttention = !random.once(in: 3)
    layer.activatesAll = random.once(in: 3)
    layer.epsilon = random.pick([1e-6, 1e-5])
    return layer
  }

  mutating func researchLayer(width: Int) -> ResearchLayer {
    let longest = batch.lengths.max() ?? 0
    let n = longest + random.integer(in: longest == 0 ? 1...3 : 0...3)
    var layer = ResearchLayer(
      width: width, heads: random.integer(in: 1...3), queryWidth: random.pick(Self.headWidths),
      valueWidth: random.pick(Self.headWidths), divisor: options.fixedDivisor ? .fixed(Double(n)) : divisor(), n: n)
    layer.buckets = random.pick([1, 20, 129])
    layer.bias = random.pick([.none, .position, .positionAndTime, .positionAndTime])
    layer.concatenates = random.once(in: 2)
    return layer
  }
}
