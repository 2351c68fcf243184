/// The value of an attribute as written: a few terms one after the other, such as `causal window(256) tail(256)`.
/// Terms hold plain scalars only, so that reading one needs no recursion.
package struct AttributePhrase: Sendable {
  /// A number, a word, or a string in quotes.
  enum Scalar: Hashable, Sendable {
    case number(String)
    case word(String)
    case string(String)

    var text: String {
      switch self {
      case .number(let text), .word(let text): text
      case .string(let text): TextName.literal(text)
      }
    }

    var integer: Int? {
      if case .number(let text) = self { Int(text) } else { nil }
    }

    /// The number, where it is one and finite in fp64.
    var double: Double? {
      guard case .number(let text) = self, let value = Double(text), value.isFinite else { return nil }
      return value
    }

    var name: String? {
      switch self {
      case .word(let text), .string(let text): text
      case .number: nil
      }
    }
  }

  struct Argument: Hashable, Sendable {
    var label: String?
    var value: Scalar
  }

  enum Term: Hashable, Sendable {
    case scalar(Scalar)
    /// `word(argument, ...)`, an argument being `value` or `label = value`.
    case call(String, [Argument])
    /// `[value, ...]`
    case list([Scalar])

    var text: String {
      switch self {
      case .scalar(let scalar): scalar.text
      case .call(let name, let arguments):
        "\(name)(\(arguments.map { ($0.label.map { "\($0) = " } ?? "") + $0.value.text }.joined(separator: ", ")))"
      case .list(let elements): "[\(elements.map(\.text).joined(separator: ", "))]"
      }
    }
  }

  var terms: [Term]
  package var location: SourceLocation

  package var text: String { terms.map(\.text).joined(separator: " ") }
}

/// Takes the terms of one attribute's value in their order. Terms that nobody takes make the value an error.
public struct PhraseReader {
  var remaining: ArraySlice<AttributePhrase.Term>

  package init(_ phrase: AttributePhrase) { remaining = phrase.terms[...] }

  /// Whether all terms are taken.
  package var isAtEnd: Bool { remaining.isEmpty }

  /// Takes the next term where it is this very word.
  public mutating func takeWord(_ word: String) -> Bool {
    guard remaining.first == .scalar(.word(word)) else { return false }
    remaining.removeFirst()
    return true
  }

  /// Takes the next term where it is a word or a string in quotes.
  public mutating func takeName() -> String? {
    guard case .scalar(let scalar) = remaining.first, let name = scalar.name else { return nil }
    remaining.removeFirst()
    return name
  }

  /// Takes the next term where it is an integer.
  public mutating func takeInteger() -> Int? {
    guard case .scalar(let scalar) = remaining.first, let value = scalar.integer else { return nil }
    remaining.removeFirst()
    return value
  }

  /// Takes the next term where it is a finite number.
  public mutating func takeNumber() -> Double? {
    guard case .scalar(let scalar) = remaining.first, let value = scalar.double else { return nil }
    remaining.removeFirst()
    return value
  }

  /// Takes the next term where it is a list of integers.
  public mutating func takeIntegers() -> [Int]? {
    guard case .list(let elements) = remaining.first else { return nil }
    let values = elements.compactMap(\.integer)
    guard values.count == elements.count else { return nil }
    remaining.removeFirst()
    return values
  }

  /// Takes the next term where it is a list of finite numbers.
  public mutating func takeNumbers() -> [Double]? {
    guard case .list(let elements) = remaining.first else { return nil }
    let values = elements.compactMap(\.double)
    guard values.count == elements.count else { return nil }
    remaining.removeFirst()
    return values
  }

  /// Takes the next term where it is `name(integer)`.
  public mutating func takeInteger(_ name: String) -> Int? {
    guard let value = argument(of: name)?.integer else { return nil }
    remaining.removeFirst()
    return value
  }

  /// Takes the next term where it is `name(number)`.
  public mutating func takeNumber(_ name: String) -> Double? {
    guard let value = argument(of: name)?.double else { return nil }
    remaining.removeFirst()
    return value
  }

  /// The one argument, without a label, of the next term where that is a call of `name`.
  private func argument(of name: String) -> AttributePhrase.Scalar? {
    guard case .call(name, let arguments) = remaining.first, arguments.count == 1, arguments[0].label == nil else {
      return nil
    }
    return arguments[0].value
  }

  /// Takes the next term where it is `name(label = integer, ..., lastLabel = word)` with exactly these labels.
  public mutating func takeCall(_ name: String, integers labels: [String], word lastLabel: String) -> ([Int], String)? {
    guard case .call(name, let arguments) = remaining.first, arguments.map(\.label) == labels + [lastLabel] else {
      return nil
    }
    let integers = arguments.dropLast().compactMap(\.value.integer)
    guard integers.count == labels.count, case .word(let word)? = arguments.last?.value else { return nil }
    remaining.removeFirst()
    return (integers, word)
  }
}

/// Reads an operation's attributes by name and type. Never throws: the first mistake is kept, and a stand-in value is
/// given, so that by the end every attribute that the operation knows has been named and an error can list them.
public struct AttributeReader {
  struct Entry: Sendable {
    var name: String
    var location: SourceLocation
    /// Nil for a bare name: a flag.
    var value: AttributePhrase?
  }

  private let operation: String
  private let location: SourceLocation
  private let entries: [Entry]
  private var known: [String] = []
  private var missing: String?
  private var mistake: TensorIRError?

  init(operation: String, location: SourceLocation, entries: [Entry]) {
    self.operation = operation
    self.location = location
    self.entries = entries
  }

