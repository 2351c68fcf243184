import Interpreter
import Passes
import TensorIR
import TestSupport
import Testing

/// Rows against what is kept of a history become what they are in the whole batch.
@Suite struct CachedScoringTests {
  static let kinds: [RandomProgram.Kind] = [
    .production, .truncationDrop, .truncationSkip, .research, .contextual, .recommendation,
  ]

  @Test("rows behind a history that is kept are those of the whole batch", arguments: kinds)
  func sameBits(kind: RandomProgram.Kind) throws {
    var scored = 0
    var extended = 0
    for seed in 1...24 as ClosedRange<UInt64> {
      let program = try RandomProgram(kind, seed: seed, options: .init(fixedDivisor: true))
      var module = program.module
      do {
        try PassManager(PassPipeline(parsing: "cached-scoring")).run(on: &module)
      } catch is PassError {
        continue
      }
      try module.verify()
      #expect(try TensorIRParser.parse(module.text).text == module.text, "\(program)")
      guard module.functions.count > 2, let batch = CachedBatch(program, module, own: { min($0, 1 + $0 % 4) }) else {
        continue
      }
      if module.function(named: "score") == nil { extended += batch.ownRows } else { scored += batch.ownRows }
      let interpreter = Interpreter(module: module, weights: program.weights, precision: .f32)
      let run: CachedBatch.Run = { name, inputs in
        Dictionary(
          uniqueKeysWithValues: try interpreter.run(name, inputs: inputs).map { ($0.name, $0.tensor) })
      }
      let whole = try batch.whole(run)
      let continued = try batch.continued(run)
      for (name, expected) in whole {
        #expect(continued[name] == expected, "\(program): \(name)")
      }
    }
    print(kind, scored, extended)
    #expect(scored + extended > 20, "\(kind): \(scored) were scored, \(extended) extended")
  }
}
