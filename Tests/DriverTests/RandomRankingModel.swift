import ModelFormat
import TensorIR
import TestSupport

/// A whole ranking model from a seed, with weights and a batch: odd widths more often than not, 0 to 3 contextual features, users
/// without history, requests without candidates.
struct RandomRankingModel {
  let description: ModelDescription
  let checkpoint: Checkpoint
  var inputs: [String: HostTensor]
  /// The events of each user, and how many are candidates.
  let lengths: [Int]
  let candidates: [Int]

  private static let widths = [1, 5, 8, 16, 25, 33, 48]

  init(seed: UInt64, interleaved: Bool? = nil, itemsFitRows: Bool = false) throws {
    var random = Random(seed: seed &* 1009)
    let width = random.pick([8, 16, 25, 33, 48])
    func perceptron(_ random: inout Random) -> ModelDescription.Perceptron {
      .init(hidden: random.pick([5, 16, 25, 40]), epsilon: random.pick([1e-5, 1e-3]))
    }

    // Tables that features share, the contextual ones of one width.
    let contextualWidth = random.pick(Self.widths)
    var tables = ["item", "category", "author"].map { name in
      ModelDescription.FeatureTable(
        name: name, rows: random.integer(in: 1...30), width: random.pick(Self.widths),
        outOfRange: random.pick([.error, .modulo, .fallback(row: 0)]))
    }
    if itemsFitRows { tables[0].width = width }
    tables.append(.init(name: "user", rows: 7, width: contextualWidth, outOfRange: .modulo))
    tables.append(.init(name: "tag", rows: 4, width: contextualWidth))
    let features = [
      ModelDescription.Feature(name: "item_ids", table: "item"), .init(name: "category_ids", table: "category"),
      .init(name: "author_ids", table: random.pick(["author", "category"])),
    ]
    func some(_ random: inout Random) -> [String] {
      let chosen = features.map(\.name).filter { _ in random.once(in: 2) }
      return chosen.isEmpty ? ["item_ids"] : chosen
    }
    var events = ModelDescription.Events(
      tables: tables, features: features, content: .init(features: some(&random), perceptron(&random)))
    if random.once(in: 2) { events.additional = .init(features: some(&random), perceptron(&random)) }
    if interleaved == true || !random.once(in: 4) {
      var action = ModelDescription.ActionEncoder(
        masks: [1, 2, 4, 8], width: random.pick([1, 3, 8]), targets: random.pick([.learned, .zero]),
        perceptron(&random))
      if random.once(in: 3) { action.watchTime = MarkBits(thresholds: [30, 60], bits: [16, 32]) }
      events.action = action
      events.isInterleaved = interleaved ?? random.once(in: 3)
    }
    for index in 0..<random.integer(in: 0...3) {
      events.contextual.append(
        .init(
          name: "about_\(index)", table: random.pick(["user", "tag"]), slots: random.integer(in: 1...3),
          minimumEvents: random.pick([0, 0, 5])))
    }
    events.scale = random.pick([1, Double(width).squareRoot()])
    let slots = events.slotCount
    if !random.once(in: 5) {
      events.position = .init(rows: slots + random.integer(in: 1...40), order: random.pick([.ascending, .descending]))
    }
    if !random.once(in: 5) {
      let rows = random.integer(in: 1...100)
      events.time = .init(
        rows: rows,
        buckets: .init(
          random.pick(BucketTimes.Scale.allCases), unit: random.pick([1, 60]),
          limit: random.integer(in: 0...rows - 1)))
    }

    let heads = random.integer(in: 1...3)
    let (queryWidth, valueWidth) = (random.pick([3, 8, 16]), random.pick([5, 8, 16]))
    let layer = ModelDescription.Layer(
      heads: heads, attentionDim: queryWidth, hiddenDim: valueWidth, alpha: 0.25, divisor: .fixed(32),
      activations: .init(u: .silu, v: .none, q: .none, k: .none),
      inputNorm: .init(.layerNorm, affine: true, epsilon: 1e-6), uvqkBias: true,
      mask: random.pick([.causal, Mask(.windowed(window: 4, fullTail: 2)), Mask(.causal, contextual: slots)]),
      outputNorm: .init(.layerNorm, affine: true, epsilon: 1e-6), concatenate: [.u, .attention, .gated],
      outputBias: false)
    let layers = Array(repeating: layer, count: random.integer(in: 1...3))
    let kinds = (0..<random.integer(in: 1...4)).map { _ in random.pick(ModelDescription.Ranking.Task.allCases) }
    let periods = [(3600, 24), (86_400, 7)].map { ModelDescription.Output.Period(unit: $0.0, count: $0.1) }
    let output = ModelDescription.Output(
      rows: .targets,
      norm: random.pick([
        .none, .l2(epsilon: 1e-6), .layer(epsilon: 1e-5), .timestampLayer(epsilon: 1e-5, periods: periods, pi: 3.14),
      ]),
      ranking: .init(
        items: .init(features: some(&random), perceptron(&random)), perceptron(&random),
        tasks: kinds.enumerated().map { ("task\($0)", $1) }))
    var description = ModelDescription(
      name: "ranking_\(seed)", width: width, names: WeightNames(preset: .production), input: .events(events),
      contextual: slots, hasTargets: true, layers: layers, output: output)
    if random.once(in: 3) {
      description.truncations = [.init(.drop, after: layers.count - 1, keep: random.integer(in: 0...6))]
    }
    self.description = description

    let shapes = Self.shapes(description, events, heads: heads, queryWidth, valueWidth)
    checkpoint = try Checkpoint([
      SafetensorsFile(
        bytes: Safetensors.encode(
          shapes.map { name, shape in
            let spread = shape.count > 1 ? 1.5 / Float(shape.min() ?? 1).squareRoot() : 0.5
            return (name, random.tensor(shape, center: name.contains("norm_weight") ? 1 : 0, spread: spread))
          }, name: "weights"), name: "weights.safetensors")
    ])

    // The batch.
    let users = random.pick([0, 1, 3, 5])
    var (lengths, candidates): ([Int], [Int]) = ([], [])
    for _ in 0..<users {
      let history = random.pick([0, 1, 4, 30])
      candidates.append(random.pick([0, 1, 3, 17]))
      lengths.append(history + candidates[candidates.count - 1])
    }
    (self.lengths, self.candidates) = (lengths, candidates)
    let rows = lengths.reduce(0, +)
    func numbers(_ count: Int, _ range: ClosedRange<Int>) -> HostTensor {
      HostTensor((0..<count).map { _ in Int64(random.integer(in: range)) })
    }
    func ids(_ count: Int, _ table: ModelDescription.FeatureTable?) -> HostTensor {
      guard let table else { return numbers(count, 0...0) }
      return table.outOfRange == .error ? numbers(count, 0...table.rows - 1) : numbers(count, -1000...1000)
    }
    func offsets(_ lengths: [Int]) -> HostTensor {
      HostTensor(lengths.reduce(into: [0]) { $0.append($0[$0.count - 1] + Int64($1)) })
    }
    inputs = ["offsets": offsets(lengths), "num_targets": HostTensor(candidates.map(Int64.init))]
    for feature in features { inputs[feature.name] = ids(rows, events.table(feature.table)) }
    if let action = events.action {
      inputs["actions"] = numbers(rows, 0...15)
      if action.watchTime != nil { inputs["watch_times"] = numbers(rows, 0...90) }
    }
    if events.time != nil || output.norm == .timestampLayer(epsilon: 1e-5, periods: periods, pi: 3.14) {
      inputs["timestamps"] = numbers(rows, 1_690_000_000...1_690_500_000)
    }
    for feature in events.contextual {
      let counts = lengths.map { _ in random.integer(in: 0...4) }
      inputs[feature.name] = ids(counts.reduce(0, +), events.table(feature.table))
      inputs["\(feature.name)_offsets"] = offsets(counts)
    }
  }

