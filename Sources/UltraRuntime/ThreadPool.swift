import CUltra

/// Worker threads that models may use. Several threads may use one pool at once.
public final class ThreadPool: Sendable {
  nonisolated(unsafe) let pool: OpaquePointer
  /// Threads that work on one call, its caller among them.
  public let workers: Int

  /// A pool of so many threads, the caller's included; nil: as many as `usableProcessors`.
  public init(workers: Int? = nil) throws(RuntimeError) {
    let count = workers ?? Self.usableProcessors
    guard count > 0, count <= 4096, let pool = ultra_pool_create(UInt32(count)) else {
      throw RuntimeError(.resources, "a pool of \(count) threads cannot be had; expected 1 to 4096")
    }
    self.pool = pool
    self.workers = count
  }

  deinit { ultra_pool_destroy(pool) }

  /// Processors that this process may keep busy, by its affinity mask and its control groups' quotas.
  public static var usableProcessors: Int { Int(ultra_usable_cpus()) }
}
