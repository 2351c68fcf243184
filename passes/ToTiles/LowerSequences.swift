import TensorIR
import TileIR

// What depends on a row's place in its sequence.
extension TileLowering {
  mutating func lowerSelectOffsets(_ operation: Operation) throws(LoweringError) {
    guard case .selectOffsets(let payload) = operation.payload,
      case .offsets(_, let rows) = function[operation.operands[0]].type
    else { return }
    let into: BufferID
    _ = try newMemory(for: operation.results[0])
    into = try buffer(of: operation.results[0])
    program.setup.append(
      .selectOffsets(
        payload.selection, offsets: try buffer(of: operation.operands[0]),
        targets: operation.operands.count > 1 ? try buffer(of: operation.operands[1]) : nil, into: into,
        defines: payload.into))
    program.derivedDimensions.append(DerivedDimension(name: payload.into, atMost: rows))
  }

  /// In the kernel at hand, whose domain is the operation's.
  mutating func lowerSequenceOperation(_ operation: Operation) throws(LoweringError) {
    let operands = operation.operands
    let result = operation.results[0]
    switch operation.payload {
    case .positions(let positions):
      let indices = kernel.addIndexVector("position")
      kernel.body.append(.indices(indices, .expression(positions.expression)))
      kernel.body.append(.storeIndices(into: try buffer(of: result), indices))
    case .nextRows:
      kernel.body.append(
        .nextIntegers(
          into: try buffer(of: result), from: try buffer(of: operands[0]), last: try buffer(of: operands[1])))
    case .selectRows(let select):
      let indices = kernel.addIndexVector("kept")
      let targets = operands.count > 3 ? try buffer(of: operands[3]) : nil
      kernel.body.append(
        .indices(
          indices, .beforeSelection(select.selection, offsets: try buffer(of: operands[1]), targets: targets)))
      try gatherRows(of: operands[0], into: result, indices, keepMissing: false)
    case .restoreRows(let restore):
      let indices = kernel.addIndexVector("inner")
      kernel.body.append(.map(into: slice(of: try place(of: result)), .tile(slice(of: try place(of: operands[1])))))
      kernel.body.append(
        .indices(indices, .afterSelection(restore.selection, selected: try buffer(of: operands[3]))))
      try gatherRows(of: operands[0], into: result, indices, keepMissing: true)
    default: throw LoweringError(message: "\(operation.payload.mnemonic) does not depend on places in sequences")
    }
  }

  private mutating func gatherRows(
    of source: ValueID, into result: ValueID, _ indices: IndexVectorID, keepMissing: Bool
  ) throws(LoweringError) {
    guard case .buffer(let from, let first, _) = try place(of: source) else {
      throw LoweringError(message: "%\(function[source].name) does not lie in memory")
    }
    if program[from].element == .i64 {
      kernel.body.append(.gatherIntegers(into: try buffer(of: result), from: from, indices: indices))
    } else {
      let into = slice(of: try place(of: result))
      kernel.body.append(.gather(into: into, from: from, first: first, indices: indices, keepMissing: keepMissing))
    }
  }
}
