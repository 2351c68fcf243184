/// What an operation does, with its attributes: a closed set, each case's payload in a file of its own under Operations/.
public enum Payload: Hashable, Sendable {
  case add(Add)
  case attention(Attention)
  case bucketTimes(BucketTimes)
  case calendarUnits(CalendarUnits)
  case concatenate(Concatenate)
  case convert(Convert)
  case dequantizeRows(DequantizeRows)
  case embedBits(EmbedBits)
  case extendOffsets(ExtendOffsets)
  case extendRows(ExtendRows)
  case gather(Gather)
  case groupNorm(GroupNorm)
  case l2Norm(L2Norm)
  case lastRows(LastRows)
  case layerNorm(LayerNorm)
  case lengths(Lengths)
  case linear(Linear)
  case markBits(MarkBits)
  case multiply(Multiply)
  case nextRows(NextRows)
  case originalRows(OriginalRows)
  case pickRows(PickRows)
  case positions(Positions)
  case quantizedLinear(QuantizedLinear)
  case quantizeRows(QuantizeRows)
  case replaceTargets(ReplaceTargets)
  case restoreRows(RestoreRows)
  case scale(Scale)
  case selectOffsets(SelectOffsets)
  case selectRows(SelectRows)
  case sigmoid(Sigmoid)
  case silu(SiLU)
  case split(Split)
  case topK(TopK)
  case zeroRows(ZeroRows)

  /// The payload itself, for what every operation answers alike.
  public var definition: any OperationPayload {
    switch self {
    case .add(let payload): payload
    case .attention(let payload): payload
    case .bucketTimes(let payload): payload
    case .calendarUnits(let payload): payload
    case .concatenate(let payload): payload
    case .convert(let payload): payload
    case .dequantizeRows(let payload): payload
    case .embedBits(let payload): payload
    case .extendOffsets(let payload): payload
    case .extendRows(let payload): payload
    case .gather(let payload): payload
    case .groupNorm(let payload): payload
    case .l2Norm(let payload): payload
    case .lastRows(let payload): payload
    case .layerNorm(let payload): payload
    case .lengths(let payload): payload
    case .linear(let payload): payload
    case .markBits(let payload): payload
    case .multiply(let payload): payload
    case .nextRows(let payload): payload
    case .originalRows(let payload): payload
    case .pickRows(let payload): payload
    case .positions(let payload): payload
    case .quantizedLinear(let payload): payload
    case .quantizeRows(let payload): payload
    case .replaceTargets(let payload): payload
    case .restoreRows(let payload): payload
    case .scale(let payload): payload
    case .selectOffsets(let payload): payload
    case .selectRows(let payload): payload
    case .sigmoid(let payload): payload
    case .silu(let payload): payload
    case .split(let payload): payload
    case .topK(let payload): payload
    case .zeroRows(let payload): payload
    }
  }

  /// The operation's name in the text form.
  public var mnemonic: String { type(of: definition).mnemonic }

  /// Every operation's name in the text form, sorted.
  public static let mnemonics: [String] = readers.keys.sorted()

  /// The mnemonic with the attributes, as the text form has them: `scale {factor = 2}`. Equal texts mean the same
  /// computation; where payloads are equal, numbers such as 0 and -0 may still differ.
  public var text: String { mnemonic + attributeText }

  /// ` {a = 1}`, or nothing where there are no attributes.
  var attributeText: String {
    var writer = AttributeWriter()
    definition.writeAttributes(to: &writer)
    return writer.text
  }

  typealias Reader = @Sendable (inout AttributeReader) -> Payload

  /// What reads each operation's attributes from text, by mnemonic.
  static let readers: [String: Reader] = {
    var readers: [String: Reader] = [:]
    func add<P: OperationPayload>(_ make: @escaping @Sendable (P) -> Payload) {
      readers[P.mnemonic] = { make(P(from: &$0)) }
    }
    add(Payload.add)
    add(Payload.attention)
    add(Payload.bucketTimes)
    add(Payload.calendarUnits)
    add(Payload.concatenate)
    add(Payload.convert)
    add(Payload.dequantizeRows)
    add(Payload.embedBits)
    add(Payload.extendOffsets)
    add(Payload.extendRows)
    add(Payload.gather)
    add(Payload.groupNorm)
    add(Payload.l2Norm)
    add(Payload.lastRows)
    add(Payload.layerNorm)
    add(Payload.lengths)
    add(Payload.linear)
    add(Payload.markBits)
    add(Payload.multiply)
    add(Payload.nextRows)
    add(Payload.originalRows)
    add(Payload.pickRows)
    add(Payload.positions)
    add(Payload.quantizedLinear)
    add(Payload.quantizeRows)
    add(Payload.replaceTargets)
    add(Payload.restoreRows)
    add(Payload.scale)
    add(Payload.selectOffsets)
    add(Payload.selectRows)
    add(Payload.sigmoid)
    add(Payload.silu)
    add(Payload.split)
    add(Payload.topK)
    add(Payload.zeroRows)
    return readers
  }()
}

