/// Where the bytes of a module's weights are.
public protocol WeightProvider: Sendable {
  /// The bytes of a weight, valid during `body` only. Throws where there is no weight of this name.
  func withWeight<R>(
    _ name: String, _ body: (_ element: ElementType, _ shape: [Int], UnsafeRawBufferPointer) throws -> R
  )
    throws -> R

  /// A weight, open for reading some rows at a time: for those that may be larger than memory. Throws where there is no
  /// weight of this name.
  func rows(of name: String) throws -> WeightRows
}

extension WeightProvider {
  /// The rows of a weight that is read whole each time, which suits what lies in memory.
  public func rows(of name: String) throws -> WeightRows {
    let (element, shape) = try withWeight(name) { element, shape, _ in (element, shape) }
    let rowBytes = shape.dropFirst().reduce(element.byteCount, *)
    return WeightRows(element, shape) { rows, body in
      try withWeight(name) { _, _, bytes in
        guard rows.upperBound * rowBytes <= bytes.count else {
          throw OperationError("a weight of shape \(shape) has only \(bytes.count) bytes")
        }
        try body(bytes.rows(rows, of: rowBytes))
      }
    }
  }
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
