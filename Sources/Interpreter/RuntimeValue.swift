import TensorIR

/// A tensor that the interpreter computes with, in row-major order.
struct Tensor<Element: Sendable>: Sendable {
  var shape: [Int]
  var elements: [Element]

  /// Elements of a row: the product of all extents but the first.
  var width: Int { shape.dropFirst().reduce(1, *) }
  var rows: Int { shape.first ?? 1 }

  func row(_ index: Int) -> ArraySlice<Element> { elements[index * width..<(index + 1) * width] }
}

/// What a value is while a function runs.
enum RuntimeValue<Number: Arithmetic>: Sendable {
  case numbers(Tensor<Number>)
  /// Elements of any integer type, or booleans.
  case integers(Tensor<Int64>)
  case offsets([Int])

  /// The tensor as numbers, or as integers where its elements are; codes are numbers.
  init(_ tensor: HostTensor) {
    self =
      tensor.element.isFloatingPoint || tensor.element.isCode
      ? .numbers(Tensor(shape: tensor.shape, elements: tensor.doubles.map { Number($0) }))
      : .integers(Tensor(shape: tensor.shape, elements: tensor.integers))
  }
}

/// A jagged batch as one operation sees it: where each sequence begins, and how many of its rows are targets.
struct Sequences {
  var offsets: [Int]
  /// One number a sequence, in 0...length; zeros where the operation has no targets operand.
  var targets: [Int]

  var count: Int { offsets.count - 1 }
  func start(_ sequence: Int) -> Int { offsets[sequence] }
  func length(_ sequence: Int) -> Int { offsets[sequence + 1] - offsets[sequence] }

  /// Evaluates an expression for the row at `position` of a sequence.
  func evaluate(_ expression: IndexExpression, sequence: Int, position: Int) -> Int {
    expression.evaluate { variable in
      switch variable {
      case .position: position
      case .length: length(sequence)
      case .targets: targets[sequence]
      }
    }
  }

  /// The positions that a selection drops from a sequence.
  func dropped(_ selection: RowSelection, sequence: Int) -> Range<Int> {
    selection.dropped(length: length(sequence), targets: targets[sequence])
  }

  /// The offsets of the batch after an addition.
  func extendedOffsets(_ addition: RowAddition) -> [Int] {
    var extended = [0]
    for sequence in 0..<count {
      extended.append(extended[sequence] + evaluate(addition.extendedLength, sequence: sequence, position: 0))
    }
    return extended
  }

  /// The offsets of the batch after a selection.
  func selectedOffsets(_ selection: RowSelection) -> [Int] {
    var selected = [0]
    for sequence in 0..<count {
      selected.append(selected[sequence] + length(sequence) - dropped(selection, sequence: sequence).count)
    }
    return selected
  }
}
