import LLVMKit

/// CPUID's words and, where the operating system allows reading it, XCR0.
struct CPUIDAnswers: ProcessorAnswers {
  let context: Context
  let words: CPUIDWords
  /// XCR0's low half.
  let savedState: IRValue
  /// Emits whether the process may use tiles. It runs only where nothing else is missing.
  let permission: (IRBuilder) -> IRValue

  func supports(_ b: inout IRBuilder, _ level: CPULevel) -> IRValue {
    var supported = Self.has(b, savedState, bits: Self.savedState(of: level))
    for word in CPUIDWord.allCases {
      let bits = level.features.reduce(0) { bits, feature in
        if case .bit(word, let bit) = feature.evidence { bits | 1 << bit } else { bits }
      }
      if bits != 0 { supported = b.and(supported, Self.has(b, words[word], bits: bits)) }
    }
    guard level.hasTiles else { return supported }
    return b.ifThenElse(supported, name: "permission") { b in
      [permission(b)]
    } otherwise: { _ in
      [context.boolean(false)]
    }[0]
  }

  /// The bits of XCR0 that say the operating system saves the registers used: ymm, for AVX-512 masks and zmm too, for AMX
  /// the tiles and their configuration. Levels of other architectures need none.
  private static func savedState(of level: CPULevel) -> Int {
    switch level {
    case .avx2: 0x06
    case .avx512, .avx512BF16: 0xe6
    case .amx: 0x6_00e6
    case .neon, .neonDot, .neonBF16: 0
    }
  }

  /// Whether Linux lets the process use tile data, whose registers it saves only for processes that have asked: a system
  /// call, `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`. Asking again does no harm.
  ///
  /// Linux refuses where a thread's alternate signal stack has no room for the tiles. Source: Linux,
  /// Documentation/arch/x86/xstate.rst.
  static func emitTilePermission(_ b: IRBuilder, _ context: Context) -> IRValue {
    let (archPrctl, requestPermission, tileData) = (158, 0x1023, 18)
    let result = b.assembly(
      "syscall", constraints: "={ax},{ax},{di},{si},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}",
      returns: context.i64, [b.i64(archPrctl), b.i64(requestPermission), b.i64(tileData)])
    return b.icmp(.eq, result, 0)
  }
}

extension CPUIDAnswers {
  /// Emits the questions.
  init(_ b: inout IRBuilder, _ context: Context) {
    let words = Self.emitWords(&b, context)
    let state = Self.emitSavedState(&b, context, features: words[.features])
    self.init(context: context, words: words, savedState: state) { b in Self.emitTilePermission(b, context) }
  }

  /// The words of CPUID; those of a leaf the processor does not have are zero.
  private static func emitWords(_ b: inout IRBuilder, _ context: Context) -> CPUIDWords {
    let zero = b.i32(0)
    // Every x86-64 processor has leaf 1. Asking for a leaf past the last gives another one's bits, hence the tests.
    let last = cpuid(b, context, leaf: 0)[0]
    let features = cpuid(b, context, leaf: 1)[2]
    let structured = b.ifThenElse(b.icmp(.uge, last, 7), name: "structured") { b in
      let first = cpuid(b, context, leaf: 7)
      let second = b.ifThenElse(b.icmp(.uge, first[0], 1), name: "second") { b in
        [cpuid(b, context, leaf: 7, subleaf: 1)[0]]
      } otherwise: { _ in
        [zero]
      }
      return [first[1], first[2], first[3], second[0]]
    } otherwise: { _ in
      [zero, zero, zero, zero]
    }
    let lastExtended = cpuid(b, context, leaf: 0x8000_0000)[0]
    let extended = b.ifThenElse(b.icmp(.uge, lastExtended, 0x8000_0001), name: "extended") { b in
      [cpuid(b, context, leaf: 0x8000_0001)[2]]
    } otherwise: { _ in
      [zero]
    }
    return CPUIDWords(
      features: features, structured: structured[0], structuredMore: structured[1], structuredLast: structured[2],
      structuredSecond: structured[3], extended: extended[0])
  }

  /// XCR0's low half, zero where the operating system has not enabled XGETBV: there the instruction would trap.
  private static func emitSavedState(_ b: inout IRBuilder, _ context: Context, features: IRValue) -> IRValue {
    let osxsave = 1 << 27
    let enabled = has(b, features, bits: osxsave)
    let result = context.structure([context.i32, context.i32])
    let state = b.ifThenElse(enabled, name: "state") { b in
      let halves = b.assembly(
        "xgetbv", constraints: "={ax},={dx},{cx},~{dirflag},~{fpsr},~{flags}", returns: result, [b.i32(0)])
      return [b.extractField(halves, 0)]
    } otherwise: { b in
      [b.i32(0)]
    }
    return state[0]
  }

  /// eax, ebx, ecx and edx of one leaf.
  private static func cpuid(_ b: IRBuilder, _ context: Context, leaf: Int, subleaf: Int = 0) -> [IRValue] {
    let word = context.i32
    let result = b.assembly(
      "cpuid", constraints: "={ax},={bx},={cx},={dx},{ax},{cx},~{dirflag},~{fpsr},~{flags}",
      returns: context.structure([word, word, word, word]), [b.i32(leaf), b.i32(subleaf)])
    return (0..<4).map { b.extractField(result, $0) }
  }

  /// Whether all of these bits are set.
  private static func has(_ b: IRBuilder, _ word: IRValue, bits: Int) -> IRValue {
    b.icmp(.eq, b.and(word, bits), bits)
  }
}

/// The values of CPUID's words in emitted code.
struct CPUIDWords {
  let features: IRValue
  let structured: IRValue
  let structuredMore: IRValue
  let structuredLast: IRValue
  let structuredSecond: IRValue
  let extended: IRValue

  subscript(word: CPUIDWord) -> IRValue {
    switch word {
    case .features: features
    case .structured: structured
    case .structuredMore: structuredMore
    case .structuredLast: structuredLast
    case .structuredSecond: structuredSecond
    case .extended: extended
    }
  }
}
