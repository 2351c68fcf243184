import Codegen
import Interpreter
import LLVMKit
import Passes
import TensorIR
import TestSupport
import Testing
import TileIR

// Products of codes, thread by thread.
extension GPUExecutionTests {
  /// A target and what products are lowered to.
  typealias Form = (target: GPUTarget, matmul: String)

  /// All that have instructions.
  private static let forms: [Form] = GPUStubTests.targets.flatMap { target in
    (target.multipliesFloat8 ? ["int8", "fp8"] : ["int8"]).map { (target, $0) }
  }

  /// x W + b, or with `bias` nil x W, lowered.
  private static func product(
    _ x: [[Float]], _ weight: [[Float]], bias: [Float]?, matmul: String
  ) throws -> (module: Module, weights: WeightTable, inputs: [String: HostTensor]) {
    let (inner, outer) = (weight.count, weight[0].count)
    var build = FunctionBuilder(module: Module(name: "product"), name: "forward")
    var operands = [
      build.argument("x", .tensor([.symbol("rows"), .fixed(inner)], .f32)), try build.weight("w", [inner, outer]),
    ]
    var tensors = ["w": HostTensor(weight.flatMap(\.self), shape: [inner, outer])]
    if let bias {
      operands.append(try build.weight("b", [outer]))
      tensors["b"] = HostTensor(bias)
    }
    build.result("y", try build.append(.linear(Linear()), operands)[0])
    var module = build.finish()
    try PassManager(PassPipeline(parsing: "lower-precision{matmul=\(matmul)},fuse")).run(on: &module)
    return (module, WeightTable(tensors), ["x": HostTensor(x.flatMap(\.self), shape: [x.count, inner])])
  }

  /// Numbers that codes hold exactly: the largest code is in every row and column, so scales are 1. No sum of their products needs more
  /// than fp32's 24 bits, so nothing is rounded and results are the same ones in any order.
  @Test("products of codes whose sums are exact", arguments: forms)
  func exactCodes(form: Form) throws {
    var random = Random(seed: 23)
    let largest: Float = form.matmul == "int8" ? 127 : 448
    func number() -> Float {
      form.matmul == "int8"
        ? Float(random.integer(in: -127...127)) : random.pick([0, 0.5, 1, 1.5, 2, 3, 4, 5, 6, 7, 8, -0.5, -1, -3, -7])
    }
    // Whole panels and such that are none, whole steps and odd ends of them, blocks of one row and several blocks.
    for (rows, inner, outer) in [(130, 128, 256), (67, 384, 512), (20, 64, 32), (1, 40, 33), (150, 7, 5), (9, 1, 70)] {
      var x = (0..<rows).map { _ in (0..<inner).map { _ in number() } }
      for row in 0..<rows { x[row][random.integer(in: 0...inner - 1)] = random.once(in: 2) ? largest : -largest }
      // What is no number is left out of a row's largest; its code is 0 in INT8, and no number in FP8.
      if inner > 3 { x[0].replaceSubrange(0..<2, with: [.nan, largest]) }
      var weight = (0..<inner).map { _ in (0..<outer).map { _ in number() } }
      for column in 0..<outer { weight[random.integer(in: 0...inner - 1)][column] = largest }
      let bias = (0..<outer).map { _ in Float(random.integer(in: -100...100)) }
      let subject = try Self.product(x, weight, bias: bias, matmul: form.matmul)
      try checkExactly(
        form.target, subject.module, subject.weights, subject.inputs, "\(form.matmul) \(rows) x \(inner) x \(outer)")
    }
  }

