import Codegen
import Foundation
import GPUEmulator
import Interpreter
import ModelFormat
import Passes
import TensorIR
import TestSupport
import Testing

/// Code for GPUs, run thread by thread on the processor: its layouts, buffers and barriers.
@Suite("GPU code, thread by thread")
struct GPUExecutionTests {
  static let passes = "lower-precision{matmul=bf16,attention=bf16},prune-demand,fuse"

  typealias Schedule = (order: GPUEmulator.Order, arrival: GPUEmulator.Arrival)

  /// Results against the function's, in several orders of threads: where an order is not held to by barriers, others give others.
  func check(
    _ target: GPUTarget, _ module: Module, _ weights: any WeightProvider, _ inputs: [String: HostTensor],
    schedules: [Schedule], _ what: String, share: Double = 0x1p-6
  ) throws {
    let weights = DerivedWeights(module, base: weights)
    let expected = try Interpreter(module: module, weights: weights, precision: .f64).run("forward", inputs: inputs)
    let gpu = try EmulatedGPU(module, weights, target)
    var first: [[UInt8]]?
    for (order, arrival) in schedules {
      let found = try gpu.run(inputs, order: order, arrival: arrival)
      let bytes = found.map(\.tensor.bytes)
      for (own, result) in zip(found, expected) {
        let largest = result.tensor.doubles.reduce(1) { max($0, abs($1)) }
        expectClose(
          own.tensor, result.tensor, atol: share * largest, rtol: 0, "\(target) \(what) \(order): \(result.name)")
      }
      let isSame = first.map { $0 == bytes } ?? true
      #expect(isSame, "other bits where threads run \(order)")
      first = bytes
    }
  }

  static func offsets(_ lengths: [Int]) -> HostTensor {
    HostTensor(lengths.reduce(into: [Int64(0)]) { $0.append($0[$0.count - 1] + Int64($1)) })
  }

  func checkStack(
    _ target: GPUTarget, width: Int, heads: Int, headWidth: Int, mask: Mask, lengths: [Int], targets: [Int],
    schedules: [Schedule], passes: String = passes, share: Double = 0x1p-6
  ) throws {
    var random = Random(seed: 17)
    var (module, weights) = try GPUModels.stack(
      &random, width: width, heads: heads, headWidth: headWidth, layers: 2, mask: mask)
    try PassManager(PassPipeline(parsing: passes)).run(on: &module)
    let inputs = [
      "x": random.tensor([lengths.reduce(0, +), width]), "targets": HostTensor(targets.map(Int64.init)),
      "offsets": Self.offsets(lengths),
    ]
    try check(target, module, weights, inputs, schedules: schedules, "\(mask) \(passes)", share: share)
  }

  @Test(
    "stacks of narrow layers", arguments: GPUStubTests.targets, [Mask.causal, Mask(.windowed(window: 9, fullTail: 5))])
  func narrow(target: GPUTarget, mask: Mask) throws {
    try checkStack(
      target, width: 32, heads: 2, headWidth: 16, mask: mask, lengths: [70, 0, 1, 133], targets: [3, 0, 1, 20],
      schedules: [(.ascending, .early), (.descending, .early), (.shuffled, .late)])
  }

  /// Warps have half as many queries, and of the widest turns half as many keys.
  @Test("stacks of wide heads", arguments: [(GPUTarget.sm80, 200), (.sm80, 256), (.sm90a, 200), (.gfx942, 200)])
  func wideHeads(target: GPUTarget, headWidth: Int) throws {
    try checkStack(
      target, width: 32, heads: 1, headWidth: headWidth, mask: Mask(.windowed(window: 40, fullTail: 5)),
      lengths: [100, 1], targets: [3, 1], schedules: [(.descending, .early), (.shuffled, .late)])
  }

  @Test(
    "stacks whose products four warps take together",
    arguments: [Mask.causal, Mask(.windowed(window: 40, fullTail: 30))])
  func wide(mask: Mask) throws {
    try checkStack(
      .sm90a, width: 256, heads: 2, headWidth: 64, mask: mask, lengths: [130, 3], targets: [0, 2],
      schedules: [(.descending, .early), (.shuffled, .late)])
  }

  @Test("a trained model from ids to scores", arguments: GPUStubTests.targets)
  func fromIds(target: GPUTarget) throws { try checkFromIds(target, passes: Self.passes) }

