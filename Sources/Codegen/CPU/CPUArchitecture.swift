import LLVMKit

/// A processor architecture that code is generated for; one artifact holds code for one.
public enum CPUArchitecture: String, CaseIterable, Sendable {
  case x8664 = "x86_64"
  case aarch64

  /// The levels of code that there are for it, lowest first.
  public var levels: [CPULevel] { CPULevel.allCases.filter { $0.architecture == self } }

  /// LLVM's triple of the systems that artifacts are for.
  public var triple: String { "\(rawValue)-unknown-linux-gnu" }

  /// LLVM's name of the processor that every other one of the architecture can stand in for.
  public var baselineCPU: String {
    switch self {
    case .x8664: "x86-64"
    case .aarch64: "generic"
    }
  }

  /// The architecture that this code runs on; nil where there is no code generation for it.
  public static var host: CPUArchitecture? {
    #if arch(x86_64)
      .x8664
    #elseif arch(arm64)
      .aarch64
    #else
      nil
    #endif
  }
}
