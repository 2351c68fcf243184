import CLLVM

/// A type of LLVM IR.
public struct IRType: Hashable {
  /// The LLVM-C handle.
  public let raw: LLVMTypeRef

  /// Wraps a handle.
  public init(raw: LLVMTypeRef) { self.raw = raw }

  /// LLVM's classification of the type.
  public var kind: LLVMTypeKind { LLVMGetTypeKind(raw) }
  /// Whether this is a vector of a fixed number of lanes.
  public var isVector: Bool { kind == LLVMVectorTypeKind }
  /// Whether this is an integer or a vector of integers.
  public var isInteger: Bool { LLVMGetTypeKind(elementType.raw) == LLVMIntegerTypeKind }
  /// Whether this is a floating-point type or a vector of one.
  public var isFloatingPoint: Bool {
    switch LLVMGetTypeKind(elementType.raw) {
    case LLVMHalfTypeKind, LLVMBFloatTypeKind, LLVMFloatTypeKind, LLVMDoubleTypeKind: true
    default: false
    }
  }
  /// The lanes' type of a vector, the elements' type of an array, and any other type itself.
  public var elementType: IRType {
    kind == LLVMVectorTypeKind || kind == LLVMArrayTypeKind ? IRType(raw: LLVMGetElementType(raw)) : self
  }
  /// The number of lanes; 1 for what is no vector.
  public var vectorCount: Int { isVector ? Int(LLVMGetVectorSize(raw)) : 1 }
  /// The bits of an integer or floating-point type, or of one lane of a vector; 0 for other types.
  public var elementBits: Int {
    let element = elementType
    switch element.kind {
    case LLVMIntegerTypeKind: return Int(LLVMGetIntTypeWidth(element.raw))
    case LLVMHalfTypeKind, LLVMBFloatTypeKind: return 16
    case LLVMFloatTypeKind: return 32
    case LLVMDoubleTypeKind: return 64
    default: return 0
    }
  }

  /// The type with this one's lanes and another element type: comparing `<8 x float>` gives `<8 x i1>`.
  public func withElement(_ element: IRType) -> IRType {
    isVector ? IRType(raw: LLVMVectorType(element.raw, LLVMGetVectorSize(raw))) : element
  }

  /// The integers of the same size and lanes as a floating-point type: what a bit cast gives.
  public var asIntegers: IRType {
    let context: LLVMContextRef = LLVMGetTypeContext(raw)
    return withElement(IRType(raw: LLVMIntTypeInContext(context, UInt32(elementBits))))
  }

  /// Zero, null, or an aggregate of such.
  public func null() -> IRValue { IRValue(raw: LLVMConstNull(raw)) }
  /// A value that may differ at each use.
  public func undefined() -> IRValue { IRValue(raw: LLVMGetUndef(raw)) }
  /// A value no defined result may depend on.
  public func poison() -> IRValue { IRValue(raw: LLVMGetPoison(raw)) }
  /// Every bit set: -1, or a mask of all lanes.
  public func allOnes() -> IRValue { IRValue(raw: LLVMConstAllOnes(raw)) }

  /// An integer, in every lane of a vector; a floating-point type takes the integer's value.
  public func constant(_ value: Int) -> IRValue {
    if isFloatingPoint { return constant(Double(value)) }
    return splat(LLVMConstInt(elementType.raw, UInt64(bitPattern: Int64(value)), 1))
  }

  /// A floating-point number, in every lane of a vector.
  ///
  /// The value is rounded to the nearest of the type: one that came from a `Float` arrives as that very number.
  public func constant(_ value: Double) -> IRValue {
    splat(LLVMConstReal(elementType.raw, value))
  }

  /// A constant whose lanes, or whose array elements, are these integers.
  public func constants(_ values: [Int]) -> IRValue {
    constants(values.map { elementType.constant($0) })
  }

  /// A constant whose lanes, or whose array elements, are these numbers.
  public func constants(_ values: [Double]) -> IRValue {
    constants(values.map { elementType.constant($0) })
  }

  /// A constant vector or array of these constants.
  public func constants(_ values: [IRValue]) -> IRValue {
    var raws = values.map { $0.raw as LLVMValueRef? }
    return IRValue(
      raw: isVector
        ? LLVMConstVector(&raws, UInt32(raws.count)) : LLVMConstArray2(elementType.raw, &raws, UInt64(raws.count)))
  }

  /// The lanes' own numbers: 0, 1, 2, ...
  public func lanes() -> IRValue { constants(Array(0..<vectorCount)) }

  private func splat(_ element: LLVMValueRef) -> IRValue {
    guard isVector else { return IRValue(raw: element) }
    var lanes = [LLVMValueRef?](repeating: element, count: vectorCount)
    return IRValue(raw: LLVMConstVector(&lanes, UInt32(lanes.count)))
  }
}

extension IRType: CustomStringConvertible {
  /// As in LLVM's text form: `<8 x float>`.
  public var description: String { takeMessage(LLVMPrintTypeToString(raw)) }
}
