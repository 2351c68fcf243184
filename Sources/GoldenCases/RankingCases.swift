import ModelFormat
import TensorIR

/// Whole ranking models: from ids, actions and times to a score a task.
extension GoldenCase {
  /// The case under the clamp of time buckets that serves, and under the other one where the case has both.
  func rankingPrograms() throws -> [GoldenProgram] {
    let clamps: [(isAlternative: Bool, text: String)] = [(false, "num_time_buckets"), (true, "embedding dim - 1")]
    return try clamps.filter { clamp in outputs.contains { $0.isAlternative == clamp.isAlternative } }
      .map { try rankingProgram(isAlternative: $0.isAlternative) }
  }

  private func rankingProgram(isAlternative: Bool) throws -> GoldenProgram {
    let object = try attributes.object([
      "batch", "uih_lengths", "num_candidates", "max_uih_len", "max_num_candidates", "contextual_seq_len", "divisor_N",
      "divisor_N_is", "embedding_table_dim", "transducer_embedding_dim", "preprocessor_hidden_dim", "tables",
      "contextual_feature_to_max_length", "contextual_feature_to_min_uih_length", "contextual_min_length_counts",
      "contextual_lengths", "additional_embedding_features", "mlp", "action_encoder", "combine", "positional_encoder",
      "layers", "postprocessor", "item_tower", "item_features", "multitask",
    ])
    let width = try object.required("transducer_embedding_dim").positiveInteger()
    let (events, features) = try self.events(object, width: width, isAlternative: isAlternative)
    let layers = try object.required("layers").elements().map { try LayerAttributes($0) }
    guard layers.allSatisfy({ $0.width == width }) else {
      throw Unsupported(reason: "the layers differ in embedding_dim")
    }
    var description = ModelDescription(
      name: name, width: width, names: try productionNames(layers.map(\.layer)), input: .events(events),
      contextual: events.slotCount, hasTargets: true, layers: layers.map(\.layer),
      output: .init(
        rows: .targets, norm: try postprocessor(object), ranking: try ranking(object, features)))
    let wanted = outputs.filter { $0.isAlternative == isAlternative }
    let stages = Dictionary(uniqueKeysWithValues: Self.rankingStages(layerCount: layers.count))
    let known = description.knownStages
    description.stages = known.filter { stage in wanted.contains { stages[$0.name] == stage } }
    let inputs = try rankingInputs(events, features, object)
    let hasOwnRows = known.contains(.preprocessedOffsets)
    return try program(description, inputs, wanted) { output in
      switch output {
      case "predictions": .transposedResult("scores")
      case "task_logits": .transposedResult("task_logits")
      case "preprocessor.lengths": hasOwnRows ? .lengths("preprocessed_offsets") : .inputLengths("offsets")
      case "preprocessor.offsets" where !hasOwnRows: .input("offsets")
      case "preprocessor.timestamps" where !hasOwnRows: .input("timestamps")
      default: stages[output].flatMap { known.contains($0) ? .result($0.description) : nil }
      }
    }
  }

  /// The stages that the case's outputs are.
  private static func rankingStages(layerCount: Int) -> [(String, ModelDescription.Stage)] {
    [
      ("preprocessor.content", .content), ("preprocessor.additional", .additional),
      ("preprocessor.action_embedding", .actionEmbedding), ("preprocessor.action", .action),
      ("preprocessor.out", .preprocessed), ("preprocessor.lengths", .preprocessedOffsets),
      ("preprocessor.offsets", .preprocessedOffsets), ("preprocessor.timestamps", .preprocessedTimestamps),
      ("position_index", .positionIndex), ("time_bucket", .timeBucket), ("positional.out", .inputEmbedding),
      ("candidate_user_embeddings", .userEmbeddings), ("item_embeddings", .itemEmbeddings),
      ("task_logits", .taskLogits),
    ] + (0..<layerCount).map { ("stack.\($0).out", .layer($0, .out)) }
  }

  // MARK: - The model

  /// A feature of events under its reference's two names.
  private struct EventFeature {
    var name: String
    var history: String?
    var candidates: String?
  }

