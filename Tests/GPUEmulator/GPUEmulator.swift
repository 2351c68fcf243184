import Fibers
import Foundation
import LLVMKit

/// Runs kernels of GPUs on the processor, thread by thread, from the code that is made for the GPU: what matrix instructions, shuffles,
/// barriers and asynchronous copies do is done as the manuals say it, so that layouts and synchronization are what is tested.
///
/// A thread runs until it needs others: lanes of its warp, its block, its cluster, or a copy. In which order threads run can be
/// chosen, and whether copies arrive as soon as they are asked for or when they are waited for, no earlier: what is not synchronized
/// gives other results in another order. So do products by groups of four warps, of which it is checked besides that whoever writes
/// where they read knows of their end, and that they may read what was written. Shared memory is full of NaN when a block begins. One kernel
/// runs at a time; others wait.
public final class GPUEmulator {
  /// In which order the threads of a block, and the blocks of a cluster, get their turns.
  public enum Order: Hashable, Sendable, CaseIterable { case ascending, descending, shuffled }

  /// When asynchronous copies arrive.
  public enum Arrival: Hashable, Sendable, CaseIterable { case early, late }

  /// How a kernel is launched.
  public struct Launch {
    /// The kernel's name.
    public var kernel: String
    /// Blocks in both dimensions.
    public var blocks: (x: Int, y: Int)
    /// Threads of a block.
    public var threads: Int
    /// Bytes of a block's shared memory.
    public var sharedBytes: Int
    /// Blocks of a cluster.
    public var cluster: Int

    /// A launch as given.
    public init(kernel: String, blocks: (x: Int, y: Int), threads: Int, sharedBytes: Int, cluster: Int = 1) {
      (self.kernel, self.blocks, self.threads) = (kernel, blocks, threads)
      (self.sharedBytes, self.cluster) = (sharedBytes, cluster)
    }
  }

  /// What a kernel did that a GPU does not do.
  public struct Fault: Error, CustomStringConvertible {
    /// The kernel, the block, and what it did.
    public var description: String
  }

  private let code: LoadedCode
  private let operations: [DeviceOperation]
  /// Threads that run in step.
  public let lanes: Int
  /// Whether groups of four warps multiply what lies in shared memory.
  let hasGroupProducts: Bool
  /// What warps have done together, all lanes at once, since there is this emulator.
  public internal(set) var warpOperations = 0
  private var fibers: [OpaquePointer] = []
  /// When copies arrive in the launch at hand.
  private(set) var arrival = Arrival.late
  private static let stackSize = 1 << 18
  /// Of the window of shared memory: more than any block has, at a multiple of what addresses in descriptors can tell apart.
  static let windowSize = 1 << 18
  /// Where every block finds its shared memory while it runs.
  nonisolated(unsafe) static let window = UnsafeMutableRawBufferPointer(
    start: fiber_low_memory(windowSize, windowSize), count: windowSize)
  /// Threads and the window are there once.
  private static let lock = NSLock()
  static var windowAddress: UInt { UInt(bitPattern: window.baseAddress) }
  var window: UnsafeMutableRawBufferPointer { Self.window }

