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
    // Code of several entries takes long to make: a few programs of a kind.
    for seed in 1...30 as ClosedRange<UInt64> where compared < 7 {
      let program = try RandomProgram(kind, seed: seed, options: .init(fixedDivisor: true))
      var module = program.module
      do {
        try PassManager(PassPipeline(parsing: "\(precision)cached-scoring")).run(on: &module)
      } catch is PassError {
        continue
      }
      try PassManager(PassPipeline(level: Int(seed % 3))).run(on: &module)
      guard module.functions.count > 2, let batch = CachedBatch(program, module, own: { min($0, 1 + $0 % 4) }),
        batch.ownRows > 0
      else { continue }
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

  @Test(
    "keys of bf16 are multiplied in the same pairs wherever a call begins",
    arguments: [
      Mask(.windowed(window: 6, fullTail: 0)), Mask(.windowed(window: 17, fullTail: 0)),
      Mask(.keyPrefix(local: 9, global: 5, targets: .windowed)),
      Mask(.keyPrefix(local: 8, global: 3, targets: .history)),
      Mask(.causal, contextual: 3), .causal,
    ])
  func pairs(mask: Mask) throws {
    let width = 32
    let histories = [65, 41, 1, 130, 14]
    let candidates = [3, 40, 2, 5, 0]
    let layers = try TwoLayers(mask, width: width, passes: TwoLayers.bf16 + "cached-scoring")
    var random = Random(seed: 8)
    let rows = zip(histories, candidates).map(+)
    let all = random.tensor([rows.reduce(0, +), width], spread: 2)
    let starts = TwoLayers.cut(rows).integers.map(Int.init)
    let old = try all.rows(zip(starts, histories).flatMap { $0..<$0 + $1 })
    let new = zip(starts, zip(histories, candidates)).flatMap { $0 + $1.0..<$0 + $1.0 + $1.1 }
    for level in CPULevel.ofOneOrder {
      let run = try CompiledProgram(layers.module, weights: layers.weights, level: level, optimization: .less).results
      let whole = try run(
        "forward", ["x": all, "offsets": TwoLayers.cut(rows), "targets": HostTensor(candidates.map { Int64($0) })])
      let takes = Set(try #require(layers.module.function(named: "score")).argumentNames)
      var given = try run("prefill", ["x": old, "offsets": TwoLayers.cut(histories)]).filter { takes.contains($0.key) }
      for (name, tensor) in [
        "cached_offsets": TwoLayers.cut(histories), "x": try all.rows(new), "offsets": TwoLayers.cut(candidates),
      ] where takes.contains(name) {
        given[name] = tensor
      }
      #expect(try run("score", given)["y"] == whole["y"]?.rows(new), "\(mask) for \(level)")
    }
  }

  /// The first key of a call may be the second one of a pair, whose first one is kept.
  @Test(
    "further history has the same bits wherever it begins",
    arguments: [
      Mask(.windowed(window: 6, fullTail: 0)), Mask(.keyPrefix(local: 9, global: 5, targets: .windowed)), .causal,
    ])
  func seams(mask: Mask) throws {
    let width = 32
    let histories = [65, 40, 1, 131, 14, 0]
    let further = [3, 45, 2, 130, 0, 7]
    let layers = try TwoLayers(mask, width: width, passes: TwoLayers.bf16 + "cached-scoring{keep=all}")
    var random = Random(seed: 9)
    let rows = zip(histories, further).map(+)
    let all = random.tensor([rows.reduce(0, +), width], spread: 2)
    let starts = TwoLayers.cut(rows).integers.map(Int.init)
    let old = try all.rows(zip(starts, histories).flatMap { $0..<$0 + $1 })
    let new = zip(starts, zip(histories, further)).flatMap { $0 + $1.0..<$0 + $1.0 + $1.1 }
    let takes = try #require(layers.module.function(named: "extend")).argumentNames
    for level in CPULevel.ofOneOrder {
      let run = try CompiledProgram(layers.module, weights: layers.weights, level: level, optimization: .less).results
      let whole = try run("prefill", ["x": all, "offsets": TwoLayers.cut(rows)])
      var given = try run("prefill", ["x": old, "offsets": TwoLayers.cut(histories)])
      for (name, tensor) in [
        "cached_offsets": TwoLayers.cut(histories), "x": try all.rows(new), "offsets": TwoLayers.cut(further),
      ] {
        given[name] = tensor
      }
      let found = try run("extend", given.filter { takes.contains($0.key) })
      for name in ["cache.0.k", "cache.0.v", "cache.1.k", "cache.1.v"] {
        #expect(try found[name] == whole[name]?.rows(new), "\(mask) for \(level): \(name)")
      }
    }
  }

  /// With a divisor of the batch, a call's results are its own; the interpreter says what they are.
  @Test("code of every entry agrees with the interpreter, whatever divides", arguments: kinds)
  func agrees(kind: RandomProgram.Kind) throws {
    var compared = 0
    for seed in 41...60 as ClosedRange<UInt64> where compared < 7 {
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

/// Two layers on x with candidates, whose history can be kept.
struct TwoLayers {
  static let bf16 = "lower-precision{matmul=bf16,attention=bf16},"
  var module: Module
  var weights = WeightTable()

  /// Two heads of this width, rewritten by the passes.
  init(_ mask: Mask, width: Int, head: Int = 16, passes: String) throws {
    var build = FunctionBuilder(module: Module(name: "pairs"), name: "forward")
    let x = build.argument("x", .tensor([.symbol("rows"), .fixed(width)], .f32))
    let offsets = build.argument("offsets", .offsets(sequences: .symbol("sequences"), rows: .symbol("rows")))
    let targets = build.argument("targets", .tensor([.symbol("sequences")], .i64))
    let layer = ProductionLayer(
      width: width, heads: 2, queryWidth: head, valueWidth: head, alpha: 0.25, divisor: .fixed(64), mask: mask)
    var y = x
    for index in 0..<2 {
      y = try build.productionLayer(layer, prefix: "\(index).", x: y, offsets: offsets, targets: targets)
    }
    build.result("y", y)
    module = build.finish()
    try PassManager(PassPipeline(parsing: passes)).run(on: &module)
    var random = Random(seed: 7)
    for weight in module.weights where weight.formula == nil {
      weights.tensors[weight.name] = random.tensor(
        weight.type.shape.compactMap(\.extent), center: weight.name.hasSuffix("norm_weight") ? 1 : 0, spread: 0.3)
    }
  }

  static func cut(_ lengths: [Int]) -> HostTensor {
    HostTensor(lengths.reduce(into: [Int64(0)]) { $0.append($0[$0.count - 1] + Int64($1)) })
  }
}
