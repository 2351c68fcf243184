import TensorIR
import TileIR

/// Turns a weight's elements into the bytes that the artifact stores.
public struct WeightPacking {
  /// Writes the packed weight piece by piece, so that no more than a panel is held in memory.
  ///
  /// - Parameters:
  ///   - rows: of the weight as the model stores it.
  ///   - elements: `rows * columns` elements of the type, row-major, at any alignment.
  ///   - write: takes the next bytes; they are valid during the call only.
  public static func write(
    _ packing: Packing, _ element: ElementType, rows: Int, columns: Int, elements: UnsafeRawBufferPointer,
    to write: (UnsafeRawBufferPointer) throws -> Void
  ) throws {
    switch element.byteCount {
    case 1: try pack(packing, element, rows, columns, elements, of: UInt8.self, to: write)
    case 2: try pack(packing, element, rows, columns, elements, of: UInt16.self, to: write)
    case 4: try pack(packing, element, rows, columns, elements, of: UInt32.self, to: write)
    default: try pack(packing, element, rows, columns, elements, of: UInt64.self, to: write)
    }
  }

  /// Panels of coded rows, their scales and biases in fp32.
  private static func packRows(
    _ format: TableFormat, _ width: Int, _ rows: Int, _ columns: Int, _ elements: UnsafeRawBufferPointer,
    to write: (UnsafeRawBufferPointer) throws -> Void
  ) throws {
    let codes = format.codeByteCount(ofRow: columns)
    var panel = [UInt8](repeating: 0, count: width * format.panelRowBytes(ofRow: columns))
    for first in stride(from: 0, to: rows, by: width) {
      try panel.withUnsafeMutableBytes { panel in
        for lane in 0..<width {
          let row = first + lane
          let isThere = row < rows
          let bytes = UnsafeRawBufferPointer(
            rebasing: elements[(isThere ? row * columns : 0)..<elements.count].prefix(columns))
          let (scale, bias) = isThere ? format.scaleAndBias(bytes) : (0, 0)
          panel.storeBytes(of: scale.bitPattern.littleEndian, toByteOffset: 4 * lane, as: UInt32.self)
          panel.storeBytes(of: bias.bitPattern.littleEndian, toByteOffset: 4 * (width + lane), as: UInt32.self)
          for code in 0..<codes { panel[8 * width + code * width + lane] = isThere ? bytes[code] : 0 }
        }
      }
      try panel.withUnsafeBytes { try write($0) }
    }
  }

  private static func pack<Bits: FixedWidthInteger & BitwiseCopyable>(
    _ packing: Packing, _ element: ElementType, _ rows: Int, _ columns: Int, _ elements: UnsafeRawBufferPointer,
    of type: Bits.Type, to write: (UnsafeRawBufferPointer) throws -> Void
  ) throws {
    func bits(_ index: Int) -> Bits {
      elements.loadUnaligned(fromByteOffset: index * MemoryLayout<Bits>.size, as: Bits.self)
    }
    switch packing {
    case .plain, .coded: try write(elements)
    case .codedPanels(let format, let width): try packRows(format, width, rows, columns, elements, to: write)
    case .reversed:
      let reversed = (0..<rows * columns).map { bits(rows * columns - 1 - $0) }
      try reversed.withUnsafeBytes { try write($0) }
    case .fragments(let transposed):
      let (inner, outer) = transposed ? (columns, rows) : (rows, columns)
      let (width, height) = (Packing.fragmentColumns, Packing.fragmentRows)
      var panel = [Bits](repeating: 0, count: Packing.paddedFragmentRows(inner) * width)
      for first in stride(from: 0, to: outer, by: width) {
        for number in panel.indices {
          // Within a step, from the last: the one of a pair, its row, its column, place, group and half.
          let (step, place) = number.quotientAndRemainder(dividingBy: height * width)
          let row = step * height + place % 2 + place / 2 % 2 * 8 + place / 8 % 4 * 2
          let column = first + place / 4 % 2 + place / 32 % 8 * 4 + place / 256 * 2
          let isThere = row < inner && column < outer
          panel[number] = isThere ? bits(transposed ? column * columns + row : row * columns + column) : 0
        }
        try panel.withUnsafeBytes { try write($0) }
      }
    case .matrices(let transposed):
      let (inner, outer) = transposed ? (columns, rows) : (rows, columns)
      let (width, height) = (Packing.matrixColumns, Packing.fragmentRows)
      var panel = [Bits](repeating: 0, count: Packing.paddedFragmentRows(inner) * width)
      for first in stride(from: 0, to: outer, by: width) {
        for number in panel.indices {
          // Within a step, from the last: row, column, half, tile and group.
          let (step, place) = number.quotientAndRemainder(dividingBy: height * width)
          let row = step * height + place % 8 + place / 64 % 2 * 8
          let column = first + place / 8 % 2 + place / 16 % 4 * 8 + place / 128 % 4 * 2 + place / 512 * 32
          let isThere = row < inner && column < outer
          panel[number] = isThere ? bits(transposed ? column * columns + row : row * columns + column) : 0
        }
        try panel.withUnsafeBytes { try write($0) }
      }
    case .panels(let width, let transposed):
      let (inner, outer) = transposed ? (columns, rows) : (rows, columns)
      let together = element.contractedTogether
      var panel = [Bits](repeating: 0, count: element.paddedContraction(inner) * width)
      for first in stride(from: 0, to: outer, by: width) {
        for step in 0..<inner {
          let (group, place) = step.quotientAndRemainder(dividingBy: together)
          for lane in 0..<width {
            let column = first + lane
            panel[(group * width + lane) * together + place] =
              column < outer ? bits(transposed ? column * columns + step : step * columns + column) : 0
          }
        }
        try panel.withUnsafeBytes { try write($0) }
        if element == .i8 {
          let corrections = (0..<width).map { lane in
            let codes = (0..<inner).map { Int32(Int8(truncatingIfNeeded: panel[($0 / 4 * width + lane) * 4 + $0 % 4])) }
            return -128 * codes.reduce(0, +)
          }
          try corrections.withUnsafeBytes { try write($0) }
        }
      }
    }
  }
}
