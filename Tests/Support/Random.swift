import TensorIR

/// SplitMix64 (Steele, Lea and Flood, 2014): small, seeded, the same numbers everywhere.
///
/// Ranges and picks are defined here and not by the standard library, whose own may change between versions.
public struct Random: Sendable {
  private var state: UInt64

  /// The sequence of numbers that belongs to this seed.
  public init(seed: UInt64) { state = seed }

  /// The next 64 random bits.
  public mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z >> 31)
  }

  /// An integer of a range that is not empty.
  public mutating func integer(in range: ClosedRange<Int>) -> Int {
    range.lowerBound + Int(next().multipliedFullWidth(by: UInt64(range.count)).high)
  }

  /// One of several things; `choices` is not empty.
  public mutating func pick<T>(_ choices: [T]) -> T { choices[integer(in: 0...choices.count - 1)] }

  /// True once in `count` times.
  public mutating func once(in count: Int) -> Bool { integer(in: 1...count) == 1 }

  /// A multiple of 2^-23 in -1..<1.
  public mutating func unit() -> Float { Float(next() >> 40) * 0x1p-23 - 1 }

  /// fp32 numbers in center - spread ..< center + spread.
  public mutating func tensor(_ shape: [Int], center: Float = 0, spread: Float = 1) -> HostTensor {
    HostTensor((0..<shape.reduce(1, *)).map { _ in center + spread * unit() }, shape: shape)
  }
}

extension HostTensor {
  /// The nearest bf16 numbers.
  public func asBFloat16() throws -> HostTensor {
    let bits = floats.map(Rounding.bfloat16Bits)
    return try HostTensor(
      element: .bf16, shape: shape, bytes: bits.flatMap { [UInt8(truncatingIfNeeded: $0), UInt8($0 >> 8)] })
  }
}
