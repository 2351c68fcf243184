/// A pipeline that makes no sense, a pass that could not do its work, or one that left a module that is not valid.
public struct PassError: Error, Hashable, Sendable, CustomStringConvertible {
  /// The pass that it is about; nil where the pipeline's text is at fault.
  public var pass: String?
  public var message: String

  public init(_ message: String, pass: String? = nil) {
    self.message = message
    self.pass = pass
  }

  public var description: String { pass.map { "\($0): \(message)" } ?? message }
}
