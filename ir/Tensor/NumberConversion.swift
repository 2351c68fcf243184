/// Conversion of many numbers at once, each as `Rounding` says, in loops that become vector instructions.
public enum NumberConversion {
  /// Writes the numbers of `source`, elements of one floating-point type at any alignment, as elements of another to
  /// `target`, which has room for exactly as many and is aligned to its own. Nothing is rounded twice.
  public static func convert(
    _ source: UnsafeRawBufferPointer, from: ElementType, to: ElementType, into target: UnsafeMutableRawBufferPointer
  ) {
    precondition(from.isFloatingPoint && to.isFloatingPoint, "only floating-point numbers are converted")
    precondition(source.count / from.byteCount == target.count / to.byteCount)
    switch (from, to) {
    case _ where from == to: target.copyMemory(from: source)
    case (.f32, .bf16): map(source, target) { Rounding.bfloat16Bits($0) }
    case (.f32, .f16): map(source, target) { Rounding.halfBits($0) }
    case (.bf16, .f32): map(source, target) { Float(bfloat16Bits: $0) }
    case (.f16, .f32): map(source, target) { Float(halfBits: $0) }
    case (.f64, .f32): map(source, target) { Float($0 as Double) }
    case (.f32, .f64): map(source, target) { Double($0 as Float) }
    default:
      // fp64 holds every number exactly.
      for index in 0..<target.count / to.byteCount { target.store(source.double(index, from), index, to) }
    }
  }

  @inline(__always)
  private static func map<Source: BitwiseCopyable, Target: BitwiseCopyable>(
    _ source: UnsafeRawBufferPointer, _ target: UnsafeMutableRawBufferPointer, _ convert: (Source) -> Target
  ) {
    let numbers = target.bindMemory(to: Target.self)
    guard let from = source.baseAddress, let to = numbers.baseAddress else { return }
    for index in 0..<numbers.count {
      to[index] = convert(from.loadUnaligned(fromByteOffset: index &* MemoryLayout<Source>.size, as: Source.self))
    }
  }
}

extension UnsafeRawBufferPointer {
  /// Element number `index` of so many of a floating-point type, exactly.
  @inline(__always)
  func double(_ index: Int, _ element: ElementType) -> Double {
    element == .f64 ? loadUnaligned(fromByteOffset: index * 8, as: Double.self) : Double(float(index, element))
  }

  /// Element number `index` of so many of a floating-point type, as fp32.
  @inline(__always)
  func float(_ index: Int, _ element: ElementType) -> Float {
    switch element {
    case .f32: loadUnaligned(fromByteOffset: index * 4, as: Float.self)
    case .bf16: Float(bfloat16Bits: loadUnaligned(fromByteOffset: index * 2, as: UInt16.self))
    case .f16: Float(halfBits: loadUnaligned(fromByteOffset: index * 2, as: UInt16.self))
    case .f64: Float(loadUnaligned(fromByteOffset: index * 8, as: Double.self))
    case .f8e4m3, .i64, .i32, .i8, .u8, .bool: preconditionFailure("formulas compute with floating-point numbers")
    }
  }
}

extension UnsafeMutableRawBufferPointer {
  /// Writes the number as element number `index` of so many of a floating-point type, rounded once as `Rounding` says.
  @inline(__always)
  func store(_ value: Double, _ index: Int, _ element: ElementType) {
    switch element {
    case .f64: storeBytes(of: value, toByteOffset: index * 8, as: Double.self)
    case .f32: storeBytes(of: Float(value), toByteOffset: index * 4, as: Float.self)
    case .bf16:
      storeBytes(
        of: Rounding.bfloat16Bits(Float(roundedToOdd: value)), toByteOffset: index * 2, as: UInt16.self)
    case .f16:
      storeBytes(of: Rounding.halfBits(Float(roundedToOdd: value)), toByteOffset: index * 2, as: UInt16.self)
    case .f8e4m3, .i64, .i32, .i8, .u8, .bool: preconditionFailure("formulas that compute give floating-point numbers")
    }
  }
}
