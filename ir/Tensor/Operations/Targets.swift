/// x with one row in place of every target's: operands x [rows, width], row [width], offsets and targets [sequences].
public struct ReplaceTargets: OperationPayload {
  /// Its name in the text form.
  public static let mnemonic = "replace_targets"

  /// It has no attributes.
  public init() {}

  /// x's type. Throws unless x is an f32 matrix, `row` has its width, and offsets and targets fit.
  public func resultTypes(for operands: [ValueType]) throws(OperationError) -> [ValueType] {
    try requireOperandCount(operands, 4)
    let x = try requireMatrix(operands[0], "x")
    try requireVector(operands[1], "row", count: x.width, x.element)
    let offsets = try requireOffsets(operands[2], "offsets", rows: x.rows)
    _ = try requireIntegers(operands[3], "targets", rows: offsets.sequences)
    return [operands[0]]
  }

  /// Whether a row is a target, 1 or 0, by its place in its sequence.
  public static let isTarget = IndexExpression.ifLess(
    .position, .length - .targets, then: 0, otherwise: 1)

  /// Reads nothing: it has no attributes.
  public init(from reader: inout AttributeReader) { self.init() }
  /// Writes nothing: it has no attributes.
  public func writeAttributes(to writer: inout AttributeWriter) {}
}
