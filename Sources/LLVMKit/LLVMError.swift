import CLLVM

/// What LLVM refused to do, in its own words.
public struct LLVMError: Error, Hashable, CustomStringConvertible {
  /// What was being done, as a short phrase: "verify", "emit object".
  public let stage: String
  /// LLVM's text, without a trailing newline.
  public let message: String

  /// Makes an error of the named stage; newlines at the end of the text are dropped.
  public init(stage: String, message: String) {
    self.stage = stage
    var text = Substring(message)
    while let last = text.last, last.isNewline { text.removeLast() }
    self.message = String(text)
  }

  /// `LLVM, stage: message`.
  public var description: String { "LLVM, \(stage): \(message)" }
}

/// Copies a message that LLVM allocated, and frees it.
func takeMessage(_ message: UnsafeMutablePointer<CChar>?) -> String {
  guard let message else { return "" }
  defer { LLVMDisposeMessage(message) }
  return String(cString: message)
}
