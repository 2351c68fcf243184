/// A pipeline that makes no sense, a pass that could not do its work, or one that left a module that is not valid.
public struct PassError: Error, Hashable, Sendable, CustomStringConvertible {
  /// The pass that it is about; nil where the pipeline's text is at fault.
  public var pass: String?
  /// What was found and what was expected.
  public var message: String
  /// What shows the failure again; nil where no pass ran.
  public var reproducer: Reproducer?

  /// An error of the pass `pass`, or of the pipeline's text.
  public init(_ message: String, pass: String? = nil, reproducer: Reproducer? = nil) {
    self.message = message
    self.pass = pass
    self.reproducer = reproducer
  }

  /// The message, after the pass's name where there is one.
  public var description: String { pass.map { "\($0): \(message)" } ?? message }
}
