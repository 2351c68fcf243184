/// Which rows of every sequence a selection keeps, in their order.
public enum RowSelection: Hashable, Sendable {
  /// The first `contextual` rows, the latest `keep` history rows, and all targets: attention truncation.
  case latest(keep: Int, contextual: Int)
  /// As `latest`, but for one row more where that leaves an even number of rows out: keys of narrow numbers are multiplied in pairs, by
  /// their places in a sequence, and these pairs stay together.
  case pairedLatest(keep: Int, contextual: Int)
  /// The targets alone.
  case targets

  /// Of a sequence of `length` rows, the half-open range of positions that are dropped; the rest is kept.
  public var dropped: KeyInterval {
    let history = IndexExpression.length - .targets
    switch self {
    case .latest(let keep, let contextual):
      let start = IndexExpression.min(.constant(contextual), history)
      return KeyInterval(start: start, end: .max(start, history - .constant(keep)))
    case .pairedLatest(let keep, let contextual):
      let start = IndexExpression.min(.constant(contextual), history)
      let half = IndexExpression.half(.max(0, history - .constant(keep) - start))
      return KeyInterval(start: start, end: start + half + half)
    case .targets: return KeyInterval(start: 0, end: history)
    }
  }

  /// `dropped` with numbers in place of expressions.
  public func dropped(length: Int, targets: Int) -> Range<Int> {
    let lookup = { (variable: IndexVariable) in
      switch variable {
      case .position: 0
      case .length: length
      case .targets: targets
      }
    }
    let start = dropped.start.evaluate(lookup)
    return start..<max(start, dropped.end.evaluate(lookup))
  }

  package func verify() throws(OperationError) {
    switch self {
    case .latest(let keep, let contextual), .pairedLatest(let keep, let contextual):
      try requireExtent(keep, "keep")
      try requireExtent(contextual, "contextual")
    case .targets: break
    }
  }

  /// What a selection's text must be, in words.
  package static let expectedText = "latest(rows) or paired_latest(rows) [contextual(rows)], or targets"

  /// `latest(10) contextual(2)`, `paired_latest(10)`, or `targets`.
  package var text: String {
    switch self {
    case .latest(let keep, 0): "latest(\(keep))"
    case .latest(let keep, let contextual): "latest(\(keep)) contextual(\(contextual))"
    case .pairedLatest(let keep, 0): "paired_latest(\(keep))"
    case .pairedLatest(let keep, let contextual): "paired_latest(\(keep)) contextual(\(contextual))"
    case .targets: "targets"
    }
  }

  /// The selection that the phrase spells out; nil where it spells none.
  package init?(from phrase: inout PhraseReader) {
    if phrase.takeWord("targets") {
      self = .targets
    } else if let keep = phrase.takeInteger("latest") {
      self = .latest(keep: keep, contextual: phrase.takeInteger("contextual") ?? 0)
    } else if let keep = phrase.takeInteger("paired_latest") {
      self = .pairedLatest(keep: keep, contextual: phrase.takeInteger("contextual") ?? 0)
    } else {
      return nil
    }
  }

  fileprivate init(from reader: inout AttributeReader) {
    self = reader.phrase("keep", expected: Self.expectedText, placeholder: .targets) { RowSelection(from: &$0) }
  }

  fileprivate func write(to writer: inout AttributeWriter) { writer.phrase("keep", text) }
}

/// The offsets of a batch after a selection: operands offsets and optionally targets [sequences]. The result cuts
/// rows of the new dimension `into`.
public struct SelectOffsets: OperationPayload {
  /// Its name in the text form.
  public static let mnemonic = "select_offsets"
  /// Which rows are kept.
  public var selection: RowSelection
  /// The symbol for the number of rows kept, new in the function.
  public var into: String

  /// A selection that defines the dimension `into`.
  public init(_ selection: RowSelection, into: String) {
    self.selection = selection
    self.into = into
  }

  /// Offsets [sequences + 1] that cut `into` rows. Throws where a number of rows makes no sense, operands do not fit
  /// each other, or `into` is one of the operand's own dimensions.
  public func resultTypes(for operands: [ValueType]) throws(OperationError) -> [ValueType] {
    try requireOperandCount(operands, 1, 2)
    try selection.verify()
    let offsets = try requireOffsets(operands[0], "offsets")
    if operands.count == 2 { _ = try requireIntegers(operands[1], "targets", rows: offsets.sequences) }
    try require(
      .symbol(into) != offsets.rows && .symbol(into) != offsets.sequences, "\(into) names another dimension already")
    return [.offsets(sequences: offsets.sequences, rows: .symbol(into))]
  }

