/// Passes with their options, one after the other: `canonicalize,prune-demand{targets=true},dce`.
public struct PassPipeline: Sendable, CustomStringConvertible {
  /// One pass with the options as written.
  public struct Step: Sendable, CustomStringConvertible {
    /// What runs.
    public let pass: ModulePass
    /// The options that were written; those that were not have their defaults.
    public let settings: [PassSetting]
    let body: ModulePass.Body

    /// Throws where an option is unknown, its value does not fit, or one that the pass needs is missing.
    public init(_ pass: ModulePass, _ settings: [PassSetting] = []) throws(PassError) {
      self.pass = pass
      self.settings = settings
      body = try pass.prepare(settings)
    }

    /// The pass with the defaults of its options; where it needs some that have none, running it throws.
    fileprivate init(defaultsOf pass: ModulePass) {
      self.pass = pass
      settings = []
      body = { module, context throws(PassError) in try pass.prepare([])(&module, &context) }
    }

    /// As on the command line.
    public var description: String {
      guard !settings.isEmpty else { return pass.name }
      return pass.name + "{\(settings.map { "\($0.name)=\($0.value)" }.joined(separator: ","))}"
    }
  }

  /// In the order in which they run; a pass may be there more than once.
  public var steps: [Step]

  /// These steps; none leave a module as it is.
  public init(_ steps: [Step] = []) { self.steps = steps }

  /// The passes with the defaults of their options.
  public init(_ passes: [ModulePass]) { steps = passes.map(Step.init(defaultsOf:)) }

  /// The pipeline that `text` spells: names with commas between, options in braces. Blanks mean nothing; no text is no
  /// passes. Throws with the column of what does not belong.
  public init(parsing text: String) throws(PassError) {
    var reader = PipelineReader(text)
    steps = try reader.steps()
  }

  /// As on the command line.
  public var description: String { steps.map(\.description).joined(separator: ",") }
}

private struct PipelineReader {
  private let characters: [Character]
  private var position = 0

  init(_ text: String) { characters = Array(text) }

  private func unexpected(_ expected: String) -> PassError {
    let found = position < characters.count ? "\"\(characters[position])\"" : "the end"
    return PassError("pass pipeline, column \(position + 1): expected \(expected), found \(found)")
  }

  private mutating func skipBlanks() {
    while position < characters.count, characters[position].isWhitespace { position += 1 }
  }

  /// Consumes the character where it is next, after blanks.
  private mutating func take(_ character: Character) -> Bool {
    skipBlanks()
    guard position < characters.count, characters[position] == character else { return false }
    position += 1
    return true
  }

  /// The longest run of characters that are no punctuation of a pipeline.
  private mutating func word(_ what: String) throws(PassError) -> String {
    skipBlanks()
    let start = position
    while position < characters.count, !"{}=,".contains(characters[position]), !characters[position].isWhitespace {
      position += 1
    }
    guard position > start else { throw unexpected(what) }
    return String(characters[start..<position])
  }

  mutating func steps() throws(PassError) -> [PassPipeline.Step] {
    var steps: [PassPipeline.Step] = []
    skipBlanks()
    if position == characters.count { return [] }
    repeat {
      let pass = try ModulePass.named(try word("a pass"))
      steps.append(try PassPipeline.Step(pass, try settings()))
    } while take(",")
    skipBlanks()
    guard position == characters.count else { throw unexpected("\",\" or the end") }
    return steps
  }

  private mutating func settings() throws(PassError) -> [PassSetting] {
    guard take("{") else { return [] }
    if take("}") { return [] }
    var settings: [PassSetting] = []
    repeat {
      let name = try word("an option, key=value")
      guard take("=") else { throw unexpected("\"=\"") }
      settings.append(PassSetting(name: name, value: try word("a value")))
    } while take(",")
    guard take("}") else { throw unexpected("\",\" or \"}\"") }
    return settings
  }
}
