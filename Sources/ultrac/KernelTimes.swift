import Artifact
import Driver
import TensorIR
import UltraRuntime

/// How long one kernel of a batch takes, and what it does meanwhile.
struct KernelTimes: Encodable {
  var name: String
  /// The operations that it computes; empty where the artifact does not tell.
  var computes: String
  /// Seconds from its first block's begin to its last one's end: half of the runs took no longer.
  var median: Double
  /// Of all kernels' time.
  var share: Double
  /// What it needs; nil where the artifact does not tell.
  var flops: Double?
  /// The time that its multiply-adds would take at their peaks, over the median.
  var shareOfPeak: Double?
  /// What it takes from other kernels and weights and gives to others, each once.
  var bytes: Double?
  /// Of what memory gives.
  var shareOfBandwidth: Double?

  /// Of the session's bound batch, whose shape is given, by so many recorded runs; medians of few are
  /// enough, since blocks are many. A kernel stands for a unit of the program, in order, but for those that compute
  /// nothing of it and only prepare or gather what others do; where their numbers differ, only times are told.
  static func measure(
    _ session: Session, _ kernels: [Manifest.Kernel], _ function: Function?, _ shape: BatchShape,
    runs: Int, peaks: [String: Double], bandwidth: Double
  ) throws -> [KernelTimes] {
    let records = try (0..<runs).map { _ in try session.record() }
    let count = records.map(\.kernels.count).min() ?? 0
    let units = function.map { function in
      function.unitCosts(on: shape).filter { function.isKernel($0.unit) }
    }
    var costs: [OperationID: Double] = [:]
    for entry in function?.costs(on: shape) ?? [] { costs[entry.operation] = entry.cost.flops }
    let working = kernels.indices.filter { !kernels[$0].computes.isEmpty }
    var times = (0..<count).map { index in
      let seconds = records.map { Double($0.kernels[index].end - $0.kernels[index].start) * 1e-9 }.sorted()[runs / 2]
      let isKnown = kernels.count == count
      var time = KernelTimes(
        name: isKnown ? kernels[index].name : "kernel \(index)", computes: isKnown ? kernels[index].computes : "",
        median: seconds, share: 0)
      guard isKnown, let units, units.count == working.count, let place = working.firstIndex(of: index), let function,
        seconds > 0
      else { return time }
      let (unit, cost) = units[place]
      time.flops = cost.flops
      time.bytes = cost.bytes
      time.shareOfBandwidth = cost.bytes / seconds / bandwidth
      time.shareOfPeak =
        unit.operations.reduce(0) { $0 + function.secondsAtPeak($1, costs[$1] ?? 0, peaks) } / seconds
      return time
    }
    let all = times.reduce(0) { $0 + $1.median }
    for index in times.indices { times[index].share = all > 0 ? times[index].median / all : 0 }
    return times
  }

  static func lines(_ times: [KernelTimes]) -> [String] {
    var table = TextTable([
      ("  kernel", .left), ("median", .right), ("of all", .right), ("GFLOP/s", .right), ("of peak", .right),
      ("moves", .right), ("of memory", .right), ("computes", .left),
    ])
    func percent(_ share: Double?) -> String { share.map { "\(Quantity.fixed($0 * 100, decimals: 0)) %" } ?? "-" }
    for time in times {
      let works = (time.flops ?? 0) > 0
      table.add([
        "  " + time.name, Quantity.seconds(time.median), percent(time.share),
        works ? Quantity.digits((time.flops ?? 0) / time.median / 1e9) : "-", works ? percent(time.shareOfPeak) : "-",
        time.bytes.map { Quantity.bytes($0) } ?? "-", percent(time.shareOfBandwidth), time.computes,
      ])
    }
    return table.lines
  }
}
