import CLLVM

/// A promise about one parameter of a function.
public enum ParameterAttribute: Hashable, Sendable {
  /// No other pointer reaches the same memory during the call.
  case noAlias
  /// The callee keeps no copy of the pointer.
  case noCapture
  /// The callee does not write through the pointer.
  case readOnly
  /// The callee does not read through the pointer.
  case writeOnly
  /// The pointer is not null.
  case nonNull
  /// The value is neither undefined nor poison.
  case noUndefined
  /// The pointer is a multiple of this many bytes, a power of two.
  case alignment(Int)
  /// At least this many bytes can be read through the pointer.
  case dereferenceable(Int)
  /// The caller extends a narrow integer by its sign.
  case signExtended
  /// The caller extends a narrow integer by zeros.
  case zeroExtended

  var nameAndValue: (String, UInt64) {
    switch self {
    case .noAlias: ("noalias", 0)
    case .noCapture: ("nocapture", 0)
    case .readOnly: ("readonly", 0)
    case .writeOnly: ("writeonly", 0)
    case .nonNull: ("nonnull", 0)
    case .noUndefined: ("noundef", 0)
    case .alignment(let bytes): ("align", UInt64(bytes))
    case .dereferenceable(let bytes): ("dereferenceable", UInt64(bytes))
    case .signExtended: ("signext", 0)
    case .zeroExtended: ("zeroext", 0)
    }
  }
}

/// Who saves which registers, and for a GPU whether the host may launch the function.
public enum CallingConvention: UInt32, Sendable {
  /// The target's C convention.
  case c = 0
  /// LLVM's own for functions within a module.
  case fast = 8
  /// A kernel of an NVIDIA GPU.
  case ptxKernel = 71
  /// A kernel of an AMD GPU.
  case amdgpuKernel = 91
}

/// A function of a module: a declaration until its first block is appended.
public struct IRFunction: Hashable {
  /// The LLVM-C handle.
  public let raw: LLVMValueRef

  /// Wraps a handle.
  public init(raw: LLVMValueRef) { self.raw = raw }

  /// The function's address as a value.
  public var value: IRValue { IRValue(raw: raw) }
  /// The function's type, not its pointer's.
  public var type: IRType { IRType(raw: LLVMGlobalGetValueType(raw)) }
  /// What the function returns.
  public var resultType: IRType { IRType(raw: LLVMGetReturnType(type.raw)) }
  /// The function's symbol.
  public var name: String { value.name }
  /// The parameters, first to last.
  public var parameters: [IRValue] { (0..<LLVMCountParams(raw)).map { IRValue(raw: LLVMGetParam(raw, $0)) } }
  /// The first block; nil for a declaration.
  public var entry: IRBlock? { LLVMGetFirstBasicBlock(raw).map(IRBlock.init(raw:)) }

  /// Appends an empty block. LLVM makes the name unique.
  public func appendBlock(_ name: String = "") -> IRBlock {
    IRBlock(raw: LLVMAppendBasicBlockInContext(contextHandle, raw, name))
  }

  /// Adds an attribute known to LLVM by name, such as `nounwind` or `alwaysinline`.
  public func addAttribute(_ name: String) {
    addAttribute(name, value: 0, at: functionIndex)
  }

  /// Adds a string attribute, such as `target-cpu`.
  public func addAttribute(_ key: String, _ value: String) {
    let attribute = LLVMCreateStringAttribute(
      contextHandle, key, UInt32(key.utf8.count), value, UInt32(value.utf8.count))
    LLVMAddAttributeAtIndex(raw, functionIndex, attribute)
  }

  /// Adds promises about a parameter, counted from 0.
  public func addParameterAttributes(_ parameter: Int, _ attributes: [ParameterAttribute]) {
    for attribute in attributes {
      let (name, value) = attribute.nameAndValue
      addAttribute(name, value: value, at: LLVMAttributeIndex(parameter + 1))
    }
  }

  /// How the linker sees the function.
  public func setLinkage(_ linkage: Linkage) { LLVMSetLinkage(raw, linkage.raw) }

  /// Keeps the symbol out of the shared object's dynamic table.
  public func hide() { LLVMSetVisibility(raw, LLVMHiddenVisibility) }

  /// Places the function in a section.
  public func setSection(_ section: String) { LLVMSetSection(raw, section) }

  /// The calling convention; calls built through `IRBuilder` follow it.
  public var callingConvention: CallingConvention {
    get { CallingConvention(rawValue: LLVMGetFunctionCallConv(raw)) ?? .c }
    nonmutating set { LLVMSetFunctionCallConv(raw, newValue.rawValue) }
  }

  /// Compiles this function for a processor, whatever the target machine was made for.
  ///
  /// - Parameters:
  ///   - cpu: LLVM's name, such as `x86-64-v3` or `znver4`.
  ///   - features: LLVM's feature string, such as `+avx512bf16`; empty for the processor's own.
  ///   - vectorWidth: the widest vector in bits that code generation may use without splitting it.
  public func setTarget(cpu: String, features: String = "", vectorWidth: Int? = nil) {
    addAttribute("target-cpu", cpu)
    if !features.isEmpty { addAttribute("target-features", features) }
    if let vectorWidth {
      addAttribute("prefer-vector-width", String(vectorWidth))
      addAttribute("min-legal-vector-width", String(vectorWidth))
    }
  }

  var contextHandle: LLVMContextRef { LLVMGetTypeContext(LLVMGlobalGetValueType(raw)) }

  private var functionIndex: LLVMAttributeIndex { LLVMAttributeIndex.max }

  private func addAttribute(_ name: String, value: UInt64, at index: LLVMAttributeIndex) {
    let kind = LLVMGetEnumAttributeKindForName(name, name.utf8.count)
    precondition(
      kind != 0,
      "LLVM has no attribute named \(name); string attributes, such as no-builtins, take a value, if only an empty one")
    LLVMAddAttributeAtIndex(raw, index, LLVMCreateEnumAttribute(contextHandle, kind, value))
  }
}
