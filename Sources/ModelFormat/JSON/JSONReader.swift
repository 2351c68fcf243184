/// A value of a JSON text with its key path: what decoders read from, so that every error finds its place.
public struct JSONReader: Sendable {
  /// The value and its line.
  public let node: JSONNode
  /// The keys and indices that lead to it, `layers[3].mask.window`; empty for the whole text.
  public let path: String
  /// The name that errors give to the text.
  public let file: String

  /// A reader of the whole text.
  public init(_ document: JSONDocument) {
    self.init(node: document.root, path: "", file: document.file)
  }

  init(node: JSONNode, path: String, file: String) {
    self.node = node
    self.path = path
    self.file = file
  }

  /// An error at this value.
  public func error(_ kind: ModelError.Kind, _ message: String, hint: String? = nil) -> ModelError {
    ModelError(kind, file: file, line: node.line, place: path, message, hint: hint)
  }

  /// `expected ..., found ...` at this value.
  public func mismatch(expected: String, hint: String? = nil) -> ModelError {
    error(.unexpectedValue, "expected \(expected), found \(found)", hint: hint)
  }

  /// The value as messages show it.
  public var found: String {
    switch node.value {
    case .null: "null"
    case .bool(let value): "\(value)"
    case .number(let number): number.text
    case .string(let text): quoted(text)
    case .array: "an array"
    case .object: "an object"
    }
  }

  // MARK: - Values

  /// The text of a string. Throws `unexpectedValue` for any other value.
  public func string() throws(ModelError) -> String {
    guard case .string(let text) = node.value else { throw mismatch(expected: "a string") }
    return text
  }

  /// True or false. Throws `unexpectedValue` for any other value.
  public func bool() throws(ModelError) -> Bool {
    guard case .bool(let value) = node.value else { throw mismatch(expected: "true or false") }
    return value
  }

  /// An integer in `range`, which `expected` describes.
  public func integer(in range: ClosedRange<Int>, expected: String) throws(ModelError) -> Int {
    guard case .number(let number) = node.value, let value = number.integer, range.contains(value) else {
      throw mismatch(expected: expected)
    }
    return value
  }

  /// The largest extent or length accepted: far beyond any model, and safe in 64-bit products of two.
  public static let extentLimit = 1 << 31

  /// An integer from 1 to `extentLimit`. Throws `unexpectedValue` for any other value.
  public func positiveInteger() throws(ModelError) -> Int {
    try integer(in: 1...Self.extentLimit, expected: "a positive integer")
  }

  /// An integer from 0 to `extentLimit`. Throws `unexpectedValue` for any other value.
  public func nonNegativeInteger() throws(ModelError) -> Int {
    try integer(in: 0...Self.extentLimit, expected: "a non-negative integer")
  }

  /// A number within the range of fp64. Throws `unexpectedValue` for any other value.
  public func finiteNumber() throws(ModelError) -> Double {
    guard case .number(let number) = node.value, number.double.isFinite else { throw mismatch(expected: "a number") }
    return number.double
  }

  /// A number above 0 within the range of fp64. Throws `unexpectedValue` for any other value.
  public func positiveNumber() throws(ModelError) -> Double {
    guard case .number(let number) = node.value, number.double.isFinite, number.double > 0 else {
      throw mismatch(expected: "a positive number")
    }
    return number.double
  }

  /// One of the raw values of an enumeration.
  public func choice<T: RawRepresentable & CaseIterable>(_ type: T.Type) throws(ModelError) -> T
  where T.RawValue == String {
    let names = T.allCases.map(\.rawValue)
    let expected = alternatives(names.map { quoted($0) })
    guard case .string(let text) = node.value else { throw mismatch(expected: expected) }
    guard let value = T(rawValue: text) else {
      throw mismatch(expected: expected, hint: nearest(to: text, in: names).map { "did you mean \(quoted($0))?" })
    }
    return value
  }

  /// The elements of an array, in order. Throws `unexpectedValue` for any other value.
  public func elements() throws(ModelError) -> [JSONReader] {
    guard case .array(let nodes) = node.value else { throw mismatch(expected: "an array") }
    return nodes.enumerated().map { JSONReader(node: $1, path: "\(path)[\($0)]", file: file) }
  }

  /// The members of an object whose keys all belong to `keys`.
  public func object(_ keys: [String]) throws(ModelError) -> JSONObjectReader {
    let object = try anyObject()
    for member in object.members where !keys.contains(member.key) {
      let near = nearest(to: member.key, in: keys)
      throw ModelError(
        .unknownKey, file: file, line: member.line, place: child(member.key), "unknown key",
        hint: near.map { "did you mean \(quoted($0))?" } ?? "the keys here are \(keys.joined(separator: ", "))")
    }
    return object
  }

  /// The members of an object whose keys are free.
  public func anyObject() throws(ModelError) -> JSONObjectReader {
    guard case .object(let members) = node.value else { throw mismatch(expected: "an object") }
    return JSONObjectReader(reader: self, members: members)
  }

  func child(_ key: String) -> String { path.isEmpty ? key : "\(path).\(key)" }
}

/// The members of an object.
public struct JSONObjectReader: Sendable {
  /// The object itself, for errors about it.
  public let reader: JSONReader
  /// The members in the order of the text.
  public let members: [JSONMember]

  /// The value of a key; nil where the object lacks it.
  public func optional(_ key: String) -> JSONReader? {
    members.first { $0.key == key }.map { read($0) }
  }

  /// The value of a key that must be there; `choices` says what it may be, for the error.
  public func required(_ key: String, _ choices: String? = nil) throws(ModelError) -> JSONReader {
    guard let value = optional(key) else {
      throw reader.error(.missingKey, "the key \(quoted(key)) is missing", hint: choices)
    }
    return value
  }

  /// Every member in the order of the text.
  public var values: [(key: String, value: JSONReader)] {
    members.map { ($0.key, read($0)) }
  }

  private func read(_ member: JSONMember) -> JSONReader {
    JSONReader(node: member.value, path: reader.child(member.key), file: reader.file)
  }
}
