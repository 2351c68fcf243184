import ArgumentParser
import Artifact
import Driver
import FoundationEssentials
import TensorIR
import UltraRuntime

struct BenchCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "bench",
    abstract: "Measure how fast an artifact runs on this machine.",
    discussion: """
      Batches are made up: --batch sequences of one length, with ids that the model's tables have. GFLOP counts what \
      the model needs, products and attention over the keys that its masks show, however it is done. The peak is \
      measured beside it: multiply-adds that wait for nothing, on as many threads, of each type of numbers that the model \
      multiplies; the share of it is how long the model's would take at their peaks. Then come the kernels of the last \
      length: what they move is what they take from others and give to others, each once, beside what memory gives.

        ultrac bench model.ultra
        ultrac bench model.ultra --lengths 256,1024,4096 --threads 2
        ultrac bench model.ultra --lengths 1024 --trace out.json     open it at ui.perfetto.dev
        ultrac bench model.ultra --history 1024,4096 --candidates 100                   history and candidates again
        ultrac bench model.ultra --entry score --history 1024,4096 --candidates 100     candidates alone

      What is kept of histories, which score and extend take, is what the artifact's prefill gives for them: it is run \
      first, once for each length.
      """)

  @Argument(help: "The artifact.", completion: .file(extensions: ["ultra"]))
  var artifact: String

  @Option(
    help: "Rows of each sequence, several with commas (default: 256, 1024 and 4096, or what the model allows).",
    transform: Self.lengths)
  var lengths: [Int]?

  @Option(
    help: """
      In place of --lengths, rows of each sequence before its candidates, several with commas; of score and extend the \
      rows that are kept (default: as those of --lengths).
      """, transform: Self.lengths)
  var history: [Int]?

  @Option(help: "With score or --history, candidates of each sequence (default: 100).")
  var candidates: Int?

  @Option(help: "With extend, further rows of each history (default: 1).")
  var events: Int?

  @Option(help: "Sequences of each batch.")
  var batch = 1

  @Option(help: "With --lengths, rows at the end of each sequence that are targets, for models that have them.")
  var targets = 1

  @Option(help: "Threads to run on.")
  var threads = 1

  @Option(help: "Seconds to measure each length for.")
  var seconds = 1.0

  @Option(help: "Runs to measure of each length, at least.")
  var runs = 10

  @Option(help: "Which of the artifact's entries to run.")
  var entry = "forward"

  @Flag(help: "Print the figures as JSON.")
  var json = false

  @Option(
    help: ArgumentHelp(
      "Write when each kernel and block of one run of the last length ran, for Perfetto and chrome://tracing.",
      valueName: "file"))
  var trace: String?

  private static func lengths(_ text: String) throws -> [Int] {
    try text.split(separator: ",", omittingEmptySubsequences: false).map { part in
      guard let length = Int(part), (0...1 << 30).contains(length) else {
        throw ValidationError("expected numbers of rows with commas between, found \"\(part)\"")
      }
      return length
    }
  }

  func validate() throws {
    guard (1...1 << 20).contains(batch) else { throw ValidationError("--batch must be from 1 to 1048576") }
    guard targets >= 0 else { throw ValidationError("--targets must not be negative") }
    for (name, count) in [("--candidates", candidates), ("--events", events)] {
      guard (0...1 << 20).contains(count ?? 0) else { throw ValidationError("\(name) must be from 0 to 1048576") }
    }
    if lengths != nil && history != nil { throw ValidationError("--lengths and --history exclude each other") }
    guard (1...4096).contains(threads) else { throw ValidationError("--threads must be from 1 to 4096") }
    guard (1...1000).contains(runs) else { throw ValidationError("--runs must be from 1 to 1000") }
    guard seconds > 0 && seconds <= 3600 else { throw ValidationError("--seconds must be above 0, at most 3600") }
  }

  func run() throws {
    defer { Terminal.endProgress() }
    let model = try LoadedModel(path: artifact)
    let pool = try makePool(threads: threads)
    let session = try Session(model, entry: entry, pool: pool)
    let batches = BenchBatches(model: model, entry: session.entry, pool: pool, sequences: batch)
    try checkLengths(batches)
    let function = try function(of: model)
    Terminal.showProgress("measuring the machine's peak")
    var report = Report(
      model: model.manifest.model.name, level: model.level, threads: threads, batch: batch,
      peakFlopsPerSecond: try MachinePeak.measure(level: model.level, threads: threads), points: [])
    report.peaks["f32"] = report.peakFlopsPerSecond
    for element in [ElementType.bf16, .i8] where function?.multiplies(element) == true {
      report.peaks[element.rawValue] = try MachinePeak.measure(element, level: model.level, threads: threads)
    }
    report.bandwidth = try MachineBandwidth.measureRead(level: model.level, threads: threads)
    let kernels = model.manifest.kernels.filter { $0.entry == entry }
    for rows in rowCounts(batches, longest: function?.longestSequence) {
      Terminal.showProgress("\(rows.kept + rows.new) rows")
      let made = try batches.make(rows)
      try session.bind(made.inputs)
      var point = try measure(session, function, rows, made.shape, peaks: report.peaks)
      point.kernels = try KernelTimes.measure(
        session, kernels, function, made.shape, runs: min(runs, 7), peaks: report.peaks, bandwidth: report.bandwidth)
      report.points.append(point)
    }
    if let trace {
      let record = try session.record(blocks: true)
      try writeFile(
        TraceFile(record) { kernels.indices.contains($0) ? kernels[$0].name : "kernel \($0)" }.bytes(), to: trace)
    }
    Terminal.endProgress()
    if json {
      let encoder = JSONEncoder()
      encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
      print(String(decoding: try encoder.encode(report), as: UTF8.self))
    } else {
      for line in report.lines { print(line) }
    }
  }

  private static func defaultLengths(_ bound: Int?) -> [Int] {
    let lengths = [256, 1024, 4096]
    guard let bound, bound < 4096 else { return lengths }
    return lengths.filter { $0 < bound } + [bound]
  }

  /// The program that the artifact was compiled from; nil where it keeps none.
  private func function(of model: LoadedModel) throws -> Function? {
    try model.manifest.program.flatMap { try TensorIRParser.parse($0, file: artifact).function(named: entry) }
  }

  /// Options of lengths that mean nothing for the entry are errors, not looked over.
  private func checkLengths(_ batches: BenchBatches) throws {
    if batches.takesKept, lengths != nil {
      throw ValidationError("--lengths is of whole sequences; \(entry) takes --history, the rows that are kept")
    }
    if candidates != nil, entry == "extend" {
      throw ValidationError("extend has no candidates; further rows are --events")
    }
    if candidates != nil, !batches.takesKept, history == nil {
      throw ValidationError("--candidates needs --history; --targets says how many of --lengths are candidates")
    }
    if candidates ?? 0 > 0, !batches.takesKept, !batches.hasTargets {
      throw ValidationError("\(entry) takes no candidates")
    }
    if events != nil, entry != "extend" { throw ValidationError("--events is for extend") }
  }

  /// The rows of each sequence that the options ask for, one batch after the other.
  private func rowCounts(_ batches: BenchBatches, longest: Int?) -> [BenchBatches.Rows] {
    if batches.takesKept {
      let new = entry == "extend" ? events ?? 1 : candidates ?? 100
      return (history ?? Self.defaultLengths(longest.map { max($0 - new, 0) })).map {
        BenchBatches.Rows(kept: $0, new: new, targets: 0)
      }
    }
    if let history {
      let candidates = batches.hasTargets ? candidates ?? 100 : 0
      return history.map { BenchBatches.Rows(kept: 0, new: $0 + candidates, targets: candidates) }
    }
    return (lengths ?? Self.defaultLengths(longest)).map {
      BenchBatches.Rows(kept: 0, new: $0, targets: min(targets, $0))
    }
  }

  private func measure(
    _ session: Session, _ function: Function?, _ rows: BenchBatches.Rows, _ shape: BatchShape, peaks: [String: Double]
  ) throws -> Report.Point {
    let plan = MeasurementPlan(warmups: min(3, runs), minimumRuns: runs, seconds: seconds)
    let measurement = try plan.measure { () throws(RuntimeError) in try session.call() }
    let atPeak = function.map { function in
      function.costs(on: shape).reduce(0) { $0 + function.secondsAtPeak($1.operation, $1.cost.flops, peaks) }
    }
    return Report.Point(
      kept: rows.kept, length: rows.new, median: measurement.median, p99: measurement.p99, runs: measurement.runs,
      flops: function?.cost(on: shape).flops, shareOfPeak: atPeak.map { $0 / measurement.median },
      workspaceBytes: session.workspaceSize)
  }
}

