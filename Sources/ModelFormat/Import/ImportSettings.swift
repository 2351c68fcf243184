/// A setting as it was told, with its place.
struct ToldSetting {
  let key: ImportKey
  let reader: JSONReader
  /// Whether it comes from the command line; errors then have no line.
  let isFlag: Bool

  /// Where it was told, for reports: `--heads`, `config.json:3`.
  var source: String { isFlag ? reader.file : "\(reader.file):\(reader.node.line)" }

  /// What `body` makes of it.
  func read<T>(_ body: (JSONReader) throws(ModelError) -> T) throws(ModelError) -> T {
    do throws(ModelError) {
      return try body(reader)
    } catch {
      var error = error
      if isFlag { error.line = nil }
      throw error
    }
  }

  /// An error about its value.
  func error(_ message: String, hint: String? = nil) -> ModelError {
    var error = reader.error(.unexpectedValue, message, hint: hint)
    if isFlag { error.line = nil }
    return error
  }

  func positiveInteger() throws(ModelError) -> Int {
    try read { (reader) throws(ModelError) in try reader.positiveInteger() }
  }

  func string() throws(ModelError) -> String { try read { (reader) throws(ModelError) in try reader.string() } }

  /// One of a few words.
  func word(_ choices: [String]) throws(ModelError) -> String {
    let text = try string()
    guard choices.contains(text) else {
      throw error(
        "expected \(alternatives(choices)), found \(quoted(text))",
        hint: nearest(to: text, in: choices).map { "did you mean \($0)?" })
    }
    return text
  }

  /// The texts of a list.
  func strings() throws(ModelError) -> [String] {
    try read { (reader) throws(ModelError) in
      try reader.elements().map { (element) throws(ModelError) in try element.string() }
    }
  }
}

/// Everything that a user told, flags before the configuration.
struct ImportSettings {
  private var told: [ImportKey: ToldSetting] = [:]
  private var asked: Set<ImportKey> = []
  /// Fields of a configuration that say nothing that a model needs at inference.
  private(set) var withoutEffect: [String] = []

  /// Throws where a key means nothing.
  init(_ options: ImportOptions) throws(ModelError) {
    if let config = options.config { try read(JSONReader(config)) }
    for flag in options.flags {
      guard let key = ImportKey(rawValue: flag.key) else {
        throw ModelError(.unknownKey, file: flag.name, "there is no setting \(quoted(flag.key))")
      }
      told[key] = ToldSetting(
        key: key, reader: JSONReader(node: flag.value, path: "", file: flag.name), isFlag: true)
    }
  }

  private mutating func read(_ reader: JSONReader) throws(ModelError) {
    let known = ImportKey.allCases.map(\.rawValue)
    let all = known + PublishedConfig.keys
    var published = PublishedConfig()
    for (key, value) in try reader.object(all).values {
      if case .null = value.node.value, PublishedConfig.keys.contains(key) { continue }
      if let key = ImportKey(rawValue: key) {
        told[key] = ToldSetting(key: key, reader: value, isFlag: false)
      } else {
        published.fields.append((key, value))
      }
    }
    withoutEffect = published.withoutEffect
    for (key, reader) in try published.settings() {
      if let other = told.updateValue(ToldSetting(key: key, reader: reader, isFlag: false), forKey: key) {
        throw reader.error(
          .unexpectedValue, "says the same as \(quoted(other.reader.path))", hint: "keep one of the two")
      }
    }
  }

  /// The setting, where it was told.
  subscript(key: ImportKey) -> ToldSetting? {
    mutating get {
      asked.insert(key)
      return told[key]
    }
  }

  /// Throws where something was told that the model has no use for.
  func checkAllUsed(_ family: String) throws(ModelError) {
    if let key = ImportKey.allCases.first(where: { told[$0] != nil && !asked.contains($0) }), let setting = told[key] {
      throw setting.error("\(family) has no use for it", hint: "it is \(key.meaning)")
    }
  }

  /// The places in model.json that settings stand in as they were told.
  private static let places: [(place: String, key: ImportKey)] = [
    ("layer.mask", .mask), ("truncation", .truncation), ("layer.alpha", .alpha), ("layer.divisor", .divisor),
    ("layer.concatenate", .concatenate), ("input.contextual", .contextual), ("input.features", .features),
    ("input.content.features", .content), ("input.additional.features", .additional),
    ("output.ranking.items.features", .items), ("output.ranking.tasks", .tasks), ("input.action.bits", .actionBits),
    ("input.action.watch_time", .watchTime), ("input.combine", .combine), ("output.norm.periods", .periods),
    ("input.time.limit", .timeLimit), ("output.top_k.k", .topK), ("output.top_k.seen", .seen),
    ("output.top_k.first_row", .firstRow), ("output.scores.first_row", .firstRow),
  ]

  /// An error in the model.json that would be written, as one in what led to it.
  func atItsSource(_ error: ModelError, of file: String, checkpoint: String) -> ModelError {
    guard error.file == file else { return error }
    var moved = error
    moved.line = nil
    moved.file = checkpoint
    for (place, key) in Self.places where error.place.hasPrefix(place) {
      guard let setting = told[key] else { continue }
      let rest = error.place.dropFirst(place.count)
      moved.file = setting.reader.file
      moved.line = setting.isFlag ? nil : setting.reader.node.line
      moved.place = setting.isFlag ? String(rest.drop { $0 == "." }) : setting.reader.path + rest
      return moved
    }
    return moved
  }
}
