import CLLVM

/// Appends instructions to a block.
///
/// A builder is a value: a copy has its own position. Every instruction goes to the end of `block` at that moment.
/// Floating-point arithmetic is strict: no instruction is reassociated, contracted or assumed finite unless its own
/// call says so.
public struct IRBuilder {
  private let handle: BuilderHandle
  /// Where the next instruction goes.
  public private(set) var block: IRBlock

  /// Starts at the end of a block.
  public init(at end: IRBlock) {
    block = end
    handle = BuilderHandle(context: end.function.contextHandle)
  }

  /// Moves to the end of a block.
  public mutating func position(at end: IRBlock) { block = end }

  /// The function being built.
  public var function: IRFunction { block.function }

  /// LLVM's builder, at the end of `block`.
  var raw: LLVMBuilderRef {
    LLVMPositionBuilderAtEnd(handle.raw, block.raw)
    return handle.raw
  }

  var contextHandle: LLVMContextRef { handle.context }

  /// A fresh block at the end of the current function.
  public func appendBlock(_ name: String = "") -> IRBlock { function.appendBlock(name) }

  /// The integer constant `value` of 32 bits.
  public func i32(_ value: Int) -> IRValue { IRType(raw: LLVMInt32TypeInContext(contextHandle)).constant(value) }
  /// The integer constant `value` of 64 bits.
  public func i64(_ value: Int) -> IRValue { IRType(raw: LLVMInt64TypeInContext(contextHandle)).constant(value) }

  // MARK: Integers

  /// `a + b`, modulo the width.
  public func add(_ a: IRValue, _ b: IRValue) -> IRValue { IRValue(raw: LLVMBuildAdd(raw, a.raw, b.raw, "")) }
  /// `a - b`, modulo the width.
  public func sub(_ a: IRValue, _ b: IRValue) -> IRValue { IRValue(raw: LLVMBuildSub(raw, a.raw, b.raw, "")) }
  /// `a * b`, modulo the width.
  public func mul(_ a: IRValue, _ b: IRValue) -> IRValue { IRValue(raw: LLVMBuildMul(raw, a.raw, b.raw, "")) }
  /// The signed quotient, rounded toward zero.
  public func sdiv(_ a: IRValue, _ b: IRValue) -> IRValue { IRValue(raw: LLVMBuildSDiv(raw, a.raw, b.raw, "")) }
  /// The unsigned quotient.
  public func udiv(_ a: IRValue, _ b: IRValue) -> IRValue { IRValue(raw: LLVMBuildUDiv(raw, a.raw, b.raw, "")) }
  /// The remainder of `sdiv`, with the sign of `a`.
  public func srem(_ a: IRValue, _ b: IRValue) -> IRValue { IRValue(raw: LLVMBuildSRem(raw, a.raw, b.raw, "")) }
  /// The remainder of `udiv`.
  public func urem(_ a: IRValue, _ b: IRValue) -> IRValue { IRValue(raw: LLVMBuildURem(raw, a.raw, b.raw, "")) }
  /// Bitwise and.
  public func and(_ a: IRValue, _ b: IRValue) -> IRValue { IRValue(raw: LLVMBuildAnd(raw, a.raw, b.raw, "")) }
  /// Bitwise or.
  public func or(_ a: IRValue, _ b: IRValue) -> IRValue { IRValue(raw: LLVMBuildOr(raw, a.raw, b.raw, "")) }
  /// Bitwise exclusive or.
  public func xor(_ a: IRValue, _ b: IRValue) -> IRValue { IRValue(raw: LLVMBuildXor(raw, a.raw, b.raw, "")) }
  /// Shift left; by the width or more is poison.
  public func shl(_ a: IRValue, _ b: IRValue) -> IRValue { IRValue(raw: LLVMBuildShl(raw, a.raw, b.raw, "")) }
  /// Shift right, filling with zeros.
  public func lshr(_ a: IRValue, _ b: IRValue) -> IRValue { IRValue(raw: LLVMBuildLShr(raw, a.raw, b.raw, "")) }
  /// Shift right, filling with the sign.
  public func ashr(_ a: IRValue, _ b: IRValue) -> IRValue { IRValue(raw: LLVMBuildAShr(raw, a.raw, b.raw, "")) }
  /// Every bit flipped.
  public func not(_ a: IRValue) -> IRValue { IRValue(raw: LLVMBuildNot(raw, a.raw, "")) }
  /// `-a`, modulo the width.
  public func neg(_ a: IRValue) -> IRValue { IRValue(raw: LLVMBuildNeg(raw, a.raw, "")) }

  /// The smaller of two signed integers.
  public func smin(_ a: IRValue, _ b: IRValue) -> IRValue { intrinsic("llvm.smin", overloads: [a.type], [a, b]) }
  /// The larger of two signed integers.
  public func smax(_ a: IRValue, _ b: IRValue) -> IRValue { intrinsic("llvm.smax", overloads: [a.type], [a, b]) }
  /// The smaller of two unsigned integers.
  public func umin(_ a: IRValue, _ b: IRValue) -> IRValue { intrinsic("llvm.umin", overloads: [a.type], [a, b]) }
  /// The larger of two unsigned integers.
  public func umax(_ a: IRValue, _ b: IRValue) -> IRValue { intrinsic("llvm.umax", overloads: [a.type], [a, b]) }

