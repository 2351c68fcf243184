import TensorIR

/// Something that an import found out of a model, and from what.
public struct ImportFact: Hashable, Sendable {
  /// Where a fact comes from.
  public enum Origin: String, Hashable, Sendable {
    /// Names, shapes or values of the checkpoint's tensors.
    case checkpoint
    /// The user, by a flag or a configuration.
    case told
    /// What models of the family have in common.
    case family
  }

  /// What it is of: `heads`, `layers`.
  public var name: String
  /// In text.
  public var value: String
  /// Where it comes from.
  public var origin: Origin
  /// The tensor, flag or place that says so; words where it is the family.
  public var source: String
}

/// model.json of a checkpoint, checked against it.
public struct CheckpointImport: Sendable {
  /// The text of model.json.
  public var text: String
  /// What it describes.
  public var description: ModelDescription
  /// Which form of the family the checkpoint has, in a few words.
  public var form: String
  /// What was found out, in the order of the computation.
  public var facts: [ImportFact]
  /// Tensors that the model does not use, sorted by name.
  public var unusedTensors: [String]
  /// Fields of a configuration that have no effect at inference.
  public var withoutEffect: [String]
}

/// Describes a trained model by its checkpoint: widths, layers and parts from names and shapes, the rest from what was told.
///
/// Every tensor that the model needs is checked for presence, shape and element type, as by `importModel`. Throws, beside that, where
/// shapes contradict one another or what was told, and where something is missing that shapes do not tell: then with every such setting.
public func describeCheckpoint(
  _ checkpoint: Checkpoint, _ options: ImportOptions
) throws(ModelError) -> CheckpointImport {
  let names: FamilyNames
  switch options.family {
  case .ranking: names = .ranking
  case .retrieval: names = FamilyNames.retrieval(in: checkpoint, prefix: options.prefix)
  }
  let found = try FoundTensors(checkpoint, names, prefix: options.prefix)
  var describer = Describer(found, try ImportSettings(options), names: names)
  let model = try describer.model(options)
  try describer.settings.checkAllUsed(names.title)

  // What is written is read back: the reader of model.json has the last word on what a model may be, and on every tensor.
  let text = model.pretty + "\n"
  let file = "model.json"
  do throws(ModelError) {
    let description = try ModelDocument(JSONDocument(text, file: file)).description
    let built = try description.build(from: checkpoint)
    return CheckpointImport(
      text: text, description: description, form: names.title, facts: describer.facts,
      unusedTensors: built.unusedTensors.filter { !describer.readSettings.contains($0) },
      withoutEffect: describer.settings.withoutEffect)
  } catch {
    throw describer.settings.atItsSource(error, of: file, checkpoint: checkpoint.fileNames)
  }
}

extension FamilyNames {
  /// The form of retrieval models that a checkpoint has: production layers where there is one, else the research code.
  fileprivate static func retrieval(in checkpoint: Checkpoint, prefix: String) -> FamilyNames {
    let isStack = checkpoint.names.contains { name in
      name.hasPrefix(prefix) && name.hasSuffix("._uvqk_weight")
    }
    return isStack ? stack : research
  }
}

/// Makes model.json of what was found and told.
struct Describer {
  let found: FoundTensors
  let names: FamilyNames
  var settings: ImportSettings
  private(set) var facts: [ImportFact] = []
  /// What must be told and was not, with what narrows it down.
  private var missing: [(key: ImportKey, hint: String?)] = []
  /// Tensors that say what model.json says, and are no weights.
  private(set) var readSettings: Set<String> = []

  init(_ found: FoundTensors, _ settings: ImportSettings, names: FamilyNames) {
    self.found = found
    self.settings = settings
    self.names = names
  }

  mutating func model(_ options: ImportOptions) throws(ModelError) -> JSONNode {
    guard !found.layers.isEmpty else { throw missingTensor(names.example, "the first layer needs it") }
    try checkLayers()
    note("width", found[.width], .width)
    try check(.width, is: found[.width])
    facts.append(
      ImportFact(name: "layers", value: "\(found.layers.count)", origin: .checkpoint, source: "names of tensors"))
    try check(.layerCount, is: found.layers.count)
    let parts: [(key: String, value: JSONNode?)]
    switch options.family {
    case .ranking: parts = try ranking()
    case .retrieval: parts = try names.title == FamilyNames.research.title ? researchRetrieval() : stackRetrieval()
    }
    try checkNothingMissing()
    return .object(
      [
        ("format", .text(ModelDocument.format)), ("name", .text(options.name)),
        ("weights", .list(options.weights.map { .text($0) })), ("width", found[.width].map { .integer($0) }),
      ] + parts)
  }

