import FoundationEssentials

extension Manifest.Extent: Codable {
  /// From a whole number or a dimension's name. Throws `DecodingError` for anything else.
  public init(from decoder: any Decoder) throws {
    let container = try decoder.singleValueContainer()
    if let extent = try? container.decode(Int.self) {
      self = .fixed(extent)
    } else if let name = try? container.decode(String.self) {
      self = .symbol(name)
    } else {
      throw DecodingError.dataCorruptedError(
        in: container, debugDescription: "expected a whole number or the name of a dimension")
    }
  }

  /// As a whole number or a dimension's name.
  public func encode(to encoder: any Encoder) throws {
    var container = encoder.singleValueContainer()
    switch self {
    case .fixed(let extent): try container.encode(extent)
    case .symbol(let name): try container.encode(name)
    }
  }
}

extension Manifest.Bound: Codable, ExpressibleByStringLiteral {
  private enum Key: String, CodingKey { case terms, constant }

  /// The extent of this dimension itself.
  public init(stringLiteral value: String) { self.init([Term(value)]) }

  /// From the name of a dimension, or from an object of `terms` (each `dimension` and `times`) and perhaps `constant`. Throws
  /// `DecodingError` for anything else.
  public init(from decoder: any Decoder) throws {
    if let name = try? decoder.singleValueContainer().decode(String.self) {
      self.init([Term(name)])
      return
    }
    let container = try decoder.container(keyedBy: Key.self)
    self.init(
      try container.decode([Term].self, forKey: .terms),
      constant: try container.decodeIfPresent(Int.self, forKey: .constant) ?? 0)
  }

  /// As the name of a dimension where it is that dimension's extent.
  public func encode(to encoder: any Encoder) throws {
    if terms.count == 1, terms[0].times == 1, constant == 0 {
      var container = encoder.singleValueContainer()
      return try container.encode(terms[0].dimension)
    }
    var container = encoder.container(keyedBy: Key.self)
    try container.encode(terms, forKey: .terms)
    if constant != 0 { try container.encode(constant, forKey: .constant) }
  }
}

extension Manifest.Port: Codable {
  private enum Key: String, CodingKey {
    case name, kind, element, shape, sequences, rows, role, below, keeps, window, description
  }
  private enum Kind: String, Codable { case tensor, offsets }
  private enum RoleName: String, Codable {
    case ids, timestamps
    case targetCounts = "target-counts"
    case featureOffsets = "feature-offsets"
  }

  /// From an object of `name`, `kind`, `element` and what the kind has: `shape`, or `sequences` and `rows`; optionally
  /// `role` (with `below` for ids), `keeps`, `window` and `description`. Throws `DecodingError` where a key is missing or its value is of
  /// another kind.
  public init(from decoder: any Decoder) throws {
    let container = try decoder.container(keyedBy: Key.self)
    name = try container.decode(String.self, forKey: .name)
    description = try container.decodeIfPresent(String.self, forKey: .description)
    keeps = try container.decodeIfPresent(String.self, forKey: .keeps)
    window = try container.decodeIfPresent(Manifest.Window.self, forKey: .window)
    role =
      switch try container.decodeIfPresent(RoleName.self, forKey: .role) {
      case .ids: .ids(below: try container.decode(Int.self, forKey: .below))
      case .targetCounts: .targetCounts
      case .featureOffsets: .featureOffsets
      case .timestamps: .timestamps
      case nil: nil
      }
    switch try container.decode(Kind.self, forKey: .kind) {
    case .tensor:
      type = .tensor(
        element: try container.decode(Manifest.Element.self, forKey: .element),
        shape: try container.decode([Manifest.Extent].self, forKey: .shape))
    case .offsets:
      guard try container.decode(Manifest.Element.self, forKey: .element) == .i64 else {
        throw DecodingError.dataCorruptedError(
          forKey: .element, in: container, debugDescription: "offsets are i64 in this version")
      }
      type = .offsets(
        sequences: try container.decode(Manifest.Extent.self, forKey: .sequences),
        rows: try container.decode(Manifest.Extent.self, forKey: .rows))
    }
  }

  /// As an object that `init(from:)` reads back to an equal port.
  public func encode(to encoder: any Encoder) throws {
    var container = encoder.container(keyedBy: Key.self)
    try container.encode(name, forKey: .name)
    try container.encodeIfPresent(description, forKey: .description)
    try container.encodeIfPresent(keeps, forKey: .keeps)
    try container.encodeIfPresent(window, forKey: .window)
    try container.encode(type.element, forKey: .element)
    switch role {
    case .ids(let below):
      try container.encode(RoleName.ids, forKey: .role)
      try container.encode(below, forKey: .below)
    case .targetCounts: try container.encode(RoleName.targetCounts, forKey: .role)
    case .featureOffsets: try container.encode(RoleName.featureOffsets, forKey: .role)
    case .timestamps: try container.encode(RoleName.timestamps, forKey: .role)
    case nil: break
    }
    switch type {
    case .tensor(_, let shape):
      try container.encode(Kind.tensor, forKey: .kind)
      try container.encode(shape, forKey: .shape)
    case .offsets(let sequences, let rows):
      try container.encode(Kind.offsets, forKey: .kind)
      try container.encode(sequences, forKey: .sequences)
      try container.encode(rows, forKey: .rows)
    }
  }
}

extension Manifest {
  /// The manifest as JSON: keys sorted, two spaces of indentation, so that equal manifests give equal bytes.
  ///
  /// It is validated first: a manifest that `init(json:)` would refuse is never written.
  public func encoded() throws(ArtifactError) -> [UInt8] {
    try validate(path: "")
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes, .prettyPrinted]
    do {
      return [UInt8](try encoder.encode(self))
    } catch {
      throw ArtifactError(path: "", kind: .manifest, message: "manifest: cannot be written as JSON: \(error)")
    }
  }

  /// Reads and checks a manifest; `path` is the file that errors name.
  public init(json: [UInt8], path: String = "") throws(ArtifactError) {
    do {
      self = try JSONDecoder().decode(Manifest.self, from: Data(json))
    } catch {
      throw ArtifactError(path: path, kind: .manifest, message: "manifest: " + Self.sentence(of: error))
    }
    try validate(path: path)
  }

  private static func sentence(of error: any Error) -> String {
    guard let error = error as? DecodingError else { return "\(error)" }
    switch error {
    case .keyNotFound(let key, let context): return "\(place(context.codingPath + [key])): missing"
    case .typeMismatch(let type, let context): return "\(place(context.codingPath)): expected \(word(for: type))"
    case .valueNotFound(let type, let context):
      return "\(place(context.codingPath)): expected \(word(for: type)), found null"
    case .dataCorrupted(let context):
      return context.codingPath.isEmpty
        ? "not valid JSON" : "\(place(context.codingPath)): \(context.debugDescription)"
    @unknown default: return "\(error)"
    }
  }

  private static func place(_ path: [any CodingKey]) -> String {
    var text = ""
    for key in path {
      if let index = key.intValue {
        text += "[\(index)]"
      } else {
        text += (text.isEmpty ? "" : ".") + key.stringValue
      }
    }
    return text.isEmpty ? "top level" : text
  }

  private static func word(for type: Any.Type) -> String {
    switch type {
    case is String.Type: "a string"
    case is Int.Type: "a whole number"
    case is Double.Type: "a number"
    case is [Any].Type: "a list"
    default: "\(type)"
    }
  }
}
