import Codegen
import Driver
import Foundation
import Interpreter
import ModelFormat
import Passes
import TensorIR
import TestSupport
import Testing

private let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
  .deletingLastPathComponent()

/// Checkpoints through import, compiler and machine, against the interpreter on descriptions that were not imported.
@Suite struct ImportedCheckpointTests {
  private func expectNear(_ found: HostTensor, _ expected: HostTensor, _ what: String) {
    let largest = expected.doubles.reduce(1) { max($0, abs($1)) }
    expectClose(found, expected, atol: 2e-5 * largest, rtol: 0, what)
  }

  /// Imports the checkpoint, compiles what comes of it, and compares with `expected`, interpreted.
  private func check(
    _ checkpoint: Checkpoint, _ options: ImportOptions, _ expected: ModelDescription, _ inputs: [String: HostTensor]
  ) throws {
    let found = try describeCheckpoint(checkpoint, options)
    var description = found.description
    (description.names, description.name) = (expected.names, expected.name)
    #expect(description == expected, "\(expected.name)")
    #expect(found.unusedTensors.isEmpty, "\(expected.name): \(found.unusedTensors)")

    let reference = try expected.build(from: checkpoint)
    let results = try Interpreter(module: reference.module, weights: reference.weights, precision: .f64)
      .run("forward", inputs: inputs)
    let imported = try found.description.build(from: checkpoint)
    var module = imported.module
    try PassManager(PassPipeline(level: 2)).run(on: &module)
    let compiled = try CompiledProgram(
      module, weights: imported.weights, level: try #require(CPULevel.native), optimization: .less
    ).run(inputs)
    #expect(compiled.map(\.name) == results.map(\.name))
    for (found, expected) in zip(compiled, results) {
      if found.tensor.element == .f32 {
        expectNear(found.tensor, expected.tensor, "\(description.name): \(found.name)")
      } else {
        #expect(found.tensor.integers == expected.tensor.integers, "\(description.name): \(found.name)")
      }
    }
  }

  // MARK: - Random models

