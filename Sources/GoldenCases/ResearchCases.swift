import ModelFormat
import TensorIR

/// The research model, from item ids to the items recommended.
extension GoldenCase {
  private static let keys = [
    "max_sequence_len", "max_output_len", "n", "divisor_N", "alpha", "embedding_dim", "num_blocks", "num_heads",
    "attention_dim", "hidden_dim", "num_items", "lengths", "concat_ua", "input_norm", "output_norm", "activations",
    "uvqk_bias", "uvqk_order", "output_bias", "residual", "relative_bias", "input_scale", "output_norm_final",
    "scores", "topk",
  ]

  func researchProgram() throws -> GoldenProgram {
    let object = try attributes.object(Self.keys)
    try object.require("scores", "last . l2norm(item table rows 1..num_items)")
    let width = try object.required("embedding_dim").positiveInteger()
    let maxLength = try object.required("n").positiveInteger()
    let order = try object.present("uvqk_order")?.string() ?? "u,v,q,k"
    let slices = order.split(separator: ",").compactMap { ModelDescription.Slice(rawValue: String($0)) }
    guard slices.count == 4, Set(slices).count == 4 else { throw Unsupported(reason: "uvqk_order is \(order)") }
    let layer = ModelDescription.Layer(
      heads: try object.required("num_heads").positiveInteger(),
      attentionDim: try object.required("attention_dim").positiveInteger(),
      hiddenDim: try object.required("hidden_dim").positiveInteger(),
      alpha: try object.required("alpha").finiteNumber(),
      divisor: .fixed(try object.required("divisor_N").positiveNumber()),
      activations: try activations(object.required("activations")),
      inputNorm: try norm(object.required("input_norm"), over: [.layerNorm: "embedding_dim"]),
      uvqkBias: try object.flag("uvqk_bias", false), uvqkOrder: slices, mask: .causal,
      relativeBias: try relativeBias(object.required("relative_bias"), maxLength: maxLength),
      outputNorm: try norm(object.required("output_norm"), over: [.layerNorm: "num_heads*hidden_dim"]),
      concatenate: try object.flag("concat_ua", false) ? [.u, .normedAttention, .gated] : [.gated],
      outputBias: try object.flag("output_bias", true), residual: try object.flag("residual", true))
    let scores = ModelDescription.Output.Scores(firstRow: 1, norm: .l2(epsilon: 1e-6))
    let topK = try recommended().map { ModelDescription.Output.TopK(count: $0, scores: scores, leavesOutSeen: true) }
    let layerCount = try object.required("num_blocks").positiveInteger()
    let description = ModelDescription(
      name: name, width: width, names: WeightNames(preset: .research),
      input: .embedding(
        .init(
          item: .init(rows: try object.required("num_items").positiveInteger() + 1),
          scale: try inputScale(object, width: width), position: .init(rows: maxLength, order: .ascending),
          paddingID: 0)),
      layers: Array(repeating: layer, count: layerCount),
      output: .init(rows: .last, norm: try finalNorm(object), scores: scores, topK: topK),
      stages: stages(layerCount: layerCount))
    return try program(description, try jaggedInputs(withTime: layer.relativeBias?.timeBuckets != nil)) { output in
      switch output {
      case "last", "scores": .result(output)
      case "top_ids_seen_filtered": .result("top_ids")
      case "top_scores_seen_filtered": .result("top_scores")
      default: nil
      }
    }
  }

  /// How many items each sequence is recommended; nil where the case has no such output.
  private func recommended() throws -> Int? {
    guard outputs.contains(where: { $0.name.hasPrefix("top_") }) else { return nil }
    let shape = try tensors.tensor(named: "expected.top_ids_seen_filtered").shape
    guard shape.count == 2 else { throw Unsupported(reason: "expected recommendations have shape \(shape)") }
    return shape[1]
  }

  private func relativeBias(
    _ reader: JSONReader, maxLength: Int
  ) throws(ModelError) -> ModelDescription.RelativeBias? {
    let object = try reader.object(["enabled", "num_buckets", "position_index", "time_delta", "bucket"])
    guard try object.required("enabled").bool() else { return nil }
    try object.require("position_index", "n-1+(key-query)")
    guard let buckets = try object.present("num_buckets")?.positiveInteger() else {
      return .init(maxLength: maxLength)
    }
    try object.require(
      "time_delta",
      "t[min(query+1,n-1)] - t[key], padded array as stored (t[length] is the time of the next item / request)")
    try object.require("bucket", "clamp(trunc(ln(max(|delta|,1))/0.301),0,\(buckets))")
    return .init(maxLength: maxLength, timeBuckets: buckets)
  }

  private func inputScale(_ object: JSONObjectReader, width: Int) throws(ModelError) -> Double {
    guard let scale = object.present("input_scale") else { return 1 }
    if case .number = scale.node.value { return try scale.finiteNumber() }
    try object.require("input_scale", "sqrt(embedding_dim)")
    return Double(width).squareRoot()
  }

  private func finalNorm(_ object: JSONObjectReader) throws(ModelError) -> ModelDescription.Output.Norm {
    guard let norm = object.present("output_norm_final") else { return .none }
    let text = try norm.string()
    if text == "none" { return .none }
    let prefix = "l2, eps "
    guard text.hasPrefix(prefix), let epsilon = Double(text.dropFirst(prefix.count)) else {
      throw norm.mismatch(expected: "\"l2, eps ...\" or \"none\"")
    }
    return .l2(epsilon: epsilon)
  }

  /// The padded arrays as jagged rows. The time after a sequence's last row stands at position `length`, or is that of
  /// the last row itself where the array ends there.
  private func jaggedInputs(withTime: Bool) throws -> [String: HostTensor] {
    let padded = try input("past_ids")
    let lengths = try input("past_lengths").integers.map(Int.init)
    guard padded.shape.count == 2, padded.shape[0] == lengths.count,
      lengths.allSatisfy({ (0...padded.shape[1]).contains($0) })
    else { throw Unsupported(reason: "input.past_ids and input.past_lengths do not fit each other") }
    let width = padded.shape[1]
    let ids = padded.integers
    func rows(_ values: [Int64]) -> [Int64] {
      lengths.indices.flatMap { values[$0 * width..<$0 * width + lengths[$0]] }
    }
    var inputs = ["item_ids": HostTensor(rows(ids)), "offsets": try input("seq_offsets")]
    if withTime {
      let times = try input("timestamps")
      guard times.shape == padded.shape, width > 0 else {
        throw Unsupported(reason: "input.timestamps has shape \(times.shape), expected \(padded.shape)")
      }
      let values = times.integers
      inputs["timestamps"] = HostTensor(rows(values))
      inputs["query_timestamps"] = HostTensor(
        lengths.indices.map { values[$0 * width + min(lengths[$0], width - 1)] })
    }
    return inputs
  }
}
