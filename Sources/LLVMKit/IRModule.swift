import CLLVM

/// Owns functions and globals: what becomes one object file.
///
/// Functions, globals and instructions are handles into the module and valid as long as it is alive.
public final class IRModule {
  let raw: LLVMModuleRef
  /// The context the module's types live in.
  public let context: Context
  private var usedGlobals: [IRValue] = []

  /// Makes an empty module.
  public init(_ name: String, in context: Context) {
    self.context = context
    raw = LLVMModuleCreateWithNameInContext(name, context.raw)
  }

  private init(raw: LLVMModuleRef, in context: Context) {
    self.raw = raw
    self.context = context
  }

  deinit { LLVMDisposeModule(raw) }

  /// A module in LLVM's text form. Throws where the text is none, with LLVM's complaint.
  public init(parsing text: String, in context: Context) throws(LLVMError) {
    let buffer = LLVMCreateMemoryBufferWithMemoryRangeCopy(text, text.utf8.count, "module")
    var (module, message): (LLVMModuleRef?, UnsafeMutablePointer<CChar>?)
    // Takes the buffer.
    let failed = LLVMParseIRInContext(context.raw, buffer, &module, &message) != 0
    guard !failed, let module else { throw LLVMError(stage: "parse", message: takeMessage(message)) }
    self.context = context
    raw = module
  }

  /// The finished module again, in the same context: what emits one of them leaves the other alone.
  public func copy() -> IRModule { IRModule(raw: LLVMCloneModule(raw), in: context) }

  /// The module in LLVM's text form.
  public var text: String { takeMessage(LLVMPrintModuleToString(raw)) }

  /// The target triple; `TargetMachine` sets it when it optimizes or emits.
  public var triple: String {
    get { String(cString: LLVMGetTarget(raw)) }
    set { LLVMSetTarget(raw, newValue) }
  }

  /// The sizes and alignments of types; `TargetMachine` sets it when it optimizes or emits.
  public var dataLayout: String {
    get { String(cString: LLVMGetDataLayoutStr(raw)) }
    set { LLVMSetDataLayout(raw, newValue) }
  }

  /// Declares a function; appending a block to it makes it a definition.
  public func addFunction(_ name: String, type: IRType, linkage: Linkage = .external) -> IRFunction {
    let function = IRFunction(raw: LLVMAddFunction(raw, name, type.raw))
    function.setLinkage(linkage)
    return function
  }

  /// The function of this name, if there is one.
  public func function(named name: String) -> IRFunction? {
    LLVMGetNamedFunction(raw, name).map(IRFunction.init(raw:))
  }

  /// The functions of the module, declarations included, in order.
  public var functions: [IRFunction] {
    var result: [IRFunction] = []
    var next = LLVMGetFirstFunction(raw)
    while let function = next {
      result.append(IRFunction(raw: function))
      next = LLVMGetNextFunction(function)
    }
    return result
  }

  /// Adds a global with an initial value and gives its address.
  ///
  /// - Parameters:
  ///   - externallyInitialized: something outside LLVM's sight writes the value before code runs, so that no use of it
  ///     is folded to the initializer.
  ///   - hidden: keep the symbol out of the shared object's dynamic table.
  ///   - addressSpace: a target's own space, such as 3 for a GPU's shared memory.
  public func addGlobal(
    _ name: String, initializer: IRValue, linkage: Linkage = .private, constant: Bool = true, section: String? = nil,
    alignment: Int? = nil, externallyInitialized: Bool = false, hidden: Bool = false, addressSpace: Int = 0
  ) -> IRValue {
    let global: LLVMValueRef = LLVMAddGlobalInAddressSpace(raw, initializer.type.raw, name, UInt32(addressSpace))
    LLVMSetInitializer(global, initializer.raw)
    LLVMSetLinkage(global, linkage.raw)
    LLVMSetGlobalConstant(global, constant ? 1 : 0)
    LLVMSetExternallyInitialized(global, externallyInitialized ? 1 : 0)
    if hidden { LLVMSetVisibility(global, LLVMHiddenVisibility) }
    if let section { LLVMSetSection(global, section) }
    if let alignment { LLVMSetAlignment(global, UInt32(alignment)) }
    return IRValue(raw: global)
  }

  /// The constant address `bytes` behind a global.
  public func address(_ global: IRValue, plus bytes: Int) -> IRValue {
    var indices: [LLVMValueRef?] = [context.i64.constant(bytes).raw]
    return IRValue(raw: LLVMConstInBoundsGEP2(context.i8.raw, global.raw, &indices, 1))
  }

