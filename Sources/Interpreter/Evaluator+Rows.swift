import TensorIR

// Operations that look rows up, select them or move them.
extension Evaluator {
  func gather(_ payload: Gather, _ operands: [ValueID]) throws(InterpreterError) -> Tensor<Number> {
    let entries = function[operands[0]].type.tensor?.shape[0].extent ?? 0
    var rows: [Int] = []
    for (position, id) in try integers(operands[1]).elements.enumerated() {
      if let row = Int(exactly: id), (0..<entries).contains(row) {
        rows.append(row)
        continue
      }
      switch payload.outOfRange {
      case .fallback(let row): rows.append(row)
      case .modulo: rows.append(Int(Gather.hashed(id, rows: max(entries, 1))))
      case .error:
        throw .idOutOfRange(argument: name(operands[1]), position: position, found: id, expected: Int64(entries))
      }
    }
    switch (try self.rows(of: operands[0], rows), payload.rows) {
    case (.numbers(let numbers), nil): return numbers
    case (.integers(let coded), .some(let format)):
      return decodedRows(format, width: payload.width, coded, Array(0..<rows.count))
    default: throw .invalidFunction(operation: name(operands[0]), reason: "is not a table of such rows")
    }
  }

  func positions(_ payload: Positions, _ operands: [ValueID]) throws(InterpreterError) -> Tensor<Int64> {
    let batch = try sequences(operands[0], targets: operands.count == 2 ? operands[1] : nil)
    let expression = payload.expression
    var elements: [Int64] = []
    for sequence in 0..<batch.count {
      for position in 0..<batch.length(sequence) {
        elements.append(Int64(batch.evaluate(expression, sequence: sequence, position: position)))
      }
    }
    return Tensor(shape: [elements.count], elements: elements)
  }

  func zeroRows(_ payload: ZeroRows, _ operands: [ValueID]) throws(InterpreterError) -> Tensor<Number> {
    var x = try numbers(operands[0])
    for (row, id) in try integers(operands[1]).elements.enumerated() where id == Int64(payload.id) {
      for index in row * x.width..<(row + 1) * x.width { x.elements[index] = 0 }
    }
    return x
  }

  func selectOffsets(_ payload: SelectOffsets, _ operands: [ValueID]) throws(InterpreterError) -> [Int] {
    try sequences(operands[0], targets: operands.count == 2 ? operands[1] : nil).selectedOffsets(payload.selection)
  }

  func selectRows(_ payload: SelectRows, _ operands: [ValueID]) throws(InterpreterError) -> RuntimeValue<Number> {
    let kept = try keptRows(
      payload.selection, offsets: operands[1], selected: operands[2], targets: operands.count == 4 ? operands[3] : nil)
    switch try value(operands[0]) {
    case .numbers(let tensor): return .numbers(tensor.rows(kept))
    case .integers(let tensor): return .integers(tensor.rows(kept))
    case .offsets: throw .invalidFunction(operation: name(operands[0]), reason: "is not a tensor")
    }
  }

  func restoreRows(_ payload: RestoreRows, _ operands: [ValueID]) throws(InterpreterError) -> Tensor<Number> {
    let inner = try numbers(operands[0])
    var outer = try numbers(operands[1])
    let kept = try keptRows(
      payload.selection, offsets: operands[2], selected: operands[3], targets: operands.count == 5 ? operands[4] : nil)
    for (innerRow, outerRow) in kept.enumerated() {
      outer.elements.replaceSubrange(
        outerRow * outer.width..<(outerRow + 1) * outer.width, with: inner.row(innerRow))
    }
    return outer
  }

  /// The rows of the batch that a selection keeps, in order. Throws where the selected offsets are not the selection's.
  private func keptRows(
    _ selection: RowSelection, offsets: ValueID, selected: ValueID, targets: ValueID?
  ) throws(InterpreterError) -> [Int] {
    let batch = try sequences(offsets, targets: targets)
    let positions = try keptPositions(selection, batch, selected: selected)
    return positions.enumerated().flatMap { sequence, positions in positions.map { batch.start(sequence) + $0 } }
  }

