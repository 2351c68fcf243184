import TensorIR
import Testing

/// Every format against its definition: a number is a sign, 2^exponent and a fraction; rounding gives the nearest.
///
/// Rounding to nearest even is monotonic, so it is right everywhere if it is right at every code, at every midpoint of
/// two neighbors, and next to the midpoints on both sides. That is what is tried, for all codes of all formats.
@Suite struct RoundingTests {
  struct Format: CustomTestStringConvertible, Sendable {
    var testDescription: String
    var fractionBits: Int
    var bias: Int
    /// How many non-negative codes are finite.
    var finiteCount: Int
    /// The code of what is too large.
    var overflow: UInt32
    var encode: @Sendable (Float) -> UInt32
    var decode: @Sendable (UInt32) -> Float
    var signBit: UInt32

    /// The number of a code without sign, straight from the definition.
    func value(_ code: Int) -> Double {
      let (exponent, fraction) = code.quotientAndRemainder(dividingBy: 1 << fractionBits)
      let significand = Double(fraction) / Double(1 << fractionBits) + (exponent == 0 ? 0 : 1)
      return significand * Double(sign: .plus, exponent: max(exponent, 1) - bias, significand: 1)
    }
  }

  static let formats = [
    Format(
      testDescription: "f16", fractionBits: 10, bias: 15, finiteCount: 0x7C00, overflow: 0x7C00,
      encode: { UInt32(Rounding.halfBits($0)) }, decode: { Float(halfBits: UInt16($0)) }, signBit: 0x8000),
    Format(
      testDescription: "bf16", fractionBits: 7, bias: 127, finiteCount: 0x7F80, overflow: 0x7F80,
      encode: { UInt32(Rounding.bfloat16Bits($0)) }, decode: { Float(bfloat16Bits: UInt16($0)) }, signBit: 0x8000),
    Format(
      testDescription: "f8e4m3", fractionBits: 3, bias: 7, finiteCount: 0x7F, overflow: 0x7E,
      encode: { UInt32(Rounding.float8Bits($0)) }, decode: { Float(float8Bits: UInt8($0)) }, signBit: 0x80),
  ]

  @Test(arguments: formats) func everyCodeComesBack(format: Format) {
    for code in 0..<format.finiteCount {
      let bits = UInt32(code)
      let value = format.value(code)
      #expect(Double(format.decode(bits)) == value)
      #expect(format.decode(bits | format.signBit) == -format.decode(bits))
      #expect(format.encode(Float(value)) == bits)
      #expect(format.encode(-Float(value)) == bits | format.signBit)
    }
  }

  @Test(arguments: formats) func everyMidpointGoesToTheEvenCode(format: Format) {
    for code in 0..<format.finiteCount - 1 {
      // Exact in fp32: one bit of fraction more than the format has.
      let midpoint = Float((format.value(code) + format.value(code + 1)) / 2)
      let (lower, upper) = (UInt32(code), UInt32(code + 1))
      #expect(format.encode(midpoint) == (code % 2 == 0 ? lower : upper))
      #expect(format.encode(midpoint.nextDown) == lower)
      #expect(format.encode(midpoint.nextUp) == upper)
      #expect(format.encode(-midpoint.nextUp) == upper | format.signBit)
    }
  }

  @Test(arguments: formats) func whatIsTooLargeOverflows(format: Format) {
    let largest = format.finiteCount - 1
    let step = format.value(largest) - format.value(largest - 1)
    let limit = Float(format.value(largest) + step / 2)
    #expect(format.encode(limit.nextDown) == UInt32(largest))
    // An even last code would keep the midpoint; halves and bf16 end odd, f8e4m3 saturates.
    #expect(format.encode(limit) == format.overflow)
    #expect(format.encode(.greatestFiniteMagnitude) == format.overflow)
    #expect(format.encode(.infinity) == format.overflow)
    #expect(format.encode(-.infinity) == format.overflow | format.signBit)
  }

