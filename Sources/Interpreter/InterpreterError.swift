import TensorIR

/// Why a run was refused. The cases about inputs are the status codes of include/ultra.h, with the same `position`,
/// `found` and `expected`; inputs are named rather than numbered. A value that is no input is named with its `%`.
public enum InterpreterError: Error, Hashable, Sendable {
  case unknownFunction(name: String, known: [String])
  case missingInput(String)
  case unexpectedInput(String, expected: [String])
  case wrongElementType(argument: String, found: ElementType, expected: ElementType)
  case wrongRank(argument: String, found: [Int], expected: Int)
  /// The extent of an axis is not the type's, or not the one that an earlier input gave the same dimension.
  case wrongExtent(argument: String, axis: Int, dimension: String, found: Int, expected: Int)
  /// Entry `position` of offsets must be `expected` (the first and the last entry) or at least that (elsewhere).
  case badOffsets(argument: String, position: Int, found: Int64, expected: Int64)
  /// The target count of sequence `position` is outside 0...`expected`.
  case badTargets(argument: String, position: Int, found: Int64, expected: Int64)
  /// The id at `position` is outside 0..<`expected`.
  case idOutOfRange(argument: String, position: Int, found: Int64, expected: Int64)
  /// Sequence `position` of offsets has more than `expected` rows.
  case sequenceTooLong(argument: String, position: Int, found: Int, expected: Int)
  case badWeight(name: String, reason: String)
  /// The function itself is not valid: what the verifier would have said.
  case invalidFunction(operation: String, reason: String)
}

extension InterpreterError: CustomStringConvertible {
  /// One sentence that names the input, weight or operation, and says what was found and what was expected.
  public var description: String {
    switch self {
    case .unknownFunction(let name, let known):
      "there is no function @\(name); the module has \(known.map { "@" + $0 }.joined(separator: ", "))"
    case .missingInput(let name): "input \(name) is missing"
    case .unexpectedInput(let name, let expected):
      "input \(name) is not an argument; the arguments are \(expected.joined(separator: ", "))"
    case .wrongElementType(let argument, let found, let expected):
      "\(argument): expected elements of type \(expected.rawValue), found \(found.rawValue)"
    case .wrongRank(let argument, let found, let expected):
      "\(argument): expected \(expected) dimensions, found shape \(found)"
    case .wrongExtent(let argument, let axis, let dimension, let found, let expected):
      "\(argument): axis \(axis) (\(dimension)) must have extent \(expected), found \(found)"
    case .badOffsets(let argument, let position, let found, let expected):
      "\(argument): entry \(position) is \(found), expected \(expected) (offsets begin at 0, never decrease and end at the number of rows)"
    case .badTargets(let argument, let position, let found, let expected):
      "\(argument): sequence \(position) has \(found) targets, expected 0...\(expected)"
    case .idOutOfRange(let argument, let position, let found, let expected):
      "\(argument): id \(found) at position \(position) is outside 0..<\(expected)"
    case .sequenceTooLong(let argument, let position, let found, let expected):
      "\(argument): sequence \(position) has \(found) rows, the model takes at most \(expected)"
    case .badWeight(let name, let reason): "weight \"\(name)\": \(reason)"
    case .invalidFunction(let operation, let reason): "\(operation): \(reason)"
    }
  }
}