  /// Layers are counted from 0 without gaps, in every stack.
  private func checkLayers() throws(ModelError) {
    let known = Set(found.layers)
    for path in found.layers {
      for depth in path.indices where path[depth] > 0 {
        let before = Array(path[..<depth]) + [path[depth] - 1]
        guard !known.contains(where: { $0.starts(with: before) }) else { continue }
        let (name, other) = (
          before.map(String.init).joined(separator: "."), path.map(String.init).joined(separator: ".")
        )
        throw ModelError(
          .missingTensor, file: found.checkpoint.fileNames,
          "there are weights of layer \(other), but none of layer \(name)",
          hint: "the checkpoint may be one part of several: name them all")
      }
    }
  }

  func missingTensor(_ name: String, _ reason: String) -> ModelError {
    let near = nearest(to: name, in: found.checkpoint.names)
    return ModelError(
      .missingTensor, file: found.checkpoint.fileNames, place: "tensor \(quoted(name))", "not found, but \(reason)",
      hint: near.map { "the nearest name is \(quoted($0))" })
  }

  // MARK: - Facts

  /// A number that a shape told.
  mutating func note(_ name: String, _ value: Int?, _ extent: Extent) {
    guard let value, let told = found.extents[extent] else { return }
    note(name, "\(value)", .checkpoint, "\(told.tensor.name) \(told.tensor.entry.shape)")
  }

  mutating func note(_ name: String, _ value: String, _ origin: ImportFact.Origin, _ source: String) {
    facts.append(ImportFact(name: name, value: value, origin: origin, source: source))
  }

  /// What all models of the family have.
  mutating func noteFamily(_ name: String, _ value: String, _ source: String) { note(name, value, .family, source) }

  // MARK: - Settings

  /// The value of a setting that must be told; nil, and noted as missing, where it was not.
  mutating func require(_ key: ImportKey, hint: String? = nil) -> ToldSetting? {
    if let setting = settings[key] { return setting }
    missing.append((key, hint))
    return nil
  }

  /// The value of a setting as it is to stand in model.json, with its fact.
  mutating func passOn(_ key: ImportKey, required: Bool = true, hint: String? = nil) -> JSONNode? {
    guard let setting = required ? require(key, hint: hint) : settings[key] else { return nil }
    note(key.rawValue, setting.reader.node.plain, .told, setting.source)
    return setting.reader.node
  }

  /// Throws where what was told is not what shapes tell.
  mutating func check(_ key: ImportKey, is value: Int?) throws(ModelError) {
    guard let setting = settings[key], let value else { return }
    let told = try setting.positiveInteger()
    if told != value { throw setting.error("\(told), but the checkpoint has \(value)", hint: "it is \(key.meaning)") }
  }

  /// Throws with everything that must be told and was not.
  func checkNothingMissing() throws(ModelError) {
    guard !missing.isEmpty else { return }
    let flags = missing.map { missing in [missing.key.flag, missing.key.flagValue ?? ""].filter { !$0.isEmpty } }
      .map { $0.joined(separator: " ") }
    let width = flags.map(\.count).max() ?? 0
    let keyWidth = missing.map { $0.key.rawValue.count }.max() ?? 0
    let lines = zip(flags, missing).map { flag, missing in
      let key = missing.key.rawValue
      return "  " + flag + String(repeating: " ", count: width - flag.count + 2) + key
        + String(repeating: " ", count: keyWidth - key.count + 2) + missing.key.meaning
        + (missing.hint.map { "; \($0)" } ?? "")
    }
    let settings = missing.count == 1 ? "1 setting is" : "\(missing.count) settings are"
    throw ModelError(
      .missingKey, file: found.checkpoint.fileNames,
      "\(settings) needed that names and shapes do not tell; give them as flags, or under the key in the second column of --config config.json:\n"
        + lines.joined(separator: "\n"))
  }

  /// A tensor that model.json has values or an extent of is used, if not by the compiled model.
  mutating func markRead(_ tensor: FoundTensors.Tensor) { readSettings.insert(tensor.name) }

  /// The values of a buffer.
  mutating func integers(of setting: StoredSetting, _ name: String) throws(ModelError) -> [Int]? {
    guard let values = try found.integers(of: setting), let tensor = found[.stored(setting)] else { return nil }
    markRead(tensor)
    note(name, values.map(String.init).joined(separator: ", "), .checkpoint, tensor.name)
    return values
  }
}

extension JSONNode {
  /// On one line, a string without its quotes: for reports.
  fileprivate var plain: String { if case .string(let text) = value { text } else { compact } }
}
