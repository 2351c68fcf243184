/// Pointwise attention of a jagged batch, each sequence and head apart:
/// `out[r] = sum over visible c of activation(alpha * q[r] k[c] + bias[r, c]) / divisor * v[c]`.
///
/// Operands: q [rows, heads * dqk], k [rows, heads * dqk], v [rows, heads * dv], offsets; then targets [sequences] of
/// int64 where `hasTargets`; then the selected offsets where `queries` chooses rows; then the bias's operands (see
/// `Bias`). A row that sees no key gives zeros.
///
/// q, k and v are all f32 or all f64, and so is the result. Or they are all bf16: scores, biases and activation are then
/// fp32, activated scores are rounded to bf16 before their product with v, sums are fp32, and the sum is divided; the result
/// is f32.
public struct Attention: OperationPayload {
  /// Its name in the text form.
  public static let mnemonic = "attention"

  /// What a score passes through before it is divided: SiLU, or nothing.
  public enum Activation: String, Hashable, Sendable, CaseIterable {
    case silu
    case identity = "none"
  }

  /// The N of SEMANTICS section 1.
  public enum Divisor: Hashable, Sendable {
    case fixed(Double)
    /// The batch's longest sequence, of the offsets that this operation reads. A result then depends on who shares the batch.
    case longestSequence
    /// The longest history, the most targets and the contextual rows added up, maxima taken apart (GR DlrmHSTU).
    case longestHistoryPlusTargets
  }

  /// What is added to a score before its activation, shared by all heads (SEMANTICS section 7).
  public enum Bias: Hashable, Sendable {
    case none
    /// `weights[n - 1 + c - r]`, r and c positions in the sequence. Operand: weights [2n - 1].
    case position
    /// The position bias, plus `time[bucket]` with `bucket = clamp(trunc(ln(max(|queryTime[r] - keyTime[c]|, 1)) / 0.301), 0, last)`
    /// in fp32. Operands: position weights [2n - 1], time weights [buckets], query times [rows of q], key times [rows of k].
    case positionAndTime

    /// How many operands the bias adds.
    public var operandCount: Int {
      switch self {
      case .none: 0
      case .position: 1
      case .positionAndTime: 4
      }
    }
  }

  /// How many heads share the columns of q, k and v, in equal parts; positive.
  public var heads: Int
  /// Scale of a score before bias and activation.
  public var alpha: Double
  /// What activated scores are divided by, so that sums over long sequences stay small.
  public var divisor: Divisor
  /// What a score passes through after its bias.
  public var activation: Activation
  /// What is added to a score.
  public var bias: Bias
  /// Which keys a row sees.
  public var mask: Mask
  /// Whether an operand counts the target rows of each sequence; without it no row is a target.
  public var hasTargets: Bool
  /// Whether the rows that targets count are further history: the mask then knows no targets. What `queries` chooses may
  /// still be they.
  public var continuesHistory: Bool
  /// Where q holds some rows of each sequence only, which ones: those that a `select_offsets` of the same selection,
  /// offsets and targets keeps. A row's place, for mask and bias, is the one among all rows of k.
  public var queries: RowSelection?

  /// Attributes as given; `resultTypes` checks them.
  public init(
    heads: Int, alpha: Double, divisor: Divisor, activation: Activation = .silu, bias: Bias = .none,
    mask: Mask = .causal, hasTargets: Bool = false, continuesHistory: Bool = false, queries: RowSelection? = nil
  ) {
    self.heads = heads
    self.alpha = alpha
    self.divisor = divisor
    self.activation = activation
    self.bias = bias
    self.mask = mask
    self.hasTargets = hasTargets
    self.continuesHistory = continuesHistory
    self.queries = queries
  }

  /// Which operand holds the selected offsets, where `queries` chooses rows.
  public var selectedOffsetsOperand: Int { hasTargets ? 5 : 4 }
  /// Which operand is the first of the bias's.
  public var firstBiasOperand: Int { selectedOffsetsOperand + (queries == nil ? 0 : 1) }

