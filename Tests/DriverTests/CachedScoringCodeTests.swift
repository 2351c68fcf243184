import Codegen
import Driver
import Interpreter
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

  /// With a divisor of the batch, a call's results are its own; the interpreter says what they are.
  @Test("code of every entry agrees with the interpreter, whatever divides", arguments: kinds)
  func agrees(kind: RandomProgram.Kind) throws {
    var compared = 0
    for seed in 41...70 as ClosedRange<UInt64> where compared < 60 {
      let program = try RandomProgram(kind, seed: seed)
      var module = program.module
      do {
        try PassManager(PassPipeline(parsing: "cached-scoring")).run(on: &module)
      } catch is PassError {
        continue
      }
      guard module.functions.count > 2, let batch = CachedBatch(program, module, own: { min($0, 1 + $0 % 4) }),
        batch.ownRows > 0
      else { continue }
      compared += batch.ownRows
      let interpreter = Interpreter(module: module, weights: program.weights, precision: .f64)
      var fused = module
      try PassManager(PassPipeline(level: Int(seed % 3))).run(on: &fused)
      let model = try CompiledProgram(fused, weights: program.weights, level: .avx2, optimization: .less).model
      // What prefill gives is given to both: code has it in fp32.
      let found = try batch.continued { name, inputs in
        Dictionary(
          uniqueKeysWithValues: try model.run(entry: name, inputs: inputs.mapValues { try Tensor($0) }).map {
            ($0.name, try HostTensor($0.tensor))
          })
      }
      let expected = try batch.continued { name, inputs in
        Dictionary(
          uniqueKeysWithValues: try interpreter.run(name, inputs: inputs).map { result in
            let tensor = result.tensor
            return (
              result.name,
              tensor.element == .f64 ? HostTensor(tensor.doubles.map { Float($0) }, shape: tensor.shape) : tensor
            )
          })
      }
      for (name, tensor) in expected {
        expectClose(
          try #require(found[name]), tensor, atol: kind.tolerance(of: tensor), rtol: 0, "\(program): \(name)")
      }
    }
    #expect(compared > 4)
  }
}
