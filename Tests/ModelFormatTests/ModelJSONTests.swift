import Testing

@testable import ModelFormat

/// Every way to get model.json wrong has an error that names the line, the key, what was found and what was expected.
@Suite struct ModelJSONTests {
  /// A model that uses every part of the format. Line 1 is the brace.
  static let base = """
    {
      "format": "ultrac-model/1",
      "name": "base",
      "weights": ["weights.safetensors"],
      "width": 6,
      "names": {"preset": "gr-production", "map": {"layers.1.uvqk_bias": "beta"}},
      "sequence": {"targets": true, "contextual": 2},
      "input": {
        "kind": "embedding",
        "item": {"rows": 9, "out_of_range": {"fallback": 0}},
        "action": {"rows": 4},
        "scale": "sqrt(width)",
        "position": {"rows": 16, "order": "descending", "limit": 15},
        "padding_id": 0
      },
      "layer_count": 3,
      "layer": {
        "heads": 2,
        "attention_dim": 3,
        "hidden_dim": 5,
        "alpha": "1/attention_dim",
        "divisor": 16,
        "activations": {"u": "silu", "v": "none", "q": "none", "k": "none"},
        "input_norm": {"kind": "layer_norm", "affine": true, "epsilon": 1e-6},
        "uvqk": {"bias": true, "order": ["u", "v", "q", "k"]},
        "mask": {"form": "windowed", "window": 4, "full_tail": 2},
        "output_norm": {"kind": "group_norm", "affine": true, "epsilon": 1e-6},
        "gate": "sigmoid",
        "concatenate": ["u", "gated"],
        "output": {"bias": false, "layout": "in_out"},
        "residual": true
      },
      "truncation": [
        {"form": "skip", "after": 1, "until": 2, "keep": 4},
        {"form": "drop", "after": 2, "keep": 3}
      ],
      "output": {
        "rows": "targets",
        "norm": {"kind": "l2", "epsilon": 1e-6},
        "scores": {"first_row": 1, "norm": {"kind": "none"}}, "top_k": {"k": 3, "first_row": 2, "norm": {"kind": "none"}, "seen": "keep"}
      },
      "stages": ["input_embedding", "layers.0.attn", "encoded"],
      "training": {"dropout": 0.2, "stochastic_length": {"alpha": 1.6}}
    }
    """

  private func decode(_ text: String) throws(ModelError) -> ModelDocument {
    try ModelDocument(JSONDocument(text, file: "model.json"))
  }

