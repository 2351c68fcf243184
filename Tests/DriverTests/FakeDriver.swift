import CUltra
import Foundation

/// The functions of NVIDIA's driver, and of AMD's, that launch stubs call, over the host's memory: it notes what is asked of it, and can refuse.
/// Streams can be captured into graphs.
///
/// The driver's functions know nothing of who calls them, so each thread has one at a time.
final class FakeDriver {
  /// A launch as the driver saw it.
  struct Launch {
    var kernel: String
    var blocks: UInt32
    var threads: UInt32
    var sharedBytes: UInt32
    var stream: Int
    /// The first 8 bytes behind each parameter's pointer; scalars have 4, the rest are whatever follows.
    var parameters: [UInt64]
  }

  private static let key = "ultrac.fakeDriver"

  /// The calling thread's.
  static var current: FakeDriver {
    get { Thread.current.threadDictionary[key] as? FakeDriver ?? FakeDriver() }
    set { Thread.current.threadDictionary[key] = newValue }
  }

  /// Every call by name, in order.
  var calls: [String] = []
  var launches: [Launch] = []
  /// Memory that was taken and not given back, by address.
  var memory: [UInt64: UnsafeMutableRawBufferPointer] = [:]
  var modules: Set<Int> = []
  /// Names of functions of the loaded module, by handle from 1000 on.
  var kernels: [String] = []
  /// The most shared memory that functions may have, by handle.
  var sharedBytes: [Int: Int32] = [:]
  /// The context that is current, and that of a thread before; with AMD the device.
  var context = 0
  var device: Int32 = 0
  /// Whether it is AMD's: what it was asked for last says so.
  private var isHIP = false
  /// A function that there is not, one that refuses at its call number `refusedCall`, and how many parameters kernels have.
  var missing: String?
  var refused: (name: String, call: Int)?
  var parameterCounts: [String: Int] = [:]
  /// Runs a kernel, given its name, blocks in both dimensions, threads, bytes of shared memory and the addresses of its parameters; nil
  /// where launches are only noted.
  var execute: ((String, (x: Int, y: Int), Int, Int, UnsafePointer<UnsafeRawPointer?>) -> Bool)?
  /// Whether machine code is refused, as by a driver that does not know it.
  var refusesCode = false

  /// The stream that is being captured, and what is in graphs and executable ones.
  private(set) var capturing: Int?
  private var isBroken = false
  private var captured: [() -> Int32] = []
  private(set) var graphs: [Int: [() -> Int32]] = [:]
  private(set) var executables: [Int: [() -> Int32]] = [:]
  private var handles = 0
  /// The host's memory that stays where it is, from which alone graphs can copy.
  var pinned: [Range<UInt>] = []

  deinit { for block in memory.values { block.deallocate() } }

  /// Notes a call, by its name in NVIDIA's driver; the status that it gets.
  fileprivate func status(_ function: String) -> Int32 {
    let name = isHIP ? Self.hipNames[function] ?? Self.hipGraphNames[function] ?? function : function
    calls.append(name)
    if capturing != nil, !Self.capturable.contains(function) {
      isBroken = true
      return Self.unsupported
    }
    guard let refused, refused.name == name, calls.count(where: { $0 == name }) == refused.call else { return 0 }
    return 999
  }

  // MARK: - Graphs

  /// `CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED` and `..._INVALIDATED`.
  private static let unsupported: Int32 = 900
  private static let invalidated: Int32 = 901
  /// What may be asked while a stream is captured; what waits, allocates or copies at once may not.
  private static let capturable: Set = [
    "cuCtxSetCurrent", "cuCtxGetCurrent", "hipSetDevice", "hipGetDevice", "cuMemcpyHtoDAsync_v2", "cuMemsetD32Async",
    "cuLaunchKernel", "cuStreamEndCapture",
  ]

  /// Does what is put on a stream: now, or whenever the graph runs that the stream is captured into.
  fileprivate func put(on stream: Int, _ operation: @escaping () -> Int32) -> Int32 {
    guard let capturing else { return operation() }
    guard stream == capturing else {
      isBroken = true
      return Self.unsupported
    }
    captured.append(operation)
    return 0
  }