  @Test("random ranking models", arguments: [1, 2, 3, 5] as [UInt64])
  func ranking(seed: UInt64) throws {
    var model = try RandomRankingModel(seed: seed)
    guard case .events(var events) = model.description.input, var ranking = model.description.output.ranking else {
      return
    }
    // What the family fixes; nothing of it is in the shapes of weights.
    func published(_ encoder: inout ModelDescription.Encoder) { encoder.perceptron.epsilon = 1e-5 }
    published(&events.content)
    events.additional?.perceptron.epsilon = 1e-5
    if events.action != nil {
      events.action?.perceptron.epsilon = 1e-5
      events.action?.targets = .learned
    }
    for index in events.tables.indices { events.tables[index].outOfRange = .error }
    published(&ranking.items)
    ranking.perceptron.epsilon = 1e-5
    events.scale = events.position == nil ? 1 : Double(model.description.width).squareRoot()
    if let position = events.position { events.position = .init(rows: position.rows, order: .descending) }
    if let time = events.time {
      events.time = .init(rows: time.rows, buckets: .init(.squareRoot, unit: 60, limit: time.buckets.limit))
    }
    // Tables in the order of their first use.
    let used =
      events.features.filter { feature in
        (events.content.features + (events.additional?.features ?? []) + ranking.items.features).contains(feature.name)
      }
    var names: [String] = []
    for name in events.content.features + (events.additional?.features ?? []) + ranking.items.features
    where !names.contains(name) { names.append(name) }
    events.features = names.compactMap { name in used.first { $0.name == name } }
    var tables: [ModelDescription.FeatureTable] = []
    for name in events.features.map(\.table) + events.contextual.map(\.table)
    where !tables.contains(where: { $0.name == name }) { tables += events.tables.filter { $0.name == name } }
    events.tables = tables
    var expected = model.description
    expected.input = .events(events)
    expected.output.ranking = ranking

    // The tensors that a training of this model would have saved, under a prefix.
    let reference = try expected.build(from: model.checkpoint)
    var tensors: [(name: String, tensor: HostTensor)] = []
    for file in model.checkpoint.files {
      for name in file.names where !reference.unusedTensors.contains(name) {
        tensors.append(("module." + name, try file.tensor(named: name)))
      }
    }
    let transducer = "module._hstu_transducer."
    if let action = events.action {
      tensors.append(
        (
          transducer + "_input_preprocessor._action_encoder._combined_action_weights",
          HostTensor(action.allMasks.map(Int64.init))
        ))
    }
    if case .timestampLayer = expected.output.norm {
      let post = transducer + "_output_postprocessor."
      tensors.append((post + "_period_units", HostTensor([3600, 86_400] as [Float], shape: [1, 2])))
      tensors.append((post + "_units_per_period", HostTensor([24, 7] as [Float], shape: [1, 2])))
    }
    expected.names.prefix = "module."
    let checkpoint = try Checkpoint([
      SafetensorsFile(bytes: Safetensors.encode(tensors, name: "w"), name: "w.safetensors")
    ])
    var options = ImportOptions(family: .ranking, name: "imported", weights: ["w.safetensors"])
    options.config = try JSONDocument(Self.config(of: expected, events, ranking), file: "config.json")
    // Ids of all tables' own rows, and only what the model takes.
    var random = Random(seed: seed)
    for (name, table) in events.features.map({ ($0.name, $0.table) }) + events.contextual.map({ ($0.name, $0.table) }) {
      let rows = events.table(table)?.rows ?? 1
      let count = model.inputs[name]?.shape[0] ?? 0
      model.inputs[name] = HostTensor((0..<count).map { _ in Int64(random.integer(in: 0...rows - 1)) })
    }
    let arguments = reference.module.function(named: "forward").map { forward in
      forward.arguments.map { forward[$0].name }
    }
    try check(checkpoint, options, expected, model.inputs.filter { arguments?.contains($0.key) == true })
  }

