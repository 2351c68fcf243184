import Codegen
import Driver
import Interpreter
import Passes
import TensorIR
import TestSupport
import Testing
import UltraRuntime

/// Compiled code against the interpreter, on random programs: widths, masks, lengths, batches.
@Suite struct CompiledRandomProgramTests {
  /// Seeds of programs of each kind; levels of this machine take turns.
  static let seeds: ClosedRange<UInt64> = 1...18

  @Test("compiled code gives what the interpreter gives", arguments: RandomProgram.Kind.allCases)
  func agrees(kind: RandomProgram.Kind) throws {
    let levels = CPULevel.supportedByHost
    try #require(!levels.isEmpty)
    for seed in Self.seeds {
      let program = try RandomProgram(kind, seed: seed)
      let level = levels[Int(seed) % levels.count]
      var module = program.module
      // Most with regions, some with an operation a kernel.
      let passes = ["fuse", "fuse{reach=next,project=own}", "fuse{project=own}", ""][Int(seed / 3) % 4]
      try PassManager(PassPipeline(parsing: passes)).run(on: &module)
      let compiled = try CompiledProgram(module, weights: program.weights, level: level, optimization: .less)
      let found = try compiled.run(program.inputs)
      let expected = try Interpreter(module: program.module, weights: program.weights, precision: .f64)
        .run("forward", inputs: program.inputs)
      #expect(found.map(\.name) == expected.map(\.name))
      for (found, expected) in zip(found, expected) {
        expectClose(
          found.tensor, expected.tensor, atol: kind.tolerance(of: expected.tensor), rtol: 0,
          "\(program) for \(level): \(found.name)")
      }
    }
  }

  @Test("so does the code of what the usual passes leave", arguments: RandomProgram.Kind.allCases)
  func agreesAfterPasses(kind: RandomProgram.Kind) throws {
    let levels = CPULevel.supportedByHost
    for seed in 301...306 as ClosedRange<UInt64> {
      let program = try RandomProgram(kind, seed: seed)
      var module = program.module
      try PassManager(PassPipeline(level: 2)).run(on: &module)
      let level = levels[Int(seed) % levels.count]
      let compiled = try CompiledProgram(module, weights: program.weights, level: level, optimization: .less)
      let expected = try Interpreter(module: program.module, weights: program.weights, precision: .f64)
        .run("forward", inputs: program.inputs)
      for (found, expected) in zip(try compiled.run(program.inputs), expected) {
        expectClose(
          found.tensor, expected.tensor, atol: kind.tolerance(of: expected.tensor), rtol: 0,
          "\(program) for \(level): \(found.name)")
      }
    }
  }

  @Test(
    "a sequence's result has the same bits alone, in any batch, on any number of threads",
    arguments: RandomProgram.Kind.allCases)
  func determinism(kind: RandomProgram.Kind) throws {
    let level = try #require(CPULevel.native)
    let pool = try ThreadPool(workers: 3)
    for seed in UInt64(101)...110 {
      let program = try RandomProgram(kind, seed: seed, options: .init(fixedDivisor: true))
      // Small blocks, so that there are many for the threads.
      var schedule = TileSchedule()
      schedule.rows = 8
      var module = program.module
      try PassManager(PassPipeline(parsing: "fuse{project=own}")).run(on: &module)
      let compiled = try CompiledProgram(
        module, weights: program.weights, level: level, schedule: schedule, optimization: .less)
      let together = try compiled.run(program.inputs)
      for _ in 0..<3 {
        for (threaded, single) in zip(try compiled.run(program.inputs, pool: pool), together) {
          #expect(threaded.tensor == single.tensor, "\(program): \(single.name) on threads")
        }
      }
      guard program.inputs["offsets"] != nil else { continue }
      for sequence in 0..<program.sequenceCount {
        for (name, tensor) in try compiled.run(program.selecting([sequence]).inputs) where name != "kept_offsets" {
          let rows = try #require(program.rows(ofResult: name, in: together))[sequence]
          let expected = try #require(together.first { $0.name == name }).tensor.rows(Array(rows))
          #expect(tensor == expected, "\(program): \(name) of sequence \(sequence)")
        }
      }
    }
  }

  @Test("a value that is returned twice, a slice and an argument are results like others")
  func repeatedResults() throws {
    var random = Random(seed: 3)
    var build = FunctionBuilder(module: Module(name: "repeated"), name: "forward")
    let x = build.argument("x", .tensor([.symbol("rows"), .fixed(5)], .f32))
    let doubled = try build.emit(.scale(Scale(factor: 2)), x)
    let parts = try build.append(.split(Split(widths: [2, 3])), [doubled])
    for (name, value) in [("a", doubled), ("b", doubled), ("slice", parts[1]), ("c", doubled), ("x", x)] {
      build.result(name, value)
    }
    let module = build.finish()
    let inputs = ["x": random.tensor([4, 5])]
    let compiled = try CompiledProgram(module, weights: WeightTable(), level: try #require(CPULevel.native))
    let expected = try Interpreter(module: module, weights: WeightTable(), precision: .f32)
      .run("forward", inputs: inputs)
    let found = try compiled.run(inputs)
    #expect(found.map(\.name) == expected.map(\.name))
    #expect(found.map(\.tensor) == expected.map(\.tensor))
  }
}
