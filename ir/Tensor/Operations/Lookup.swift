/// Row `ids[i]` of a table, for every i: operands table [entries, width] and ids [rows].
///
/// A table of f16 or bf16 gives f32, exactly. A table of u8 holds rows in a quantized form, `rows`, of `width` elements each,
/// which are decoded in fp32.
public struct Gather: OperationPayload {
  /// Its name in the text form.
  public static let mnemonic = "gather"

  /// What an id outside the table means. Nothing ever reads outside it.
  public enum OutOfRange: Hashable, Sendable {
    /// The call fails and names the position and the id.
    case error
    /// The row given stands in.
    case fallback(row: Int)
    /// The id modulo the number of rows stands in, from 0 on whatever the id's sign: ids are hashed into the table.
    case modulo
  }

  /// The row of a table of so many rows that an id is hashed to: the id modulo their number, from 0 on.
  public static func hashed(_ id: Int64, rows: Int) -> Int64 {
    let rest = id % Int64(rows)
    return rest < 0 ? rest + Int64(rows) : rest
  }

  /// What is done with an id that is no row of the table.
  public var outOfRange: OutOfRange
  /// The form of the rows of a u8 table; nil where the table is of floating-point numbers.
  public var rows: TableFormat?
  /// Elements of a row in that form; 0 where the table says it itself.
  public var width: Int

  /// A lookup; without `outOfRange` an id outside the table is an error of the call.
  public init(outOfRange: OutOfRange = .error, rows: TableFormat? = nil, width: Int = 0) {
    self.outOfRange = outOfRange
    self.rows = rows
    self.width = width
  }

  /// One tensor [rows, width] of f32, or of f64 where the table is. Throws where the table's shape is not fixed or not that
  /// of its form, ids are not int64, or the fallback is no row of the table.
  public func resultTypes(for operands: [ValueType]) throws(OperationError) -> [ValueType] {
    try requireOperandCount(operands, 2)
    let table = try self.table(operands[0])
    guard let entries = table.rows.extent, entries > 0 else {
      throw OperationError("table must have a fixed, positive number of rows, found \(operands[0])")
    }
    let rows = try requireIntegers(operands[1], "ids", rows: nil)
    if case .fallback(let row) = outOfRange {
      try require((0..<entries).contains(row), "fallback row \(row) is outside a table of \(entries) rows")
    }
    return [.tensor([rows, .fixed(table.width)], table.element == .f64 ? .f64 : .f32)]
  }

  /// The rows, the elements of one, and the type of what is stored.
  private func table(_ operand: ValueType) throws(OperationError) -> (rows: Dimension, width: Int, element: ElementType)
  {
    guard let rows else {
      try require(operand.tensor?.element != .u8, "a table of u8 needs rows = int8 or rows = int4, and width")
      try require(width == 0, "width belongs to a table of u8, with rows = int8 or rows = int4")
      return try requireMatrix(operand, "table")
    }
    try require(width > 0 && width <= largestExtent, "width must lie in 1...2^40, found \(width)")
    let bytes = rows.byteCount(width: width)
    guard let type = operand.tensor, type.element == .u8, type.rank == 2, type.shape[1] == .fixed(bytes) else {
      throw OperationError(
        "\(rows.rawValue) rows of \(width) take \(bytes) bytes of u8 each, found a table \(operand)")
    }
    return (type.shape[0], width, .u8)
  }

  /// Reads `out_of_range`: `error`, `fallback(row)` or `modulo`; `rows` and `width` where they are there.
  public init(from reader: inout AttributeReader) {
    let expected = "error, fallback(row) or modulo"
    let outOfRange = reader.phrase("out_of_range", expected: expected, placeholder: OutOfRange.error) {
      if $0.takeWord("error") { return .error }
      if $0.takeWord("modulo") { return .modulo }
      return $0.takeInteger("fallback").map { .fallback(row: $0) }
    }
    let rows: TableFormat? = reader.optionalWord("rows")
    self.init(outOfRange: outOfRange, rows: rows, width: reader.integer("width", defaultValue: 0))
  }

