extension Operation {
  /// The offsets that the operation counts targets by, and the operand that counts them, where it has one; nil for what
  /// never asks which rows are targets.
  public var batch: (offsets: ValueID, targets: ValueID?)? {
    func batch(_ offsets: Int, _ targets: Int?) -> (offsets: ValueID, targets: ValueID?) {
      (operands[offsets], targets.flatMap { $0 < operands.count ? operands[$0] : nil })
    }
    switch payload {
    case .attention(let attention): return batch(3, attention.hasTargets ? 4 : nil)
    case .extendOffsets, .positions, .selectOffsets: return batch(0, 1)
    case .extendRows(let extend):
      let places = extend.places(among: operands.count)
      return batch(places.offsets, places.targets)
    case .originalRows, .selectRows: return batch(1, 3)
    case .replaceTargets: return batch(2, 3)
    case .restoreRows: return batch(2, 4)
    default: return nil
    }
  }
}
