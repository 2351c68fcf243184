import Artifact
import CUltra

extension EntrySignature {
  /// A sentence for a call that returned `status`: which input, which place, what was found and what was expected.
  func error(status: Int32, _ error: ultra_error) -> RuntimeError {
    RuntimeError(.refusedCall(status: status), sentence(status: status, error))
  }

  private func sentence(status: Int32, _ error: ultra_error) -> String {
    let input = name(entry.inputs, error.argument)
    let place = "\(input)[\(error.position)]"
    guard status > 0, let status = KnownStatus(rawValue: UInt32(status)) else {
      return "the call of \"\(entry.name)\" returned the unknown status \(status)"
    }
    switch status {
    case .badCall:
      return "the call of \"\(entry.name)\" is not as ABI version \(ULTRA_ABI_VERSION) says"
    case .badArgumentCount:
      return "\"\(entry.name)\" was given \(error.found) arguments, expected \(error.expected)"
    case .badDimension:
      let name = entry.dimensions.indices.contains(Int(error.argument)) ? entry.dimensions[Int(error.argument)] : "?"
      return "\(name): \(error.found) is negative or too large"
    case .badInput: return "\(input): \(error.found) elements, expected \(error.expected)"
    case .badOutput:
      return "\(name(entry.outputs, error.argument)): room for \(error.found) elements, \(error.expected) are needed"
    case .badWorkspace:
      return "workspace of \(error.found) bytes, \(error.expected) are needed, at a multiple of "
        + "\(ULTRA_WORKSPACE_ALIGNMENT)"
    case .badOffsets:
      if error.position == 0 { return "\(place): \(error.found), but offsets begin with \(error.expected)" }
      if error.found < error.expected {
        return
          "\(place): \(error.found), expected at least \(error.expected): offsets do not decrease and end with the "
          + "number of rows"
      }
      return "\(place): \(error.found), but the last offset is the number of rows, \(error.expected)"
    case .badTargets: return "\(place): \(error.found) is outside 0...\(error.expected), the rows of its sequence"
    case .idOutOfRange: return "\(place): \(error.found) is outside 0..<\(error.expected)"
    case .sequenceTooLong:
      return "sequence \(error.position) has \(error.found) rows; the model takes at most \(error.expected)"
    }
  }

  private func name(_ ports: [Manifest.Port], _ index: Int32) -> String {
    ports.indices.contains(Int(index)) ? ports[Int(index)].name : "argument \(index)"
  }
}

/// The statuses of ultra.h, other than success.
private enum KnownStatus {
  case badCall, badArgumentCount, badDimension, badInput, badOutput, badWorkspace, badOffsets, badTargets, idOutOfRange
  case sequenceTooLong

  init?(rawValue: UInt32) {
    switch rawValue {
    case ULTRA_BAD_CALL.rawValue: self = .badCall
    case ULTRA_BAD_ARGUMENT_COUNT.rawValue: self = .badArgumentCount
    case ULTRA_BAD_DIMENSION.rawValue: self = .badDimension
    case ULTRA_BAD_INPUT.rawValue: self = .badInput
    case ULTRA_BAD_OUTPUT.rawValue: self = .badOutput
    case ULTRA_BAD_WORKSPACE.rawValue: self = .badWorkspace
    case ULTRA_BAD_OFFSETS.rawValue: self = .badOffsets
    case ULTRA_BAD_TARGETS.rawValue: self = .badTargets
    case ULTRA_ID_OUT_OF_RANGE.rawValue: self = .idOutOfRange
    case ULTRA_SEQUENCE_TOO_LONG.rawValue: self = .sequenceTooLong
    default: return nil
    }
  }
}
