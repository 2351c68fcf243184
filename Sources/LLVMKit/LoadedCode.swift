import CLLVM

/// Object code brought into this process without a linker, for measurements and tests. Its functions may be called
/// until this value goes away.
public final class LoadedCode {
  private let raw: LLVMOrcLLJITRef

  /// Loads an object file made for this machine. Of symbols that it does not define it may refer to those that are given, with their
  /// addresses, and to no others.
  public init(object: [UInt8], symbols: [String: UnsafeRawPointer] = [:]) throws(LLVMError) {
    TargetMachine.initializeAllTargets()
    var jit: LLVMOrcLLJITRef?
    try check(LLVMOrcCreateLLJIT(&jit, nil), stage: "load code")
    guard let jit else { throw LLVMError(stage: "load code", message: "no linker for this machine") }
    raw = jit
    if !symbols.isEmpty {
      var flags = LLVMJITSymbolFlags()
      flags.GenericFlags = UInt8(LLVMJITSymbolGenericFlagsExported.rawValue)
      var pairs = symbols.sorted { $0.key < $1.key }.map { name, address in
        LLVMOrcCSymbolMapPair(
          Name: LLVMOrcLLJITMangleAndIntern(jit, name),
          Sym: LLVMJITEvaluatedSymbol(Address: UInt64(UInt(bitPattern: address)), Flags: flags))
      }
      let unit = LLVMOrcAbsoluteSymbols(&pairs, pairs.count)
      try check(LLVMOrcJITDylibDefine(LLVMOrcLLJITGetMainJITDylib(jit), unit), stage: "define symbols")
    }
    let buffer = object.withUnsafeBytes {
      LLVMCreateMemoryBufferWithMemoryRangeCopy($0.baseAddress, $0.count, "object")
    }
    try check(LLVMOrcLLJITAddObjectFile(jit, LLVMOrcLLJITGetMainJITDylib(jit), buffer), stage: "load code")
  }

  deinit {
    // An error here could only say that memory was not given back.
    if let error = LLVMOrcDisposeLLJIT(raw) { LLVMConsumeError(error) }
  }

  /// The address of a function that the object defines, to be cast to its C type.
  public func address(of name: String) throws(LLVMError) -> UnsafeRawPointer {
    var address: LLVMOrcExecutorAddress = 0
    try check(LLVMOrcLLJITLookup(raw, &address, name), stage: "find \(name)")
    guard let pointer = UnsafeRawPointer(bitPattern: UInt(address)) else {
      throw LLVMError(stage: "find \(name)", message: "it has no address")
    }
    return pointer
  }
}

private func check(_ error: LLVMErrorRef?, stage: String) throws(LLVMError) {
  guard let error else { return }
  let message = LLVMGetErrorMessage(error)
  defer { LLVMDisposeErrorMessage(message) }
  throw LLVMError(stage: stage, message: message.map { String(cString: $0) } ?? "")
}
