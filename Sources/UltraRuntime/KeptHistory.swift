import CUltra
import Glibc

/// What a model keeps of histories, as its manifest says: what blocks are made and read by. It serves any number of threads.
public final class HistoryCache: Sendable {
  /// The model that the histories are kept for.
  public let model: LoadedModel
  nonisolated(unsafe) let cache: OpaquePointer

  /// Throws where the model has no entries of cached scoring.
  public init(_ model: LoadedModel) throws(RuntimeError) {
    self.model = model
    var cache: OpaquePointer?
    let status = ultra_cache_create(model.table, &cache)
    guard let cache else { throw RuntimeError(cacheStatus: status, model.path) }
    self.cache = cache
  }

  deinit { ultra_cache_destroy(cache) }

  /// Bytes of a block with room for so many rows of history; an error where they are too many.
  public func byteCount(capacity: Int) throws(RuntimeError) -> Int {
    // SIZE_MAX, as Swift sees it.
    let size = ultra_cache_size(cache, Int64(capacity))
    guard size >= 0 else {
      throw RuntimeError(cacheStatus: Int32(ULTRA_CACHE_FULL.rawValue), "a history of \(capacity) rows")
    }
    return size
  }

  /// A history without rows, with room for `capacity`, counted as `prefill` takes them.
  public func history(capacity: Int) throws(RuntimeError) -> KeptHistory {
    let history = try KeptHistory(self, byteCount: byteCount(capacity: capacity))
    try history.check(ultra_cache_initialise(cache, history.block, Int64(capacity)))
    return history
  }

  /// A history that was stored as `KeptHistory.bytes`, or as any other block of this model; with room for `capacity` rows, or for
  /// no more than it has. Throws where the bytes are no such block, whatever they are.
  public func history(bytes: [UInt8], capacity: Int? = nil) throws(RuntimeError) -> KeptHistory {
    let stored = try KeptHistory(self, byteCount: bytes.count)
    bytes.withUnsafeBytes { stored.buffer.copy($0) }
    try stored.check(ultra_cache_check(cache, stored.block))
    return try stored.copy(capacity: capacity ?? stored.rows)
  }
}

/// What is kept of one user's history: keys and values of every layer, in one block of memory.
///
/// One thread at a time may change it; several may score against it at once.
public final class KeptHistory {
  let owner: HistoryCache
  let buffer = AlignedBuffer()
  private let byteCount: Int

  /// Memory that is no block yet.
  fileprivate init(_ owner: HistoryCache, byteCount: Int) throws(RuntimeError) {
    self.owner = owner
    self.byteCount = byteCount
    try buffer.reserve(byteCount, for: "a kept history")
  }

  var block: ultra_cache_block { ultra_cache_block(memory: buffer.address, size: byteCount) }

  /// Rows of history that it holds.
  public var rows: Int { Int(ultra_cache_rows(owner.cache, block)) }
  /// Rows of history that it has room for.
  public var capacity: Int { Int(ultra_cache_capacity(owner.cache, block)) }

  /// Its block, with room for no more rows than it holds: equal bytes for equal histories, to be stored or sent.
  public var bytes: [UInt8] {
    get throws(RuntimeError) {
      let size = try owner.byteCount(capacity: rows)
      let packed = try KeptHistory(owner, byteCount: size)
      // What stands between sections is part of the bytes.
      if let address = packed.buffer.address { memset(address, 0, size) }
      try packed.check(ultra_cache_copy(owner.cache, block, packed.block, Int64(rows)))
      return Array(UnsafeRawBufferPointer(start: packed.buffer.address, count: size))
    }
  }

  /// The same history with room for `capacity` rows; an error where it has more.
  public func copy(capacity: Int) throws(RuntimeError) -> KeptHistory {
    let copy = try KeptHistory(owner, byteCount: owner.byteCount(capacity: capacity))
    try copy.check(ultra_cache_copy(owner.cache, block, copy.block, Int64(capacity)))
    return copy
  }

  fileprivate func check(_ status: Int32) throws(RuntimeError) {
    if status != 0 { throw RuntimeError(cacheStatus: status, "a kept history") }
  }
}

/// One thread's way of calling `prefill`, `score` and `extend` about kept histories. It keeps memory as a `Session` does.
public final class HistorySession {
  /// What histories it is about.
  public let cache: HistoryCache
  private let pool: ThreadPool?
  private var sessions: [UInt32: Session] = [:]
  private let scratch = AlignedBuffer()

  /// A session for histories of one model. Without a pool, a call runs on the calling thread alone.
  public init(_ cache: HistoryCache, pool: ThreadPool? = nil) {
    self.cache = cache
    self.pool = pool
  }

