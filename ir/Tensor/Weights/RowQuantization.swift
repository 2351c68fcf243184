/// A quantized form of the rows of an embedding table, in FBGEMM's layouts: the codes of a row, then its scale and its
/// bias, little-endian. An element is `code * scale + bias`.
public enum TableFormat: String, Hashable, Sendable, CaseIterable {
  /// A byte a column, fp32 scale and bias.
  case int8
  /// Half a byte a column, the even one in the lower half; fp16 scale and bias.
  case int4

  /// Bytes of a row of this many columns.
  public func byteCount(width: Int) -> Int {
    switch self {
    case .int8: width + 8
    case .int4: width / 2 + width % 2 + 4
    }
  }

  /// Writes the row into `bytes`, which has exactly its bytes. Throws where an element is not finite, or where scale and
  /// bias are beyond what the format holds.
  public func encode(_ row: [Float], into bytes: UnsafeMutableRawBufferPointer) throws(OperationError) {
    let result = row.withUnsafeBufferPointer { row in
      Result { () throws(OperationError) in try encode(row, into: bytes) }
    }
    try result.get()
  }

  /// The same of a row that lies somewhere in memory.
  public func encode(
    _ row: UnsafeBufferPointer<Float>, into bytes: UnsafeMutableRawBufferPointer
  ) throws(OperationError) {
    try require(bytes.count == byteCount(width: row.count), "a row of \(row.count) does not take \(bytes.count) bytes")
    let range = RowRange(row)
    try require(range.isFinite, "an element is not finite")
    let (least, most) = (range.least, range.most)
    switch self {
    case .int8:
      let range = most - least
      let scale = range / 255
      try require(scale.isFinite, "elements from \(least) to \(most) are too far apart")
      // As FBGEMM has it: not the reciprocal of the scale, and never a division by 0.
      RowCodes(least: least, inverse: 255 / (range + 1e-8), largest: 255).write(row, to: bytes)
      bytes.storeBytes(of: scale.bitPattern.littleEndian, toByteOffset: row.count, as: UInt32.self)
      bytes.storeBytes(of: least.bitPattern.littleEndian, toByteOffset: row.count + 4, as: UInt32.self)
    case .int4:
      let biasBits = Rounding.halfBits(least)
      let bias = Float(halfBits: biasBits)
      let range = most - bias
      var scaleBits = range == 0 ? 0x3C00 : Rounding.halfBits(range / 15)
      // Scales that a half cannot hold apart from 0 become 1, and the row one number.
      if Float(halfBits: scaleBits) == 0 || !(1 / Float(halfBits: scaleBits)).isFinite { scaleBits = 0x3C00 }
      let scale = Float(halfBits: scaleBits)
      try require(
        bias.isFinite && scale.isFinite, "elements from \(least) to \(most) are beyond what fp16 scale and bias hold")
      RowCodes(least: bias, inverse: 1 / scale, largest: 15).writePairs(row, to: bytes)
      let end = (row.count + 1) / 2
      bytes.storeBytes(of: scaleBits.littleEndian, toByteOffset: end, as: UInt16.self)
      bytes.storeBytes(of: biasBits.littleEndian, toByteOffset: end + 2, as: UInt16.self)
    }
  }

  /// The elements of a row of `width` columns: the product and the sum each rounded to fp32. `bytes` has exactly the row's.
  public func decode(_ bytes: ArraySlice<UInt8>, width: Int) -> [Float] {
    let byte = { bytes[bytes.startIndex + $0] }
    let (scale, bias) = scaleAndBias(width: width, byte)
    return (0..<width).map { Float(code($0, byte)) * scale + bias }
  }

  /// The scale and the bias of such a row; `bytes` has exactly the row's.
  public func scaleAndBias(_ bytes: UnsafeRawBufferPointer) -> (scale: Float, bias: Float) {
    // Two columns of int4 share a byte: any of the widths that the row's bytes can have gives the same places.
    let width = self == .int8 ? bytes.count - byteCount(width: 0) : 2 * (bytes.count - byteCount(width: 0))
    return scaleAndBias(width: width) { bytes[$0] }
  }

  /// One element of such a row, whose bytes `byte` gives by their place in it.
  public func element(_ column: Int, width: Int, _ byte: (Int) -> UInt8) -> Float {
    let (scale, bias) = scaleAndBias(width: width, byte)
    return Float(code(column, byte)) * scale + bias
  }

  private func code(_ column: Int, _ byte: (Int) -> UInt8) -> UInt8 {
    switch self {
    case .int8: byte(column)
    case .int4: byte(column / 2) >> UInt8(4 * (column % 2)) & 15
    }
  }

  private func scaleAndBias(width: Int, _ byte: (Int) -> UInt8) -> (scale: Float, bias: Float) {
    func integer(at offset: Int, bytes count: Int) -> UInt32 {
      (0..<count).reduce(0) { $0 | UInt32(byte(offset + $1)) << UInt32(8 * $1) }
    }
    switch self {
    case .int8:
      return (Float(bitPattern: integer(at: width, bytes: 4)), Float(bitPattern: integer(at: width + 4, bytes: 4)))
    case .int4:
      let end = (width + 1) / 2
      return (
        Float(halfBits: UInt16(integer(at: end, bytes: 2))), Float(halfBits: UInt16(integer(at: end + 2, bytes: 2)))
      )
    }
  }
}

/// Quantization of a row of numbers to codes with one scale, all in fp32: activations one scale a row, weights one an
/// output channel.
public enum RowQuantization {
  /// The largest magnitude over the largest code; 1 where that is 0.
  public static func scale(ofMagnitude magnitude: Float, for element: ElementType) -> Float {
    let scale = magnitude / (element == .i8 ? Rounding.largestInt8 : Rounding.largestFloat8)
    return scale == 0 ? 1 : scale
  }

  /// The number that the code of `value` stands for, before it is multiplied by the scale again: `value / scale`, a true
  /// division, rounded to the code nearest within range.
  public static func code(_ value: Float, scale: Float, for element: ElementType) -> Float {
    Float(element.rounded(Double(value / scale)))
  }

  /// The same code as it is stored, in a byte.
  static func byte(_ value: Float, scale: Float, for element: ElementType) -> UInt8 {
    let code = code(value, scale: scale, for: element)
    return element == .i8 ? UInt8(bitPattern: Rounding.int8(code)) : Rounding.float8Bits(code)
  }

  /// The codes of a row and its scale.
  public static func quantize(_ row: some Collection<Float>, to element: ElementType) -> (codes: [Float], scale: Float)
  {
    let scale = scale(ofMagnitude: row.reduce(0) { max($0, $1.magnitude) }, for: element)
    return (row.map { code($0, scale: scale, for: element) }, scale)
  }
}

extension ElementType {
  /// Whether elements are codes that row quantization gives, which mean something together with their scale.
  public var isCode: Bool { self == .f8e4m3 || self == .i8 }
}
