import Foundation
import LLVMKit
import Testing

@testable import Codegen

/// One function of `VectorMath`, its meaning in fp64 and its documented bound.
struct MathFunction: Sendable, CustomTestStringConvertible {
  let name: String
  let emit: @Sendable (CPULevel, Context, IRBuilder, IRValue) -> IRValue
  let reference: @Sendable (Double) -> Double
  /// In units in the last place of the correctly rounded result.
  let ulps: Double
  /// The argument that a sweep of every float found to be the worst.
  let hardest: Float
  /// Below this argument the bound is `absolute` instead.
  var from = -Double.infinity
  var absolute = 0.0

  var testDescription: String { name }

  static let all = [
    MathFunction(
      name: "exp", emit: { VectorMath.exp($2, $3) }, reference: { Foundation.exp($0) }, ulps: 1.02, hardest: 59.3060379),
    MathFunction(
      name: "sigmoid", emit: { VectorMath.sigmoid($2, $3) }, reference: { 1 / (1 + Foundation.exp(-$0)) }, ulps: 2.5,
      hardest: -16.635704, from: -88.37, absolute: 4.2e-39),
    MathFunction(
      name: "silu", emit: { VectorMath.silu($2, $3) },
      reference: { $0 == -.infinity ? -0.0 : $0 / (1 + Foundation.exp(-$0)) }, ulps: 2.46, hardest: -16.6778278,
      from: -88.37, absolute: 3.8e-37),
    MathFunction(
      name: "siluOfFewBits", emit: { $0.siluOfFewBits($2, $1, $3) },
      reference: { $0 == -.infinity ? -0.0 : $0 / (1 + Foundation.exp(-$0)) }, ulps: 1312.53, hardest: -62.3573265,
      from: -87, absolute: 2.7e-37),
  ]

  /// How far a result is off: in units in the last place, or where the absolute bound holds in units of that bound.
  func error(of result: Float, at x: Float) -> Double {
    let exact = reference(Double(x))
    if exact.isNaN || result.isNaN { return exact.isNaN && result.isNaN ? 0 : .infinity }
    let rounded = Float(exact)
    if rounded.isInfinite || result.isInfinite { return rounded == result ? 0 : .infinity }
    let difference = abs(Double(result) - exact)
    if Double(x) < from { return difference <= absolute ? 0 : .infinity }
    return difference / Double(max(rounded.ulp, .leastNonzeroMagnitude))
  }
}

@Suite("VectorMath")
struct VectorMathTests {
  typealias Kernel = @convention(c) (UnsafePointer<Float>, UnsafeMutablePointer<Float>, Int) -> Void

  /// Compiles a loop that applies the function to whole vectors of `lanes`.
  private func compile(_ function: MathFunction, level: CPULevel, lanes: Int) throws -> (Kernel, LoadedObject) {
    let context = Context()
    let module = IRModule("math", in: context)
    let kernel = module.addFunction(
      "apply", type: context.function([context.pointer, context.pointer, context.i64], returns: context.void))
    level.configure(kernel)
    kernel.addAttribute("no-builtins", "")
    let parameters = kernel.parameters
    var b = IRBuilder(at: kernel.appendBlock("entry"))
    let type = lanes == 1 ? context.f32 : context.vector(context.f32, lanes)
    b.loop(from: b.i64(0), to: parameters[2], step: lanes) { b, i in
      let x = b.load(type, b.element(parameters[0], context.f32, i), alignment: 4)
      b.store(function.emit(level, context, b, x), b.element(parameters[1], context.f32, i), alignment: 4)
    }
    b.ret()
    let object = try load(module)
    return (try object.function("apply", as: Kernel.self), object)
  }

  /// Every 1009th bit pattern, or all of them where ULTRAC_SWEEP is "full", a block at a time.
  private func sweep(_ body: ([Float]) throws -> Void) rethrows {
    let stride: UInt64 = ProcessInfo.processInfo.environment["ULTRAC_SWEEP"] == "full" ? 1 : 1009
    let block = 1 << 16
    var next: UInt64 = 0
    while next < 1 << 32 {
      let count = min(block, Int(((1 << 32) - next + stride - 1) / stride))
      // The last block is filled up with its last value, so that whole vectors remain.
      try body(
        (0..<block).map { Float(bitPattern: UInt32(truncatingIfNeeded: next + UInt64(min($0, count - 1)) * stride)) })
      next += UInt64(count) * stride
    }
  }

  @Test("is within its documented bound over all floats", arguments: MathFunction.all)
  func accuracy(function: MathFunction) throws {
    let level = try #require(CPULevel.native)
    let (kernel, object) = try compile(function, level: level, lanes: level.floatLanes)
    var worst = (error: -1.0, x: Float.zero, result: Float.zero)
    func measure(_ input: [Float]) {
      var output = [Float](repeating: 0, count: input.count)
      kernel(input, &output, input.count)
      for (x, result) in zip(input, output) {
        let error = function.error(of: result, at: x)
        if error > worst.error { worst = (error, x, result) }
      }
    }
    sweep(measure)
    measure([Float](repeating: function.hardest, count: level.floatLanes))
    withExtendedLifetime(object) {}
    #expect(worst.error <= function.ulps, "\(function.name)(\(worst.x)) = \(worst.result)")
    #expect(worst.error > function.ulps - 0.03, "the documented bound is wider than it need be")
  }

