import TensorIR
import TileIR

/// Turns a weight's elements into the bytes that the artifact stores, a piece at a time, so that of a weight larger than
/// memory only some rows are held. Pieces follow one another in the artifact; each can be made by itself, by any thread.
public struct WeightPacking: Sendable {
  private let packing: Packing
  private let weight: WeightRows
  private let rows: Int
  private let columns: Int
  /// The rows, or where panels are of columns the columns, that each piece is made of.
  private let cuts: [Range<Int>]

  /// Bytes of a weight that a piece holds where panels run down all of its rows: more than of others, since all rows are read
  /// for each piece. Most such weights are one.
  static let columnPieceBytes = 16 << 20

  /// A weight to be packed.
  ///
  /// - Parameters:
  ///   - weight: `rows * columns` elements, a vector where one of them is 1. Throws where they are others.
  ///   - pieceBytes: about so many bytes of the weight make a piece; nil for what suits the packing.
  public init(
    _ packing: Packing, of weight: WeightRows, rows: Int, columns: Int, pieceBytes: Int? = nil
  ) throws(OperationError) {
    let found = weight.shape.reduce(1, *)
    guard found == rows * columns else {
      throw OperationError("found \(weight.shape), expected \(rows) x \(columns)")
    }
    self.packing = packing
    self.rows = rows
    self.columns = columns
    let unit: Int
    switch packing {
    case .plain, .coded, .reversed:
      // The rows that the weight has itself: a vector may be one row of a buffer.
      self.weight = weight
      unit = 1
    case .codedPanels(_, let width):
      self.weight = weight.reshaped([rows, columns])
      unit = width
    case .panels, .fragments, .matrices:
      self.weight = weight.reshaped([rows, columns])
      let (width, transposed) = packing.contractedPanels ?? (1, true)
      guard transposed else {
        let panelBytes = max(rows * width * weight.element.byteCount, 1)
        let step = max((pieceBytes ?? Self.columnPieceBytes) / panelBytes, 1) * width
        cuts = stride(from: 0, to: columns, by: step).map { $0..<min($0 + step, columns) }
        return
      }
      unit = width
    }
    let windows = self.weight.windows(ofBytes: pieceBytes ?? WeightRows.windowBytes, unit: unit)
    cuts = if case .reversed = packing { windows.reversed() } else { windows }
  }

  /// How many pieces there are.
  public var pieceCount: Int { cuts.count }

  /// The bytes of a piece. Throws where the weight cannot be read, or does not fit a quantized form.
  public func piece(_ number: Int) throws -> [UInt8] {
    let cut = cuts[number]
    switch packing {
    case .plain, .coded: return try weight.withRows(cut) { [UInt8]($0) }
    case .reversed: return try weight.withRows(cut) { reversed($0) }
    case .codedPanels(let format, let width):
      return try weight.withRows(cut) { codedPanels(format, width, cut.count, $0) }
    case .panels, .fragments, .matrices:
      let transposed = packing.contractedPanels?.transposed ?? true
      if transposed { return try weight.withRows(cut) { packed(cut.count, columns, $0) } }
      if cut.count == columns { return try weight.withRows(0..<rows) { packed(rows, columns, $0) } }
      return try columns(cut).withUnsafeBytes { packed(rows, cut.count, $0) }
    }
  }

  /// Makes all pieces in order and hands their bytes on; they are valid during the call only.
  public func write(to write: (UnsafeRawBufferPointer) throws -> Void) throws {
    for number in cuts.indices { try piece(number).withUnsafeBytes { try write($0) } }
  }

  /// Some columns of all rows.
  private func columns(_ columns: Range<Int>) throws -> [UInt8] {
    let size = weight.element.byteCount
    var result: [UInt8] = []
    result.reserveCapacity(rows * columns.count * size)
    for window in weight.windows() {
      try weight.withRows(window) { bytes in
        for row in 0..<window.count {
          let start = (row * self.columns + columns.lowerBound) * size
          result += bytes[start..<start + columns.count * size]
        }
      }
    }
    return result
  }

  private func reversed(_ elements: UnsafeRawBufferPointer) -> [UInt8] {
    let size = weight.element.byteCount
    let count = elements.count / size
    return Self.bytes(elements.count) { bytes in
      for index in 0..<count {
        for byte in 0..<size { bytes[index * size + byte] = elements[(count - 1 - index) * size + byte] }
      }
    }
  }

  /// Panels of coded rows, their scales and biases in fp32.
  private func codedPanels(
    _ format: TableFormat, _ width: Int, _ rows: Int, _ elements: UnsafeRawBufferPointer
  ) -> [UInt8] {
    let codes = format.codeByteCount(ofRow: columns)
    let panelBytes = width * format.panelRowBytes(ofRow: columns)
    return Self.bytes((rows + width - 1) / width * panelBytes) { bytes in
      for row in 0..<rows {
        let (number, lane) = row.quotientAndRemainder(dividingBy: width)
        let panel = UnsafeMutableRawBufferPointer(rebasing: bytes[number * panelBytes..<(number + 1) * panelBytes])
        let elements = UnsafeRawBufferPointer(rebasing: elements[row * columns..<(row + 1) * columns])
        let (scale, bias) = format.scaleAndBias(elements)
        panel.storeBytes(of: scale.bitPattern.littleEndian, toByteOffset: 4 * lane, as: UInt32.self)
        panel.storeBytes(of: bias.bitPattern.littleEndian, toByteOffset: 4 * (width + lane), as: UInt32.self)
        for code in 0..<codes { panel[8 * width + code * width + lane] = elements[code] }
      }
    }
  }

  // MARK: - Panels of contractions

