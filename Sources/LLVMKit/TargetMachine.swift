import CLLVM

/// How hard code generation works; passes before it are chosen apart, by `IRModule.optimize`.
public enum OptimizationLevel: Sendable {
  /// Compile quickly.
  case none
  /// What `-O2` does.
  case `default`
  /// What `-O3` does.
  case aggressive

  var raw: LLVMCodeGenOptLevel {
    switch self {
    case .none: LLVMCodeGenLevelNone
    case .default: LLVMCodeGenLevelDefault
    case .aggressive: LLVMCodeGenLevelAggressive
    }
  }
}

/// Turns modules into machine code for one target.
///
/// A function's own `target-cpu` and `target-features` hold only where the machine was made for a generic processor
/// without features; so it is by default.
public final class TargetMachine {
  let raw: LLVMTargetMachineRef
  /// The target triple the machine was made for.
  public let triple: String

  private static let targets: Void = {
    LLVMInitializeX86TargetInfo()
    LLVMInitializeX86Target()
    LLVMInitializeX86TargetMC()
    LLVMInitializeX86AsmPrinter()
    LLVMInitializeX86AsmParser()
    LLVMInitializeAArch64TargetInfo()
    LLVMInitializeAArch64Target()
    LLVMInitializeAArch64TargetMC()
    LLVMInitializeAArch64AsmPrinter()
    LLVMInitializeAArch64AsmParser()
    LLVMInitializeNVPTXTargetInfo()
    LLVMInitializeNVPTXTarget()
    LLVMInitializeNVPTXTargetMC()
    LLVMInitializeNVPTXAsmPrinter()
    LLVMInitializeAMDGPUTargetInfo()
    LLVMInitializeAMDGPUTarget()
    LLVMInitializeAMDGPUTargetMC()
    LLVMInitializeAMDGPUAsmPrinter()
    LLVMInitializeAMDGPUAsmParser()
  }()

  /// Makes x86, AArch64, NVPTX and AMDGPU known to LLVM; done once, and by every `init`.
  public static func initializeAllTargets() { _ = targets }

  /// Makes a machine.
  ///
  /// - Parameters:
  ///   - triple: such as `x86_64-unknown-linux-gnu` or `nvptx64-nvidia-cuda`.
  ///   - cpu: LLVM's name of the processor; generic code by default.
  ///   - features: LLVM's feature string, such as `+avx2,+fma`.
  /// - Throws: where LLVM does not know the triple.
  public init(
    triple: String, cpu: String = "", features: String = "", optimization: OptimizationLevel = .default,
    positionIndependent: Bool = true
  ) throws(LLVMError) {
    Self.initializeAllTargets()
    var target: LLVMTargetRef?
    var message: UnsafeMutablePointer<CChar>?
    let failed = LLVMGetTargetFromTriple(triple, &target, &message) != 0
    let text = takeMessage(message)
    if failed { throw LLVMError(stage: "find target \(triple)", message: text) }
    let machine = LLVMCreateTargetMachine(
      target, triple, cpu, features, optimization.raw, positionIndependent ? LLVMRelocPIC : LLVMRelocStatic,
      LLVMCodeModelDefault)
    guard let machine else {
      throw LLVMError(stage: "make target machine", message: "\(triple): the target cannot generate code")
    }
    raw = machine
    self.triple = triple
  }

  deinit { LLVMDisposeTargetMachine(raw) }

  /// The sizes and alignments of types on this target, in LLVM's notation.
  public var dataLayout: String {
    let layout = LLVMCreateTargetDataLayout(raw)
    defer { LLVMDisposeTargetData(layout) }
    return takeMessage(LLVMCopyStringRepOfTargetData(layout))
  }

  /// Writes the target's triple and data layout into a module.
  public func describe(_ module: IRModule) {
    module.triple = triple
    module.dataLayout = dataLayout
  }

  /// Generates an object file in memory. The module is lowered in place: emit once, or emit a copy.
  public func emitObject(_ module: IRModule) throws(LLVMError) -> [UInt8] {
    try emit(module, LLVMObjectFile, stage: "emit object")
  }

  /// Generates assembly text. The module is lowered in place: emit once, or emit a copy.
  public func emitAssembly(_ module: IRModule) throws(LLVMError) -> String {
    String(decoding: try emit(module, LLVMAssemblyFile, stage: "emit assembly"), as: UTF8.self)
  }

  private func emit(_ module: IRModule, _ type: LLVMCodeGenFileType, stage: String) throws(LLVMError) -> [UInt8] {
    describe(module)
    var message: UnsafeMutablePointer<CChar>?
    var buffer: LLVMMemoryBufferRef?
    let failed = LLVMTargetMachineEmitToMemoryBuffer(raw, module.raw, type, &message, &buffer) != 0
    let text = takeMessage(message)
    defer { if let buffer { LLVMDisposeMemoryBuffer(buffer) } }
    if failed { throw LLVMError(stage: stage, message: text) }
    if let text = module.context.takeErrors() { throw LLVMError(stage: stage, message: text) }
    return Array(UnsafeRawBufferPointer(start: LLVMGetBufferStart(buffer), count: LLVMGetBufferSize(buffer)))
  }

  /// The triple of the machine the compiler runs on.
  public static var hostTriple: String { takeMessage(LLVMGetDefaultTargetTriple()) }
  /// LLVM's name of the processor the compiler runs on.
  public static var hostCPU: String { takeMessage(LLVMGetHostCPUName()) }
  /// LLVM's feature string of the processor the compiler runs on.
  public static var hostFeatures: String { takeMessage(LLVMGetHostCPUFeatures()) }
}