extension Function {
  /// What the instructions multiply that compute an operation; nil where it is no product.
  fileprivate func multipliedElement(of id: OperationID) -> ElementType? {
    let operation = self[id]
    switch operation.payload {
    case .linear, .attention, .quantizedLinear, .topK:
      let element = self[operation.operands[0]].type.tensor?.element
      // Codes of f8e4m3 are multiplied as the bf16 numbers that they are.
      return element == .f8e4m3 ? .bf16 : element
    default: return nil
    }
  }

  /// The time that an operation of so many FLOP takes where its multiply-adds wait for nothing.
  func secondsAtPeak(_ id: OperationID, _ flops: Double, _ peaks: [String: Double]) -> Double {
    flops / (peaks[multipliedElement(of: id)?.rawValue ?? "f32"] ?? .infinity)
  }

  fileprivate func multiplies(_ element: ElementType) -> Bool {
    body.contains { multipliedElement(of: $0) == element }
  }
}

extension BenchCommand {
  /// What was measured.
  struct Report: Encodable {
    struct Point: Encodable {
      /// Rows of each sequence that are kept from an earlier call.
      var kept: Int
      /// Rows of each sequence that the call brings.
      var length: Int
      /// Seconds a batch: half of the runs took no longer, and 99 of 100.
      var median: Double
      var p99: Double
      var runs: Int
      /// What a batch needs; nil where the artifact does not tell.
      var flops: Double?
      /// The time that its multiply-adds would take at their peaks, over the median.
      var shareOfPeak: Double?
      var workspaceBytes: Int
      var kernels: [KernelTimes] = []

