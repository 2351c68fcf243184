import Codegen
import Dispatch
import LLVMKit
import TensorIR

/// The most that this machine's processor computes, measured: what speeds are compared with.
public enum MachinePeak {
  /// Turns of the loop in one run, some ten milliseconds.
  private static let turns = 4_000_000
  private static let runs = 9
  /// Sums carried by the loop: enough to hide the latency of a multiply-add (4 or 5 cycles, two started a cycle) and
  /// few enough for 16 registers.
  private static let chains = 12

  /// FLOP/s of multiply-adds that wait for nothing, on so many threads together: the best of several runs.
  ///
  /// - Parameters:
  ///   - element: what is multiplied: f32, bf16 or i8. Of a level without an instruction for it, the figure is that of
  ///     those that stand in: f32's for bf16, twice that for i8.
  ///   - level: the name of the code level whose vectors, or tiles, are used; one that this machine can run.
  public static func measure(_ element: ElementType = .f32, level: String, threads: Int = 1) throws -> Double {
    let level = try runnableLevel(level)
    guard level.hasProducts(of: element) else {
      // Pairs of 16 bits are multiplied by one instruction, as fast as numbers of fp32.
      return try measure(level: level.rawValue, threads: threads) * (element == .i8 ? 2 : 1)
    }
    let byTiles = level.hasTiles && element != .f32
    let code = try LoadedCode(object: byTiles ? tileLoop(element) : multiplyAddLoop(level, element))
    let run = unsafeBitCast(try code.address(of: "peak"), to: (@convention(c) (Int64) -> Float).self)
    if byTiles, run(0) == 0 {
      throw DriverError("level \"\(level.rawValue)\": Linux does not let this process use tiles")
    }
    let turns = Int64(byTiles ? Self.turns / 8 : Self.turns)
    let clock = ContinuousClock()
    var best = Duration.seconds(3600)
    for _ in 0..<runs {
      let time = clock.measure { DispatchQueue.concurrentPerform(iterations: threads) { _ in _ = run(turns) } }
      best = min(best, time)
    }
    let products =
      byTiles ? AMXInstructions.productCount(element) : chains * level.floatLanes * (4 / element.byteCount)
    return 2 * Double(Int(turns) * products * threads) / (best / .seconds(1))
  }

  /// The level of this name, where this machine can run it.
  static func runnableLevel(_ name: String) throws(DriverError) -> CPULevel {
    guard let level = CPULevel(rawValue: name), CPULevel.supportedByHost.contains(level) else {
      let known = CPULevel.supportedByHost.map(\.rawValue).joined(separator: ", ")
      throw DriverError("level \"\(name)\": expected one that this machine has, of \(known)")
    }
    return level
  }

  /// `float peak(int64 turns)`: products of tiles; 0 where the process may not use them.
  static func tileLoop(_ element: ElementType) throws(LLVMError) -> [UInt8] {
    let context = Context()
    let module = IRModule("peak", in: context)
    let function = module.addFunction("peak", type: context.function([context.i64], returns: context.f32))
    CPULevel.amx.configure(function)
    var builder = IRBuilder(at: function.appendBlock("entry"))
    let isPermitted = AMXInstructions(context)
      .emitProducts(&builder, of: element, turns: function.parameters[0], in: module)
    builder.ret(builder.uitofp(isPermitted, to: context.f32))
    try module.verify()
    return try TargetMachine(triple: "x86_64-unknown-linux-gnu").emitObject(module)
  }

  private static func multiplyAddLoop(_ level: CPULevel, _ element: ElementType) throws(LLVMError) -> [UInt8] {
    let context = Context()
    let module = IRModule("peak", in: context)
    let function = module.addFunction("peak", type: context.function([context.i64], returns: context.f32))
    level.configure(function)
    var builder = IRBuilder(at: function.appendBlock("entry"))
    let vector = context.vector(context.f32, level.floatLanes)
    let words = vector.asIntegers
    // Each sum of fp32 becomes 0.5 * start + sum; narrow ones add products of words that hold ones.
    let factor = element == .f32 ? vector.constant(0.5) : words.constant(element == .bf16 ? 0x3F80_3F80 : 0x0101_0101)
    let starts = (1...chains).map { element == .i8 ? words.constant($0) : vector.constant(Double($0)) }
    let sums = builder.loop(
      from: builder.i64(0), to: function.parameters[0], step: builder.i64(1), carrying: starts
    ) { builder, _, sums in
      zip(sums, starts).map { sum, start in
        level.multiplyAdd(builder, context, element == .f32 ? start : factor, factor, sum, element)
      }
    }
    let total = sums.dropFirst().reduce(sums[0]) {
      element == .i8 ? builder.add($0, $1) : builder.fadd($0, $1)
    }
    let lane = builder.extract(total, 0)
    builder.ret(element == .i8 ? builder.sitofp(lane, to: context.f32) : lane)
    try module.verify()
    // No optimization: it could only fold what is to be measured.
    return try TargetMachine(triple: TargetMachine.hostTriple).emitObject(module)
  }
}
