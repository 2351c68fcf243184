import Artifact
import CUltra
import TensorIR
import Testing

@testable import Driver
@testable import UltraRuntime

/// A call of a model's entry on an emulated GPU, and its memory: inputs, outputs and both workspaces, which hold NaN at first.
final class EmulatedCall {
  private typealias Memory = UnsafeMutableRawBufferPointer

  private let entry: Manifest.Entry
  /// The entry's code.
  let code: ultra_gpu_entry
  private let dimensions: [Int64]
  private let shapes: [[Int]]
  private let inputs: [(memory: Memory, tensor: ultra_tensor)]
  private let outputs: [(memory: Memory, tensor: ultra_tensor)]
  private let workspace: Memory
  private let hostWorkspace: Memory
  /// How much of each output the last call said it would write.
  private var counts: [Int]
  /// What the driver said of the last call.
  private(set) var failure = ultra_gpu_error()

  init(_ gpu: EmulatedGPU, entry name: String = Backend.entry, _ given: [String: HostTensor]) throws {
    let number = try #require(gpu.loaded.manifest.entries.firstIndex { $0.name == name })
    try #require(number < gpu.gpu.entry_count)
    (entry, code) = (gpu.loaded.manifest.entries[number], gpu.gpu.entries[number])
    try #require(String(cString: code.name) == name)
    let signature = EntrySignature(entry, gpu.loaded.manifest)
    let extents = try signature.extents(of: given.mapValues { try Tensor($0) }, given: [:])
    dimensions = extents.map(Int64.init)
    shapes = try signature.outputShapes(extents)
    counts = shapes.map { $0.reduce(1, *) }
    func memory(_ bytes: Int) -> Memory {
      let memory = Memory.allocate(byteCount: max(bytes, 1), alignment: 256)
      memory.initializeMemory(as: UInt8.self, repeating: 0xFF)
      return memory
    }
    func tensor(_ bytes: Int, _ element: Manifest.Element) -> (Memory, ultra_tensor) {
      let own = memory(bytes)
      return (own, ultra_tensor(data: own.baseAddress, count: Int64(bytes / max(element.byteCount, 1))))
    }
    inputs = entry.inputs.map { port in
      let bytes = given[port.name]?.bytes ?? []
      let own = tensor(bytes.count, port.type.element)
      own.0.copyBytes(from: bytes)
      return own
    }
    outputs = zip(entry.outputs, shapes).map { port, shape in
      tensor(shape.reduce(port.type.element.byteCount, *), port.type.element)
    }
    workspace = memory(Int(code.workspace_size(dimensions)))
    hostWorkspace = memory(code.host_workspace_size(dimensions, 1))
  }

  deinit {
    for block in inputs.map(\.memory) + outputs.map(\.memory) + [workspace, hostWorkspace] { block.deallocate() }
  }

  /// The host's memory that a call reads: its workspace and inputs of integers.
  var hostMemory: [Range<UInt>] {
    let integers = zip(entry.inputs, inputs).filter { $0.0.type.element.rawValue == ElementType.i64.rawValue }.map(
      \.1.memory)
    return ([hostWorkspace] + integers).map { block in
      let first = UInt(bitPattern: block.baseAddress)
      return first..<first + UInt(block.count)
    }
  }

  /// Other numbers for an input, as many as there are.
  func set(_ name: String, _ tensor: HostTensor) {
    for (port, input) in zip(entry.inputs, inputs) where port.name == name {
      input.memory.copyBytes(from: tensor.bytes)
    }
  }

  /// Fills the outputs with NaN.
  func clearResults() {
    for output in outputs { output.memory.initializeMemory(as: UInt8.self, repeating: 0xFF) }
  }

  /// Gives `body` the call's arguments.
  func with(
    state: UnsafeMutableRawPointer, stream: Int, _ body: (inout ultra_gpu_call) -> Int32
  ) -> Int32 {
    var refusal = ultra_error()
    failure = ultra_gpu_error()
    failure.struct_size = UInt32(MemoryLayout<ultra_gpu_error>.size)
    refusal.struct_size = UInt32(MemoryLayout<ultra_error>.size)
    var given = inputs.map(\.tensor)
    var wanted = outputs.map(\.tensor)
    var call = ultra_gpu_call()
    call.call.struct_size = UInt32(MemoryLayout<ultra_gpu_call>.size)
    (call.call.dimension_count, call.call.input_count) = (UInt32(dimensions.count), UInt32(given.count))
    call.call.output_count = UInt32(wanted.count)
    (call.call.workspace, call.call.workspace_size) = (hostWorkspace.baseAddress, hostWorkspace.count)
    (call.state, call.stream) = (UnsafeRawPointer(state), UnsafeMutableRawPointer(bitPattern: stream))
    call.workspace = UInt64(UInt(bitPattern: workspace.baseAddress))
    call.workspace_size = UInt64(workspace.count)
    defer { counts = wanted.map { Int($0.count) } }
    return dimensions.withUnsafeBufferPointer { dimensions in
      given.withUnsafeMutableBufferPointer { given in
        wanted.withUnsafeMutableBufferPointer { wanted in
          withUnsafeMutablePointer(to: &failure) { failure in
            withUnsafeMutablePointer(to: &refusal) { refusal in
              call.call.dimensions = dimensions.baseAddress
              (call.call.inputs, call.call.outputs) = (UnsafePointer(given.baseAddress), wanted.baseAddress)
              (call.error, call.call.error) = (failure, refusal)
              return body(&call)
            }
          }
        }
      }
    }
  }

  /// The results.
  func results() throws -> [(name: String, tensor: HostTensor)] {
    try entry.outputs.indices.map { index in
      let (port, memory) = (entry.outputs[index], outputs[index].memory)
      let bytes = Array(memory.prefix(counts[index] * port.type.element.byteCount))
      let rest = shapes[index].dropFirst()
      let shape = [counts[index] / max(rest.reduce(1, *), 1)] + rest
      return (
        port.name,
        try HostTensor(element: ElementType(rawValue: port.type.element.rawValue) ?? .f32, shape: shape, bytes: bytes)
      )
    }
  }
}
