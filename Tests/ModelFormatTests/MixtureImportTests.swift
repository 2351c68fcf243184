import Foundation
import Interpreter
import TensorIR
import TestSupport
import Testing

@testable import ModelFormat

/// Several transducers and the product that makes one row of theirs.
@Suite struct MixtureImportTests {
  /// Two transducers that share their item table: the first with actions and a truncation, the second of one layer.
  static let text = """
    {
      "format": "ultrac-model/1",
      "name": "mixture",
      "weights": ["weights.safetensors"],
      "width": 6,
      "names": {"preset": "none", "map": {"fusion_weight": "fusion.weight", "fusion_bias": "fusion.bias"}},
      "sequence": {"targets": true, "contextual": 1},
      "transducers": [
        {
          "name": "watched",
          "names": {"preset": "gr-production", "prefix": "watched.", "map": {"item_table": "items"}},
          "input": {"kind": "embedding", "item": {"rows": 9}, "action": {"rows": 4}},
          "layer_count": 2,
          "layer": \(layer),
          "truncation": [{"form": "drop", "after": 1, "keep": 2}]
        },
        {
          "name": "liked",
          "names": {"preset": "gr-production", "prefix": "liked.", "map": {"item_table": "items"}},
          "input": {"kind": "embedding", "item": {"rows": 9}, "scale": "sqrt(width)"},
          "layers": [\(layer)]
        }
      ],
      "fusion": {"bias": true, "layout": "out_in"},
      "output": {"rows": "targets", "norm": {"kind": "l2", "epsilon": 1e-6}}
    }
    """

  private static let layer = """
    {
      "heads": 2, "attention_dim": 3, "hidden_dim": 5, "alpha": 0.5, "divisor": 16,
      "activations": {"u": "silu", "v": "none", "q": "none", "k": "none"},
      "input_norm": {"kind": "none"}, "uvqk": {"bias": false}, "mask": {"form": "windowed", "window": 3},
      "output_norm": {"kind": "none"}, "concatenate": ["u", "attention", "gated"], "output": {"bias": false}
    }
    """

  private func checkpoint() throws -> Checkpoint {
    var random = Random(seed: 3)
    var tensors = [
      (name: "items", tensor: random.tensor([9, 6])), ("fusion.weight", random.tensor([6, 12])),
      ("fusion.bias", random.tensor([6])),
      ("watched._embedding_collection.embeddings.action.weight", random.tensor([4, 6])),
    ]
    for layer in ["watched.0", "watched.1", "liked.0"].map({ $0.split(separator: ".") }) {
      let prefix = "\(layer[0])._hstu_transducer._stu_module._stu_layers.\(layer[1])."
      tensors += [
        (prefix + "_uvqk_weight", random.tensor([6, 32])), (prefix + "_output_weight", random.tensor([30, 6])),
      ]
    }
    return try Checkpoint([SafetensorsFile(bytes: Safetensors.encode(tensors, name: "w"), name: "weights.safetensors")])
  }

  /// Two sequences with a contextual row each, and 2 and 1 targets.
  private static let inputs: [String: HostTensor] = [
    "watched.item_ids": HostTensor([1, 2, 3, 4, 5, 6, 7, 8, 1, 3] as [Int64]),
    "watched.actions": HostTensor([0, 0, 1, 2, 3, 1, 0, 0, 0, 2] as [Int64]),
    "watched.offsets": HostTensor([0, 7, 10] as [Int64]),
    "liked.item_ids": HostTensor([1, 7, 8, 8, 2, 1, 5, 3] as [Int64]),
    "liked.offsets": HostTensor([0, 3, 8] as [Int64]), "num_targets": HostTensor([2, 1] as [Int64]),
  ]

  private func run(_ model: ImportedModel, _ inputs: [String: HostTensor]) throws -> [Double] {
    try model.module.verify()
    return try Interpreter(module: model.module, weights: model.weights, precision: .f64)
      .run("forward", inputs: inputs)[0].tensor.doubles
  }