  /// The name and shape of every weight, as GR's modules have them.
  private static func shapes(
    _ description: ModelDescription, _ events: ModelDescription.Events, heads: Int, _ queryWidth: Int, _ valueWidth: Int
  ) -> [(name: String, shape: [Int])] {
    let width = description.width
    var shapes = events.tables.map { ("_embedding_collection.embeddings.\($0.name).weight", [$0.rows, $0.width]) }
    func add(_ name: String, _ shape: [Int]) { shapes.append((name, shape)) }
    func inner(_ encoder: ModelDescription.Encoder) -> Int {
      encoder.features.reduce(0) { $0 + (events.table(events.feature($1)?.table ?? "")?.width ?? 0) }
    }
    func perceptron(_ prefix: String, _ hidden: Int, from inner: Int, to outer: Int, isNormed: Bool = true) {
      add("\(prefix).0.weight", [hidden, inner])
      add("\(prefix).2.weight", [outer, hidden])
      for part in ["0.bias", "1.weight", "1.bias"] { add("\(prefix).\(part)", [hidden]) }
      for part in isNormed ? ["2.bias", "3.weight", "3.bias"] : ["2.bias"] { add("\(prefix).\(part)", [outer]) }
    }
    let preprocessor = "_hstu_transducer._input_preprocessor."
    perceptron(
      preprocessor + "_content_embedding_mlp", events.content.perceptron.hidden, from: inner(events.content), to: width)
    if let more = events.additional {
      perceptron(preprocessor + "_additional_embedding_mlp", more.perceptron.hidden, from: inner(more), to: width)
    }
    if let action = events.action {
      let (bits, each) = (action.allMasks.count, action.width)
      add(preprocessor + "_action_encoder._action_embedding_table", [bits, each])
      add(preprocessor + "_action_encoder._target_action_embedding_table", [1, bits * each])
      perceptron(preprocessor + "_action_embedding_mlp", action.perceptron.hidden, from: bits * each, to: width)
    }
    if let first = events.contextual.first {
      let table = events.table(first.table)?.width ?? 0
      add(preprocessor + "_batched_contextual_linear_weights", [events.slotCount, table, width])
      add(preprocessor + "_batched_contextual_linear_bias", [events.slotCount, width])
    }
    if let position = events.position {
      add("_hstu_transducer._positional_encoder._position_embeddings_weight", [position.rows, width])
    }
    if let time = events.time {
      add("_hstu_transducer._positional_encoder._timestamp_embeddings_weight", [time.rows, width])
    }
    for layer in description.layers.indices {
      let prefix = "_hstu_transducer._stu_module._stu_layers.\(layer)."
      let columns = 2 * heads * (queryWidth + valueWidth)
      add(prefix + "_uvqk_weight", [width, columns])
      add(prefix + "_uvqk_beta", [columns])
      for part in ["weight", "bias"] {
        add(prefix + "_input_norm_\(part)", [width])
        add(prefix + "_output_norm_\(part)", [heads * valueWidth])
      }
      add(prefix + "_output_weight", [3 * heads * valueWidth, width])
    }
    let postprocessor = "_hstu_transducer._output_postprocessor."
    for part in ["weight", "bias"] { add(postprocessor + "_layer_norm.\(part)", [width]) }
    add(postprocessor + "_time_feature_combiner.weight", [width, width + 4])
    add(postprocessor + "_time_feature_combiner.bias", [width])
    if let ranking = description.output.ranking {
      perceptron("_item_embedding_mlp", ranking.items.perceptron.hidden, from: inner(ranking.items), to: width)
      perceptron(
        "_multitask_module._prediction_module", ranking.perceptron.hidden, from: width, to: ranking.tasks.count,
        isNormed: false)
    }
    return shapes
  }
}
