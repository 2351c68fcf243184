import CLLVM

/// What the optimizer may do with a loop.
public enum LoopHint: Sendable {
  /// As it sees fit.
  case none
  /// Keep the loop rolled and as it was written.
  case asWritten
  /// Unroll by this factor.
  case unroll(Int)
}

extension IRBuilder {
  // MARK: Calls

  /// Calls a function, with its calling convention.
  @discardableResult
  public func call(_ function: IRFunction, _ arguments: [IRValue]) -> IRValue {
    let call = self.call(pointer: function.value, type: function.type, arguments)
    LLVMSetInstructionCallConv(call.raw, LLVMGetFunctionCallConv(function.raw))
    return call
  }

  /// Calls through a pointer to a function of the given type.
  @discardableResult
  public func call(pointer: IRValue, type: IRType, _ arguments: [IRValue]) -> IRValue {
    var arguments = arguments.map { $0.raw as LLVMValueRef? }
    return IRValue(raw: LLVMBuildCall2(raw, type.raw, pointer.raw, &arguments, UInt32(arguments.count), ""))
  }

  /// Calls an intrinsic: its name without type suffixes, and the types that LLVM would write there.
  @discardableResult
  public func intrinsic(_ name: String, overloads: [IRType] = [], _ arguments: [IRValue]) -> IRValue {
    let number = LLVMLookupIntrinsicID(name, name.utf8.count)
    precondition(number != 0, "LLVM has no intrinsic named \(name)")
    var types = overloads.map { $0.raw as LLVMTypeRef? }
    let module = LLVMGetGlobalParent(function.raw)
    let declaration: LLVMValueRef = LLVMGetIntrinsicDeclaration(module, number, &types, types.count)
    return call(
      pointer: IRValue(raw: declaration), type: IRType(raw: LLVMGlobalGetValueType(declaration)), arguments)
  }

  /// Inline assembly, in AT&T syntax on x86, with LLVM's constraint string.
  ///
  /// The result type is void without outputs, and a structure of several outputs. An error in the text is reported when
  /// the module is emitted.
  @discardableResult
  public func assembly(
    _ text: String, constraints: String, returns result: IRType, sideEffects: Bool = true, _ arguments: [IRValue] = []
  ) -> IRValue {
    var types = arguments.map { $0.type.raw as LLVMTypeRef? }
    let type = IRType(raw: LLVMFunctionType(result.raw, &types, UInt32(types.count), 0))
    let assembly: LLVMValueRef = LLVMGetInlineAsm(
      type.raw, text, text.utf8.count, constraints, constraints.utf8.count, sideEffects ? 1 : 0, 0,
      LLVMInlineAsmDialectATT, 0)
    return call(pointer: IRValue(raw: assembly), type: type, arguments)
  }

  // MARK: Ends of a block

  /// Goes to a block.
  public func br(_ target: IRBlock) { LLVMBuildBr(raw, target.raw) }

  /// Goes to one of two blocks.
  public func condBr(_ condition: IRValue, then: IRBlock, else otherwise: IRBlock) {
    LLVMBuildCondBr(raw, condition.raw, then.raw, otherwise.raw)
  }

  /// Goes to the block of the value's case, or to the default.
  public func switchOn(_ value: IRValue, cases: [(Int, IRBlock)], default otherwise: IRBlock) {
    let instruction = LLVMBuildSwitch(raw, value.raw, otherwise.raw, UInt32(cases.count))
    for (number, target) in cases { LLVMAddCase(instruction, value.type.constant(number).raw, target.raw) }
  }

  /// Leaves the function.
  public func ret(_ value: IRValue? = nil) {
    if let value { LLVMBuildRet(raw, value.raw) } else { LLVMBuildRetVoid(raw) }
  }

  /// Says that this point is never reached.
  public func unreachable() { LLVMBuildUnreachable(raw) }

  // MARK: Merging

