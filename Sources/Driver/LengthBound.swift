import TensorIR

extension Function {
  /// The most rows that a sequence may have, where a position bias bounds it; nil where nothing does.
  public var longestSequence: Int? {
    var bound: Int?
    for id in body {
      guard case .attention(let attention) = self[id].payload, attention.bias != .none else { continue }
      // n positions take 2n - 1 weights.
      let operand = self[id].operands[attention.firstBiasOperand]
      guard let weights = self[operand].type.tensor?.shape.first?.extent else { continue }
      bound = min(bound ?? .max, (weights + 1) / 2)
    }
    return bound
  }

  /// Rows of a long sequence: the most that there may be, or else what scores are divided by, which published models fix at
  /// their longest sequence; nil where neither tells.
  var longSequence: Int? {
    if let longestSequence { return longestSequence }
    return body.compactMap { id -> Int? in
      guard case .attention(let attention) = self[id].payload, case .fixed(let divisor) = attention.divisor else {
        return nil
      }
      return Int(exactly: divisor).flatMap { (2...1 << 16).contains($0) ? $0 : nil }
    }.max()
  }

  /// Whether some attention tells targets apart.
  var readsTargets: Bool {
    body.contains { if case .attention(let attention) = self[$0].payload { attention.hasTargets } else { false } }
  }
}
