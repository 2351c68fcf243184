/// Cuts the columns of x into consecutive slices of the widths given.
public struct Split: OperationPayload {
  /// Its name in the text form.
  public static let mnemonic = "split"
  /// Columns of each slice, all positive; together as many as x has.
  public var widths: [Int]

  /// Slices of these widths, from the first column on.
  public init(widths: [Int]) { self.widths = widths }

  /// One tensor [rows, width] a slice, of x's element type. Throws where a width is not positive or the widths do not
  /// add up to x's.
  public func resultTypes(for operands: [ValueType]) throws(OperationError) -> [ValueType] {
    try requireOperandCount(operands, 1)
    let x = try requireMatrix(operands[0], "x")
    try require(!widths.isEmpty && widths.allSatisfy { $0 > 0 }, "widths must be positive, found \(widths)")
    var sum = 0
    for width in widths {
      let (next, overflow) = sum.addingReportingOverflow(width)
      try require(!overflow, "the sum of the widths overflows")
      sum = next
    }
    try require(sum == x.width, "widths \(widths) add up to \(sum), but x is \(x.width) wide")
    return widths.map { .tensor([x.rows, .fixed($0)], x.element) }
  }

  /// Reads `widths`.
  public init(from reader: inout AttributeReader) { self.init(widths: reader.integers("widths")) }
  /// Writes `widths`.
  public func writeAttributes(to writer: inout AttributeWriter) { writer.integers("widths", widths) }
}

/// Puts the columns of its operands side by side.
public struct Concatenate: OperationPayload {
  /// Its name in the text form.
  public static let mnemonic = "concatenate"

  /// It has no attributes.
  public init() {}

  /// One tensor [rows, sum of the widths]. Throws unless there is an operand, all are matrices, and they agree in rows
  /// and element type.
  public func resultTypes(for operands: [ValueType]) throws(OperationError) -> [ValueType] {
    try require(!operands.isEmpty, "expected at least one operand")
    let first = try requireMatrix(operands[0], "operand 0")
    var width = 0
    for (index, operand) in operands.enumerated() {
      let part = try requireMatrix(operand, "operand \(index)")
      try require(
        part.rows == first.rows && part.element == first.element,
        "operand \(index) is \(operand), but operand 0 is \(operands[0])")
      let (sum, overflow) = width.addingReportingOverflow(part.width)
      try require(!overflow, "the width of the result overflows")
      width = sum
    }
    return [.tensor([first.rows, .fixed(width)], first.element)]
  }

  /// Reads nothing: it has no attributes.
  public init(from reader: inout AttributeReader) { self.init() }
  /// Writes nothing: it has no attributes.
  public func writeAttributes(to writer: inout AttributeWriter) {}
}
