import TensorIR
import TileIR

// What depends on a row's place in its sequence.
extension TileLowering {
  /// Offsets that follow from others, in the setup.
  mutating func lowerOffsets(_ operation: Operation) throws(LoweringError) {
    let offsets = try buffer(of: operation.operands[0])
    guard case .offsets(let sequences, let rows) = function[operation.operands[0]].type else { return }
    let targets = operation.operands.count > 1 ? try buffer(of: operation.operands[1]) : nil
    _ = try newMemory(for: operation.results[0])
    let into = try buffer(of: operation.results[0])
    switch operation.payload {
    case .selectOffsets(let select):
      program.setup.append(
        .selectOffsets(select.selection, offsets: offsets, targets: targets, into: into, defines: select.into))
      // Targets of several batches have one extent.
      if !program.derivedDimensions.contains(where: { $0.name == select.into }) {
        program.derivedDimensions.append(DerivedDimension(name: select.into, atMost: ExtentBound(rows)))
      }
    case .extendOffsets(let extend):
      program.setup.append(
        .extendOffsets(extend.addition, offsets: offsets, targets: targets, into: into, defines: extend.into))
      program.derivedDimensions.append(
        DerivedDimension(
          name: extend.into, atMost: ExtentBound(extend.addition, rows: rows, sequences: sequences)))
    default: throw LoweringError(message: "\(operation.payload.mnemonic) makes no offsets")
    }
    try checkTargets(ofSequencesOf: operation.results[0], except: operation.operands.dropFirst().first)
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
    case .extendRows(let extend): try lowerExtendRows(extend, operands, into: result)
    case .originalRows(let original):
      let indices = kernel.addIndexVector("extended")
      kernel.body.append(
        .indices(indices, .afterAddition(original.addition, extended: try buffer(of: operands[2]))))
      try gatherRows(of: operands[0], into: result, indices, keepMissing: false)
    default: throw LoweringError(message: "\(operation.payload.mnemonic) does not depend on places in sequences")
    }
  }

  /// The rows that were there, then the added ones where they belong.
  private mutating func lowerExtendRows(
    _ extend: ExtendRows, _ operands: [ValueID], into result: ValueID
  ) throws(LoweringError) {
    let places = extend.places(among: operands.count)
    let offsets = try buffer(of: operands[places.offsets])
    let indices = kernel.addIndexVector("original")
    kernel.body.append(.indices(indices, .beforeAddition(extend.addition, added: false, offsets: offsets)))
    let x = operands[places.x]
    if function[x].type.tensor?.rank == 1 {
      kernel.body.append(
        .gatherIntegers(
          into: try buffer(of: result), from: try buffer(of: x), indices: indices, missing: .number(extend.value)))
    } else {
      try gatherRows(of: x, into: result, indices, keepMissing: false)
    }
    let added = operands[places.added]
    if extend.addition == .interleaved, let other = added.first {
      let indices = kernel.addIndexVector("added")
      kernel.body.append(.indices(indices, .beforeAddition(extend.addition, added: true, offsets: offsets)))
      return try gatherRows(of: other, into: result, indices, keepMissing: true)
    }
    var position = 0
    for operand in added {
      guard case .buffer(let from, let first, let count) = try place(of: operand) else {
        throw LoweringError(message: "%\(function[operand].name) does not lie in memory")
      }
      let into = slice(of: try place(of: result))
      for column in stride(from: first, to: first + count, by: into.count) {
        let indices = kernel.addIndexVector("sequence")
        kernel.body += [
          .indices(indices, .sequence(position: position)),
          .gather(into: into, from: from, first: column, indices: indices, keepMissing: true),
        ]
        position += 1
      }
    }
  }

  private mutating func gatherRows(
    of source: ValueID, into result: ValueID, _ indices: IndexVectorID, keepMissing: Bool
  ) throws(LoweringError) {
    guard case .buffer(let from, let first, _) = try place(of: source) else {
      throw LoweringError(message: "%\(function[source].name) does not lie in memory")
    }
    if program[from].element == .i64 {
      kernel.body.append(
        .gatherIntegers(
          into: try buffer(of: result), from: from, indices: indices, missing: keepMissing ? .kept : .none))
    } else {
      let into = slice(of: try place(of: result))
      kernel.body.append(.gather(into: into, from: from, first: first, indices: indices, keepMissing: keepMissing))
    }
  }
}
