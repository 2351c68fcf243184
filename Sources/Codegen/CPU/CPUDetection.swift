import LLVMKit

extension CPULevel {
  /// The symbol of the emitted detection.
  public static let detectionSymbol = "ultra_cpu_level"

  /// Emits `i32 ultra_cpu_level()`: bit `ordinal` is set for each level that the running machine supports.
  ///
  /// It asks CPUID and, where the operating system allows it, XCR0, by inline assembly for a baseline x86-64: no library
  /// and no resolver is needed. The symbol is hidden. Under a hypervisor each CPUID may take microseconds: call it once,
  /// at load.
  public static func emitDetection(into module: IRModule) -> IRFunction {
    let context = module.context
    let function = module.addFunction(detectionSymbol, type: context.function([], returns: context.i32))
    function.hide()
    function.setTarget(cpu: "x86-64")
    function.addAttribute("nounwind")
    var b = IRBuilder(at: function.appendBlock("entry"))
    let words = emitWords(&b, context)
    let state = emitSavedState(&b, context, features: words[.features])
    var levels = context.i32.constant(0)
    for level in CPULevel.allCases {
      var supported = has(b, state, bits: level.savedState)
      for word in CPUIDWord.allCases {
        let bits = level.features.filter { $0.word == word }.reduce(0) { $0 | 1 << $1.bit }
        if bits != 0 { supported = b.and(supported, has(b, words[word], bits: bits)) }
      }
      levels = b.or(levels, b.shl(b.zext(supported, to: context.i32), level.ordinal))
    }
    b.ret(levels)
    return function
  }

  /// The levels of a bit set that the emitted detection returned, lowest first.
  public static func levels(inBits bits: UInt32) -> [CPULevel] { allCases.filter { bits & 1 << $0.ordinal != 0 } }

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
      return [first[1], first[2], second[0]]
    } otherwise: { _ in
      [zero, zero, zero]
    }
    let lastExtended = cpuid(b, context, leaf: 0x8000_0000)[0]
    let extended = b.ifThenElse(b.icmp(.uge, lastExtended, 0x8000_0001), name: "extended") { b in
      [cpuid(b, context, leaf: 0x8000_0001)[2]]
    } otherwise: { _ in
      [zero]
    }
    return CPUIDWords(
      features: features, structured: structured[0], structuredMore: structured[1], structuredSecond: structured[2],
      extended: extended[0])
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
private struct CPUIDWords {
  let features: IRValue
  let structured: IRValue
  let structuredMore: IRValue
  let structuredSecond: IRValue
  let extended: IRValue

  subscript(word: CPUIDWord) -> IRValue {
    switch word {
    case .features: features
    case .structured: structured
    case .structuredMore: structuredMore
    case .structuredSecond: structuredSecond
    case .extended: extended
    }
  }
}
