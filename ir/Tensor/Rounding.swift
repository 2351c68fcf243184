/// How fp32 numbers become numbers of fewer bits, and back: the one place where that is decided. Every rounding is to
/// the nearest, ties to the even one; what comes back is exact.
///
/// Whoever computes in fp64 comes here by `Float(roundedToOdd:)`, so that two roundings never differ from one.
public enum Rounding {
  /// The largest finite number of f8e4m3 (E4M3FN: no infinities, one NaN of each sign).
  public static let largestFloat8: Float = 448
  /// The largest magnitude of an i8 code; -128 is not used, so that codes are as many on both sides of 0.
  public static let largestInt8: Float = 127

  /// The bits of the nearest bf16 number; what is too large becomes an infinity, a NaN stays one.
  @inline(__always)
  public static func bfloat16Bits(_ value: Float) -> UInt16 {
    let bits = value.bitPattern
    // A NaN whose payload is in the lower half only would become an infinity.
    return UInt16(
      truncatingIfNeeded: value.isNaN ? bits >> 16 | 0x40 : (bits &+ 0x7FFF &+ (bits >> 16 & 1)) >> 16)
  }

  /// The bits of the nearest IEEE half; what is too large becomes an infinity, a NaN stays one.
  @inline(__always)
  public static func halfBits(_ value: Float) -> UInt16 {
    let sign = UInt16(truncatingIfNeeded: value.bitPattern >> 16) & 0x8000
    let bits = min(narrow(value.magnitude, fraction: 10, leastExponent: -14), 0x7C00)
    return sign | (value.isNaN ? 0x7E00 : UInt16(truncatingIfNeeded: bits))
  }

  /// The bits of the nearest f8e4m3 number; what is beyond 448, infinities included, becomes 448 with its sign, a NaN
  /// stays one.
  public static func float8Bits(_ value: Float) -> UInt8 {
    let sign = UInt8(value.bitPattern >> 24) & 0x80
    if value.isNaN { return sign | 0x7F }
    return sign | UInt8(narrow(min(value.magnitude, largestFloat8), fraction: 3, leastExponent: -6))
  }

  /// The bits that half of an f8e4m3 number, given by its bits, has in the form of AMD's older matrix instructions (E4M3FNUZ): the same
  /// ones, since exponents count from one less there. But a zero has no sign, and the bits of -0 are the only NaN.
  public static func fnuzBits(ofHalf bits: UInt8) -> UInt8 {
    if bits & 0x7F == 0x7F { return 0x80 }
    return bits == 0x80 ? 0 : bits
  }

  /// The nearest whole number of -127...127; 0 for a NaN.
  public static func int8(_ value: Float) -> Int8 {
    if value.isNaN { return 0 }
    return Int8(max(-largestInt8, min(value, largestInt8)).rounded(.toNearestOrEven))
  }

  /// Exponent and fraction of a format with `fraction` bits of fraction, whose least normal number is
  /// 2^`leastExponent`: what is not negative, rounded to nearest even, with as large an exponent as it takes; anything of
  /// a NaN. Without branches, so that loops over it become vector instructions.
  @inline(__always)
  private static func narrow(_ magnitude: Float, fraction: UInt32, leastExponent: Int32) -> UInt32 {
    func power(_ exponent: Int32) -> Float { Float(bitPattern: UInt32(bitPattern: 127 &+ exponent) << 23) }
    // Subnormals are equally spaced, and so are the fp32 numbers from here on: a sum is rounded to one of them.
    let spaced = power(23 &- Int32(bitPattern: fraction) &+ leastExponent)
    let subnormal = (magnitude + spaced).bitPattern &- spaced.bitPattern
    let shift = 23 &- fraction
    let bits = magnitude.bitPattern
    let rounded = (bits &+ (1 << (shift - 1) - 1) &+ (bits >> shift & 1)) >> shift
    let normal = rounded &- UInt32(bitPattern: 126 &+ leastExponent) << fraction
    return magnitude < power(leastExponent) ? subnormal : normal
  }
}

extension Float {
  /// The number that an IEEE half with these bits stands for; exact.
  @inline(__always)
  public init(halfBits bits: UInt16) {
    let magnitude = UInt32(bits & 0x7FFF) << 13
    // As the bits of an fp32 number these have an exponent that is 112 too low; the product with a power of two is exact.
    let number = (Float(bitPattern: magnitude) * 0x1p112).bitPattern
    let isFinite = bits & 0x7C00 != 0x7C00
    self.init(bitPattern: UInt32(bits & 0x8000) << 16 | (isFinite ? number : magnitude | 0x7F80_0000))
  }

  /// The number that a bf16 with these bits stands for; exact.
  @inline(__always)
  public init(bfloat16Bits bits: UInt16) { self.init(bitPattern: UInt32(bits) << 16) }

  /// The number that an f8e4m3 with these bits stands for; exact.
  public init(float8Bits bits: UInt8) {
    let sign = UInt32(bits & 0x80) << 24
    let exponent = UInt32(bits >> 3) & 0xF
    let fraction = UInt32(bits & 7)
    switch (exponent, fraction) {
    case (0, _): self = Float(sign: sign == 0 ? .plus : .minus, exponent: -9, significand: Float(fraction))
    case (15, 7): self = Float(bitPattern: sign | 0x7FC0_0000)
    default: self = Float(bitPattern: sign | (exponent + 120) << 23 | fraction << 20)
    }
  }

  /// The fp32 number next to `value` whose last bit is 1, or `value` itself where it is fp32. Rounded once more, to a
  /// format of at most 22 bits of significand, it gives what `value` rounded at once gives.
  public init(roundedToOdd value: Double) {
    self.init(value)
    guard Double(self) != value, !value.isNaN, bitPattern & 1 == 0 else { return }
    // One of both neighbors is odd: the one on the other side of `value`. From infinity that is the largest number.
    self = Float(bitPattern: Double(magnitude) > value.magnitude ? bitPattern - 1 : bitPattern + 1)
  }
}

extension ElementType {
  /// The number nearest to `value` among those that elements of this type are: fp64 itself; of integers and truth values
  /// `value` itself too, since nothing computed is stored in them.
  public func rounded(_ value: Double) -> Double {
    switch self {
    case .f64, .i64, .i32, .u8, .bool: value
    case .f32: Double(Float(value))
    case .f16: Double(Float(halfBits: Rounding.halfBits(Float(roundedToOdd: value))))
    case .bf16: Double(Float(bfloat16Bits: Rounding.bfloat16Bits(Float(roundedToOdd: value))))
    case .f8e4m3: Double(Float(float8Bits: Rounding.float8Bits(Float(roundedToOdd: value))))
    case .i8: Double(Rounding.int8(Float(roundedToOdd: value)))
    }
  }
}
