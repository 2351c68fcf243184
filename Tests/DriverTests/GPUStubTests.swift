import CUltra
import Codegen
@testable import Driver
import Foundation
import Interpreter
import LLVMKit
import Passes
import TensorIR
import TestSupport
import Testing
import TileIR
import UltraRuntime

/// The host's side of code for GPUs, against a driver that only takes notes.
@Suite("Launch stubs", .serialized)
struct GPUStubTests {
  /// A compiled model of two layers.
  private struct Compiled {
    var loaded: LoadedModel
    var program: Program
    var launches: [GPULaunch]
    var weights: any WeightProvider

    /// Those that were made, by target and code: the suite's tests run one after the other.
    nonisolated(unsafe) private static var known: [String: Compiled] = [:]

    static func model(_ target: GPUTarget, code: [UInt8]?, headWidth: Int) throws -> Compiled {
      let key = "\(target) \(headWidth) \(code ?? [])"
      if let made = known[key] { return made }
      let (module, weights) = try GPUStubTests.model(headWidth: headWidth)
      var backend = CompiledProgram.backend(module, [.avx2], .less)
      backend.gpus = [target]
      backend.codeObjectLinker = GPUWaveTests.linker
      var part = try backend.generateGPU(module)
      if target.vendor == .nvidia { part.images[0].code = code }
      let derived = DerivedWeights(module, base: weights)
      let programs = try backend.lower(module)
      let loaded = try withTemporaryFolder { folder in
        let path = folder.appendingPathComponent("model.ultra").path
        let (generated, machine) = try backend.generate(programs, of: module, gpu: part, in: Context())
        _ = try backend.write(
          programs + part.programs, object: machine.emitObject(generated), weights: derived, to: path)
        return try LoadedModel(path: path)
      }
      let made = Compiled(
        loaded: loaded, program: part.images[0].programs[0], launches: part.images[0].launches[0], weights: derived)
      known[key] = made
      return made
    }
  }

  /// A compiled model, its GPU program, and what its kernels should be given; and a driver that knows nothing yet.
  final class Subject {
    let loaded: LoadedModel
    let program: Program
    let launches: [GPULaunch]
    let weights: any WeightProvider
    let gpu: ultra_gpu

    init(_ target: GPUTarget = .sm80, code: [UInt8]? = nil, headWidth: Int = 16) throws {
      let compiled = try Compiled.model(target, code: code, headWidth: headWidth)
      (loaded, program, launches) = (compiled.loaded, compiled.program, compiled.launches)
      weights = compiled.weights
      gpu = try #require(ultra_gpu_for(loaded.table, target.rawValue)).pointee
      FakeDriver.current = FakeDriver()
      for launch in launches { FakeDriver.current.parameterCounts[launch.symbol] = launch.parameters.count }
    }

    /// Memory for the model's state.
    func withState<Result>(_ body: (UnsafeMutableRawPointer) throws -> Result) rethrows -> Result {
      let state = UnsafeMutableRawPointer.allocate(byteCount: Int(gpu.state_size), alignment: 8)
      defer { state.deallocate() }
      return try body(state)
    }

    func load(_ state: UnsafeMutableRawPointer, weights: UInt64 = 0) -> (status: Int32, error: ultra_gpu_error) {
      var (host, error) = (FakeDriver.host, ultra_gpu_error())
      error.struct_size = UInt32(MemoryLayout<ultra_gpu_error>.size)
      return (gpu.load(state, &host, weights, &error), error)
    }

