import CLLVM

/// Owns the types and constants of the modules made in it.
///
/// Every handle (`IRType`, `IRValue`, ...) is a plain pointer, valid as long as the context, and for values the module,
/// is alive. A module keeps its context alive. A context is used by one thread at a time.
public final class Context {
  let raw: LLVMContextRef
  private let diagnostics = Diagnostics()

  /// Makes an empty context.
  public init() {
    raw = LLVMContextCreate()
    // Without a handler LLVM prints an error, such as one in inline assembly, and exits the process.
    LLVMContextSetDiagnosticHandler(
      raw,
      { information, collector in
        guard let information, let collector, LLVMGetDiagInfoSeverity(information) == LLVMDSError else { return }
        let text = takeMessage(LLVMGetDiagInfoDescription(information))
        Unmanaged<Diagnostics>.fromOpaque(collector).takeUnretainedValue().errors.append(text)
      }, Unmanaged.passUnretained(diagnostics).toOpaque())
  }

  deinit { LLVMContextDispose(raw) }

  /// The errors reported since the last call, joined; nil where there were none.
  func takeErrors() -> String? {
    defer { diagnostics.errors = [] }
    return diagnostics.errors.isEmpty ? nil : diagnostics.errors.joined(separator: "\n")
  }

  /// No value: what a function without a result returns.
  public var void: IRType { IRType(raw: LLVMVoidTypeInContext(raw)) }
  /// One bit: the result of a comparison.
  public var i1: IRType { IRType(raw: LLVMInt1TypeInContext(raw)) }
  /// An 8-bit integer.
  public var i8: IRType { IRType(raw: LLVMInt8TypeInContext(raw)) }
  /// A 16-bit integer.
  public var i16: IRType { IRType(raw: LLVMInt16TypeInContext(raw)) }
  /// A 32-bit integer.
  public var i32: IRType { IRType(raw: LLVMInt32TypeInContext(raw)) }
  /// A 64-bit integer.
  public var i64: IRType { IRType(raw: LLVMInt64TypeInContext(raw)) }
  /// IEEE half precision.
  public var f16: IRType { IRType(raw: LLVMHalfTypeInContext(raw)) }
  /// The upper half of an `f32`.
  public var bf16: IRType { IRType(raw: LLVMBFloatTypeInContext(raw)) }
  /// IEEE single precision.
  public var f32: IRType { IRType(raw: LLVMFloatTypeInContext(raw)) }
  /// IEEE double precision.
  public var f64: IRType { IRType(raw: LLVMDoubleTypeInContext(raw)) }
  /// A pointer in the default address space.
  public var pointer: IRType { pointer(addressSpace: 0) }

  /// A pointer in an address space of the target, such as 3 for a GPU's shared memory.
  public func pointer(addressSpace: Int) -> IRType {
    IRType(raw: LLVMPointerTypeInContext(raw, UInt32(addressSpace)))
  }

  /// An integer of any width in bits.
  public func integer(bits: Int) -> IRType { IRType(raw: LLVMIntTypeInContext(raw, UInt32(bits))) }

  /// `count` lanes of an integer, floating-point or pointer type.
  public func vector(_ element: IRType, _ count: Int) -> IRType {
    IRType(raw: LLVMVectorType(element.raw, UInt32(count)))
  }

  /// `count` elements in a row in memory.
  public func array(_ element: IRType, _ count: Int) -> IRType {
    IRType(raw: LLVMArrayType2(element.raw, UInt64(count)))
  }

  /// A structure without a name; a packed one has no padding.
  public func structure(_ fields: [IRType], packed: Bool = false) -> IRType {
    var fields = fields.map { $0.raw as LLVMTypeRef? }
    return IRType(raw: LLVMStructTypeInContext(raw, &fields, UInt32(fields.count), packed ? 1 : 0))
  }

  /// The type of a function.
  public func function(_ parameters: [IRType], returns result: IRType) -> IRType {
    var parameters = parameters.map { $0.raw as LLVMTypeRef? }
    return IRType(raw: LLVMFunctionType(result.raw, &parameters, UInt32(parameters.count), 0))
  }

  /// The constant `true` or `false` as an `i1`.
  public func boolean(_ value: Bool) -> IRValue { i1.constant(value ? 1 : 0) }

  /// A constant structure without a name.
  public func structure(of fields: [IRValue], packed: Bool = false) -> IRValue {
    var fields = fields.map { $0.raw as LLVMValueRef? }
    return IRValue(raw: LLVMConstStructInContext(raw, &fields, UInt32(fields.count), packed ? 1 : 0))
  }
}

/// Where the diagnostic handler leaves its texts.
private final class Diagnostics {
  var errors: [String] = []
}
