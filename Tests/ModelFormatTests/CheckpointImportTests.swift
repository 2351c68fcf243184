import Foundation
import GoldenCases
import Interpreter
import TensorIR
import TestSupport
import Testing

@testable import ModelFormat

/// What names, shapes and settings make of a checkpoint.
@Suite struct CheckpointImportTests {
  private static let preprocessor = "_hstu_transducer._input_preprocessor."
  private static let families = [ImportFixture.ranking, .research, .stack]

  // MARK: - Inference

  @Test func rankingModelFromShapesAndPublishedConfiguration() throws {
    let result = try ImportFixture.ranking.describe()
    var events = ModelDescription.Events(
      tables: [
        .init(name: "item_id", rows: 50, width: 24), .init(name: "item_category_id", rows: 12, width: 24),
        .init(name: "user_id", rows: 9, width: 24),
      ],
      features: [
        .init(name: "item_id", table: "item_id"), .init(name: "item_category_id", table: "item_category_id"),
      ], content: .init(features: ["item_id"], .init(hidden: 20, epsilon: 1e-5)))
    events.additional = .init(features: ["item_category_id"], .init(hidden: 20, epsilon: 1e-5))
    events.action = .init(
      masks: [1, 2, 4, 8, 16], width: 8, targets: .learned, .init(hidden: 20, epsilon: 1e-5))
    events.contextual = [.init(name: "user_id", table: "user_id", slots: 1, minimumEvents: 20)]
    events.scale = 32.0.squareRoot()
    events.position = .init(rows: 64, order: .descending)
    events.time = .init(rows: 97, buckets: .init(.squareRoot, unit: 60, limit: 96))
    let norm = ModelDescription.Norm(.layerNorm, affine: true, epsilon: 1e-6)
    let layer = ModelDescription.Layer(
      heads: 2, attentionDim: 8, hiddenDim: 12, alpha: 1 / 8.0.squareRoot(), divisor: .fixed(256),
      activations: .init(u: .silu, v: .none, q: .none, k: .none), inputNorm: norm, uvqkBias: true,
      mask: Mask(.causal, contextual: 0), outputNorm: norm, concatenate: [.u, .attention, .gated], outputBias: false)
    let periods = [(3600, 24), (86_400, 7)].map { ModelDescription.Output.Period(unit: $0.0, count: $0.1) }
    let expected = ModelDescription(
      name: "imported", width: 32, names: WeightNames(preset: .production), input: .events(events), contextual: 1,
      hasTargets: true, layers: Array(repeating: layer, count: 3),
      output: .init(
        rows: .targets, norm: .timestampLayer(epsilon: 1e-5, periods: periods, pi: 3.14),
        ranking: .init(
          items: .init(features: ["item_id", "item_category_id"], .init(hidden: 44, epsilon: 1e-5)),
          .init(hidden: 44, epsilon: 1e-5), tasks: [("rating", .binary), ("minutes", .regression)])))
    #expect(result.description == expected)
    #expect(result.unusedTensors.isEmpty)
    #expect(result.withoutEffect.contains("hstu_input_dropout_ratio"))
  }

