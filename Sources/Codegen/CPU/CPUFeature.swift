/// An instruction-set feature: what LLVM calls it, and what says that a processor has it.
///
/// Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2A, CPUID; AMD64 Architecture
/// Programmer's Manual, volume 3, appendix E; Arm Architecture Reference Manual for A-profile, AArch64 system registers.
public struct CPUFeature: Hashable, Sendable {
  /// What tells that a processor has a feature.
  public enum Evidence: Hashable, Sendable {
    /// A bit of a word of CPUID, on x86.
    case bit(CPUIDWord, Int)
    /// A field of four bits that is not zero, from this bit on, in an ID register of ARM.
    case field(IDRegister, Int)
  }

  /// LLVM's name.
  public let name: String
  /// Where it is told.
  public let evidence: Evidence

  private init(name: String, word: CPUIDWord, bit: Int) {
    self.name = name
    evidence = .bit(word, bit)
  }

  private init(name: String, register: IDRegister, field: Int) {
    self.name = name
    evidence = .field(register, field)
  }

  static let neededByAVX2 = [
    CPUFeature(name: "sse3", word: .features, bit: 0),
    CPUFeature(name: "ssse3", word: .features, bit: 9),
    CPUFeature(name: "fma", word: .features, bit: 12),
    CPUFeature(name: "cx16", word: .features, bit: 13),
    CPUFeature(name: "sse4.1", word: .features, bit: 19),
    CPUFeature(name: "sse4.2", word: .features, bit: 20),
    CPUFeature(name: "movbe", word: .features, bit: 22),
    CPUFeature(name: "popcnt", word: .features, bit: 23),
    CPUFeature(name: "avx", word: .features, bit: 28),
    CPUFeature(name: "f16c", word: .features, bit: 29),
    CPUFeature(name: "bmi", word: .structured, bit: 3),
    CPUFeature(name: "avx2", word: .structured, bit: 5),
    CPUFeature(name: "bmi2", word: .structured, bit: 8),
    CPUFeature(name: "sahf", word: .extended, bit: 0),
    CPUFeature(name: "lzcnt", word: .extended, bit: 5),
  ]

  static let addedByAVX512 = [
    CPUFeature(name: "avx512f", word: .structured, bit: 16),
    CPUFeature(name: "avx512dq", word: .structured, bit: 17),
    CPUFeature(name: "avx512cd", word: .structured, bit: 28),
    CPUFeature(name: "avx512bw", word: .structured, bit: 30),
    CPUFeature(name: "avx512vl", word: .structured, bit: 31),
  ]

  static let addedByAVX512BF16 = [
    CPUFeature(name: "avx512vbmi", word: .structuredMore, bit: 1),
    CPUFeature(name: "avx512vbmi2", word: .structuredMore, bit: 6),
    CPUFeature(name: "avx512vnni", word: .structuredMore, bit: 11),
    CPUFeature(name: "avx512bitalg", word: .structuredMore, bit: 12),
    CPUFeature(name: "avx512vpopcntdq", word: .structuredMore, bit: 14),
    CPUFeature(name: "avx512bf16", word: .structuredSecond, bit: 5),
  ]

  static let addedByAMX = [
    CPUFeature(name: "amx-bf16", word: .structuredLast, bit: 22),
    CPUFeature(name: "amx-tile", word: .structuredLast, bit: 24),
    CPUFeature(name: "amx-int8", word: .structuredLast, bit: 25),
  ]

  static let dotProducts = CPUFeature(name: "dotprod", register: .instructions0, field: 44)

  static let addedByNeoverseV1 = [
    CPUFeature(name: "bf16", register: .instructions1, field: 44),
    CPUFeature(name: "i8mm", register: .instructions1, field: 52),
  ]
}

/// A 32-bit word that CPUID returns, of those that hold features.
public enum CPUIDWord: CaseIterable, Sendable {
  /// Leaf 1, ecx.
  case features
  /// Leaf 7, subleaf 0, ebx.
  case structured
  /// Leaf 7, subleaf 0, ecx.
  case structuredMore
  /// Leaf 7, subleaf 0, edx.
  case structuredLast
  /// Leaf 7, subleaf 1, eax.
  case structuredSecond
  /// Leaf 0x80000001, ecx.
  case extended
}

/// A register of ARM that says which instructions a processor has. It belongs to the operating system; Linux, from 4.11
/// on, lets programs read what it supports of it.
public enum IDRegister: String, CaseIterable, Sendable {
  /// The first of those about instructions.
  case instructions0 = "ID_AA64ISAR0_EL1"
  /// The second.
  case instructions1 = "ID_AA64ISAR1_EL1"
}
