/// The same numbers in another floating-point type, rounded as `Rounding` says: operand x [rows, width].
public struct Convert: OperationPayload {
  /// Its name in the text form.
  public static let mnemonic = "convert"
  /// The element type of the result.
  public var element: ElementType

  /// A conversion to `element`, which `resultTypes` checks.
  public init(to element: ElementType) { self.element = element }

  /// x's type with other elements. Throws unless x is a floating-point matrix and the element type floating-point.
  public func resultTypes(for operands: [ValueType]) throws(OperationError) -> [ValueType] {
    try requireOperandCount(operands, 1)
    let x = try requireMatrix(operands[0], "operand")
    try require(element.isFloatingPoint, "to must be a floating-point type, found \(element.rawValue)")
    return [.tensor([x.rows, .fixed(x.width)], element)]
  }

  /// Reads `to`.
  public init(from reader: inout AttributeReader) { self.init(to: reader.word("to")) }
  /// Writes `to`.
  public func writeAttributes(to writer: inout AttributeWriter) { writer.word("to", element) }
}
