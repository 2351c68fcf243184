/// The options of a pass: a value with a default for each, and the list of their names and types.
public protocol PassOptions: Sendable {
  /// The defaults.
  init()
  /// What may be written between the braces of `name{key=value}`, in the order in which help lists it.
  static var list: [PassOption<Self>] { get }
  /// What is missing, or does not go together; nil where nothing is wrong.
  var problem: String? { get }
}

extension PassOptions {
  /// Any values go together, unless a pass says otherwise.
  public var problem: String? { nil }
}

/// For passes that have none.
public struct NoOptions: PassOptions {
  /// The only value.
  public init() {}

  /// No option.
  public static var list: [PassOption<NoOptions>] { [] }
}

/// One option: its name, what it is for, and how its value is read.
public struct PassOption<Options>: Sendable {
  /// As written before the `=`.
  public let name: String
  /// What it is for, in one line.
  public let summary: String
  /// What a value may be, in words: "a whole number from 1".
  public let expected: String
  /// Stores the value that the text stands for; false where it is none.
  let store: @Sendable (inout Options, String) -> Bool

  /// A whole number of `range`.
  public static func integer(
    _ name: String, _ path: any WritableKeyPath<Options, Int> & Sendable, in range: ClosedRange<Int> = 0...(1 << 40),
    summary: String
  ) -> PassOption {
    integer(name, in: range, summary: summary) { $0[keyPath: path] = $1 }
  }

  /// A whole number of `range`; nil is for the option that is not written.
  public static func integer(
    _ name: String, _ path: any WritableKeyPath<Options, Int?> & Sendable, in range: ClosedRange<Int> = 0...(1 << 40),
    summary: String
  ) -> PassOption {
    integer(name, in: range, summary: summary) { $0[keyPath: path] = $1 }
  }

  private static func integer(
    _ name: String, in range: ClosedRange<Int>, summary: String, set: @escaping @Sendable (inout Options, Int) -> Void
  ) -> PassOption {
    let end = range.upperBound == 1 << 40 ? "" : " to \(range.upperBound)"
    return PassOption(name: name, summary: summary, expected: "a whole number from \(range.lowerBound)\(end)") {
      guard let value = Int($1), range.contains(value) else { return false }
      set(&$0, value)
      return true
    }
  }

  /// A finite number.
  public static func number(
    _ name: String, _ path: any WritableKeyPath<Options, Double> & Sendable, summary: String
  ) -> PassOption {
    PassOption(name: name, summary: summary, expected: "a number") {
      guard let value = Double($1), value.isFinite else { return false }
      $0[keyPath: path] = value
      return true
    }
  }

  /// One word of an enumeration.
  public static func word<Word: RawRepresentable<String> & CaseIterable & SendableMetatype>(
    _ name: String, _ path: any WritableKeyPath<Options, Word> & Sendable, summary: String
  ) -> PassOption {
    word(name, summary: summary) { (options, word: Word) in options[keyPath: path] = word }
  }

  /// One word of an enumeration; nil is for the option that is not written.
  public static func word<Word: RawRepresentable<String> & CaseIterable & SendableMetatype>(
    _ name: String, _ path: any WritableKeyPath<Options, Word?> & Sendable, summary: String
  ) -> PassOption {
    word(name, summary: summary) { (options, word: Word) in options[keyPath: path] = word }
  }

  private static func word<Word: RawRepresentable<String> & CaseIterable & SendableMetatype>(
    _ name: String, summary: String, set: @escaping @Sendable (inout Options, Word) -> Void
  ) -> PassOption {
    let expected = Word.allCases.map(\.rawValue).joined(separator: " or ")
    return PassOption(name: name, summary: summary, expected: expected) {
      guard let value = Word(rawValue: $1) else { return false }
      set(&$0, value)
      return true
    }
  }

  /// Names, none of them empty, with `+` between.
  public static func names(
    _ name: String, _ path: any WritableKeyPath<Options, [String]> & Sendable, summary: String
  ) -> PassOption {
    PassOption(name: name, summary: summary, expected: "names with + between") {
      let names = $1.split(separator: "+", omittingEmptySubsequences: false).map(String.init)
      guard !names.contains("") else { return false }
      $0[keyPath: path] = names
      return true
    }
  }

  /// True or false.
  public static func flag(
    _ name: String, _ path: any WritableKeyPath<Options, Bool> & Sendable, summary: String
  ) -> PassOption {
    PassOption(name: name, summary: summary, expected: "true or false") {
      guard let value = Bool($1) else { return false }
      $0[keyPath: path] = value
      return true
    }
  }
}

/// An option as help shows it.
public struct PassOptionDescription: Hashable, Sendable {
  /// As written before the `=`.
  public let name: String
  /// What it is for, in one line.
  public let summary: String
  /// What a value may be, in words.
  public let expected: String
}

extension PassOptions {
  static var descriptions: [PassOptionDescription] {
    list.map { PassOptionDescription(name: $0.name, summary: $0.summary, expected: $0.expected) }
  }

  /// The options that `settings` write down, defaults where they are silent.
  public static func read(_ settings: [PassSetting], for pass: String) throws(PassError) -> Self {
    var options = Self()
    var names: Set<String> = []
    for setting in settings {
      guard let option = list.first(where: { $0.name == setting.name }) else {
        let known = list.isEmpty ? "it has none" : "it has \(list.map(\.name).joined(separator: ", "))"
        throw PassError("unknown option \"\(setting.name)\"; \(known)", pass: pass)
      }
      guard names.insert(setting.name).inserted else {
        throw PassError("the option \"\(setting.name)\" is given twice", pass: pass)
      }
      guard option.store(&options, setting.value) else {
        throw PassError("\(option.name): expected \(option.expected), found \"\(setting.value)\"", pass: pass)
      }
    }
    if let problem = options.problem { throw PassError(problem, pass: pass) }
    return options
  }
}

/// `key=value`, as written.
public struct PassSetting: Hashable, Sendable {
  /// What stands before the `=`.
  public var name: String
  /// What stands after the `=`, not yet read.
  public var value: String

  /// `name=value`.
  public init(name: String, value: String) {
    self.name = name
    self.value = value
  }
}
