/// Where the bytes of a module's weights are.
public protocol WeightProvider: Sendable {
  /// The bytes of a weight, valid during `body` only. Throws where there is no weight of this name.
  func withWeight<R>(
    _ name: String, _ body: (_ element: ElementType, _ shape: [Int], UnsafeRawBufferPointer) throws -> R
  )
    throws -> R
}

/// Weights held in memory.
public struct WeightTable: WeightProvider {
  /// By the weight's name in the module.
  public var tensors: [String: HostTensor]

  /// A table of these tensors; more may be added.
  public init(_ tensors: [String: HostTensor] = [:]) { self.tensors = tensors }

  /// The bytes of the tensor of this name, valid during `body` only. Throws `OperationError` where there is none.
  public func withWeight<R>(
    _ name: String, _ body: (ElementType, [Int], UnsafeRawBufferPointer) throws -> R
  ) throws -> R {
    guard let tensor = tensors[name] else { throw OperationError("no weight is called \"\(name)\"") }
    return try tensor.bytes.withUnsafeBytes { try body(tensor.element, tensor.shape, $0) }
  }
}