      var flopsPerSecond: Double? { flops.map { $0 / median } }

      /// "100 rows behind 4096 that are kept", of the whole batch.
      func rowsText(_ batch: Int) -> String {
        "\(length * batch) rows" + (kept > 0 ? " behind \(kept * batch) that are kept" : "")
      }
    }

    var model: String
    var level: String
    var threads: Int
    var batch: Int
    /// Of fp32.
    var peakFlopsPerSecond: Double
    /// By the name of an element type that the model multiplies.
    var peaks: [String: Double] = [:]
    /// Bytes a second that memory gives.
    var bandwidth = 0.0
    var points: [Point]

    var lines: [String] {
      let keeps = points.contains { $0.kept > 0 }
      var table = TextTable(
        (keeps ? [("kept", .right)] : []) + [
          ("rows", .right), ("median", .right), ("p99", .right), ("runs", .right), ("GFLOP", .right),
          ("GFLOP/s", .right), ("of peak", .right), ("workspace", .right),
        ])
      for point in points {
        table.add(
          (keeps ? ["\(point.kept * batch)"] : []) + [
            "\(point.length * batch)", Quantity.seconds(point.median), Quantity.seconds(point.p99), "\(point.runs)",
            point.flops.map { Quantity.digits($0 / 1e9) } ?? "-",
            point.flopsPerSecond.map { Quantity.digits($0 / 1e9) } ?? "-", share(point) ?? "-",
            Quantity.bytes(Double(point.workspaceBytes)),
          ])
      }
      let sequences = batch == 1 ? "one sequence" : "\(batch) sequences"
      let place = "\(level), \(threads) thread\(threads == 1 ? "" : "s")"
      return [
        "\(model), \(sequences) a batch, \(place), \(peakText) GFLOP/s"
      ] + table.lines + kernelLines + quotable
    }

    private var peakText: String {
      ["f32", "bf16", "i8"].compactMap { element in
        let name = element == "f32" ? "fp32" : element == "i8" ? "int8" : element
        return peaks[element].map { "\(name) peak \(Quantity.digits($0 / 1e9))" }
      }.joined(separator: ", ")
    }

    private func share(_ point: Point) -> String? {
      point.shareOfPeak.map { "\(Quantity.fixed($0 * 100, decimals: 0)) %" }
    }

    /// Where the time of the last length goes.
    private var kernelLines: [String] {
      guard let last = points.last, !last.kernels.isEmpty else { return [] }
      let title = "kernels at \(last.rowsText(batch)), memory \(Quantity.digits(bandwidth / 1e9)) GB/s"
      return ["", title] + KernelTimes.lines(last.kernels) + [""]
    }

    /// One line that says it all.
    private var quotable: [String] {
      guard let last = points.last, let share = share(last) else { return [] }
      let speed = Quantity.digits((last.flopsPerSecond ?? 0) / 1e9)
      return [
        "\(model): \(last.rowsText(batch)) in \(Quantity.seconds(last.median)), \(speed) GFLOP/s, "
          + "\(share) of this machine's \(peaks.count > 1 ? "" : "fp32 ")peak on \(threads) thread\(threads == 1 ? "" : "s")"
      ]
    }
  }
}
