import Foundation
import TensorIR
import TestSupport

@testable import ModelFormat

/// Checkpoints by names and shapes, and what is told of them.
struct ImportFixture {
  var shapes: [(name: String, shape: [Int])]
  /// Tensors whose values count.
  var values: [(name: String, tensor: HostTensor)] = []
  var family: ImportFamily
  /// JSON; nil for none.
  var config: String?
  var flags: [ImportOptions.Flag] = []
  var prefix = ""

  var checkpoint: Checkpoint {
    get throws {
      var random = Random(seed: 11)
      let tensors = shapes.map { ($0.name, random.tensor($0.shape, spread: 0.3)) } + values
      return try Checkpoint([
        SafetensorsFile(bytes: Safetensors.encode(tensors, name: "w"), name: "weights.safetensors")
      ])
    }
  }

  /// The import of `own`, or of a checkpoint of these shapes.
  func describe(_ own: Checkpoint? = nil) throws -> CheckpointImport {
    var options = ImportOptions(family: family, name: "imported", weights: ["weights.safetensors"])
    options.config = try config.map { try JSONDocument($0, file: "config.json") }
    options.flags = flags
    options.prefix = prefix
    return try describeCheckpoint(own ?? checkpoint, options)
  }

  /// The text of the error that the import throws.
  func failure() -> String {
    do {
      return "no error: \(try describe().text)"
    } catch {
      return "\(error)"
    }
  }

  func with(_ change: (inout ImportFixture) throws -> Void) rethrows -> ImportFixture {
    var changed = self
    try change(&changed)
    return changed
  }

  /// Every tensor under another name.
  func renamed(_ rename: (String) -> String) -> ImportFixture {
    with {
      $0.shapes = shapes.map { (rename($0.name), $0.shape) }
      $0.values = values.map { (rename($0.name), $0.tensor) }
    }
  }

  mutating func set(_ name: String, _ shape: [Int]?) {
    shapes.removeAll { $0.name == name }
    if let shape { shapes.append((name, shape)) }
  }

  /// A layer of STULayer.
  static func productionLayer(
    _ prefix: String, width: Int, heads: Int, queries: Int, values: Int, parts: Int = 3, grouped: Bool = false
  ) -> [(name: String, shape: [Int])] {
    let columns = 2 * heads * (queries + values)
    let norm = grouped ? heads : heads * values
    return [
      (prefix + "_uvqk_weight", [width, columns]), (prefix + "_uvqk_beta", [columns]),
      (prefix + "_input_norm_weight", [width]), (prefix + "_input_norm_bias", [width]),
      (prefix + "_output_norm_weight", [norm]), (prefix + "_output_norm_bias", [norm]),
      (prefix + "_output_weight", [parts * heads * values, width]),
    ]
  }

  private static func perceptron(
    _ prefix: String, hidden: Int, _ inner: Int, _ outer: Int, isNormed: Bool = true
  ) -> [(name: String, shape: [Int])] {
    [
      ("\(prefix).0.weight", [hidden, inner]), ("\(prefix).0.bias", [hidden]), ("\(prefix).1.weight", [hidden]),
      ("\(prefix).1.bias", [hidden]), ("\(prefix).2.weight", [outer, hidden]), ("\(prefix).2.bias", [outer]),
    ] + (isNormed ? [("\(prefix).3.weight", [outer]), ("\(prefix).3.bias", [outer])] : [])
  }

  static let stackPrefix = "_hstu_transducer._stu_module._stu_layers."

