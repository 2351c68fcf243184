/// A graphics processor that code can be made for: what the code generator may count on there.
public enum GPUTarget: String, Hashable, Sendable, CaseIterable, Comparable {
  /// NVIDIA Ampere, and every later card through the driver's own translation.
  case sm80 = "sm_80"
  /// NVIDIA Hopper.
  case sm90a = "sm_90a"

  /// Ascending by what a card must have.
  public static func < (one: GPUTarget, other: GPUTarget) -> Bool { one.ordinal < other.ordinal }

  private var ordinal: Int { Self.allCases.firstIndex(of: self) ?? 0 }

  /// The cards that run it, for people.
  public var summary: String {
    switch self {
    case .sm80: "NVIDIA Ampere and later"
    case .sm90a: "NVIDIA Hopper"
    }
  }

  /// LLVM's triple.
  public var triple: String { "nvptx64-nvidia-cuda" }

  /// LLVM's features: the version of PTX, which the instructions in use want.
  public var features: String {
    switch self {
    case .sm80: "+ptx70"
    case .sm90a: "+ptx81"
    }
  }

  /// Threads that run in step.
  public var lanes: Int { 32 }

  /// Whether blocks can be launched in clusters that read each other's shared memory.
  public var hasClusters: Bool { self >= .sm90a }

  /// Whether groups of four warps multiply matrices in shared memory.
  public var hasMatrices: Bool { self >= .sm90a }

  /// Bytes of shared memory that a block may have at most. CUDA C++ Programming Guide, "Technical Specifications per Compute
  /// Capability".
  public var sharedBytes: Int {
    switch self {
    case .sm80: 163 << 10
    case .sm90a: 227 << 10
    }
  }
}
