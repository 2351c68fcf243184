import Artifact
import CUltra
import TensorIR
import Testing
import UltraRuntime

/// A call of an artifact's C table, by a caller that does as include/ultra.h says, with guards around every buffer.
///
/// Inputs are read-only memory. Every run checks that nothing outside outputs and workspace was written.
final class RawCall {
  /// What a call returned, and the error that it filled; the fields are `untouched` where it wrote none.
  struct Outcome: Equatable {
    var status: UInt32
    var argument: Int32 = -1
    var position: Int64 = 0
    var found: Int64 = 0
    var expected: Int64 = 0

    static let ok = Outcome(
      status: ULTRA_OK.rawValue, argument: untouched32, position: untouched, found: untouched, expected: untouched)
    static let untouched: Int64 = 0x5A5A_5A5A_5A5A_5A5A
    static let untouched32: Int32 = 0x5A5A_5A5A
  }

  let entry: ultra_entry
  let port: Manifest.Entry
  var dimensions: [Int64]
  var inputs: [ultra_tensor] = []
  /// Room; a run leaves it as it is.
  var outputs: [ultra_tensor] = []
  var workspaceSize: Int
  let workspace: GuardedMemory
  /// Elements of each output that the last run wrote.
  private(set) var written: [Int64] = []
  private let model: LoadedModel
  private let inputMemory: [GuardedMemory]
  private let outputMemory: [GuardedMemory]

  /// A call of `forward` with these inputs, for so many workers.
  init(_ model: LoadedModel, _ tensors: [String: HostTensor], workers: UInt32 = 1) throws {
    self.model = model
    entry = try #require(model.table.pointee.entries?.pointee)
    let shape = try CallShape(model.manifest, tensors)
    port = shape.port
    dimensions = shape.dimensions
    inputMemory = try shape.inputs.map { tensor in
      let memory = try GuardedMemory(tensor.bytes, alignment: tensor.element.byteCount)
      memory.protect()
      return memory
    }
    inputs = zip(inputMemory, shape.inputs).map { ultra_tensor(data: $0.address, count: Int64($1.count)) }
    let rooms = shape.rooms
    outputMemory = try zip(port.outputs, rooms).map { output, room in
      let size = output.type.element.byteCount
      return try GuardedMemory(byteCount: room * size, alignment: size)
    }
    outputs = zip(outputMemory, rooms).map { ultra_tensor(data: $0.address, count: Int64($1)) }
    let size = entry.workspace_size(dimensions, workers)
    workspaceSize = try #require(Int(exactly: size))
    workspace = try GuardedMemory(byteCount: workspaceSize, alignment: Int(ULTRA_WORKSPACE_ALIGNMENT))
  }

  /// Runs the call after a change to it, and puts everything that the caller owns back as it was.
  func run(
    sourceLocation: Testing.SourceLocation = #_sourceLocation, _ change: (inout ultra_call) -> Void = { _ in }
  ) -> Outcome {
    var outputs = self.outputs
    var error = ultra_error(
      struct_size: UInt32(MemoryLayout<ultra_error>.size), status: Outcome.untouched32,
      argument: Outcome.untouched32, reserved: 0, position: Outcome.untouched, found: Outcome.untouched,
      expected: Outcome.untouched)
    let status = withUnsafeMutablePointer(to: &error) { error in
      inputs.withUnsafeBufferPointer { inputs in
        outputs.withUnsafeMutableBufferPointer { outputs in
          dimensions.withUnsafeBufferPointer { dimensions in
            var call = ultra_call(
              struct_size: UInt32(MemoryLayout<ultra_call>.size), dimension_count: UInt32(dimensions.count),
              dimensions: dimensions.baseAddress, inputs: inputs.baseAddress, outputs: outputs.baseAddress,
              input_count: UInt32(inputs.count), output_count: UInt32(outputs.count), workspace: workspace.address,
              workspace_size: workspaceSize, parallel: nil, error: error)
            change(&call)
            return entry.run(&call)
          }
        }
      }
    }
    written = outputs.map(\.count)
    for (port, memory) in zip(port.outputs, outputMemory) where !memory.isIntact {
      Issue.record("bytes around output \"\(port.name)\" were written", sourceLocation: sourceLocation)
    }
    if !workspace.isIntact { Issue.record("bytes around the workspace were written", sourceLocation: sourceLocation) }
    if error.status != Outcome.untouched32, error.status != status {
      Issue.record("status \(status), but \(error.status) in the error", sourceLocation: sourceLocation)
    }
    return Outcome(
      status: UInt32(bitPattern: status), argument: error.argument, position: error.position, found: error.found,
      expected: error.expected)
  }

  /// Fills the outputs with a byte.
  func fillOutputs(_ byte: UInt8) { for memory in outputMemory { memory.fill(byte) } }

  /// The outputs' bytes, as far as the last run wrote them.
  func results() -> [[UInt8]] {
    zip(zip(outputMemory, port.outputs), written).map { pair, count in
      Array(pair.0.bytes.prefix(Int(count) * pair.1.type.element.byteCount))
    }
  }
}
