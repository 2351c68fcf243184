/// The weights of a module: those that `base` has, and those that follow from others by their formulas.
///
/// A derived weight is computed when it is asked for, and kept no longer than its reader wants it; what it follows from is
/// read in place. The module must be verified.
public struct DerivedWeights: WeightProvider {
  /// What fp32 formulas are rounded to.
  public enum Precision: Sendable {
    /// To fp32, as artifacts hold them.
    case stored
    /// To nothing: what is declared f32 or f64 is given as f64, and other such formulas read it so. Formulas of narrower
    /// types, quantized ones among them, give what they give under `stored`.
    case wide
  }

  /// The module whose formulas are followed.
  public let module: Module
  /// The bytes of weights without a formula.
  public let base: any WeightProvider
  /// How fp32 weights are given.
  public let precision: Precision

  /// The weights of a verified module.
  public init(_ module: Module, base: any WeightProvider, precision: Precision = .stored) {
    self.module = module
    self.base = base
    self.precision = precision
  }

  /// The bytes of a weight, valid during `body` only. Throws where there is no weight of this name, where a source is
  /// not of the type that it is declared with, and where numbers do not fit a quantized form.
  public func withWeight<R>(
    _ name: String, _ body: (ElementType, [Int], UnsafeRawBufferPointer) throws -> R
  ) throws -> R {
    guard let id = module.weight(named: name), let formula = module[id].formula else {
      return try base.withWeight(name, body)
    }
    let type = module[id].type
    let shape = type.shape.map { $0.extent ?? 0 }
    let isWide = precision == .wide && type.element.isWide
    let element = isWide ? .f64 : type.element
    let provider = isWide ? self : DerivedWeights(module, base: base)
    var bytes = [UInt8]()
    do {
      bytes = try provider.withSources(formula.sources[...], []) { sources in
        try formula.evaluate(TensorType(type.shape, element), from: sources)
      }
    } catch let error as OperationError {
      throw OperationError("@\(TextName.quoted(name)) = \(formula.text): \(error)")
    }
    return try bytes.withUnsafeBytes { try body(element, shape, $0) }
  }

  /// Calls `body` with the elements of all these weights, after those of `open`.
  private func withSources<R>(
    _ names: ArraySlice<String>, _ open: [WeightView], _ body: ([WeightView]) throws -> R
  ) throws -> R {
    guard let name = names.first else { return try body(open) }
    guard let id = module.weight(named: name) else { throw OperationError("no weight is called \"\(name)\"") }
    let declared = module[id].type
    return try withWeight(name) { element, shape, bytes in
      let view = WeightView(element: element, shape: shape, bytes: bytes)
      let isGiven = element == declared.element || (precision == .wide && declared.element.isWide && element == .f64)
      guard isGiven, declared.shape == shape.map({ .fixed($0) }), bytes.count == view.count * element.byteCount else {
        throw OperationError("@\(name) is declared as \(declared), found \(shape) of \(element.rawValue)")
      }
      return try withSources(names.dropFirst(), open + [view], body)
    }
  }
}

extension ElementType {
  /// Whether weights of this type are given in fp64 where precision is wide.
  fileprivate var isWide: Bool { self == .f32 || self == .f64 }
}

/// The elements of a floating-point source.
private struct WeightView {
  let element: ElementType
  let shape: [Int]
  let bytes: UnsafeRawBufferPointer

  var count: Int { shape.reduce(1, *) }
  var rows: Int { shape[0] }
  /// Of a vector 1.
  var width: Int { shape.count > 1 ? shape[1] : 1 }

  func float(_ index: Int) -> Float {
    switch element {
    case .f32: bytes.loadUnaligned(fromByteOffset: index * 4, as: Float.self)
    case .bf16: Float(bfloat16Bits: bytes.loadUnaligned(fromByteOffset: index * 2, as: UInt16.self))
    case .f16: Float(halfBits: bytes.loadUnaligned(fromByteOffset: index * 2, as: UInt16.self))
    default: Float(double(index))
    }
  }

  func double(_ index: Int) -> Double {
    element == .f64 ? bytes.loadUnaligned(fromByteOffset: index * 8, as: Double.self) : Double(float(index))
  }
}

