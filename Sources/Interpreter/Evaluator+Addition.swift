import TensorIR

// Operations that add rows to sequences, and take them away again.
extension Evaluator {
  func extendOffsets(_ payload: ExtendOffsets, _ operands: [ValueID]) throws(InterpreterError) -> [Int] {
    try batch(payload.addition, operands[0], targets: operands.count == 2 ? operands[1] : nil)
      .extendedOffsets(payload.addition)
  }

  func extendRows(_ payload: ExtendRows, _ operands: [ValueID]) throws(InterpreterError) -> RuntimeValue<Number> {
    let places = payload.places(among: operands.count)
    let batch = try batch(payload.addition, operands[places.offsets], targets: places.targets.map { operands[$0] })
    let extended = try extendedBatch(payload.addition, batch, extended: operands[places.extended])
    let added = operands[places.added]
    // Of another batch, rows begin where its own sequences do.
    let starts =
      payload.addition == .appended
      ? batch.targets.reduce(into: [0]) { $0.append($0[$0.count - 1] + $1) } : batch.offsets
    switch try value(operands[places.x]) {
    case .integers(let x):
      let other = added.isEmpty ? nil : try integers(added[0])
      let elements = joined(payload.addition, batch, extended) { row in
        x.elements[row]
      } added: { sequence, row in
        other.map { $0.elements[starts[sequence] + row] } ?? Int64(payload.value)
      }
      return .integers(Tensor(shape: [elements.count], elements: elements))
    case .numbers(let x):
      let others = try added.map { (id) throws(InterpreterError) in try numbers(id) }
      let rows = joined(payload.addition, batch, extended) { row in
        x.row(row)
      } added: { sequence, row in
        guard payload.addition.readsTargets else { return head(row, of: others, width: x.width, sequence) }
        return others[0].row(starts[sequence] + row)
      }
      return .numbers(Tensor(shape: [rows.count, x.width], elements: rows.flatMap { $0 }))
    case .offsets: throw .invalidFunction(operation: name(operands[places.x]), reason: "is not a tensor")
    }
  }

  /// Row number `row` before a sequence, of those that several tensors bring side by side.
  private func head(
    _ row: Int, of tensors: [Tensor<Number>], width: Int, _ sequence: Int
  ) -> ArraySlice<Number> {
    var first = row * width
    for tensor in tensors {
      if first < tensor.width { return tensor.row(sequence).dropFirst(first).prefix(width) }
      first -= tensor.width
    }
    return []
  }

  /// The rows of the extended batch in their order: those that were there, and the added ones, by their number in a
  /// sequence.
  private func joined<Row>(
    _ addition: RowAddition, _ batch: Sequences, _ extended: Sequences, original: (Int) -> Row,
    added: (_ sequence: Int, _ row: Int) -> Row
  ) -> [Row] {
    var rows: [Row] = []
    for sequence in 0..<extended.count {
      for position in 0..<extended.length(sequence) {
        let own = extended.evaluate(addition.original, sequence: sequence, position: position)
        let new = extended.evaluate(addition.added, sequence: sequence, position: position)
        rows.append(own >= 0 ? original(batch.start(sequence) + own) : added(sequence, new))
      }
    }
    return rows
  }

  func originalRows(_ payload: OriginalRows, _ operands: [ValueID]) throws(InterpreterError) -> RuntimeValue<Number> {
    let batch = try batch(payload.addition, operands[1], targets: operands.count == 4 ? operands[3] : nil)
    let extended = try extendedBatch(payload.addition, batch, extended: operands[2])
    var rows: [Int] = []
    for sequence in 0..<extended.count {
      for position in 0..<extended.length(sequence)
      where extended.evaluate(payload.addition.original, sequence: sequence, position: position) >= 0 {
        rows.append(extended.start(sequence) + position)
      }
    }
    switch try value(operands[0]) {
    case .numbers(let tensor): return .numbers(tensor.rows(rows))
    case .integers(let tensor): return .integers(tensor.rows(rows))
    case .offsets: throw .invalidFunction(operation: name(operands[0]), reason: "is not a tensor")
    }
  }

  /// The batch before an addition. Appended rows, which its targets count, are none of its own.
  private func batch(
    _ addition: RowAddition, _ id: ValueID, targets: ValueID?
  ) throws(InterpreterError) -> Sequences {
    guard addition == .appended, let targets else { return try sequences(id, targets: targets) }
    return Sequences(offsets: try offsets(id), targets: try integers(targets).elements.map { Int($0) })
  }

  /// The batch after an addition. Throws where the extended offsets are not the addition's.
  private func extendedBatch(
    _ addition: RowAddition, _ batch: Sequences, extended id: ValueID
  ) throws(InterpreterError) -> Sequences {
    let extended = batch.extendedOffsets(addition)
    for (position, (found, expected)) in zip(try offsets(id), extended).enumerated() where found != expected {
      throw .badOffsets(argument: name(id), position: position, found: Int64(found), expected: Int64(expected))
    }
    return Sequences(offsets: extended, targets: batch.targets)
  }
}
