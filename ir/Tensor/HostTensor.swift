/// A tensor with its bytes, in row-major order and little-endian: inputs, outputs, and weights in memory.
public struct HostTensor: Hashable, Sendable {
  /// The type that the bytes are read as.
  public var element: ElementType
  /// Extents, outermost first; none for a single number.
  public var shape: [Int]
  /// Exactly `count * element.byteCount` bytes.
  public var bytes: [UInt8]

  /// Throws where the byte count is not that of the shape.
  public init(element: ElementType, shape: [Int], bytes: [UInt8]) throws(OperationError) {
    var expected = element.byteCount
    for extent in shape {
      let (product, overflow) = expected.multipliedReportingOverflow(by: extent)
      try require(extent >= 0 && !overflow, "shape \(shape) has no size")
      expected = product
    }
    try require(
      bytes.count == expected, "shape \(shape) of \(element.rawValue) takes \(expected) bytes, found \(bytes.count)")
    self.element = element
    self.shape = shape
    self.bytes = bytes
  }

  /// Number of elements: the product of the extents.
  public var count: Int { bytes.count / element.byteCount }

  private init(_ element: ElementType, _ shape: [Int], raw: UnsafeRawBufferPointer) {
    self.element = element
    self.shape = shape
    self.bytes = [UInt8](raw)
  }

  /// fp32 numbers in row-major order; without `shape` a vector. The extents must multiply to their number, unchecked.
  public init(_ values: [Float], shape: [Int]? = nil) {
    self = values.withUnsafeBytes { HostTensor(.f32, shape ?? [values.count], raw: $0) }
  }

  /// fp64 numbers in row-major order; without `shape` a vector. The extents must multiply to their number, unchecked.
  public init(_ values: [Double], shape: [Int]? = nil) {
    self = values.withUnsafeBytes { HostTensor(.f64, shape ?? [values.count], raw: $0) }
  }

  /// int64 numbers in row-major order; without `shape` a vector. The extents must multiply to their number, unchecked.
  public init(_ values: [Int64], shape: [Int]? = nil) {
    self = values.withUnsafeBytes { HostTensor(.i64, shape ?? [values.count], raw: $0) }
  }

  /// The elements read as `type`, whose size must be the element's.
  private func elements<T: BitwiseCopyable>(as type: T.Type) -> [T] {
    bytes.withUnsafeBytes { raw in
      (0..<count).map { raw.loadUnaligned(fromByteOffset: $0 * MemoryLayout<T>.size, as: T.self) }
    }
  }

  /// The elements as fp64, whatever they are stored as.
  public var doubles: [Double] {
    switch element {
    case .f64: elements(as: Double.self)
    case .f32: elements(as: Float.self).map(Double.init)
    case .f16: elements(as: UInt16.self).map { Double(Float(halfBits: $0)) }
    case .bf16: elements(as: UInt16.self).map { Double(Float(bfloat16Bits: $0)) }
    case .f8e4m3: bytes.map { Double(Float(float8Bits: $0)) }
    case .i64, .i32, .i8, .u8, .bool: integers.map(Double.init)
    }
  }

  /// The elements as fp32; fp64 and integers are rounded to nearest even.
  public var floats: [Float] {
    element == .f32 ? elements(as: Float.self) : doubles.map { Float($0) }
  }

  /// The elements of an integer tensor; of a floating-point one, its numbers truncated toward zero, 0 where they do not fit.
  public var integers: [Int64] {
    switch element {
    case .i64: elements(as: Int64.self)
    case .i32: elements(as: Int32.self).map(Int64.init)
    case .i8: bytes.map { Int64(Int8(bitPattern: $0)) }
    case .u8, .bool: bytes.map(Int64.init)
    case .f64, .f32, .f16, .bf16, .f8e4m3: doubles.map { Int64(exactly: $0.rounded(.towardZero)) ?? 0 }
    }
  }
}