  fileprivate func canCopy(_ source: UnsafeRawPointer, _ count: Int) -> Bool {
    let first = UInt(bitPattern: source)
    if capturing == nil || pinned.contains(where: { $0.contains(first) && first + UInt(count) <= $0.upperBound }) {
      return true
    }
    isBroken = true
    return false
  }

  fileprivate func beginCapture(_ stream: Int, _ mode: Int32) -> Int32 {
    let status = status("cuStreamBeginCapture_v2")
    // The default stream cannot be; mode 1 leaves other threads alone.
    guard status == 0, stream != 0, mode == 1, capturing == nil else { return status == 0 ? Self.unsupported : status }
    (capturing, captured, isBroken) = (stream, [], false)
    return 0
  }

  fileprivate func endCapture(_ stream: Int) -> (status: Int32, graph: Int) {
    let status = status("cuStreamEndCapture")
    guard capturing == stream else { return (Self.unsupported, 0) }
    capturing = nil
    guard status == 0, !isBroken else { return (status == 0 ? Self.invalidated : status, 0) }
    handles += 1
    graphs[handles] = captured
    return (0, handles)
  }

  fileprivate func instantiate(_ graph: Int) -> (status: Int32, executable: Int) {
    let status = status("cuGraphInstantiateWithFlags")
    guard status == 0, let operations = graphs[graph] else { return (status == 0 ? 1 : status, 0) }
    handles += 1
    executables[handles] = operations
    return (0, handles)
  }

  fileprivate func launchGraph(_ executable: Int) -> Int32 {
    let status = status("cuGraphLaunch")
    guard status == 0, let operations = executables[executable] else { return status == 0 ? 1 : status }
    for operation in operations {
      let status = operation()
      if status != 0 { return status }
    }
    return 0
  }

  /// What gives the driver's functions to `load`.
  static var host: ultra_gpu_host {
    var host = ultra_gpu_host()
    host.struct_size = UInt32(MemoryLayout<ultra_gpu_host>.size)
    host.find = { (_: UnsafeMutableRawPointer?, name: UnsafePointer<CChar>?) -> UnsafeMutableRawPointer? in
      guard let name else { return nil }
      return FakeDriver.address(String(cString: name))
    }
    return host
  }

  private static func address(_ name: String) -> UnsafeMutableRawPointer? {
    current.isHIP = name.hasPrefix("hip")
    return current.missing == name ? nil : functions[name] ?? graphFunctions[name]
  }

  /// What AMD's driver calls the functions that do the same.
  private static let hipNames = [
    "cuInit": "hipInit", "cuModuleLoadData": "hipModuleLoadData", "cuModuleUnload": "hipModuleUnload",
    "cuModuleGetFunction": "hipModuleGetFunction", "cuMemAlloc_v2": "hipMalloc", "cuMemFree_v2": "hipFree",
    "cuMemcpyHtoD_v2": "hipMemcpyHtoD", "cuMemcpyHtoDAsync_v2": "hipMemcpyHtoDAsync",
    "cuMemsetD32Async": "hipMemsetD32Async", "cuLaunchKernel": "hipModuleLaunchKernel",
  ]

  /// The same of functions that stubs do not want.
  private static let hipGraphNames = [
    "cuStreamBeginCapture_v2": "hipStreamBeginCapture", "cuStreamEndCapture": "hipStreamEndCapture",
    "cuGraphInstantiateWithFlags": "hipGraphInstantiateWithFlags", "cuGraphDestroy": "hipGraphDestroy",
    "cuGraphLaunch": "hipGraphLaunch", "cuGraphExecDestroy": "hipGraphExecDestroy",
  ]

  /// What would be a kernel's parameters, in words of 8 bytes.
  fileprivate static func words(_ pointers: UnsafePointer<UnsafeRawPointer?>?, _ count: Int) -> [UInt64] {
    (0..<count).compactMap { pointers?[$0]?.loadUnaligned(as: UInt64.self) }
  }

  private typealias P = UnsafeMutablePointer<Int>

  private static func raw<Function>(_ function: Function) -> UnsafeMutableRawPointer {
    unsafeBitCast(function, to: UnsafeMutableRawPointer.self)
  }

  nonisolated(unsafe) private static let functions = makeFunctions()
  nonisolated(unsafe) private static let graphFunctions = makeGraphFunctions()

