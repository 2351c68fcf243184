import Foundation

/// How long before its sequence's time a row happened, as a bucket number: operands times [rows], query times [sequences]
/// and offsets; times are int64 seconds.
///
/// `bucket = clamp(trunc(f(max(query - time, 1e-6) / unit)), 0, limit)` in fp32 (GR modules/positional_encoder.py);
/// `TimeBuckets` is where that is defined.
public struct BucketTimes: OperationPayload {
  /// Its name in the text form.
  public static let mnemonic = "bucket_times"

  /// f of the formula.
  public enum Scale: String, Hashable, Sendable, CaseIterable {
    case squareRoot = "square_root"
    case logarithm
  }

  /// f of the formula.
  public var scale: Scale
  /// Seconds that count as one.
  public var unit: Double
  /// The last bucket.
  public var limit: Int

  /// Attributes as given; `resultTypes` checks them.
  public init(_ scale: Scale, unit: Double, limit: Int) {
    self.scale = scale
    self.unit = unit
    self.limit = limit
  }

  /// One int64 a row: a tensor [rows] of buckets in 0...limit. Throws where `limit` or `unit` is out of range, or times do
  /// not fit the offsets.
  public func resultTypes(for operands: [ValueType]) throws(OperationError) -> [ValueType] {
    try requireOperandCount(operands, 3)
    let rows = try requireIntegers(operands[0], "times", rows: nil)
    let offsets = try requireOffsets(operands[2], "offsets", rows: rows)
    _ = try requireIntegers(operands[1], "query times", rows: offsets.sequences)
    // As many thresholds are stored.
    try require((0...1 << 20).contains(limit), "limit must lie in 0...2^20, found \(limit)")
    try require(
      unit >= 1 && unit <= 0x1p40, "unit must lie in 1...2^40 seconds, found \(TextName.number(unit))")
    return [operands[0]]
  }

  /// Where the buckets begin.
  public var formula: TimeBuckets.Formula {
    switch scale {
    case .squareRoot: .squareRoot(unit: Float(unit))
    case .logarithm: .logarithm(unit: Float(unit))
    }
  }

  /// The bucket of a row.
  public func bucket(time: Int64, query: Int64) -> Int {
    let difference = query > time ? TimeBuckets.magnitude(query, time) : 0
    return TimeBuckets.bucket(formula, magnitude: difference, last: limit)
  }

  /// Reads `scale`, `unit` and `limit`.
  public init(from reader: inout AttributeReader) {
    self.init(reader.word("scale"), unit: reader.number("unit"), limit: reader.integer("limit"))
  }

  /// Writes `scale`, `unit` and `limit`.
  public func writeAttributes(to writer: inout AttributeWriter) {
    writer.word("scale", scale)
    writer.number("unit", unit)
    writer.integer("limit", limit)
  }
}

/// Which of `count` units of time, over and over, a time falls into, such as the hour of the day: operand times [rows], int64
/// seconds.
///
/// `floor(time / unit) mod count`, where the time is rounded to fp32 first, and everything after is exact (GR
/// modules/postprocessors.py).
public struct CalendarUnits: OperationPayload {
  /// Its name in the text form.
  public static let mnemonic = "calendar_units"

  /// Seconds of a unit: 3600 of an hour.
  public var unit: Int
  /// Units until they begin again: 24 hours.
  public var count: Int

  /// Attributes as given; `resultTypes` checks them.
  public init(unit: Int, count: Int) {
    self.unit = unit
    self.count = count
  }

  /// One int64 a row, in 0..<count. Throws unless there is an int64 a row and `unit` and `count` lie in 1...2^20.
  public func resultTypes(for operands: [ValueType]) throws(OperationError) -> [ValueType] {
    try requireOperandCount(operands, 1)
    _ = try requireIntegers(operands[0], "times", rows: nil)
    for (name, value) in [("unit", unit), ("count", count)] {
      try require((1...1 << 20).contains(value), "\(name) must lie in 1...2^20, found \(value)")
    }
    return [operands[0]]
  }

  /// The unit that a time falls into. 2^63, to which the latest times are rounded, counts as 2^63 - 1.
  public func unit(of time: Int64) -> Int64 {
    let rounded = Int64(exactly: Float(time)) ?? .max
    let period = Int64(unit * count)
    let rest = rounded % period
    return (rest < 0 ? rest + period : rest) / Int64(unit)
  }

  /// The cosine and sine of an angle for each unit, which make a full turn of `2 * pi` (GR takes 3.14 for pi): [count, 2], from
  /// angles in fp32.
  public static func circle(count: Int, pi: Double) -> [Float] {
    (0..<count).flatMap { unit in
      let angle = Double(Float(unit) / Float(count) * 2 * Float(pi))
      return [Float(cos(angle)), Float(sin(angle))]
    }
  }

  /// Reads `unit` and `count`.
  public init(from reader: inout AttributeReader) {
    self.init(unit: reader.integer("unit"), count: reader.integer("count"))
  }

  /// Writes `unit` and `count`.
  public func writeAttributes(to writer: inout AttributeWriter) {
    writer.integer("unit", unit)
    writer.integer("count", count)
  }
}
