import CUltra
import Glibc

/// When each kernel of a call ran, and when each of its blocks: what `Session.record` gives.
public struct KernelRecord: Sendable {
  /// One block of a kernel.
  public struct Block: Hashable, Sendable {
    /// The kernel, counted from 0 in the order in which they run.
    public var kernel: Int
    /// The block's index in its kernel.
    public var index: Int
    /// Which of the workers ran it.
    public var worker: Int
    /// Nanoseconds from the start of the call.
    public var start: Int
    /// Nanoseconds from the start of the call.
    public var end: Int
  }

  /// One kernel as a whole: from its loop's begin to its end.
  public struct Kernel: Hashable, Sendable {
    /// How many blocks its loop had.
    public var blocks: Int
    /// Nanoseconds from the start of the call.
    public var start: Int
    /// Nanoseconds from the start of the call.
    public var end: Int
  }

  /// In the order in which they ran.
  public var kernels: [Kernel]
  /// Of all kernels, by kernel and index; empty unless blocks were asked for.
  public var blocks: [Block]
  /// Nanoseconds of the whole call; what is before the first kernel is checks and tables.
  public var duration: Int
}

/// Stands between a model and the threads lent to it, and notes times.
final class KernelRecorder {
  private let inner: UnsafePointer<ultra_parallel>?
  private let recordsBlocks: Bool
  private let start = monotonicNanoseconds()
  private var kernels: [KernelRecord.Kernel] = []
  /// One list a worker, so that nobody waits for anybody.
  private let lists: UnsafeMutableBufferPointer<[KernelRecord.Block]>
  private var running: (body: ultra_body, context: UnsafeMutableRawPointer?)?

  init(_ inner: UnsafePointer<ultra_parallel>?, recordsBlocks: Bool) {
    self.inner = inner
    self.recordsBlocks = recordsBlocks
    lists = .allocate(capacity: Int(inner?.pointee.workers ?? 1))
    lists.initialize(repeating: [])
  }

  deinit {
    lists.deinitialize()
    lists.deallocate()
  }

  /// What to lend in place of `inner`; it must not outlive this object.
  var parallel: ultra_parallel {
    ultra_parallel(
      struct_size: UInt32(MemoryLayout<ultra_parallel>.size), workers: UInt32(lists.count),
      pool: Unmanaged.passUnretained(self).toOpaque(),
      parallel_for: { pool, count, body, context in
        guard let pool, let body else { return }
        Unmanaged<KernelRecorder>.fromOpaque(pool).takeUnretainedValue().loop(count, body, context)
      })
  }

  var record: KernelRecord {
    let blocks = lists.flatMap { $0 }.sorted { ($0.kernel, $0.index) < ($1.kernel, $1.index) }
    return KernelRecord(kernels: kernels, blocks: blocks, duration: now)
  }

  private var now: Int { monotonicNanoseconds() - start }

  private func loop(_ count: Int64, _ body: @escaping ultra_body, _ context: UnsafeMutableRawPointer?) {
    let begin = now
    if recordsBlocks {
      running = (body, context)
      run(count, timedBody, Unmanaged.passUnretained(self).toOpaque())
    } else {
      run(count, body, context)
    }
    kernels.append(KernelRecord.Kernel(blocks: Int(count), start: begin, end: now))
  }

  private func run(_ count: Int64, _ body: @escaping ultra_body, _ context: UnsafeMutableRawPointer?) {
    guard let inner else {
      for index in 0..<count { body(context, index, 0) }
      return
    }
    inner.pointee.parallel_for(inner.pointee.pool, count, body, context)
  }

  fileprivate func block(_ index: Int64, worker: UInt32) {
    guard let running else { return }
    let begin = now
    running.body(running.context, index, worker)
    lists[Int(worker)].append(
      KernelRecord.Block(kernel: kernels.count, index: Int(index), worker: Int(worker), start: begin, end: now))
  }
}

private let timedBody: ultra_body = { context, index, worker in
  guard let context else { return }
  Unmanaged<KernelRecorder>.fromOpaque(context).takeUnretainedValue().block(index, worker: worker)
}

private func monotonicNanoseconds() -> Int {
  var now = timespec()
  clock_gettime(CLOCK_MONOTONIC, &now)
  return now.tv_sec * 1_000_000_000 + now.tv_nsec
}
