import TensorIR

/// Whether a pass keeps results, or changes what is computed.
public enum Exactness: String, Hashable, Sendable, CaseIterable {
  /// Results stay bit for bit; a pass that takes sums and products in another order says so, and keeps them within the
  /// rounding of fp32.
  case exact
  /// Runs only where it is asked for, or where the model was trained so.
  case approximate
}

/// What a pass has at hand beside the module, and what it leaves for the report.
public struct PassContext: Sendable {
  /// What the pass did, in a few words each, for the compile report.
  public private(set) var notes: [String] = []

  /// Whether results stay what they were, where the options make it other than what the pass usually is.
  public var exactness: Exactness?

  /// Adds a line to the report, such as "3 operations removed".
  public mutating func note(_ text: String) { notes.append(text) }

  /// Adds "`count` `what`" unless the count is 0; a plural gets its s.
  public mutating func note(_ count: Int, _ what: String, _ rest: String) {
    if count > 0 { note("\(count) \(what)\(count == 1 ? "" : "s") \(rest)") }
  }
}

/// A pass from TensorIR to TensorIR: one value, which says everything about itself.
public struct ModulePass: Sendable {
  /// As on the command line.
  public let name: String
  /// What it does, in one line.
  public let summary: String
  /// Whether results stay what they were.
  public let exactness: Exactness
  /// The options it takes, in the order in which help lists them.
  public let options: [PassOptionDescription]

  typealias Body = @Sendable (inout Module, inout PassContext) throws(PassError) -> Void
  /// Reads the options and gives what runs with them.
  let prepare: @Sendable ([PassSetting]) throws(PassError) -> Body

  /// A pass that does what `run` does, with the options that were written, each default where it was not. `run` throws
  /// where the pass cannot do its work; the manager adds the pass's name.
  public init<Options: PassOptions>(
    name: String, summary: String, options: Options.Type, exactness: Exactness,
    run: @escaping @Sendable (inout Module, Options, inout PassContext) throws(PassError) -> Void
  ) {
    self.name = name
    self.summary = summary
    self.exactness = exactness
    self.options = Options.descriptions
    prepare = { settings throws(PassError) in
      let options = try Options.read(settings, for: name)
      return { module, context throws(PassError) in try run(&module, options, &context) }
    }
  }
}