  /// Reads `keep` and `into`.
  public init(from reader: inout AttributeReader) {
    self.init(RowSelection(from: &reader), into: reader.name("into"))
  }

  /// Writes `keep` and `into`.
  public func writeAttributes(to writer: inout AttributeWriter) {
    selection.write(to: &writer)
    writer.name("into", into)
  }
}

/// The rows of x that a selection keeps: operands x [rows, width] (or one integer a row), offsets, the selected
/// offsets (a `select_offsets` of the same selection), and optionally targets.
public struct SelectRows: OperationPayload {
  /// Its name in the text form.
  public static let mnemonic = "select_rows"
  /// Which rows are kept: the selection that made the selected offsets.
  public var selection: RowSelection

  /// Keeps the rows of a selection.
  public init(_ selection: RowSelection) { self.selection = selection }

  /// x's type with as many rows as the selected offsets cut. Throws where offsets, selected offsets or targets do not
  /// fit x or each other.
  public func resultTypes(for operands: [ValueType]) throws(OperationError) -> [ValueType] {
    try requireOperandCount(operands, 3, 4)
    try selection.verify()
    let offsets = try requireOffsets(operands[1], "offsets")
    let selected = try requireOffsets(operands[2], "selected offsets", sequences: offsets.sequences)
    if operands.count == 4 { _ = try requireIntegers(operands[3], "targets", rows: offsets.sequences) }
    guard var type = operands[0].tensor, type.rank == 1 || type.rank == 2, type.shape[0] == offsets.rows else {
      throw OperationError("x must have \(offsets.rows) rows, found \(operands[0])")
    }
    type.shape[0] = selected.rows
    return [.tensor(type)]
  }

  /// Reads `keep`.
  public init(from reader: inout AttributeReader) { self.init(RowSelection(from: &reader)) }
  /// Writes `keep`.
  public func writeAttributes(to writer: inout AttributeWriter) { selection.write(to: &writer) }
}

/// `outer` with the rows that a selection kept replaced by those of `inner`, in their old places: operands inner,
/// outer, offsets, selected offsets, and optionally targets (GR modules/dynamic_stu.py, L2STU).
public struct RestoreRows: OperationPayload {
  /// Its name in the text form.
  public static let mnemonic = "restore_rows"
  /// Which rows of `outer` are replaced: the selection that made the selected offsets.
  public var selection: RowSelection

  /// Puts the rows of a selection back.
  public init(_ selection: RowSelection) { self.selection = selection }

  /// The type of `outer`. Throws where `inner` differs in width or element type, or offsets, selected offsets or
  /// targets do not fit.
  public func resultTypes(for operands: [ValueType]) throws(OperationError) -> [ValueType] {
    try requireOperandCount(operands, 4, 5)
    try selection.verify()
    let inner = try requireMatrix(operands[0], "inner")
    let outer = try requireMatrix(operands[1], "outer")
    let offsets = try requireOffsets(operands[2], "offsets", rows: outer.rows)
    _ = try requireOffsets(operands[3], "selected offsets", sequences: offsets.sequences, rows: inner.rows)
    if operands.count == 5 { _ = try requireIntegers(operands[4], "targets", rows: offsets.sequences) }
    try require(
      inner.width == outer.width && inner.element == outer.element,
      "inner is \(operands[0]), but outer is \(operands[1])")
    return [operands[1]]
  }

  /// Reads `keep`.
  public init(from reader: inout AttributeReader) { self.init(RowSelection(from: &reader)) }
  /// Writes `keep`.
  public func writeAttributes(to writer: inout AttributeWriter) { selection.write(to: &writer) }
}

/// How many rows every sequence has: operand offsets.
public struct Lengths: OperationPayload {
  /// Its name in the text form.
  public static let mnemonic = "lengths"

  /// It has no attributes.
  public init() {}

  /// One int64 a sequence. Throws where the operand is not offsets.
  public func resultTypes(for operands: [ValueType]) throws(OperationError) -> [ValueType] {
    try requireOperandCount(operands, 1)
    let offsets = try requireOffsets(operands[0], "offsets", rows: nil)
    return [.tensor([offsets.sequences], .i64)]
  }