  /// The positions that a selection keeps of each sequence, in order. Throws where the selected offsets are not the
  /// selection's.
  func keptPositions(
    _ selection: RowSelection, _ batch: Sequences, selected: ValueID
  ) throws(InterpreterError) -> [[Int]] {
    for (position, (found, expected)) in zip(try self.offsets(selected), batch.selectedOffsets(selection)).enumerated()
    where found != expected {
      throw .badOffsets(
        argument: name(selected), position: position, found: Int64(found), expected: Int64(expected))
    }
    return (0..<batch.count).map { sequence in
      let dropped = batch.dropped(selection, sequence: sequence)
      return (0..<batch.length(sequence)).filter { !dropped.contains($0) }
    }
  }

  func lengths(_ offsets: ValueID) throws(InterpreterError) -> Tensor<Int64> {
    let batch = try sequences(offsets, targets: nil)
    return Tensor(shape: [batch.count], elements: (0..<batch.count).map { Int64(batch.length($0)) })
  }

  func lastRows(_ operands: [ValueID]) throws(InterpreterError) -> RuntimeValue<Number> {
    let batch = try sequences(operands[1], targets: nil)
    let rows = (0..<batch.count).map { batch.length($0) == 0 ? nil : batch.offsets[$0 + 1] - 1 }
    switch try value(operands[0]) {
    case .numbers(let x): return .numbers(x.rows(rows, missing: 0))
    case .integers(let x): return .integers(x.rows(rows, missing: 0))
    case .offsets: throw .invalidFunction(operation: name(operands[0]), reason: "is not a tensor")
    }
  }

  func replaceTargets(_ operands: [ValueID]) throws(InterpreterError) -> Tensor<Number> {
    var x = try numbers(operands[0])
    let row = try numbers(operands[1]).elements
    let batch = try sequences(operands[2], targets: operands[3])
    for sequence in 0..<batch.count {
      let end = batch.offsets[sequence + 1]
      for target in end - batch.targets[sequence]..<end {
        x.elements.replaceSubrange(target * x.width..<(target + 1) * x.width, with: row)
      }
    }
    return x
  }

  func pickRows(_ payload: PickRows, _ operands: [ValueID]) throws(InterpreterError) -> Tensor<Number> {
    let x = try numbers(operands[0])
    let batch = try sequences(operands[1], targets: nil)
    let others = operands.count == 3 ? try sequences(operands[2], targets: nil) : nil
    let elements = (0..<batch.count).flatMap { sequence in
      let isThere =
        payload.row < batch.length(sequence) && (others.map { $0.length(sequence) >= payload.minimum } ?? true)
      return isThere ? x.row(batch.start(sequence) + payload.row) : ArraySlice(repeating: 0, count: x.width)
    }
    return Tensor(shape: [batch.count, x.width], elements: elements)
  }

  func nextRows(_ operands: [ValueID]) throws(InterpreterError) -> Tensor<Int64> {
    let x = try integers(operands[0])
    let last = try integers(operands[1])
    let batch = try sequences(operands[2], targets: nil)
    var next = x
    for sequence in 0..<batch.count {
      for row in batch.offsets[sequence]..<batch.offsets[sequence + 1] {
        next.elements[row] = row + 1 < batch.offsets[sequence + 1] ? x.elements[row + 1] : last.elements[sequence]
      }
    }
    return next
  }
}

extension Tensor {
  func rows(_ rows: [Int]) -> Tensor {
    Tensor(shape: [rows.count] + shape.dropFirst(), elements: rows.flatMap { row($0) })
  }

  /// The rows asked for, with `missing` everywhere in those that there are not.
  fileprivate func rows(_ rows: [Int?], missing: Element) -> Tensor {
    let none = ArraySlice(repeating: missing, count: width)
    return Tensor(
      shape: [rows.count] + shape.dropFirst(), elements: rows.flatMap { $0.map { row($0) } ?? none })
  }
}
