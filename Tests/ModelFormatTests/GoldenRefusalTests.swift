import Foundation
import GoldenCases
import Interpreter
import TensorIR
import TestSupport
import Testing

/// An attribute that a case has and that cannot be honoured is refused with its place, never passed over; one that is
/// honoured changes the result.
@Suite struct GoldenRefusalTests {
  /// What comes of a case with one piece of its JSON replaced.
  private func report(_ name: String, replacing text: String, with replacement: String) throws -> GoldenReport {
    try withTemporaryFolder { folder in
      let original = try String(contentsOfFile: "\(goldenFolder)/\(name).json", encoding: .utf8)
      let place = try #require(original.firstRange(of: text), "\(name) has no \(text)")
      let changed = original.replacing(text, with: replacement, subrange: place, maxReplacements: 1)
      try changed.write(toFile: folder.path + "/\(name).json", atomically: false, encoding: .utf8)
      try FileManager.default.createSymbolicLink(
        atPath: folder.path + "/\(name).safetensors", withDestinationPath: "\(goldenFolder)/\(name).safetensors")
      return try GoldenCase(name, in: folder.path).check { program, _ in
        try Interpreter(module: program.module, weights: program.weights, precision: .f32)
          .run(program.entry, inputs: program.inputs)
      }
    }
  }

  static let refusals: [(name: String, text: String, replacement: String, reason: String)] = [
    (
      "attn_causal", "\"softmax\": false", "\"softmax\": true",
      "attn_causal.json:27: attributes.softmax: softmax attention is not pointwise attention"
    ),
    (
      "attn_causal", "\"causal\": true", "\"causal\": false",
      "attn_causal.json:14: attributes.causal: attention that sees later rows has no mask here"
    ),
    (
      "attn_causal", "\"score_activation\": \"silu\"", "\"score_activation\": \"relu\"",
      "attn_causal.json:26: attributes.score_activation: expected \"silu\" or \"none\", found \"relu\"; did you mean \"silu\"?"
    ),
    (
      "attn_causal", "\"softmax\": false", "\"scale_by_length\": true",
      "attn_causal.json:27: attributes.scale_by_length: unknown key; the keys here are num_heads, attention_dim, hidden_dim, alpha, divisor_N, causal, target_aware, lengths, num_targets, max_attn_len, min_full_attn_seq_len, contextual_seq_len, score_activation, softmax"
    ),
    (
      "prefix_basic", "\"window_includes_self\": true", "\"window_includes_self\": false",
      "prefix_basic.json:25: attributes.window_includes_self: a key-prefix window counts the row itself"
    ),
    (
      "prefix_basic", "\"effective_prefix\": 4", "\"effective_prefix\": 5",
      "prefix_basic.json:24: attributes.effective_prefix: expected 4, found 5"
    ),
    (
      "stu_1layer_ln", "\"concat_x\": true", "\"concat_z\": true",
      "stu_1layer_ln.json:55: attributes.layers[0].concat_z: unknown key; did you mean \"concat_u\"?"
    ),
    (
      "stu_1layer_ln", "\"mul_u_activation\": \"none\"", "\"mul_u_activation\": \"tanh\"",
      "stu_1layer_ln.json:57: attributes.layers[0].mul_u_activation: expected \"none\", \"silu\" or \"sigmoid\", found \"tanh\""
    ),
    (
      "l2_concat_back", "\"f\",", "\"g\",",
      "l2_concat_back.json:20: attributes.pattern[0]: expected \"f\", \"l\" or [\"L\", layers], found \"g\""
    ),
    (
      "research_2layer", "\"input_scale\": \"sqrt(embedding_dim)\"", "\"input_scale\": \"none\"",
      "research_2layer.json:55: attributes.input_scale: expected \"sqrt(embedding_dim)\", found \"none\""
    ),
    (
      "stu_1layer_ln", "\"kind\": \"stu_stack\"", "\"kind\": \"stu_unheard_of\"",
      "golden-runner has no reading of this kind"
    ),
    ("stu_1layer_ln", "\"expected.layers.0.u\"", "\"expected.layers.0.w\"", "expected.layers.0.w is not covered"),
  ]

  @Test(arguments: refusals)
  func refuses(_ name: String, _ text: String, _ replacement: String, _ reason: String) throws {
    let report = try report(name, replacing: text, with: replacement)
    #expect(report.status == .unsupported(reason))
  }

  static let changes: [(name: String, text: String, replacement: String)] = [
    ("attn_causal", "\"alpha\": 0.25", "\"alpha\": 0.26"),
    ("attn_causal", "\"divisor_N\": 33", "\"divisor_N\": 34"),
    ("attn_causal", "\"score_activation\": \"silu\"", "\"score_activation\": \"none\""),
    ("attn_targets", "\"target_aware\": true", "\"target_aware\": false"),
    ("attn_window", "\"max_attn_len\": 8", "\"max_attn_len\": 9"),
    ("attn_semilocal_tail", "\"min_full_attn_seq_len\": 6", "\"min_full_attn_seq_len\": 5"),
    ("attn_contextual", "\"contextual_seq_len\": 3", "\"contextual_seq_len\": 2"),
    ("prefix_basic", "\"sla_k1\": 8", "\"sla_k1\": 7"),
    ("stu_1layer_ln", "\"eps\": 1e-06", "\"eps\": 1e-02"),
    ("stu_1layer_ln", "\"v\": \"none\"", "\"v\": \"silu\""),
    ("stu_1layer_ln", "\"mul_u_activation\": \"none\"", "\"mul_u_activation\": \"sigmoid\""),
    ("stu_1layer_ln", "\"residual\": true", "\"residual\": false"),
    ("stu_1layer_ln", "\"uvqk_bias\": true", "\"uvqk_bias\": false"),
    ("l2_concat_back", "\"max_l2_len\": 10", "\"max_l2_len\": 9"),
    ("truncate_drop_contextual", "\"truncate_tail_len\": 8", "\"truncate_tail_len\": 7"),
    ("research_2layer", "\"alpha\": 1.0", "\"alpha\": 0.9"),
  ]

  @Test(arguments: changes) func honours(_ name: String, _ text: String, _ replacement: String) throws {
    let report = try report(name, replacing: text, with: replacement)
    guard case .failed = report.status else {
      Issue.record("\(report)")
      return
    }
  }
}
