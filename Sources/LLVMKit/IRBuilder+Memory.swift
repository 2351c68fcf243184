import CLLVM

extension IRBuilder {
  /// Reads a value.
  ///
  /// - Parameters:
  ///   - alignment: what the address is a multiple of, in bytes; the type's own alignment where nil, so give 4 or less
  ///     for vectors at any row of a matrix.
  ///   - invariant: the memory never changes while the program can see it, so that the read may be moved or repeated.
  ///   - unordered: an integer is read in one piece, which costs nothing where it is aligned, but keeps the read from being moved to
  ///     another block.
  public func load(
    _ type: IRType, _ pointer: IRValue, alignment: Int? = nil, volatile: Bool = false, invariant: Bool = false,
    unordered: Bool = false
  ) -> IRValue {
    let load: LLVMValueRef = LLVMBuildLoad2(raw, type.raw, pointer.raw, "")
    if let alignment { LLVMSetAlignment(load, UInt32(alignment)) }
    if volatile { LLVMSetVolatile(load, 1) }
    if unordered { LLVMSetOrdering(load, LLVMAtomicOrderingUnordered) }
    if invariant { setMetadata("invariant.load", on: load) }
    return IRValue(raw: load)
  }

  /// Writes a value.
  ///
  /// - Parameters:
  ///   - alignment: as for `load`.
  ///   - nontemporal: write past the caches; needs the value's full alignment.
  public func store(
    _ value: IRValue, _ pointer: IRValue, alignment: Int? = nil, volatile: Bool = false, nontemporal: Bool = false
  ) {
    let store: LLVMValueRef = LLVMBuildStore(raw, value.raw, pointer.raw)
    if let alignment { LLVMSetAlignment(store, UInt32(alignment)) }
    if volatile { LLVMSetVolatile(store, 1) }
    if nontemporal { setMetadata("nontemporal", i32(1), on: store) }
  }

  /// The address `bytes` further on, within the same object.
  public func offset(_ pointer: IRValue, bytes: IRValue) -> IRValue {
    element(pointer, IRType(raw: LLVMInt8TypeInContext(contextHandle)), bytes)
  }

  /// The address `bytes` further on, within the same object.
  public func offset(_ pointer: IRValue, bytes: Int) -> IRValue {
    bytes == 0 ? pointer : offset(pointer, bytes: i64(bytes))
  }

  /// The address of the element at `index`, within the same object; the index counts elements of `type`.
  ///
  /// A vector of indices gives a vector of pointers.
  public func element(_ pointer: IRValue, _ type: IRType, _ index: IRValue) -> IRValue {
    var indices: [LLVMValueRef?] = [index.raw]
    return IRValue(raw: LLVMBuildInBoundsGEP2(raw, type.raw, pointer.raw, &indices, 1, ""))
  }

  /// The address of the element at `index`, within the same object; the index counts elements of `type`.
  public func element(_ pointer: IRValue, _ type: IRType, _ index: Int) -> IRValue {
    index == 0 ? pointer : element(pointer, type, i64(index))
  }

  /// The address of a field of a structure.
  public func field(_ pointer: IRValue, _ structure: IRType, _ index: Int) -> IRValue {
    IRValue(raw: LLVMBuildStructGEP2(raw, structure.raw, pointer.raw, UInt32(index), ""))
  }

  /// Stack memory of the current function, uninitialized.
  ///
  /// It is made once, at the function's start, wherever the builder stands: in a loop every turn sees the same memory.
  public func alloca(_ type: IRType, count: Int = 1, alignment: Int? = nil) -> IRValue {
    let builder = raw
    if let entry = function.entry {
      if let first = LLVMGetFirstInstruction(entry.raw) {
        LLVMPositionBuilderBefore(builder, first)
      } else {
        LLVMPositionBuilderAtEnd(builder, entry.raw)
      }
    }
    let allocated = count == 1 ? type : IRType(raw: LLVMArrayType2(type.raw, UInt64(count)))
    let slot: LLVMValueRef = LLVMBuildAlloca(builder, allocated.raw, "")
    if let alignment { LLVMSetAlignment(slot, UInt32(alignment)) }
    return IRValue(raw: slot)
  }

