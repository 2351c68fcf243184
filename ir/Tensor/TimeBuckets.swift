import Foundation

/// The buckets of time differences that attention's time bias is stored by: the only place where they are defined.
///
/// `bucket = clamp(trunc(ln(max(|delta|, 1)) / 0.301), 0, last)` in fp32, as in GR's research variant
/// (research/modeling/sequential/hstu.py). The logarithm is the correctly rounded one, so every machine agrees.
/// Compiled code compares with `thresholds` instead of taking logarithms; the tests hold both to each other.
public enum TimeBuckets {
  /// |first - second| without overflow: two int64 numbers may lie up to 2^64 - 1 apart.
  public static func magnitude(_ first: Int64, _ second: Int64) -> UInt64 {
    first > second ? UInt64(bitPattern: first &- second) : UInt64(bitPattern: second &- first)
  }

  /// The bucket of a time difference. `last` is the highest bucket, not negative.
  public static func bucket(delta: Int64, last: Int) -> Int {
    bucket(magnitude: delta.magnitude, last: last)
  }

  /// The bucket of the magnitude of a time difference, which is rounded to fp32 first.
  public static func bucket(magnitude: UInt64, last: Int) -> Int {
    bucket(of: Float(magnitude), last: last)
  }

  /// For each bucket b >= 1, in order, the smallest fp32 number x >= 1 whose bucket is at least b: the bucket of a
  /// difference is the number of thresholds that are <= Float(|delta|). Buckets that no int64 difference reaches have none,
  /// so there may be fewer than `last`.
  public static func thresholds(last: Int) -> [Float] {
    let greatest = Float(UInt64.max)
    var thresholds: [Float] = []
    var bucketNumber = 1
    while bucketNumber <= last, bucket(of: greatest, last: last) >= bucketNumber {
      // The order of positive fp32 numbers is the order of their bits, and buckets grow with x: bisect the bits.
      var below = Float(1).bitPattern
      var reached = greatest.bitPattern
      while reached - below > 1 {
        let middle = below + (reached - below) / 2
        if bucket(of: Float(bitPattern: middle), last: last) >= bucketNumber {
          reached = middle
        } else {
          below = middle
        }
      }
      thresholds.append(Float(bitPattern: reached))
      bucketNumber += 1
    }
    return thresholds
  }

  private static func bucket(of x: Float, last: Int) -> Int {
    let logarithm = Float(log(Double(max(x, 1))))
    return min(Int(logarithm / 0.301), last)
  }
}
