import FoundationEssentials

/// What a compilation did, step by step.
public struct CompileReport: Encodable, Sendable {
  /// One step of the compilation: the import, a pass, a lowering.
  public struct Step: Encodable, Sendable {
    /// "import", a pass with its options, "to-tiles" and the like.
    public var name: String
    /// What it found or did, in a few words.
    public var summary: String
    /// "exact", "approximate", "as trained"; empty where there is no choice.
    public var exactness = ""
    /// FLOP that the program needs after this step, for one sequence of `CompileReport.length` rows; nil where the step
    /// left it alone.
    public var flops: Double?
    /// What became of each layer, in their order, where the step changed the rows that layers run on.
    public var layers: [LayerChange] = []
    /// Seconds that the step took by the clock on the wall.
    public var seconds: Double
  }

  /// What a step made of one layer, on the sequence that work is counted for.
  public struct LayerChange: Encodable, Sendable {
    /// Rows that the layer gives, before and after the step.
    public var rows: [Int]
    /// Rows that it looks at, before and after.
    public var keys: [Int]
    /// FLOP of its products and its attention, before and after.
    public var flops: [Double]

    /// In words, numbers that did not change once.
    var text: String {
      func change(_ values: [String]) -> String {
        values[0] == values[1] ? values[0] : values.joined(separator: " -> ")
      }
      let gigaflops = flops.map { Quantity.digits($0 / 1e9) }
      return "\(change(rows.map(String.init))) rows, \(change(keys.map(String.init))) keys, \(change(gigaflops)) GFLOP"
    }
  }

  /// Rows of the sequence that work is counted for where the model does not bound them.
  static let defaultLength = 1024

  /// Targets of that sequence where the model tells targets apart.
  static let defaultTargets = 128

  /// The model's name.
  public var model: String
  /// Rows of the one sequence that `Step.flops` is counted for.
  public var length = CompileReport.defaultLength
  /// How many of those rows are targets.
  public var targets = 0
  /// In the order in which they were done.
  public var steps: [Step] = []
  /// What a lower precision costs, where that was measured.
  public var precision: PrecisionReport?
  /// What it costs to keep keys and values as codes, where that was measured.
  public var cachePrecision: PrecisionReport?
  /// What the user should know: tensors of the checkpoint that nothing uses, settings without effect.
  public var notes: [String] = []
  /// The file that was written; nil where text went elsewhere.
  public var written: Written?

  /// A file that a compilation wrote.
  public struct Written: Encodable, Sendable {
    /// As the user named it.
    public var path: String
    /// Its size.
    public var bytes: Int
    /// The levels of processors that it has code for; none where it is a program in another form.
    public var levels: [String]
    /// The GPUs that it has code for.
    public var gpus: [String]
    /// Seconds that the whole compilation took by the clock on the wall.
    public var seconds: Double

    /// The last line of the report.
    var line: String {
      let targets = levels + gpus
      return
        (["wrote \(path)", Quantity.bytes(Double(bytes))]
        + (targets.isEmpty ? [] : [targets.joined(separator: ", ")]) + [Quantity.seconds(seconds)])
        .joined(separator: "  ")
    }
  }

  /// The report as a table. `withTimes` adds the time of every step.
  public func lines(withTimes: Bool) -> [String] {
    var columns: [(title: String, alignment: TextTable.Alignment)] = [
      (model, .left), ("", .left), ("exact?", .left),
      ("GFLOP at \(length) rows" + (targets == 0 ? "" : ", \(targets) targets"), .right),
    ]
    if withTimes { columns.append(("time", .right)) }
    var table = TextTable(columns)
    for step in steps where withTimes || !step.summary.isEmpty {
      let flops = step.flops.map { Quantity.digits($0 / 1e9) } ?? ""
      table.add(
        ["  " + step.name, step.summary, step.exactness, flops] + (withTimes ? [Quantity.seconds(step.seconds)] : []))
      for (index, layer) in step.layers.enumerated() {
        table.add(["    layer \(index + 1)", layer.text, "", ""] + (withTimes ? [""] : []))
      }
    }
    return table.lines + [precision, cachePrecision].compactMap(\.self).flatMap(\.lines) + notes.map { "note: \($0)" }
      + (written.map { [$0.line] } ?? [])
  }

  /// The report for programs: one JSON object with the fields of this type.
  public func json() throws -> String {
    let encoder = JSONEncoder()
    encoder.nonConformingFloatEncodingStrategy = .convertToString(
      positiveInfinity: "infinity", negativeInfinity: "-infinity", nan: "nan")
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    return String(decoding: try encoder.encode(self), as: UTF8.self)
  }
}
