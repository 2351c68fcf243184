import TensorIR
import TileIR

/// Turns a weight's fp32 elements into the bytes that the artifact stores.
public struct WeightPacking {
  /// Writes the packed weight piece by piece, so that no more than a panel is held in memory.
  ///
  /// - Parameters:
  ///   - rows: of the weight as the model stores it.
  ///   - elements: `rows * columns` fp32 numbers, row-major, at any alignment.
  ///   - write: takes the next bytes; they are valid during the call only.
  public static func write(
    _ packing: Packing, rows: Int, columns: Int, elements: UnsafeRawBufferPointer,
    to write: (UnsafeRawBufferPointer) throws -> Void
  ) throws {
    func element(_ index: Int) -> UInt32 { elements.loadUnaligned(fromByteOffset: index * 4, as: UInt32.self) }
    switch packing {
    case .plain: try write(elements)
    case .reversed:
      let reversed = (0..<rows * columns).map { element(rows * columns - 1 - $0) }
      try emit(reversed, to: write)
    case .panels(let width, let transposed):
      let (inner, outer) = transposed ? (columns, rows) : (rows, columns)
      var panel = [UInt32](repeating: 0, count: inner * width)
      for first in stride(from: 0, to: outer, by: width) {
        for step in 0..<inner {
          for lane in 0..<width {
            let column = first + lane
            panel[step * width + lane] =
              column < outer ? element(transposed ? column * columns + step : step * columns + column) : 0
          }
        }
        try emit(panel, to: write)
      }
    }
  }

  private static func emit(
    _ words: [UInt32], to write: (UnsafeRawBufferPointer) throws -> Void
  ) throws {
    try words.withUnsafeBytes { bytes in try write(bytes) }
  }
}