  /// Each number of f8e4m3, on the left side and then on the right one, times the largest one.
  @Test("every number of f8e4m3 comes through a product", arguments: [GPUTarget.sm90a, .gfx942], [96, 256])
  func allFloat8(target: GPUTarget, outer: Int) throws {
    let numbers = (0..<256).map { Float(float8Bits: UInt8($0)) }.map { $0.isNaN ? 0 : $0 }
    for isLeft in [true, false] {
      // One in each row of codes, or column, which are turned further from one to the next.
      let ones = (0..<256).map { row in (0..<256).map { Float($0 == (7 * row + 3) % 256 ? 448 : 0) } }
      var x = isLeft ? (0..<3).map { turn in (0..<256).map { numbers[($0 + turn) % 256] } } : ones
      var weight = isLeft ? ones : (0..<256).map { row in (0..<256).map { numbers[(row + $0) % 256] } }
      weight = weight.map { Array($0.prefix(outer)) }
      // What is no number makes a row, or a column, of such.
      x[2][9] = .nan
      let subject = try Self.product(x, weight, bias: nil, matmul: "fp8")
      try checkExactly(target, subject.module, subject.weights, subject.inputs, "all numbers on the \(isLeft) side")
      weight[8][5] = .nan
      let other = try Self.product(x, weight, bias: nil, matmul: "fp8")
      try checkExactly(target, other.module, other.weights, other.inputs, "no number on the \(isLeft) side")
    }
  }

  /// Rows that are no norm of anything have the interpreter's codes and scales to the bit, read back too; sums of integers are exact, those of
  /// FP8 as near as fp32's in another order. So results are as near as those of one operation in fp32.
  @Test("quantized rows, and products with bias and residual", arguments: forms)
  func quantizedRows(form: Form) throws {
    var count = 0
    for seed in 1...30 as ClosedRange<UInt64> {
      let program = try RandomProgram(.precision, seed: seed)
      let element: ElementType = form.matmul == "int8" ? .i8 : .f8e4m3
      guard program.module.weights.contains(where: { $0.type.element == element }), count < 4 else { continue }
      count += 1
      try checkExactly(
        form.target, program.module, program.weights, program.inputs, "\(program)",
        tolerance: { RandomProgram.Kind.precision.tolerance(of: $0) })
    }
    #expect(count == 4)
  }

  /// Rows of 40 columns as codes of f8e4m3, their scales, and what is made of them.
  private static func quantizing(
    _ body: (inout FunctionBuilder, [ValueID]) throws -> Void
  ) throws -> (module: Module, weights: WeightTable, inputs: [String: HostTensor]) {
    var random = Random(seed: 31)
    var build = FunctionBuilder(module: Module(name: "codes"), name: "forward")
    let x = build.argument("x", .tensor([.symbol("rows"), .fixed(40)], .f32))
    try body(&build, try build.append(.quantizeRows(QuantizeRows(to: .f8e4m3)), [x]))
    return (build.finish(), WeightTable(["w": random.tensor([40, 24])]), ["x": random.tensor([37, 40])])
  }

  /// They have one form on every card, which MI300's instructions do not have, and sm_80 has no instruction to make.
  @Test("codes of f8e4m3 that a caller gets, and gives", arguments: GPUStubTests.targets)
  func callersCodes(target: GPUTarget) throws {
    let (module, weights, inputs) = try Self.quantizing { build, rows in
      build.result("codes", rows[0])
      build.result("numbers", try build.append(.dequantizeRows(DequantizeRows(to: .f32)), rows)[0])
    }
    try checkExactly(target, module, weights, inputs, "codes")
    var build = FunctionBuilder(module: Module(name: "given"), name: "forward")
    let rows = Dimension.symbol("rows")
    let codes = build.argument("codes", .tensor([rows, .fixed(16)], .f8e4m3))
    let scales = build.argument("scales", .tensor([rows], .f32))
    build.result("numbers", try build.append(.dequantizeRows(DequantizeRows(to: .f32)), [codes, scales])[0])
    let all = try HostTensor(element: .f8e4m3, shape: [16, 16], bytes: (0...255).map(UInt8.init))
    try checkExactly(
      target, build.finish(), WeightTable(),
      ["codes": all, "scales": HostTensor((0..<16).map { Float($0) + 0.5 })], "all codes")
  }

