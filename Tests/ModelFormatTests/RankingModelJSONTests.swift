import Foundation
import Interpreter
import TensorIR
import TestSupport
import Testing

@testable import ModelFormat

/// Whole ranking models in model.json: every field read, every fault named, and a reference's checkpoint imported.
@Suite struct RankingModelJSONTests {
  /// The model of the case dlrm_two_contextual_layernorm.
  static let base = """
    {
      "format": "ultrac-model/1",
      "name": "ranking",
      "weights": ["WEIGHTS"],
      "width": 48,
      "names": {"preset": "gr-production"},
      "sequence": {"targets": true},
      "input": {
        "kind": "events",
        "tables": {
          "item": {"rows": 50, "width": 24, "out_of_range": "modulo"},
          "category": {"rows": 12, "width": 24, "out_of_range": {"fallback": 3}},
          "user_id": {"rows": 9, "width": 24},
          "user_tags": {"rows": 9, "width": 24}
        },
        "features": {"item": "item", "category": "category"},
        "content": {"features": ["item"], "mlp": {"hidden": 48, "epsilon": 1e-5}},
        "additional": {"features": ["category"], "mlp": {"hidden": 48, "epsilon": 1e-5}},
        "action": {"bits": [1, 2, 4, 8], "width": 8, "targets": "learned", "mlp": {"hidden": 48, "epsilon": 1e-5}},
        "combine": "sum",
        "contextual": [
          {"feature": "user_id", "table": "user_id", "slots": 1},
          {"feature": "user_tags", "table": "user_tags", "slots": 2, "minimum_events": 20}
        ],
        "scale": "sqrt(width)",
        "position": {"rows": 64, "order": "descending"},
        "time": {"rows": 97, "scale": "square_root", "unit": 60, "limit": 96}
      },
      "layer_count": 2,
      "layer": {
        "heads": 2, "attention_dim": 16, "hidden_dim": 24, "alpha": "1/sqrt(attention_dim)", "divisor": 30,
        "activations": {"u": "silu", "v": "none", "q": "none", "k": "none"},
        "input_norm": {"kind": "layer_norm", "affine": true, "epsilon": 1e-6}, "uvqk": {"bias": true},
        "mask": {"form": "causal", "contextual": 0},
        "output_norm": {"kind": "layer_norm", "affine": true, "epsilon": 1e-6},
        "concatenate": ["u", "attention", "gated"], "output": {"bias": false}
      },
      "output": {
        "rows": "targets",
        "norm": {"kind": "layer_norm", "epsilon": 1e-5},
        "ranking": {
          "items": {"features": ["item", "category"], "mlp": {"hidden": 512, "epsilon": 1e-5}},
          "mlp": {"hidden": 512, "epsilon": 1e-5},
          "tasks": [
            {"name": "task0", "kind": "binary"}, {"name": "task1", "kind": "binary"}, {"name": "reg0", "kind": "regression"}
          ]
        }
      },
      "stages": ["content", "time_bucket", "user_embeddings", "task_logits"]
    }
    """

  private func decode(_ text: String) throws(ModelError) -> ModelDescription {
    try ModelDocument(JSONDocument(text, file: "model.json")).description
  }

  @Test func readsEveryField() throws {
    let description = try decode(Self.base)
    guard case .events(let events) = description.input else {
      Issue.record("no events")
      return
    }
    #expect(description.contextual == 3 && description.layers.allSatisfy { $0.mask.contextual == 0 })
    #expect(events.tables.map(\.outOfRange) == [.modulo, .fallback(row: 3), .error, .error])
    #expect(events.features == [.init(name: "item", table: "item"), .init(name: "category", table: "category")])
    #expect(events.content == .init(features: ["item"], .init(hidden: 48, epsilon: 1e-5)))
    #expect(events.action?.allMasks == [1, 2, 4, 8] && events.action?.targets == .learned)
    #expect(!events.isInterleaved)
    #expect(events.contextual.map(\.slots) == [1, 2] && events.contextual.map(\.minimumEvents) == [0, 20])
    #expect(events.time == .init(rows: 97, buckets: .init(.squareRoot, unit: 60, limit: 96)))
    #expect(description.output.ranking?.tasks.map(\.name) == ["task0", "task1", "reg0"])
    #expect(description.output.ranking?.tasks.map(\.kind) == [.binary, .binary, .regression])
    #expect(description.stages == [.content, .timeBucket, .userEmbeddings, .taskLogits])
  }

