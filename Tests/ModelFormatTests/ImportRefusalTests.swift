import TensorIR
import TestSupport
import Testing

@testable import ModelFormat

/// What an import refuses, and how it says so.
@Suite struct ImportRefusalTests {
  private let ranking = ImportFixture.ranking
  private let research = ImportFixture.research
  private let stack = ImportFixture.stack
  private let layer = ImportFixture.stackPrefix

  private func expect(
    _ fixture: ImportFixture, _ parts: String..., sourceLocation: Testing.SourceLocation = #_sourceLocation
  ) {
    let failure = fixture.failure()
    for part in parts {
      #expect(failure.contains(part), "\(failure)\n\nlacks \(part)", sourceLocation: sourceLocation)
    }
  }

  @Test func everythingThatIsMissingIsListedAtOnce() {
    expect(
      ranking.with { $0.config = nil },
      "weights.safetensors: 9 settings are needed that names and shapes do not tell; give them as flags, or under the key in the second column of --config config.json:\n",
      "  --heads N ", "heads ", "attention heads; 24 columns of v and 16 of q, of all heads together: 1, 2, 4 or 8",
      "  --alpha NUMBER|WORD", "1/sqrt(attention_dim) in GR's STULayer", "  --divisor ", "  --mask FORM{...}",
      "  --contextual FEATURE{...}", "1 slots", "  --content A,B,...",
      "the tables are item_category_id, item_id, user_id",
      "  --items A,B,...", "  --task NAME=KIND", "2 of them", "--additional A,B,...")
    expect(
      stack.with { $0.config = nil }, "4 settings are needed", "--heads", "--alpha", "--divisor", "--mask")
    expect(
      stack.with { $0.config = #"{"heads": 2, "alpha": 1, "divisor": 64, "mask": "causal", "top_k": 3}"# },
      "3 settings are needed", "--first-row N", "--item-norm WORD", "--seen WORD")
    expect(research.with { $0.flags = [] }, "--heads N")
  }

  @Test func layersThatDiffer() {
    expect(
      stack.with { $0.set("\(layer)1._uvqk_weight", [16, 32]) },
      "weights.safetensors: tensor \"\(layer)1._uvqk_weight\": shape [16, 32], expected [model width, columns of u, v, q and k], where columns of u, v, q and k is 40 in tensor \"\(layer)0._uvqk_weight\" of shape [16, 40]"
    )
    expect(
      stack.with { $0.set("\(layer)2._output_norm_bias", [16]) }, "tensor \"\(layer)2._output_norm_bias\": shape [16]",
      "is 12 in tensor \"\(layer)0._output_norm_weight\"")
    expect(
      research.with { $0.set("_hstu._attention_layers.1._rel_attn_bias._pos_w", [43]) },
      "tensor \"_hstu._attention_layers.1._rel_attn_bias._pos_w\": shape [43], expected [2n - 1 positions]", "is 41")
  }

  @Test func tensorsOfWrongShapes() {
    expect(
      stack.with { $0.set("_embedding_collection.embeddings.item.weight", [31, 15]) },
      "tensor \"_embedding_collection.embeddings.item.weight\": shape [31, 15]", "needs [31, 16]")
    expect(
      stack.with { $0.set("_positional_encoder._position_embeddings_weight", [40]) }, "shape [40], expected 2 extents")
    expect(
      ranking.with { $0.set("_hstu_transducer._input_preprocessor._batched_contextual_linear_bias", [1, 1, 32]) },
      "shape [1, 1, 32], expected 2 extents [contextual slots, model width]", "squeeze")
    expect(
      ranking.with { $0.set("_item_embedding_mlp.0.weight", [44, 47]) },
      "shape [44, 47], but the item perceptron needs [44, 48]")
    expect(
      ranking.with { $0.set("_item_embedding_mlp.1.weight", [43]) }, "tensor \"_item_embedding_mlp.1.weight\"",
      "hidden width of the item perceptron is 44")
    expect(
      research.with { $0.set("_attn_mask", [22, 22]) }, "shape [22, 22], but the layers' biases are of 41 positions")
    expect(research.with { $0.set("_attn_mask", [22, 21]) }, "where n is 22")
    expect(
      research.with {
        for layer in 0..<2 { $0.set("_hstu._attention_layers.\(layer)._rel_attn_bias._pos_w", [40]) }
      }, "expected an odd number of positions")
    expect(
      research.with {
        for layer in 0..<2 { $0.set("_hstu._attention_layers.\(layer)._uvqk", [20, 42]) }
      }, "shape [20, 42]: u and v take 2 x 21 columns, which leaves none for q and k")
    expect(
      stack.with { for index in 0..<4 { $0.set("\(layer)\(index)._output_weight", [37, 16]) } },
      "shape [37, 16]: its rows are no multiple of the 12 numbers")
    // Nothing may follow from an extent of 0.
    expect(
      research.with {
        $0.set("_embedding_module._item_emb.weight", [0, 20])
      }, "expected a positive integer, found 0")
    expect(
      stack.with {
        for index in 0..<4 { for part in ["weight", "bias"] { $0.set("\(layer)\(index)._output_norm_\(part)", [0]) } }
      }, "no multiple of the 0 numbers")
  }

  @Test func headsThatDoNotDivide() {
    expect(
      stack.with { $0.flags = [.value("--heads", "heads", "3")] },
      "--heads: 3 does not fit 12 columns of v and 8 of q, of all heads together; heads may be 1, 2 or 4")
    expect(
      stack.with { $0.config = $0.config?.replacing(#""heads": 2"#, with: "\"heads\":\n 5") },
      "config.json:3: heads: 5 does not fit")
    expect(
      stack.with { $0.flags = [.value("--attention-dim", "attention_dim", "8")] },
      "--attention-dim: 8 makes 1 heads, but there are 2")
    expect(research.with { $0.flags = [.value("--hidden-dim", "hidden_dim", "4")] }, "--hidden-dim: 4 does not fit")
    expect(
      stack.with {
        for index in 0..<4 { for part in ["weight", "bias"] { $0.set("\(layer)\(index)._output_norm_\(part)", [4]) } }
      },
      "config.json:2: heads: 2 makes 2 heads, but there are 4")
    expect(
      stack.with { $0.flags = [.value("--heads", "heads", "two")] },
      "--heads: expected a positive integer, found \"two\"")
    expect(stack.with { $0.flags = [.value("--heads", "heads", "0")] }, "--heads: expected a positive integer, found 0")
  }

  @Test func tensorsThatAreMissing() {
    expect(
      stack.with { $0.set("\(layer)2._uvqk_beta", nil) },
      "tensor \"\(layer)2._uvqk_beta\": not found, but layer 2 needs it as its uvqk_bias")
    expect(
      stack.with { fixture in fixture.shapes.removeAll { $0.name.hasPrefix("\(layer)1.") } },
      "there are weights of layer 2, but none of layer 1; the checkpoint may be one part of several")
    expect(
      stack.with { fixture in fixture.shapes.removeAll { $0.name.contains("_output_weight") } },
      "tensor \"\(layer)0._output_weight\": not found, but layer 0 needs it")
    expect(
      ranking.with { $0.set("_item_embedding_mlp.0.weight", nil) },
      "\"_item_embedding_mlp.0.weight\": not found, but")
    expect(
      ranking.with { fixture in fixture.shapes.removeAll { $0.name.hasPrefix("_multitask_module") } },
      "tensor \"_multitask_module._prediction_module.0.weight\": not found, but the head of tasks needs it")
    expect(
      research.with { $0.set("_embedding_module._item_emb.weight", nil) },
      "tensor \"_embedding_module._item_emb.weight\": not found, but the input needs it")
    expect(
      ranking.renamed { "net." + $0 }.with {
        $0.set("net._hstu_transducer._positional_encoder._position_embeddings_weight", [0, 32])
      },
      "expected a positive integer, found 0")
  }

  @Test func familiesThatDoNotFit() {
    expect(
      ImportFixture(shapes: [("model.layers.0.q_proj", [4, 4])], family: .ranking),
      "no tensor has a name of a ranking model (gr-ranking)",
      "names are as \"_hstu_transducer._stu_module._stu_layers.0._uvqk_weight\"", "here are \"model.layers.0.q_proj\"")
    expect(
      research.with { $0.family = .ranking }, "no tensor has a name of a ranking model",
      "there are names of a retrieval model of the research code")
    expect(ranking.with { $0.family = .retrieval }, "a preprocessor of events", "--family gr-ranking")
    expect(ImportFixture(shapes: [], family: .retrieval), "there are none")
    expect(research.with { $0.prefix = "ema." }, "there are none")
    expect(
      research.with { $0.set("_input_features_preproc._rating_emb.weight", [6, 4]) }, "ratings that stand beside items")
    expect(
      ranking.with {
        $0.set("_hstu_transducer._input_preprocessor._content_embedding_mlp._dense_features_compress.weight", [4, 4])
      }, "a perceptron whose weights follow from contextual features")
  }

  @Test func whatIsToldMustFit() {
    expect(stack.with { $0.config = "{\n \"heds\": 2}" }, "config.json:2: heds: unknown key", "did you mean \"heads\"?")
    expect(stack.with { $0.flags = [.words("--content", "content", "a")] }, "--content: ", "has no use for it")
    expect(research.with { $0.flags += [.value("--mask", "mask", "causal")] }, "--mask: ", "has no use for it")
    expect(
      stack.with { $0.config = $0.config?.replacing(#""window": 8"#, with: #""windw": 8"#) },
      "config.json:2: mask.windw: unknown key")
    expect(stack.with { $0.flags = [.value("--mask", "mask", "causl")] }, "--mask: form: expected \"causal\"")
    expect(
      stack.with { $0.config = $0.config?.replacing(#""after": 2"#, with: #""after": 9"#) },
      "config.json:3: truncation[0]: \"after\" must lie below the number of layers, 4")
    expect(
      stack.with { $0.flags = [.value("--alpha", "alpha", "1/attention")] }, "--alpha: expected a number",
      "did you mean \"1/attention_dim\"?")
    expect(stack.with { $0.flags = [.value("--top-k", "top_k", "31")] }, "--top-k: expected a number of items, 1...30")
    expect(stack.with { $0.flags = [.value("--item-table", "item_table", "films")] }, "the tables are action, item")
    expect(
      research.with { $0.config = #"{"divisor": 200}"# }, "config.json:1: divisor: the research code divides by", "21")
    expect(
      ranking.with { $0.config = $0.config?.replacing("_layers\": 3", with: "_layers\": 5") },
      "hstu_attn_num_layers: 5, but the checkpoint has 3")
    expect(
      ranking.with { $0.config = $0.config?.replacing("table_dim\": 24", with: "table_dim\": 25") },
      "hstu_embedding_table_dim: 25, but the checkpoint has 24")
    expect(
      ranking.with { $0.config = $0.config?.replacing(#""user_id": 1}"#, with: #""user_id": 2}"#) },
      "contextual_feature_to_max_length: 2 slots in all, but the checkpoint has 1")
    expect(
      ranking.with { $0.flags = [.words("--content", "content", "film")] },
      "--content: there is no embedding table \"film\" for the feature \"film\"", "--feature film=TABLE")
    expect(
      ranking.with { $0.config = $0.config?.replacing("\"task_type\": 1", with: "\"task_type\": 2") },
      "multitask_configs[1].task_type: expected 0 (binary classification) or 1 (regression), found 2")
    expect(
      ranking.with { $0.config = $0.config?.replacing("2, 4, 8, 16]", with: "2, 4, 8]") },
      "action_weights: expected a list of 5 numbers")
    expect(
      ranking.with { $0.config = $0.config?.replacing("2, 4, 8, 16]", with: "2, 4, 8, 32]") },
      "_combined_action_weights", "holds [1, 2, 4, 8, 16]")
    expect(
      ranking.with {
        $0.values[1].tensor = HostTensor([0.5, 86400] as [Float], shape: [1, 2])
      }, "_period_units\": expected whole numbers from 1, found [0.5, 86400.0]")
    expect(
      ranking.with { $0.config = $0.config?.replacing("\"alpha\"", with: "\"heads\": 2, \"alpha\"") },
      "hstu_num_heads: says the same as \"heads\"")
  }

  @Test func unknownTensorsAreListed() throws {
    let result = try research.with {
      $0.set("_ndp_module._scale", [3])
      $0.set("optimizer.state.0.exp_avg", [4])
      $0.set("_hstu._attention_layers.0._extra", [2, 2])
    }.describe()
    #expect(
      result.unusedTensors == ["_hstu._attention_layers.0._extra", "_ndp_module._scale", "optimizer.state.0.exp_avg"])
  }

  @Test func elementsOfOtherTypes() {
    expect(
      stack.with {
        $0.set("\(layer)3._output_weight", nil)
        $0.values = [("\(layer)3._output_weight", HostTensor([Int64](repeating: 1, count: 576)).reshaped([36, 16]))]
      }, "elements of type I64, but layer 3 needs F32, F64, F16 or BF16")
  }

  @Test func flagsOfUnknownForms() {
    func failure(_ make: () throws(ModelError) -> ImportOptions.Flag) -> String {
      do throws(ModelError) { return "\(try make().value.pretty)" } catch { return "\(error)" }
    }
    #expect(
      failure { () throws(ModelError) in try .braced("--mask", "mask", "windowed{window=8", word: "form") }
        == "--mask: expected } at the end of \"windowed{window=8\"")
    #expect(
      failure { () throws(ModelError) in try .braced("--mask", "mask", "windowed{window}", word: "form") }
        == "--mask: expected a name, = and a value, found \"window\"")
    #expect(
      failure { () throws(ModelError) in try .braced("--mask", "mask", "a{b=1,b=2}", word: "form") }
        .contains("\"b\" is given twice"))
    #expect(
      failure { () throws(ModelError) in try .mapping("--feature", "features", ["a=b", "a=c"]) }
        .contains("\"a\" is given twice"))
    #expect(
      failure { () throws(ModelError) in
        try .bracedList("--contextual", "contextual", ["a{slots=2}", "b"], word: "feature")
      }.filter { !$0.isWhitespace } == #"[{"feature":"a","slots":2},{"feature":"b"}]"#)
  }

  /// Settings of any kind end in an error or in a model that fits.
  @Test func hostileSettings() throws {
    var random = Random(seed: 17)
    let values = [
      "0", "-1", "2", "1e999", "4294967296", "9223372036854775807", "0.5", "true", "\"x\"", "\"none\"", "\"\"", "[]",
      "[[]]",
      "[1, 2]", "[\"item_id\"]", "{}", "{\"form\": 1}", "{\"user_id\": -3}",
      "[{\"feature\": \"user_id\", \"slots\": 65537}]",
      "[{\"name\": \"a\", \"kind\": \"b\"}]", "[{\"task_name\": \"a\", \"task_type\": 0}]",
      "{\"bits\": [16, 8], \"thresholds\": []}",
      "[[\"a\", \"b\"], [\"c\"]]", "null",
    ]
    for fixture in [ranking, research, stack] {
      let checkpoint = try fixture.checkpoint
      for key in ImportKey.allCases.map(\.rawValue) + PublishedConfig.keys {
        for value in (0..<3).map({ _ in random.pick(values) }) {
          // Beside the fixture's own settings; where it has this one, in its place.
          let config = fixture.config ?? "{}"
          var members = try JSONDocument(config, file: "config.json").root.members.filter { $0.key != key }
          members.append(JSONMember(key: key, line: 1, value: try JSONDocument(value, file: "").root))
          let changed = fixture.with {
            $0.config = JSONNode(value: .object(members), line: 1).pretty
          }
          do {
            _ = try changed.describe(checkpoint)
          } catch is ModelError {
            continue
          } catch {
            Issue.record("\(key): \(value): \(error)")
          }
        }
      }
    }
  }

  /// Bytes of names, shapes and settings that are not trusted end in errors, not in traps.
  @Test func hostileCheckpoints() throws {
    var random = Random(seed: 3)
    let pieces = [
      "_hstu", "_hstu_transducer", "_stu_module", "_stu_layers", "_attention_layers", "0", "1", "4095", "9999999999999",
      "_uvqk", "_uvqk_weight", "_stu", "_embedding_collection", "embeddings", "", "module", "weight", "{i}",
      "_output_weight",
      "_output_norm_weight", "_pos_w", "_rel_attn_bias", "_attn_mask", "_o", "bias", "_item_emb", "_embedding_module",
    ]
    for round in 0..<60 {
      var fixture = random.pick([ranking, research, stack])
      for _ in 0..<random.integer(in: 1...6) {
        let name =
          random.once(in: 2)
          ? random.pick(fixture.shapes).name
          : (0..<random.integer(in: 1...6)).map { _ in random.pick(pieces) }.joined(separator: ".")
        var shape = (0..<random.integer(in: 0...3)).map { _ in random.pick([0, 1, 2, 3, 7, 16, 41]) }
        // A tensor without elements may have any other extent.
        if random.once(in: 8) { shape = random.pick([[0, .max], [.max, 0]]) }
        if name != "__metadata__" { fixture.set(name, random.once(in: 4) ? nil : shape) }
      }
      fixture.prefix = random.pick(["", "", "_", "_hstu."])
      fixture.family = random.pick(ImportFamily.allCases)
      do {
        // What is taken is a model whose every tensor fits.
        _ = try fixture.describe().description.build(from: fixture.checkpoint)
      } catch is ModelError {
        continue
      } catch {
        Issue.record("round \(round): \(error)")
      }
    }
  }
}

extension JSONNode {
  fileprivate var members: [JSONMember] { if case .object(let members) = value { members } else { [] } }
}

extension HostTensor {
  fileprivate func reshaped(_ shape: [Int]) -> HostTensor {
    (try? HostTensor(element: element, shape: shape, bytes: bytes)) ?? self
  }
}