  /// A value that depends on the block control came from. It must stand before the block's other instructions.
  public func phi(_ type: IRType, _ incoming: [(IRValue, IRBlock)] = []) -> IRValue {
    let phi = IRValue(raw: LLVMBuildPhi(raw, type.raw, ""))
    for (value, block) in incoming { addIncoming(phi, value, from: block) }
    return phi
  }

  /// Gives a phi its value for control that comes from `block`.
  public func addIncoming(_ phi: IRValue, _ value: IRValue, from block: IRBlock) {
    var values: [LLVMValueRef?] = [value.raw]
    var blocks: [LLVMBasicBlockRef?] = [block.raw]
    LLVMAddIncoming(phi.raw, &values, &blocks, 1)
  }

  // MARK: Structured control flow

  /// `for (i = from; i < to; i += step)`, compared as signed and tested before the first turn.
  ///
  /// `step` is positive, and `to + step` does not overflow. The body gets the index and the carried values, and returns
  /// the carried values of the next turn; it may move the builder, and leaves it where control falls out of the body.
  /// Afterwards the builder stands behind the loop.
  /// - Returns: the carried values when the loop ended.
  public mutating func loop(
    from: IRValue, to: IRValue, step: IRValue, name: String = "loop", hint: LoopHint = .none, carrying: [IRValue],
    _ body: (inout IRBuilder, IRValue, [IRValue]) -> [IRValue]
  ) -> [IRValue] {
    let before = block
    let header = appendBlock(name)
    br(header)
    position(at: header)
    let index = phi(from.type, [(from, before)])
    let carried = carrying.map { phi($0.type, [($0, before)]) }
    let goesOn = icmp(.slt, index, to)
    let start = appendBlock("\(name).body")
    position(at: start)
    let next = body(&self, index, carried)
    precondition(next.count == carried.count, "\(name) carries \(carried.count) values, its body returns \(next.count)")
    addIncoming(index, IRValue(raw: LLVMBuildNSWAdd(raw, index.raw, step.raw, "")), from: block)
    for (phi, value) in zip(carried, next) { addIncoming(phi, value, from: block) }
    closeLoop(to: header, hint)
    leave(header, if: goesOn, into: start, named: "\(name).end")
    return carried
  }

  /// `loop` with a constant step.
  public mutating func loop(
    from: IRValue, to: IRValue, step: Int, name: String = "loop", hint: LoopHint = .none, carrying: [IRValue],
    _ body: (inout IRBuilder, IRValue, [IRValue]) -> [IRValue]
  ) -> [IRValue] {
    loop(from: from, to: to, step: from.type.constant(step), name: name, hint: hint, carrying: carrying, body)
  }

  /// `loop` that carries nothing.
  public mutating func loop(
    from: IRValue, to: IRValue, step: IRValue, name: String = "loop", hint: LoopHint = .none,
    _ body: (inout IRBuilder, IRValue) -> Void
  ) {
    _ = loop(from: from, to: to, step: step, name: name, hint: hint, carrying: []) { builder, index, _ in
      body(&builder, index)
      return []
    }
  }

  /// `loop` with a constant step that carries nothing.
  public mutating func loop(
    from: IRValue, to: IRValue, step: Int = 1, name: String = "loop", hint: LoopHint = .none,
    _ body: (inout IRBuilder, IRValue) -> Void
  ) {
    loop(from: from, to: to, step: from.type.constant(step), name: name, hint: hint, body)
  }

