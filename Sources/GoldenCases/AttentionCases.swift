import ModelFormat
import TensorIR

/// Attention alone, on jagged queries, keys and values.
extension GoldenCase {
  func attentionProgram() throws -> GoldenProgram {
    let object = try attributes.object([
      "num_heads", "attention_dim", "hidden_dim", "alpha", "divisor_N", "causal", "target_aware", "lengths",
      "num_targets", "max_attn_len", "min_full_attn_seq_len", "contextual_seq_len", "score_activation", "softmax",
    ])
    try object.require("softmax", false, "softmax attention is not pointwise attention")
    return try attentionProgram(
      object, mask: mask(object), hasTargets: hasInput("num_targets") && object.flag("target_aware", true))
  }

  func keyPrefixProgram() throws -> GoldenProgram {
    let object = try attributes.object([
      "num_heads", "attention_dim", "hidden_dim", "alpha", "max_seq_len", "divisor_N", "lengths", "num_targets",
      "sla_k1", "sla_k2", "contextual_seq_len", "effective_prefix", "window_includes_self", "target_sees_itself",
      "score_activation",
    ])
    if let prefix = object.present("effective_prefix") {
      let expected = max(try object.count("sla_k2"), try object.count("contextual_seq_len"))
      guard try prefix.nonNegativeInteger() == expected else { throw prefix.mismatch(expected: "\(expected)") }
    }
    return try attentionProgram(object, mask: mask(object), hasTargets: hasInput("num_targets"))
  }

  private func attentionProgram(
    _ object: JSONObjectReader, mask: Mask, hasTargets: Bool
  ) throws -> GoldenProgram {
    let heads = try object.required("num_heads").positiveInteger()
    let queryWidth = heads * (try object.required("attention_dim").positiveInteger())
    let valueWidth = heads * (try object.required("hidden_dim").positiveInteger())
    let attention = Attention(
      heads: heads, alpha: try object.required("alpha").finiteNumber(),
      divisor: .fixed(try object.required("divisor_N").positiveNumber()),
      activation: try object.present("score_activation")?.choice(Attention.Activation.self) ?? .silu, mask: mask,
      hasTargets: hasTargets)

    let rows = Dimension.symbol("rows")
    var builder = FunctionBuilder(module: Module(name: name), name: "forward")
    var operands = [
      builder.argument("q", .tensor([rows, .fixed(queryWidth)], .f32)),
      builder.argument("k", .tensor([rows, .fixed(queryWidth)], .f32)),
      builder.argument("v", .tensor([rows, .fixed(valueWidth)], .f32)),
      builder.argument("offsets", .offsets(sequences: .symbol("sequences"), rows: rows)),
    ]
    var inputs = [
      "q": try flattened("q"), "k": try flattened("k"), "v": try flattened("v"),
      "offsets": try input("seq_offsets"),
    ]
    if hasTargets {
      operands.append(builder.argument("num_targets", .tensor([.symbol("sequences")], .i64)))
      inputs["num_targets"] = try input("num_targets")
    }
    builder.result("attn", try builder.append(.attention(attention), operands, names: ["attn"])[0])
    return GoldenProgram(
      module: builder.finish(), weights: WeightTable(), inputs: inputs,
      sources: try sources { output in
        switch output {
        case "attn": .result("attn")
        case "mask": .mask(mask)
        case "row_intervals": .rowIntervals(mask)
        default: nil
        }
      })
  }

  /// An input [rows, heads, width] as [rows, heads * width].
  private func flattened(_ name: String) throws -> HostTensor {
    let tensor = try input(name)
    guard tensor.shape.count == 3 else {
      throw Unsupported(reason: "input.\(name) has shape \(tensor.shape), expected rows, heads and width")
    }
    return try HostTensor(
      element: tensor.element, shape: [tensor.shape[0], tensor.shape[1] * tensor.shape[2]], bytes: tensor.bytes)
  }
}
