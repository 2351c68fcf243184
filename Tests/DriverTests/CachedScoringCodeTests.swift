import Codegen
import Driver
import Passes
import TensorIR
import TestSupport
import Testing
import UltraRuntime

/// Compiled `score` and `extend` give the bits of compiled `forward`.
@Suite struct CachedScoringCodeTests {
  static let kinds: [RandomProgram.Kind] = [
    .production, .truncationDrop, .truncationSkip, .research, .contextual, .recommendation,
  ]

  @Test(
    "rows behind a history that is kept have the bits that they have in the whole batch", arguments: kinds,
    ["", "lower-precision{matmul=bf16,attention=bf16},"])
  func sameBits(kind: RandomProgram.Kind, precision: String) throws {
    let levels = CPULevel.ofOneOrder
    let pool = try ThreadPool(workers: 2)
    var compared = 0
    for seed in 1...40 as ClosedRange<UInt64> where compared < 40 {
      let program = try RandomProgram(kind, seed: seed, options: .init(fixedDivisor: true))
      var module = program.module
      do {
        try PassManager(PassPipeline(parsing: "\(precision)cached-scoring")).run(on: &module)
      } catch is PassError {
        continue
      }
      try PassManager(PassPipeline(level: Int(seed % 3))).run(on: &module)
      guard module.functions.count > 2, let batch = CachedBatch(program, module, own: { min($0, 1 + $0 % 4) }) else {
        continue
      }
      compared += batch.ownRows
      let level = levels[Int(seed) % levels.count]
      let compiled = try CompiledProgram(module, weights: program.weights, level: level, optimization: .less)
      let run: CachedBatch.Run = { name, inputs in
        let found = try compiled.model.run(
          entry: name, inputs: inputs.mapValues { try Tensor($0) }, pool: name == "score" ? pool : nil)
        return Dictionary(uniqueKeysWithValues: try found.map { ($0.name, try HostTensor($0.tensor)) })
      }
      let whole = try batch.whole(run)
      let continued = try batch.continued(run)
      for (name, expected) in whole { #expect(continued[name] == expected, "\(program) for \(level): \(name)") }
    }
    #expect(compared > 4)
  }
}