  /// Repeats the body while the condition, computed from the carried values before every turn, holds.
  ///
  /// - Returns: the carried values for which the condition failed.
  public mutating func whileLoop(
    name: String = "while", hint: LoopHint = .none, carrying: [IRValue],
    condition: (inout IRBuilder, [IRValue]) -> IRValue, _ body: (inout IRBuilder, [IRValue]) -> [IRValue]
  ) -> [IRValue] {
    let before = block
    let header = appendBlock(name)
    br(header)
    position(at: header)
    let carried = carrying.map { phi($0.type, [($0, before)]) }
    let goesOn = condition(&self, carried)
    let tested = block
    let start = appendBlock("\(name).body")
    position(at: start)
    let next = body(&self, carried)
    precondition(next.count == carried.count, "\(name) carries \(carried.count) values, its body returns \(next.count)")
    for (phi, value) in zip(carried, next) { addIncoming(phi, value, from: block) }
    closeLoop(to: header, hint)
    leave(tested, if: goesOn, into: start, named: "\(name).end")
    return carried
  }

  /// Runs the body where the condition, an `i1`, holds. The body may end by leaving the function.
  public mutating func ifThen(_ condition: IRValue, name: String = "if", _ body: (inout IRBuilder) -> Void) {
    let before = block
    let start = appendBlock("\(name).then")
    position(at: start)
    body(&self)
    let end = appendBlock("\(name).end")
    if !block.isTerminated { br(end) }
    position(at: before)
    condBr(condition, then: start, else: end)
    position(at: end)
  }

  /// Runs one of two bodies, which return as many values of the same types; gives the values of the one that ran.
  @discardableResult
  public mutating func ifThenElse(
    _ condition: IRValue, name: String = "if", then: (inout IRBuilder) -> [IRValue],
    otherwise: (inout IRBuilder) -> [IRValue]
  ) -> [IRValue] {
    let thenStart = appendBlock("\(name).then")
    let elseStart = appendBlock("\(name).else")
    condBr(condition, then: thenStart, else: elseStart)
    position(at: thenStart)
    let thenValues = then(&self)
    let thenEnd = block
    position(at: elseStart)
    let elseValues = otherwise(&self)
    let elseEnd = block
    precondition(
      thenValues.count == elseValues.count, "\(name) gives \(thenValues.count) or \(elseValues.count) values")
    let end = appendBlock("\(name).end")
    br(end)
    position(at: thenEnd)
    br(end)
    position(at: end)
    return zip(thenValues, elseValues).map { phi($0.type, [($0, thenEnd), ($1, elseEnd)]) }
  }

  /// Ends a loop's test, now that its body is built, and goes on behind the loop.
  private mutating func leave(_ tested: IRBlock, if goesOn: IRValue, into body: IRBlock, named name: String) {
    let end = appendBlock(name)
    position(at: tested)
    condBr(goesOn, then: body, else: end)
    position(at: end)
  }

  private func closeLoop(to header: IRBlock, _ hint: LoopHint) {
    let branch = LLVMBuildBr(raw, header.raw)
    let properties: [LLVMMetadataRef?]
    switch hint {
    case .none: return
    case .asWritten:
      properties = [
        property("llvm.loop.unroll.disable"),
        property("llvm.loop.vectorize.enable", IRType(raw: LLVMInt1TypeInContext(contextHandle)).constant(0)),
      ]
    case .unroll(let factor): properties = [property("llvm.loop.unroll.count", i32(factor))]
    }
    // A loop's node names itself first, which keeps equal nodes of two loops apart.
    let placeholder = LLVMTemporaryMDNode(contextHandle, nil, 0)
    var operands = [placeholder] + properties
    let node = LLVMMDNodeInContext2(contextHandle, &operands, operands.count)
    LLVMMetadataReplaceAllUsesWith(placeholder, node)
    let kind = LLVMGetMDKindIDInContext(contextHandle, "llvm.loop", 9)
    LLVMSetMetadata(branch, kind, LLVMMetadataAsValue(contextHandle, node))
  }

  private func property(_ name: String, _ value: IRValue? = nil) -> LLVMMetadataRef? {
    var operands: [LLVMMetadataRef?] = [LLVMMDStringInContext2(contextHandle, name, name.utf8.count)]
    if let value { operands.append(LLVMValueAsMetadata(value.raw)) }
    return LLVMMDNodeInContext2(contextHandle, &operands, operands.count)
  }
}