  /// The kernels of a module for a GPU whose warps have so many lanes. Throws where the module has what the emulator does not know.
  public init(_ module: IRModule, lanes: Int = 32) throws {
    self.lanes = lanes
    let text = module.text
    hasGroupProducts = text.contains("wgmma.mma_async")
    let rewritten = DeviceText(text, notingStores: hasGroupProducts)
    operations = try rewritten.calls.map { call throws(Fault) in
      guard let operation = DeviceOperation(call) else {
        throw Fault(description: "the emulator does not know \(call.text)")
      }
      return operation
    }
    guard let low = Self.window.baseAddress else { throw Fault(description: "no memory below 4 GiB") }
    let context = Context()
    let machine = try TargetMachine(
      triple: TargetMachine.hostTriple, cpu: TargetMachine.hostCPU, features: TargetMachine.hostFeatures,
      optimization: .default)
    let host = try IRModule(parsing: rewritten.text, in: context)
    machine.describe(host)
    try host.verify()
    try host.optimize("default<O1>", for: machine, autoVectorize: false)
    let ask: @convention(c) (UInt32, UnsafeMutableRawPointer?, UnsafeMutableRawPointer?) -> Void = fiber_ask
    let wrote: @convention(c) (UInt, UInt32) -> Void = { address, count in
      guard let thread = EmulatedThread.running else { return }
      thread.block.noteWrite(Int(address) - Int(GPUEmulator.windowAddress), Int(count), by: thread)
    }
    code = try LoadedCode(
      object: machine.emitObject(host),
      symbols: [
        "device.ask": unsafeBitCast(ask, to: UnsafeRawPointer.self),
        "device.wrote": unsafeBitCast(wrote, to: UnsafeRawPointer.self), "ultra_shared": UnsafeRawPointer(low),
      ].merging(DeviceOperation.librarySymbols) { own, _ in own })
    fiber_set_answer { number, arguments, results in
      guard let thread = EmulatedThread.running, let arguments else { return 0 }
      return thread.block.emulator.answer(Int(number), thread, arguments, results ?? arguments)
    }
  }

  deinit { for fiber in fibers { fiber_free(fiber) } }

  /// Answers what a thread can be told without others.
  private func answer(
    _ number: Int, _ thread: EmulatedThread, _ arguments: UnsafeMutableRawPointer, _ results: UnsafeMutableRawPointer
  ) -> Int32 {
    guard case .alone(let action) = operations[number].action else { return 0 }
    action(thread, DeviceOperation.Lane(arguments: arguments, results: results))
    return 1
  }

  /// Runs all blocks of a launch; `parameters` are the addresses of the kernel's. Throws where threads wait for each other without end, or
  /// do what a GPU refuses.
  public func run(
    _ launch: Launch, parameters: UnsafePointer<UnsafeRawPointer?>, order: Order = .ascending,
    arrival: Arrival = .late
  ) throws {
    Self.lock.lock()
    defer { Self.lock.unlock() }
    self.arrival = arrival
    let address = try code.address(of: "run.\(launch.kernel)")
    let body = unsafeBitCast(address, to: (@convention(c) (UnsafeMutableRawPointer?) -> Void).self)
    while fibers.count < launch.threads * launch.cluster {
      guard let fiber = fiber_make(Self.stackSize) else { throw Fault(description: "no memory for another thread") }
      fibers.append(fiber)
    }
    guard launch.blocks.x % launch.cluster == 0 else {
      throw Fault(description: "\(launch.kernel): \(launch.blocks.x) blocks are no whole clusters of \(launch.cluster)")
    }
    guard launch.sharedBytes <= Self.windowSize else {
      throw Fault(description: "\(launch.kernel): \(launch.sharedBytes) bytes of shared memory")
    }
    var random = SplitMix(state: 0x5EED)
    for y in 0..<launch.blocks.y {
      for first in stride(from: 0, to: launch.blocks.x, by: launch.cluster) {
        let cluster = EmulatedCluster(
          (0..<launch.cluster).map { rank in
            EmulatedBlock(
              self, launch, x: first + rank, y: y, rank: rank,
              fibers: Array(fibers[rank * launch.threads..<(rank + 1) * launch.threads]))
          })
        for block in cluster.blocks {
          for thread in block.threads {
            fiber_begin(thread.fiber, body, UnsafeMutableRawPointer(mutating: parameters))
          }
        }
        try cluster.run(operations, order: order, &random)
      }
    }
  }
}

/// Numbers that look random, from a seed.
struct SplitMix: RandomNumberGenerator {
  var state: UInt64

  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var bits = state
    bits = (bits ^ bits >> 30) &* 0xBF58_476D_1CE4_E5B9
    bits = (bits ^ bits >> 27) &* 0x94D0_49BB_1331_11EB
    return bits ^ bits >> 31
  }
}
