/// The least and the largest number of a row, of equal ones the first, and whether all are finite; 0 of an empty row.
///
/// Numbers are compared as integers in the same order: minima of those become vector instructions, where minima of
/// floating-point numbers do not.
struct RowRange {
  let least: Float
  let most: Float
  let isFinite: Bool

  init(_ row: UnsafeBufferPointer<Float>) {
    guard !row.isEmpty else {
      (least, most, isFinite) = (0, 0, true)
      return
    }
    var (lowest, highest) = (Int32.max, Int32.min)
    for number in row {
      let key = Self.key(number)
      (lowest, highest) = (min(lowest, key), max(highest, key))
    }
    isFinite = lowest > Self.key(-.infinity) && highest < Self.key(.infinity)
    least = Self.first(Self.number(lowest), in: row)
    most = Self.first(Self.number(highest), in: row)
  }

  /// An integer as large as the number is among numbers: -0 just below 0, NaNs beyond both infinities.
  @inline(__always)
  private static func key(_ number: Float) -> Int32 {
    let bits = Int32(bitPattern: number.bitPattern)
    return bits ^ (bits >> 31 & Int32.max)
  }

  private static func number(_ key: Int32) -> Float {
    Float(bitPattern: UInt32(bitPattern: key ^ (key >> 31 & Int32.max)))
  }

  /// The first number of the row that equals `number`: 0 and -0 are equal, and have signs that are stored.
  private static func first(_ number: Float, in row: UnsafeBufferPointer<Float>) -> Float {
    number == 0 ? row.first { $0 == 0 } ?? number : number
  }
}

/// Codes of a row's numbers, 0 to `largest`, at most 255: the nearest to `(number - least) * inverse`, ties to the even one.
/// All numbers are finite.
struct RowCodes {
  let least: Float
  let inverse: Float
  let largest: Float

  /// Sums with it are rounded to whole numbers, which stand in the lowest bits.
  private static let whole: Float = 0x1.8p23
  /// Numbers whose codes are held in memory before they are packed.
  private static let block = 256

  @inline(__always)
  private func code(_ number: Float) -> UInt8 {
    let steps = (number - least) * inverse
    let bounded = steps < 0 ? 0 : steps > largest ? largest : steps
    return UInt8(truncatingIfNeeded: (bounded + Self.whole).bitPattern)
  }

  /// Writes a byte a number.
  func write(_ row: UnsafeBufferPointer<Float>, to bytes: UnsafeMutableRawBufferPointer) {
    guard let numbers = row.baseAddress, let codes = bytes.baseAddress?.assumingMemoryBound(to: UInt8.self) else {
      return
    }
    for index in 0..<row.count { codes[index] = code(numbers[index]) }
  }

  /// Writes half a byte a number, the even one in the lower half; what is left of the last byte is 0.
  func writePairs(_ row: UnsafeBufferPointer<Float>, to bytes: UnsafeMutableRawBufferPointer) {
    guard let numbers = row.baseAddress, let pairs = bytes.baseAddress?.assumingMemoryBound(to: UInt8.self) else {
      return
    }
    withUnsafeTemporaryAllocation(of: UInt8.self, capacity: Self.block) { codes in
      guard let codes = codes.baseAddress else { return }
      for first in stride(from: 0, to: row.count, by: Self.block) {
        let count = min(Self.block, row.count - first)
        for index in 0..<count { codes[index] = code(numbers[first &+ index]) }
        if count % 2 == 1 { codes[count] = 0 }
        let target = pairs + first / 2
        for index in 0..<(count + 1) / 2 { target[index] = codes[2 &* index] | codes[2 &* index &+ 1] << 4 }
      }
    }
  }
}