  private static func makeGraphFunctions() -> [String: UnsafeMutableRawPointer] {
    let begin: @convention(c) (Int, Int32) -> Int32 = { FakeDriver.current.beginCapture($0, $1) }
    let end: @convention(c) (Int, P) -> Int32 = {
      let ended = FakeDriver.current.endCapture($0)
      $1.pointee = ended.graph
      return ended.status
    }
    let instantiate: @convention(c) (P, Int, UInt64) -> Int32 = {
      let made = FakeDriver.current.instantiate($1)
      $0.pointee = made.executable
      return $2 == 0 ? made.status : 1
    }
    let destroy: @convention(c) (Int) -> Int32 = {
      FakeDriver.current.graphs[$0] = nil
      return FakeDriver.current.status("cuGraphDestroy")
    }
    let launch: @convention(c) (Int, Int) -> Int32 = { graph, _ in FakeDriver.current.launchGraph(graph) }
    let destroyExecutable: @convention(c) (Int) -> Int32 = {
      FakeDriver.current.executables[$0] = nil
      return FakeDriver.current.status("cuGraphExecDestroy")
    }
    var functions = [
      "cuStreamBeginCapture_v2": raw(begin), "cuStreamEndCapture": raw(end),
      "cuGraphInstantiateWithFlags": raw(instantiate), "cuGraphDestroy": raw(destroy), "cuGraphLaunch": raw(launch),
      "cuGraphExecDestroy": raw(destroyExecutable),
    ]
    for (function, name) in hipGraphNames { functions[name] = functions[function] }
    return functions
  }

