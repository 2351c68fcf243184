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
