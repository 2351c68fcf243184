import TensorIR

/// Text that is no tile program, or a program that breaks one of the IR's rules: where, and what was expected.
public struct TileIRError: Error, Hashable, Sendable, CustomStringConvertible {
  /// Where in the text; nil for programs that were not read from text.
  public var location: SourceLocation?
  /// The name of the kernel, where the error is about one.
  public var kernel: String?
  /// What in the program or the kernel the error is about: a buffer, a tile, a statement by its kind.
  public var subject: String?
  /// What was found and what was expected.
  public var message: String

  /// An error at a place, or within a kernel or about a subject, as far as these are known.
  public init(_ message: String, at location: SourceLocation? = nil, kernel: String? = nil, subject: String? = nil) {
    self.message = message
    self.location = location
    self.kernel = kernel
    self.subject = subject
  }

  /// The message with what it is about, without its place.
  public var summary: String { subject.map { "\($0): \(message)" } ?? message }

  /// `file:line:column: in kernel name: subject: message`, with what is known of it.
  public var description: String {
    var text = location.map { "\($0): " } ?? ""
    if let kernel { text += "in kernel \(TextName.quoted(kernel)): " }
    return text + summary
  }
}

/// Where the parts of a program stand in the text that it was read from.
struct ProgramLocations {
  struct Kernel {
    var location: SourceLocation
    var tiles: [SourceLocation] = []
    /// Of statements in the order in which they are written, those in loops after their loop.
    var statements: [SourceLocation] = []
  }

  var program: SourceLocation
  var dimensions: [SourceLocation] = []
  var buffers: [SourceLocation] = []
  var scalars: [SourceLocation] = []
  var setup: [SourceLocation] = []
  var kernels: [Kernel] = []
}
