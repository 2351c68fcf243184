import Codegen
import TensorIR
import TestSupport
import Testing

/// The buckets that compiled code finds for time differences, at and around every edge, against their definition.
@Suite struct TimeBiasTests {
  @Test("compiled code finds the bucket of every difference", arguments: [0, 1, 5, 128, 200])
  func buckets(last: Int) throws {
    let pairs = Self.pairs(last: last)
    for level in CPULevel.supportedByHost {
      let (module, weights) = try Self.program(last: last)
      let compiled = try CompiledProgram(module, weights: weights, level: level)
      // Two rows a sequence: the second looks at the first, whose value is 1; its own is 0.
      let output = try compiled.run([
        "q": HostTensor([Float](repeating: 0, count: 2 * pairs.count), shape: [2 * pairs.count, 1]),
        "v": HostTensor(pairs.flatMap { _ in [1, 0] as [Float] }, shape: [2 * pairs.count, 1]),
        "offsets": HostTensor((0...pairs.count).map { Int64(2 * $0) }),
        "query_times": HostTensor(pairs.flatMap { [0, $0.query] }),
        "key_times": HostTensor(pairs.flatMap { [$0.key, 0] }),
      ])
      let found = try #require(output.first).tensor.floats
      for (index, pair) in pairs.enumerated() {
        let magnitude = TimeBuckets.magnitude(pair.query, pair.key)
        let bucket = TimeBuckets.bucket(magnitude: magnitude, last: last)
        #expect(found[2 * index + 1] == Float(bucket), "\(level), last \(last): |\(pair.query) - \(pair.key)|")
      }
    }
  }

  /// Attention whose result is the time bias alone: queries and position weights are 0, and a bucket's weight is its number.
  private static func program(last: Int) throws -> (Module, WeightTable) {
    var build = FunctionBuilder(module: Module(name: "time_bias"), name: "forward")
    let rows = Dimension.symbol("rows")
    let q = build.argument("q", .tensor([rows, .fixed(1)], .f32))
    let v = build.argument("v", .tensor([rows, .fixed(1)], .f32))
    let offsets = build.argument("offsets", .offsets(sequences: .symbol("sequences"), rows: rows))
    let queryTimes = build.argument("query_times", .tensor([rows], .i64))
    let keyTimes = build.argument("key_times", .tensor([rows], .i64))
    let position = try build.weight("position", [3])
    let time = try build.weight("time", [last + 1])
    let attention = Attention(
      heads: 1, alpha: 1, divisor: .fixed(1), activation: .identity, bias: .positionAndTime, mask: .causal)
    let out = try build.append(.attention(attention), [q, q, v, offsets, position, time, queryTimes, keyTimes])
    build.result("out", out[0])
    let weights = WeightTable([
      "position": HostTensor([0, 0, 0] as [Float]), "time": HostTensor((0...last).map(Float.init)),
    ])
    return (build.finish(), weights)
  }

  /// Differences around every edge of a bucket, in both directions, and the greatest there are.
  private static func pairs(last: Int) -> [(query: Int64, key: Int64)] {
    let ascending = differences(last: last)
    let apart: [(query: Int64, key: Int64)] = [(.max, .min), (.min, .max), (.min, 0), (-1, .max)]
    return ascending.map { ($0, 0) } + ascending.map { (1_700_000_000, 1_700_000_000 &+ $0) } + apart
  }

  /// Seconds around every edge of a bucket, ascending.
  static func differences(last: Int) -> [Int64] {
    var differences: Set<Int64> = [0, 1, 2, .max]
    for threshold in TimeBuckets.thresholds(last: last) {
      for number in [threshold.nextDown, threshold, threshold.nextUp] {
        guard let exact = Int64(exactly: number.rounded()) else { continue }
        for step in Int64(-1)...1 {
          let (difference, overflows) = exact.addingReportingOverflow(step)
          if !overflows, difference >= 0 { differences.insert(difference) }
        }
      }
    }
    return differences.sorted()
  }
}
