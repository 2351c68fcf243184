/// A table's rows side by side, each where the row's number has its bits: operands table [bits, width] and values [rows].
///
/// Columns k * width ..< (k + 1) * width are row k of the table where `value & masks[k] > 0`, and zeros elsewhere: GR's action
/// encoder (modules/action_encoder.py).
public struct EmbedBits: OperationPayload {
  /// Its name in the text form.
  public static let mnemonic = "embed_bits"

  /// For each row of the table the bits of which one must be set; positive.
  public var masks: [Int]

  /// One mask for each row of the table.
  public init(masks: [Int]) { self.masks = masks }

  /// One tensor [rows, bits * width] of f32. Throws unless the table is an f32 matrix with a row for each mask, masks are
  /// positive, and there is an int64 number a row.
  public func resultTypes(for operands: [ValueType]) throws(OperationError) -> [ValueType] {
    try requireOperandCount(operands, 2)
    let table = try requireMatrix(operands[0], "table")
    try require(table.element == .f32, "table must be f32, found \(table.element.rawValue)")
    try require(
      table.rows == .fixed(masks.count), "a table of \(table.rows) rows needs as many masks, found \(masks.count)")
    for mask in masks { try require(mask > 0, "masks must be positive, found \(mask)") }
    let rows = try requireIntegers(operands[1], "values", rows: nil)
    let (width, overflow) = masks.count.multipliedReportingOverflow(by: table.width)
    try require(!overflow && width <= largestExtent, "\(masks.count) rows of \(table.width) are too wide")
    return [.tensor([rows, .fixed(width)], .f32)]
  }

  /// Reads `masks`.
  public init(from reader: inout AttributeReader) { self.init(masks: reader.integers("masks")) }
  /// Writes `masks`.
  public func writeAttributes(to writer: inout AttributeWriter) { writer.integers("masks", masks) }
}

/// Numbers with more bits set where other numbers are large: operands x [rows] and values [rows], both of int64. Bits of
/// `bits[i]` are set where `value >= thresholds[i]`, as GR's action encoder marks how long something was watched.
public struct MarkBits: OperationPayload {
  /// Its name in the text form.
  public static let mnemonic = "mark_bits"

  /// The least value of each mark.
  public var thresholds: [Int]
  /// The bits that each mark sets, as many as there are thresholds.
  public var bits: [Int]

  /// One threshold for each set of bits.
  public init(thresholds: [Int], bits: [Int]) {
    self.thresholds = thresholds
    self.bits = bits
  }

  /// x's type. Throws unless both operands have one int64 a row, and thresholds and bits are as many.
  public func resultTypes(for operands: [ValueType]) throws(OperationError) -> [ValueType] {
    try requireOperandCount(operands, 2)
    let rows = try requireIntegers(operands[0], "x", rows: nil)
    _ = try requireIntegers(operands[1], "values", rows: rows)
    try require(!thresholds.isEmpty, "there must be a threshold")
    try require(
      thresholds.count == bits.count, "\(thresholds.count) thresholds need as many bits, found \(bits.count)")
    return [operands[0]]
  }

  /// x with the bits that a value sets.
  public func apply(_ x: Int64, value: Int64) -> Int64 {
    zip(thresholds, bits).reduce(x) { $0 | (value >= Int64($1.0) ? Int64($1.1) : 0) }
  }

  /// Reads `thresholds` and `bits`.
  public init(from reader: inout AttributeReader) {
    self.init(thresholds: reader.integers("thresholds"), bits: reader.integers("bits"))
  }

  /// Writes `thresholds` and `bits`.
  public func writeAttributes(to writer: inout AttributeWriter) {
    writer.integers("thresholds", thresholds)
    writer.integers("bits", bits)
  }
}
