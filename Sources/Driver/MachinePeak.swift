import Codegen
import Dispatch
import LLVMKit

/// The most that this machine's processor computes, measured: what speeds are compared with.
public enum MachinePeak {
  /// Turns of the loop in one run, some ten milliseconds.
  private static let turns = 4_000_000
  private static let runs = 9
  /// Sums carried by the loop: enough to hide the latency of a multiply-add (4 or 5 cycles, two started a cycle) and
  /// few enough for 16 registers.
  private static let chains = 12

  /// FLOP/s of fp32 multiply-adds that wait for nothing, on so many threads together: the best of several runs.
  ///
  /// - Parameter level: the name of the code level whose vectors are used; one that this machine can run.
  public static func measureFloat32(level: String, threads: Int = 1) throws -> Double {
    guard let level = CPULevel(rawValue: level), CPULevel.supportedByHost.contains(level) else {
      let known = CPULevel.supportedByHost.map(\.rawValue).joined(separator: ", ")
      throw DriverError("peak of \"\(level)\": expected a level that this machine has, of \(known)")
    }
    let code = try LoadedCode(object: multiplyAddLoop(level))
    let run = unsafeBitCast(try code.address(of: "peak"), to: (@convention(c) (Int64) -> Float).self)
    let turns = Int64(Self.turns)
    let clock = ContinuousClock()
    var best = Duration.seconds(3600)
    for _ in 0..<runs {
      let time = clock.measure { DispatchQueue.concurrentPerform(iterations: threads) { _ in _ = run(turns) } }
      best = min(best, time)
    }
    return 2 * Double(Self.turns * chains * level.floatLanes * threads) / (best / .seconds(1))
  }

  private static func multiplyAddLoop(_ level: CPULevel) throws(LLVMError) -> [UInt8] {
    let context = Context()
    let module = IRModule("peak", in: context)
    let function = module.addFunction("peak", type: context.function([context.i64], returns: context.f32))
    level.configure(function)
    var builder = IRBuilder(at: function.appendBlock("entry"))
    let vector = context.vector(context.f32, level.floatLanes)
    // Each sum becomes sum * 0.5 + start, and so tends to twice its start.
    let starts = (1...chains).map { vector.constant(Double($0)) }
    let sums = builder.loop(
      from: builder.i64(0), to: function.parameters[0], step: builder.i64(1), carrying: starts
    ) { builder, _, sums in
      zip(sums, starts).map { builder.fma($0, vector.constant(0.5), $1) }
    }
    let total = sums.dropFirst().reduce(sums[0]) { builder.fadd($0, $1) }
    builder.ret(builder.extract(total, 0))
    try module.verify()
    // No optimization: it could only fold what is to be measured.
    return try TargetMachine(triple: TargetMachine.hostTriple).emitObject(module)
  }
}
