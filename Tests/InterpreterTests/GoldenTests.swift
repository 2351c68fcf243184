import Foundation
import Interpreter
import TensorIR
import TestSupport
import Testing

/// The interpreter against the reference implementations' own results.
@Suite struct GoldenTests {
  static let precisions: [Interpreter.Precision] = [.f64, .f32]

  @Test(
    "attention under GR's masks",
    arguments: [
      "attn_causal", "attn_combined", "attn_contextual", "attn_semilocal_tail", "attn_semilocal_tail_small",
      "attn_targets", "attn_window",
    ], precisions)
  func attention(name: String, precision: Interpreter.Precision) throws {
    let golden = try GoldenCase(name)
    let mask = try Mask(golden.attributes)
    try expectMask(mask, golden)
    try golden.expect(try runAttention(golden, mask: mask, precision: precision), is: "attn", precision)
  }

  @Test(
    "attention under the key-prefix mask", arguments: ["prefix_basic", "prefix_contextual", "prefix_targets"],
    precisions)
  func keyPrefix(name: String, precision: Interpreter.Precision) throws {
    let golden = try GoldenCase(name)
    let mask = try Mask(golden.attributes)
    try expectMask(mask, golden)
    let intervals = try golden.tensor("expected.row_intervals").integers.map(Int.init)
    forEachRow(try golden.batch()) { row, position, length, targets in
      // A row's keys are [0, first) and [second, third).
      let expected = IndexSet(0..<intervals[3 * row])
        .union(IndexSet(intervals[3 * row + 1]..<max(intervals[3 * row + 1], intervals[3 * row + 2])))
      let visible = mask.visibleKeys(position: position, length: length, targets: targets)
      #expect(visible.reduce(into: IndexSet()) { $0.formUnion(IndexSet($1)) } == expected, "row \(row)")
    }
    try golden.expect(try runAttention(golden, mask: mask, precision: precision), is: "attn", precision)
  }

  @Test(
    "stacks of production layers",
    arguments: ["stu_1layer_ln", "stu_2layer_gn", "stu_3layer_window", "stu_4layer_semilocal_tail"], precisions)
  func stack(name: String, precision: Interpreter.Precision) throws {
    let golden = try GoldenCase(name)
    var stack = try GoldenStack(golden)
    for index in golden.layers.indices {
      try stack.appendLayer(index)
      stack.build.result("layers.\(index).out", stack.x)
    }
    try stack.check(precision)
  }

  @Test(
    "truncation that puts the skipped rows back", arguments: ["l2_concat_back", "l2_contextual_stack"], [false, true])
  func truncationSkip(name: String, runTimeDivisor: Bool) throws {
    let golden = try GoldenCase(name)
    var stack = try GoldenStack(golden, runTimeDivisor: runTimeDivisor)
    let selection = RowSelection.latest(
      keep: try golden.integer("max_l2_len"), contextual: try golden.integer("l2_contextual_seq_len"))
    var index = 0
    for element in try #require(golden.attributes["pattern"] as? [Any]) {
      // "f" is a layer over all rows, "l" one over the latest, ["L", k] a stack of k over the latest.
      let isFull = element as? String == "f"
      let count = (element as? [Any])?.last as? Int ?? 1
      let outer = (x: stack.x, offsets: stack.offsets)
      if !isFull { try stack.truncate(selection) }
      for _ in 0..<count {
        try stack.appendLayer(index)
        stack.build.result("layers.\(index).out", stack.x)
        index += 1
      }
      if !isFull {
        stack.x = try stack.build.emit(
          .restoreRows(RestoreRows(selection)), stack.x, outer.x, outer.offsets, stack.offsets, stack.targets)
        stack.offsets = outer.offsets
      }
    }
    stack.build.result("out", stack.x)
    try stack.check(.f64)
    try stack.check(.f32)
  }

  @Test(
    "truncation that drops rows", arguments: ["truncate_drop_contextual", "truncate_drop_prefix_sla"], precisions)
  func truncationDrop(name: String, precision: Interpreter.Precision) throws {
    let golden = try GoldenCase(name)
    // scaling_seqlen -1 asks for the run-time divisor.
    var stack = try GoldenStack(golden, runTimeDivisor: golden.attributes["scaling_seqlen"] as? Int == -1)
    for index in golden.layers.indices {
      if index == (try golden.integer("truncate_split_layer")) {
        let contextual = golden.attributes["contextual_seq_len"] as? Int ?? 0
        try stack.truncate(.latest(keep: try golden.integer("truncate_tail_len"), contextual: contextual))
      }
      try stack.appendLayer(index)
      stack.build.result("layers.\(index).out", stack.x)
    }
    stack.build.result("out", stack.x)
    stack.build.result("out_offsets", stack.offsets)
    try stack.check(precision)
  }

  // MARK: -

  private func runAttention(_ golden: GoldenCase, mask: Mask, precision: Interpreter.Precision) throws -> HostTensor {
    let heads = try golden.integer("num_heads")
    let queryWidth = heads * (try golden.integer("attention_dim"))
    let valueWidth = heads * (try golden.integer("hidden_dim"))
    var build = FunctionBuilder(module: Module(name: golden.name), name: "forward")
    let rows = Dimension.symbol("rows")
    var operands = [
      build.argument("q", .tensor([rows, .fixed(queryWidth)], .f32)),
      build.argument("k", .tensor([rows, .fixed(queryWidth)], .f32)),
      build.argument("v", .tensor([rows, .fixed(valueWidth)], .f32)),
      build.argument("seq_offsets", .offsets(sequences: .symbol("sequences"), rows: rows)),
    ]
    if golden.hasTargets { operands.append(build.argument("num_targets", .tensor([.symbol("sequences")], .i64))) }
    let attention = Attention(
      heads: heads, alpha: try #require(golden.attributes["alpha"] as? Double),
      divisor: .fixed(Double(try golden.integer("divisor_N"))), mask: mask, hasTargets: golden.hasTargets)
    build.result("attn", try build.append(.attention(attention), operands)[0])
    var inputs = try golden.inputs()
    for name in ["q", "k", "v"] {
      let input = try golden.tensor("input." + name)
      inputs[name] = try HostTensor(
        element: .f32, shape: [input.shape[0], name == "v" ? valueWidth : queryWidth], bytes: input.bytes)
    }
    return try Interpreter(module: build.finish(), weights: WeightTable(), precision: precision)
      .run("forward", inputs: inputs)[0].tensor
  }

  /// The case's dense mask, sequence by sequence, against the visible keys of every row.
  private func expectMask(_ mask: Mask, _ golden: GoldenCase) throws {
    let expected = try golden.tensor("expected.mask")
    let extent = expected.shape[1]
    let batch = try golden.batch()
    var row = 0
    for (sequence, (length, targets)) in batch.enumerated() {
      for position in 0..<length {
        let visible = mask.visibleKeys(position: position, length: length, targets: targets)
        let bits = (0..<length).map { key in UInt8(visible.filter { $0.contains(key) }.count) }
        let start = (sequence * extent + position) * extent
        #expect(bits == Array(expected.bytes[start..<start + length]), "\(golden.name) row \(row)")
        row += 1
      }
    }
  }

  private func forEachRow(
    _ batch: [(length: Int, targets: Int)], _ body: (_ row: Int, _ position: Int, _ length: Int, _ targets: Int) -> Void
  ) {
    var row = 0
    for (length, targets) in batch {
      for position in 0..<length {
        body(row, position, length, targets)
        row += 1
      }
    }
  }
}