  @Test func readsEveryField() throws {
    let document = try decode(Self.base)
    let model = document.description
    #expect(document.weights == ["weights.safetensors"])
    #expect(
      document.notes == [
        "training.dropout has no effect at inference", "training.stochastic_length has no effect at inference",
      ])
    #expect(model.name == "base" && model.width == 6 && model.hasTargets && model.contextual == 2)
    #expect(model.names.name(of: .uvqkBias, layer: 1) == "beta")
    #expect(model.names.name(of: .uvqkBias, layer: 2) == "_hstu_transducer._stu_module._stu_layers.2._uvqk_beta")
    #expect(
      model.input
        == .embedding(
          .init(
            item: .init(rows: 9, outOfRange: .fallback(row: 0)), action: .init(rows: 4), scale: 6.0.squareRoot(),
            position: .init(rows: 16, order: .descending, limit: 15), paddingID: 0)))
    #expect(
      model.layers
        == Array(
          repeating: .init(
            heads: 2, attentionDim: 3, hiddenDim: 5, alpha: 1 / 3.0, divisor: .fixed(16),
            activations: .init(u: .silu, v: .none, q: .none, k: .none),
            inputNorm: .init(.layerNorm, affine: true, epsilon: 1e-6), uvqkBias: true,
            mask: .init(.windowed(window: 4, fullTail: 2), contextual: 2),
            outputNorm: .init(.groupNorm, affine: true, epsilon: 1e-6), gate: .sigmoid, concatenate: [.u, .gated],
            outputBias: false, outputLayout: .inOut), count: 3))
    #expect(
      model.truncations == [.init(.skip(until: 2), after: 1, keep: 4), .init(.drop, after: 2, keep: 3)])
    #expect(
      model.output
        == .init(
          rows: .targets, norm: .l2(epsilon: 1e-6), scores: .init(firstRow: 1, norm: .none),
          topK: .init(count: 3, scores: .init(firstRow: 2, norm: .none), leavesOutSeen: false)))
    #expect(model.stages == [.inputEmbedding, .layer(0, .attn), .encoded])
  }

  /// A text of the base, what stands in its place, and the error that follows.
  static let faults: [(text: String, replacement: String, error: String)] = [
    (#""ultrac-model/1""#, "2", #"model.json:2: format: expected "ultrac-model/1", found 2"#),
    (
      #""format": "ultrac-model/1","#, "",
      #"model.json:1: the key "format" is missing; it is "ultrac-model/1""#
    ),
    (#""name": "base""#, #""name": """#, #"model.json:3: name: expected a name, found """#),
    (#"["weights.safetensors"]"#, "[]", "model.json:4: weights: expected at least one file"),
    (
      #"["weights.safetensors"]"#, #""weights.safetensors""#,
      #"model.json:4: weights: expected an array, found "weights.safetensors""#
    ),
    (#"["weights.safetensors"]"#, "[3]", "model.json:4: weights[0]: expected a string, found 3"),
    (#""width": 6"#, #""width": 0"#, "model.json:5: width: expected a positive integer, found 0"),
    (#""width": 6"#, #""width": 6.0"#, "model.json:5: width: expected a positive integer, found 6.0"),
    (#""width": 6"#, #""widht": 6"#, #"model.json:5: widht: unknown key; did you mean "width"?"#),
    (
      #""gr-production""#, #""gr-produktion""#,
      #"model.json:6: names.preset: expected "gr-production", "gr-research" or "none", found "gr-produktion"; did you mean "gr-production"?"#
    ),
    (
      #""layers.1.uvqk_bias""#, #""uvqk_baos""#,
      #"model.json:6: names.map.uvqk_baos: unknown weight; did you mean "uvqk_bias"?"#
    ),
    (
      #""layers.1.uvqk_bias""#, #""layers.3.uvqk_bias""#,
      "model.json:6: names.map.layers.3.uvqk_bias: unknown weight; the weights are item_table, action_table, position_table, time_table, action_bits, target_action, contextual_weight, contextual_bias, row_norm_weight, row_norm_bias, time_combiner_weight, time_combiner_bias, fusion_weight, fusion_bias, uvqk_weight, uvqk_bias, input_norm_weight, input_norm_bias, output_weight, output_bias, output_norm_weight, output_norm_bias, position_bias, time_bias; those of one layer are layers.{i}.time_bias"
    ),
    (
      #""preset": "gr-production","#, #""preset": "gr-production", "layer_prefix": ["a", "b"],"#,
      "model.json:6: names.layer_prefix: 2 prefixes for 3 layers"
    ),
    (#""targets": true"#, #""targets": 1"#, "model.json:7: sequence.targets: expected true or false, found 1"),
    (
      #""contextual": 2"#, #""contextual": -2"#,
      "model.json:7: sequence.contextual: expected a non-negative integer, found -2"
    ),
    (
      #""kind": "embedding""#, #""kind": "rows""#,
      #"model.json:10: input.item: only an input of kind "embedding" has this key"#
    ),
    (
      #"{"fallback": 0}"#, #"{"fallback": 9}"#,
      "model.json:10: input.item.out_of_range.fallback: expected a row of the table, 0...8, found 9"
    ),
    (
      #"{"fallback": 0}"#, #""clamp""#,
      #"model.json:10: input.item.out_of_range: expected "error", "modulo" or {"fallback": row}, found "clamp""#
    ),
    (
      #""sqrt(width)""#, #""sqrt(D)""#,
      #"model.json:12: input.scale: expected a number or "sqrt(width)", found "sqrt(D)""#
    ),
    (
      #""limit": 15"#, #""limit": 16"#,
      "model.json:13: input.position.limit: expected a row of the position table, 0...15, found 16"
    ),
    (
      #""limit": 15"#, #""limit": 0"#,
      "model.json:13: input.position: 2 contextual rows need as many positions, but the last one is 0"
    ),
    (
      #""layer_count": 3"#, #""layer_count": 5000"#,
      "model.json:16: layer_count: expected a number of layers from 1 to 4096, found 5000"
    ),
    (
      #""layer_count": 3,"#, #""layers": [],"#,
      #"model.json:17: layer: stands beside "layers"; give either "layers", or "layer" and "layer_count""#
    ),
    (#""heads": 2"#, #""heads": "2""#, #"model.json:18: layer.heads: expected a positive integer, found "2""#),
    (
      #""alpha": "1/attention_dim","#, "",
      #"model.json:17: layer: the key "alpha" is missing; the score scale: a number, "1/sqrt(attention_dim)" as GR's STULayer, "1/attention_dim" as its ULTRA configurations; 1 in the research variant"#
    ),
    (
      #""1/attention_dim""#, #""1/atention_dim""#,
      #"model.json:21: layer.alpha: expected a number, "1/sqrt(attention_dim)" or "1/attention_dim", found "1/atention_dim"; did you mean "1/attention_dim"?"#
    ),
    (
      #""divisor": 16,"#, "",
      #"model.json:17: layer: the key "divisor" is missing; the N of SiLU(..)/N: a number (recommended), "longest_sequence" or "longest_history_plus_targets"; with the last two a result depends on the batch"#
    ),
    (#""divisor": 16"#, #""divisor": 0"#, "model.json:22: layer.divisor: expected a positive number, found 0"),
    (#""divisor": 16"#, #""divisor": 1e999"#, "model.json:22: layer.divisor: expected a positive number, found 1e999"),
    (
      #""activations": {"u": "silu", "v": "none", "q": "none", "k": "none"},"#, "",
      #"model.json:17: layer: the key "activations" is missing; which of u, v, q and k pass through SiLU: u alone in GR's production layers, all four in the research variant"#
    ),
    (
      #", "k": "none"}"#, "}",
      #"model.json:23: layer.activations: the key "k" is missing; it is "none", "silu" or "sigmoid""#
    ),
    (
      #""u": "silu""#, #""u": "gelu""#,
      #"model.json:23: layer.activations.u: expected "none", "silu" or "sigmoid", found "gelu"; did you mean "silu"?"#
    ),
    (
      #""input_norm": {"kind": "layer_norm""#, #""input_norm": {"kind": "group_norm""#,
      #"model.json:24: layer.input_norm.kind: expected "none" or "layer_norm", found "group_norm""#
    ),
    (
      #""input_norm": {"kind": "layer_norm", "affine": true, "epsilon": 1e-6}"#,
      #""input_norm": {"kind": "layer_norm", "affine": true}"#,
      #"model.json:24: layer.input_norm: the key "epsilon" is missing; 1e-6 in generative-recommenders, 1e-5 in recsys-examples"#
    ),
    (
      #""order": ["u", "v", "q", "k"]"#, #""order": ["u", "v", "q", "q"]"#,
      #"model.json:25: layer.uvqk.order: expected "u", "v", "q" and "k" once each"#
    ),
    (
      #""window": 4"#, #""window": "256""#,
      #"model.json:26: layer.mask.window: expected a positive integer, found "256""#
    ),
    (#""window": 4, "#, "", #"model.json:26: layer.mask: the key "window" is missing; earlier rows that a row sees"#),
    (
      #""form": "windowed""#, #""form": "causal""#,
      #"model.json:26: layer.mask.window: a mask of form "causal" has no window"#
    ),
    (
      #""form": "windowed""#, #""form": "window""#,
      #"model.json:26: layer.mask.form: expected "causal", "windowed" or "key_prefix", found "window"; did you mean "windowed"?"#
    ),
    (
      #"{"kind": "group_norm", "affine": true"#, #"{"kind": "group_norm", "affine": false"#,
      "model.json:27: layer.output_norm.affine: a group norm has one weight and one bias a head; set it to true"
    ),
    (
      #""concatenate": ["u", "gated"]"#, #""concatenate": ["u"]"#,
      #"model.json:28: layer.gate: a gate has no effect unless "concatenate" lists "gated""#
    ),
    (#"["u", "gated"]"#, #"["u", "u"]"#, #"model.json:29: layer.concatenate[1]: "u" is listed twice"#),
    (
      #""layout": "in_out""#, #""layout": "inout""#,
      #"model.json:30: layer.output.layout: expected "in_out" or "out_in", found "inout"; did you mean "in_out"?"#
    ),
    (
      #"{"form": "drop", "after": 2"#, #"{"form": "drop", "after": 3"#,
      #"model.json:35: truncation[1]: "after" must lie below the number of layers, 3, found 3"#
    ),
    (
      #""until": 2"#, #""until": 3"#,
      "model.json:35: truncation[1]: it begins after layer 2, but the one before it takes effect until 3"
    ),
    (#""until": 2"#, #""until": 1"#, #"model.json:34: truncation[0]: "until" must lie in 2...3, found 1"#),
    (
      #""form": "skip""#, #""form": "drop""#,
      #"model.json:34: truncation[0].until: rows that are dropped do not come back; "skip" puts them back"#
    ),
    (
      #""targets": true"#, #""targets": false"#,
      "model.json:38: output.rows: the model has no targets; set sequence.targets to true"
    ),
    (
      #"{"kind": "l2", "epsilon": 1e-6}"#, #"{"kind": "none", "epsilon": 1e-6}"#,
      #"model.json:39: output.norm.epsilon: a norm of kind "none" has no epsilon"#
    ),
    (
      #""first_row": 1"#, #""first_row": 9"#,
      "model.json:40: output.scores.first_row: expected a row of the item table, 0...8, found 9"
    ),
    (#""k": 3"#, #""k": 0"#, "model.json:40: output.top_k.k: expected a number of items, 1...7, found 0"),
    (#""k": 3"#, #""k": 8"#, "model.json:40: output.top_k.k: expected a number of items, 1...7, found 8"),
    (#""k": 3, "#, "", #"model.json:40: output.top_k: the key "k" is missing; how many items are wanted"#),
    (
      #""seen": "keep""#, #""seen": "hide""#,
      #"model.json:40: output.top_k.seen: expected "leave_out" or "keep", found "hide""#
    ),
    (
      #""seen": "keep""#, #""seen": "leave_out""#,
      "model.json:40: output.top_k.seen: items that a sequence has seen are left out of the list of its last row only; "
        + #"set output.rows to "last", or seen to "keep""#
    ),
    (
      #""layers.0.attn""#, #""layers.0.atn""#,
      #"model.json:42: stages[1]: there is no stage "layers.0.atn"; did you mean "layers.0.attn"?"#
    ),
    (
      #""layers.0.attn""#, #""encoded""#, #"model.json:42: stages[2]: the stage "encoded" is listed twice"#
    ),
    (#""training": {"#, #""training": [{"#, "model.json:44: column 1: expected ',' or ']', found '}'"),
  ]

  @Test(arguments: faults) func namesTheFault(_ text: String, _ replacement: String, _ error: String) throws {
    let place = try #require(Self.base.firstRange(of: text), "the base has no \(text)")
    // Lines keep their numbers: nothing that is replaced spans two.
    let broken = Self.base.replacingCharacters(in: place, with: replacement)
    do {
      _ = try decode(broken)
      Issue.record("accepted, expected \(error)")
    } catch let fault {
      #expect("\(fault)" == error)
    }
  }

  /// A document that is no model at all, or a model cut short anywhere, is an error and never more than that.
  @Test func survivesDamage() throws {
    var random = SplitMix(seed: 0xB0B)
    let original = Array(Self.base.utf8)
    var refused = 0
    for _ in 0..<600 {
      var bytes = original
      switch random.next(below: 3) {
      case 0: bytes.removeLast(1 + random.next(below: bytes.count))
      case 1: bytes.remove(at: random.next(below: bytes.count))
      default: bytes[random.next(below: bytes.count)] = UInt8(random.next(below: 128))
      }
      do {
        _ = try decode(String(decoding: bytes, as: UTF8.self))
      } catch {
        #expect(error.description.hasPrefix("model.json:"))
        refused += 1
      }
    }
    #expect(refused > 300)
  }
}

extension String {
  fileprivate func replacingCharacters(in range: Range<Index>, with text: String) -> String {
    self[..<range.lowerBound] + text + self[range.upperBound...]
  }
}