  /// Declares a global defined in another object, or by the linker, and gives its address.
  public func declareGlobal(
    _ name: String, type: IRType, hidden: Bool = false, addressSpace: Int = 0, alignment: Int? = nil
  ) -> IRValue {
    let global: LLVMValueRef = LLVMAddGlobalInAddressSpace(raw, type.raw, name, UInt32(addressSpace))
    if let alignment { LLVMSetAlignment(global, UInt32(alignment)) }
    if hidden { LLVMSetVisibility(global, LLVMHiddenVisibility) }
    return IRValue(raw: global)
  }

  /// The address of the global of this name, if there is one.
  public func global(named name: String) -> IRValue? {
    LLVMGetNamedGlobal(raw, name).map(IRValue.init(raw:))
  }

  /// A constant array of `i8`.
  public func bytes(_ bytes: [UInt8]) -> IRValue { string(bytes, terminated: false) }

  /// A constant array of `i8` holding the text in UTF-8 and a zero at its end.
  public func cString(_ text: String) -> IRValue { string(Array(text.utf8), terminated: true) }

  private func string(_ bytes: [UInt8], terminated: Bool) -> IRValue {
    bytes.withUnsafeBytes { buffer in
      let characters = buffer.bindMemory(to: CChar.self)
      // LLVM wants a pointer even for no bytes at all.
      return withUnsafePointer(to: CChar(0)) { empty in
        IRValue(
          raw: LLVMConstStringInContext2(
            context.raw, characters.baseAddress ?? empty, bytes.count, terminated ? 0 : 1))
      }
    }
  }

  /// Keeps globals and functions that nothing refers to, through optimization and linking (`llvm.used`).
  public func used(_ globals: [IRValue]) {
    usedGlobals += globals
    if let old = LLVMGetNamedGlobal(raw, "llvm.used") { LLVMDeleteGlobal(old) }
    let list = context.array(context.pointer, usedGlobals.count).constants(usedGlobals)
    let global = LLVMAddGlobal(raw, list.type.raw, "llvm.used")
    LLVMSetInitializer(global, list.raw)
    LLVMSetLinkage(global, LLVMAppendingLinkage)
    LLVMSetSection(global, "llvm.metadata")
  }

  /// Adds an operand to a named metadata node, such as `nvvm.annotations`: values become value metadata.
  public func addNamedMetadata(_ name: String, _ operands: [MetadataOperand]) {
    var nodes: [LLVMMetadataRef?] = operands.map { operand in
      switch operand {
      case .value(let value): LLVMValueAsMetadata(value.raw)
      case .string(let text): LLVMMDStringInContext2(context.raw, text, text.utf8.count)
      }
    }
    let node = LLVMMDNodeInContext2(context.raw, &nodes, nodes.count)
    LLVMAddNamedMetadataOperand(raw, name, LLVMMetadataAsValue(context.raw, node))
  }

  /// Checks that the module is well formed.
  public func verify() throws(LLVMError) {
    var message: UnsafeMutablePointer<CChar>?
    let failed = LLVMVerifyModule(raw, LLVMReturnStatusAction, &message) != 0
    let text = takeMessage(message)
    if failed { throw LLVMError(stage: "verify", message: text) }
  }

  /// Runs passes, named as for `opt -passes=`: `default<O2>`, or a list such as `sroa,instcombine`.
  ///
  /// - Parameters:
  ///   - autoVectorize: let the loop and SLP vectorizers of a default pipeline work on scalar code.
  ///   - verifyEach: check the module after every pass; a failure ends the process.
  public func optimize(
    _ pipeline: String, for machine: TargetMachine, autoVectorize: Bool = true, verifyEach: Bool = false
  ) throws(LLVMError) {
    machine.describe(self)
    let options = LLVMCreatePassBuilderOptions()
    defer { LLVMDisposePassBuilderOptions(options) }
    LLVMPassBuilderOptionsSetVerifyEach(options, verifyEach ? 1 : 0)
    LLVMPassBuilderOptionsSetLoopVectorization(options, autoVectorize ? 1 : 0)
    LLVMPassBuilderOptionsSetSLPVectorization(options, autoVectorize ? 1 : 0)
    if let error = LLVMRunPasses(raw, pipeline, machine.raw, options) {
      let message = LLVMGetErrorMessage(error)
      defer { LLVMDisposeErrorMessage(message) }
      throw LLVMError(stage: "optimize", message: message.map { String(cString: $0) } ?? "")
    }
    if let text = context.takeErrors() { throw LLVMError(stage: "optimize", message: text) }
  }
}

/// One operand of a metadata node.
public enum MetadataOperand {
  /// A constant or a function.
  case value(IRValue)
  /// A text.
  case string(String)
}
