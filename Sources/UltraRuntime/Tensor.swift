import Artifact

/// A Swift type whose values lie in memory as the elements of a tensor do.
public protocol TensorScalar: BitwiseCopyable, Sendable {
  /// The element type with the same bytes, little-endian.
  static var element: Manifest.Element { get }
}

extension Double: TensorScalar {
  /// f64, the same bits.
  public static var element: Manifest.Element { .f64 }
}

extension Float: TensorScalar {
  /// f32, the same bits.
  public static var element: Manifest.Element { .f32 }
}

extension Int64: TensorScalar {
  /// i64, the same bits.
  public static var element: Manifest.Element { .i64 }
}

extension Int32: TensorScalar {
  /// i32, the same bits.
  public static var element: Manifest.Element { .i32 }
}

extension UInt8: TensorScalar {
  /// u8, the same bits.
  public static var element: Manifest.Element { .u8 }
}

/// A value that goes into a model or comes out of it: dense, row-major, little-endian.
public struct Tensor: Hashable, Sendable {
  /// The type that the bytes are read as.
  public let element: Manifest.Element
  /// Extents, outermost first, none negative.
  public let shape: [Int]
  /// As many as the shape and the element type make.
  public let bytes: [UInt8]

  /// Checks that the bytes are as many as the shape needs.
  public init(element: Manifest.Element, shape: [Int], bytes: [UInt8]) throws(RuntimeError) {
    guard shape.allSatisfy({ $0 >= 0 }), let count = Self.byteCount(element, shape), count == bytes.count else {
      throw RuntimeError(
        .invalidInput, "a tensor of shape \(shape) and type \(element.rawValue) cannot have \(bytes.count) bytes")
    }
    self.init(element: element, checkedShape: shape, bytes: bytes)
  }

  init(element: Manifest.Element, checkedShape: [Int], bytes: [UInt8]) {
    self.element = element
    self.shape = checkedShape
    self.bytes = bytes
  }

  /// A tensor of Swift values, one-dimensional where no shape is given.
  public init<Scalar: TensorScalar>(_ values: [Scalar], shape: [Int]? = nil) throws(RuntimeError) {
    let bytes = values.withUnsafeBytes { Array($0) }
    try self.init(element: Scalar.element, shape: shape ?? [values.count], bytes: bytes)
  }

  /// Number of elements.
  public var count: Int { bytes.count / element.byteCount }

  /// The elements as Swift values; an error where they are of another type.
  public func values<Scalar: TensorScalar>(as: Scalar.Type) throws(RuntimeError) -> [Scalar] {
    guard Scalar.element == element else {
      throw RuntimeError(.invalidInput, "the tensor holds \(element.rawValue), not \(Scalar.element.rawValue)")
    }
    return bytes.withUnsafeBytes { raw in
      (0..<count).map { raw.loadUnaligned(fromByteOffset: $0 * MemoryLayout<Scalar>.size, as: Scalar.self) }
    }
  }

  /// Bytes of a tensor; nil where they are too many for a number.
  static func byteCount(_ element: Manifest.Element, _ shape: [Int]) -> Int? {
    var count = element.byteCount
    for extent in shape {
      let (product, overflow) = count.multipliedReportingOverflow(by: extent)
      if overflow { return nil }
      count = product
    }
    return count
  }
}