  private func events(
    _ object: JSONObjectReader, width: Int, isAlternative: Bool
  ) throws -> (events: ModelDescription.Events, features: [EventFeature]) {
    try object.require(
      "mlp",
      "Linear -> x*sigmoid(layer_norm(x)) -> Linear -> layer_norm, both eps 1e-5, affine; nn.Linear weights are [out, in]"
    )
    try object.require("combine", "content + additional + action, one row an event (not interleaved)")
    try object.require("contextual_min_length_counts", "history + candidates")
    let perceptron = ModelDescription.Perceptron(
      hidden: try object.required("preprocessor_hidden_dim").positiveInteger(), epsilon: 1e-5)

    var tables: [ModelDescription.FeatureTable] = []
    var tableOf: [String: String] = [:]
    var features: [EventFeature] = []
    for (key, value) in try object.required("tables").anyObject().values {
      let table = try value.object(["table", "rows"])
      let name = try table.required("table").string()
      let shape = try table.required("rows").elements().map { (element) throws(ModelError) in
        try element.positiveInteger()
      }
      guard shape.count == 2 else { throw Unsupported(reason: "the rows of \(key) have shape \(shape)") }
      if !tables.contains(where: { $0.name == name }) {
        tables.append(ModelDescription.FeatureTable(name: name, rows: shape[0], width: shape[1]))
      }
      tableOf[key] = name
      for (prefix, part) in [("uih_", \EventFeature.history), ("cand_", \EventFeature.candidates)]
      where key.hasPrefix(prefix) {
        let plain = String(key.dropFirst(prefix.count))
        let index = features.firstIndex { $0.name == plain } ?? features.count
        if index == features.count { features.append(EventFeature(name: plain)) }
        features[index][keyPath: part] = key
      }
    }
    let additional = try names(object.required("additional_embedding_features"))
    let left = features.filter { feature in feature.history.map { !additional.contains($0) } ?? false }
    let content = left.count == 1 ? left : left.filter { $0.name == "item" || $0.name == "post_id" }
    guard content.count == 1 else {
      throw Unsupported(reason: "\(left.count) features of history may be the content")
    }
    func plain(_ names: [String]) throws -> [String] {
      try names.map { name in
        guard let feature = features.first(where: { $0.history == name || $0.candidates == name }) else {
          throw Unsupported(reason: "there is no table for \(name)")
        }
        return feature.name
      }
    }
    var events = ModelDescription.Events(
      tables: tables,
      features: features.map { feature in
        .init(name: feature.name, table: tableOf[feature.history ?? feature.candidates ?? ""] ?? "")
      },
      content: .init(features: content.map(\.name), perceptron))
    if !additional.isEmpty { events.additional = .init(features: try plain(additional), perceptron) }
    if let action = object.present("action_encoder") { events.action = try self.action(action, perceptron) }

    let minimums = try object.present("contextual_feature_to_min_uih_length")?.anyObject()
    for (key, slots) in try object.present("contextual_feature_to_max_length")?.anyObject().values ?? [] {
      events.contextual.append(
        .init(
          name: key, table: tableOf[key] ?? "", slots: try slots.positiveInteger(),
          minimumEvents: try minimums?.count(key) ?? 0))
    }
    let contextual = try object.required("contextual_seq_len")
    guard try contextual.nonNegativeInteger() == events.slotCount else {
      throw contextual.mismatch(expected: "\(events.slotCount), the slots of all contextual features")
    }
    try place(object.required("positional_encoder"), &events, width: width, isAlternative: isAlternative)
    return (events, features)
  }

  private func names(_ reader: JSONReader) throws(ModelError) -> [String] {
    try reader.elements().map { (element) throws(ModelError) in try element.string() }
  }

  private func action(
    _ reader: JSONReader, _ perceptron: ModelDescription.Perceptron
  ) throws -> ModelDescription.ActionEncoder {
    let object = try reader.object([
      "action_weights", "action_embedding_dim", "candidate_rows", "bit", "action_feature",
    ])
    try object.require("candidate_rows", "_target_action_embedding_table")
    try object.require("bit", "(action & weight) > 0")
    return .init(
      masks: try object.required("action_weights").elements().map { try $0.positiveInteger() },
      width: try object.required("action_embedding_dim").positiveInteger(), targets: .learned, perceptron)
  }

  private func place(
    _ reader: JSONReader, _ events: inout ModelDescription.Events, width: Int, isAlternative: Bool
  ) throws {
    let object = try reader.object([
      "num_position_buckets", "num_time_buckets", "input_scale", "time_bucket_fn", "time_bucket_increment_seconds",
      "time_bucket_arithmetic", "time_bucket_clamp", "contextual_timestamps", "query_time",
    ])
    try object.require("input_scale", "sqrt(transducer_embedding_dim)")
    try object.require("time_bucket_arithmetic", "float32, truncation")
    try object.require("query_time", "timestamp of the last row of the sequence (last candidate)")
    if let zero = object.present("contextual_timestamps"), try zero.nonNegativeInteger() != 0 {
      throw zero.mismatch(expected: "0")
    }
    let scales: [String: BucketTimes.Scale] = ["sqrt": .squareRoot, "log": .logarithm, "ln": .logarithm]
    let function = try object.required("time_bucket_fn")
    guard let scale = scales[try function.string()] else { throw function.mismatch(expected: "\"sqrt\" or \"log\"") }
    let last = try object.required("num_time_buckets").positiveInteger()
    let positions = try object.required("num_position_buckets").positiveInteger()
    events.scale = Double(width).squareRoot()
    events.position = .init(rows: positions, order: .descending)
    events.time = .init(
      rows: last + 1,
      buckets: BucketTimes(
        scale, unit: try object.required("time_bucket_increment_seconds").positiveNumber(),
        limit: isAlternative ? min(width - 1, last) : last))
  }

