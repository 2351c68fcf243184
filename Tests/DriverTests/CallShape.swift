import Artifact
import TensorIR
import Testing

/// What a call of an entry hands over besides memory, as an artifact's manifest says.
struct CallShape {
  let port: Manifest.Entry
  /// The entry's place among the file's.
  let number: Int
  /// Extents of the entry's dimensions.
  let dimensions: [Int64]
  /// In the entry's order.
  let inputs: [HostTensor]
  /// Elements that each output may take.
  let rooms: [Int]

  init(_ manifest: Manifest, _ tensors: [String: HostTensor], entry: String = "forward") throws {
    number = try #require(manifest.entries.firstIndex { $0.name == entry })
    let port = manifest.entries[number]
    inputs = try port.inputs.map { try #require(tensors[$0.name], "\($0.name)") }
    var extents: [String: Int] = [:]
    for (input, tensor) in zip(port.inputs, inputs) {
      switch input.type {
      case .offsets(.symbol(let sequences), let rows):
        extents[sequences] = tensor.count - 1
        // No other input may have these rows.
        if case .symbol(let name) = rows, extents[name] == nil { extents[name] = tensor.integers.last.map { Int($0) } }
      case .tensor(_, let shape):
        if case .symbol(let name) = shape.first { extents[name] = tensor.shape[0] }
      case .offsets: break
      }
    }
    for dimension in manifest.dimensions {
      if let bound = dimension.atMost { extents[dimension.name] = bound.value { extents[$0] } }
    }
    func count(_ shape: [Manifest.Extent]) -> Int {
      shape.reduce(1) { product, extent in
        switch extent {
        case .fixed(let count): product * count
        case .symbol(let name): product * (extents[name] ?? 0)
        }
      }
    }
    self.port = port
    dimensions = port.dimensions.map { Int64(extents[$0] ?? 0) }
    rooms = port.outputs.map { output in
      switch output.type {
      case .tensor(_, let shape): count(shape)
      case .offsets(let sequences, _): count([sequences]) + 1
      }
    }
  }
}
