import Interpreter
import TensorIR
import TestSupport
import Testing

/// The research variant from ids to user vectors and items' scores, as a function with a result for every stage. The item
/// table has `tableRows` rows, of which row 0 is padding.
func researchModel(_ layer: ResearchLayer, prefixes: [String], tableRows: Int) throws -> Module {
  let width = layer.width
  var build = FunctionBuilder(module: Module(name: "research"), name: "forward")
  let (rows, sequences) = (Dimension.symbol("rows"), Dimension.symbol("sequences"))
  let ids = build.argument("ids", .tensor([rows], .i64))
  let times = build.argument("timestamps", .tensor([rows], .i64))
  let requestTimes = build.argument("request_times", .tensor([sequences], .i64))
  let offsets = build.argument("offsets", .offsets(sequences: sequences, rows: rows))
  let table = try build.weight("_embedding_module._item_emb.weight", [tableRows, width])
  let embedded = try build.emit(
    .scale(Scale(factor: Double(width).squareRoot())), build.emit(.gather(Gather()), table, ids))
  let positions = try build.emit(.positions(Positions(order: .ascending, limit: layer.n - 1)), offsets)
  let positioned = try build.emit(
    .gather(Gather()), build.weight("_input_features_preproc._pos_emb.weight", [layer.n, width]), positions)
  var x = try build.emit(.zeroRows(ZeroRows(id: 0)), build.emit(.add(Add()), embedded, positioned), ids)
  build.result("input_embedding", x)
  let queryTimes = try build.emit(.nextRows(NextRows()), times, requestTimes, offsets)
  for (index, prefix) in prefixes.enumerated() {
    x = try build.researchLayer(layer, prefix: prefix, x: x, offsets: offsets, times: (queryTimes, times))
    build.result("layers.\(index).out", x)
  }
  let encoded = try build.emit(.l2Norm(L2Norm(epsilon: 1e-6)), x)
  build.result("encoded", encoded)
  let last = try build.emit(.lastRows(LastRows()), encoded, offsets)
  build.result("last", last)
  let itemVectors = try build.emit(.l2Norm(L2Norm(epsilon: 1e-6)), table)
  build.result("scores", try build.emit(.linear(Linear(.outIn)), last, itemVectors))
  return build.finish()
}

/// The research variant from ids to the user's vector and the items' scores.
@Suite struct GoldenResearchTests {
  @Test(
    "research HSTU", arguments: ["research_2layer", "research_4layer_d50"], [Interpreter.Precision.f64, .f32])
  func research(name: String, precision: Interpreter.Precision) throws {
    let golden = try GoldenCase(name)
    let n = try golden.integer("n")
    var layer = ResearchLayer(
      width: try golden.integer("embedding_dim"), heads: try golden.integer("num_heads"),
      queryWidth: try golden.integer("attention_dim"), valueWidth: try golden.integer("hidden_dim"),
      divisor: .fixed(Double(try golden.integer("divisor_N"))), n: n)
    layer.concatenates = try #require(golden.attributes["concat_ua"] as? Bool)
    let module = try researchModel(
      layer, prefixes: golden.layerPrefixes(endingIn: "_uvqk"), tableRows: try golden.integer("num_items") + 1)
    let interpreter = Interpreter(
      module: module, weights: WeightTable(golden.tensors), precision: precision)
    for (name, tensor) in try interpreter.run("forward", inputs: jaggedInputs(golden, n: n)) {
      // The case scores items 1... alone; item 0 is padding.
      let got = name == "scores" ? withoutFirstColumn(tensor) : tensor
      try golden.expect(got, is: name, precision)
    }
  }

  /// The case's padded ids and times as jagged rows; the time after a sequence's last row is that of the request.
  private func jaggedInputs(_ golden: GoldenCase, n: Int) throws -> [String: HostTensor] {
    let ids = try golden.tensor("input.past_ids").integers
    let times = try golden.tensor("input.timestamps").integers
    let lengths = try golden.tensor("input.past_lengths").integers.map(Int.init)
    let kept = lengths.enumerated().flatMap { sequence, length in sequence * n..<sequence * n + length }
    return [
      "ids": HostTensor(kept.map { ids[$0] }), "timestamps": HostTensor(kept.map { times[$0] }),
      "request_times": HostTensor(lengths.enumerated().map { times[$0 * n + min($1, n - 1)] }),
      "offsets": try golden.tensor("input.seq_offsets"),
    ]
  }

  private func withoutFirstColumn(_ tensor: HostTensor) -> HostTensor {
    let width = tensor.shape[1]
    let kept = tensor.doubles.enumerated().filter { $0.offset % width != 0 }.map(\.element)
    return HostTensor(kept, shape: [tensor.shape[0], width - 1])
  }
}
