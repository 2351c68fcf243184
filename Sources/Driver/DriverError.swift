/// Why the compiler could not do what it was asked: what, in one sentence, and what to do about it.
public struct DriverError: Error, Hashable, Sendable, CustomStringConvertible {
  /// One sentence that says where, what was found and what was expected.
  public var message: String
  /// What the user can do, as a sentence; nil where the message says it.
  public var hint: String?

  /// An error with a message, and what to do about it where that is known.
  public init(_ message: String, hint: String? = nil) {
    self.message = message
    self.hint = hint
  }

  /// The message, and on a line of its own the hint.
  public var description: String { hint.map { "\(message)\nhint: \($0)" } ?? message }
}