  func checkFromIds(
    _ target: GPUTarget, passes: String, share: Double = 0x1p-6,
    schedules: [Schedule] = [(.descending, .early), (.shuffled, .late)]
  ) throws {
    let path = URL(fileURLWithPath: #filePath).deletingLastPathComponent().appendingPathComponent(
      "../../examples/movielens-ultra/model.json")
    let model = try importModel(at: path.path)
    var module = model.module
    try PassManager(PassPipeline(parsing: passes)).run(on: &module)
    var random = Random(seed: 5)
    let lengths = [150, 0, 1, 70]
    let rows = lengths.reduce(0, +)
    let function = try #require(module.function(named: "forward"))
    var inputs: [String: HostTensor] = [:]
    for argument in function.arguments {
      let name = function[argument].name
      let range = name == "actions" ? 1...5 : 1...1000
      inputs[name] =
        name == "offsets"
        ? Self.offsets(lengths) : HostTensor((0..<rows).map { _ in Int64(random.integer(in: range)) })
    }
    try check(
      target, module, model.weights, inputs, schedules: schedules,
      "from ids, \(passes)", share: share)
  }

  /// Results of a program whose numbers are such that sums are exact.
  private func checkExactly(_ target: GPUTarget, _ program: RandomProgram) throws {
    try checkExactly(target, program.module, program.weights, program.inputs, "\(program)")
  }

  /// The same; up to `tolerance` of each result, where sums are not.
  func checkExactly(
    _ target: GPUTarget, _ module: Module, _ weights: WeightTable, _ inputs: [String: HostTensor], _ what: String,
    tolerance: (HostTensor) -> Double = { _ in 0 }
  ) throws {
    let expected = try Interpreter(module: module, weights: weights, precision: .f32).run("forward", inputs: inputs)
    let gpu = try EmulatedGPU(module, weights, target)
    for (order, arrival) in [(.ascending, .late), (.descending, .early)] as [Schedule] {
      for (found, expected) in zip(try gpu.run(inputs, order: order, arrival: arrival), expected) {
        expectClose(
          found.tensor, expected.tensor, atol: tolerance(expected.tensor), rtol: 0,
          "\(target) \(what) \(order): \(expected.name)")
      }
    }
  }

  @Test("rankings: items of every form, numbers that are none, ids that were seen", arguments: GPUStubTests.targets)
  func rankings(target: GPUTarget) throws {
    for seed in 1...4 as ClosedRange<UInt64> { try checkExactly(target, RandomProgram(.ranking, seed: seed)) }
  }

  @Test(
    "rankings whose seen ids are hashed leave out the rows that they are hashed to", arguments: GPUStubTests.targets)
  func hashedRankings(target: GPUTarget) throws {
    let module = try TopKTests.module(200, width: 1, TopK(count: 200, firstID: 1, seenModulo: 201))
    let weights = WeightTable(["items": HostTensor((1...200).map { Float($0) }, shape: [200, 1])])
    let seen = TopKTests.hashed.map(\.id)
    try checkExactly(
      target, module, weights,
      [
        "x": HostTensor([1, -1] as [Float], shape: [2, 1]), "seen": HostTensor(seen + [-3]),
        "offsets": HostTensor([0, Int64(seen.count), Int64(seen.count + 1)]),
      ], "hashed ids")
  }

  @Test("rankings in parts, whose lists are merged", arguments: GPUStubTests.targets)
  func rankingsInParts(target: GPUTarget) throws {
    try checkExactly(target, RandomProgram(.ranking, seed: 1, options: .init(items: 5000)))
  }

  @Test("rankings whose lists are longer than a warp is wide", arguments: GPUStubTests.targets)
  func longRankings(target: GPUTarget) throws {
    for (items, best) in [(700, 150), (4200, 70)] {
      try checkExactly(target, RandomProgram(.ranking, seed: 2, options: .init(longest: 8, items: items, best: best)))
    }
  }

  @Test("lists take what waits for them at once", arguments: GPUStubTests.targets)
  func lists(target: GPUTarget) throws {
    // In random order a list of 100 places should take 471 of 4096 items, by 100 * (1 + ln(40.96)). To move the list for each would take
    // more than ten operations of the warp each time: votes on where it goes, what it is, and meetings before and after places move.
    var random = Random(seed: 77)
    let module = try TopKTests.module(4096, width: 1, TopK(count: 100), leavesOutSeen: false)
    let weights = WeightTable(["items": random.tensor([4096, 1])])
    let gpu = try EmulatedGPU(module, DerivedWeights(module, base: weights), target)
    let inputs = ["x": HostTensor([1 as Float], shape: [1, 1])]
    let found = try gpu.run(inputs, order: .ascending, arrival: .early)
    let expected = try Interpreter(module: module, weights: weights, precision: .f32).run("forward", inputs: inputs)
    #expect(found.map(\.tensor) == expected.map(\.tensor))
    #expect(gpu.warpOperations < 471 * 2, "\(gpu.warpOperations)")
  }
}
