/// The k items of greatest score for each query, best first: operands queries [n, width], items [items, width], and
/// optionally seen ids [m] with offsets that cut them into one group a query.
///
/// A score is the product of a query with an item's row, `q . row`, of which no more is ever kept than a piece. Item i has id
/// `firstID + i`. Items are ordered by score, the greater first; NaN comes after every number; equal scores, and NaN, are
/// ordered by id, the smaller first. Under seen ids, a query's own seen items are left out; ids that are no item's, and
/// ids that are there twice, change nothing. Places that no item is left for have id -1 and score -infinity.
///
/// Where seen ids are hashed into the table that the items are rows of, as `Gather.OutOfRange.modulo` looks them up, the item
/// that one stands for is the row that was looked up.
public struct TopK: OperationPayload {
  /// Its name in the text form.
  public static let mnemonic = "top_k"

  /// How many items a query gets: from 1 to their number, and at most `mostItems`.
  public var count: Int
  /// The id of the first item.
  public var firstID: Int
  /// The form of the items' rows where they are bytes (u8); nil where they are floating-point numbers.
  public var rows: TableFormat?
  /// The rows of the table that seen ids are hashed into; nil where a seen id is its item's.
  public var seenModulo: Int?

  /// The largest k: places are kept sorted.
  public static let mostItems = 4096

  /// The best `count` of all items, of which the first has the id given.
  public init(count: Int, firstID: Int = 0, rows: TableFormat? = nil, seenModulo: Int? = nil) {
    self.count = count
    self.firstID = firstID
    self.rows = rows
    self.seenModulo = seenModulo
  }

  /// The id of the item that a seen id stands for.
  public func item(seen id: Int64) -> Int64 { seenModulo.map { Gather.hashed(id, rows: $0) } ?? id }

  /// Scores [n, k] of f32 (f64 where queries and items are) and ids [n, k] of i64. Throws where queries and items differ in
  /// width or elements, where there are fewer than k items, where seen ids are not cut into one group a query, or where they
  /// are hashed into a table that has no row for some item.
  public func resultTypes(for operands: [ValueType]) throws(OperationError) -> [ValueType] {
    try requireOperandCount(operands, 2, 4)
    let queries = try requireMatrix(operands[0], "queries")
    let items = try itemCount(operands[1], queries)
    try require((1...Self.mostItems).contains(count), "k must lie in 1...\(Self.mostItems), found \(count)")
    try require(count <= items, "k is \(count), but there are \(items) items")
    try requireExtent(firstID, "first_id")
    if operands.count == 4 {
      let seen = try requireIntegers(operands[2], "seen ids", rows: nil)
      _ = try requireOffsets(operands[3], "seen offsets", sequences: queries.rows, rows: seen)
    }
    if let seenModulo {
      try require(operands.count == 4, "ids are hashed, but there are no seen ids")
      try requireExtent(seenModulo, "seen = modulo", least: 1)
      try require(
        firstID + items <= seenModulo,
        "items have ids up to \(firstID + items - 1), but seen ids are hashed into \(seenModulo) rows")
    }
    let shape = [queries.rows, Dimension.fixed(count)]
    return [.tensor(shape, queries.element == .f64 ? .f64 : .f32), .tensor(shape, .i64)]
  }

  private func itemCount(
    _ operand: ValueType, _ queries: (rows: Dimension, width: Int, element: ElementType)
  ) throws(OperationError) -> Int {
    if let rows {
      let bytes = rows.byteCount(width: queries.width)
      guard let type = operand.tensor, type.element == .u8, type.rank == 2, type.shape[1] == .fixed(bytes),
        let count = type.shape[0].extent
      else {
        throw OperationError(
          "items must be tensor<items x \(bytes) x u8>, \(rows.rawValue) rows of \(queries.width), found \(operand)")
      }
      try require(
        queries.element == .f32, "\(rows.rawValue) rows need queries of f32, found \(queries.element.rawValue)")
      return count
    }
    guard let type = operand.tensor, type.rank == 2, type.element.isFloatingPoint, let count = type.shape[0].extent,
      type.shape[1].extent != nil
    else { throw OperationError("items must be a matrix of fixed shape, found \(operand)") }
    try require(
      type.shape[1] == .fixed(queries.width),
      "queries are \(queries.width) wide, but the rows of items \(type.shape[1])")
    try require(
      type.element == queries.element,
      "queries are of \(queries.element.rawValue), but items of \(type.element.rawValue)")
    return count
  }

  /// Reads `k`, `first_id` (0 where it is missing), `rows` and `seen`: `modulo(rows)` where ids are hashed.
  public init(from reader: inout AttributeReader) {
    self.init(
      count: reader.integer("k"), firstID: reader.integer("first_id", defaultValue: 0),
      rows: reader.optionalWord("rows"),
      seenModulo: reader.phrase("seen", expected: "modulo(rows)", placeholder: nil, defaultValue: .some(nil)) {
        $0.takeInteger("modulo")
      })
  }

  /// Writes `k`, `first_id` unless it is 0, `rows` where items are bytes, and `seen` where ids are hashed.
  public func writeAttributes(to writer: inout AttributeWriter) {
    writer.integer("k", count)
    if firstID != 0 { writer.integer("first_id", firstID) }
    if let rows { writer.word("rows", rows) }
    if let seenModulo { writer.phrase("seen", "modulo(\(seenModulo))") }
  }

  /// Whether an item goes before another: by scores, then by ids.
  public static func isBefore<Number: BinaryFloatingPoint>(
    _ one: (score: Number, id: Int64), _ other: (score: Number, id: Int64)
  ) -> Bool {
    if one.score > other.score || (other.score.isNaN && !one.score.isNaN) { return true }
    let isEqual = one.score == other.score || (one.score.isNaN && other.score.isNaN)
    return isEqual && one.id < other.id
  }
}
