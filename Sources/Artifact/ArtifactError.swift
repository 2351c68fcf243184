/// Why an artifact could not be written or is not accepted: which file, what kind of trouble, and a sentence that says
/// where, what was found and what was expected.
public struct ArtifactError: Error, Hashable, Sendable, CustomStringConvertible {
  /// What a caller may want to tell apart.
  public enum Kind: String, Hashable, Sendable {
    /// The file is not something that ultrac wrote.
    case notAnArtifact
    /// Written by another version of the format.
    case unsupportedVersion
    /// Shorter or longer than it says itself.
    case wrongSize
    /// A number or the checksum does not fit the bytes.
    case corrupt
    /// It holds what an artifact may not hold: dependencies, initializers, writable code.
    case forbidden
    /// The manifest cannot be read, or contradicts itself.
    case manifest
    /// The linker is missing or refused the object.
    case linker
    /// The assembler of a GPU's code failed, or there is none.
    case assembler
    /// What the writer was given contradicts itself.
    case invalidInput
    /// The operating system refused a file operation.
    case system
  }

  /// The file that this is about, as the caller named it; empty where there is none yet.
  public var path: String
  /// The kind of trouble.
  public var kind: Kind
  /// One sentence without the path.
  public var message: String

  /// An error of a file; `path` is empty where the writer has none yet and adds it.
  public init(path: String, kind: Kind, message: String) {
    self.path = path
    self.kind = kind
    self.message = message
  }

  /// `path: message`, or the message alone where there is no path.
  public var description: String { path.isEmpty ? message : "\(path): \(message)" }
}