    /// Calls the entry for sequences of these lengths; `size` is added to the workspace.
    func run(
      _ state: UnsafeMutableRawPointer, lengths: [Int], targets: [Int], size: Int = 0, offsetError: Int = 0,
      workspace given: UnsafeMutableRawBufferPointer? = nil
    ) -> (status: Int32, error: ultra_gpu_error, refusal: ultra_error) {
      let entry = gpu.entries[0]
      var offsets = lengths.reduce(into: [Int64(0)]) { $0.append($0[$0.count - 1] + Int64($1)) }
      if offsetError != 0 { offsets[offsets.count - 1] += Int64(offsetError) }
      let counts = targets.map { Int64($0) }
      let rows = lengths.reduce(0, +)
      let dimensions = [Int64(rows), Int64(lengths.count)]
      let bytes = Int(entry.workspace_size(dimensions))
      let workspace = given ?? .allocate(byteCount: bytes, alignment: 256)
      defer { if given == nil { workspace.deallocate() } }
      let host = UnsafeMutableRawBufferPointer.allocate(
        byteCount: entry.host_workspace_size(dimensions, 1), alignment: 64)
      defer { host.deallocate() }
      var (failure, refusal) = (ultra_gpu_error(), ultra_error())
      failure.struct_size = UInt32(MemoryLayout<ultra_gpu_error>.size)
      refusal.struct_size = UInt32(MemoryLayout<ultra_error>.size)
      let elsewhere = UnsafeMutableRawPointer(bitPattern: 0x7000_0000)
      let status = offsets.withUnsafeMutableBytes { offsets in
        var counts = counts
        return counts.withUnsafeMutableBytes { counts in
          let inputs = [
            ultra_tensor(data: elsewhere, count: Int64(rows * 32)),
            ultra_tensor(data: offsets.baseAddress, count: Int64(lengths.count + 1)),
            ultra_tensor(data: counts.baseAddress, count: Int64(lengths.count)),
          ]
          var outputs = [ultra_tensor(data: elsewhere.map { $0 + 4096 }, count: Int64(rows * 32))]
          return dimensions.withUnsafeBufferPointer { dimensions in
            inputs.withUnsafeBufferPointer { inputs in
              outputs.withUnsafeMutableBufferPointer { outputs in
                var call = ultra_gpu_call()
                call.call.struct_size = UInt32(MemoryLayout<ultra_gpu_call>.size)
                call.call.dimension_count = 2
                call.call.dimensions = dimensions.baseAddress
                call.call.inputs = inputs.baseAddress
                call.call.outputs = outputs.baseAddress
                (call.call.input_count, call.call.output_count) = (3, 1)
                (call.call.workspace, call.call.workspace_size) = (host.baseAddress, host.count)
                (call.state, call.stream) = (UnsafeRawPointer(state), UnsafeMutableRawPointer(bitPattern: 0x55))
                call.workspace = UInt64(UInt(bitPattern: workspace.baseAddress))
                call.workspace_size = UInt64(bytes + size)
                return withUnsafeMutablePointer(to: &failure) { failure in
                  withUnsafeMutablePointer(to: &refusal) { refusal in
                    (call.error, call.call.error) = (failure, refusal)
                    return withUnsafePointer(to: &call) { entry.run($0) }
                  }
                }
              }
            }
          }
        }
      }
      return (status, failure, refusal)
    }
  }

  /// Those that there are tools for to make code.
  static let targets = GPUTarget.allCases.filter { $0.vendor == .nvidia || GPUWaveTests.linker != nil }

  /// A driver's functions, where there are tools to make code for its cards.
  private static let names = FakeDriver.names.filter { targets.contains(target(of: $0)) }

  private static func target(of function: String) -> GPUTarget { function.hasPrefix("hip") ? .gfx942 : .sm80 }

  /// Two layers on rows, with targets, in bf16.
  static func model(headWidth: Int = 16) throws -> (Module, WeightTable) {
    var random = Random(seed: 11)
    var (module, weights) = try GPUModels.stack(
      &random, width: 32, heads: 2, headWidth: headWidth, layers: 2, mask: .causal)
    try PassManager(PassPipeline(parsing: "lower-precision{matmul=bf16,attention=bf16}")).run(on: &module)
    try module.verify()
    return (module, weights)
  }

