import TensorIR

extension Function {
  /// The most rows that a sequence may have, where a position bias bounds it; nil where nothing does.
  public var longestSequence: Int? {
    var bound: Int?
    for id in body {
      guard case .attention(let attention) = self[id].payload, attention.bias != .none else { continue }
      // n positions take 2n - 1 weights.
      let operand = self[id].operands[attention.hasTargets ? 5 : 4]
      guard let weights = self[operand].type.tensor?.shape.first?.extent else { continue }
      bound = min(bound ?? .max, (weights + 1) / 2)
    }
    return bound
  }
}
