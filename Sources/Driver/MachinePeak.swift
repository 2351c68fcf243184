import LLVMKit

/// The most that this machine's processor computes, measured: what speeds are compared with.
public enum MachinePeak {
  /// What code a peak is measured with.
  public struct Target: Hashable, Sendable {
    /// LLVM's name of the processor.
    public var cpu: String
    /// LLVM's feature string.
    public var features: String
    /// Bits of a vector.
    public var vectorBits: Int

    public init(cpu: String, features: String, vectorBits: Int) {
      self.cpu = cpu
      self.features = features
      self.vectorBits = vectorBits
    }
  }

  /// Turns of the loop in one run, some tens of milliseconds.
  private static let turns = 4_000_000
  private static let runs = 7
  /// Sums carried by the loop: enough to hide the latency of a multiply-add (4 or 5 cycles, two started a cycle) and
  /// few enough for 16 registers.
  private static let chains = 12

  /// FLOP/s of one thread on fp32 multiply-adds that wait for nothing: the best of several runs.
  public static func measureFloat32(on target: Target) throws(LLVMError) -> Double {
    let lanes = target.vectorBits / 32
    let code = try LoadedCode(object: multiplyAddLoop(target, lanes: lanes))
    let run = unsafeBitCast(try code.address(of: "peak"), to: (@convention(c) (Int64) -> Float).self)
    let clock = ContinuousClock()
    var best = Duration.seconds(3600)
    var sum: Float = 0
    for _ in 0..<runs {
      best = min(best, clock.measure { sum += run(Int64(turns)) })
    }
    // The loop's sums stay finite, which also keeps the call from being left out.
    guard sum.isFinite else { throw LLVMError(stage: "measure peak", message: "the sums are not finite") }
    return 2 * Double(turns * chains * lanes) / (best / .seconds(1))
  }

  private static func multiplyAddLoop(_ target: Target, lanes: Int) throws(LLVMError) -> [UInt8] {
    let context = Context()
    let module = IRModule("peak", in: context)
    let function = module.addFunction("peak", type: context.function([context.i64], returns: context.f32))
    function.setTarget(cpu: target.cpu, features: target.features, vectorWidth: target.vectorBits)
    var builder = IRBuilder(at: function.appendBlock("entry"))
    let vector = context.vector(context.f32, lanes)
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
