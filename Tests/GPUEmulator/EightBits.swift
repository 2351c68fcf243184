import Foundation

/// Numbers of eight bits: a sign, four bits of exponent, three of fraction, and below the least exponent numbers as far apart as with it.
struct EightBits {
  /// The number of each code.
  let numbers: [Float]
  /// Codes of numbers that are not negative, ascending.
  private let ascending: [UInt8]

  private init(bias: Int, isNaN: (Int) -> Bool) {
    let numbers = (0..<256).map { code -> Float in
      if isNaN(code) { return .nan }
      let (exponent, fraction) = (code / 8 % 16, code % 8)
      let magnitude = Double(exponent == 0 ? fraction : 8 + fraction) * pow(2, Double(max(exponent, 1) - bias - 3))
      return Float(code < 128 ? magnitude : -magnitude)
    }
    self.numbers = numbers
    ascending = (0..<128).filter { !numbers[$0].isNaN }.map { UInt8($0) }
  }

  /// OCP 8-bit Floating Point Specification, E4M3: all bits set but the sign's are no number.
  static let ocp = EightBits(bias: 7) { $0 % 128 == 127 }
  /// AMD, "CDNA3 Instruction Set Architecture", FP8: what would be -0 is no number.
  static let fnuz = EightBits(bias: 8) { $0 == 128 }

  /// The code of the nearest number, the even one of two that are as near; of the largest one what lies beyond it.
  func code(of value: Float) -> UInt8 {
    guard !value.isNaN else { return numbers.firstIndex(where: \.isNaN).map { UInt8($0) } ?? 0 }
    let magnitude = value.magnitude
    var (low, high) = (0, ascending.count - 1)
    while low < high {
      let middle = (low + high + 1) / 2
      if numbers[Int(ascending[middle])] <= magnitude { low = middle } else { high = middle - 1 }
    }
    if low + 1 < ascending.count {
      let below = Double(magnitude) - Double(numbers[Int(ascending[low])])
      let above = Double(numbers[Int(ascending[low + 1])]) - Double(magnitude)
      if above < below || above == below && low % 2 == 1 { low += 1 }
    }
    let code = ascending[low]
    let negative = code | 0x80
    return value.sign == .minus && !numbers[Int(negative)].isNaN ? negative : code
  }
}

/// What the elements of both sides of a matrix instruction are.
enum MatrixElement {
  case bf16, e4m3, fnuz, s8

  var byteCount: Int { self == .bf16 ? 2 : 1 }
  /// Whether sums are integers.
  var isInteger: Bool { self == .s8 }

  /// The number that lies at an address; exact.
  func number(at address: UnsafeRawPointer) -> Float {
    switch self {
    case .bf16: Float(bitPattern: UInt32(address.loadUnaligned(as: UInt16.self)) << 16)
    case .e4m3: EightBits.ocp.numbers[Int(address.load(as: UInt8.self))]
    case .fnuz: EightBits.fnuz.numbers[Int(address.load(as: UInt8.self))]
    case .s8: Float(address.load(as: Int8.self))
    }
  }

  /// The numbers of a word of 32 bits, the first in its lowest bits.
  func numbers(_ word: UInt32) -> [Float] {
    withUnsafeBytes(of: word.littleEndian) { bytes in
      stride(from: 0, to: 4, by: byteCount).map { number(at: bytes.baseAddress! + $0) }
    }
  }

  /// The bits of a sum with a product added, which is a whole number where sums are integers.
  func sum(_ bits: UInt32, plus product: Float) -> UInt32 {
    isInteger
      ? UInt32(bitPattern: Int32(bitPattern: bits) &+ (Int32(exactly: product) ?? .min))
      : (Float(bitPattern: bits) + product).bitPattern
  }
}