  @Test func researchModelFromShapes() throws {
    let result = try ImportFixture.research.describe()
    let norm = ModelDescription.Norm(.layerNorm, affine: false, epsilon: 1e-6)
    let layer = ModelDescription.Layer(
      heads: 3, attentionDim: 5, hiddenDim: 7, alpha: 1, divisor: .fixed(21),
      activations: .init(u: .silu, v: .silu, q: .silu, k: .silu), inputNorm: norm, uvqkBias: false, mask: .causal,
      relativeBias: .init(maxLength: 21, timeBuckets: 128), outputNorm: norm, concatenate: [.gated], outputBias: true)
    #expect(
      result.description
        == ModelDescription(
          name: "imported", width: 20, names: WeightNames(preset: .research),
          input: .embedding(
            .init(
              item: .init(rows: 31), scale: 20.0.squareRoot(), position: .init(rows: 21, order: .ascending),
              paddingID: 0)), layers: [layer, layer],
          output: .init(rows: .last, norm: .l2(epsilon: 1e-6), name: "user_embeddings")))
  }

  @Test func researchVariants() throws {
    // Without heads both readings of the last product fit; with concat_ua the other one does.
    let wide = ImportFixture.research.with {
      for layer in 0..<2 { $0.set("_hstu._attention_layers.\(layer)._o.weight", [20, 63]) }
    }
    #expect(try wide.describe().description.layers[0].concatenate == [.u, .normedAttention, .gated])
    let asked = ImportFixture.research.with { $0.flags = [] }.failure()
    #expect(asked.contains("--concatenate A,B,...") && asked.contains("--heads N"))
    // One head alone divides 7 and 5 columns.
    let single = ImportFixture.research.with {
      $0.flags = []
      for layer in 0..<2 {
        $0.set("_hstu._attention_layers.\(layer)._o.weight", [20, 7])
        $0.set("_hstu._attention_layers.\(layer)._uvqk", [20, 24])
      }
    }
    let layer = try single.describe().description.layers[0]
    #expect(layer.heads == 1 && layer.attentionDim == 5 && layer.hiddenDim == 7)
    // The version that knows positions alone, whose n its mask says too.
    var positions = ImportFixture.research
    for layer in 0..<2 {
      let prefix = "_hstu._attention_layers.\(layer)._rel_attn_bias."
      positions.set(prefix + "_pos_w", nil)
      positions.set(prefix + "_ts_w", nil)
      positions.set(prefix + "_w", [41])
    }
    positions.set("_attn_mask", [21, 21])
    let found = try positions.describe()
    #expect(found.description.layers[1].relativeBias == .init(maxLength: 21))
    #expect(found.unusedTensors.isEmpty)
    // Positions alone under the name that they have beside times.
    let renamed = ImportFixture.research.with {
      for layer in 0..<2 { $0.set("_hstu._attention_layers.\(layer)._rel_attn_bias._ts_w", nil) }
    }
    let names = try renamed.describe().description.names
    #expect(names.name(of: .positionBias, layer: 1) == "_hstu._attention_layers.1._rel_attn_bias._pos_w")
    // No bias and no mask: nothing says what n is.
    for layer in 0..<2 { positions.set("_hstu._attention_layers.\(layer)._rel_attn_bias._w", nil) }
    #expect(try positions.describe().description.layers[0].divisor == .fixed(21))
    positions.set("_attn_mask", nil)
    #expect(positions.failure().contains("--divisor"))
    positions.config = #"{"divisor": 211}"#
    #expect(try positions.describe().description.layers[0].divisor == .fixed(211))
  }

  @Test func ultraFormFromShapes() throws {
    let result = try ImportFixture.stack.describe()
    let description = result.description
    #expect(description.layers.count == 4 && description.layers[0].alpha == 0.25)
    #expect(description.layers[3].mask == Mask(.windowed(window: 8, fullTail: 4)))
    #expect(description.truncations == [.init(.drop, after: 2, keep: 10)])
    guard case .embedding(let input) = description.input else { throw ModelError(.malformed, file: "", "no ids") }
    #expect(input.item.rows == 31 && input.action?.rows == 6 && input.position == .init(rows: 40, order: .descending))
    #expect(input.scale == 4 && input.paddingID == nil)
    let items = ModelDescription.Output.Scores(firstRow: 1, norm: .l2(epsilon: 1e-6))
    #expect(
      description.output
        == .init(
          rows: .last, norm: .l2(epsilon: 1e-6), name: "user_embeddings",
          topK: .init(count: 5, scores: items, leavesOutSeen: true)))
  }

  @Test func tablesOfOtherNames() throws {
    let films = ImportFixture.stack.renamed { $0.replacing("embeddings.item.", with: "embeddings.films.") }
    #expect(films.failure().contains("--item-table TABLE") && films.failure().contains("the tables are action, films"))
    let found = films.with { $0.flags = [.words("--item-table", "item_table", "films")] }
    #expect(found.failure().contains("--item-table: expected a string, found an array"))
    let named = try films.with {
      $0.flags = [
        .value("--item-table", "item_table", "films"), .value("--action-table", "action_table", "none"),
        .value("--rows", "rows", "targets"), .value("--seen", "seen", "keep"),
      ]
    }.describe()
    #expect(named.description.names.name(of: .itemTable) == "_embedding_collection.embeddings.films.weight")
    #expect(named.description.hasTargets && named.description.output.rows == .targets)
    #expect(named.unusedTensors == ["_embedding_collection.embeddings.action.weight"])
  }

  @Test func groupNormSaysHowManyHeads() throws {
    var fixture = ImportFixture.stack
    fixture.config = fixture.config?.replacing(#""heads": 2, "#, with: "")
    for layer in 0..<4 {
      for part in ["weight", "bias"] { fixture.set("\(ImportFixture.stackPrefix)\(layer)._output_norm_\(part)", [2]) }
    }
    let layer = try fixture.describe().description.layers[0]
    #expect(layer.outputNorm.kind == .groupNorm && layer.heads == 2 && layer.hiddenDim == 6 && layer.attentionDim == 4)
  }

  @Test func stackAloneRunsOnGivenRows() throws {
    let fixture = ImportFixture(
      shapes: ImportFixture.productionLayer("_stu_layers.0.", width: 16, heads: 2, queries: 4, values: 6),
      family: .retrieval,
      flags: [
        .value("--heads", "heads", "2"), .value("--alpha", "alpha", "0.25"), .value("--divisor", "divisor", "64"),
        .value("--mask", "mask", "causal"), .value("--rows", "rows", "all"),
        .value("--user-norm", "user_norm", "none"),
      ])
    let result = try fixture.describe()
    #expect(result.description.input == .rows && result.description.output.rows == .all)
    #expect(result.text.contains(#""layer_prefix": "_stu_layers.{i}.""#))
  }

  @Test func nestedStacksRunInOrder() throws {
    var fixture = ImportFixture.stack
    let prefix = ImportFixture.stackPrefix
    // Layers 2 and 3 inside L2STU: the same weights, two modules deeper.
    let nested = fixture.renamed { name in
      name.replacing("\(prefix)2.", with: "\(prefix)2._stu._stu_layers.0.")
        .replacing("\(prefix)3.", with: "\(prefix)2._stu._stu_layers.1.")
    }
    fixture = nested.with { $0.config = $0.config?.replacing(#""drop", "after": 2,"#, with: #""skip", "after": 2,"#) }
    let result = try fixture.describe()
    #expect(result.description.layers.count == 4)
    #expect(result.description.truncations == [.init(.skip(until: 4), after: 2, keep: 10)])
    #expect(
      result.description.names.layerPrefix
        == .list(
          [0, 1].map { "\(prefix)\($0)." } + [
            "\(prefix)2._stu._stu_layers.0.", "\(prefix)2._stu._stu_layers.1.",
          ]))
    // Such a layer is truncation or stochastic depth; names do not tell.
    let untold = fixture.with {
      $0.config = $0.config?.replacing(#/"truncation": \{[^}]*\}, /#, with: "")
    }
    #expect(untold.failure().contains("--truncation FORM{...}"))
  }

  // MARK: - Names

  @Test("prefixes and wrappers change names in model.json and nothing else", arguments: families.indices)
  func prefixes(index: Int) throws {
    let plain = Self.families[index]
    let expected = try plain.describe().description
    func check(_ fixture: ImportFixture, _ what: String, prefix: String?) throws {
      let result = try fixture.describe()
      var description = result.description
      if let prefix { #expect(description.names.prefix == prefix, "\(what)") }
      description.names = expected.names
      #expect(description == expected, "\(what)")
      #expect(result.unusedTensors.isEmpty, "\(what): \(result.unusedTensors)")
    }
    try check(plain.renamed { "module." + $0 }, "DDP", prefix: "module.")
    try check(
      plain.renamed { "model_state_dict.module._orig_mod." + $0 }, "all", prefix: "model_state_dict.module._orig_mod.")
    try check(
      plain.renamed { $0.replacing(/^_hstu(_transducer)?\./) { "\($0.output.0)_orig_mod." } }, "inside", prefix: nil)
    try check(
      plain.renamed { $0.replacing(/(layers\.\d+\.)/) { "\($0.output.0)_checkpoint_wrapped_module." } }, "layers",
      prefix: "")
    // Tables apart from the rest, as sparse and dense parts are saved.
    try check(
      plain.renamed { ($0.contains("mbedding_") ? "sparse._hstu_model." : "dense.") + $0 }, "parts", prefix: nil)
    // Averaged weights beside the others.
    let both = plain.with { fixture in
      let other = plain.renamed { "ema." + $0 }
      fixture.shapes += other.shapes
      fixture.values += other.values
    }
    #expect(both.failure().contains("it is for the same as tensor \"_") && both.failure().contains("--prefix"))
    let chosen = try both.with { $0.prefix = "ema." }.describe()
    #expect(
      chosen.description.names.prefix == "ema." && chosen.unusedTensors.count == plain.shapes.count + plain.values.count
    )
  }

  @Test func earlierVersionsOfRankingModels() throws {
    let expected = try ImportFixture.ranking.describe().description
    func check(_ fixture: ImportFixture, unused: [String] = []) throws {
      let result = try fixture.describe()
      var description = result.description
      description.names = expected.names
      #expect(description == expected)
      #expect(result.unusedTensors == unused)
    }
    // Norms with their own parameters' names.
    try check(
      ImportFixture.ranking.renamed {
        $0.replacing(/(mlp|module)\.([13])\.(weight|bias)$/) { "\($0.output.1).\($0.output.2)._\($0.output.3)" }
      })
    // A preprocessor that keeps actions itself, and no buffer of their bits.
    try check(
      ImportFixture.ranking.with { $0.values.removeFirst() }.renamed {
        $0.replacing("_action_encoder._action_embedding_table", with: "_action_embeddings")
          .replacing("_action_encoder._target_action_embedding_table", with: "_candidate_action_embedding")
      })
    // No buffers of the calendar.
    let periods = #""periods": [{"unit": 3600, "count": 24}, {"unit": 86400, "count": 7}], "alpha"#
    let bare = ImportFixture.ranking.with { $0.values.removeLast(2) }
    #expect(bare.failure().contains("\n  periods  periods  parts of the calendar"))
    try check(bare.with { $0.config = $0.config?.replacing("\"alpha", with: periods) })
    // Perceptrons one module deeper, of a preprocessor that may interleave.
    let deeper = ImportFixture.ranking.renamed {
      $0.replacing(/_(content|action)_embedding_mlp\./) { "\($0.output.0)_mlp." }
    }
    #expect(deeper.failure().contains("--combine"))
    try check(deeper.with { $0.flags = [.value("--combine", "combine", "sum")] })
    // Nothing is added to content: its perceptron is there, but reads nothing.
    let plain = try ImportFixture.ranking.with {
      $0.set(Self.preprocessor + "_additional_embedding_mlp.0.weight", [20, 0])
      $0.config = $0.config?.replacing(#""item_id", "user_id", "item_category_id""#, with: #""item_id", "user_id""#)
    }.describe()
    #expect(plain.unusedTensors.count == 8)
    if case .events(let events) = plain.description.input { #expect(events.additional == nil) }
  }

  @Test func onlyTableLeftIsTheContent() throws {
    var fixture = ImportFixture.ranking
    fixture.set("_embedding_collection.embeddings.item_category_id.weight", nil)
    fixture.shapes.removeAll { $0.name.contains("_additional_embedding_mlp") }
    fixture.set("_item_embedding_mlp.0.weight", [44, 24])
    fixture.config = """
      {
        "heads": 2, "alpha": 0.25, "divisor": 256, "mask": "causal", "contextual": [{"feature": "user_id"}],
        "tasks": [{"name": "a", "kind": "binary"}, {"name": "b", "kind": "binary"}]
      }
      """
    guard case .events(let events) = try fixture.describe().description.input else { return }
    #expect(events.content.features == ["item_id"] && events.contextual.map(\.slots) == [1])
  }

  // MARK: - The reference's models

  @Test(
    "models of the reference, imported from their state_dict, give the same scores",
    arguments: ["dlrm_no_history", "dlrm_timestamp", "dlrm_two_contextual_layernorm"])
  func golden(name: String) throws {
    let file = try SafetensorsFile(path: "\(goldenFolder)/\(name).safetensors")
    var options = ImportOptions(family: .ranking, name: name, weights: ["\(name).safetensors"])
    options.config = try JSONDocument(try #require(Self.goldenConfigs[name]), file: "config.json")
    let result = try describeCheckpoint(Checkpoint([file]), options)
    let additional = "\(Self.preprocessor)_additional_embedding_mlp."
    #expect(
      result.unusedTensors.allSatisfy {
        $0.hasPrefix("input.") || $0.hasPrefix("expected") || (name == "dlrm_no_history" && $0.hasPrefix(additional))
      }, "\(result.unusedTensors)")
    let imported = try result.description.build(from: Checkpoint([file]))
    var compared = 0
    _ = try GoldenCase(name, in: goldenFolder).check { program, part in
      // The second program of a case has the clamp of time buckets of the PyTorch path.
      guard part == name else { return [] }
      func scores(_ module: Module, _ weights: any WeightProvider) throws -> [UInt8]? {
        try Interpreter(module: module, weights: weights, precision: .f64)
          .run("forward", inputs: program.inputs).first { $0.name == "scores" }?.tensor.bytes
      }
      let (found, expected) = (
        try scores(imported.module, imported.weights), try scores(program.module, program.weights)
      )
      #expect(found != nil && found == expected)
      compared += 1
      return []
    }
    #expect(compared == 1)
  }

  private static let goldenConfigs: [String: String] = {
    let layer = #""heads": 2, "alpha": "1/sqrt(attention_dim)", "mask": "causal", "content": ["item"], "#
    let tasks =
      #""tasks": [{"name": "task0", "kind": "binary"}, {"name": "task1", "kind": "binary"}, {"name": "reg0", "kind": "regression"}]"#
    let binary = tasks.replacing("reg0", with: "task2").replacing("regression", with: "binary")
    let more = #""additional": ["category"], "items": ["item", "category"], "#
    return [
      "dlrm_no_history": "{\(layer)\"divisor\": 23, \"contextual\": [{\"feature\": \"user_id\"}], \(binary)}",
      "dlrm_timestamp": "{\(layer)\(more)\"divisor\": 25, \"contextual\": [{\"feature\": \"user_id\"}], \(tasks)}",
      "dlrm_two_contextual_layernorm":
        "{\(layer)\(more)\"divisor\": 30, \"contextual\": [{\"feature\": \"user_id\"}, {\"feature\": \"user_tags\", \"slots\": 2, \"minimum_events\": 20}], \(tasks)}",
    ]
  }()

  // MARK: - The text

  @Test("what is written follows the schema, and is the same each time", arguments: families.indices)
  func schema(index: Int) throws {
    let schema = try JSONDocument(repositoryText("docs/model.schema.json"), file: "model.schema.json").root
    let validator = SchemaValidator(root: schema)
    let text = try Self.families[index].describe().text
    let root = try JSONDocument(text, file: "model.json").root
    #expect(validator.faults(root).isEmpty, "\(validator.faults(root))")
    #expect(root.pretty + "\n" == text)
    #expect(text == (try Self.families[index].describe().text))
    #expect(text.split(separator: "\n").allSatisfy { $0.count <= 130 })
    // The validator sees what is wrong.
    for (right, wrong) in [
      (#""width": "#, #""wide": "#), (#""heads": "#, #""heads": -"#), (#""preset": "gr-"#, #""preset": "my-"#),
      (#""form": ""#, #""form": "un"#), (#""format""#, #""training": [], "format""#),
    ] {
      let changed = try JSONDocument(text.replacing(right, with: wrong), file: "model.json").root
      #expect(!validator.faults(changed).isEmpty, "\(wrong)")
    }
  }

  @Test func documentationExplainsEverySetting() throws {
    let page = try repositoryText("docs/import.md")
    for key in ImportKey.allCases { #expect(page.contains("`\(key.rawValue)`"), "\(key)") }
    for pattern in ["module.", "_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."] {
      #expect(page.contains("`\(pattern)`"), "\(pattern)")
    }
  }

  @Test func everyExampleFollowsTheSchema() throws {
    let schema = try JSONDocument(repositoryText("docs/model.schema.json"), file: "model.schema.json").root
    for name in [
      "movielens-100k/model", "movielens-100k/retrieval", "movielens-ultra/model", "movielens-ultra/retrieval",
    ] {
      let text = try repositoryText("examples/\(name).json")
      let faults = SchemaValidator(root: schema).faults(try JSONDocument(text, file: name).root)
      #expect(faults.isEmpty, "\(name): \(faults)")
    }
  }
}
