import Codegen
import GPUEmulator
import Interpreter
import Passes
import TensorIR
import TestSupport
import Testing

/// `prefill`, `score` and `extend` as code for GPUs, run thread by thread on the processor: behind a history that is kept, rows are what
/// they are in the whole batch.
@Suite("GPU code that goes on from what is kept, thread by thread")
struct GPUCachedScoringTests {
  private static let bf16 = "lower-precision{matmul=bf16,attention=bf16},"

  /// An artifact's entries, in turns in two orders of threads.
  private static func run(_ gpu: EmulatedGPU) -> CachedBatch.Run {
    var isAscending = false
    return { entry, inputs in
      isAscending.toggle()
      let found = try gpu.run(
        entry: entry, inputs, order: isAscending ? .ascending : .descending, arrival: isAscending ? .late : .early)
      return Dictionary(uniqueKeysWithValues: found.map { ($0.name, $0.tensor) })
    }
  }

  private func expect(
    _ found: [String: HostTensor], _ expected: [String: HostTensor], share: Double, _ what: String
  ) throws {
    for (name, tensor) in expected.sorted(by: { $0.key < $1.key }) {
      let largest = tensor.element == .i64 ? 0 : tensor.doubles.reduce(1) { max($0, abs($1)) }
      expectClose(try #require(found[name]), tensor, atol: share * largest, rtol: 0, "\(what): \(name)")
    }
  }

  private static func interpreter(_ module: Module, _ weights: any WeightProvider) -> CachedBatch.Run {
    let interpreter = Interpreter(module: module, weights: weights, precision: .f64)
    return { name, inputs in
      Dictionary(uniqueKeysWithValues: try interpreter.run(name, inputs: inputs).map { ($0.name, $0.tensor) })
    }
  }

  /// Each kind is some target's, in fp32 or bf16.
  @Test("random models", arguments: CachedScoringCodeTests.kinds.enumerated().map { $0 })
  func randomModels(number: Int, kind: RandomProgram.Kind) throws {
    var compared = 0
    for seed in 1...30 as ClosedRange<UInt64> where compared < 1 {
      let program = try RandomProgram(kind, seed: seed, options: .init(fixedDivisor: true))
      let isNarrow = number % 2 == 1
      var module = program.module
      do {
        try PassManager(PassPipeline(parsing: "\(isNarrow ? Self.bf16 : "")cached-scoring,prune-demand,fuse")).run(
          on: &module)
      } catch is PassError {
        continue
      }
      guard module.functions.count > 2, let batch = CachedBatch(program, module, own: { min($0, 1 + $0 % 4) }),
        batch.ownRows > 0
      else { continue }
      let target = GPUStubTests.targets[number % GPUStubTests.targets.count]
      compared += 1
      let expected = try batch.whole(Self.interpreter(module, program.weights))
      let found = try batch.continued(Self.run(EmulatedGPU(module, program.weights, target)))
      try expect(found, expected, share: isNarrow ? 0x1p-6 : 2e-5, "\(program) for \(target)")
    }
    #expect(compared == 1)
  }

  /// A history that is kept, and what a call brings.
  struct Seam: CustomTestStringConvertible {
    var target: GPUTarget
    /// What comes before `cached-scoring`, and its option.
    var passes = GPUCachedScoringTests.bf16
    var option = ""
    var head = 16
    var mask = Mask.causal
    var isCoded: Bool { option.contains("fp8") }
    var testDescription: String { "\(target), \(passes)cached-scoring\(option), heads of \(head), \(mask)" }
  }

  private static let windowed = Mask(.windowed(window: 6, fullTail: 0))
  private static let prefixed = Mask(.keyPrefix(local: 9, global: 5, targets: .history))

  /// Turns of keys have some of both places. Every kind of attention, rows at any byte, and keys that are kept as codes.
  @Test(
    "the seam between what is kept and what a call brings lies anywhere in a turn",
    arguments: [
      Seam(target: .sm80), Seam(target: .sm80, head: 25), Seam(target: .sm80, option: "{cache=fp8}", mask: windowed),
      Seam(target: .sm80, passes: "", mask: prefixed),
      Seam(target: .sm90a, head: 64), Seam(target: .sm90a, option: "{cache=fp8}", head: 64, mask: windowed),
      Seam(target: .gfx942, mask: windowed), Seam(target: .gfx942, option: "{cache=fp8}"),
      Seam(target: .gfx942, passes: "", head: 25),
    ])
  func seams(seam: Seam) throws {
    var random = Random(seed: 11)
    let layers = try TwoLayers(
      seam.mask, width: 32, head: seam.head, passes: seam.passes + "cached-scoring\(seam.option),prune-demand,fuse")
    let histories = [65, 41, 1, 130, 14, 0]
    let own = [3, 40, 2, 5, 0, 7]
    let rows = zip(histories, own).map(+)
    let all = random.tensor([rows.reduce(0, +), 32], spread: 2)
    let starts = TwoLayers.cut(rows).integers.map(Int.init)
    let run = Self.run(try EmulatedGPU(layers.module, layers.weights, seam.target))
    let takes = try #require(layers.module.function(named: "score")).argumentNames
    /// The rows that some of the sequences bring.
    func new(_ chosen: Range<Int>) -> [Int] {
      chosen.flatMap { Array(starts[$0] + histories[$0]..<starts[$0 + 1]) }
    }
    /// What `score` is given of them, once `prefill` has had their histories.
    func given(_ chosen: Range<Int>) throws -> [String: HostTensor] {
      let old = try all.rows(chosen.flatMap { starts[$0]..<starts[$0] + histories[$0] })
      var given = try run("prefill", ["x": old, "offsets": TwoLayers.cut(Array(histories[chosen]))])
      given["cached_offsets"] = TwoLayers.cut(Array(histories[chosen]))
      (given["x"], given["offsets"]) = (try all.rows(new(chosen)), TwoLayers.cut(Array(own[chosen])))
      return given.filter { takes.contains($0.key) }
    }
    let together = try given(rows.indices)
    let found = try run("score", together)
    let interpreter = Self.interpreter(layers.module, layers.weights)
    let expected: HostTensor?
    if seam.isCoded {
      expected = try interpreter("score", together)["y"]
    } else {
      expected = try interpreter(
        "forward", ["x": all, "offsets": TwoLayers.cut(rows), "targets": HostTensor(own.map { Int64($0) })])["y"]?
        .rows(new(rows.indices))
    }
    try expect(
      found, ["y": try #require(expected)], share: seam.passes.isEmpty ? 2e-5 : 0x1p-6, seam.testDescription)
    // Who shares the batch does not show.
    let alone = try run("score", try given(1..<2))["y"]
    #expect(try alone == found["y"]?.rows(Array(own[0]..<own[0] + own[1])), "\(seam): other bits alone")
  }
}