  private static func makeFunctions() -> [String: UnsafeMutableRawPointer] {
    let cuInit: @convention(c) (UInt32) -> Int32 = { _ in FakeDriver.current.status("cuInit") }
    let getCurrent: @convention(c) (P) -> Int32 = {
      $0.pointee = FakeDriver.current.context
      return FakeDriver.current.status("cuCtxGetCurrent")
    }
    let setCurrent: @convention(c) (Int) -> Int32 = {
      FakeDriver.current.context = $0
      return FakeDriver.current.status("cuCtxSetCurrent")
    }
    let getDevice: @convention(c) (UnsafeMutablePointer<Int32>) -> Int32 = {
      $0.pointee = FakeDriver.current.device
      return FakeDriver.current.status("hipGetDevice")
    }
    let setDevice: @convention(c) (Int32) -> Int32 = {
      FakeDriver.current.device = $0
      return FakeDriver.current.status("hipSetDevice")
    }
    let device: @convention(c) (UnsafeMutablePointer<Int32>, Int32) -> Int32 = {
      $0.pointee = 3 + $1
      return FakeDriver.current.status("cuDeviceGet")
    }
    let retain: @convention(c) (P, Int32) -> Int32 = {
      $0.pointee = 70 + Int($1)
      return FakeDriver.current.status("cuDevicePrimaryCtxRetain")
    }
    let load: @convention(c) (P, UnsafePointer<CChar>) -> Int32 = {
      let status = FakeDriver.current.status("cuModuleLoadData")
      // Machine code is an ELF file, PTX begins with a comment.
      if FakeDriver.current.refusesCode, $1.pointee == 0x7F { return 209 }
      if status == 0 {
        $0.pointee = 500 + FakeDriver.current.modules.count
        FakeDriver.current.modules.insert($0.pointee)
      }
      return status
    }
    let unload: @convention(c) (Int) -> Int32 = {
      FakeDriver.current.modules.remove($0)
      return FakeDriver.current.status("cuModuleUnload")
    }
    let function: @convention(c) (P, Int, UnsafePointer<CChar>) -> Int32 = {
      $0.pointee = 1000 + FakeDriver.current.kernels.count
      FakeDriver.current.kernels.append(String(cString: $2))
      return FakeDriver.current.status("cuModuleGetFunction")
    }
    let attribute: @convention(c) (Int, Int32, Int32) -> Int32 = {
      if $1 == 8 { FakeDriver.current.sharedBytes[$0] = $2 }
      return FakeDriver.current.status("cuFuncSetAttribute")
    }
    let allocate: @convention(c) (UnsafeMutablePointer<UInt64>, Int) -> Int32 = {
      let status = FakeDriver.current.status("cuMemAlloc_v2")
      if status == 0 {
        let block = UnsafeMutableRawBufferPointer.allocate(byteCount: $1, alignment: 256)
        $0.pointee = UInt64(UInt(bitPattern: block.baseAddress))
        FakeDriver.current.memory[$0.pointee] = block
      }
      return status
    }
    let free: @convention(c) (UInt64) -> Int32 = {
      FakeDriver.current.memory.removeValue(forKey: $0)?.deallocate()
      return FakeDriver.current.status("cuMemFree_v2")
    }
    let copy: @convention(c) (UInt64, UnsafeRawPointer, Int) -> Int32 = {
      UnsafeMutableRawPointer(bitPattern: UInt($0))?.copyMemory(from: $1, byteCount: $2)
      return FakeDriver.current.status("cuMemcpyHtoD_v2")
    }
    let copyAsync: @convention(c) (UInt64, UnsafeRawPointer, Int, Int) -> Int32 = { target, source, count, stream in
      let driver = FakeDriver.current
      guard driver.canCopy(source, count) else { return FakeDriver.unsupported }
      let status = driver.put(on: stream) {
        UnsafeMutableRawPointer(bitPattern: UInt(target))?.copyMemory(from: source, byteCount: count)
        return 0
      }
      let own = driver.status("cuMemcpyHtoDAsync_v2")
      return status == 0 ? own : status
    }
    let fill: @convention(c) (UInt64, UInt32, Int, Int) -> Int32 = { target, word, count, stream in
      let status = FakeDriver.current.put(on: stream) {
        let words = UnsafeMutablePointer<UInt32>(bitPattern: UInt(target))
        for index in 0..<count { words?[index] = word }
        return 0
      }
      let own = FakeDriver.current.status("cuMemsetD32Async")
      return status == 0 ? own : status
    }
    let launch:
      @convention(c) (
        Int, UInt32, UInt32, UInt32, UInt32, UInt32, UInt32, UInt32, Int, UnsafePointer<UnsafeRawPointer?>?, Int
      ) -> Int32 = { kernel, blocks, y, z, threads, threadsY, threadsZ, shared, stream, parameters, extra in
        let driver = FakeDriver.current
        let name = driver.kernels[kernel - 1000]
        let launch = Launch(
          kernel: name, blocks: blocks * y * z, threads: threads * threadsY * threadsZ, sharedBytes: shared,
          stream: stream, parameters: FakeDriver.words(parameters, driver.parameterCounts[name] ?? 0))
        let status = driver.put(on: stream) {
          let driver = FakeDriver.current
          driver.launches.append(launch)
          guard let execute = driver.execute else { return 0 }
          return launch.parameters.withUnsafeBytes { words in
            let addresses = launch.parameters.indices.map { index in words.baseAddress.map { $0 + 8 * index } }
            return execute(name, (Int(blocks), Int(y)), Int(threads), Int(shared), addresses) ? 0 : 719
          }
        }
        if status != 0 { return status }
        return extra == 0 ? driver.status("cuLaunchKernel") : 1
      }
    var functions = [
      "cuInit": raw(cuInit), "cuCtxGetCurrent": raw(getCurrent), "cuCtxSetCurrent": raw(setCurrent),
      "cuDeviceGet": raw(device), "cuDevicePrimaryCtxRetain": raw(retain), "cuModuleLoadData": raw(load),
      "cuModuleUnload": raw(unload), "cuModuleGetFunction": raw(function), "cuFuncSetAttribute": raw(attribute),
      "cuMemAlloc_v2": raw(allocate), "cuMemFree_v2": raw(free), "cuMemcpyHtoD_v2": raw(copy),
      "cuMemcpyHtoDAsync_v2": raw(copyAsync), "cuMemsetD32Async": raw(fill),
      "cuLaunchKernel": raw(launch),
    ]
    for (function, name) in hipNames { functions[name] = functions[function] }
    functions["hipGetDevice"] = raw(getDevice)
    functions["hipSetDevice"] = raw(setDevice)
    return functions
  }

  /// The functions that stubs want of either.
  static var names: [String] { functions.keys.sorted() }
}