  /// What a user would tell of a ranking model.
  private static func config(
    of model: ModelDescription, _ events: ModelDescription.Events, _ ranking: ModelDescription.Ranking
  ) throws -> String {
    func list(_ names: [String]) -> String { "[\(names.map { "\"\($0)\"" }.joined(separator: ", "))]" }
    let layer = model.layers[0]
    var fields = [
      "\"heads\": \(layer.heads)", "\"alpha\": \(layer.alpha)", "\"divisor\": 32",
      "\"features\": {\(events.features.map { "\"\($0.name)\": \"\($0.table)\"" }.joined(separator: ", "))}",
      "\"content\": \(list(events.content.features))", "\"items\": \(list(ranking.items.features))",
      "\"tasks\": [\(ranking.tasks.map { "{\"name\": \"\($0.name)\", \"kind\": \"\($0.kind)\"}" }.joined(separator: ", "))]",
    ]
    let contextual = "\"contextual\": \(layer.mask.contextual)"
    switch layer.mask.form {
    case .windowed(let window, let tail):
      fields.append("\"mask\": {\"form\": \"windowed\", \"window\": \(window), \"full_tail\": \(tail), \(contextual)}")
    default: fields.append("\"mask\": {\"form\": \"causal\", \(contextual)}")
    }
    if let more = events.additional { fields.append("\"additional\": \(list(more.features))") }
    if let action = events.action {
      fields.append("\"combine\": \"\(events.isInterleaved ? "interleave" : "sum")\"")
      if let watch = action.watchTime {
        fields.append("\"watch_time\": {\"thresholds\": \(watch.thresholds), \"bits\": \(watch.bits)}")
      }
    }
    if !events.contextual.isEmpty {
      let features = events.contextual.map {
        "{\"feature\": \"\($0.name)\", \"table\": \"\($0.table)\", \"slots\": \($0.slots), \"minimum_events\": \($0.minimumEvents)}"
      }
      fields.append("\"contextual\": [\(features.joined(separator: ", "))]")
    }
    if let time = events.time { fields.append("\"time_limit\": \(time.buckets.limit)") }
    if case .none = model.output.norm { fields.append("\"user_norm\": \"none\"") }
    if let truncation = model.truncations.first {
      fields.append(
        "\"truncation\": {\"form\": \"drop\", \"after\": \(truncation.after), \"keep\": \(truncation.keep)}")
    }
    return "{\(fields.joined(separator: ",\n"))}"
  }

  @Test("random retrieval models of both forms", arguments: [1, 2, 3, 4, 5, 6] as [UInt64])
  func retrieval(seed: UInt64) throws {
    var random = Random(seed: seed &* 7919)
    let isResearch = seed % 2 == 0
    let width = random.pick([8, 25, 33])
    let (heads, queries, values) = (random.integer(in: 1...3), random.pick([3, 5, 8]), random.pick([5, 8, 16]))
    let (layerCount, items, positions) = (random.integer(in: 1...3), random.integer(in: 12...40), 24)
    let columns = 2 * heads * (queries + values)
    var shapes: [(String, [Int])]
    let prefix = isResearch ? "_hstu._attention_layers." : "_hstu_transducer._stu_module._stu_layers."
    let norm = ModelDescription.Norm(.layerNorm, affine: !isResearch, epsilon: 1e-6)
    var layer = ModelDescription.Layer(
      heads: heads, attentionDim: queries, hiddenDim: values, alpha: 1, divisor: .fixed(Double(positions)),
      activations: .init(u: .silu, v: .silu, q: .silu, k: .silu), inputNorm: norm, uvqkBias: !isResearch, mask: .causal,
      outputNorm: norm, concatenate: [.gated], outputBias: isResearch)
    var embedding = ModelDescription.Embedding(item: .init(rows: items), scale: Double(width).squareRoot())
    let scores = ModelDescription.Output.Scores(firstRow: 1, norm: .l2(epsilon: 1e-6))
    let output = ModelDescription.Output(
      rows: .last, norm: .l2(epsilon: 1e-6), name: "user_embeddings", scores: scores,
      topK: .init(count: 4, scores: scores, leavesOutSeen: true))
    var options = ImportOptions(family: .retrieval, name: "imported", weights: ["w.safetensors"])
    var fields = [
      "\"heads\": \(heads)", "\"attention_dim\": \(queries)", "\"scores\": true", "\"top_k\": 4",
      "\"seen\": \"leave_out\"", "\"item_norm\": \"l2\"", "\"first_row\": 1",
    ]
    if isResearch {
      shapes = [
        ("_embedding_module._item_emb.weight", [items, width]),
        ("_input_features_preproc._pos_emb.weight", [positions, width]),
      ]
      let parts = random.pick([1, 3])
      for index in 0..<layerCount {
        shapes += [
          ("\(prefix)\(index)._uvqk", [width, columns]),
          ("\(prefix)\(index)._o.weight", [width, parts * heads * values]),
          ("\(prefix)\(index)._o.bias", [width]), ("\(prefix)\(index)._rel_attn_bias._pos_w", [2 * positions - 1]),
          ("\(prefix)\(index)._rel_attn_bias._ts_w", [17]),
        ]
      }
      fields.append("\"concat_ua\": \(parts == 3)")
      layer.concatenate = parts == 3 ? [.u, .normedAttention, .gated] : [.gated]
      layer.relativeBias = .init(maxLength: positions, timeBuckets: 16)
      embedding.position = .init(rows: positions, order: .ascending)
      embedding.paddingID = 0
    } else {
      shapes = [
        ("_embedding_collection.embeddings.item.weight", [items, width]),
        ("_embedding_collection.embeddings.action.weight", [6, width]),
        ("_positional_encoder._position_embeddings_weight", [positions, width]),
      ]
      for index in 0..<layerCount {
        for part in ["weight", "bias"] {
          shapes += [
            ("\(prefix)\(index)._input_norm_\(part)", [width]),
            ("\(prefix)\(index)._output_norm_\(part)", [heads * values]),
          ]
        }
        shapes += [
          ("\(prefix)\(index)._uvqk_weight", [width, columns]), ("\(prefix)\(index)._uvqk_beta", [columns]),
          ("\(prefix)\(index)._output_weight", [3 * heads * values, width]),
        ]
      }
      fields += [
        "\"alpha\": \"1/attention_dim\"", "\"divisor\": 24",
        "\"mask\": {\"form\": \"windowed\", \"window\": 5, \"full_tail\": 3}",
      ]
      layer.alpha = 1 / Double(queries)
      layer.activations = .init(u: .silu, v: .none, q: .none, k: .none)
      layer.mask = Mask(.windowed(window: 5, fullTail: 3))
      layer.concatenate = [.u, .attention, .gated]
      embedding.action = .init(rows: 6)
      embedding.position = .init(rows: positions, order: .descending)
    }
    options.config = try JSONDocument("{\(fields.joined(separator: ", "))}", file: "config.json")
    let names = WeightNames(
      preset: isResearch ? .research : .production,
      modelNames: isResearch ? [:] : [.positionTable: "_positional_encoder._position_embeddings_weight"])
    let expected = ModelDescription(
      name: "retrieval_\(seed)", width: width, names: names, input: .embedding(embedding),
      layers: Array(repeating: layer, count: layerCount), output: output)
    let tensors = shapes.map { name, shape in
      let spread = shape.count > 1 ? 1.5 / Float(shape.min() ?? 1).squareRoot() : 0.5
      return (name, random.tensor(shape, center: name.contains("norm_weight") ? 1 : 0, spread: spread))
    }
    let checkpoint = try Checkpoint([
      SafetensorsFile(bytes: Safetensors.encode(tensors, name: "w"), name: "w.safetensors")
    ])
    let lengths = [random.integer(in: 1...24), 0, random.integer(in: 1...24)]
    let rows = lengths.reduce(0, +)
    var inputs = [
      "item_ids": HostTensor((0..<rows).map { _ in Int64(random.integer(in: 1...items - 1)) }),
      "offsets": HostTensor(lengths.reduce(into: [0 as Int64]) { $0.append($0[$0.count - 1] + Int64($1)) }),
    ]
    if isResearch {
      inputs["timestamps"] = HostTensor(
        (0..<rows).map { _ in Int64(random.integer(in: 1_690_000_000...1_690_500_000)) })
      inputs["query_timestamps"] = HostTensor([1_690_600_000, 1_690_600_001, 1_690_700_000] as [Int64])
    } else {
      inputs["actions"] = HostTensor((0..<rows).map { _ in Int64(random.integer(in: 0...5)) })
    }
    try check(checkpoint, options, expected, inputs)
  }

  // MARK: - The trained models

  /// What a user would type for the trained models, whose checkpoints have the names of training.
  private static let trained: [(name: String, arguments: [String])] = [
    ("movielens-100k", ["--heads", "2", "--scores", "--item-norm", "l2"]),
    (
      "movielens-ultra",
      [
        "--heads", "2", "--alpha", "1/sqrt(attention_dim)", "--divisor", "256", "--mask",
        "windowed{window=32,full_tail=16}", "--truncation", "drop{after=2,keep=64}", "--scores", "--first-row", "1",
        "--item-norm", "l2",
      ]
    ),
  ]

  @Test(
    "the trained models, as training saved and wraps them, are their own descriptions", arguments: [0, 1],
    ["", "module._orig_mod."])
  func movieLens(index: Int, prefix: String) throws {
    let (name, arguments) = Self.trained[index]
    try withTemporaryFolder { folder in
      let example = root.appendingPathComponent("examples/\(name)")
      let file = try SafetensorsFile(path: example.appendingPathComponent("weights.safetensors").path)
      try Safetensors.write(
        file.names.map { (prefix + $0, try file.tensor(named: $0)) },
        to: folder.appendingPathComponent("\(name).safetensors").path)
      let outcome = try ultrac(
        ["import", "\(name).safetensors", "--family", "gr-retrieval"] + arguments, in: folder)
      #expect(outcome.status == 0 && outcome.output.contains("every tensor is used"), "\(outcome)")

      let imported = try importModel(at: folder.appendingPathComponent("model.json").path)
      let own = try importModel(at: example.appendingPathComponent("model.json").path)
      #expect(imported.name == name)
      // One program, but for the prefix, and weights of the same bits: results can be no other.
      #expect(imported.module.text.replacing(prefix.isEmpty ? "\0" : prefix, with: "") == own.module.text)
      for weight in own.module.weights {
        let bytes = try own.weights.withWeight(weight.name) { _, _, bytes in [UInt8](bytes) }
        #expect(
          try imported.weights.withWeight(prefix + weight.name) { _, _, found in bytes == [UInt8](found) },
          "\(weight.name)")
      }
    }
  }

  // MARK: - The command

  @Test func commandWritesBesideTheCheckpointAndKeepsWhatIsThere() throws {
    try withTemporaryFolder { folder in
      let source = root.appendingPathComponent("examples/movielens-100k/weights.safetensors")
      let deep = folder.appendingPathComponent("a/b")
      try FileManager.default.createDirectory(at: deep, withIntermediateDirectories: true)
      try FileManager.default.copyItem(at: source, to: deep.appendingPathComponent("film.safetensors"))
      let arguments = ["import", "a/b/film.safetensors", "--family", "gr-retrieval"]

      let missing = try ultrac(arguments, in: folder)
      #expect(missing.status == 1 && missing.output.isEmpty)
      #expect(
        missing.errors.hasPrefix("error: a/b/film.safetensors: 1 setting is needed")
          && missing.errors.contains("--heads N"))
      #expect(try FileManager.default.contentsOfDirectory(atPath: deep.path) == ["film.safetensors"])

      let written = try ultrac(arguments + ["--heads", "2"], in: folder)
      #expect(written.status == 0 && written.output.contains("wrote a/b/model.json"))
      let path = deep.appendingPathComponent("model.json")
      let text = try String(contentsOf: path, encoding: .utf8)
      #expect(text.contains("\"weights\": [\"film.safetensors\"]") && text.contains("\"name\": \"film\""))

      let again = try ultrac(arguments + ["--heads", "4"], in: folder)
      #expect(again.status == 1 && again.errors.contains("a/b/model.json: it is there already\nhint: --force"))
      #expect(try String(contentsOf: path, encoding: .utf8) == text)
      let forced = try ultrac(arguments + ["--heads", "4", "--force", "--json"], in: folder)
      let report = try #require(
        try JSONSerialization.jsonObject(with: Data(forced.output.utf8)) as? [String: Any])
      #expect(report["written"] as? String == "a/b/model.json" && (report["unusedTensors"] as? [String]) == [])
      let facts = try #require(report["facts"] as? [[String: String]])
      #expect(facts.contains { $0["name"] == "heads" && $0["value"] == "4" && $0["source"] == "--heads" })

      // Elsewhere, with a path that leads back; and the compiler takes it.
      let elsewhere = try ultrac(
        arguments + ["--heads", "2", "-o", "a/other.json", "--name", "films"], in: folder)
      #expect(elsewhere.status == 0)
      let other = try String(contentsOf: folder.appendingPathComponent("a/other.json"), encoding: .utf8)
      #expect(other.contains("\"weights\": [\"b/film.safetensors\"]"))
      let compiled = try ultrac("compile", "a/other.json", "--target-cpu", "x86-64-v3", "-O1", in: folder)
      #expect(compiled.status == 0, "\(compiled.errors)")
      #expect(try ultrac("import", "a/b/film.safetensors", "--family", "bert", in: folder).status == 64)
      #expect(try ultrac("import", "--family", "gr-ranking", in: folder).status == 64)
    }
  }
}
