import Artifact

/// Why a model was not loaded, or a call not made.
public struct RuntimeError: Error, Hashable, Sendable, CustomStringConvertible {
  /// What a caller may want to tell apart.
  public enum Kind: Hashable, Sendable {
    /// The file is damaged, or not an artifact.
    case artifact(ArtifactError.Kind)
    /// The system's loader refused the file, or it does not hold what its manifest says.
    case loading
    /// This machine lacks what the code needs.
    case unsupportedMachine
    /// There is no entry of that name.
    case unknownEntry
    /// An input is missing, unknown, or of another type or shape than the manifest's.
    case invalidInput
    /// The call refused the values; `status` is an `ultra_status`.
    case refusedCall(status: Int32)
    /// A block of a kept history was refused; `status` is an `ultra_cache_status`.
    case keptHistory(status: Int32)
    /// Memory or threads could not be had.
    case resources
  }

  /// The kind of trouble.
  public var kind: Kind
  /// One sentence, which begins with the path of the file where it is about the file.
  public var description: String

  /// An error of this kind, described in one sentence.
  public init(_ kind: Kind, _ description: String) {
    self.kind = kind
    self.description = description
  }

  init(_ error: ArtifactError) {
    self.init(.artifact(error.kind), error.description)
  }
}