  /// Compares integers or pointers, lane by lane.
  public func icmp(_ predicate: IntegerPredicate, _ a: IRValue, _ b: IRValue) -> IRValue {
    IRValue(raw: LLVMBuildICmp(raw, predicate.raw, a.raw, b.raw, ""))
  }

  // MARK: Floating point

  /// `a + b`.
  public func fadd(_ a: IRValue, _ b: IRValue) -> IRValue { IRValue(raw: LLVMBuildFAdd(raw, a.raw, b.raw, "")) }
  /// `a - b`.
  public func fsub(_ a: IRValue, _ b: IRValue) -> IRValue { IRValue(raw: LLVMBuildFSub(raw, a.raw, b.raw, "")) }
  /// `a * b`.
  public func fmul(_ a: IRValue, _ b: IRValue) -> IRValue { IRValue(raw: LLVMBuildFMul(raw, a.raw, b.raw, "")) }
  /// `a / b`.
  public func fdiv(_ a: IRValue, _ b: IRValue) -> IRValue { IRValue(raw: LLVMBuildFDiv(raw, a.raw, b.raw, "")) }
  /// The sign flipped, of zeros and NaN too.
  public func fneg(_ a: IRValue) -> IRValue { IRValue(raw: LLVMBuildFNeg(raw, a.raw, "")) }
  /// `a * b + c`, rounded once.
  public func fma(_ a: IRValue, _ b: IRValue, _ c: IRValue) -> IRValue {
    intrinsic("llvm.fma", overloads: [a.type], [a, b, c])
  }
  /// The sign cleared.
  public func fabs(_ a: IRValue) -> IRValue { intrinsic("llvm.fabs", overloads: [a.type], [a]) }
  /// The magnitude of `a` with the sign of `sign`.
  public func copysign(_ a: IRValue, _ sign: IRValue) -> IRValue {
    intrinsic("llvm.copysign", overloads: [a.type], [a, sign])
  }
  /// The square root, correctly rounded; NaN below zero.
  public func sqrt(_ a: IRValue) -> IRValue { intrinsic("llvm.sqrt", overloads: [a.type], [a]) }
  /// Rounds to an integral value, downward.
  public func floor(_ a: IRValue) -> IRValue { intrinsic("llvm.floor", overloads: [a.type], [a]) }
  /// Rounds to an integral value, toward zero.
  public func trunc(_ a: IRValue) -> IRValue { intrinsic("llvm.trunc", overloads: [a.type], [a]) }
  /// Rounds to the nearest integral value, halves to the even one.
  public func roundEven(_ a: IRValue) -> IRValue { intrinsic("llvm.roundeven", overloads: [a.type], [a]) }
  /// The smaller, or the other one where one is NaN.
  public func fminimumNumber(_ a: IRValue, _ b: IRValue) -> IRValue {
    intrinsic("llvm.minnum", overloads: [a.type], [a, b])
  }
  /// The larger, or the other one where one is NaN.
  public func fmaximumNumber(_ a: IRValue, _ b: IRValue) -> IRValue {
    intrinsic("llvm.maxnum", overloads: [a.type], [a, b])
  }

  /// Compares floating-point numbers, lane by lane.
  public func fcmp(_ predicate: FloatPredicate, _ a: IRValue, _ b: IRValue) -> IRValue {
    IRValue(raw: LLVMBuildFCmp(raw, predicate.raw, a.raw, b.raw, ""))
  }

  /// `a` where the condition holds, else `b`; a vector condition chooses lane by lane.
  public func select(_ condition: IRValue, _ a: IRValue, _ b: IRValue) -> IRValue {
    IRValue(raw: LLVMBuildSelect(raw, condition.raw, a.raw, b.raw, ""))
  }

  // MARK: Conversions

