import Passes
import TensorIR
import TestSupport

/// Models whose every kernel has code for GPUs.
enum GPUModels {
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
