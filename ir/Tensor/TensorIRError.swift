/// A place in a text file, counted from 1.
public struct SourceLocation: Hashable, Sendable, CustomStringConvertible {
  /// The file as the caller named it.
  public var file: String
  /// Counted from 1.
  public var line: Int
  /// Counted in Unicode scalars.
  public var column: Int

  /// A place; `line` and `column` count from 1.
  public init(file: String, line: Int, column: Int) {
    self.file = file
    self.line = line
    self.column = column
  }

  /// As compilers write it: `file:line:column`.
  public var description: String { "\(file):\(line):\(column)" }
}

/// Text that is no tensor IR, or a module that breaks one of the IR's rules: where, and what was expected.
public struct TensorIRError: Error, Hashable, Sendable, CustomStringConvertible {
  /// Where in the text; nil for modules that were not read from text.
  public var location: SourceLocation?
  /// The function's name, without its `@`.
  public var function: String?
  /// The mnemonic of the operation, where the error is about one.
  public var operation: String?
  /// The name of the operation's first result, without its `%`.
  public var result: String?
  /// What was found and what was expected.
  public var message: String

  /// An error at a place, or within a function or operation, as far as these are known.
  public init(
    _ message: String, at location: SourceLocation? = nil, function: String? = nil, operation: String? = nil,
    result: String? = nil
  ) {
    self.message = message
    self.location = location
    self.function = function
    self.operation = operation
    self.result = result
  }

  /// The message with the operation that it is about, without its place.
  public var summary: String { operation.map { "\($0): \(message)" } ?? message }

  /// `file:line:column: in @function: %result = operation: message`, with what is known of it.
  public var description: String {
    var text = location.map { "\($0): " } ?? ""
    if let function { text += "in @\(TextName.quoted(function)): " }
    if let result { text += "%\(TextName.quoted(result)) = " }
    return text + summary
  }
}
