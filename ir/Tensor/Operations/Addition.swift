/// Rows that every sequence gets beside its own, which stay in their order.
public enum RowAddition: Hashable, Sendable {
  /// So many rows before the first: contextual rows.
  case before(Int)
  /// One row behind each history row: a sequence of content and action rows in turn. Targets stay alone.
  case interleaved
  /// Rows of another batch with the same sequences behind the last: what is new behind what is kept of a history. As many as
  /// targets say, which must be the `lengths` of that batch.
  case appended

  /// Rows of an extended sequence, by the length and targets that it had.
  public var extendedLength: IndexExpression {
    switch self {
    case .before(let count): .length + .constant(count)
    case .interleaved: .length + (.length - .targets)
    case .appended: .length + .targets
    }
  }

  /// Of an extended sequence's row the place that it had before, -1 for an added row. The variables are the extended
  /// sequence's.
  public var original: IndexExpression {
    let history = IndexExpression.length - .targets
    switch self {
    case .before(let count):
      return .ifLess(.position, .constant(count), then: -1, otherwise: .position - .constant(count))
    case .interleaved:
      let place = IndexExpression.half(.position)
      return .ifLess(
        .position, history, then: .ifLess(place + place, .position, then: -1, otherwise: place),
        otherwise: .position - .half(history))
    case .appended: return .ifLess(.position, history, then: .position, otherwise: -1)
    }
  }

  /// The place in the extended sequence of a row that was there. The variables are those of the sequence before.
  public var extendedPlace: IndexExpression {
    let history = IndexExpression.length - .targets
    return switch self {
    case .before(let count): .position + .constant(count)
    case .interleaved: .ifLess(.position, history, then: .position + .position, otherwise: .position + history)
    case .appended: .position
    }
  }

  /// Of an extended sequence's row the number of the added row that it is, -1 for a row that was there. The variables are
  /// the extended sequence's.
  public var added: IndexExpression {
    switch self {
    case .before(let count): return .ifLess(.position, .constant(count), then: .position, otherwise: -1)
    case .interleaved:
      let place = IndexExpression.half(.position)
      return .ifLess(
        .position, .length - .targets, then: .ifLess(place + place, .position, then: place, otherwise: -1),
        otherwise: -1)
    case .appended:
      let before = IndexExpression.length - .targets
      return .ifLess(.position, before, then: -1, otherwise: .position - before)
    }
  }

  /// What an extended number of rows never exceeds: so many times the rows before, and so many for each sequence; those that
  /// another batch appends are apart.
  public var bound: (rows: Int, perSequence: Int) {
    switch self {
    case .before(let count): (1, count)
    case .interleaved: (2, 0)
    case .appended: (1, 0)
    }
  }

  /// What of the rows before an addition and of those after it belongs together, where some rows after it are needed: the
  /// smallest demands of which the second is what becomes of the first.
  public func demands(for needed: RowDemand) -> (before: RowDemand, after: RowDemand) {
    guard case .ends(let first, let latest) = needed else { return (needed, needed) }
    switch self {
    case .before(let count):
      let own = max(first - count, 0)
      return (.ends(first: own, latest: latest), .ends(first: own + count, latest: latest))
    case .interleaved:
      let (own, ownLatest) = ((first + 1) / 2, (latest + 1) / 2)
      return (.ends(first: own, latest: ownLatest), .ends(first: 2 * own, latest: 2 * ownLatest))
    // Rows of two batches.
    case .appended: return (.all, .all)
    }
  }

  /// Whether a selection of the rows after an addition keeps just what becomes of those that another keeps of the rows
  /// before it.
  public func keeps(_ before: RowSelection, as after: RowSelection) -> Bool {
    let demands = demands(for: RowDemand(after))
    return demands.before == RowDemand(before) && demands.after == RowDemand(after)
  }

  /// Whether it asks which rows are targets.
  public var readsTargets: Bool {
    switch self {
    case .before: false
    case .interleaved, .appended: true
    }
  }

  package func verify() throws(OperationError) {
    guard case .before(let count) = self else { return }
    try require((0...Self.mostBefore).contains(count), "before must lie in 0...\(Self.mostBefore), found \(count)")
  }

  /// The most rows before a sequence.
  private static let mostBefore = 1 << 20

  /// What an addition's text must be, in words.
  package static let expectedText = "before(rows), interleaved or appended"

  /// `before(3)`, `interleaved` or `appended`.
  package var text: String {
    switch self {
    case .before(let count): "before(\(count))"
    case .interleaved: "interleaved"
    case .appended: "appended"
    }
  }

