import Codegen
import GPUEmulator
import Interpreter
import LLVMKit
import TensorIR
import TestSupport
import Testing

@testable import Driver

// Rankings of more rows than a block takes.
extension GPUExecutionTests {
  /// Whole numbers, few enough that every order of their sums is exact.
  private func grid(_ random: inout Random, _ shape: [Int], within most: Int) -> [Float] {
    (0..<shape.reduce(1, *)).map { _ in Float(random.integer(in: -most...most)) }
  }

  /// Queries and items of bf16, some of which are no numbers.
  private func ranking(items: Int, users: Int, width: Int, best: Int) throws -> (
    Module, WeightTable, [String: HostTensor]
  ) {
    var random = Random(seed: UInt64(items + width))
    let module = try TopKTests.module(items, width: width, TopK(count: best, firstID: 1), element: .bf16)
    var rows = grid(&random, [items, width], within: 3)
    // Those that lie behind another panel, in what its steps would read past its end.
    for item in [32, 40, 63] { rows[item * width] = .nan }
    var queries = grid(&random, [users, width], within: 2)
    queries[5 * width] = .nan
    queries[20 * width] = .infinity
    let seen = (0..<users).map { user in (0..<user % 4).map { _ in Int64(random.integer(in: 0...items)) } }
    return (
      module, WeightTable(["items": HostTensor(rows, shape: [items, width])]),
      [
        "x": HostTensor(queries, shape: [users, width]), "seen": HostTensor(seen.flatMap { $0 }),
        "offsets": Self.offsets(seen.map(\.count)),
      ]
    )
  }

  @Test(
    "rankings by matrix instructions: rows past a block's, widths that are no whole steps, numbers that are none",
    arguments: GPUStubTests.targets, [1, 25, 48])
  func matrixRankings(target: GPUTarget, width: Int) throws {
    let (module, weights, inputs) = try ranking(items: 333, users: 37, width: width, best: 9)
    try checkExactly(target, module, weights, inputs, "\(width) wide")
  }

  @Test("parts of rankings by matrix instructions are merged", arguments: GPUStubTests.targets)
  func matrixRankingsInParts(target: GPUTarget) throws {
    let (module, weights, inputs) = try ranking(items: 2100, users: 33, width: 18, best: 40)
    try checkExactly(target, module, weights, inputs, "in parts")
  }

  @Test("lists that leave no room for sixteen queries' have items of bf16 multiplied as fp32")
  func longMatrixRankings() throws {
    let (module, weights, inputs) = try ranking(items: 260, users: 21, width: 5, best: 250)
    let programs = try CompiledProgram.backend(module, [.avx2], .less).lowerForGPU(module, target: .gfx942)
    let text = try GPUCode(programs, target: .gfx942).assembly(in: Context()).text
    #expect(!text.contains("mfma"))
    try checkExactly(.gfx942, module, weights, inputs, "long lists")
  }

  @Test("a query has the same bits alone and in any batch", arguments: GPUStubTests.targets, ["f32", "bf16", "int8"])
  func rankingsAlone(target: GPUTarget, form: String) throws {
    var random = Random(seed: 3)
    let (items, width, users) = (300, 40, 35)
    let module = try TopKTests.module(
      items, width: width, TopK(count: 12, rows: TableFormat(rawValue: form)), leavesOutSeen: false,
      element: ElementType(rawValue: form) ?? .f32)
    let weights = WeightTable(["items": random.tensor([items, width])])
    let gpu = try EmulatedGPU(module, DerivedWeights(module, base: weights), target)
    let queries = random.tensor([users, width])
    let together = try gpu.run(["x": queries], order: .shuffled, arrival: .late)
    for user in [0, 15, 16, 34] {
      let alone = try gpu.run(["x": try queries.rows([user])], order: .ascending, arrival: .early)
      for (alone, together) in zip(alone, together) {
        #expect(try alone.tensor.rows([0]) == together.tensor.rows([user]), "\(user)")
      }
    }
  }
}
