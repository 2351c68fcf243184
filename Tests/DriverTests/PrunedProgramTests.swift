import Codegen
import Interpreter
import Passes
import TensorIR
import TestSupport
import Testing

/// Compiled code of pruned programs against that of the same programs as they were.
@Suite struct PrunedProgramTests {
  @Test("code of fewer rows gives the same bits")
  func sameBits() throws {
    let levels = CPULevel.ofOneOrder
    try #require(!levels.isEmpty)
    var pruned = 0
    for seed in UInt64(1)...24 {
      let kind: RandomProgram.Kind = seed % 5 == 0 ? .truncationSkip : .recommendation
      let program = try RandomProgram(kind, seed: 1000 + seed)
      var module = program.module
      try PassManager(try PassPipeline(parsing: "prune-demand,dce")).run(on: &module)
      if module.text == program.module.text { continue }
      pruned += 1
      let level = levels[Int(seed) % levels.count]
      let whole = try CompiledProgram(program.module, weights: program.weights, level: level, optimization: .less)
      let part = try CompiledProgram(module, weights: program.weights, level: level, optimization: .less)
      for (found, expected) in zip(try part.run(program.inputs), try whole.run(program.inputs)) {
        #expect(found.tensor == expected.tensor, "\(program) for \(level): \(found.name)")
      }
    }
    #expect(pruned > 12)
  }
}