  @Test(arguments: formats) func notANumberStaysOne(format: Format) {
    let quiet = Float(bitPattern: 0x7FC0_0000)
    let payloadBelow = Float(bitPattern: 0x7F80_0001)
    for value in [quiet, payloadBelow, -quiet, Float(bitPattern: 0xFFFF_FFFF)] {
      #expect(format.decode(format.encode(value)).isNaN)
    }
  }

  @Test func float8HasTwoNaNsAndNoInfinity() {
    let values = (0...255).map { Float(float8Bits: UInt8($0)) }
    #expect(values.indices.filter { values[$0].isNaN } == [0x7F, 0xFF])
    #expect(!values.contains { $0.isInfinite })
    #expect(values.filter { !$0.isNaN }.max() == Rounding.largestFloat8)
  }

  @Test func wholeNumbersRoundToEvenAndSaturate() {
    for code in -127...127 {
      let value = Float(code)
      #expect(Rounding.int8(value) == Int8(code))
      if code < 127 {
        #expect(Rounding.int8(value + 0.5) == Int8(code % 2 == 0 ? code : code + 1))
        #expect(Rounding.int8((value + 0.5).nextDown) == Int8(code))
        #expect(Rounding.int8((value + 0.5).nextUp) == Int8(code + 1))
      }
    }
    #expect(Rounding.int8(-0.5) == 0)
    for value in [Float(127.5), 128, 1e30, .infinity] {
      #expect(Rounding.int8(value) == 127)
      #expect(Rounding.int8(-value) == -127)
    }
    #expect(Rounding.int8(.nan) == 0)
  }

  /// fp64 numbers beside every midpoint, nearer to it than fp32 can tell: rounding to fp32 first would take them to the
  /// midpoint, and then to the even code.
  @Test(arguments: formats) func oneRoundingFromDouble(format: Format) throws {
    let element = try #require(ElementType(rawValue: format.testDescription))
    for code in 0..<format.finiteCount - 1 {
      let midpoint = (format.value(code) + format.value(code + 1)) / 2
      #expect(element.rounded(midpoint.nextDown) == format.value(code))
      #expect(element.rounded(midpoint.nextUp) == format.value(code + 1))
      #expect(element.rounded(midpoint) == format.value(code % 2 == 0 ? code : code + 1))
      #expect(element.rounded(-midpoint.nextUp) == -format.value(code + 1))
    }
  }

  /// AMD, "CDNA3 Instruction Set Architecture", FP8: as f8e4m3 with exponents from one less on, no -0 and no other NaN than its bits.
  @Test func halvesHaveTheBitsOfTheNumber() {
    let halves = Format(
      testDescription: "FNUZ", fractionBits: 3, bias: 8, finiteCount: 0x80, overflow: 0x80, encode: { _ in 0 },
      decode: { _ in .nan }, signBit: 0x80)
    for code in UInt8.min...UInt8.max {
      let number = Float(float8Bits: code)
      let bits = Rounding.fnuzBits(ofHalf: code)
      if number.isNaN {
        #expect(bits == 0x80)
      } else {
        #expect(bits != 0x80 && (number < 0) == (bits > 0x80))
        #expect(halves.value(Int(bits & 0x7F)) == Double(number.magnitude) / 2)
      }
    }
  }

  @Test func roundingToOddKeepsWhatIsExact() {
    for value in [0, 1, -1.5, Double(Float.greatestFiniteMagnitude), .infinity, Double(Float.leastNonzeroMagnitude)] {
      #expect(Double(Float(roundedToOdd: value)) == value)
    }
    #expect(Float(roundedToOdd: .nan).isNaN)
    #expect(Float(roundedToOdd: 1e300) == .greatestFiniteMagnitude)
    #expect(Float(roundedToOdd: -1e-300) == -Float.leastNonzeroMagnitude)
    #expect(Float(roundedToOdd: 1 + 0x1p-40).bitPattern == Float(1).bitPattern + 1)
    #expect(Float(roundedToOdd: 1 - 0x1p-40).bitPattern == Float(1).bitPattern - 1)
  }
}
