import LLVMKit

extension CPUArchitecture {
  /// The symbol of the emitted detection.
  public static let detectionSymbol = "ultra_cpu_level"

  /// Emits `i32 ultra_cpu_level()`: bit `ordinal` is set for each of these levels that the running machine supports.
  ///
  /// It asks the processor by inline assembly for the architecture's baseline: no library and no resolver is needed. Only
  /// where a level with tiles is among them and the machine has them, it asks Linux to let the process use them. The symbol
  /// is hidden. Under a hypervisor each question may take microseconds: call it once, at load.
  public func emitDetection(of levels: [CPULevel], into module: IRModule) -> IRFunction {
    let context = module.context
    let function = module.addFunction(
      Self.detectionSymbol, type: context.function([], returns: context.i32))
    function.hide()
    function.setTarget(cpu: baselineCPU)
    function.addAttribute("nounwind")
    var b = IRBuilder(at: function.appendBlock("entry"))
    let answers: any ProcessorAnswers =
      switch self {
      case .x8664: CPUIDAnswers(&b, context)
      case .aarch64: IDRegisterAnswers(b, context, levels: levels)
      }
    let chosen = answers.emitChoice(&b, of: levels)
    b.ret(chosen)
    return function
  }

  /// The levels of a bit set that the emitted detection returned, lowest first.
  public func levels(inBits bits: UInt32) -> [CPULevel] { levels.filter { bits & 1 << $0.ordinal != 0 } }
}

/// What the running processor said of itself, in emitted code.
protocol ProcessorAnswers {
  var context: Context { get }
  /// Whether it has all that the level needs.
  func supports(_ b: inout IRBuilder, _ level: CPULevel) -> IRValue
}

extension ProcessorAnswers {
  /// The bits of those of the levels that the processor has all for.
  func emitChoice(_ b: inout IRBuilder, of levels: [CPULevel]) -> IRValue {
    levels.reduce(context.i32.constant(0)) { chosen, level in
      let supported = supports(&b, level)
      return b.or(chosen, b.shl(b.zext(supported, to: context.i32), level.ordinal))
    }
  }
}
