import LLVMKit

/// The ID registers of ARM that some level asks about.
///
/// The alternative is `getauxval`, which is in libc: an artifact has none. Linux answers the read of an ID register in the
/// processor's stead, with only what the kernel supports on every core. Where no level needs more than the baseline, no
/// register is read: such code runs on kernels before 4.11 too.
struct IDRegisterAnswers: ProcessorAnswers {
  let context: Context
  private let registers: [(register: IDRegister, value: IRValue)]

  /// Emits the questions that these levels need answers to.
  init(_ b: IRBuilder, _ context: Context, levels: [CPULevel]) {
    self.context = context
    let features = levels.flatMap(\.features)
    registers = IDRegister.allCases.compactMap { register in
      let isAsked = features.contains { if case .field(register, _) = $0.evidence { true } else { false } }
      guard isAsked else { return nil }
      return (register, b.assembly("mrs $0, \(register.rawValue)", constraints: "=r", returns: context.i64))
    }
  }

  func supports(_ b: inout IRBuilder, _ level: CPULevel) -> IRValue {
    var supported = context.boolean(true)
    for feature in level.features {
      guard case .field(let register, let first) = feature.evidence,
        let value = registers.first(where: { $0.register == register })?.value
      else { continue }
      supported = b.and(supported, b.icmp(.ne, b.and(b.lshr(value, first), 15), 0))
    }
    return supported
  }
}