  /// The attribute `name`, read by `read`; `expected` says in words what it must be. Where the attribute is missing,
  /// `defaultValue` stands in, or, without one, that is an error.
  public mutating func phrase<T>(
    _ name: String, expected: String, placeholder: T, defaultValue: T? = nil, _ read: (inout PhraseReader) -> T?
  ) -> T {
    known.append(name)
    guard let entry = entries.first(where: { $0.name == name }) else {
      if let defaultValue { return defaultValue }
      missing = missing ?? name
      return placeholder
    }
    if let phrase = entry.value {
      var reader = PhraseReader(phrase)
      if let value = read(&reader), reader.isAtEnd { return value }
    }
    let found = entry.value.map { "\"\($0.text)\"" } ?? "no value"
    fail("\(name): expected \(expected), found \(found)", at: entry.value?.location ?? entry.location)
    return placeholder
  }

  /// An integer of 64 bits; `defaultValue` where the attribute is missing.
  public mutating func integer(_ name: String, defaultValue: Int? = nil) -> Int {
    phrase(name, expected: "an integer of 64 bits", placeholder: 0, defaultValue: defaultValue) { $0.takeInteger() }
  }

  /// A number that is finite in fp64.
  public mutating func number(_ name: String) -> Double {
    phrase(name, expected: "a finite number", placeholder: 0) { $0.takeNumber() }
  }

  /// A list of integers, `[1, 2]`.
  public mutating func integers(_ name: String) -> [Int] {
    phrase(name, expected: "a list of integers, [1, 2]", placeholder: []) { $0.takeIntegers() }
  }

  /// A list of finite numbers, `[1, 0.5]`.
  public mutating func numbers(_ name: String) -> [Double] {
    phrase(name, expected: "a list of finite numbers, [1, 0.5]", placeholder: []) { $0.takeNumbers() }
  }

  /// A word, or any text in quotes.
  public mutating func name(_ name: String) -> String {
    phrase(name, expected: "a name", placeholder: "") { $0.takeName() }
  }

  /// One of an enumeration's words.
  public mutating func word<T: RawRepresentable & CaseIterable>(_ name: String, defaultValue: T? = nil) -> T
  where T.RawValue == String {
    let cases = Array(T.allCases)
    let expected = cases.map(\.rawValue).joined(separator: " or ")
    return phrase(name, expected: expected, placeholder: cases[0], defaultValue: defaultValue) { reader in
      cases.first { reader.takeWord($0.rawValue) }
    }
  }

  /// One of an enumeration's words; nil where the attribute is missing.
  public mutating func optionalWord<T: RawRepresentable & CaseIterable>(_ name: String) -> T?
  where T.RawValue == String {
    guard entries.contains(where: { $0.name == name }) else {
      known.append(name)
      return nil
    }
    return word(name) as T
  }

  /// Whether the bare name is there.
  public mutating func flag(_ name: String) -> Bool {
    known.append(name)
    guard let entry = entries.first(where: { $0.name == name }) else { return false }
    if let value = entry.value { fail("\(name) takes no value, found \"\(value.text)\"", at: value.location) }
    return true
  }

  private mutating func fail(_ message: String, at location: SourceLocation) {
    mistake = mistake ?? TensorIRError(message, at: location, operation: operation)
  }

  /// Throws the first mistake: an attribute that the operation does not know, one that it misses, or a wrong value.
  func finish() throws(TensorIRError) {
    let list = known.isEmpty ? "it has none" : "it has \(known.joined(separator: ", "))"
    if let unknown = entries.first(where: { !known.contains($0.name) }) {
      throw TensorIRError(
        "unknown attribute \"\(unknown.name)\"; \(list)", at: unknown.location, operation: operation)
    }
    if let mistake { throw mistake }
    if let missing {
      throw TensorIRError("the attribute \"\(missing)\" is missing; \(list)", at: location, operation: operation)
    }
  }
}

/// Collects an operation's attributes as text, in the order of the calls.
public struct AttributeWriter {
  private var entries: [String] = []

  init() {}

  /// Adds `name = text`, with `text` as it is.
  public mutating func phrase(_ name: String, _ text: String) { entries.append("\(name) = \(text)") }
  /// Adds `name = value`.
  public mutating func integer(_ name: String, _ value: Int) { phrase(name, "\(value)") }
  /// Adds `name = value`, in the fewest digits that read back as the same fp64 number.
  public mutating func number(_ name: String, _ value: Double) { phrase(name, TextName.number(value)) }
  /// Adds `name = [value, ...]`.
  public mutating func integers(_ name: String, _ values: [Int]) { phrase(name, "\(values)") }
  /// Adds `name = [value, ...]`, each as `number` writes it.
  public mutating func numbers(_ name: String, _ values: [Double]) {
    phrase(name, "[\(values.map(TextName.number).joined(separator: ", "))]")
  }
  /// Adds `name = value`, in quotes where the value is no word.
  public mutating func name(_ name: String, _ value: String) { phrase(name, TextName.quoted(value)) }

  /// Adds `name = word`, the raw value of an enumeration.
  public mutating func word<T: RawRepresentable>(_ name: String, _ value: T) where T.RawValue == String {
    phrase(name, value.rawValue)
  }
  /// The bare name where `value` is true, nothing otherwise.
  public mutating func flag(_ name: String, _ value: Bool) {
    if value { entries.append(name) }
  }

  /// ` {a = 1, b}`, or nothing where there are no attributes.
  var text: String { entries.isEmpty ? "" : " {\(entries.joined(separator: ", "))}" }
}