  /// Writes `out_of_range`, and `rows` and `width` where there are any.
  public func writeAttributes(to writer: inout AttributeWriter) {
    switch outOfRange {
    case .error: writer.phrase("out_of_range", "error")
    case .fallback(let row): writer.phrase("out_of_range", "fallback(\(row))")
    case .modulo: writer.phrase("out_of_range", "modulo")
    }
    if let rows { writer.word("rows", rows) }
    if width != 0 { writer.integer("width", width) }
  }
}

/// The row of a position table for every row of a batch: operands offsets and optionally targets [sequences].
///
/// `ascending`: min(p, limit). `descending`: min((h - min(p, h)) + contextual, limit), and p for p < contextual, with
/// h = length - targets (GR modules/positional_encoder.py, `_get_col_indices`).
public struct Positions: OperationPayload {
  /// Its name in the text form.
  public static let mnemonic = "positions"

  /// Which of the two formulas above: from the oldest row, or from the latest history row.
  public enum Order: String, Hashable, Sendable, CaseIterable { case ascending, descending }

  /// The formula.
  public var order: Order
  /// Rows at the start of a sequence whose positions `descending` sets apart, 0...limit + 1.
  public var contextual: Int
  /// The largest position given out: the last row of the position table.
  public var limit: Int

  /// Attributes as given; `resultTypes` checks them.
  public init(order: Order, contextual: Int = 0, limit: Int) {
    self.order = order
    self.contextual = contextual
    self.limit = limit
  }

  /// One int64 a row: a tensor [rows] of positions in 0...limit. Throws where `limit` or `contextual` is out of range.
  public func resultTypes(for operands: [ValueType]) throws(OperationError) -> [ValueType] {
    try requireOperandCount(operands, 1, 2)
    let offsets = try requireOffsets(operands[0], "offsets")
    if operands.count == 2 { _ = try requireIntegers(operands[1], "targets", rows: offsets.sequences) }
    try requireExtent(limit, "limit")
    try require(
      contextual >= 0 && contextual <= limit + 1, "contextual must lie in 0...\(limit + 1), found \(contextual)")
    return [.tensor([offsets.rows], .i64)]
  }

  /// The position given to a row, as the formula above.
  public var expression: IndexExpression {
    let limit = IndexExpression.constant(limit)
    switch order {
    case .ascending: return .min(.position, limit)
    case .descending:
      let history = IndexExpression.length - .targets
      let backward = IndexExpression.min(history - .min(.position, history) + .constant(contextual), limit)
      return contextual == 0
        ? backward : .ifLess(.position, .constant(contextual), then: .position, otherwise: backward)
    }
  }

  /// Reads `order`, `contextual` (0 where it is missing) and `limit`.
  public init(from reader: inout AttributeReader) {
    self.init(
      order: reader.word("order"), contextual: reader.integer("contextual", defaultValue: 0),
      limit: reader.integer("limit"))
  }

  /// Writes `order`, `contextual` unless it is 0, and `limit`.
  public func writeAttributes(to writer: inout AttributeWriter) {
    writer.word("order", order)
    if contextual != 0 { writer.integer("contextual", contextual) }
    writer.integer("limit", limit)
  }
}

/// x with the rows zeroed whose id equals `id`: operands x [rows, width] and ids [rows].
public struct ZeroRows: OperationPayload {
  /// Its name in the text form.
  public static let mnemonic = "zero_rows"
  /// The id whose rows become 0: that of padding.
  public var id: Int

  /// Zeroes the rows of this id.
  public init(id: Int) { self.id = id }

  /// x's type. Throws unless x is a floating-point matrix with an int64 id for each row.
  public func resultTypes(for operands: [ValueType]) throws(OperationError) -> [ValueType] {
    try requireOperandCount(operands, 2)
    let x = try requireMatrix(operands[0], "x")
    _ = try requireIntegers(operands[1], "ids", rows: x.rows)
    return [operands[0]]
  }

  /// Reads `id`.
  public init(from reader: inout AttributeReader) { self.init(id: reader.integer("id")) }
  /// Writes `id`.
  public func writeAttributes(to writer: inout AttributeWriter) { writer.integer("id", id) }
}