  /// Computes what is kept of these histories from their rows, one sequence a history, in place of what they hold; gives the
  /// entry's other results. After an error the histories are empty, or as they were.
  @discardableResult
  public func prefill(
    _ histories: [KeptHistory], _ inputs: [String: Tensor], dimensions: [String: Int] = [:]
  ) throws(RuntimeError) -> [(name: String, tensor: Tensor)] {
    try run(ULTRA_CACHE_PREFILL, histories, inputs, dimensions, keep: true)
  }

  /// Scores candidates, one sequence a history, against what is kept.
  public func score(
    _ histories: [KeptHistory], _ inputs: [String: Tensor], dimensions: [String: Int] = [:]
  ) throws(RuntimeError) -> [(name: String, tensor: Tensor)] {
    try run(ULTRA_CACHE_SCORE, histories, inputs, dimensions, keep: false)
  }

  /// Computes further rows, one sequence a history, which become part of it unless `keep` is false. Gives the entry's other
  /// results. After an error the histories are as they were.
  @discardableResult
  public func extend(
    _ histories: [KeptHistory], _ inputs: [String: Tensor], dimensions: [String: Int] = [:], keep: Bool = true
  ) throws(RuntimeError) -> [(name: String, tensor: Tensor)] {
    try run(ULTRA_CACHE_EXTEND, histories, inputs, dimensions, keep: keep)
  }

  private func session(_ kind: UInt32) throws(RuntimeError) -> Session {
    if let session = sessions[kind] { return session }
    guard let name = ultra_cache_entry(cache.cache, kind)?.pointee.name else {
      throw RuntimeError(cacheStatus: Int32(ULTRA_CACHE_NO_ENTRY.rawValue), cache.model.path)
    }
    let session = try Session(cache.model, entry: String(cString: name), pool: pool)
    sessions[kind] = session
    return session
  }

  private func run(
    _ kind: ultra_cache_kind, _ histories: [KeptHistory], _ inputs: [String: Tensor], _ given: [String: Int], keep: Bool
  ) throws(RuntimeError) -> [(name: String, tensor: Tensor)] {
    for history in histories where history.owner !== cache {
      throw RuntimeError(cacheStatus: Int32(ULTRA_CACHE_OTHER_MODEL.rawValue), "a kept history")
    }
    let session = try session(kind.rawValue)
    var call = ultra_cache_call()
    call.struct_size = UInt32(MemoryLayout<ultra_cache_call>.size)
    call.kind = kind.rawValue
    call.users = UInt32(clamping: histories.count)
    let blocks = histories.map(\.block)
    let (cache, scratch) = (cache.cache, scratch)

    /// Calls a function of the C helper on the arguments.
    func with(
      _ dimensions: inout [Int64], _ inputs: inout [ultra_tensor], _ outputs: inout [ultra_tensor],
      _ body: (UnsafeMutablePointer<ultra_cache_call>) -> Int32
    ) -> Int32 {
      dimensions.withUnsafeMutableBufferPointer { dimensions in
        inputs.withUnsafeMutableBufferPointer { inputs in
          outputs.withUnsafeMutableBufferPointer { outputs in
            blocks.withUnsafeBufferPointer { blocks in
              call.blocks = blocks.baseAddress
              call.dimensions = dimensions.baseAddress
              call.inputs = inputs.baseAddress
              call.outputs = outputs.baseAddress
              return body(&call)
            }
          }
        }
      }
    }
    func check(_ status: Int32) throws(RuntimeError) {
      if status != 0 { throw RuntimeError(cacheStatus: status, "history \(call.refused)") }
    }
    func places(_ count: Int, _ isSet: (OpaquePointer?, UInt32, UInt32) -> Int32) -> Set<Int> {
      Set((0..<count).filter { isSet(cache, kind.rawValue, UInt32($0)) != 0 })
    }
    let lender = ArgumentLender(
      inputs: places(session.entry.inputs.count, ultra_cache_sets_input),
      outputs: places(session.entry.outputs.count, ultra_cache_sets_output)
    ) { (dimensions, inputs, outputs) throws(RuntimeError) in
      var size = 0
      // Refused for a reason that begin tells.
      _ = with(&dimensions, &inputs, &outputs) { call in
        size = max(ultra_cache_scratch_size(cache, call), 0)
        return 0
      }
      try scratch.reserve(size, for: "scratch")
      call.scratch = scratch.address
      call.scratch_size = size
      try check(with(&dimensions, &inputs, &outputs) { ultra_cache_begin(cache, $0) })
    }
    try session.bind(inputs, dimensions: given, lender: lender)
    try session.call()
    if keep {
      try check(session.withArguments { with(&$0, &$1, &$2) { ultra_cache_end(cache, $0) } })
    }
    // Blocks lie in memory of these.
    return try withExtendedLifetime(histories) { () throws(RuntimeError) in try session.results() }
  }
}

extension RuntimeError {
  /// For a status of the C helper about `subject`.
  fileprivate init(cacheStatus status: Int32, _ subject: String) {
    self.init(.keptHistory(status: status), "\(subject): \(String(cString: ultra_cache_message(status)))")
  }
}