/// What each operation says about itself.
public protocol OperationPayload: Hashable, Sendable {
  /// Its name in the text form.
  static var mnemonic: String { get }

  /// The types of the results for operands of the types given: the whole verification of an operation.
  /// Throws where operands or attributes do not fit, saying what was found and what was expected.
  func resultTypes(for operands: [ValueType]) throws(OperationError) -> [ValueType]

  /// The payload with the attributes that `reader` has; what they may be is for `resultTypes` to check.
  init(from reader: inout AttributeReader)

  /// Writes the attributes so that `init(from:)` gives an equal payload.
  func writeAttributes(to writer: inout AttributeWriter)
}

/// An operation whose operands or attributes do not fit. The verifier adds the operation and its place.
public struct OperationError: Error, Hashable, Sendable, CustomStringConvertible {
  /// What was found and what was expected, without a place.
  public var message: String

  /// An error with this message.
  public init(_ message: String) { self.message = message }

  /// The message alone.
  public var description: String { message }
}

// MARK: - Checks that payloads share

func require(_ condition: Bool, _ message: @autoclosure () -> String) throws(OperationError) {
  if !condition { throw OperationError(message()) }
}

/// The largest number that an attribute may give for rows, so that sums of a few stay far from 64 bits.
let largestExtent = 1 << 40

/// The attribute as a number of rows, from `least` to 2^40.
func requireExtent(_ value: Int, _ name: String, least: Int = 0) throws(OperationError) {
  let expected = least == 0 ? "not be negative" : "be positive"
  try require(value >= least, "\(name) must \(expected), found \(value)")
  try require(value <= largestExtent, "\(name) must be at most 2^40, found \(value)")
}

func requireOperandCount(_ operands: [ValueType], _ counts: Int...) throws(OperationError) {
  let expected = counts.map(String.init).joined(separator: " or ") + (counts == [1] ? " operand" : " operands")
  try require(counts.contains(operands.count), "expected \(expected), found \(operands.count)")
}

/// The operand as a floating-point matrix of rows and columns of fixed width.
func requireMatrix(
  _ operand: ValueType, _ name: String
) throws(OperationError) -> (rows: Dimension, width: Int, element: ElementType) {
  guard let type = operand.tensor, type.rank == 2, let width = type.shape[1].extent, type.element.isFloatingPoint
  else { throw OperationError("\(name) must be a floating-point matrix of fixed width, found \(operand)") }
  return (type.shape[0], width, type.element)
}

/// The operand as a vector of exactly `count` floating-point elements, of type `element` where that is given.
func requireVector(
  _ operand: ValueType, _ name: String, count: Int, _ element: ElementType? = nil
) throws(OperationError) {
  guard let type = operand.tensor, type.rank == 1, type.element.isFloatingPoint, type.shape[0] == .fixed(count),
    element == nil || type.element == element
  else {
    throw OperationError("\(name) must be tensor<\(count) x \((element ?? .f32).rawValue)>, found \(operand)")
  }
}

/// The operand as one integer a row.
func requireIntegers(_ operand: ValueType, _ name: String, rows: Dimension?) throws(OperationError) -> Dimension {
  guard let type = operand.tensor, type.rank == 1, type.element == .i64, rows == nil || type.shape[0] == rows else {
    throw OperationError("\(name) must be tensor<\(rows.map(\.description) ?? "rows") x i64>, found \(operand)")
  }
  return type.shape[0]
}

func requireOffsets(
  _ operand: ValueType, _ name: String, sequences expected: Dimension? = nil, rows expectedRows: Dimension? = nil
) throws(OperationError) -> (sequences: Dimension, rows: Dimension) {
  guard case .offsets(let sequences, let rows) = operand, expected == nil || sequences == expected,
    expectedRows == nil || rows == expectedRows
  else {
    let form = "offsets<\(expected.map(\.description) ?? "sequences") x \(expectedRows.map(\.description) ?? "rows")>"
    throw OperationError("\(name) must be \(form), found \(operand)")
  }
  return (sequences, rows)
}