  @Test(
    "weights are brought to the GPU as the program packs them, and kernels may have the shared memory that they want")
  func loads() throws {
    let subject = try Subject()
    let driver = FakeDriver.current
    try subject.withState { state in
      let (status, _) = subject.load(state)
      #expect(status == 0)
      #expect(driver.kernels == subject.launches.map(\.symbol))
      for (index, launch) in subject.launches.enumerated() where launch.sharedBytes > 48 << 10 {
        #expect(driver.sharedBytes[1000 + index] == Int32(launch.sharedBytes))
      }
      #expect(driver.context != 0, "where no context was current the first card's is")
      let memory = try #require(driver.memory.values.first)
      let layout = WeightLayout([subject.program])
      #expect(memory.count == layout.byteCount && driver.memory.count == 1)
      for entry in layout.entries {
        let expected = try bytes(of: entry.buffer, subject.weights)
        #expect(Array(memory[entry.offset..<entry.offset + entry.byteCount]) == expected, "\(entry.name)")
      }
      var error = ultra_gpu_error()
      #expect(subject.gpu.unload(state, &error) == 0)
      #expect(driver.memory.isEmpty && driver.modules.isEmpty)
    }
  }

  @Test("weights may lie in memory of the caller's, which unload leaves alone")
  func ownWeights() throws {
    let subject = try Subject()
    let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: Int(subject.gpu.weights_size), alignment: 256)
    defer { memory.deallocate() }
    try subject.withState { state in
      #expect(subject.load(state, weights: UInt64(UInt(bitPattern: memory.baseAddress))).status == 0)
      let entry = try #require(WeightLayout([subject.program]).entries.last)
      #expect(
        try Array(memory[entry.offset..<entry.offset + entry.byteCount]) == bytes(of: entry.buffer, subject.weights))
      #expect(subject.gpu.unload(state, nil) == 0)
      #expect(!FakeDriver.current.calls.contains("cuMemAlloc_v2") && !FakeDriver.current.calls.contains("cuMemFree_v2"))
    }
  }

  private func bytes(of buffer: Buffer, _ weights: any WeightProvider) throws -> [UInt8] {
    var result: [UInt8] = []
    switch buffer.home {
    case .table(let numbers): numbers.withUnsafeBytes { result += $0 }
    case .weight(let name, let packing):
      let rows = buffer.rows.dimension.extent ?? 0
      try WeightPacking(packing, of: weights.rows(of: name), rows: rows, columns: buffer.columns).write { result += $0 }
    default: break
    }
    return result
  }

  @Test("machine code is loaded first, and the text where the driver refuses it", arguments: [false, true])
  func code(isRefused: Bool) throws {
    let subject = try Subject(code: [0x7F] + Array("ELF machine code".utf8))
    FakeDriver.current.refusesCode = isRefused
    subject.withState { state in
      #expect(subject.load(state).status == 0)
      #expect(FakeDriver.current.calls.count { $0 == "cuModuleLoadData" } == (isRefused ? 2 : 1))
      #expect(subject.gpu.unload(state, nil) == 0)
    }
  }

  @Test(
    "every kernel is launched once, for the blocks that the batch has, with what it reads",
    arguments: targets, [16, 64])
  func runs(target: GPUTarget, headWidth: Int) throws {
    let subject = try Subject(target, headWidth: headWidth)
    let driver = FakeDriver.current
    let (lengths, targets) = ([5, 300, 0, 129], [2, 40, 0, 1])
    let dimensions = [Int64(434), 4]
    let workspace = UnsafeMutableRawBufferPointer.allocate(
      byteCount: Int(subject.gpu.entries[0].workspace_size(dimensions)), alignment: 256)
    defer { workspace.deallocate() }
    workspace.initializeMemory(as: UInt8.self, repeating: 0xFF)
    var counters: Set<UInt64> = []
    let base = UInt64(UInt(bitPattern: workspace.baseAddress))
    try subject.withState { state in
      #expect(subject.load(state).status == 0)
      let result = subject.run(state, lengths: lengths, targets: targets, workspace: workspace)
      #expect(result.status == 0, "\(result.refusal) \(result.error)")
      #expect(driver.launches.map(\.kernel) == subject.launches.map(\.symbol))
      let weights = try #require(driver.memory.keys.first)
      let layout = WeightLayout([subject.program])
      for (launch, seen) in zip(subject.launches, driver.launches) {
        let kernel = subject.program.kernels[launch.kernel]
        let blocks: Int
        switch kernel.domain {
        case .rows(let dimension, _, let parts):
          let rows = dimension == .symbol("rows") ? 434 : 43
          blocks = (rows + launch.rows - 1) / launch.rows * parts
        case .sequences(let offsets, _, _, let block, let parts):
          let own = subject.program[offsets].name == "offsets" ? lengths : targets
          blocks = own.reduce(0) { $0 + ($1 + block.most - 1) / block.most } * parts * launch.pieces(of: kernel)
        }
        let grid = launch.blocks(for: blocks)
        #expect(
          Int(seen.blocks) == grid * launch.columnParts(for: grid) && Int(seen.threads) == launch.threads,
          "\(launch.symbol)")
        #expect(Int(seen.sharedBytes) == launch.sharedBytes && seen.stream == 0x55)
        for (parameter, word) in zip(launch.parameters, seen.parameters) {
          switch parameter {
          case .extent(let name):
            #expect(word == ["rows": 434, "sequences": 4, "target_rows": 43][name] ?? 0, "\(name)")
          case .scalar: break
          case .counter:
            #expect(counters.insert(word).inserted && word >= base && word + 4 <= base + UInt64(workspace.count))
            #expect(UnsafeRawPointer(bitPattern: UInt(word))?.load(as: UInt32.self) == 0)
          case .buffer(let id):
            let buffer = subject.program[id]
            switch buffer.home {
            case .weight, .table: #expect(word == weights + UInt64(layout.offset(of: buffer) ?? -1))
            case .output: #expect(word == 0x7000_1000)
            case .input where buffer.element != .i64: #expect(word == 0x7000_0000)
            case .input, .workspace:
              let size = UInt64(
                subject.program.greatestRowsForTest(buffer) * buffer.columns * buffer.element.workingByteCount)
              #expect(word >= base && word + size <= base + UInt64(workspace.count) && word % 16 == 0, "\(buffer.name)")
              if buffer.name == "offsets" {
                let table = UnsafeRawPointer(bitPattern: UInt(word))
                #expect((0...4).map { table?.load(fromByteOffset: 8 * $0, as: Int64.self) } == [0, 5, 305, 305, 434])
              }
              if buffer.name == "target_offsets" {
                let table = UnsafeRawPointer(bitPattern: UInt(word))
                #expect((0...4).map { table?.load(fromByteOffset: 8 * $0, as: Int64.self) } == [0, 2, 42, 42, 43])
              }
            }
          }
        }
      }
      #expect(counters.count == (target == .sm90a && headWidth == 64 ? 2 : 0))
      _ = subject.gpu.unload(state, nil)
    }
  }

  @Test("a card is the one that was chosen on loading", .enabled(if: GPUWaveTests.linker != nil))
  func device() throws {
    let subject = try Subject(.gfx942)
    let driver = FakeDriver.current
    driver.device = 6
    subject.withState { state in
      #expect(subject.load(state).status == 0)
      driver.device = 1
      #expect(subject.run(state, lengths: [9], targets: [1]).status == 0 && driver.device == 6)
      driver.device = 1
      #expect(subject.gpu.unload(state, nil) == 0 && driver.device == 6)
      #expect(driver.memory.isEmpty && driver.modules.isEmpty)
    }
  }

  @Test("where there is no driver the error names its first function", arguments: targets)
  func noDriver(target: GPUTarget) throws {
    let first = target.vendor == .amd ? "hipInit" : "cuInit"
    // Some machine that runs this may have one.
    guard ultra_gpu_find(nil, first) == nil else { return }
    let subject = try Subject(target)
    var (host, error) = (ultra_gpu_driver(), ultra_gpu_error())
    error.struct_size = UInt32(MemoryLayout<ultra_gpu_error>.size)
    subject.withState { state in
      #expect(subject.gpu.load(state, &host, 0, &error) == Int32(ULTRA_NO_DRIVER.rawValue))
      #expect(error.function.map { String(cString: $0) } == first && error.kernel == nil)
    }
  }

  @Test("what is machine code alone has no text to fall back on", .enabled(if: GPUWaveTests.linker != nil))
  func codeAlone() throws {
    let subject = try Subject(.gfx942)
    #expect(subject.gpu.ptx == nil && subject.gpu.ptx_size == 0 && subject.gpu.code_size > 0)
    FakeDriver.current.refusesCode = true
    subject.withState { state in
      let (status, error) = subject.load(state)
      #expect(status == Int32(ULTRA_DRIVER_FAILED.rawValue) && error.driver_status == 209)
      #expect(error.function.map { String(cString: $0) } == "hipModuleLoadData")
      #expect(FakeDriver.current.calls.count { $0 == "hipModuleLoadData" } == 1)
    }
  }

  @Test("a batch without rows launches nothing", arguments: targets)
  func empty(target: GPUTarget) throws {
    let subject = try Subject(target)
    subject.withState { state in
      #expect(subject.load(state).status == 0)
      #expect(subject.run(state, lengths: [], targets: []).status == 0)
      #expect(FakeDriver.current.launches.isEmpty)
      _ = subject.gpu.unload(state, nil)
    }
  }

  @Test("what the driver lacks is named", arguments: names)
  func missing(name: String) throws {
    let subject = try Subject(Self.target(of: name))
    FakeDriver.current.missing = name
    subject.withState { state in
      let (status, error) = subject.load(state)
      #expect(status == Int32(ULTRA_NO_DRIVER.rawValue) && error.status == status)
      #expect(error.function.map { String(cString: $0) } == name)
    }
  }

  @Test(
    "what the driver refuses on loading is named, and nothing is left behind",
    arguments: names.filter { name in
      !["Launch", "HtoDAsync", "Free", "ModuleUnload", "SetDevice", "Memset"].contains { name.contains($0) }
    })
  func refusedLoading(name: String) throws {
    let subject = try Subject(Self.target(of: name))
    FakeDriver.current.refused = (name, 1)
    // Kernels of so few columns want less shared memory than they must ask for.
    if name == "cuFuncSetAttribute", subject.launches.allSatisfy({ $0.sharedBytes <= 48 << 10 }) { return }
    subject.withState { state in
      let (status, error) = subject.load(state)
      #expect(status == Int32(ULTRA_DRIVER_FAILED.rawValue) && error.driver_status == 999)
      #expect(error.function.map { String(cString: $0) } == name)
      #expect(FakeDriver.current.memory.isEmpty && FakeDriver.current.modules.isEmpty)
    }
  }

  @Test(
    "what the driver refuses in a call is named, with the kernel", arguments: names.filter { $0.contains("Launch") })
  func refusedLaunch(name: String) throws {
    let subject = try Subject(Self.target(of: name))
    FakeDriver.current.refused = (name, 2)
    subject.withState { state in
      #expect(subject.load(state).status == 0)
      let result = subject.run(state, lengths: [9], targets: [1])
      #expect(result.status == Int32(ULTRA_DRIVER_FAILED.rawValue) && result.error.driver_status == 999)
      #expect(result.error.kernel.map { String(cString: $0) } == subject.launches[1].symbol)
      _ = subject.gpu.unload(state, nil)
    }
  }

  @Test("bad batches and workspaces are refused before anything is launched")
  func refusals() throws {
    let subject = try Subject()
    subject.withState { state in
      #expect(subject.load(state).status == 0)
      #expect(subject.run(state, lengths: [9], targets: [10]).status == Int32(ULTRA_BAD_TARGETS.rawValue))
      #expect(
        subject.run(state, lengths: [9, 2], targets: [1, 1], offsetError: 1).status == Int32(ULTRA_BAD_OFFSETS.rawValue)
      )
      #expect(subject.run(state, lengths: [9], targets: [1], size: -1).status == Int32(ULTRA_BAD_WORKSPACE.rawValue))
      #expect(FakeDriver.current.launches.isEmpty)
      #expect(subject.gpu.load(state, nil, 0, nil) == Int32(ULTRA_BAD_CALL.rawValue))
      #expect(subject.gpu.entries[0].workspace_size([-1, 1]) == .max)
      _ = subject.gpu.unload(state, nil)
    }
  }
}

extension Program {
  /// Rows of a buffer for the batch of `runs`.
  fileprivate func greatestRowsForTest(_ buffer: Buffer) -> Int {
    let rows =
      switch buffer.rows.dimension {
      case .fixed(let count): count
      case .symbol("rows"): 434
      case .symbol("sequences"): 4
      case .symbol: 43
      }
    return rows + buffer.rows.plus
  }
}
