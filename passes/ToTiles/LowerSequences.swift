import TensorIR
import TileIR

// What depends on a row's place in its sequence, and what gives integers.
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
      var appended: Dimension?
      if extend.addition == .appended,
        case .offsets(_, let rows) = function[try appendedOffsets(operation.operands[1])].type
      {
        appended = rows
      }
      program.derivedDimensions.append(
        DerivedDimension(
          name: extend.into,
          atMost: ExtentBound(extend.addition, rows: rows, sequences: sequences, appended: appended)))
    default: throw LoweringError(message: "\(operation.payload.mnemonic) makes no offsets")
    }
    try checkTargets(ofSequencesOf: operation.results[0], except: operation.operands.dropFirst().first)
  }

  mutating func lowerLengths(_ operation: Operation) throws(LoweringError) {
    _ = try newMemory(for: operation.results[0])
    program.setup.append(
      .lengths(offsets: try buffer(of: operation.operands[0]), into: try buffer(of: operation.results[0])))
  }

  /// The offsets whose lengths are an operation's targets.
  private func appendedOffsets(_ targets: ValueID) throws(LoweringError) -> ValueID {
    guard case .result(let id, _) = function[targets].definition, case .lengths = function[id].payload else {
      throw LoweringError(message: "%\(function[targets].name) counts appended rows, but is not the result of lengths")
    }
    return function[id].operands[0]
  }

  /// In the kernel at hand, whose domain is the operation's.
  mutating func lowerSequenceOperation(_ operation: Operation) throws(LoweringError) {
    let operands = operation.operands
    let result = operation.results[0]
    switch operation.payload {
    case .positions(let positions):
      try storeIndices(.expression(positions.expression), "position", into: result)
    case .bucketTimes(let buckets):
      let source = IndexSource.bucket(
        times: try buffer(of: operands[0]), queries: try buffer(of: operands[1]),
        thresholds: timeTable(buckets.formula, last: buckets.limit))
      try storeIndices(source, "bucket", into: result)
    case .calendarUnits(let units):
      try storeIndices(
        .calendar(try buffer(of: operands[0]), unit: units.unit, count: units.count), "units", into: result)
    case .markBits(let mark):
      var marked = kernel.addIndexVector("marks")
      kernel.body.append(.indices(marked, .loaded(try buffer(of: operands[0]), entries: Int.max)))
      for (least, bits) in zip(mark.thresholds, mark.bits) {
        let next = kernel.addIndexVector("marks")
        kernel.body.append(
          .indices(next, .marked(marked, bits: bits, values: try buffer(of: operands[1]), least: least)))
        marked = next
      }
      kernel.body.append(.storeIndices(into: try buffer(of: result), marked))
    case .replaceTargets:
      let isTarget = kernel.addIndexVector("is_target")
      let row = try weightBuffer(operands[1], .plain)
      kernel.body.append(.indices(isTarget, .expression(ReplaceTargets.isTarget)))
      try map(
        slice(of: try place(of: result)),
        .binary(
          .add, .unlessIndex(isTarget, is: 1, try expression(operands[0])),
          .unlessIndex(isTarget, is: 0, .columnValue(row, first: 0))))
    case .lastRows:
      try gatherOneRow(of: operands[0], "last", .lastRow(offsets: try buffer(of: operands[1])), into: result)
    case .pickRows(let pick):
      let source = IndexSource.pickedRow(
        pick.row, offsets: try buffer(of: operands[1]),
        lengths: operands.count > 2 ? try buffer(of: operands[2]) : nil, minimum: pick.minimum)
      try gatherOneRow(of: operands[0], "picked", source, into: result)
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
    if extend.addition.readsTargets, let other = added.first {
      let indices = kernel.addIndexVector("added")
      var own = offsets
      if extend.addition == .appended, let targets = places.targets {
        own = try buffer(of: try appendedOffsets(operands[targets]))
      }
      kernel.body.append(.indices(indices, .beforeAddition(extend.addition, added: true, offsets: own)))
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

  /// One row of each sequence, the block's rows; zeros where there is none.
  private mutating func gatherOneRow(
    of x: ValueID, _ name: String, _ source: IndexSource, into result: ValueID
  ) throws(LoweringError) {
    let indices = kernel.addIndexVector(name)
    kernel.body.append(.indices(indices, source))
    guard function[x].type.tensor?.rank == 1 else {
      return try gatherRows(of: x, into: result, indices, keepMissing: false)
    }
    kernel.body.append(
      .gatherIntegers(
        into: try buffer(of: result), from: try buffer(of: x), indices: indices, missing: .number(0)))
  }

  private mutating func storeIndices(
    _ source: IndexSource, _ name: String, into result: ValueID
  ) throws(LoweringError) {
    let indices = kernel.addIndexVector(name)
    kernel.body.append(.indices(indices, source))
    kernel.body.append(.storeIndices(into: try buffer(of: result), indices))
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
