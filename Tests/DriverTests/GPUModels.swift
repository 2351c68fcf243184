import Passes
import TensorIR
import TestSupport

/// Models whose every kernel has code for GPUs.
enum GPUModels {
  /// Width, heads, width of a head, mask.
  typealias Shape = (Int, Int, Int, Mask)

  /// Shapes that together take every way through the code generator.
  static let shapes: [Shape] = [
    (512, 4, 128, Mask.causal), (512, 4, 128, Mask(.windowed(window: 256, fullTail: 256))), (256, 4, 64, .causal),
    (256, 8, 32, Mask(.keyPrefix(local: 64, global: 32, targets: .history))), (64, 2, 32, .causal),
    (50, 2, 25, .causal), (256, 2, 128, Mask(.windowed(window: 100, fullTail: 0))),
    (128, 2, 64, Mask(.keyPrefix(local: 64, global: 32, targets: .windowed), contextual: 3)),
    (24, 3, 8, Mask(.keyPrefix(local: 5, global: 2, targets: .windowed), contextual: 3)),
  ]

  /// Shapes that together take every way through products of codes.
  static let codeShapes: [Shape] = [shapes[0], shapes[2], shapes[4], shapes[5]]

  /// Layers beside those in bf16 without biases.
  enum Form: CaseIterable {
    /// In fp32.
    case full
    /// With biases of positions and times.
    case fullWithTimes, narrowWithTimes

    fileprivate var passes: String { (self == .narrowWithTimes ? "\(lowered)," : "") + "prune-demand,fuse" }
  }

  fileprivate static let lowered = "lower-precision{matmul=bf16,attention=bf16}"

  /// Shapes for those: all divisions of a block, heads whose rows begin anywhere, several intervals.
  static let formShapes: [Shape] = [
    (512, 4, 128, Mask.causal), (256, 4, 64, Mask(.windowed(window: 100, fullTail: 30))), (50, 2, 25, .causal),
    (64, 2, 32, Mask(.keyPrefix(local: 64, global: 32, targets: .windowed), contextual: 3)),
    (24, 3, 8, .causal),
  ]

  /// One that sums in matrix instructions' registers have no room for.
  static let widest: Shape = (200, 1, 200, .causal)

  /// A layer of a shape, as it is compiled.
  static func layer(_ shape: Shape, _ form: Form) throws -> Module {
    var random = Random(seed: 4)
    var module: Module
    if form == .full {
      (module, _) = try stack(
        &random, width: shape.0, heads: shape.1, headWidth: shape.2, layers: 1, mask: shape.3)
    } else {
      var build = FunctionBuilder(module: Module(name: "layer"), name: "forward")
      let rows = Dimension.symbol("rows")
      let x = build.argument("x", .tensor([rows, .fixed(shape.0)], .f32))
      let offsets = build.argument("offsets", .offsets(sequences: .symbol("sequences"), rows: rows))
      let times = ["query_times", "key_times"].map { build.argument($0, .tensor([rows], .i64)) }
      var layer = ResearchLayer(
        width: shape.0, heads: shape.1, queryWidth: shape.2, valueWidth: shape.2, divisor: .fixed(64), n: 300)
      layer.mask = shape.3
      build.result(
        "y",
        try build.researchLayer(layer, prefix: "layer.", x: x, offsets: offsets, times: (times[0], times[1])))
      module = build.finish()
    }
    try PassManager(PassPipeline(parsing: form.passes)).run(on: &module)
    return module
  }

  /// Two layers of a shape with attention in bf16, as they are compiled.
  static func stack(_ shape: Shape, matmul: String = "bf16") throws -> Module {
    var random = Random(seed: 3)
    var (module, _) = try stack(
      &random, width: shape.0, heads: shape.1, headWidth: shape.2, layers: 2, mask: shape.3)
    try PassManager(PassPipeline(parsing: "lower-precision{matmul=\(matmul),attention=bf16},prune-demand,fuse"))
      .run(on: &module)
    return module
  }

  /// Rankings of items of every form, ten and a hundred of them, with and without ids that were seen; two kernels and more each.
  static var rankings: [Module] {
    get throws {
      try [("f32", 10), ("f32", 100), ("bf16", 100), ("int8", 10), ("int4", 10)].map { form, count in
        try TopKTests.module(
          20_000, width: 64, TopK(count: count, rows: TableFormat(rawValue: form)), leavesOutSeen: count == 10,
          element: ElementType(rawValue: form) ?? .f32)
      }
    }
  }

  /// Production layers on rows, of which the targets are the result.
  static func stack(
    _ random: inout Random, width: Int, heads: Int, headWidth: Int, layers: Int, mask: Mask
  ) throws -> (Module, WeightTable) {
    var build = FunctionBuilder(module: Module(name: "stack"), name: "forward")
    var x = build.argument("x", .tensor([.symbol("rows"), .fixed(width)], .f32))
    let offsets = build.argument("offsets", .offsets(sequences: .symbol("sequences"), rows: .symbol("rows")))
    let targets = build.argument("targets", .tensor([.symbol("sequences")], .i64))
    for index in 0..<layers {
      x = try build.productionLayer(
        ProductionLayer(
          width: width, heads: heads, queryWidth: headWidth, valueWidth: headWidth, alpha: 0.25, divisor: .fixed(64),
          mask: mask),
        prefix: "layers.\(index).", x: x, offsets: offsets, targets: targets)
    }
    let kept = try build.append(
      .selectOffsets(SelectOffsets(.targets, into: "target_rows")), [offsets, targets], names: ["target_offsets"])[0]
    build.result("y", try build.append(.selectRows(SelectRows(.targets)), [x, offsets, kept, targets])[0])
    let module = build.finish()
    var tensors: [String: HostTensor] = [:]
    for weight in module.weights {
      tensors[weight.name] = random.tensor(weight.type.shape.compactMap(\.extent), spread: 0.3)
    }
    return (module, WeightTable(tensors))
  }
}
