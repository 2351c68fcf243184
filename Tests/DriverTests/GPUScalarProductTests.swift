import Codegen
import Foundation
import GPUEmulator
import Interpreter
import Passes
import TensorIR
import TestSupport
import Testing
import TileIR

@testable import Driver

// Products without matrix instructions, thread by thread.
extension GPUExecutionTests {
  /// A product of sides that stand one after the other: the widths of these, those of the results that its columns are cut into, and whether
  /// the weight is stored [out, in].
  private typealias Shape = (inner: [Int], outer: [Int], isTransposed: Bool)

  /// Products of the same rows. Left sides are inputs, or come from the kernel itself; results have a bias, something added, or neither.
  private static func products(
    _ random: inout Random, _ shapes: [Shape], passes: String
  ) throws -> (module: Module, inputs: [(name: String, width: Int)]) {
    var build = FunctionBuilder(module: Module(name: "products"), name: "forward")
    var inputs: [(name: String, width: Int)] = []
    func input(_ name: String, _ width: Int) -> ValueID {
      inputs.append((name, width))
      return build.argument(name, .tensor([.symbol("rows"), .fixed(width)], .f32))
    }
    for (number, shape) in shapes.enumerated() {
      var sides: [ValueID] = []
      for (side, width) in shape.inner.enumerated() {
        let x = input("x\(number)_\(side)", width)
        let isOwn = random.once(in: 2)
        sides.append(isOwn ? try build.emit(.multiply(Multiply()), x, input("g\(number)_\(side)", width)) : x)
      }
      let (inner, outer) = (shape.inner.reduce(0, +), shape.outer.reduce(0, +))
      let joined = sides.count == 1 ? sides[0] : try build.append(.concatenate(Concatenate()), sides)[0]
      var operands = [joined, try build.weight("w\(number)", shape.isTransposed ? [outer, inner] : [inner, outer])]
      if random.once(in: 2) { operands.append(try build.weight("b\(number)", [outer])) }
      let y = try build.append(.linear(Linear(shape.isTransposed ? .outIn : .inOut)), operands)[0]
      let parts = shape.outer.count == 1 ? [y] : try build.append(.split(Split(widths: shape.outer)), [y])
      for (part, value) in parts.enumerated() {
        let isAdded = random.once(in: 2)
        build.result(
          "y\(number)_\(part)",
          isAdded ? try build.emit(.add(Add()), value, input("r\(number)_\(part)", shape.outer[part])) : value)
      }
    }
    var module = build.finish()
    try PassManager(PassPipeline(parsing: passes)).run(on: &module)
    return (module, inputs)
  }

  /// The bits of results are those of the program in the interpreter, for few rows, whose columns blocks divide among them, and for several
  /// blocks of them.
  private func checkBits(
    _ target: GPUTarget, _ shapes: [Shape], rows: [Int], seed: UInt64, passes: String = "fuse",
    element: ElementType = .f32, number: (inout Random) -> Float
  ) throws {
    var random = Random(seed: seed)
    let (module, inputs) = try Self.products(&random, shapes, passes: passes)
    func tensor(_ shape: [Int]) -> HostTensor {
      HostTensor((0..<shape.reduce(1, *)).map { _ in number(&random) }, shape: shape)
    }
    let declared = module.weights.filter { ["w", "b"].contains($0.name.prefix(1)) && !$0.name.contains(".") }
    let weights = WeightTable(
      Dictionary(uniqueKeysWithValues: declared.map { ($0.name, tensor($0.type.shape.compactMap(\.extent))) }))
    let gpu = try EmulatedGPU(module, weights, target)
    let program = try CompiledProgram.backend(module, [.avx2], .less).lowerForGPU(module, target: target)[0]
    let products = program.buffers.count { buffer in
      if case .weight(_, .panels) = buffer.home { buffer.element == element } else { false }
    }
    #expect(products == shapes.count)
    let interpreter = TileInterpreter(
      program: program, weights: DerivedWeights(module, base: weights), precision: .f32)
    for (count, order) in zip(rows, [.descending, .ascending, .shuffled] as [GPUEmulator.Order]) {
      let given = Dictionary(uniqueKeysWithValues: inputs.map { ($0.name, tensor([count, $0.width])) })
      let expected = try interpreter.run(given)
      for (found, expected) in zip(try gpu.run(given, order: order, arrival: .late), expected) {
        let (bits, wanted) = (found.tensor.floats.map(\.bitPattern), expected.tensor.floats.map(\.bitPattern))
        try #require(bits.count == wanted.count)
        let differing = bits.indices.filter { bits[$0] != wanted[$0] }
        let example = differing.first.map { "\(found.tensor.floats[$0]), not \(expected.tensor.floats[$0])" } ?? ""
        #expect(
          differing.isEmpty,
          "\(target) \(shapes), \(count) rows: \(expected.name): other bits at \(differing.prefix(20)): \(example)")
      }
    }
  }

  /// Of every division of a block some products: wide and narrow ones, of fewer columns than are read together, of left sides that leave room for
  /// few rows, and of columns that begin anywhere in the weight.
  private static let shapes: [[Shape]] = [
    [([64], [300], false), ([25, 25, 25], [50, 51, 26, 3], true), ([7], [1], false), ([41, 8], [33], true)],
    [
      ([700], [72], true), ([33, 79], [5, 17], true), ([50], [200], false), ([3, 1, 13], [2, 6], false),
      ([128, 64, 33], [128], true),
    ],
  ]

  @Test(
    "products of fp32 have the bits of sums in the order of columns", arguments: GPUStubTests.targets, shapes.indices)
  func scalarProducts(target: GPUTarget, number: Int) throws {
    try checkBits(target, Self.shapes[number], rows: [133, 9, 64], seed: UInt64(40 + number)) { $0.unit() }
  }

  @Test("products of fp32 of random shapes", arguments: GPUStubTests.targets)
  func randomScalarProducts(target: GPUTarget) throws {
    var random = Random(seed: target == .gfx942 ? 71 : 70)
    let shapes = (0..<4).map { _ -> Shape in
      func widths(_ count: Int) -> [Int] {
        (0..<random.integer(in: 1...count)).map { _ in random.integer(in: 1...random.pick([5, 40, 130])) }
      }
      return (widths(3), widths(4), random.once(in: 2))
    }
    let rows = [random.integer(in: 65...140), random.integer(in: 1...8), random.integer(in: 9...63)]
    try checkBits(target, shapes, rows: rows, seed: 72) { $0.unit() }
  }

  /// Where sides of bf16 do not begin at a matrix instruction's step there is no other way. Numbers are such that no sum is rounded: within
  /// a pair the interpreter adds in another order.
  @Test("products of bf16 that matrix instructions do not take", arguments: GPUStubTests.targets)
  func narrowScalarProducts(target: GPUTarget) throws {
    let shapes: [Shape] = [([18, 24, 2], [50, 13], true), ([6, 37], [140], false), ([2, 1], [9], false)]
    try checkBits(target, shapes, rows: [70, 5], seed: 80, passes: "lower-precision{matmul=bf16},fuse", element: .bf16)
    {
      Float($0.integer(in: -8...8))
    }
  }
}