  @Test func readsWhatTheBaseLacks() throws {
    let text = Self.base
      .replacing(#""combine": "sum""#, with: #""combine": "interleave""#)
      .replacing(
        #""width": 8, "targets": "learned""#,
        with: #""width": 8, "targets": "zero", "watch_time": {"thresholds": [-30, 60], "bits": [16, 32]}"#
      )
      .replacing(#""limit": 96"#, with: #""limit": 47"#).replacing("square_root", with: "logarithm")
      .replacing(
        #"{"kind": "layer_norm", "epsilon": 1e-5}"#,
        with:
          #"{"kind": "timestamp_layer_norm", "epsilon": 1e-5, "pi": 3.14, "periods": [{"unit": 3600, "count": 24}]}"#)
    let description = try decode(text)
    guard case .events(let events) = description.input else {
      Issue.record("no events")
      return
    }
    #expect(events.isInterleaved)
    #expect(events.action?.watchTime == MarkBits(thresholds: [-30, 60], bits: [16, 32]))
    #expect(events.action?.targets == .zero && events.action?.allMasks == [1, 2, 4, 8, 16, 32])
    #expect(events.time?.buckets == .init(.logarithm, unit: 60, limit: 47))
    #expect(
      description.output.norm == .timestampLayer(epsilon: 1e-5, periods: [.init(unit: 3600, count: 24)], pi: 3.14))
  }

  static let faults: [(text: String, replacement: String, error: String)] = [
    (
      #""out_of_range": "modulo""#, #""out_of_range": "hash""#,
      #"model.json:11: input.tables.item.out_of_range: expected "error", "modulo" or {"fallback": row}, found "hash""#
    ),
    (
      #"{"fallback": 3}"#, #"{"fallback": 12}"#,
      "model.json:12: input.tables.category.out_of_range.fallback: expected a row of the table, 0...11, found 12"
    ),
    (
      #"{"rows": 9, "width": 24},"#, #"{"rows": 9},"#,
      #"model.json:13: input.tables.user_id: the key "width" is missing; the elements of a row"#
    ),
    (
      #""category": "category"}"#, #""category": "categorie"}"#,
      #"model.json:16: input.features.category: there is no table "categorie"; did you mean "category"?"#
    ),
    (
      #""features": {"item": "item", "#, #""features": {"offsets": "item", "item": "item", "#,
      #"model.json:16: input.features: a call already brings "offsets"; give the feature a name of its own"#
    ),
    (
      #"{"features": ["item"], "#, #"{"features": ["items"], "#,
      #"model.json:17: input.content.features[0]: there is no feature "items"; did you mean "item"?"#
    ),
    (
      #"{"features": ["item"], "#, #"{"features": [], "#,
      "model.json:17: input.content.features: expected at least one feature"
    ),
    (
      #""mlp": {"hidden": 48, "epsilon": 1e-5}},"#, #""mlp": {"hiden": 48, "epsilon": 1e-5}},"#,
      #"model.json:17: input.content.mlp.hiden: unknown key; did you mean "hidden"?"#
    ),
    (
      #"[1, 2, 4, 8]"#, "[1, 2, 0, 8]",
      "model.json:19: input.action.bits[2]: expected a positive integer, whose bits count, found 0"
    ),
    (
      #""targets": "learned", "#, "",
      #"model.json:19: input.action: the key "targets" is missing; what candidates have: "learned" or "zero""#
    ),
    (
      #""targets": "learned", "#, #""targets": "learned", "watch_time": {"thresholds": [1], "bits": [1, 2]}, "#,
      "model.json:19: input.action.watch_time.thresholds: 1 thresholds for 2 sets of bits"
    ),
    (
      #""combine": "sum","#, "",
      #"model.json:8: input: the key "combine" is missing; "sum" adds action rows to content rows, "interleave" puts them behind"#
    ),
    (
      #""table": "user_tags", "slots": 2"#, #""table": "user_tags", "slots": 0"#,
      "model.json:23: input.contextual[1].slots: expected a number of rows from 1 to 65536, found 0"
    ),
    (
      #""feature": "user_tags""#, #""feature": "user_id""#,
      #"model.json:21: input.contextual: a call already brings "user_id"; give the feature a name of its own"#
    ),
    (
      #""user_tags": {"rows": 9, "width": 24}"#, #""user_tags": {"rows": 9, "width": 25}"#,
      "model.json:23: input.contextual[1].table: rows of 25 elements, but the contextual features before it have 24"
    ),
    (
      #""unit": 60"#, #""unit": 0.5"#,
      "model.json:27: input.time.unit: expected seconds from 1 to 2^40, found 0.5"
    ),
    (
      #""limit": 96"#, #""limit": 97"#,
      "model.json:27: input.time.limit: expected a row of the time table, 0...96, found 97"
    ),
    (
      #""targets": true}"#, #""targets": true, "contextual": 2}"#,
      "model.json:21: input.contextual: 3 slots, but sequence.contextual is 2"
    ),
    (
      #""form": "causal", "contextual": 0"#, #""form": "causal""#,
      #"model.json:34: layer.mask: the key "contextual" is missing; contextual rows as the mask counts them: 0 in GR's DlrmHSTU, whatever the slots"#
    ),
    (
      #""kind": "events","#, #""kind": "embedding","#,
      #"model.json:10: input.tables: only an input of kind "events" has this key"#
    ),
    (
      #""kind": "events","#, #""kind": "events", "padding_id": 0,"#,
      #"model.json:9: input.padding_id: only an input of kind "embedding" has this key"#
    ),
    (
      #""rows": "targets""#, #""rows": "last""#,
      #"model.json:41: output.ranking: ranking is of candidates; set output.rows to "targets""#
    ),
    (
      #""norm": {"kind": "layer_norm", "epsilon": 1e-5},"#,
      #""norm": {"kind": "layer_norm", "epsilon": 1e-5, "pi": 3},"#,
      #"model.json:40: output.norm.pi: only a norm of kind "timestamp_layer_norm" has this key"#
    ),
    (
      #""norm": {"kind": "layer_norm", "epsilon": 1e-5},"#,
      #""norm": {"kind": "timestamp_layer_norm", "epsilon": 1e-5, "periods": []},"#,
      #"model.json:40: output.norm: the key "pi" is missing; GR takes 3.14"#
    ),
    (
      #""name": "task1""#, #""name": "task0""#,
      #"model.json:45: output.ranking.tasks[1].name: expected a name of its own, found "task0""#
    ),
    (
      #"{"name": "reg0", "kind": "regression"}"#, #"{"name": "reg0", "kind": "regresion"}"#,
      #"model.json:45: output.ranking.tasks[2].kind: expected "binary" or "regression", found "regresion"; did you mean "regression"?"#
    ),
    (
      #""time_bucket", "#, #""preprocessed_offset", "#,
      #"model.json:49: stages[1]: there is no stage "preprocessed_offset"; did you mean "preprocessed_offsets"?"#
    ),
  ]

  @Test(arguments: faults) func namesTheFault(_ text: String, _ replacement: String, _ error: String) throws {
    let place = try #require(Self.base.firstRange(of: text), "the base has no \(text)")
    do {
      _ = try decode(Self.base.replacingCharacters(in: place, with: replacement))
      Issue.record("accepted, expected \(error)")
    } catch let fault {
      #expect("\(fault)" == error)
    }
  }

  /// The base with another output: the best items for the user's last row.
  private static func recommender(_ top: String, width: Int = 48) -> String {
    let output = base.firstRange(of: "\"output\": {\n    \"rows\"")?.lowerBound ?? base.endIndex
    return base[..<output].replacing(
      #""item": {"rows": 50, "width": 24,"#, with: #""item": {"rows": 50, "width": \#(width),"#)
      + #""output": {"rows": "last", "norm": {"kind": "none"}, "top_k": \#(top)}}"#
  }

  @Test("items are the rows of a feature's table, which must be as wide as the model")
  func itemsOfAFeature() throws {
    let top = #"{"k": 3, "first_row": 1, "norm": {"kind": "none"}, "feature": "item", "seen": "leave_out"}"#
    let model = try decode(Self.recommender(top))
    let scores = ModelDescription.Output.Scores(firstRow: 1, norm: .none, feature: "item")
    #expect(model.output.topK == .init(count: 3, scores: scores, leavesOutSeen: true))
    let items = try #require(model.items(feature: "item"))
    #expect(items.role == .table("item") && items.rows == 50)
    let faults: [(found: String, put: String, width: Int, error: String)] = [
      (
        #""feature": "item", "#, "", 48,
        #": the key "feature" is missing; the feature whose table's rows are the items"#
      ),
      (
        #""feature": "item""#, #""feature": "items""#, 48,
        #".feature: expected a feature of the input, "item" or "category", found "items"; did you mean "item"?"#
      ),
      (
        "", "", 24,
        #".feature: rows of its table "item" are 24 wide, but the model's are 48: there is no product of the two"#
      ),
      (#""k": 3"#, #""k": 50"#, 48, ".k: expected a number of items, 1...49, found 50"),
    ]
    for (found, put, width, error) in faults {
      let text = Self.recommender(found.isEmpty ? top : top.replacing(found, with: put), width: width)
      let fault = try #require(throws: ModelError.self) { _ = try decode(text) }
      #expect("\(fault)".hasSuffix("output.top_k" + error), "\(fault)")
    }
  }

  @Test("the reference's own checkpoint is imported, and weights are checked against what the model says")
  func importsACheckpoint() throws {
    let weights = goldenFolder + "/dlrm_two_contextual_layernorm.safetensors"
    try withTemporaryFolder { folder in
      let path = folder.appendingPathComponent("model.json").path
      func model(_ change: (String) -> String = { $0 }) throws -> ImportedModel {
        try change(Self.base.replacing("WEIGHTS", with: weights)).write(toFile: path, atomically: true, encoding: .utf8)
        return try importModel(at: path)
      }
      let imported = try model()
      try imported.module.verify()
      let forward = try #require(imported.module.function(named: "forward"))
      #expect(
        forward.arguments.map { forward[$0].name } == [
          "item", "category", "actions", "offsets", "num_targets", "timestamps", "user_id", "user_id_offsets",
          "user_tags", "user_tags_offsets",
        ])
      #expect(
        forward.results.map(\.name) == ["scores", "content", "time_bucket", "user_embeddings", "task_logits"])
      #expect(imported.unusedTensors.allSatisfy { $0.hasPrefix("input.") || $0.hasPrefix("expected") })
      for (change, error) in [
        (
          (#""rows": 97"#, #""rows": 90"#, #""limit": 96"#, #""limit": 89"#),
          "shape [97, 48], but the input needs [90, 48] (rows, model width)"
        ),
        (
          (#""user_tags", "slots": 2"#, #""user_tags", "slots": 1"#, "", ""),
          "shape [3, 24, 48], but the contextual encoder needs [2, 24, 48] (slots, width of a table, model width)"
        ),
        (
          (#"[1, 2, 4, 8]"#, "[1, 2, 4, 16]", "", ""),
          "_combined_action_weights\": holds [1, 2, 4, 8], but input.action says [1, 2, 4, 16]"
        ),
      ] {
        let message = try #require(throws: ModelError.self) {
          _ = try model {
            let text = $0.replacing(change.0, with: change.1)
            return change.2.isEmpty ? text : text.replacing(change.2, with: change.3)
          }
        }
        #expect("\(message)".contains(error))
      }
    }
  }
}

extension String {
  fileprivate func replacingCharacters(in range: Range<Index>, with text: String) -> String {
    self[..<range.lowerBound] + text + self[range.upperBound...]
  }
}
