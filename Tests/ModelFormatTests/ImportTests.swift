import Foundation
import Interpreter
import TensorIR
import TestSupport
import Testing

@testable import ModelFormat

@Suite struct ImportTests {
  /// The model of `ModelJSONTests.base`, with weights of its own.
  private func description(_ change: (inout ModelDescription) -> Void = { _ in }) throws -> ModelDescription {
    var description = try ModelDocument(JSONDocument(ModelJSONTests.base, file: "model.json")).description
    change(&description)
    return description
  }

  /// The weights that a description asks for, with seeded numbers in them.
  private func weights(_ shapes: [(name: String, shape: [Int])]) -> [(name: String, tensor: HostTensor)] {
    var random = SplitMix(seed: 7)
    return shapes.map { name, shape in
      (name, HostTensor((0..<shape.reduce(1, *)).map { _ in random.nextNumber() / 2 }, shape: shape))
    }
  }

  private var shapes: [(name: String, shape: [Int])] {
    let layers = (0..<3).flatMap { index -> [(name: String, shape: [Int])] in
      let prefix = "_hstu_transducer._stu_module._stu_layers.\(index)."
      return [
        (prefix + "_uvqk_weight", [6, 32]), (index == 1 ? "beta" : prefix + "_uvqk_beta", [32]),
        (prefix + "_input_norm_weight", [6]), (prefix + "_input_norm_bias", [6]),
        (prefix + "_output_norm_weight", [2]), (prefix + "_output_norm_bias", [2]),
        (prefix + "_output_weight", [20, 6]),
      ]
    }
    return layers + [
      ("_embedding_collection.embeddings.item.weight", [9, 6]),
      ("_embedding_collection.embeddings.action.weight", [4, 6]),
      ("_hstu_transducer._positional_encoder._position_embeddings_weight", [16, 6]),
    ]
  }

  private func checkpoint(_ tensors: [(name: String, tensor: HostTensor)]) throws -> Checkpoint {
    try Checkpoint([SafetensorsFile(bytes: Safetensors.encode(tensors, name: "w"), name: "weights.safetensors")])
  }

  /// Two sequences of 9 and 4 rows with 2 contextual rows each, and 3 and 1 targets.
  private let inputs: [String: HostTensor] = [
    "item_ids": HostTensor([1, 2, 3, 4, 5, 6, 7, 8, 1, 0, 3, 99, 4] as [Int64]),
    "actions": HostTensor([0, 0, 1, 2, 3, 1, 0, 0, 0, 0, 1, 2, 3] as [Int64]),
    "offsets": HostTensor([0, 9, 13] as [Int64]), "num_targets": HostTensor([3, 1] as [Int64]),
  ]

  private func run(_ model: ImportedModel, _ inputs: [String: HostTensor]? = nil) throws -> [String: HostTensor] {
    try model.module.verify()
    let results = try Interpreter(module: model.module, weights: model.weights, precision: .f64)
      .run("forward", inputs: inputs ?? self.inputs)
    return Dictionary(uniqueKeysWithValues: results.map { ($0.name, $0.tensor) })
  }

