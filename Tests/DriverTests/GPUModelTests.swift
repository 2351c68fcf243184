import Codegen
import Foundation
import GPUEmulator
import GoldenCases
import Interpreter
import Passes
import TensorIR
import TestSupport
import Testing

/// Whole models and random programs as code for GPUs, run thread by thread on the processor.
@Suite("GPU code of whole models, thread by thread")
struct GPUModelTests {
  private static let lowered = "lower-precision{matmul=bf16,attention=bf16}"

  /// What the artifact gives, as long as the function says it is, in two orders of threads, which must give the same bits.
  private func run(
    _ target: GPUTarget, _ module: Module, _ weights: any WeightProvider, _ inputs: [String: HostTensor],
    like expected: [(name: String, tensor: HostTensor)]
  ) throws -> [(name: String, tensor: HostTensor)] {
    let gpu = try EmulatedGPU(module, weights, target)
    let runs = try [(GPUEmulator.Order.ascending, GPUEmulator.Arrival.late), (.descending, .early)].map {
      order, arrival in
      try gpu.run(inputs, order: order, arrival: arrival)
    }
    let others = expected.indices.filter { runs[0][$0].tensor != runs[1][$0].tensor }.map { expected[$0].name }
    #expect(others.isEmpty, "\(target): other bits in another order of threads")
    return runs[0]
  }

  /// A program's results against those in float64: integers are the same, numbers off by a share of the largest at most.
  private func check(
    _ target: GPUTarget, _ random: RandomProgram, passes: String, share: Double
  ) throws {
    var module = random.module
    try PassManager(PassPipeline(parsing: passes)).run(on: &module)
    let weights = DerivedWeights(module, base: random.weights)
    let expected = try Interpreter(module: module, weights: weights, precision: .f64)
      .run("forward", inputs: random.inputs).map { (name: $0.name, tensor: $0.tensor) }
    for (found, expected) in zip(
      try run(target, module, random.weights, random.inputs, like: expected), expected)
    {
      let isNumber = expected.tensor.element != .i64
      let largest = isNumber ? expected.tensor.doubles.reduce(1) { max($0, abs($1)) } : 0
      expectClose(
        found.tensor, expected.tensor, atol: share * largest, rtol: 0, "\(target) \(random): \(expected.name)")
    }
  }

  /// The target that a case of many is for: each is some target's.
  private static func target(_ number: Int) -> GPUTarget { GPUStubTests.targets[number % GPUStubTests.targets.count] }

  /// Programs of one attention, with any mask, divisor, bias, selection of queries and widths of heads.
  private static func attention(_ kind: RandomProgram.Kind, count: Int) throws -> [RandomProgram] {
    var programs: [RandomProgram] = []
    var seed: UInt64 = 1
    while programs.count < count {
      let program = try RandomProgram(kind, seed: seed)
      let function = program.module.functions[0]
      if function.body.contains(where: { if case .attention = function[$0].payload { true } else { false } }) {
        programs.append(program)
      }
      seed += 1
    }
    return programs
  }

  @Test("attention of fp32 is as close to float64 as processors' is", arguments: GPUStubTests.targets)
  func fullAttention(target: GPUTarget) throws {
    for program in try Self.attention(.operation, count: 6) {
      try check(target, program, passes: "dce", share: 1e-6)
    }
  }

  @Test("attention of bf16, with and without biases", arguments: GPUStubTests.targets)
  func narrowAttention(target: GPUTarget) throws {
    for program in try Self.attention(.narrowAttention, count: 6) {
      try check(target, program, passes: "dce", share: 0x1p-7)
    }
  }

  @Test("research layers in fp32 and bf16")
  func research() throws {
    for seed in 1...4 as ClosedRange<UInt64> {
      let program = try RandomProgram(.research, seed: seed)
      try check(Self.target(Int(seed)), program, passes: "prune-demand,fuse", share: 2e-5)
      try check(Self.target(Int(seed) + 1), program, passes: "\(Self.lowered),prune-demand,fuse", share: 0x1p-6)
    }
  }

