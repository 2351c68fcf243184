import Foundation
@testable import ModelFormat
import TensorIR
import TestSupport
import Testing

/// Tensors of checkpoints, some rows at a time.
@Suite struct CheckpointRowsTests {
  private static func tensor(_ element: ElementType) throws -> HostTensor {
    var random = Random(seed: 8)
    let numbers = random.tensor([50, 6], spread: 100)
    switch element {
    case .f32: return numbers
    case .f64: return HostTensor(numbers.doubles.map { $0 / 3 }, shape: [50, 6])
    case .i64: return HostTensor(numbers.integers, shape: [50, 6])
    case .bf16: return try numbers.asBFloat16()
    default:
      let bits = numbers.floats.map(Rounding.halfBits)
      return try HostTensor(element: .f16, shape: [50, 6], bytes: bits.withUnsafeBytes { [UInt8]($0) })
    }
  }

  /// A file whose tensor begins at an odd address, or at an even one.
  @Test(arguments: [ElementType.f32, .f16, .bf16, .f64, .i64], [0, 1])
  func anyRowsAreThoseOfTheTensorInFP32(element: ElementType, before: Int) throws {
    try withTemporaryFolder { folder in
      let tensor = try Self.tensor(element)
      let path = folder.appendingPathComponent("w.safetensors").path
      var header = """
        {"t":{"dtype":"\(SafetensorsType(element).rawValue)","shape":[50,6],"data_offsets":[0,\(tensor.bytes.count)]}}
        """
      header += String(repeating: " ", count: (8 - header.utf8.count % 8) % 8 + before)
      let bytes =
        withUnsafeBytes(of: UInt64(header.utf8.count).littleEndian, Array.init) + Array(header.utf8) + tensor.bytes
      try bytes.withUnsafeBytes { try Data($0).write(to: folder.appendingPathComponent("w.safetensors")) }
      let weights = try CheckpointWeights(checkpoint: Checkpoint([SafetensorsFile(path: path)]))
      let expected = HostTensor(tensor.floats, shape: [50, 6]).bytes
      let rows = try weights.rows(of: "t")
      #expect(rows.element == .f32 && rows.shape == [50, 6])
      for window in [1, 7, 50] {
        var joined: [UInt8] = []
        for part in rows.windows(ofBytes: window * 24) { try rows.withRows(part) { joined += $0 } }
        #expect(joined == expected)
      }
      #expect(try weights.withWeight("t") { [UInt8]($2) } == expected)
    }
  }
}
