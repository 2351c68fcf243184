/// The same numbers in another floating-point type, rounded as `Rounding` says: operand x [rows, width].
public struct Convert: OperationPayload {
  /// Its name in the text form.
  public static let mnemonic = "convert"
  /// The element type of the result.
  public var element: ElementType

  /// A conversion to `element`, which `resultTypes` checks.
  public init(to element: ElementType) { self.element = element }

  /// x's type with other elements. Throws unless x is a matrix of floating-point numbers, or of f8e4m3 codes, which stand
  /// for numbers, and the element type is floating-point.
  public func resultTypes(for operands: [ValueType]) throws(OperationError) -> [ValueType] {
    try requireOperandCount(operands, 1)
    guard var type = operands[0].tensor, type.rank == 2, type.shape[1].extent != nil,
      type.element.isFloatingPoint || type.element == .f8e4m3
    else {
      throw OperationError(
        "operand must be a matrix of fixed width of floating-point numbers or f8e4m3 codes, found \(operands[0])")
    }
    try require(element.isFloatingPoint, "to must be a floating-point type, found \(element.rawValue)")
    type.element = element
    return [.tensor(type)]
  }

  /// Reads `to`.
  public init(from reader: inout AttributeReader) { self.init(to: reader.word("to")) }
  /// Writes `to`.
  public func writeAttributes(to writer: inout AttributeWriter) { writer.word("to", element) }
}