  @Test("has the same bits at every level and lane count", arguments: MathFunction.all)
  func sameBits(function: MathFunction) throws {
    let shapes = CPULevel.supportedByHost.flatMap { level in [1, 2, 8, 16, 32].map { (level, $0) } }
    try #require(!shapes.isEmpty)
    let kernels = try shapes.map { try compile(function, level: $0, lanes: $1) }
    sweep { input in
      let results = kernels.map { kernel, _ in
        var output = [Float](repeating: 0, count: input.count)
        kernel(input, &output, input.count)
        return output
      }
      for (shape, result) in zip(shapes, results).dropFirst() where !sameBytes(result, results[0]) {
        // The payload of a NaN is not part of the promise.
        let differing = zip(result, results[0]).first { $0.bitPattern != $1.bitPattern && !($0.isNaN && $1.isNaN) }
        #expect(differing == nil, "\(function.name) at \(shape.0.rawValue) with \(shape.1) lanes")
      }
    }
    withExtendedLifetime(kernels) {}
  }

  private func sameBytes(_ a: [Float], _ b: [Float]) -> Bool {
    a.withUnsafeBufferPointer { a in
      b.withUnsafeBufferPointer { b in
        guard let first = a.baseAddress, let second = b.baseAddress else { return a.isEmpty && b.isEmpty }
        return a.count == b.count && memcmp(first, second, a.count * MemoryLayout<Float>.stride) == 0
      }
    }
  }

  @Test("is right at the ends")
  func ends() throws {
    let level = try #require(CPULevel.native)
    func apply(_ name: String, _ x: Float) throws -> Float {
      let function = try #require(MathFunction.all.first { $0.name == name })
      let (kernel, object) = try compile(function, level: level, lanes: 1)
      var result = Float.zero
      kernel([x], &result, 1)
      withExtendedLifetime(object) {}
      return result
    }
    #expect(try apply("exp", -.infinity) == 0)
    #expect(try apply("exp", 0) == 1)
    #expect(try apply("exp", -104) == 0)
    #expect(try apply("exp", -103) == .leastNonzeroMagnitude)
    #expect(try apply("exp", .infinity) == .infinity)
    #expect(try apply("exp", .nan).isNaN)
    #expect(try apply("sigmoid", -.infinity) == 0)
    #expect(try apply("sigmoid", .infinity) == 1)
    #expect(try apply("sigmoid", 0) == 0.5)
    #expect(try apply("silu", -.infinity) == 0)
    #expect(try apply("silu", .infinity) == .infinity)
    #expect(try apply("silu", .greatestFiniteMagnitude) == .greatestFiniteMagnitude)
    #expect(try apply("silu", -.greatestFiniteMagnitude) == 0)
    #expect(try apply("silu", .leastNonzeroMagnitude * 4) == .leastNonzeroMagnitude * 2)
    #expect(try apply("silu", -0.0).sign == .minus)
    #expect(try apply("silu", .nan).isNaN)
    #expect(try apply("siluOfFewBits", -.infinity) == 0)
    #expect(try apply("siluOfFewBits", -.infinity).sign == .minus)
    #expect(try apply("siluOfFewBits", .infinity) == .infinity)
    #expect(try apply("siluOfFewBits", -.greatestFiniteMagnitude) == 0)
    #expect(try apply("siluOfFewBits", .nan).isNaN)
  }

  @Test("calls nothing and uses whole registers", arguments: CPULevel.allCases)
  func noCalls(level: CPULevel) throws {
    let context = Context()
    let module = IRModule("math", in: context)
    let type = context.vector(context.f32, level.floatLanes)
    for function in MathFunction.all {
      let kernel = module.addFunction(
        function.name, type: context.function([context.pointer], returns: context.void))
      level.configure(kernel)
      let b = IRBuilder(at: kernel.appendBlock("entry"))
      b.store(
        function.emit(level, context, b, b.load(type, kernel.parameters[0], alignment: 4)), kernel.parameters[0],
        alignment: 4)
      b.ret()
    }
    let machine = try TargetMachine(triple: level.architecture.triple)
    try module.optimize("default<O2>", for: machine)
    let text = try machine.emitAssembly(module)
    #expect(!text.contains(level.architecture == .x8664 ? "call" : "\tbl\t"))
    #expect(text.contains("%zmm") == (level.vectorBits == 512))
    #expect(text.contains("%ymm") || level.vectorBits != 256)
    #expect(text.contains("fmla\tv") == (level.vectorBits == 128))
  }
}