  /// Copies a fixed number of bytes between objects that do not overlap, never by a call.
  public func copyBytes(to destination: IRValue, from source: IRValue, count: Int, alignment: Int = 1) {
    let boolean = IRType(raw: LLVMInt1TypeInContext(contextHandle))
    let call = intrinsic(
      "llvm.memcpy.inline", overloads: [destination.type, source.type, i64(0).type],
      [destination, source, i64(count), boolean.constant(0)])
    setArgumentAlignment(call, 0, alignment)
    setArgumentAlignment(call, 1, alignment)
  }

  /// Sets a fixed number of bytes to one value, never by a call.
  public func fillBytes(_ destination: IRValue, with byte: IRValue, count: Int, alignment: Int = 1) {
    let boolean = IRType(raw: LLVMInt1TypeInContext(contextHandle))
    let call = intrinsic(
      "llvm.memset.inline", overloads: [destination.type, i64(0).type],
      [destination, byte, i64(count), boolean.constant(0)])
    setArgumentAlignment(call, 0, alignment)
  }

  /// Asks for a cache line ahead of its use. Locality runs from 0, used once, to 3, kept in every cache.
  public func prefetch(_ pointer: IRValue, forWriting: Bool = false, locality: Int = 3) {
    _ = intrinsic(
      "llvm.prefetch", overloads: [pointer.type], [pointer, i32(forWriting ? 1 : 0), i32(locality), i32(1)])
  }

  /// Reads the lanes whose mask bit is set, without touching the memory of the others, which take `passthrough`, or
  /// zero where that is nil.
  public func maskedLoad(
    _ type: IRType, _ pointer: IRValue, mask: IRValue, alignment: Int = 1, passthrough: IRValue? = nil
  ) -> IRValue {
    intrinsic(
      "llvm.masked.load", overloads: [type, pointer.type],
      [pointer, i32(alignment), mask, passthrough ?? type.null()])
  }

  /// Writes the lanes whose mask bit is set, without touching the memory of the others.
  public func maskedStore(_ value: IRValue, _ pointer: IRValue, mask: IRValue, alignment: Int = 1) {
    _ = intrinsic(
      "llvm.masked.store", overloads: [value.type, pointer.type], [value, pointer, i32(alignment), mask])
  }

  /// Reads each lane from its own address where its mask bit is set; the others take `passthrough`, or zero.
  public func gather(
    _ type: IRType, _ pointers: IRValue, mask: IRValue, alignment: Int = 1, passthrough: IRValue? = nil
  ) -> IRValue {
    intrinsic(
      "llvm.masked.gather", overloads: [type, pointers.type],
      [pointers, i32(alignment), mask, passthrough ?? type.null()])
  }

  /// Writes each lane to its own address where its mask bit is set; of equal addresses the last lane's value stays.
  public func scatter(_ value: IRValue, _ pointers: IRValue, mask: IRValue, alignment: Int = 1) {
    _ = intrinsic(
      "llvm.masked.scatter", overloads: [value.type, pointers.type], [value, pointers, i32(alignment), mask])
  }

  private func setMetadata(_ kind: String, _ operand: IRValue? = nil, on instruction: LLVMValueRef) {
    var operands: [LLVMMetadataRef?] = operand.map { [LLVMValueAsMetadata($0.raw)] } ?? []
    let node = LLVMMDNodeInContext2(contextHandle, &operands, operands.count)
    let kindNumber = LLVMGetMDKindIDInContext(contextHandle, kind, UInt32(kind.utf8.count))
    LLVMSetMetadata(instruction, kindNumber, LLVMMetadataAsValue(contextHandle, node))
  }

  private func setArgumentAlignment(_ call: IRValue, _ argument: Int, _ alignment: Int) {
    let kind = LLVMGetEnumAttributeKindForName("align", 5)
    let attribute = LLVMCreateEnumAttribute(contextHandle, kind, UInt64(alignment))
    LLVMAddCallSiteAttribute(call.raw, LLVMAttributeIndex(argument + 1), attribute)
  }
}