  private func postprocessor(_ object: JSONObjectReader) throws -> ModelDescription.Output.Norm {
    guard let reader = object.present("postprocessor") else { return .none }
    let norm = try reader.object(["kind", "eps", "time_duration_features", "angle", "order"])
    let kind = try norm.required("kind")
    let epsilon = try norm.required("eps").positiveNumber()
    switch try kind.string() {
    case "l2", "l2_norm": return .l2(epsilon: epsilon)
    case "layer_norm": return .layer(epsilon: epsilon)
    case "timestamp_layer_norm":
      try norm.require(
        "angle",
        "float32(timestamp), exact floor division by the period unit (floor of the real quotient, not of a quotient rounded to float32), mod units, then in float32: / units * 2 * 3.14"
      )
      let periods = try norm.required("time_duration_features").elements().map { reader in
        let numbers = try reader.elements().map { try $0.positiveInteger() }
        guard numbers.count == 2 else { throw reader.mismatch(expected: "seconds of a unit, and units") }
        return ModelDescription.Output.Period(unit: numbers[0], count: numbers[1])
      }
      return .timestampLayer(epsilon: epsilon, periods: periods, pi: 3.14)
    default: throw kind.mismatch(expected: "\"l2\", \"layer_norm\" or \"timestamp_layer_norm\"")
    }
  }

  private func ranking(
    _ object: JSONObjectReader, _ features: [EventFeature]
  ) throws -> ModelDescription.Ranking {
    let items = try names(object.required("item_features")).map { name in
      guard let feature = features.first(where: { $0.candidates == name }) else {
        throw Unsupported(reason: "there is no table for \(name)")
      }
      return feature.name
    }
    let role = ModelRole.perceptron(.item, .firstWeight)
    guard let first = WeightNames(preset: .production).name(of: role),
      let hidden = tensors.entry(named: first)?.shape.first
    else { throw Unsupported(reason: "there is no weight of the item tower") }
    let head = try object.required("multitask").object(["input", "hidden", "tasks", "prediction_layout"])
    try head.require("input", "user * item")
    try head.require("prediction_layout", "[tasks, candidates]")
    let tasks = try head.required("tasks").elements().map { element in
      let task = try element.object(["name", "type"])
      let type = try task.required("type")
      let kinds: [(String, ModelDescription.Ranking.Task)] = [("binary", .binary), ("regression", .regression)]
      guard let kind = try kinds.first(where: { try type.string().hasPrefix($0.0) })?.1 else {
        throw type.mismatch(expected: "binary or regression")
      }
      return (name: try task.required("name").string(), kind: kind)
    }
    return .init(
      items: .init(features: items, .init(hidden: hidden, epsilon: 1e-5)),
      .init(hidden: try head.required("hidden").positiveInteger(), epsilon: 1e-5), tasks: tasks)
  }

  // MARK: - The batch

  /// History of each user, then the candidates.
  private func rankingInputs(
    _ events: ModelDescription.Events, _ features: [EventFeature], _ object: JSONObjectReader
  ) throws -> [String: HostTensor] {
    let history = try input("uih_offsets").integers.map(Int.init)
    let candidates = try input("candidate_offsets").integers.map(Int.init)
    guard history.count == candidates.count, !history.isEmpty else {
      throw Unsupported(reason: "input.uih_offsets and input.candidate_offsets do not fit each other")
    }
    func joined(_ first: [Int64]?, _ second: [Int64]?, missing: Int64) throws -> HostTensor {
      guard first == nil || first?.count == history.last, second == nil || second?.count == candidates.last else {
        throw Unsupported(reason: "the inputs of events have other rows than their offsets")
      }
      var numbers: [Int64] = []
      for user in history.indices.dropLast() {
        for row in history[user]..<history[user + 1] { numbers.append(first?[row] ?? missing) }
        for row in candidates[user]..<candidates[user + 1] { numbers.append(second?[row] ?? missing) }
      }
      return HostTensor(numbers)
    }
    func optional(_ name: String?) throws -> [Int64]? { try name.map { try input("ids.\($0)").integers } }
    var inputs = [
      "offsets": HostTensor(zip(history, candidates).map { Int64($0 + $1) }),
      "num_targets": HostTensor(zip(candidates.dropFirst(), candidates).map { Int64($0 - $1) }),
    ]
    for feature in features {
      inputs[feature.name] = try joined(optional(feature.history), optional(feature.candidates), missing: 0)
    }
    if events.action != nil {
      let name = try object.required("action_encoder").anyObject().required("action_feature").string()
      // Nobody looks at what candidates have.
      inputs["actions"] = try joined(input(name).integers, nil, missing: .max)
    }
    inputs["timestamps"] = try joined(
      input("uih_time").integers, input("cand_query_time").integers, missing: 0)
    for feature in events.contextual {
      inputs[feature.name] = try input("ids.\(feature.name)")
      let lengths = try input("lengths.\(feature.name)").integers
      inputs["\(feature.name)_offsets"] = HostTensor(lengths.reduce(into: [0]) { $0.append(($0.last ?? 0) + $1) })
    }
    return inputs
  }
}
