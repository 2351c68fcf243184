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
  private let gpu: ultra_gpu
  private let emulator: GPUEmulator
  private let clusters: [String: Int]
  /// What went wrong in the last launch.
  private var fault: (any Error)?

  /// Compiles a module; `edit` changes the text of what the GPU runs.
  init(
    _ module: Module, _ weights: any WeightProvider, _ target: GPUTarget, edit: ((String) -> String)? = nil
  ) throws {
    var backend = CompiledProgram.backend(module, [.avx2], .less)
    backend.gpus = [target]
    backend.codeObjectLinker = GPUWaveTests.linker
    let part = try backend.generateGPU(module)
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
    let context = Context()
    let (kernels, launches) = try GPUCode(program: part.programs[0], target: target).emit(into: context)
    clusters = Dictionary(uniqueKeysWithValues: launches.map { ($0.symbol, $0.cluster) })
    let edited = try edit.map { try IRModule(parsing: $0(kernels.text), in: context) }
    emulator = try GPUEmulator(edited ?? kernels, lanes: target.lanes)
  }

  /// Calls `forward`, with memory full of NaN, and gives the results' largest shapes and their bytes.
  func run(_ inputs: [String: HostTensor], order: GPUEmulator.Order, arrival: GPUEmulator.Arrival) throws
    -> [HostTensor]
  {
    let driver = FakeDriver()
    FakeDriver.current = driver
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
    var (host, failure, refusal) = (FakeDriver.host, ultra_gpu_error(), ultra_error())
    failure.struct_size = UInt32(MemoryLayout<ultra_gpu_error>.size)
    refusal.struct_size = UInt32(MemoryLayout<ultra_error>.size)
    try #require(gpu.load(state, &host, 0, &failure) == 0)
    defer { _ = gpu.unload(state, nil) }

    let entry = loaded.manifest.entries[0]
    let signature = EntrySignature(entry, loaded.manifest)
    let extents = try signature.extents(of: inputs.mapValues { try Tensor($0) }, given: [:])
    let dimensions = extents.map(Int64.init)
    func memory(_ bytes: Int) -> UnsafeMutableRawBufferPointer {
      let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: max(bytes, 1), alignment: 256)
      memory.initializeMemory(as: UInt8.self, repeating: 0xFF)
      return memory
    }
    let arguments = entry.inputs.map { port -> (memory: UnsafeMutableRawBufferPointer, tensor: ultra_tensor) in
      let bytes = inputs[port.name]?.bytes ?? []
      let own = memory(bytes.count)
      own.copyBytes(from: bytes)
      let count = bytes.count / max(port.type.element.byteCount, 1)
      return (own, ultra_tensor(data: own.baseAddress, count: Int64(count)))
    }
    let shapes = try signature.outputShapes(extents)
    let results = zip(entry.outputs, shapes).map {
      port, shape -> (memory: UnsafeMutableRawBufferPointer, tensor: ultra_tensor) in
      let count = shape.reduce(1, *)
      let own = memory(count * port.type.element.byteCount)
      return (own, ultra_tensor(data: own.baseAddress, count: Int64(count)))
    }
    let own = memory(Int(gpu.entries[0].workspace_size(dimensions)))
    let hostMemory = memory(gpu.entries[0].host_workspace_size(dimensions, 1))
    defer { for block in arguments.map(\.memory) + results.map(\.memory) + [own, hostMemory] { block.deallocate() } }

    var given = arguments.map(\.tensor)
    var wanted = results.map(\.tensor)
    var call = ultra_gpu_call()
    call.call.struct_size = UInt32(MemoryLayout<ultra_gpu_call>.size)
    (call.call.dimension_count, call.call.input_count) = (UInt32(dimensions.count), UInt32(given.count))
    call.call.output_count = UInt32(wanted.count)
    (call.call.workspace, call.call.workspace_size) = (hostMemory.baseAddress, hostMemory.count)
    call.state = UnsafeRawPointer(state)
    call.workspace = UInt64(UInt(bitPattern: own.baseAddress))
    call.workspace_size = UInt64(own.count)
    let status = dimensions.withUnsafeBufferPointer { dimensions in
      given.withUnsafeMutableBufferPointer { given in
        wanted.withUnsafeMutableBufferPointer { wanted in
          withUnsafeMutablePointer(to: &failure) { failure in
            withUnsafeMutablePointer(to: &refusal) { refusal in
              call.call.dimensions = dimensions.baseAddress
              (call.call.inputs, call.call.outputs) = (UnsafePointer(given.baseAddress), wanted.baseAddress)
              (call.error, call.call.error) = (failure, refusal)
              return withUnsafePointer(to: &call) { gpu.entries[0].run($0) }
            }
          }
        }
      }
    }
    if let fault { throw fault }
    try #require(status == 0, "status \(status)")
    return try zip(zip(entry.outputs, shapes), results).map { port, result in
      let element = ElementType(rawValue: port.0.type.element.rawValue) ?? .f32
      return try HostTensor(
        element: element, shape: port.1, bytes: Array(result.memory.prefix(port.1.reduce(element.byteCount, *))))
    }
  }
}
