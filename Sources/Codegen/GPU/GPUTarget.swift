/// A graphics processor that code can be made for: what the code generator may count on there.
public enum GPUTarget: String, Hashable, Sendable, CaseIterable, Comparable {
  /// NVIDIA Ampere, and every later card through the driver's own translation.
  case sm80 = "sm_80"
  /// NVIDIA Hopper.
  case sm90a = "sm_90a"
  /// AMD Instinct MI300.
  case gfx942

  /// Who makes the card, and with it the driver.
  public enum Vendor: Hashable, Sendable {
    /// NVIDIA: code is PTX, which the driver or `ptxas` translates; the driver is libcuda.
    case nvidia
    /// AMD: code is an ELF file, the code object; the driver is libamdhip64.
    case amd
  }

  /// Who makes it.
  public var vendor: Vendor {
    switch self {
    case .sm80, .sm90a: .nvidia
    case .gfx942: .amd
    }
  }

  /// The targets of a vendor, ascending.
  public static func all(of vendor: Vendor) -> [GPUTarget] { allCases.filter { $0.vendor == vendor } }

  /// Ascending by what a card must have; NVIDIA's before AMD's.
  public static func < (one: GPUTarget, other: GPUTarget) -> Bool { one.ordinal < other.ordinal }

  private var ordinal: Int { Self.allCases.firstIndex(of: self) ?? 0 }

  /// The cards that run it, for people.
  public var summary: String {
    switch self {
    case .sm80: "NVIDIA Ampere and later"
    case .sm90a: "NVIDIA Hopper"
    case .gfx942: "AMD Instinct MI300"
    }
  }

  /// LLVM's triple.
  public var triple: String {
    switch vendor {
    case .nvidia: "nvptx64-nvidia-cuda"
    case .amd: "amdgcn-amd-amdhsa"
    }
  }

  /// LLVM's features: the version of PTX, which the instructions in use want. An older driver translates an older version.
  func features(withFloat8: Bool) -> String {
    switch self {
    case .sm80: "+ptx70"
    case .sm90a: withFloat8 ? "+ptx84" : "+ptx81"
    case .gfx942: ""
    }
  }

  /// Threads that run in step.
  public var lanes: Int {
    switch vendor {
    case .nvidia: 32
    case .amd: 64
    }
  }

  /// Whether blocks can be launched in clusters that read each other's shared memory.
  public var hasClusters: Bool { self == .sm90a }

  /// Whether there are matrix instructions for numbers of f8e4m3.
  public var multipliesFloat8: Bool { self != .sm80 }

  /// Whether these take their numbers in another form, where each is half of what f8e4m3 makes of the same bits (`Rounding.fnuzBits`).
  public var hasFNUZ: Bool { self == .gfx942 }

  /// Whether groups of four warps multiply matrices in shared memory.
  public var hasMatrices: Bool { self == .sm90a }

  /// Bytes of shared memory that a block may have at most. CUDA C++ Programming Guide, "Technical Specifications per Compute
  /// Capability"; CDNA3 ISA, "Local data share".
  public var sharedBytes: Int {
    switch self {
    case .sm80: 163 << 10
    case .sm90a: 227 << 10
    case .gfx942: 64 << 10
    }
  }
}
