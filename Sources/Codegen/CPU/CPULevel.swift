import LLVMKit
import TensorIR

/// A set of instructions that code is compiled for; one artifact holds code for several of one architecture and chooses at
/// load.
///
/// Levels of an architecture are ordered: what runs a level runs every lower one.
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
  /// NEON as every 64-bit ARM processor has it.
  case neon = "armv8-a"
  /// NEON with 8-bit dot products: Neoverse N1 and later.
  case neonDot = "neoverse-n1"
  /// NEON with bf16 dot products too, and bytes of either sign: Neoverse V1 and N2, and later.
  case neonBF16 = "neoverse-v1"

  /// The architecture whose instructions these are.
  public var architecture: CPUArchitecture {
    switch self {
    case .avx2, .avx512, .avx512BF16, .amx: .x8664
    case .neon, .neonDot, .neonBF16: .aarch64
    }
  }

  /// Lower levels come first, those of one architecture together.
  public static func < (a: CPULevel, b: CPULevel) -> Bool {
    a.architecture == b.architecture ? a.ordinal < b.ordinal : a.architecture.rawValue > b.architecture.rawValue
  }

  /// The place in the architecture's order, and the bit in what the emitted detection returns.
  public var ordinal: Int {
    switch self {
    case .avx2, .neon: 0
    case .avx512, .neonDot: 1
    case .avx512BF16, .neonBF16: 2
    case .amx: 3
    }
  }

  /// LLVM's name of the processor to compile for.
  ///
  /// The upper levels are x86-64-v4 with features rather than LLVM's znver4 or sapphirerapids, which bring instructions
  /// that the other maker's processors lack, or that detection does not ask for; so it is with those of ARM.
  public var targetCPU: String {
    switch self {
    case .avx2: "x86-64-v3"
    case .avx512, .avx512BF16, .amx: "x86-64-v4"
    case .neon, .neonDot, .neonBF16: architecture.baselineCPU
    }
  }

  /// LLVM's feature string, on top of `targetCPU`; empty where that says it all.
  public var targetFeatures: String {
    let added: [CPUFeature] =
      switch self {
      case .avx2, .avx512, .neon: []
      case .avx512BF16: CPUFeature.addedByAVX512BF16
      case .amx: CPUFeature.addedByAVX512BF16 + CPUFeature.addedByAMX
      case .neonDot, .neonBF16: features
      }
    return added.map { "+\($0.name)" }.joined(separator: ",")
  }

  /// LLVM's name of the processor whose timings order the instructions; it changes no result.
  public var tuningCPU: String {
    switch self {
    case .avx2: "x86-64-v3"
    case .avx512, .avx512BF16: "znver4"
    case .amx: "sapphirerapids"
    case .neon, .neonDot: "neoverse-n1"
    case .neonBF16: "neoverse-v1"
    }
  }

  /// Whether there are tile registers, which a process must ask its operating system for.
  public var hasTiles: Bool { self == .amx }

  /// The widest vector in bits.
  public var vectorBits: Int {
    switch self {
    case .avx2: 256
    case .avx512, .avx512BF16, .amx: 512
    case .neon, .neonDot, .neonBF16: 128
    }
  }
  /// The `f32` lanes of the widest vector.
  public var floatLanes: Int { vectorBits / 32 }
  /// The number of vector registers.
  public var vectorRegisters: Int { self == .avx2 ? 16 : 32 }

  /// The register tile of the matrix micro-kernel.
  public var microKernel: MicroKernelShape {
    switch self {
    case .avx2: MicroKernelShape(rowHeights: [6, 4, 2, 1], tallestApart: 4, columnVectors: 2, lanes: floatLanes)
    case .avx512, .avx512BF16, .amx:
      MicroKernelShape(rowHeights: [8, 4, 2, 1], tallestApart: 8, columnVectors: 2, lanes: floatLanes)
    case .neon, .neonDot, .neonBF16:
      MicroKernelShape(rowHeights: [8, 4, 2, 1], tallestApart: 4, columnVectors: 2, lanes: floatLanes)
    }
  }

  /// The heights of register tiles for products of an element type, tallest first.
  func rowHeights(for element: ElementType) -> [Int] {
    let shape = microKernel
    return hasProducts(of: element) ? shape.rowHeights : shape.rowHeights.filter { $0 <= shape.tallestApart }
  }

  /// Whether multiply-adds take one lane of a register for all lanes: left words are then loaded several at a time.
  var multipliesByLane: Bool { architecture == .aarch64 }

  /// Whether one instruction looks 64 bytes up in a table of 128.
  var looksUpBytes: Bool {
    switch self {
    case .avx512BF16, .amx: true
    case .avx2, .avx512, .neon, .neonDot, .neonBF16: false
    }
  }

  /// The side of the squares that transposition works on: their rows fit the registers, or nearly.
  var transposedSquare: Int {
    switch self {
    case .avx2, .avx512, .avx512BF16, .amx: 16
    case .neon, .neonDot, .neonBF16: floatLanes
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
    case .neon: "64-bit ARM with NEON (every such server)"
    case .neonDot: "NEON with 8-bit dot products (Neoverse N1 and later: Graviton 2, Ampere Altra)"
    case .neonBF16: "NEON with BF16 and I8MM (Neoverse V1, N2 and later: Graviton 3, Grace, Cobalt, Axion)"
    }
  }

  /// Every feature a machine must have.
  public var features: [CPUFeature] {
    switch self {
    case .avx2: CPUFeature.neededByAVX2
    case .avx512: CPULevel.avx2.features + CPUFeature.addedByAVX512
    case .avx512BF16: CPULevel.avx512.features + CPUFeature.addedByAVX512BF16
    case .amx: CPULevel.avx512BF16.features + CPUFeature.addedByAMX
    case .neon: []
    case .neonDot: [CPUFeature.dotProducts]
    case .neonBF16: CPULevel.neonDot.features + CPUFeature.addedByNeoverseV1
    }
  }

  /// Compiles a function for this level, whatever the target machine was made for.
  public func configure(_ function: IRFunction) {
    // Only x86 has vectors of several widths to choose from.
    let vectorWidth = architecture == .x8664 ? vectorBits : nil
    function.setTarget(cpu: targetCPU, features: targetFeatures, vectorWidth: vectorWidth)
    function.addAttribute("tune-cpu", tuningCPU)
  }

  // MARK: This machine

  /// The levels that the machine the compiler runs on supports, lowest first; none where there is no code generation for
  /// its architecture. LLVM 19 does not report the features of the higher ARM levels.
  public static var supportedByHost: [CPULevel] {
    CPUArchitecture.host?.levels(byFeatures: TargetMachine.hostFeatures) ?? []
  }

  /// The highest level this machine supports: what `--target-cpu native` means.
  public static var native: CPULevel? { supportedByHost.last }
}

extension CPUArchitecture {
  /// The levels whose features all stand in LLVM's feature string, such as `+sse3,-avx512f`.
  func levels(byFeatures string: String) -> [CPULevel] {
    let present = Set(string.split(separator: ",").filter { $0.hasPrefix("+") }.map { String($0.dropFirst()) })
    return levels.filter { level in level.features.allSatisfy { present.contains($0.name) } }
  }
}

/// The register tile of a matrix micro-kernel: some rows times a fixed number of vectors of columns.
public struct MicroKernelShape: Hashable, Sendable {
  /// The heights there is code for, tallest first, ending in 1: the tallest fills the registers.
  public let rowHeights: [Int]
  /// The tallest height for elements that no instruction multiplies: fewer registers are left for sums where words must
  /// be taken apart.
  public let tallestApart: Int
  /// The vectors of columns of one tile.
  public let columnVectors: Int
  /// The lanes of one vector.
  public let lanes: Int

  /// The columns of one tile.
  public var columns: Int { columnVectors * lanes }
  /// The rows of the tallest tile.
  public var rows: Int { rowHeights[0] }
}