  /// One tensor [rows of q, heads * dv] of q's element type, f32 where that is bf16. Throws where a number makes no sense,
  /// heads do not divide the widths, or operands differ in rows, widths or sequences.
  public func resultTypes(for operands: [ValueType]) throws(OperationError) -> [ValueType] {
    try requireOperandCount(operands, firstBiasOperand + bias.operandCount)
    try verifyAttributes()
    let query = try requireMatrix(operands[0], "query")
    let key = try requireMatrix(operands[1], "key")
    let value = try requireMatrix(operands[2], "value")
    if queries == nil {
      try require(
        key.rows == query.rows && value.rows == query.rows,
        "query, key and value must have the same rows, found \(query.rows), \(key.rows) and \(value.rows)")
    } else {
      try require(
        value.rows == key.rows, "key and value must have the same rows, found \(key.rows) and \(value.rows)")
    }
    try require(
      query.width % heads == 0 && value.width % heads == 0,
      "\(heads) heads do not divide a query of \(query.width) or a value of \(value.width)")
    try require(
      query.width == key.width,
      "query has \(heads) heads of \(query.width / heads), key has \(heads) heads of \(key.width / heads)")
    try require(
      query.element != .f16 && key.element == query.element && value.element == query.element,
      "query, key and value must be all of f32, f64 or bf16, found \(query.element.rawValue), "
        + "\(key.element.rawValue) and \(value.element.rawValue)")
    let offsets = try requireOffsets(operands[3], "offsets", rows: key.rows)
    if hasTargets { _ = try requireIntegers(operands[4], "targets", rows: offsets.sequences) }
    if queries != nil {
      _ = try requireOffsets(
        operands[selectedOffsetsOperand], "selected offsets", sequences: offsets.sequences, rows: query.rows)
    }
    let first = firstBiasOperand
    switch bias {
    case .none: break
    case .position: try verifyPositionWeights(operands[first])
    case .positionAndTime:
      try verifyPositionWeights(operands[first])
      guard let time = operands[first + 1].tensor, time.rank == 1, time.element.isFloatingPoint,
        let buckets = time.shape[0].extent, buckets > 0
      else { throw OperationError("time weights must be a vector, found \(operands[first + 1])") }
      _ = try requireIntegers(operands[first + 2], "query times", rows: query.rows)
      _ = try requireIntegers(operands[first + 3], "key times", rows: key.rows)
    }
    return [.tensor([query.rows, .fixed(value.width)], query.element == .bf16 ? .f32 : query.element)]
  }

  private func verifyAttributes() throws(OperationError) {
    try require(heads > 0, "heads must be positive, found \(heads)")
    try require(alpha.isFinite, "alpha must be finite, found \(alpha)")
    if case .fixed(let divisor) = divisor {
      try require(divisor > 0 && divisor.isFinite, "the divisor must be a positive number, found \(divisor)")
    }
    try require(!continuesHistory || hasTargets, "what continues the history is counted by targets, but there are none")
    try mask.verify()
    try queries?.verify()
  }

  /// An odd number of weights, 2n - 1 of them; sequences longer than n are refused when the model runs.
  private func verifyPositionWeights(_ operand: ValueType) throws(OperationError) {
    guard let type = operand.tensor, type.rank == 1, type.element.isFloatingPoint, let count = type.shape[0].extent,
      count % 2 == 1
    else { throw OperationError("position weights must be a vector of odd length 2n - 1, found \(operand)") }
  }

  /// Reads `heads`, `alpha`, `divisor`, `activation`, `bias` (none where it is missing), `mask`, the flags `targets` and
  /// `continued`, and `queries` where it is there.
  public init(from reader: inout AttributeReader) {
    self.init(
      heads: reader.integer("heads"), alpha: reader.number("alpha"), divisor: Divisor(from: &reader),
      activation: reader.word("activation"), bias: Bias(from: &reader), mask: Mask(from: &reader),
      hasTargets: reader.flag("targets"), continuesHistory: reader.flag("continued"), queries: reader.queries())
  }

  /// Writes all attributes, `bias`, `targets`, `continued` and `queries` only where there are any.
  public func writeAttributes(to writer: inout AttributeWriter) {
    writer.integer("heads", heads)
    writer.number("alpha", alpha)
    switch divisor {
    case .fixed(let number): writer.phrase("divisor", "fixed(\(TextName.number(number)))")
    case .longestSequence: writer.phrase("divisor", "longest_sequence")
    case .longestHistoryPlusTargets: writer.phrase("divisor", "longest_history_plus_targets")
    }
    writer.word("activation", activation)
    switch bias {
    case .none: break
    case .position: writer.phrase("bias", "position")
    case .positionAndTime: writer.phrase("bias", "position_and_time")
    }
    writer.phrase("mask", mask.text)
    writer.flag("targets", hasTargets)
    writer.flag("continued", continuesHistory)
    if let queries { writer.phrase("queries", queries.text) }
  }
}

extension AttributeReader {
  fileprivate mutating func queries() -> RowSelection? {
    let all: RowSelection? = nil
    return phrase("queries", expected: RowSelection.expectedText, placeholder: all, defaultValue: .some(all)) {
      reader in
      RowSelection(from: &reader).map { .some($0) }
    }
  }
}

extension Attention.Divisor {
  fileprivate init(from reader: inout AttributeReader) {
    let expected = "fixed(number), longest_sequence or longest_history_plus_targets"
    self = reader.phrase("divisor", expected: expected, placeholder: .longestSequence) {
      if $0.takeWord("longest_sequence") { return .longestSequence }
      if $0.takeWord("longest_history_plus_targets") { return .longestHistoryPlusTargets }
      return $0.takeNumber("fixed").map { .fixed($0) }
    }
  }
}

extension Attention.Bias {
  fileprivate init(from reader: inout AttributeReader) {
    let expected = "none, position or position_and_time"
    self = reader.phrase("bias", expected: expected, placeholder: .none, defaultValue: Attention.Bias.none) {
      if $0.takeWord("none") { return Attention.Bias.none }
      if $0.takeWord("position") { return .position }
      return $0.takeWord("position_and_time") ? .positionAndTime : nil
    }
  }
}