extension WeightFormula {
  /// The bytes of a weight of this type. The types fit; `verify` has seen to that.
  fileprivate func evaluate(_ type: TensorType, from sources: [WeightView]) throws -> [UInt8] {
    let source = sources[0]
    let shape = type.shape.map { $0.extent ?? 0 }
    let (rows, width) = (shape[0], shape.count > 1 ? shape[1] : 1)
    switch self {
    case .convert:
      return elements(type) { source.double($0) }
    case .slice(_, let axis, let first):
      let (firstRow, firstColumn) = axis == .rows ? (first, 0) : (0, first)
      return elements(type) { source.double((firstRow + $0 / width) * source.width + firstColumn + $0 % width) }
    case .scale(_, let factor):
      return elements(type) { source.double($0) * factor }
    case .scaleAxis(_, _, let axis):
      let factors = sources[1]
      return elements(type) { source.double($0) * factors.double(axis == .rows ? $0 / width : $0 % width) }
    case .scaleRanges(_, let axis, let widths, let factors):
      let factors = zip(widths, factors).flatMap { [Double](repeating: $1, count: $0) }
      return elements(type) { source.double($0) * factors[axis == .rows ? $0 / width : $0 % width] }
    case .product(_, _, let bias, let orientation):
      let matrix = sources[1]
      let (step, stride) = orientation == .inOut ? (matrix.width, 1) : (1, matrix.width)
      return elements(type) { output in
        var sum = 0.0
        for input in 0..<source.count { sum += source.double(input) * matrix.double(input * step + output * stride) }
        return sum + (bias == nil ? 0 : sources[2].double(output))
      }
    case .codes(_, let channels):
      let scales = channels.scales(of: source, for: type.element)
      return Self.bytes(rows * width, of: 1) { index, bytes in
        let scale = scales[channels == .rows ? index / width : index % width]
        bytes.store(RowQuantization.code(source.float(index), scale: scale, for: type.element), type.element)
      }
    case .scales(_, let channels, let element):
      let scales = channels.scales(of: source, for: element)
      return elements(type) { Double(scales[$0]) }
    case .quantizedRows(_, let format):
      var bytes = [UInt8](repeating: 0, count: rows * width)
      for row in 0..<rows {
        let elements = (0..<source.width).map { source.float(row * source.width + $0) }
        do {
          try bytes.withUnsafeMutableBytes {
            try format.encode(elements, into: .init(rebasing: $0[row * width..<(row + 1) * width]))
          }
        } catch {
          throw OperationError("row \(row): \(error)")
        }
      }
      return bytes
    }
  }

  /// The bytes of numbers of this type, each rounded once.
  private func elements(_ type: TensorType, _ element: (Int) -> Double) -> [UInt8] {
    Self.bytes(type.fixedElementCount ?? 0, of: type.element.byteCount) { $1.store(element($0), type.element) }
  }

  /// Elements of this size, each written where it stands.
  private static func bytes(
    _ count: Int, of size: Int, _ write: (Int, UnsafeMutableRawPointer) -> Void
  ) -> [UInt8] {
    [UInt8](unsafeUninitializedCapacity: count * size) { buffer, initialized in
      if let base = UnsafeMutableRawPointer(buffer.baseAddress) {
        for index in 0..<count { write(index, base + index * size) }
      }
      initialized = count * size
    }
  }
}

extension WeightFormula.Axis {
  /// The scale of every row or column.
  fileprivate func scales(of source: WeightView, for element: ElementType) -> [Float] {
    var magnitudes = [Float](repeating: 0, count: self == .rows ? source.rows : source.width)
    for index in 0..<source.count {
      let channel = self == .rows ? index / source.width : index % source.width
      magnitudes[channel] = max(magnitudes[channel], source.float(index).magnitude)
    }
    return magnitudes.map { RowQuantization.scale(ofMagnitude: $0, for: element) }
  }
}

extension UnsafeMutableRawPointer {
  /// Writes the number as an element of this type, rounded as `Rounding` says.
  fileprivate func store(_ value: Double, _ element: ElementType) {
    switch element {
    case .f64: storeBytes(of: value, as: Double.self)
    case .f32: storeBytes(of: Float(value), as: Float.self)
    case .bf16: storeBytes(of: Rounding.bfloat16Bits(Float(roundedToOdd: value)), as: UInt16.self)
    case .f16: storeBytes(of: Rounding.halfBits(Float(roundedToOdd: value)), as: UInt16.self)
    default: preconditionFailure("formulas that compute give floating-point numbers")
    }
  }

  /// Writes a code, which is a number of this type exactly.
  fileprivate func store(_ code: Float, _ element: ElementType) {
    storeBytes(
      of: element == .i8 ? UInt8(bitPattern: Rounding.int8(code)) : Rounding.float8Bits(code), as: UInt8.self)
  }
}
