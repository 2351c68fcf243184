import Codegen
import Dispatch
import LLVMKit

/// What this machine's memory gives, measured: what kernels that only move rows are compared with.
public enum MachineBandwidth {
  /// Bytes that each thread reads in a run: more than the caches of any processor hold for it.
  private static let bytesPerThread = 192 << 20
  private static let runs = 5
  /// Places that a thread reads from in turn, and how far ahead each of them is asked for: more is on its way at once than one
  /// place alone would have.
  private static let streams = 4
  private static let bytesAhead = 2048
  /// Vectors read at a place in a turn of the loop, each into a sum of its own.
  private static let vectors = 8

  /// Bytes a second that so many threads read together from memory: the best of several runs.
  ///
  /// - Parameter level: the name of the code level whose vectors are used; one that this machine can run.
  public static func measureRead(level: String, threads: Int = 1) throws -> Double {
    let level = try MachinePeak.runnableLevel(level)
    let code = try LoadedCode(object: readLoop(level))
    let run = unsafeBitCast(
      try code.address(of: "read"), to: (@convention(c) (UnsafeRawPointer, Int64) -> Float).self)
    let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: bytesPerThread * threads, alignment: 64)
    defer { memory.deallocate() }
    // Pages that were never written are one page of zeros.
    memory.initializeMemory(as: UInt8.self, repeating: 1)
    nonisolated(unsafe) let start = UnsafeRawPointer(memory.baseAddress!)
    let turns = Int64(bytesPerThread / (streams * vectors * level.floatLanes * 4))
    let clock = ContinuousClock()
    var best = Duration.seconds(3600)
    for _ in 0..<runs {
      let time = clock.measure {
        DispatchQueue.concurrentPerform(iterations: threads) { _ = run(start + $0 * bytesPerThread, turns) }
      }
      best = min(best, time)
    }
    return Double(bytesPerThread * threads) / (best / .seconds(1))
  }

  private static func readLoop(_ level: CPULevel) throws(LLVMError) -> [UInt8] {
    let context = Context()
    let module = IRModule("bandwidth", in: context)
    let function = module.addFunction(
      "read", type: context.function([context.pointer, context.i64], returns: context.f32))
    level.configure(function)
    var builder = IRBuilder(at: function.appendBlock("entry"))
    let vector = context.vector(context.f32, level.floatLanes)
    let bytes = level.floatLanes * 4
    let sums = builder.loop(
      from: builder.i64(0), to: function.parameters[1], step: builder.i64(1),
      carrying: [function.parameters[0]] + [IRValue](repeating: vector.null(), count: vectors)
    ) { builder, _, carried in
      let pointer = carried[0]
      var sums = Array(carried.dropFirst())
      for stream in 0..<streams {
        let place = builder.offset(pointer, bytes: stream * (bytesPerThread / streams))
        for offset in stride(from: 0, to: vectors * bytes, by: 64) {
          builder.prefetch(builder.offset(place, bytes: bytesAhead + offset))
        }
        for index in 0..<vectors {
          sums[index] = builder.fadd(sums[index], builder.load(vector, builder.offset(place, bytes: index * bytes)))
        }
      }
      return [builder.offset(pointer, bytes: vectors * bytes)] + sums
    }
    let total = sums.dropFirst(2).reduce(sums[1]) { builder.fadd($0, $1) }
    builder.ret(builder.extract(total, 0))
    try module.verify()
    // No optimization: it could only drop what is to be measured.
    return try TargetMachine(triple: TargetMachine.hostTriple).emitObject(module)
  }
}
