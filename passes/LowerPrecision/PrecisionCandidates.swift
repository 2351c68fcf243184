import TensorIR

/// The operations of a function that fewer bits can compute, in their order.
public struct PrecisionCandidates: Sendable {
  /// What an operation is.
  public enum Kind: Hashable, Sendable {
    /// `linear` of f32 with a weight.
    case product
    /// `attention` of f32.
    case attention
    /// `gather` of an f32 table by ids; not by positions, whose tables are small.
    case table
    /// `top_k` of f32 queries and items.
    case items
  }

  /// One operation.
  public struct Candidate: Hashable, Sendable {
    /// Where it is in the function.
    public var operation: OperationID
    /// What it is.
    public var kind: Kind
    /// The name of its result.
    public var name: String
  }

  /// In the order of the body.
  public let all: [Candidate]

  /// The candidates of a function of a verified module.
  public init(_ function: Function) {
    all = function.body.compactMap { id in
      function.precisionKind(of: id).map {
        Candidate(operation: id, kind: $0, name: function[function[id].results[0]].name)
      }
    }
  }
}

extension Function {
  fileprivate func precisionKind(of id: OperationID) -> PrecisionCandidates.Kind? {
    let operation = self[id]
    func isFloat(_ operand: Int) -> Bool { self[operation.operands[operand]].type.tensor?.element == .f32 }
    func isWeight(_ operand: Int) -> Bool {
      if case .weight = self[operation.operands[operand]].definition { true } else { false }
    }
    switch operation.payload {
    case .linear: return isFloat(0) && isWeight(1) ? .product : nil
    case .attention: return isFloat(0) ? .attention : nil
    case .gather: return isFloat(0) && isWeight(0) && !isPositions(operation.operands[1]) ? .table : nil
    case .topK: return isFloat(0) && isFloat(1) && isWeight(1) ? .items : nil
    default: return nil
    }
  }

  /// Whether ids are places in their sequences.
  private func isPositions(_ ids: ValueID) -> Bool {
    guard case .result(let id, _) = self[ids].definition else { return false }
    switch self[id].payload {
    case .bucketTimes, .calendarUnits, .positions: return true
    case .selectRows: return isPositions(self[id].operands[0])
    default: return false
    }
  }
}
