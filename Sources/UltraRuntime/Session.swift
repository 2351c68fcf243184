import Artifact
import CUltra
import Glibc

/// One thread's way of calling an entry again and again: it keeps workspace, inputs and outputs, which grow to the
/// largest batch seen, and then allocates nothing more.
///
/// Each thread has its own session; they share the model, and may share a pool.
public final class Session {
  /// The model whose entry it calls.
  public let model: LoadedModel
  private let signature: EntrySignature
  private let functions: EntryFunctions
  private let pool: ThreadPool?

  private var extents: [Int] = []
  private var dimensions: [Int64] = []
  private var inputBuffers: [AlignedBuffer]
  private var outputBuffers: [AlignedBuffer]
  private var inputs: [ultra_tensor]
  private var outputs: [ultra_tensor]
  private var capacities: [Int64]
  private var outputShapes: [[Int]] = []
  private var lentOutputs: Set<Int> = []
  private let workspace = AlignedBuffer()
  private var isBound = false
  private var hasResults = false

  /// Bytes of workspace that the bound batch needs.
  public private(set) var workspaceSize = 0

  /// A session for an entry. Without a pool, a call runs on the calling thread alone.
  public init(_ model: LoadedModel, entry: String = "forward", pool: ThreadPool? = nil) throws(RuntimeError) {
    let index = try model.index(ofEntry: entry)
    self.model = model
    self.pool = pool
    functions = model.functions[index]
    signature = EntrySignature(model.manifest.entries[index], model.manifest)
    inputBuffers = signature.entry.inputs.map { _ in AlignedBuffer() }
    outputBuffers = signature.entry.outputs.map { _ in AlignedBuffer() }
    inputs = signature.entry.inputs.map { _ in ultra_tensor(data: nil, count: 0) }
    outputs = signature.entry.outputs.map { _ in ultra_tensor(data: nil, count: 0) }
    capacities = signature.entry.outputs.map { _ in 0 }
  }

  /// The entry's signature.
  public var entry: Manifest.Entry { signature.entry }

  /// Extents of the bound batch, in the order of `entry.dimensions`.
  public var batch: [(name: String, extent: Int)] {
    zip(signature.entry.dimensions, extents).map { ($0, $1) }
  }

  /// Checks inputs against the manifest, copies them, and makes room for outputs and workspace. Extents that no input's
  /// shape tells are given in `dimensions`.
  public func bind(_ tensors: [String: Tensor], dimensions given: [String: Int] = [:]) throws(RuntimeError) {
    try bind(tensors, dimensions: given, lender: nil)
  }

  /// As `bind` does, but for arguments that are lent, which stay where they lie and must do so until the call has returned.
  func bind(
    _ tensors: [String: Tensor], dimensions given: [String: Int] = [:], lender: ArgumentLender?
  ) throws(RuntimeError) {
    isBound = false
    hasResults = false
    lentOutputs = lender?.outputs ?? []
    var given = given
    let lent = Set((lender?.inputs ?? []).map { signature.entry.inputs[$0].name })
    if let lender {
      try signature.checkElements(of: tensors, lent: lent)
      try copyInputs(tensors)
      dimensions = signature.entry.dimensions.map { _ in 0 }
      try lender.place(&dimensions, &inputs, &outputs)
      for index in lender.inputs {
        for case .symbol(let name) in signature.entry.inputs[index].type.extents {
          if let place = signature.entry.dimensions.firstIndex(of: name) { given[name] = Int(dimensions[place]) }
        }
      }
    }
    extents = try signature.extents(of: tensors, given: given, lent: lent)
    outputShapes = try signature.outputShapes(extents)
    dimensions = extents.map { Int64($0) }
    // Before any room is made for what is too large.
    guard let size = functions.workspaceSize(dimensions: dimensions, workers: pool?.workers ?? 1) else {
      throw RuntimeError(
        .invalidInput, "a batch of \(signature.describe(extents)) is too large for \"\(signature.entry.name)\"")
    }
    if lender == nil { try copyInputs(tensors) }
    for (index, port) in signature.entry.outputs.enumerated() {
      if lentOutputs.contains(index) {
        capacities[index] = outputs[index].count
        continue
      }
      let count = outputShapes[index].reduce(1, *)
      try outputBuffers[index].reserve(count * port.type.element.byteCount, for: port.name)
      outputs[index] = ultra_tensor(data: outputBuffers[index].address, count: 0)
      capacities[index] = Int64(count)
    }
    try workspace.reserve(size, for: "workspace")
    workspaceSize = size
    isBound = true
  }

  private func copyInputs(_ tensors: [String: Tensor]) throws(RuntimeError) {
    for (index, port) in signature.entry.inputs.enumerated() {
      guard let tensor = tensors[port.name] else { continue }
      try inputBuffers[index].reserve(tensor.bytes.count, for: port.name)
      tensor.bytes.withUnsafeBytes { inputBuffers[index].copy($0) }
      inputs[index] = ultra_tensor(data: inputBuffers[index].address, count: Int64(tensor.count))
    }
  }

