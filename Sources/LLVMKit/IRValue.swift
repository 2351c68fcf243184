import CLLVM

/// A value of LLVM IR: a constant, a parameter, a global or an instruction's result.
public struct IRValue: Hashable {
  /// The LLVM-C handle.
  public let raw: LLVMValueRef

  /// Wraps a handle.
  public init(raw: LLVMValueRef) { self.raw = raw }

  /// The value's type.
  public var type: IRType { IRType(raw: LLVMTypeOf(raw)) }

  /// The name in the text form, without its sigil; empty where it only has a number.
  public var name: String {
    get {
      var length = 0
      guard let characters = LLVMGetValueName2(raw, &length) else { return "" }
      return String(decoding: UnsafeRawBufferPointer(start: characters, count: length), as: UTF8.self)
    }
    nonmutating set { LLVMSetValueName2(raw, newValue, newValue.utf8.count) }
  }

  /// Whether this is a constant.
  public var isConstant: Bool { LLVMIsConstant(raw) != 0 }
}

extension IRValue: CustomStringConvertible {
  /// As in LLVM's text form, an instruction with its operands.
  public var description: String { takeMessage(LLVMPrintValueToString(raw)) }
}

/// A basic block of a function.
public struct IRBlock: Hashable {
  /// The LLVM-C handle.
  public let raw: LLVMBasicBlockRef

  /// Wraps a handle.
  public init(raw: LLVMBasicBlockRef) { self.raw = raw }

  /// The function this block is in.
  public var function: IRFunction { IRFunction(raw: LLVMGetBasicBlockParent(raw)) }
  /// Whether the block already ends in a branch, a return or the like.
  public var isTerminated: Bool { LLVMGetBasicBlockTerminator(raw) != nil }
}

/// How a symbol is seen by the linker.
public enum Linkage: Sendable {
  /// Visible to other objects.
  case external
  /// Visible in this module only, without a symbol.
  case `private`
  /// Visible in this module only, with a local symbol.
  case `internal`
  /// One of several equal definitions is kept.
  case linkOnceODR
  /// Overridden by another definition, or absent.
  case weak

  var raw: LLVMLinkage {
    switch self {
    case .external: LLVMExternalLinkage
    case .private: LLVMPrivateLinkage
    case .internal: LLVMInternalLinkage
    case .linkOnceODR: LLVMLinkOnceODRLinkage
    case .weak: LLVMWeakAnyLinkage
    }
  }
}