  /// The same bits as another type of the same size.
  public func bitcast(_ a: IRValue, to type: IRType) -> IRValue {
    IRValue(raw: LLVMBuildBitCast(raw, a.raw, type.raw, ""))
  }
  /// The low bits of an integer.
  public func trunc(_ a: IRValue, to type: IRType) -> IRValue {
    IRValue(raw: LLVMBuildTrunc(raw, a.raw, type.raw, ""))
  }
  /// A wider integer, filled with zeros.
  public func zext(_ a: IRValue, to type: IRType) -> IRValue { IRValue(raw: LLVMBuildZExt(raw, a.raw, type.raw, "")) }
  /// A wider integer, filled with the sign.
  public func sext(_ a: IRValue, to type: IRType) -> IRValue { IRValue(raw: LLVMBuildSExt(raw, a.raw, type.raw, "")) }
  /// A signed integer as the nearest floating-point number.
  public func sitofp(_ a: IRValue, to type: IRType) -> IRValue {
    IRValue(raw: LLVMBuildSIToFP(raw, a.raw, type.raw, ""))
  }
  /// An unsigned integer as the nearest floating-point number.
  public func uitofp(_ a: IRValue, to type: IRType) -> IRValue {
    IRValue(raw: LLVMBuildUIToFP(raw, a.raw, type.raw, ""))
  }
  /// A signed integer, toward zero; poison where the number does not fit.
  public func fptosi(_ a: IRValue, to type: IRType) -> IRValue {
    IRValue(raw: LLVMBuildFPToSI(raw, a.raw, type.raw, ""))
  }
  /// An unsigned integer, toward zero; poison where the number does not fit.
  public func fptoui(_ a: IRValue, to type: IRType) -> IRValue {
    IRValue(raw: LLVMBuildFPToUI(raw, a.raw, type.raw, ""))
  }
  /// A wider floating-point type, exactly.
  public func fpext(_ a: IRValue, to type: IRType) -> IRValue {
    IRValue(raw: LLVMBuildFPExt(raw, a.raw, type.raw, ""))
  }
  /// A narrower floating-point type, to nearest even.
  public func fptrunc(_ a: IRValue, to type: IRType) -> IRValue {
    IRValue(raw: LLVMBuildFPTrunc(raw, a.raw, type.raw, ""))
  }
  /// A pointer's address.
  public func ptrtoint(_ a: IRValue, to type: IRType) -> IRValue {
    IRValue(raw: LLVMBuildPtrToInt(raw, a.raw, type.raw, ""))
  }
  /// The pointer of an address.
  public func inttoptr(_ a: IRValue, to type: IRType) -> IRValue {
    IRValue(raw: LLVMBuildIntToPtr(raw, a.raw, type.raw, ""))
  }
  /// A pointer in another address space.
  public func addrspacecast(_ a: IRValue, to type: IRType) -> IRValue {
    IRValue(raw: LLVMBuildAddrSpaceCast(raw, a.raw, type.raw, ""))
  }

  /// Allows liberties with one floating-point instruction; a constant is left as it is.
  public func relax(_ value: IRValue, _ flags: FastMath) -> IRValue {
    if LLVMIsAInstruction(value.raw) != nil, LLVMCanValueUseFastMathFlags(value.raw) != 0 {
      LLVMSetFastMathFlags(value.raw, flags.rawValue)
    }
    return value
  }
}

/// Owns LLVM's builder.
private final class BuilderHandle {
  let raw: LLVMBuilderRef
  let context: LLVMContextRef

  init(context: LLVMContextRef) {
    self.context = context
    raw = LLVMCreateBuilderInContext(context)
  }

  deinit { LLVMDisposeBuilder(raw) }
}

/// How integers are compared: `s` signed, `u` unsigned.
public enum IntegerPredicate: Sendable {
  case eq, ne, slt, sle, sgt, sge, ult, ule, ugt, uge

  var raw: LLVMIntPredicate {
    switch self {
    case .eq: LLVMIntEQ
    case .ne: LLVMIntNE
    case .slt: LLVMIntSLT
    case .sle: LLVMIntSLE
    case .sgt: LLVMIntSGT
    case .sge: LLVMIntSGE
    case .ult: LLVMIntULT
    case .ule: LLVMIntULE
    case .ugt: LLVMIntUGT
    case .uge: LLVMIntUGE
    }
  }
}

/// How floating-point numbers are compared: `o` false and `u` true where one is NaN.
public enum FloatPredicate: Sendable {
  case oeq, one, olt, ole, ogt, oge, ord, ueq, une, ult, ule, ugt, uge, uno

  var raw: LLVMRealPredicate {
    switch self {
    case .oeq: LLVMRealOEQ
    case .one: LLVMRealONE
    case .olt: LLVMRealOLT
    case .ole: LLVMRealOLE
    case .ogt: LLVMRealOGT
    case .oge: LLVMRealOGE
    case .ord: LLVMRealORD
    case .ueq: LLVMRealUEQ
    case .une: LLVMRealUNE
    case .ult: LLVMRealULT
    case .ule: LLVMRealULE
    case .ugt: LLVMRealUGT
    case .uge: LLVMRealUGE
    case .uno: LLVMRealUNO
    }
  }
}

/// Liberties that one floating-point instruction may be given.
public struct FastMath: OptionSet, Sendable {
  /// LLVM's own bits for these liberties.
  public let rawValue: UInt32

  /// The liberties of these bits.
  public init(rawValue: UInt32) { self.rawValue = rawValue }

  /// Terms may be added in another order.
  public static let reassociate = FastMath(rawValue: 1 << 0)
  /// No operand and no result is NaN.
  public static let noNaN = FastMath(rawValue: 1 << 1)
  /// No operand and no result is infinite.
  public static let noInfinity = FastMath(rawValue: 1 << 2)
  /// The sign of a zero does not matter.
  public static let noSignedZeros = FastMath(rawValue: 1 << 3)
  /// A division may become a product with the reciprocal.
  public static let reciprocal = FastMath(rawValue: 1 << 4)
  /// A product and a sum may be rounded once.
  public static let contract = FastMath(rawValue: 1 << 5)
}
