import LLVMKit
import TensorIR

/// A set of x86 instructions that code is compiled for; one artifact holds code for several and chooses at load.
///
/// Levels are ordered: what runs a level runs every lower one.
public enum CPULevel: String, CaseIterable, Comparable, Sendable {
  /// AVX2 and fused multiply-add: what nearly every server of the last ten years has.
  case avx2 = "x86-64-v3"
  /// AVX-512 as in every server of Intel since 2017 and of AMD since 2022.
  case avx512 = "x86-64-v4"
  /// AVX-512 with bf16 and 8-bit dot products and byte permutes: AMD Zen 4 and Intel Sapphire Rapids, and later.
  case avx512BF16 = "znver4"
  /// That and AMX: products of tiles of 16 rows x 64 bytes, of bf16 and of bytes. Intel servers since Sapphire Rapids.
  ///
  /// Sums of bf16 are added in another order than at the levels below: this level is made only where it is asked for.
  case amx = "sapphirerapids"

  /// Lower levels come first.
  public static func < (a: CPULevel, b: CPULevel) -> Bool { a.ordinal < b.ordinal }

  /// The place in the order, and the bit in what the emitted detection returns.
  public var ordinal: Int {
    switch self {
    case .avx2: 0
    case .avx512: 1
    case .avx512BF16: 2
    case .amx: 3
    }
  }

  /// LLVM's name of the processor to compile for.
  ///
  /// The upper levels are x86-64-v4 with features rather than LLVM's znver4 or sapphirerapids, which bring instructions
  /// that the other maker's processors lack, or that detection does not ask for.
  public var targetCPU: String {
    switch self {
    case .avx2: "x86-64-v3"
    case .avx512, .avx512BF16, .amx: "x86-64-v4"
    }
  }

  /// LLVM's feature string, on top of `targetCPU`; empty where that says it all.
  public var targetFeatures: String {
    let added: [CPUFeature] =
      switch self {
      case .avx2, .avx512: []
      case .avx512BF16: CPUFeature.addedByAVX512BF16
      case .amx: CPUFeature.addedByAVX512BF16 + CPUFeature.addedByAMX
      }
    return added.map { "+\($0.name)" }.joined(separator: ",")
  }

  /// LLVM's name of the processor whose timings order the instructions; it changes no result.
  public var tuningCPU: String {
    switch self {
    case .avx2: "x86-64-v3"
    case .avx512, .avx512BF16: "znver4"
    case .amx: "sapphirerapids"
    }
  }

  /// Whether there are tile registers, which a process must ask its operating system for.
  public var hasTiles: Bool { self == .amx }

  /// The widest vector in bits.
  public var vectorBits: Int { self == .avx2 ? 256 : 512 }
  /// The `f32` lanes of the widest vector.
  public var floatLanes: Int { vectorBits / 32 }
  /// The number of vector registers.
  public var vectorRegisters: Int { self == .avx2 ? 16 : 32 }

  /// The register tile of the matrix micro-kernel.
  public var microKernel: MicroKernelShape {
    switch self {
    case .avx2: MicroKernelShape(rowHeights: [6, 4, 2, 1], columnVectors: 2, lanes: floatLanes)
    case .avx512, .avx512BF16, .amx: MicroKernelShape(rowHeights: [8, 4, 2, 1], columnVectors: 2, lanes: floatLanes)
    }
  }

  /// What a machine must have, in words for a message.
  public var requirement: String {
    switch self {
    case .avx2: "AVX2, FMA, F16C and BMI (Intel since Haswell, AMD since Excavator)"
    case .avx512: "AVX-512 F, BW, CD, DQ and VL (Intel servers since Skylake, AMD since Zen 4)"
    case .avx512BF16: "AVX-512 with BF16, VNNI and VBMI (AMD since Zen 4, Intel servers since Sapphire Rapids)"
    case .amx:
      "AVX-512 with BF16, VNNI and VBMI, and AMX with BF16 and INT8 (Intel servers since Sapphire Rapids), on Linux that "
        + "lets the process use tiles"
    }
  }

  /// Every feature a machine must have.
  public var features: [CPUFeature] {
    switch self {
    case .avx2: CPUFeature.neededByAVX2
    case .avx512: CPULevel.avx2.features + CPUFeature.addedByAVX512
    case .avx512BF16: CPULevel.avx512.features + CPUFeature.addedByAVX512BF16
    case .amx: CPULevel.avx512BF16.features + CPUFeature.addedByAMX
    }
  }

  /// The bits of XCR0 that say the operating system saves the registers used: ymm, for AVX-512 masks and zmm too, for AMX
  /// the tiles and their configuration.
  public var savedState: Int {
    switch self {
    case .avx2: 0x06
    case .avx512, .avx512BF16: 0xe6
    case .amx: 0x6_00e6
    }
  }

  /// Compiles a function for this level, whatever the target machine was made for.
  public func configure(_ function: IRFunction) {
    function.setTarget(cpu: targetCPU, features: targetFeatures, vectorWidth: vectorBits)
    function.addAttribute("tune-cpu", tuningCPU)
  }

  // MARK: This machine

  /// The levels that the machine the compiler runs on supports, lowest first; none on another architecture.
  public static var supportedByHost: [CPULevel] { supported(byFeatures: TargetMachine.hostFeatures) }

  /// The highest level this machine supports: what `--target-cpu native` means.
  public static var native: CPULevel? { supportedByHost.last }

  /// The levels whose features all stand in LLVM's feature string, such as `+sse3,-avx512f`.
  static func supported(byFeatures string: String) -> [CPULevel] {
    let present = Set(string.split(separator: ",").filter { $0.hasPrefix("+") }.map { String($0.dropFirst()) })
    return allCases.filter { level in level.features.allSatisfy { present.contains($0.name) } }
  }
}

/// The register tile of a matrix micro-kernel: some rows times a fixed number of vectors of columns.
public struct MicroKernelShape: Hashable, Sendable {
  /// The heights there is code for, tallest first, ending in 1: the tallest fills the registers.
  public let rowHeights: [Int]
  /// The vectors of columns of one tile.
  public let columnVectors: Int
  /// The lanes of one vector.
  public let lanes: Int

  /// The columns of one tile.
  public var columns: Int { columnVectors * lanes }
  /// The rows of the tallest tile.
  public var rows: Int { rowHeights[0] }

  /// The heights for products of an element type: fewer registers are left for sums where words must be taken apart.
  func rowHeights(for element: ElementType) -> [Int] {
    element != .f32 && rowHeights[0] == 6 ? Array(rowHeights.dropFirst()) : rowHeights
  }
}