  /// Reads nothing: it has no attributes.
  public init(from reader: inout AttributeReader) { self.init() }
  /// Writes nothing: it has no attributes.
  public func writeAttributes(to writer: inout AttributeWriter) {}
}

/// The last row of every sequence, zeros for an empty one: operands x [rows, width] (or one integer a row) and offsets.
public struct LastRows: OperationPayload {
  /// Its name in the text form.
  public static let mnemonic = "last_rows"

  /// It has no attributes.
  public init() {}

  /// One tensor [sequences, width] (or [sequences]) of x's element type. Throws where offsets do not cut x's rows.
  public func resultTypes(for operands: [ValueType]) throws(OperationError) -> [ValueType] {
    try requireOperandCount(operands, 2)
    if operands[0].tensor?.rank == 1 {
      let rows = try requireIntegers(operands[0], "x", rows: nil)
      let offsets = try requireOffsets(operands[1], "offsets", rows: rows)
      return [.tensor([offsets.sequences], .i64)]
    }
    let x = try requireMatrix(operands[0], "x")
    let offsets = try requireOffsets(operands[1], "offsets", rows: x.rows)
    return [.tensor([offsets.sequences, .fixed(x.width)], x.element)]
  }

  /// Reads nothing: it has no attributes.
  public init(from reader: inout AttributeReader) { self.init() }
  /// Writes nothing: it has no attributes.
  public func writeAttributes(to writer: inout AttributeWriter) {}
}

/// One row of every sequence, [sequences, width], zeros where there is no such row: operands x [rows, width], offsets, and
/// with a `minimum` the offsets of other sequences, one for each, that must be so long.
///
/// A slot of contextual features: row `row` of the feature's ids, which counts only for who has history enough.
public struct PickRows: OperationPayload {
  /// Its name in the text form.
  public static let mnemonic = "pick_rows"
  /// The row's place in its sequence, from 0.
  public var row: Int
  /// Rows that the other sequence has at least, where the row is not to be zeros; 0 asks for none.
  public var minimum: Int

  /// Picks the row at this place.
  public init(row: Int, minimum: Int = 0) {
    self.row = row
    self.minimum = minimum
  }

  /// One tensor [sequences, width] of x's element type. Throws where numbers make no sense, offsets do not cut x's rows, or
  /// the other offsets cut another number of sequences.
  public func resultTypes(for operands: [ValueType]) throws(OperationError) -> [ValueType] {
    try requireExtent(row, "row")
    try requireExtent(minimum, "minimum")
    try requireOperandCount(operands, minimum == 0 ? 2 : 3)
    let x = try requireMatrix(operands[0], "x")
    let offsets = try requireOffsets(operands[1], "offsets", rows: x.rows)
    if minimum > 0 {
      guard case .offsets(offsets.sequences, _) = operands[2] else {
        throw OperationError("lengths must be offsets of \(offsets.sequences), found \(operands[2])")
      }
    }
    return [.tensor([offsets.sequences, .fixed(x.width)], x.element)]
  }

  /// Reads `row`, and `minimum` (0 where it is missing).
  public init(from reader: inout AttributeReader) {
    self.init(row: reader.integer("row"), minimum: reader.integer("minimum", defaultValue: 0))
  }

  /// Writes `row`, and `minimum` unless it is 0.
  public func writeAttributes(to writer: inout AttributeWriter) {
    writer.integer("row", row)
    if minimum != 0 { writer.integer("minimum", minimum) }
  }
}

/// For every row the number of the row after it; for a sequence's last row the sequence's own number: operands x
/// [rows], last [sequences], offsets. Of timestamps: when the next thing happened.
public struct NextRows: OperationPayload {
  /// Its name in the text form.
  public static let mnemonic = "next_rows"

  /// It has no attributes.
  public init() {}

  /// x's type, [rows] of int64. Throws where offsets do not cut x's rows, or `last` has not one int64 a sequence.
  public func resultTypes(for operands: [ValueType]) throws(OperationError) -> [ValueType] {
    try requireOperandCount(operands, 3)
    let rows = try requireIntegers(operands[0], "x", rows: nil)
    let offsets = try requireOffsets(operands[2], "offsets", rows: rows)
    _ = try requireIntegers(operands[1], "last", rows: offsets.sequences)
    return [operands[0]]
  }

  /// Reads nothing: it has no attributes.
  public init(from reader: inout AttributeReader) { self.init() }
  /// Writes nothing: it has no attributes.
  public func writeAttributes(to writer: inout AttributeWriter) {}
}