  /// A part of the weight, whole panels of it, as the packing has them; its elements are row-major.
  private func packed(_ rows: Int, _ columns: Int, _ elements: UnsafeRawBufferPointer) -> [UInt8] {
    let element = weight.element
    return Self.bytes(packing.byteCount(rows: rows, columns: columns, element)) { bytes in
      switch element.byteCount {
      case 1: pack(Part<UInt8>(elements, rows, columns), to: bytes)
      case 2: pack(Part<UInt16>(elements, rows, columns), to: bytes)
      case 4: pack(Part<UInt32>(elements, rows, columns), to: bytes)
      default: pack(Part<UInt64>(elements, rows, columns), to: bytes)
      }
    }
  }

  /// Row-major elements of so many bytes.
  private struct Part<Bits: FixedWidthInteger & BitwiseCopyable> {
    let elements: UnsafeRawBufferPointer
    let rows: Int
    let columns: Int

    init(_ elements: UnsafeRawBufferPointer, _ rows: Int, _ columns: Int) {
      (self.elements, self.rows, self.columns) = (elements, rows, columns)
    }

    @inline(__always)
    subscript(row: Int, column: Int) -> Bits {
      elements.loadUnaligned(
        fromByteOffset: (row &* columns &+ column) &* MemoryLayout<Bits>.size, as: Bits.self)
    }
  }

  private func pack<Bits>(_ part: Part<Bits>, to bytes: UnsafeMutableRawBufferPointer) {
    switch packing {
    case .plain, .coded, .codedPanels, .reversed: break
    case .panels(let width, let transposed): packPanels(part, width, transposed, to: bytes)
    case .fragments(let transposed, let isFNUZ):
      packSteps(part, Self.fragmentPlaces, transposed, to: bytes)
      if isFNUZ { for index in bytes.indices { bytes[index] = Rounding.fnuzBits(ofHalf: bytes[index]) } }
    case .matrices(let transposed): packSteps(part, Self.matrixPlaces, transposed, to: bytes)
    }
  }

  /// Panels whose rows are grouped as one instruction contracts them.
  private func packPanels<Bits>(
    _ part: Part<Bits>, _ width: Int, _ transposed: Bool, to bytes: UnsafeMutableRawBufferPointer
  ) {
    let (inner, outer) = transposed ? (part.columns, part.rows) : (part.rows, part.columns)
    let element = weight.element
    let together = element.contractedTogether
    let panelBytes = width * element.panelColumnBytes(inner)
    for (number, first) in stride(from: 0, to: outer, by: width).enumerated() {
      let panel = UnsafeMutableRawBufferPointer(rebasing: bytes[number * panelBytes..<(number + 1) * panelBytes])
      let lanes = min(width, outer - first)
      func store(_ step: Int, _ lane: Int, _ bits: Bits) {
        let place = (step / together &* width &+ lane) &* together &+ step % together
        panel.storeBytes(of: bits, toByteOffset: place &* MemoryLayout<Bits>.size, as: Bits.self)
      }
      if transposed {
        for lane in 0..<lanes { for step in 0..<inner { store(step, lane, part[first + lane, step]) } }
      } else {
        for step in 0..<inner { for lane in 0..<lanes { store(step, lane, part[step, first + lane]) } }
      }
      if element == .i8 {
        let corrections = width * element.paddedContraction(inner)
        for lane in 0..<width {
          var sum: Int32 = 0
          for step in 0..<inner { sum += Int32(Int8(bitPattern: panel[(step / 4 * width + lane) * 4 + step % 4])) }
          panel.storeBytes(of: -128 * sum, toByteOffset: corrections + 4 * lane, as: Int32.self)
        }
      }
    }
  }

  /// Panels in steps of sixteen rows of two bytes, a number or two codes that follow each other; `places` says which row of a step and which
  /// column of a panel stand where.
  private func packSteps<Bits>(
    _ part: Part<Bits>, _ places: (width: Int, at: [(row: Int, column: Int)]), _ transposed: Bool,
    to bytes: UnsafeMutableRawBufferPointer
  ) {
    let (inner, outer) = transposed ? (part.columns, part.rows) : (part.rows, part.columns)
    let size = MemoryLayout<Bits>.size
    let together = max(2 / size, 1)
    var offset = 0
    for first in stride(from: 0, to: outer, by: places.width) {
      for step in stride(from: 0, to: inner, by: Packing.stepBytes / size) {
        for place in places.at {
          let column = first + place.column
          for row in step + place.row * together..<step + (place.row + 1) * together {
            if row < inner && column < outer {
              let bits = transposed ? part[column, row] : part[row, column]
              bytes.storeBytes(of: bits, toByteOffset: offset, as: Bits.self)
            }
            offset += size
          }
        }
      }
    }
  }

  /// Within a step, from the last: the one of a pair, its row, its column, place, group and half.
  private static let fragmentPlaces = (
    width: Packing.fragmentColumns,
    at: (0..<Packing.fragmentRows * Packing.fragmentColumns).map { place in
      (
        row: place % 2 + place / 2 % 2 * 8 + place / 8 % 4 * 2,
        column: place / 4 % 2 + place / 32 % 8 * 4 + place / 256 * 2
      )
    }
  )

  /// Within a step, from the last: row, column, half, tile and group.
  private static let matrixPlaces = (
    width: Packing.matrixColumns,
    at: (0..<Packing.fragmentRows * Packing.matrixColumns).map { place in
      (
        row: place % 8 + place / 64 % 2 * 8,
        column: place / 8 % 2 + place / 16 % 4 * 8 + place / 128 % 4 * 2 + place / 512 * 32
      )
    }
  )

  /// So many bytes, zeros where `write` leaves them.
  private static func bytes(_ count: Int, _ write: (UnsafeMutableRawBufferPointer) -> Void) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: count)
    bytes.withUnsafeMutableBytes { write($0) }
    return bytes
  }
}
