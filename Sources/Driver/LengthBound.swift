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

  /// Rows of a long sequence: the most that there may be, or else `usual`, or what scores are divided by where that is more:
  /// published models fix it at their longest sequence.
  func longSequence(usual: Int) -> Int {
    if let longestSequence { return longestSequence }
    return body.reduce(usual) { longest, id in
      guard case .attention(let attention) = self[id].payload, case .fixed(let divisor) = attention.divisor,
        let rows = Int(exactly: divisor), rows <= 1 << 16
      else { return longest }
      return max(longest, rows)
    }
  }

  /// Whether some attention tells targets apart.
  var readsTargets: Bool {
    body.contains { if case .attention(let attention) = self[$0].payload { attention.hasTargets } else { false } }
  }
}
