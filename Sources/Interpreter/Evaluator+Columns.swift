import TensorIR

// Operations that treat every row alike: products, norms, elementwise functions, columns.
extension Evaluator {
  func elementwise(
    _ operands: [ValueID], _ apply: (Number) -> Number
  ) throws(InterpreterError) -> [RuntimeValue<Number>] {
    let x = try numbers(operands[0])
    return [.numbers(Tensor(shape: x.shape, elements: x.elements.map(apply)))]
  }

  func elementwise(
    _ operands: [ValueID], _ apply: (Number, Number) -> Number
  ) throws(InterpreterError) -> [RuntimeValue<Number>] {
    let x = try numbers(operands[0])
    let y = try numbers(operands[1])
    return [.numbers(Tensor(shape: x.shape, elements: zip(x.elements, y.elements).map(apply)))]
  }

  /// `sum over i of x[r, i] w[i, o]`, then the bias is added.
  func linear(_ payload: Linear, _ operands: [ValueID]) throws(InterpreterError) -> Tensor<Number> {
    let x = try numbers(operands[0])
    let weight = try numbers(operands[1])
    var result = x.product(with: weight, payload.orientation)
    if operands.count == 3 {
      let bias = try numbers(operands[2]).elements
      for index in result.elements.indices { result.elements[index] += bias[index % bias.count] }
    }
    return result
  }

  func layerNorm(_ payload: LayerNorm, _ operands: [ValueID]) throws(InterpreterError) -> Tensor<Number> {
    var x = try numbers(operands[0])
    x.normalize(groups: 1, epsilon: Number(payload.epsilon))
    if operands.count == 3 {
      x.scaleAndShift(try numbers(operands[1]).elements, try numbers(operands[2]).elements)
    }
    return x
  }

  func groupNorm(_ payload: GroupNorm, _ operands: [ValueID]) throws(InterpreterError) -> Tensor<Number> {
    var x = try numbers(operands[0])
    x.normalize(groups: payload.groups, epsilon: Number(payload.epsilon))
    x.scaleAndShift(try numbers(operands[1]).elements, try numbers(operands[2]).elements)
    return x
  }

  func l2Norm(_ payload: L2Norm, _ operands: [ValueID]) throws(InterpreterError) -> Tensor<Number> {
    var x = try numbers(operands[0])
    for row in 0..<x.rows {
      let squares = x.row(row).reduce(Number(0)) { $0 + $1 * $1 }
      let norm = max(squares.squareRoot(), Number(payload.epsilon))
      for index in row * x.width..<(row + 1) * x.width { x.elements[index] /= norm }
    }
    return x
  }

  func split(_ payload: Split, _ operands: [ValueID]) throws(InterpreterError) -> [Tensor<Number>] {
    let x = try numbers(operands[0])
    var first = 0
    return payload.widths.map { width in
      defer { first += width }
      let elements = (0..<x.rows).flatMap { x.row($0).dropFirst(first).prefix(width) }
      return Tensor(shape: [x.rows, width], elements: elements)
    }
  }

  func concatenate(_ operands: [ValueID]) throws(InterpreterError) -> Tensor<Number> {
    var parts: [Tensor<Number>] = []
    for operand in operands { parts.append(try numbers(operand)) }
    let rows = parts[0].rows
    return Tensor(
      shape: [rows, parts.reduce(0) { $0 + $1.width }],
      elements: (0..<rows).flatMap { row in parts.flatMap { $0.row(row) } })
  }
}

extension Tensor where Element: Arithmetic {
  /// `(x - mean) / sqrt(variance + epsilon)` over each of `groups` slices of a row; the variance is the biased one.
  fileprivate mutating func normalize(groups: Int, epsilon: Element) {
    let size = width / groups
    for slice in 0..<rows * groups {
      let range = slice * size..<(slice + 1) * size
      let mean = elements[range].reduce(0, +) / Element(size)
      let variance = elements[range].reduce(Element(0)) { $0 + ($1 - mean) * ($1 - mean) } / Element(size)
      let deviation = (variance + epsilon).squareRoot()
      for index in range { elements[index] = (elements[index] - mean) / deviation }
    }
  }

  /// `x * weight + bias`, with one number a column or one for each of as many equal slices of a row.
  fileprivate mutating func scaleAndShift(_ weight: [Element], _ bias: [Element]) {
    guard !weight.isEmpty else { return }
    let size = width / weight.count
    for index in elements.indices {
      let group = index % width / size
      elements[index] = elements[index] * weight[group] + bias[group]
    }
  }
}
