/// Row `ids[i]` of a table, for every i: operands table [entries, width] and ids [rows].
public struct Gather: OperationPayload {
  /// Its name in the text form.
  public static let mnemonic = "gather"

  /// What an id outside the table means. Nothing ever reads outside it.
  public enum OutOfRange: Hashable, Sendable {
    /// The call fails and names the position and the id.
    case error
    /// The row given stands in.
    case fallback(row: Int)
  }

  /// What is done with an id that is no row of the table.
  public var outOfRange: OutOfRange

  /// A lookup; without `outOfRange` an id outside the table is an error of the call.
  public init(outOfRange: OutOfRange = .error) { self.outOfRange = outOfRange }

  /// One tensor [rows, width] of the table's element type. Throws where the table's shape is not fixed, ids are not
  /// int64, or the fallback is no row of the table.
  public func resultTypes(for operands: [ValueType]) throws(OperationError) -> [ValueType] {
    try requireOperandCount(operands, 2)
    let table = try requireMatrix(operands[0], "table")
    guard let entries = table.rows.extent, entries > 0 else {
      throw OperationError("table must have a fixed, positive number of rows, found \(operands[0])")
    }
    let rows = try requireIntegers(operands[1], "ids", rows: nil)
    if case .fallback(let row) = outOfRange {
      try require((0..<entries).contains(row), "fallback row \(row) is outside a table of \(entries) rows")
    }
    return [.tensor([rows, .fixed(table.width)], table.element)]
  }

  /// Reads `out_of_range`: `error` or `fallback(row)`.
  public init(from reader: inout AttributeReader) {
    let outOfRange = reader.phrase("out_of_range", expected: "error or fallback(row)", placeholder: OutOfRange.error) {
      if $0.takeWord("error") { return .error }
      return $0.takeInteger("fallback").map { .fallback(row: $0) }
    }
    self.init(outOfRange: outOfRange)
  }

  /// Writes `out_of_range`.
  public func writeAttributes(to writer: inout AttributeWriter) {
    switch outOfRange {
    case .error: writer.phrase("out_of_range", "error")
    case .fallback(let row): writer.phrase("out_of_range", "fallback(\(row))")
    }
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
