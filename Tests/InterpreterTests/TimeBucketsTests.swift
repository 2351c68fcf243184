import TensorIR
import TestSupport
import Testing

@Suite struct TimeBucketsTests {
  @Test func magnitudesDoNotOverflow() {
    #expect(TimeBuckets.magnitude(3, 10) == 7)
    #expect(TimeBuckets.magnitude(10, 3) == 7)
    #expect(TimeBuckets.magnitude(.min, .max) == .max)
    #expect(TimeBuckets.magnitude(.max, .min) == .max)
    #expect(TimeBuckets.magnitude(.min, 0) == 1 << 63)
  }

  @Test("buckets worked out by hand: ln 2 / 0.301 = 2.30, ln 86400 / 0.301 = 37.76")
  func knownBuckets() {
    for (delta, bucket) in [(0, 0), (1, 0), (-1, 0), (2, 2), (3, 3), (-86_400, 37), (86_400, 37)] as [(Int64, Int)] {
      #expect(TimeBuckets.bucket(delta: delta, last: 128) == bucket)
    }
    #expect(TimeBuckets.bucket(delta: 86_400, last: 20) == 20)
    #expect(TimeBuckets.bucket(delta: 86_400, last: 0) == 0)
    #expect(TimeBuckets.bucket(delta: .min, last: 1000) == 145)
  }

  @Test("buckets of the positional encoder worked out by hand: sqrt(86400 / 60) = 37.9, ln(86400 / 60) = 7.27")
  func knownPositionBuckets() {
    let root = BucketTimes(.squareRoot, unit: 60, limit: 2048)
    let logarithm = BucketTimes(.logarithm, unit: 60, limit: 2048)
    for (time, roots, logarithms) in [
      (1000, 0, 0), (2000, 0, 0), (941, 0, 0), (940, 1, 0), (760, 2, 1), (1000 - 86_400, 37, 7),
      (-400_000_000, 2048, 15),
    ] as [(Int64, Int, Int)] {
      #expect(root.bucket(time: time, query: 1000) == roots)
      #expect(logarithm.bucket(time: time, query: 1000) == logarithms)
    }
    #expect(BucketTimes(.squareRoot, unit: 60, limit: 20).bucket(time: .min, query: .max) == 20)
    #expect(logarithm.bucket(time: .min, query: .max) == 40)
  }

  @Test("hours and weekdays by hand; times are rounded to fp32 first, in steps of 128 s today")
  func calendar() {
    let hours = CalendarUnits(unit: 3600, count: 24)
    let days = CalendarUnits(unit: 86_400, count: 7)
    for (time, hour, day) in [
      (0, 0, 0), (3599, 0, 0), (3600, 1, 0), (-1, 23, 6), (86_400 * 8 + 7200, 2, 1),
      // 1700006400 is midnight, and a multiple of 128: 64 s before it is rounded to it, 65 s before is not.
      (1_700_006_400, 0, 6), (1_700_006_400 - 64, 0, 6), (1_700_006_400 - 65, 23, 5),
    ] as [(Int64, Int64, Int64)] {
      #expect(hours.unit(of: time) == hour, "\(time)")
      #expect(days.unit(of: time) == day, "\(time)")
    }
    #expect(hours.unit(of: .max) == .max % 86_400 / 3600)
    #expect((0..<24).contains(hours.unit(of: .min)))
  }

  @Test("buckets never fall while differences grow")
  func monotone() {
    // Every fp32 number is too many: all integers to 2^16, then every 4096th fp32 bit pattern up to 2^64.
    var previous = 0
    for magnitude in UInt64(0)...65536 {
      let bucket = TimeBuckets.bucket(magnitude: magnitude, last: 1000)
      #expect(bucket >= previous)
      previous = bucket
    }
    for bits in stride(from: Float(65536).bitPattern, to: Float(0x1p64).bitPattern, by: 4096) {
      let bucket = TimeBuckets.bucket(magnitude: UInt64(Float(bitPattern: bits)), last: 1000)
      #expect(bucket >= previous)
      previous = bucket
    }
  }

  @Test(
    "so it is for the positional encoder's",
    arguments: [TimeBuckets.Formula.squareRoot(unit: 60), .logarithm(unit: 60), .squareRoot(unit: 1)])
  func positionThresholds(formula: TimeBuckets.Formula) {
    let thresholds = TimeBuckets.thresholds(formula, last: 2048)
    #expect(zip(thresholds, thresholds.dropFirst()).allSatisfy { $0 < $1 })
    for threshold in thresholds {
      for x in [threshold.nextDown, threshold, threshold.nextUp, threshold + 1] {
        guard let magnitude = UInt64(exactly: x.rounded()) else { continue }
        let count = thresholds.count { $0 <= Float(magnitude) }
        #expect(count == TimeBuckets.bucket(formula, magnitude: magnitude, last: 2048), "|delta| = \(magnitude)")
      }
    }
  }

  @Test("the number of thresholds not above Float(|delta|) is the bucket", arguments: [0, 1, 20, 128, 1000])
  func thresholds(last: Int) {
    let thresholds = TimeBuckets.thresholds(last: last)
    #expect(thresholds.count == min(last, 147))
    #expect(zip(thresholds, thresholds.dropFirst()).allSatisfy { $0 < $1 })
    func count(_ magnitude: UInt64) -> Int { thresholds.filter { $0 <= Float(magnitude) }.count }
    var random = Random(seed: 1)
    let powers = (0..<2000).map { _ in random.next() >> UInt64(random.integer(in: 0...63)) }
    // The integers around every threshold are where the two could part.
    let edges = thresholds.flatMap { threshold -> [UInt64] in
      [threshold.nextDown, threshold, threshold.nextUp].compactMap { UInt64(exactly: $0.rounded()) }
    }
    let neighbours = edges.flatMap { [$0 &- 1, $0 &+ 1] }
    for magnitude in powers + edges + neighbours + [0, .max] {
      #expect(count(magnitude) == TimeBuckets.bucket(magnitude: magnitude, last: last), "|delta| = \(magnitude)")
    }
  }
}
