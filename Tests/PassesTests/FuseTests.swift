import Interpreter
import Passes
import TensorIR
import TestSupport
import TileIR
import Testing

/// Regions change how a function runs and nothing of what it gives.
@Suite("fuse")
struct FuseTests {
  static let pipelines = [
    "fuse", "fuse{reach=next}", "fuse{project=own}", "fuse{reach=next,project=own}",
    "fuse{project=own},canonicalize,cse,dce", "canonicalize,cse,dce,fuse",
  ]

  /// The module after the pipeline, verified.
  static func rewritten(_ module: Module, _ pipeline: String) throws -> Module {
    var module = module
    var manager = PassManager(try PassPipeline(parsing: pipeline))
    manager.verifiesEach = true
    try manager.run(on: &module)
    return module
  }

  @Test("the function keeps every bit, and its text is read back", arguments: RandomProgram.Kind.allCases, pipelines)
  func function(kind: RandomProgram.Kind, pipeline: String) throws {
    var regions = 0
    for seed in 1...12 as ClosedRange<UInt64> {
      let program = try RandomProgram(kind, seed: seed)
      let module = try Self.rewritten(program.module, pipeline)
      regions += module.functions[0].units.count { $0.region != nil }
      let results = try [program.module, module].map {
        try Interpreter(module: $0, weights: program.weights, precision: .f32)
          .run("forward", inputs: program.inputs).map(\.tensor)
      }
      #expect(results[0] == results[1], "\(pipeline) changed \(program)")
      #expect(try TensorIRParser.parse(module.text).text == module.text)
      #expect(try Self.rewritten(module, pipeline).text == module.text, "\(pipeline) is not done with \(program)")
    }
    #expect(regions > 0)
  }

  /// Every operation alone in a kernel, against regions: the tile interpreter rounds as compiled code does.
  @Test(
    "kernels keep every bit", arguments: RandomProgram.Kind.allCases,
    ["fuse", "fuse{reach=next}", "fuse{project=own}", "fuse{reach=next,project=own}"])
  func kernels(kind: RandomProgram.Kind, pipeline: String) throws {
    for seed in 1...16 as ClosedRange<UInt64> {
      let random = try RandomProgram(kind, seed: seed)
      var schedule = TileSchedule()
      (schedule.rows, schedule.attentionRows, schedule.keys) = seed % 2 == 0 ? (8, 32, 16) : (64, 64, 128)
      if seed % 3 == 0 { (schedule.scratchBytes, schedule.attentionScratchBytes) = (8 << 10, 16 << 10) }
      let fused = try Self.rewritten(random.module, pipeline)
      let results = try [random.module, fused].map { module in
        var program = try lowerToTiles(module, function: "forward", schedule: schedule)
        planMemory(&program)
        let weights = DerivedWeights(module, base: random.weights)
        return try TileInterpreter(program: program, weights: weights, precision: .f32)
          .run(random.inputs).map(\.tensor)
      }
      #expect(results[0] == results[1], "\(pipeline), \(random)")
    }
  }

  @Test(
    "a stack of layers takes two kernels a layer, or one",
    arguments: [
      ("fuse", 2), ("fuse{reach=next}", 1), ("fuse{project=own}", 2), ("fuse{reach=next,project=own}", 1),
    ])
  func layers(pipeline: String, perLayer: Int) throws {
    let layerCount = 3
    var build = FunctionBuilder(module: Module(name: "stack"), name: "forward")
    var x = build.argument("x", .tensor([.symbol("rows"), .fixed(16)], .f32))
    let offsets = build.argument("offsets", .offsets(sequences: .symbol("sequences"), rows: .symbol("rows")))
    let targets = build.argument("targets", .tensor([.symbol("sequences")], .i64))
    let layer = ProductionLayer(
      width: 16, heads: 2, queryWidth: 8, valueWidth: 8, alpha: 0.5, divisor: .fixed(16), mask: Mask(.causal))
    for index in 0..<layerCount {
      x = try build.productionLayer(layer, prefix: "\(index)", x: x, offsets: offsets, targets: targets)
    }
    build.result("y", x)
    let module = try Self.rewritten(build.finish(), pipeline)
    let program = try lowerToTiles(module, function: "forward")
    // The first layer's projection has no attention before it.
    #expect(program.kernels.count == layerCount * perLayer + (perLayer == 1 ? 1 : 0))
    let own = pipeline.contains("own") ? "layer_norm + linear + linear + silu + " : ""
    #expect(program.kernels.last?.summary == own + "attention + layer_norm + multiply + concatenate + linear + add")
  }
}