  /// The arguments of the bound call, as the call left them: for who lent some.
  func withArguments<Result>(
    _ body: (inout [Int64], inout [ultra_tensor], inout [ultra_tensor]) -> Result
  ) -> Result {
    body(&dimensions, &inputs, &outputs)
  }

  /// Runs the entry on the bound inputs. Nothing is allocated; it may be called again and again.
  public func call() throws(RuntimeError) {
    try call(lentThreads)
  }

  private var lentThreads: UnsafePointer<ultra_parallel>? {
    pool.flatMap { $0.workers > 1 ? ultra_pool_parallel($0.pool) : nil }
  }

  /// Runs the entry as `call` does and tells when each kernel ran; under `blocks` also when each of its blocks did, which
  /// costs some tens of nanoseconds a block.
  public func record(blocks: Bool = false) throws(RuntimeError) -> KernelRecord {
    let recorder = KernelRecorder(lentThreads, recordsBlocks: blocks)
    var parallel = recorder.parallel
    try call(&parallel)
    return recorder.record
  }

  private func call(_ parallel: UnsafePointer<ultra_parallel>?) throws(RuntimeError) {
    hasResults = false
    guard isBound else { throw RuntimeError(.invalidInput, "no inputs are bound to \"\(signature.entry.name)\"") }
    for index in outputs.indices { outputs[index].count = capacities[index] }
    var error = ultra_error()
    error.struct_size = UInt32(MemoryLayout<ultra_error>.size)
    error.argument = -1
    let status = withUnsafeMutablePointer(to: &error) { error in
      dimensions.withUnsafeBufferPointer { dimensions in
        inputs.withUnsafeBufferPointer { inputs in
          outputs.withUnsafeMutableBufferPointer { outputs in
            var call = ultra_call()
            call.struct_size = UInt32(MemoryLayout<ultra_call>.size)
            call.dimension_count = UInt32(dimensions.count)
            call.dimensions = dimensions.baseAddress
            call.inputs = inputs.baseAddress
            call.outputs = outputs.baseAddress
            call.input_count = UInt32(inputs.count)
            call.output_count = UInt32(outputs.count)
            call.workspace = workspace.address
            call.workspace_size = workspaceSize
            call.parallel = parallel
            call.error = error
            return run(&call)
          }
        }
      }
    }
    guard status == 0 else { throw signature.error(status: status, error) }
    hasResults = true
  }

  private func run(_ call: UnsafePointer<ultra_call>) -> Int32 {
    if let pool { ultra_pool_begin(pool.pool) }
    defer { if let pool { ultra_pool_end(pool.pool) } }
    return functions.run(call)
  }

  /// Copies of the outputs of the last call, cut to what it wrote; those that were lent are with who lent them.
  public func results() throws(RuntimeError) -> [(name: String, tensor: Tensor)] {
    guard hasResults else {
      throw RuntimeError(.invalidInput, "\"\(signature.entry.name)\" has no results: no call succeeded")
    }
    var results: [(name: String, tensor: Tensor)] = []
    for (index, port) in signature.entry.outputs.enumerated() where !lentOutputs.contains(index) {
      let written = Int(outputs[index].count)
      let shape = try signature.finalShape(
        ofOutput: index, largest: outputShapes[index], extents: extents, written: written)
      let bytes = UnsafeRawBufferPointer(
        start: outputBuffers[index].address, count: written * port.type.element.byteCount)
      results.append((port.name, Tensor(element: port.type.element, checkedShape: shape, bytes: Array(bytes))))
    }
    return results
  }

  /// Binds inputs, runs the entry and gives its outputs.
  public func run(
    _ inputs: [String: Tensor], dimensions: [String: Int] = [:]
  ) throws(RuntimeError) -> [(name: String, tensor: Tensor)] {
    try bind(inputs, dimensions: dimensions)
    try call()
    return try results()
  }
}

/// Who has some of a call's arguments in memory of its own.
struct ArgumentLender {
  /// Their places among the entry's inputs.
  var inputs: Set<Int>
  /// Their places among the entry's outputs.
  var outputs: Set<Int>
  /// Sets them, and the extents that they tell; the other inputs are set already.
  var place:
    (_ dimensions: inout [Int64], _ inputs: inout [ultra_tensor], _ outputs: inout [ultra_tensor])
      throws(RuntimeError) -> Void
}

/// Memory aligned for vectors, kept until more is needed.
final class AlignedBuffer {
  private(set) var address: UnsafeMutableRawPointer?
  private var capacity = 0

  deinit { free(address) }

  /// Makes room for `count` bytes; what was there is lost where it has to grow.
  func reserve(_ count: Int, for name: String) throws(RuntimeError) {
    if count <= capacity && address != nil { return }
    free(address)
    address = nil
    capacity = 0
    var fresh: UnsafeMutableRawPointer?
    guard posix_memalign(&fresh, Int(ULTRA_WORKSPACE_ALIGNMENT), max(count, 1)) == 0 else {
      throw RuntimeError(.resources, "\(name): \(count) bytes of memory cannot be had")
    }
    address = fresh
    capacity = count
  }

  func copy(_ bytes: UnsafeRawBufferPointer) {
    if let source = bytes.baseAddress { address?.copyMemory(from: source, byteCount: bytes.count) }
  }
}
