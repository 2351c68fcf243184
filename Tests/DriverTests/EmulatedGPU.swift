import CUltra
import Codegen
import Foundation
import GPUEmulator
import LLVMKit
import Passes
import TensorIR
import TestSupport
import Testing
import TileIR

@testable import Driver
@testable import UltraRuntime

/// A model compiled for a GPU, whose kernels run on the processor: launched by the artifact's own stubs, through a driver that emulates
/// them.
final class EmulatedGPU {
  let loaded: LoadedModel
  let gpu: ultra_gpu
  private let emulator: GPUEmulator
  private let clusters: [String: Int]
  private let parameterCounts: [String: Int]
  /// What warps have done together, all lanes at once.
  var warpOperations: Int { emulator.warpOperations }
  /// What went wrong in the last launch.
  private var fault: (any Error)?

  /// Compiles a module; `edit` changes the text of what the GPU runs. No machine code is made of that: the emulator takes what comes
  /// before.
  init(
    _ module: Module, _ weights: any WeightProvider, _ target: GPUTarget, edit: ((String) -> String)? = nil
  ) throws {
    var backend = CompiledProgram.backend(module, [.avx2], .none)
    backend.gpus = [target]
    let context = Context()
    let onCard = try backend.lowerForGPU(module, target: target)
    let (kernels, launches) = try GPUCode(onCard, target: target).emit(into: context)
    var part = GPUPart()
    let text = Array("emulated".utf8)
    part.images = [
      GPUImage(
        target: target, programs: onCard, ptx: target.vendor == .nvidia ? text : [],
        code: target.vendor == .nvidia ? nil : text, launches: launches)
    ]
    part.resources = [[:]]
    let programs = try backend.lower(module)
    loaded = try withTemporaryFolder { folder in
      let path = folder.appendingPathComponent("model.ultra").path
      let (generated, machine) = try backend.generate(programs, of: module, gpu: part, in: Context())
      _ = try backend.write(
        programs + part.programs, object: machine.emitObject(generated),
        weights: DerivedWeights(module, base: weights), to: path)
      return try LoadedModel(path: path)
    }
    gpu = try #require(ultra_gpu_for(loaded.table, target.rawValue)).pointee
    clusters = Dictionary(uniqueKeysWithValues: launches.joined().map { ($0.symbol, $0.cluster) })
    parameterCounts = Dictionary(uniqueKeysWithValues: launches.joined().map { ($0.symbol, $0.parameters.count) })
    let edited = try edit.map { try IRModule(parsing: $0(kernels.text), in: context) }
    emulator = try GPUEmulator(edited ?? kernels, lanes: target.lanes)
  }

  /// Calls an entry, with memory full of NaN, and gives the results.
  func run(
    entry: String = Backend.entry, _ inputs: [String: HostTensor], order: GPUEmulator.Order,
    arrival: GPUEmulator.Arrival
  ) throws -> [(name: String, tensor: HostTensor)] {
    try withState(order: order, arrival: arrival) { state, _ in
      let call = try EmulatedCall(self, entry: entry, inputs)
      let status = call.with(state: state, stream: 0) { withUnsafePointer(to: &$0) { call.code.run($0) } }
      if let fault { throw fault }
      try #require(status == 0, "status \(status)")
      return try call.results()
    }
  }

  /// Loads the model by a driver whose kernels run in the emulator; `body` is given the state.
  func withState<Result>(
    order: GPUEmulator.Order, arrival: GPUEmulator.Arrival,
    _ body: (UnsafeMutableRawPointer, FakeDriver) throws -> Result
  ) throws -> Result {
    let driver = FakeDriver()
    FakeDriver.current = driver
    driver.parameterCounts = parameterCounts
    driver.execute = { [self] kernel, blocks, threads, shared, parameters in
      do {
        let launch = GPUEmulator.Launch(
          kernel: kernel, blocks: blocks, threads: threads, sharedBytes: shared, cluster: clusters[kernel] ?? 1)
        try emulator.run(launch, parameters: parameters, order: order, arrival: arrival)
        return true
      } catch {
        fault = error
        return false
      }
    }
    let state = UnsafeMutableRawPointer.allocate(byteCount: Int(gpu.state_size), alignment: 8)
    defer { state.deallocate() }
    var (host, failure) = (FakeDriver.host, ultra_gpu_error())
    failure.struct_size = UInt32(MemoryLayout<ultra_gpu_error>.size)
    try #require(gpu.load(state, &host, 0, &failure) == 0)
    defer { _ = gpu.unload(state, nil) }
    return try body(state, driver)
  }
}
