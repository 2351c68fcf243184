import Foundation

/// The buckets that time differences are stored by: the only place where they are defined.
///
/// Buckets are fp32 arithmetic, since they decide integers, and grow with the difference. Logarithms and roots are the correctly
/// rounded ones, so every machine agrees. Compiled code compares with `thresholds` instead of taking them; the tests
/// hold both to each other.
public enum TimeBuckets {
  /// How the bucket follows from a difference x, which is not negative; the result is then at most the last bucket.
  public enum Formula: Hashable, Sendable {
    /// `trunc(ln(max(x, 1)) / 0.301)`: attention's time bias in GR's research variant
    /// (research/modeling/sequential/hstu.py).
    case research
    /// `max(trunc(sqrt(max(x, 1e-6) / unit)), 0)`: GR's positional encoder (modules/positional_encoder.py).
    case squareRoot(unit: Float)
    /// `max(trunc(ln(max(x, 1e-6) / unit)), 0)`: its other form.
    case logarithm(unit: Float)
  }

  /// |first - second| without overflow: two int64 numbers may lie up to 2^64 - 1 apart.
  public static func magnitude(_ first: Int64, _ second: Int64) -> UInt64 {
    first > second ? UInt64(bitPattern: first &- second) : UInt64(bitPattern: second &- first)
  }

  /// The bucket of a time difference. `last` is the highest bucket, not negative.
  public static func bucket(delta: Int64, last: Int) -> Int {
    bucket(magnitude: delta.magnitude, last: last)
  }

  /// The bucket of the magnitude of a time difference, which is rounded to fp32 first.
  public static func bucket(_ formula: Formula = .research, magnitude: UInt64, last: Int) -> Int {
    bucket(formula, of: Float(magnitude), last: last)
  }

  /// For each bucket b >= 1, in order, the smallest fp32 number x whose bucket is at least b: the bucket of a difference
  /// is the number of thresholds that are <= Float(|delta|). Buckets that no int64 difference reaches have none, so there
  /// may be fewer than `last`.
  public static func thresholds(_ formula: Formula = .research, last: Int) -> [Float] {
    let greatest = Float(UInt64.max)
    let mostReached = bucket(formula, of: greatest, last: last)
    guard mostReached > 0 else { return [] }
    return (1...mostReached).map { number in
      // The order of positive fp32 numbers is the order of their bits, and buckets grow with x: bisect the bits.
      var below = Float(0).bitPattern
      var reached = greatest.bitPattern
      while reached - below > 1 {
        let middle = below + (reached - below) / 2
        if bucket(formula, of: Float(bitPattern: middle), last: last) >= number {
          reached = middle
        } else {
          below = middle
        }
      }
      return Float(bitPattern: reached)
    }
  }

  private static func bucket(_ formula: Formula, of x: Float, last: Int) -> Int {
    let scaled =
      switch formula {
      case .research: Float(log(Double(max(x, 1)))) / 0.301
      case .squareRoot(let unit): (max(x, 1e-6) / unit).squareRoot()
      case .logarithm(let unit): Float(log(Double(max(x, 1e-6) / unit)))
      }
    return min(Int(min(max(scaled, 0), 0x1p40)), last)
  }
}