  /// MLPerf's DLRMv3 in small, with its configuration as `json.dump(dataclasses.asdict(config))` writes it.
  static let ranking: ImportFixture = {
    let transducer = "_hstu_transducer."
    let preprocessor = transducer + "_input_preprocessor."
    let (width, table) = (32, 24)
    var shapes: [(name: String, shape: [Int])] = [
      ("_embedding_collection.embeddings.item_id.weight", [50, table]),
      ("_embedding_collection.embeddings.item_category_id.weight", [12, table]),
      ("_embedding_collection.embeddings.user_id.weight", [9, table]),
      (preprocessor + "_batched_contextual_linear_weights", [1, table, width]),
      (preprocessor + "_batched_contextual_linear_bias", [1, width]),
      (preprocessor + "_action_encoder._action_embedding_table", [5, 8]),
      (preprocessor + "_action_encoder._target_action_embedding_table", [1, 40]),
      (transducer + "_positional_encoder._position_embeddings_weight", [64, width]),
      (transducer + "_positional_encoder._timestamp_embeddings_weight", [97, width]),
      (transducer + "_output_postprocessor._layer_norm.weight", [width]),
      (transducer + "_output_postprocessor._layer_norm.bias", [width]),
      (transducer + "_output_postprocessor._time_feature_combiner.weight", [width, width + 4]),
      (transducer + "_output_postprocessor._time_feature_combiner.bias", [width]),
    ]
    for layer in 0..<3 {
      shapes += productionLayer("\(stackPrefix)\(layer).", width: width, heads: 2, queries: 8, values: 12)
    }
    shapes += perceptron(preprocessor + "_content_embedding_mlp", hidden: 20, table, width)
    shapes += perceptron(preprocessor + "_additional_embedding_mlp", hidden: 20, table, width)
    shapes += perceptron(preprocessor + "_action_embedding_mlp", hidden: 20, 40, width)
    shapes += perceptron("_item_embedding_mlp", hidden: 44, 2 * table, width)
    shapes += perceptron("_multitask_module._prediction_module", hidden: 44, width, 2, isNormed: false)
    return ImportFixture(
      shapes: shapes,
      values: [
        (preprocessor + "_action_encoder._combined_action_weights", HostTensor([1, 2, 4, 8, 16] as [Int64])),
        (transducer + "_output_postprocessor._period_units", HostTensor([3600, 86400] as [Float], shape: [1, 2])),
        (transducer + "_output_postprocessor._units_per_period", HostTensor([24, 7] as [Float], shape: [1, 2])),
      ], family: .ranking,
      config: """
        {
          "max_seq_len": 16384, "hstu_num_heads": 2, "hstu_attn_linear_dim": 12, "hstu_attn_qk_dim": 8,
          "hstu_attn_num_layers": 3, "hstu_embedding_table_dim": 24, "hstu_preprocessor_hidden_dim": 20,
          "hstu_transducer_embedding_dim": 32, "hstu_group_norm": false, "hstu_input_dropout_ratio": 0.2,
          "contextual_feature_to_max_length": {"user_id": 1},
          "contextual_feature_to_min_uih_length": {"user_id": 20},
          "uih_post_id_feature_name": "item_id", "uih_weight_feature_name": "item_weights",
          "user_embedding_feature_names": ["item_id", "user_id", "item_category_id"],
          "item_embedding_feature_names": ["item_candidate_id", "item_candidate_category_id"],
          "merge_uih_candidate_feature_mapping": [
            ["item_id", "item_candidate_id"], ["action_timestamp", "item_query_time"],
            ["item_category_id", "item_candidate_category_id"]
          ],
          "multitask_configs": [
            {"task_name": "rating", "task_weight": 1, "task_type": 0},
            {"task_name": "minutes", "task_weight": 1, "task_type": 1}
          ],
          "action_weights": [1, 2, 4, 8, 16], "hstu_ultra_stack_name": null,
          "alpha": "1/sqrt(attention_dim)", "divisor": 256, "mask": "causal"
        }
        """)
  }()

  /// The research code's HSTU: 3 heads of 5 and 7, 21 rows.
  static let research: ImportFixture = {
    var shapes: [(name: String, shape: [Int])] = [
      ("_embedding_module._item_emb.weight", [31, 20]), ("_input_features_preproc._pos_emb.weight", [21, 20]),
    ]
    for layer in 0..<2 {
      let prefix = "_hstu._attention_layers.\(layer)."
      shapes += [
        (prefix + "_uvqk", [20, 72]), (prefix + "_o.weight", [20, 21]), (prefix + "_o.bias", [20]),
        (prefix + "_rel_attn_bias._pos_w", [41]), (prefix + "_rel_attn_bias._ts_w", [129]),
      ]
    }
    return ImportFixture(shapes: shapes, family: .retrieval, flags: [.value("--heads", "heads", "3")])
  }()

  /// The ULTRA form: four layers of production on summed embeddings.
  static let stack: ImportFixture = {
    var shapes: [(name: String, shape: [Int])] = [
      ("_embedding_collection.embeddings.item.weight", [31, 16]),
      ("_embedding_collection.embeddings.action.weight", [6, 16]),
      ("_positional_encoder._position_embeddings_weight", [40, 16]),
    ]
    for layer in 0..<4 {
      shapes += productionLayer("\(stackPrefix)\(layer).", width: 16, heads: 2, queries: 4, values: 6)
    }
    return ImportFixture(
      shapes: shapes, family: .retrieval,
      config: """
        {
          "heads": 2, "alpha": "1/attention_dim", "divisor": 64, "mask": {"form": "windowed", "window": 8, "full_tail": 4},
          "truncation": {"form": "drop", "after": 2, "keep": 10}, "top_k": 5, "seen": "leave_out", "first_row": 1,
          "item_norm": "l2"
        }
        """)
  }()
}