  /// The addition that the phrase spells out; nil where it spells none.
  package init?(from phrase: inout PhraseReader) {
    if phrase.takeWord("interleaved") {
      self = .interleaved
    } else if phrase.takeWord("appended") {
      self = .appended
    } else if let count = phrase.takeInteger("before") {
      self = .before(count)
    } else {
      return nil
    }
  }

  fileprivate init(from reader: inout AttributeReader) {
    self = reader.phrase("add", expected: Self.expectedText, placeholder: .interleaved) { RowAddition(from: &$0) }
  }

  fileprivate func write(to writer: inout AttributeWriter) { writer.phrase("add", text) }

  /// The operands offsets and, where it asks for them, targets, from the one numbered `first` on.
  fileprivate func requireBatch(
    _ operands: [ValueType], offsets first: Int, targets: Int, rows: Dimension? = nil
  ) throws(OperationError) -> (sequences: Dimension, rows: Dimension) {
    let offsets = try requireOffsets(operands[first], "offsets", rows: rows)
    if operands.count > targets {
      try require(readsTargets, "\(text) does not ask for targets")
      _ = try requireIntegers(operands[targets], "targets", rows: offsets.sequences)
    }
    return offsets
  }
}

/// The offsets of a batch whose sequences get more rows: operands offsets and, for what asks for them, targets
/// [sequences], which `appended` must have. The result cuts rows of the new dimension `into`.
public struct ExtendOffsets: OperationPayload {
  /// Its name in the text form.
  public static let mnemonic = "extend_offsets"
  /// Which rows are added.
  public var addition: RowAddition
  /// The symbol for the number of rows then, new in the function.
  public var into: String

  /// An addition that defines the dimension `into`.
  public init(_ addition: RowAddition, into: String) {
    self.addition = addition
    self.into = into
  }

  /// Offsets [sequences + 1] that cut `into` rows. Throws where a number of rows makes no sense, operands do not fit each
  /// other, or `into` is one of the operand's own dimensions.
  public func resultTypes(for operands: [ValueType]) throws(OperationError) -> [ValueType] {
    try requireOperandCount(operands, 1, 2)
    try addition.verify()
    if addition == .appended { try requireOperandCount(operands, 2) }
    let offsets = try addition.requireBatch(operands, offsets: 0, targets: 1)
    try require(
      .symbol(into) != offsets.rows && .symbol(into) != offsets.sequences, "\(into) names another dimension already")
    return [.offsets(sequences: offsets.sequences, rows: .symbol(into))]
  }

  /// Reads `add` and `into`.
  public init(from reader: inout AttributeReader) {
    self.init(RowAddition(from: &reader), into: reader.name("into"))
  }

  /// Writes `add` and `into`.
  public func writeAttributes(to writer: inout AttributeWriter) {
    addition.write(to: &writer)
    writer.name("into", into)
  }
}

/// The rows of x with added ones: operands the added rows, x [rows, width] (or one integer a row), offsets, the extended
/// offsets (an `extend_offsets` of the same addition), and those targets that it reads.
///
/// Rows before a sequence come from matrices [sequences, k * width], each of which brings k of them, side by side; before
/// integers they are `value`. Of `interleaved` the added rows are a tensor like x, whose row stands behind x's; what
/// it has for targets is not looked at. Of `appended` they are the rows of the other batch.
public struct ExtendRows: OperationPayload {
  /// Its name in the text form.
  public static let mnemonic = "extend_rows"
  /// Which rows are added: the addition that made the extended offsets.
  public var addition: RowAddition
  /// What stands in added rows of integers.
  public var value: Int

  /// Adds these rows.
  public init(_ addition: RowAddition, value: Int = 0) {
    self.addition = addition
    self.value = value
  }

  /// Where operands are among a number of them that is right.
  public struct Places: Hashable, Sendable {
    /// The added rows.
    public var added: Range<Int>
    /// The rows that are there already.
    public var x: Int
    /// What cuts x.
    public var offsets: Int
    /// What cuts the result.
    public var extended: Int
    /// The number of targets of each sequence; nil where there are none.
    public var targets: Int?
  }

  /// Where each operand is among so many; at least 3, of `interleaved` 4 or 5, of `appended` 5.
  public func places(among count: Int) -> Places {
    switch addition {
    case .before: Places(added: 0..<count - 3, x: count - 3, offsets: count - 2, extended: count - 1, targets: nil)
    case .interleaved, .appended: Places(added: 0..<1, x: 1, offsets: 2, extended: 3, targets: count > 4 ? 4 : nil)
    }
  }