  @Test("what was seen is what was looked up: one meaning of ids outside the table that transducers share")
  func hashedIDs() throws {
    func recommender(_ watched: String, _ liked: String) throws -> ImportedModel {
      let text = Self.text
        .replacing(#""map": {"fusion_weight"#, with: #""map": {"item_table": "items", "fusion_weight"#)
        .replacing(
          #""item": {"rows": 9}, "action""#, with: #""item": {"rows": 9, "out_of_range": \#(watched)}, "action""#
        )
        .replacing(#""item": {"rows": 9}, "scale""#, with: #""item": {"rows": 9, "out_of_range": \#(liked)}, "scale""#)
        .replacing(
          #""rows": "targets", "norm": {"kind": "l2", "epsilon": 1e-6}"#,
          with: #""rows": "last", "norm": {"kind": "none"}, "#
            + #""top_k": {"k": 2, "first_row": 1, "norm": {"kind": "none"}, "seen": "leave_out"}"#)
      return try ModelDocument(JSONDocument(text, file: "model.json")).description.build(from: checkpoint())
    }
    for (watched, liked, isHashed) in [
      (#""modulo""#, #""modulo""#, true), (#""error""#, #""modulo""#, true), (#"{"fallback": 2}"#, #""error""#, false),
      (#"{"fallback": 2}"#, #"{"fallback": 3}"#, false),
    ] {
      let model = try recommender(watched, liked)
      try model.module.verify()
      let list = try #require(model.module.text.split(separator: "\n").first { $0.contains(" = top_k ") })
      let attributes = isHashed ? "{k = 2, first_id = 1, seen = modulo(9)}" : "{k = 2, first_id = 1}"
      #expect(list.contains(attributes), "\(watched), \(liked): \(list)")
    }
    let fault = #expect(throws: ModelError.self) { _ = try recommender(#"{"fallback": 2}"#, #""modulo""#) }
    #expect(
      "\(try #require(fault))".hasSuffix(
        "transducers look up rows of \"items\" with out_of_range \"modulo\" and {\"fallback\": 2}, so an id outside has "
          + "two meanings in the list of what was seen"))
  }

  @Test("the transducers' rows side by side, times the fusion, are the model's")
  func fused() throws {
    let checkpoint = try checkpoint()
    let description = try ModelDocument(JSONDocument(Self.text, file: "model.json")).description
    let mixture = try #require(description.mixture)
    let model = try description.build(from: checkpoint)
    #expect(model.unusedTensors == [])
    #expect(
      model.trainedStructure.map(\.summary) == [
        "watched: all 2 layers", "watched: layer 1 on the latest 2 history rows, older ones are dropped",
        "liked: the only layer",
      ])
    let forward = try #require(model.module.function(named: "forward"))
    #expect(
      forward.arguments.map { "\(forward[$0].name): \(forward[$0].type)" } == [
        "watched.item_ids: tensor<watched.rows x i64>", "watched.actions: tensor<watched.rows x i64>",
        "watched.offsets: offsets<sequences x watched.rows>", "num_targets: tensor<sequences x i64>",
        "liked.item_ids: tensor<liked.rows x i64>", "liked.offsets: offsets<sequences x liked.rows>",
      ])
    // Each transducer as a model of its own.
    let parts = try mixture.transducers.map { transducer in
      var alone = transducer
      alone.output = .init(rows: .targets)
      var inputs = ["num_targets": try #require(Self.inputs["num_targets"])]
      for (name, tensor) in Self.inputs where name.hasPrefix(transducer.name + ".") {
        inputs[String(name.dropFirst(transducer.name.count + 1))] = tensor
      }
      return try run(alone.build(from: checkpoint), inputs)
    }
    func weight(_ name: String) throws -> [Double] {
      try model.weights.withWeight(name) { element, shape, bytes in
        try HostTensor(element: element, shape: shape, bytes: [UInt8](bytes)).doubles
      }
    }
    let (matrix, bias) = (try weight("fusion.weight"), try weight("fusion.bias"))
    let found = try run(model, Self.inputs)
    #expect(found.count == 3 * 6)
    for row in 0..<3 {
      let joined = parts.flatMap { $0[row * 6..<row * 6 + 6] }
      var fused = bias
      for column in 0..<6 {
        for (index, number) in joined.enumerated() { fused[column] += number * matrix[column * 12 + index] }
      }
      var squares = 0.0
      for number in fused { squares += number * number }
      let length = squares.squareRoot()
      for column in 0..<6 { #expect(abs(found[row * 6 + column] - fused[column] / length) < 1e-12) }
    }
  }

  /// A text of the model, what stands in its place, and the error that follows.
  static let faults: [(text: String, replacement: String, error: String)] = [
    (
      #""liked","#, #""watched","#,
      #"model.json:18: transducers[1].name: two transducers are called "watched""#
    ),
    (
      #""fusion": {"bias": true, "layout": "out_in"},"#, "",
      #"model.json:1: the key "fusion" is missing; the product that makes one row of the transducers'"#
    ),
    (
      #""layout": "out_in""#, #""layout": "turned""#,
      #"model.json:24: fusion.layout: expected "in_out" or "out_in", found "turned""#
    ),
    (
      #""fusion": {"#, #""input": {"kind": "rows"}, "fusion": {"#,
      #"model.json:24: input: stands beside "transducers", each of which has its own"#
    ),
    (
      #""rows": "targets""#, #""rows": "all""#,
      #"model.json:25: output: transducers have only targets and last rows in common; "rows" is "targets" or "last""#
    ),
    (
      #""fusion": {"#, #""stages": ["encoded"], "fusion": {"#,
      "model.json:24: stages: a model of several transducers has no stages"
    ),
  ]

  @Test(arguments: faults.indices)
  func faultsAreNamed(index: Int) throws {
    let (text, replacement, expected) = Self.faults[index]
    let range = try #require(Self.text.firstRange(of: text))
    let changed = Self.text.replacingCharacters(in: range, with: replacement)
    let error = #expect(throws: ModelError.self) { try ModelDocument(JSONDocument(changed, file: "model.json")) }
    // The layers are written on lines of their own: the place counts, not the line.
    let place = { (message: String) in message.drop { $0 != " " } }
    #expect(error.map { place("\($0)") } == place(expected))
  }
}