  /// Each key's value is a column of its own, so that a row's result is its biases.
  @Test(
    "the bucket of every difference of times is that of its definition", arguments: GPUStubTests.targets,
    [ElementType.f32, .bf16])
  func buckets(target: GPUTarget, element: ElementType) throws {
    let (last, keys) = (128, 64)
    var times = TimeBiasTests.differences(last: last)
    times += times.map { 1_700_000_000 &+ $0 } + [.min, .min + 1, -1]
    let queries: [Int64] = [0, 1_700_000_000, .max, .min]
    // Of each sequence one query sees all keys.
    var (queryTimes, keyTimes): ([Int64], [Int64]) = ([], [])
    for query in queries {
      for start in stride(from: 0, to: times.count, by: keys) {
        keyTimes += (0..<keys).map { times[min(start + $0, times.count - 1)] }
        queryTimes += Array(repeating: query, count: keys)
      }
    }
    let sequences = keyTimes.count / keys
    var build = FunctionBuilder(module: Module(name: "buckets"), name: "forward")
    let rows = Dimension.symbol("rows")
    func input(_ name: String, _ width: Int) throws -> ValueID {
      let value = build.argument(name, .tensor([rows, .fixed(width)], .f32))
      return element == .f32 ? value : try build.emit(.convert(Convert(to: element)), value)
    }
    let (q, v) = (try input("q", 8), try input("v", keys))
    let offsets = build.argument("offsets", .offsets(sequences: .symbol("sequences"), rows: rows))
    let all = ["query_times", "key_times"].map { build.argument($0, .tensor([rows], .i64)) }
    let attention = Attention(
      heads: 1, alpha: 1, divisor: .fixed(1), activation: .identity, bias: .positionAndTime, mask: .causal)
    let operands = [
      q, q, v, offsets, try build.weight("position", [2 * keys - 1]), try build.weight("time", [last + 1]),
    ]
    build.result("out", try build.append(.attention(attention), operands + all)[0])
    let module = build.finish()
    let weights = WeightTable([
      "position": HostTensor([Float](repeating: 0, count: 2 * keys - 1)),
      "time": HostTensor((0...last).map(Float.init)),
    ])
    let one = (0..<keys).flatMap { key in (0..<keys).map { Float($0 == key ? 1 : 0) } }
    let count = keys * sequences
    let out = HostTensor([Float](repeating: 0, count: count * keys), shape: [count, keys])
    let found = try run(
      target, module, weights,
      [
        "q": HostTensor([Float](repeating: 0, count: count * 8), shape: [count, 8]),
        "v": HostTensor((0..<sequences).flatMap { _ in one }, shape: [count, keys]),
        "offsets": HostTensor((0...sequences).map { Int64($0 * keys) }), "query_times": HostTensor(queryTimes),
        "key_times": HostTensor(keyTimes),
      ], like: [("out", out)])[0].tensor.floats
    for row in 0..<count {
      for key in 0..<keys {
        let time = keyTimes[row / keys * keys + key]
        let bucket = TimeBuckets.bucket(
          magnitude: TimeBuckets.magnitude(queryTimes[row], time), last: last)
        let expected = key <= row % keys ? Float(bucket) : 0
        if found[row * keys + key] != expected {
          Issue.record("\(target) \(element): |\(queryTimes[row]) - \(time)|: \(found[row * keys + key])")
          return
        }
      }
    }
  }

  private static let tests = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()

  /// Of every kind some, each for one target; the third one's program ranks.
  private static let cases = [
    "Golden/attn_combined", "Golden/prefix_contextual", "Golden/research_2layer", "Golden/l2_contextual_stack",
    "Golden/truncate_drop_prefix_sla", "Golden/stu_2layer_gn", "Golden/dlrm_no_history", "Golden/dlrm_timestamp",
    "Golden/dlrm_two_contextual_layernorm", "RankingCases/masked_contextual", "RankingCases/logarithm_l2",
  ]

  @Test("the reference's models give its numbers in fp32", arguments: cases.indices)
  func golden(number: Int) throws {
    let file = Self.tests.appendingPathComponent(Self.cases[number])
    let report = try GoldenCase(file.lastPathComponent, in: file.deletingLastPathComponent().path).check {
      program, _ in
      var module = program.module
      try PassManager(PassPipeline(level: 2)).run(on: &module)
      let expected = try Interpreter(
        module: module, weights: DerivedWeights(module, base: program.weights), precision: .f32
      )
      .run("forward", inputs: program.inputs).map { (name: $0.name, tensor: $0.tensor) }
      return try run(number == 2 ? .sm80 : Self.target(number), module, program.weights, program.inputs, like: expected)
    }
    #expect(report.status == .passed, "\(report)")
  }
}
