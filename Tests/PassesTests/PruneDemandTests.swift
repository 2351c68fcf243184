import Interpreter
import Passes
import TensorIR
import TestSupport
import Testing

/// What prune-demand must keep, on random programs, and what it must save.
@Suite("prune-demand")
struct PruneDemandTests {
  private func run(_ module: Module, _ program: RandomProgram) throws -> [HostTensor] {
    try Interpreter(module: module, weights: program.weights, precision: .f32)
      .run("forward", inputs: program.inputs).map(\.tensor)
  }

  private func work(_ module: Module, _ program: RandomProgram) throws -> Double {
    let function = try #require(module.function(named: "forward"))
    let lengths = zip(program.offsets, program.offsets.dropFirst()).map { $1 - $0 }
    let targets = program.inputs["targets"]?.integers.map(Int.init)
    return function.cost(on: BatchShape(lengths: lengths, targets: targets)).flops
  }

  @Test(
    "keeps every bit, needs no more work, and is done after one run",
    arguments: RandomProgram.Kind.allCases)
  func exact(kind: RandomProgram.Kind) throws {
    var (cheaper, rewritten) = (0, 0)
    for seed in 1...([.recommendation, .contextual, .mixture].contains(kind) ? 60 : 10) as ClosedRange<UInt64> {
      let program = try RandomProgram(kind, seed: seed)
      var module = program.module
      let manager = PassManager(try PassPipeline(parsing: "prune-demand"))
      try manager.run(on: &module)
      try module.verify()
      #expect(try run(module, program) == run(program.module, program), "\(program) changed")
      let (before, after) = (try work(program.module, program), try work(module, program))
      #expect(after <= before, "\(program) needs more work")
      cheaper += after < before ? 1 : 0
      rewritten += module.text != program.module.text ? 1 : 0
      let once = module.text
      try manager.run(on: &module)
      #expect(module.text == once, "\(program) is pruned again")
    }
    switch kind {
    case .recommendation: #expect(cheaper > 30)
    case .contextual, .mixture: #expect(cheaper > 15)
    case .embedding, .truncationDrop: #expect(rewritten > 0)
    case .operation, .production, .research, .truncationSkip, .precision, .narrowAttention, .ranking: break
    }
  }

  @Test("exact passes keep every bit in any order")
  func pipelines() throws {
    let passes = ["canonicalize", "cse", "dce", "prune-demand", "fuse", "fuse{project=own}"]
    for seed in 1...30 as ClosedRange<UInt64> {
      var random = Random(seed: seed)
      let kind = random.pick(RandomProgram.Kind.allCases + [.recommendation, .recommendation])
      let program = try RandomProgram(kind, seed: 500 + seed)
      let pipeline = (0..<random.integer(in: 2...7)).map { _ in random.pick(passes) }.joined(separator: ",")
      var module = program.module
      try PassManager(try PassPipeline(parsing: pipeline)).run(on: &module)
      try module.verify()
      #expect(try run(module, program) == run(program.module, program), "\(pipeline) changed \(program)")
    }
  }
}