  /// x's type with as many rows as the extended offsets cut. Throws where added rows are not as many as are added or not like
  /// x's, or offsets, extended offsets or targets do not fit x or each other.
  public func resultTypes(for operands: [ValueType]) throws(OperationError) -> [ValueType] {
    try addition.verify()
    switch addition {
    case .before: try require(operands.count >= 3, "expected 3 operands or more, found \(operands.count)")
    case .interleaved: try requireOperandCount(operands, 4, 5)
    case .appended: try requireOperandCount(operands, 5)
    }
    let places = places(among: operands.count)
    guard var type = operands[places.x].tensor, type.rank == 1 || type.rank == 2 else {
      throw OperationError("x must be a matrix, or one integer a row, found \(operands[places.x])")
    }
    let isIntegers = type.rank == 1
    if isIntegers {
      _ = try requireIntegers(operands[places.x], "x", rows: nil)
    } else {
      _ = try requireMatrix(operands[places.x], "x")
      try require(value == 0, "value belongs to integers")
    }
    let offsets = try addition.requireBatch(
      operands, offsets: places.offsets, targets: places.targets ?? .max, rows: type.shape[0])
    let extended = try requireOffsets(operands[places.extended], "extended offsets", sequences: offsets.sequences)
    let added = operands[places.added]
    switch addition {
    case .interleaved:
      try require(value == 0, "value belongs to before")
      try require(added[0] == operands[places.x], "the added rows are \(added[0]), but x is \(operands[places.x])")
    case .appended:
      try require(value == 0, "value belongs to before")
      guard var own = added[0].tensor, own.rank == type.rank else {
        throw OperationError("the added rows are \(added[0]), but x is \(operands[places.x])")
      }
      own.shape[0] = type.shape[0]
      try require(own == type, "the added rows are \(added[0]), but x is \(operands[places.x])")
    case .before(_) where isIntegers:
      try require(added.isEmpty, "before integers stands the value, found \(added.count) operands more")
    case .before(let count):
      var rows = 0
      let x = try requireMatrix(operands[places.x], "x")
      for operand in added {
        let head = try requireMatrix(operand, "added rows")
        try require(
          head.rows == offsets.sequences && head.element == x.element && head.width % x.width == 0,
          "added rows must be tensor<\(offsets.sequences) x a multiple of \(x.width) x \(x.element.rawValue)>, "
            + "found \(operand)")
        rows += head.width / x.width
      }
      try require(rows == count, "adds \(count) rows to a sequence, but operands bring \(rows)")
    }
    type.shape[0] = extended.rows
    return [.tensor(type)]
  }

  /// Reads `add`, and `value` (0 where it is missing).
  public init(from reader: inout AttributeReader) {
    self.init(RowAddition(from: &reader), value: reader.integer("value", defaultValue: 0))
  }

  /// Writes `add`, and `value` unless it is 0.
  public func writeAttributes(to writer: inout AttributeWriter) {
    addition.write(to: &writer)
    if value != 0 { writer.integer("value", value) }
  }
}

/// The rows of x that were there before an addition: operands x [rows, width] (or one integer a row), the offsets before
/// it, the extended offsets that cut x, and those targets that the addition reads. What `extend_rows` made of rows
/// becomes these rows again.
public struct OriginalRows: OperationPayload {
  /// Its name in the text form.
  public static let mnemonic = "original_rows"
  /// Which rows are left out: the addition that made the extended offsets.
  public var addition: RowAddition

  /// Leaves the added rows out.
  public init(_ addition: RowAddition) { self.addition = addition }

  /// x's type with as many rows as the offsets cut. Throws where offsets, extended offsets or targets do not fit x or each
  /// other.
  public func resultTypes(for operands: [ValueType]) throws(OperationError) -> [ValueType] {
    try requireOperandCount(operands, 3, 4)
    try addition.verify()
    let offsets = try addition.requireBatch(operands, offsets: 1, targets: 3)
    let extended = try requireOffsets(operands[2], "extended offsets", sequences: offsets.sequences)
    guard var type = operands[0].tensor, type.rank == 1 || type.rank == 2, type.shape[0] == extended.rows else {
      throw OperationError("x must have \(extended.rows) rows, found \(operands[0])")
    }
    type.shape[0] = offsets.rows
    return [.tensor(type)]
  }

  /// Reads `add`.
  public init(from reader: inout AttributeReader) { self.init(RowAddition(from: &reader)) }
  /// Writes `add`.
  public func writeAttributes(to writer: inout AttributeWriter) { addition.write(to: &writer) }
}
