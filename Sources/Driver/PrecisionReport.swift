import Passes

/// What a lower precision does to a model, measured on real inputs.
public struct PrecisionReport: Encodable, Sendable {
  /// One product, attention or lookup in fewer bits, or one that the budget left in fp32.
  public struct Layer: Encodable, Hashable, Sendable {
    /// The name of its result.
    public var name: String
    /// How it is computed.
    public var precision: Precision
    /// Signal to quantization noise of its own result, in dB, for operands that are exact; infinite where nothing is lost.
    public var signalToNoise: Double
    /// The largest error of its own result, for operands that are exact.
    public var largestError: Double
  }

  /// One output of the model.
  public struct Output: Encodable, Hashable, Sendable {
    /// Its name.
    public var name: String
    /// The largest error of any number, as a share of the output's largest magnitude.
    public var error: Double
    /// Signal to noise in dB.
    public var signalToNoise: Double
    /// The share of each row's best columns that the lower precision loses; nil where the metric is another, and for outputs
    /// narrower than the one that is ranked.
    public var lost: Double?
  }

  /// The file that the inputs came from, and how many sequences of it were run.
  public var file: String
  /// Sequences that were run; nil where the model's inputs are not cut into any.
  public var sequences: Int?
  /// In the order of the program.
  public var layers: [Layer] = []
  /// In the order of the program: all errors together.
  public var outputs: [Output] = []
  /// What the budget limits.
  public var metric = Calibration.Metric.error
  /// The budget; nil where there is none.
  public var maxError: Double?

  /// The worst of any output, by the metric; infinite where an output is no number.
  public var error: Double { outputs.compactMap { $0.error(metric) }.max() ?? 0 }

  /// The report as text.
  public var lines: [String] {
    let batch = sequences.map { "\($0) sequences of " } ?? ""
    var table = TextTable([
      ("precision on \(batch)\(file)", .left), ("", .left), ("SQNR dB", .right), ("largest error", .right),
    ])
    for layer in layers {
      let isFull = layer.precision == .full
      table.add([
        "  " + layer.name, layer.precision.rawValue, isFull ? "" : Self.decibels(layer.signalToNoise),
        isFull ? "" : Quantity.scientific(layer.largestError),
      ])
    }
    for output in outputs {
      table.add(["output " + output.name, "", Self.decibels(output.signalToNoise), Quantity.scientific(output.error)])
    }
    let budget = maxError.map { "; at most \(Quantity.scientific($0)) is allowed" } ?? ""
    guard case .best(let count) = metric else {
      return table.lines + ["an output's error is a share of its largest magnitude\(budget)"]
    }
    let losses = outputs.compactMap { output in
      output.lost.map { "of each row's best \(count) of \(output.name) \(Quantity.scientific($0)) are lost\(budget)" }
    }
    return table.lines + ["an output's error is a share of its largest magnitude"] + losses
  }

  private static func decibels(_ value: Double) -> String {
    value.isFinite ? Quantity.fixed(value, decimals: 1) : "exact"
  }
}

extension PrecisionReport.Output {
  /// What the metric says of this output; nil where it says nothing.
  func error(_ metric: Calibration.Metric) -> Double? {
    switch metric {
    case .error: error
    case .best: lost
    }
  }
}