  /// Where nothing is fused, codes lie in memory between kernels, from where no instruction takes a left side.
  @Test("products of codes that another kernel wrote", arguments: [GPUTarget.sm90a, .gfx942])
  func codesInMemory(target: GPUTarget) throws {
    let (module, weights, inputs) = try Self.quantizing { build, rows in
      _ = try build.weight("w", [40, 24])
      let codes = build.derivedWeight("w.codes", [40, 24], .f8e4m3, .codes("w", channels: .columns))
      let scales = build.derivedWeight("w.scales", [24], .f32, .scales("w", channels: .columns, of: .f8e4m3))
      build.result("y", try build.append(.quantizedLinear(QuantizedLinear(.inOut)), rows + [codes, scales])[0])
    }
    var schedule = TileSchedule.gpu
    schedule.hasFNUZ = target.hasFNUZ
    let program = try lowerToTiles(module, function: "forward", schedule: schedule)
    try program.verify()
    let derived = DerivedWeights(module, base: weights)
    let found = try TileInterpreter(program: program, weights: derived, precision: .f32).run(inputs)
    let expected = try Interpreter(module: module, weights: weights, precision: .f32).run("forward", inputs: inputs)
    expectClose(
      found[0].tensor, expected[0].tensor, atol: RandomProgram.Kind.precision.tolerance(of: expected[0].tensor),
      rtol: 0)
    let (text, all) = try GPUCode([program], target: target).assembly(in: Context())
    let launches = all[0]
    #expect(launches.count == 2 && text.contains(target == .gfx942 ? "v_mfma_f32_16x16x32_fp8_fp8" : "e4m3.e4m3"))
  }

  private static func passes(_ matmul: String) -> String {
    "lower-precision{matmul=\(matmul),attention=bf16,tables=int4},prune-demand,fuse"
  }

  /// How far a stack's results may be from the function's, as a share of the largest number. Norms and attention come out a little different
  /// there, and of two codes that a number lies between the other one may be taken: a step is 1/127 of the row's largest number in INT8, and
  /// of FP8 1/8 of the number itself at most. Such numbers are few (what differs are the last bits of 24), and one of them among the
  /// contracted moves a result by that step times a weight. Without one, results differ by 1e-7.
  private static let share = 0x1p-10

  @Test(
    "stacks with products of codes, of any width",
    arguments: [
      ((GPUTarget.sm80, "int8"), (32, 2, 16)), ((.sm90a, "int8"), (24, 3, 8)), ((.sm90a, "fp8"), (50, 2, 25)),
      ((.gfx942, "int8"), (50, 2, 25)), ((.gfx942, "fp8"), (24, 3, 8)),
    ])
  func stacksOfCodes(form: Form, shape: (width: Int, heads: Int, headWidth: Int)) throws {
    try checkStack(
      form.target, width: shape.width, heads: shape.heads, headWidth: shape.headWidth, mask: .causal,
      lengths: [70, 0, 1, 33], targets: [3, 0, 1, 20], schedules: [(.descending, .early), (.shuffled, .late)],
      passes: Self.passes(form.matmul), share: Self.share)
  }

  @Test("stacks with products of codes that four warps take together", arguments: ["int8", "fp8"])
  func wideStacksOfCodes(matmul: String) throws {
    try checkStack(
      .sm90a, width: 256, heads: 2, headWidth: 64, mask: .causal, lengths: [130, 3], targets: [0, 2],
      schedules: [(.shuffled, .late)], passes: Self.passes(matmul), share: Self.share)
  }

  @Test(
    "a trained model with products of codes and tables of few bits",
    arguments: [(GPUTarget.sm90a, "fp8"), (.gfx942, "int8")])
  func codesFromIds(form: Form) throws {
    try checkFromIds(
      form.target, passes: Self.passes(form.matmul), share: Self.share,
      schedules: [(.shuffled, .late)])
  }
}
