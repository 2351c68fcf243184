/// How long something took, many times over.
public struct Measurement: Hashable, Sendable {
  /// Seconds of each run, ascending.
  public let seconds: [Double]

  init(seconds: [Double]) { self.seconds = seconds.sorted() }

  /// How many runs counted.
  public var runs: Int { seconds.count }
  /// Seconds of the fastest run; NaN without runs.
  public var minimum: Double { percentile(0) }
  /// Seconds that half of the runs did not exceed; NaN without runs.
  public var median: Double { percentile(50) }
  /// Seconds that 99 of 100 runs did not exceed; NaN without runs.
  public var p99: Double { percentile(99) }
  /// Seconds of the slowest run; NaN without runs.
  public var maximum: Double { percentile(100) }

  /// The time that `percent` of the runs did not exceed (nearest rank).
  public func percentile(_ percent: Double) -> Double {
    guard !seconds.isEmpty else { return .nan }
    let rank = (percent / 100 * Double(seconds.count)).rounded(.up)
    return seconds[min(max(Int(rank) - 1, 0), seconds.count - 1)]
  }
}

/// How often to repeat what is measured.
public struct MeasurementPlan: Hashable, Sendable {
  /// Runs before the first that counts: they touch memory for the first time and wake threads.
  public var warmups: Int
  /// Runs that count, even where they take longer than `seconds`.
  public var minimumRuns: Int
  /// Runs that count, at most, however short they are; at least one is made.
  public var maximumRuns: Int
  /// After so long, no more runs begin.
  public var seconds: Double

  /// By default 3 runs that do not count, then at least 10 for one second.
  public init(warmups: Int = 3, minimumRuns: Int = 10, maximumRuns: Int = 100_000, seconds: Double = 1) {
    self.warmups = warmups
    self.minimumRuns = minimumRuns
    self.maximumRuns = maximumRuns
    self.seconds = seconds
  }

  /// Times `body` again and again.
  public func measure<Failure: Error>(_ body: () throws(Failure) -> Void) throws(Failure) -> Measurement {
    let clock = ContinuousClock()
    for _ in 0..<max(0, warmups) { try body() }
    let limit = max(1, maximumRuns)
    var seconds: [Double] = []
    seconds.reserveCapacity(min(limit, 4096))
    let start = clock.now
    while seconds.count < limit {
      let before = clock.now
      try body()
      let after = clock.now
      seconds.append((after - before).inSeconds)
      if (after - start).inSeconds >= self.seconds && seconds.count >= minimumRuns { break }
    }
    return Measurement(seconds: seconds)
  }
}

extension Duration {
  fileprivate var inSeconds: Double {
    Double(components.seconds) + Double(components.attoseconds) * 1e-18
  }
}