  @Test func everyPartTogetherRuns() throws {
    let model = try description().build(from: checkpoint(weights(shapes + [("extra", [3]), ("another", [1])])))
    #expect(model.unusedTensors == ["another", "extra"])
    #expect(model.module.weights.map(\.name).contains("beta"))
    let forward = try #require(model.module.function(named: "forward"))
    #expect(
      forward.arguments.map { "\(forward[$0].name): \(forward[$0].type)" } == [
        "item_ids: tensor<rows x i64>", "actions: tensor<rows x i64>", "offsets: offsets<sequences x rows>",
        "num_targets: tensor<sequences x i64>",
      ])
    let results = try run(model)
    #expect(
      forward.results.map { "\($0.name) \(results[$0.name]?.shape ?? [])" } == [
        "targets [4, 6]", "scores [4, 8]", "top_scores [4, 3]", "top_ids [4, 3]", "input_embedding [13, 6]",
        "layers.0.attn [13, 10]", "encoded [12, 6]",
      ])
    // The targets are the last rows of `encoded`, which is normed; scores are products with rows of the table.
    let encoded = try #require(results["encoded"]).doubles
    let targets = try #require(results["targets"]).doubles
    #expect(Array(targets[0..<18]) == Array(encoded[30..<48]))
    #expect(Array(targets[18..<24]) == Array(encoded[66..<72]))
    #expect(abs(targets[0..<6].reduce(0) { $0 + $1 * $1 } - 1) < 1e-12)
    let table = try #require(weights(shapes).first { $0.name.contains("item") }).tensor.doubles
    let score = (0..<6).reduce(0.0) { $0 + targets[$1] * table[6 * 3 + $1] }
    #expect(abs(try #require(results["scores"]).doubles[2] - score) < 1e-12)
    // The best of rows 2 and up of the table, whose scores begin at row 1.
    let scores = try #require(results["scores"]).doubles
    let best = (0..<4).flatMap { row in
      (2..<9).sorted { (scores[row * 8 + $1 - 1], $0) < (scores[row * 8 + $0 - 1], $1) }.prefix(3)
    }
    #expect(try #require(results["top_ids"]).integers == best.map { Int64($0) })
    // Item id 0 is padding: row 9 of the input is zero. Id 99 takes row 0 of the table, and is not padding.
    let embedded = try #require(results["input_embedding"]).doubles
    #expect(embedded[54..<60].allSatisfy { $0 == 0 })
    #expect(embedded[66..<72].allSatisfy { $0 != 0 })
  }

  /// What must not change a result: how the weights are stored and named.
  @Test func storageDoesNotMatter() throws {
    let tensors = weights(shapes)
    let expected = try run(description().build(from: checkpoint(tensors)))

    // The first product's columns in another order, its matrix turned round, and the last one's too.
    let widths = ["u": 10, "v": 10, "q": 6, "k": 6]
    let order = ["k", "u", "q", "v"]
    let starts = ["u": 0, "v": 10, "q": 20, "k": 26]
    let columns = order.flatMap { Array((starts[$0] ?? 0)..<(starts[$0] ?? 0) + (widths[$0] ?? 0)) }
    let stored = tensors.map { name, tensor -> (name: String, tensor: HostTensor) in
      let values = tensor.floats
      if name.hasSuffix("_uvqk_weight") {
        return (name, HostTensor(columns.flatMap { c in (0..<6).map { values[$0 * 32 + c] } }, shape: [32, 6]))
      }
      if name.hasSuffix("_uvqk_beta") || name == "beta" { return (name, HostTensor(columns.map { values[$0] })) }
      if name.hasSuffix("_output_weight") {
        return (name, HostTensor((0..<6).flatMap { c in (0..<20).map { values[$0 * 6 + c] } }, shape: [6, 20]))
      }
      return (name, tensor)
    }
    let changed = try description {
      for index in $0.layers.indices {
        $0.layers[index].uvqkOrder = [.k, .u, .q, .v]
        $0.layers[index].uvqkLayout = .outIn
        $0.layers[index].outputLayout = .outIn
      }
    }
    let got = try run(changed.build(from: checkpoint(stored)))
    for (name, tensor) in expected { expectClose(try #require(got[name]), tensor, atol: 1e-12, rtol: 0, name) }

    // Other names, from a list of prefixes and a map.
    let renamed = tensors.map { name, tensor in
      (
        name: name.replacingOccurrences(of: "_hstu_transducer._stu_module._stu_layers.", with: "m.layer"),
        tensor: tensor
      )
    }
    let named = try description {
      $0.names.prefix = "m."
      $0.names.layerPrefix = .list(["layer0.", "layer1.", "layer2."])
      $0.names.modelNames = [
        .itemTable: "_embedding_collection.embeddings.item.weight",
        .actionTable: "_embedding_collection.embeddings.action.weight",
        .positionTable: "_hstu_transducer._positional_encoder._position_embeddings_weight",
      ]
    }
    #expect(try run(named.build(from: checkpoint(renamed))) == expected)
  }

  /// A truncation that keeps everything, and a skip of no layer's rows, change nothing.
  @Test func truncationThatKeepsAllChangesNothing() throws {
    let checkpoint = try checkpoint(weights(shapes))
    let plain = try run(description { $0.truncations = [] }.build(from: checkpoint))
    for form in [ModelDescription.Truncation.Form.drop, .skip(until: 3), .skip(until: 2)] {
      let kept = try run(
        description { $0.truncations = [.init(form, after: 1, keep: 100)] }.build(from: checkpoint))
      #expect(try #require(kept["targets"]) == #require(plain["targets"]))
    }
    // With fewer rows the targets differ: the truncation does something.
    let cut = try run(description { $0.truncations = [.init(.drop, after: 1, keep: 1)] }.build(from: checkpoint))
    #expect(try #require(cut["targets"]) != #require(plain["targets"]))
  }

  @Test func droppedRowsComeWithTheirOffsets() throws {
    let model = try description {
      $0.output = .init(rows: .all)
      $0.stages = []
    }.build(from: checkpoint(weights(shapes)))
    let results = try run(model)
    // 9 rows with 3 targets and 2 contextual rows keep 2 + 3 + 3; 4 rows lose none.
    #expect(results["out_offsets"]?.integers == [0, 8, 12])
    #expect(results["out"]?.shape == [12, 6])
  }

  /// Without layers a model is its input and its output; `layers` may say so, `layer_count` may not.
  @Test func withoutLayersThereAreLookupsAlone() throws {
    let expected = try run(description().build(from: checkpoint(weights(shapes))))
    let text = ModelJSONTests.base.split(separator: "\n")
    let layer = try #require(text.firstIndex { $0.hasPrefix("  \"layer_count\"") })
    let end = #"  "layers": [], "output": {"rows": "all", "norm": {"kind": "none"}}}"#
    let lookups = (text[..<layer] + [end[...]]).joined(separator: "\n")
      .replacingOccurrences(of: #", "map": {"layers.1.uvqk_bias": "beta"}"#, with: "")
    let model = try ModelDocument(JSONDocument(lookups, file: "model.json")).description
    let results = try run(model.build(from: checkpoint(weights(shapes))))
    #expect(try #require(results["out"]) == #require(expected["input_embedding"]))
  }

  @Test func narrowAndWideWeightsAreReadAsFP32() throws {
    let tensors = weights(shapes)
    let bfloat = tensors.map { name, tensor -> (name: String, tensor: HostTensor) in
      (name, HostTensor(tensor.floats.map { Float(bitPattern: $0.bitPattern & 0xFFFF_0000) }, shape: tensor.shape))
    }
    let expected = try run(description().build(from: checkpoint(bfloat)))
    for element in [ElementType.bf16, .f64] {
      let stored = try bfloat.map { name, tensor -> (name: String, tensor: HostTensor) in
        if element == .f64 { return (name, HostTensor(tensor.doubles, shape: tensor.shape)) }
        let bytes = tensor.floats.flatMap { value in
          [UInt8(truncatingIfNeeded: value.bitPattern >> 16), UInt8(value.bitPattern >> 24)]
        }
        return (name, try HostTensor(element: .bf16, shape: tensor.shape, bytes: bytes))
      }
      let model = try description().build(from: checkpoint(stored))
      #expect(model.module.weights.allSatisfy { $0.type.element == .f32 })
      #expect(try run(model) == expected)
    }
  }

  // MARK: - Weights that do not fit

  private func fault(
    _ tensors: [(name: String, tensor: HostTensor)], _ change: (inout ModelDescription) -> Void = { _ in }
  ) throws -> String? {
    do {
      _ = try description(change).build(from: checkpoint(tensors))
      return nil
    } catch let error as ModelError {
      return "\(error)"
    }
  }

  @Test func namesWeightsThatDoNotFit() throws {
    let prefix = "_hstu_transducer._stu_module._stu_layers.2."
    func replaced(_ name: String, _ shape: [Int]) -> [(name: String, tensor: HostTensor)] {
      weights(shapes.map { $0.name == name ? (name, shape) : $0 })
    }
    #expect(try fault(weights(shapes)) == nil)
    #expect(
      try fault(replaced(prefix + "_uvqk_weight", [6, 24]))
        == "weights.safetensors: tensor \"\(prefix)_uvqk_weight\": shape [6, 24], but layer 2 needs [6, 32] (2 heads x (2 x 5 value + 2 x 3 query-key))"
    )
    #expect(
      try fault(replaced(prefix + "_output_norm_bias", [10]))
        == "weights.safetensors: tensor \"\(prefix)_output_norm_bias\": shape [10], but layer 2 needs [2] (one number a head)"
    )
    #expect(
      try fault(replaced("_embedding_collection.embeddings.item.weight", [10, 6]))
        == "weights.safetensors: tensor \"_embedding_collection.embeddings.item.weight\": shape [10, 6], but the input needs [9, 6] (rows, model width)"
    )
    #expect(
      try fault(weights(shapes.map { $0.name == "beta" ? ("bet", $0.shape) : $0 }))
        == "weights.safetensors: tensor \"beta\": not found, but layer 1 needs it as its uvqk_bias; the nearest name is \"bet\""
    )
    var integers = weights(shapes)
    let index = try #require(integers.firstIndex { $0.name == "beta" })
    integers[index].tensor = HostTensor([Int64](repeating: 1, count: 32))
    #expect(
      try fault(integers)
        == "weights.safetensors: tensor \"beta\": elements of type I64, but layer 1 needs F32, F64, F16 or BF16")
    #expect(
      try fault(weights(shapes)) { $0.layers[0].outputBias = true }
        == "base: names: the preset \"gr-production\" has no name for layers.0.output_bias; give one in names.map")
    #expect(
      try fault(weights(shapes)) { $0.stages = [.layer(7, .u)] }
        == "base: there is no stage layers.7.u in a model of 3 layers")
  }

  @Test func oneTensorBelongsToOneFile() throws {
    let bytes = try Safetensors.encode([("a", HostTensor([1] as [Float]))], name: "w")
    #expect(
      throws: ModelError(
        .unexpectedTensor, file: "second", place: "tensor \"a\"", "it is in first too",
        hint: "name each weights file once, and each tensor in one file")
    ) {
      try Checkpoint([SafetensorsFile(bytes: bytes, name: "first"), SafetensorsFile(bytes: bytes, name: "second")])
    }
  }

  // MARK: - Files

  @Test func importsAFolder() throws {
    try withTemporaryFolder { folder in
      let path = folder.appendingPathComponent("model.json").path
      try ModelJSONTests.base.write(toFile: path, atomically: false, encoding: .utf8)
      let weightsPath = folder.appendingPathComponent("weights.safetensors").path
      #expect(
        throws: ModelError(.inaccessible, file: weightsPath, "cannot be opened: No such file or directory")
      ) { try importModel(at: path) }
      try Safetensors.write(weights(shapes), to: weightsPath)
      let model = try importModel(at: path)
      #expect(model.name == "base")
      #expect(model.notes.count == 2)
      #expect(model.sources.map(\.name) == [path, weightsPath])
      let first = model.sources[0]
      #expect(first.withBytes(0..<first.byteCount) { Array($0) } == Array(ModelJSONTests.base.utf8))
      let size = try #require(try FileManager.default.attributesOfItem(atPath: weightsPath)[.size] as? Int)
      #expect(model.sources[1].byteCount == size)
      #expect(try run(model) == run(description().build(from: checkpoint(weights(shapes)))))
    }
  }

  /// Of sequences that are cut short, all that they have seen is left out.
  @Test func seenItemsAreThoseOfTheWholeSequence() throws {
    var description = try description()
    (description.hasTargets, description.contextual, description.stages) = (false, 0, [])
    description.truncations = [.init(.drop, after: 0, keep: 2)]
    let scores = ModelDescription.Output.Scores(firstRow: 1, norm: .l2(epsilon: 1e-6))
    description.output = .init(
      rows: .last, topK: .init(count: 8, scores: scores, leavesOutSeen: true))
    var inputs = inputs
    inputs["num_targets"] = nil
    let results = try run(description.build(from: checkpoint(weights(shapes))), inputs)
    // The first sequence has seen all items but none, the second 3 and 4, and 0 and 99, which are none.
    let ids = try #require(results["top_ids"]).integers
    #expect(Array(ids[0..<8]) == Array(repeating: -1, count: 8))
    #expect(Set(ids[8..<16]) == [-1, 1, 2, 5, 6, 7, 8])
  }

  /// The trained research model, whose weights are in the repository.
  @Test func importsTheExample() throws {
    let root = testsFolder.deletingLastPathComponent().deletingLastPathComponent()
    let model = try importModel(at: root.appendingPathComponent("examples/movielens-100k/model.json").path)
    try model.module.verify()
    #expect(model.unusedTensors == [])
    let forward = try #require(model.module.function(named: "forward"))
    #expect(
      forward.arguments.map { "\(forward[$0].name): \(forward[$0].type)" } == [
        "item_ids: tensor<rows x i64>", "offsets: offsets<sequences x rows>", "timestamps: tensor<rows x i64>",
        "query_timestamps: tensor<sequences x i64>",
      ])
    #expect(forward.results.first?.name == "user_embeddings")
  }
}
