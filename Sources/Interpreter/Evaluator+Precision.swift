import TensorIR

// Operations on codes and their scales. What decides a code is fp32 arithmetic in both modes.
extension Evaluator {
  func quantizeRows(_ payload: QuantizeRows, _ operands: [ValueID]) throws(InterpreterError) -> [Tensor<Number>] {
    let x = try numbers(operands[0])
    var codes: [Number] = []
    var scales: [Number] = []
    for row in 0..<x.rows {
      let quantized = RowQuantization.quantize(x.row(row).map { Float($0) }, to: payload.element)
      codes += quantized.codes.map { Number($0) }
      scales.append(Number(quantized.scale))
    }
    return [Tensor(shape: x.shape, elements: codes), Tensor(shape: [x.rows], elements: scales)]
  }

  func dequantizeRows(_ operands: [ValueID]) throws(InterpreterError) -> Tensor<Number> {
    var result = try numbers(operands[0])
    let scales = try numbers(operands[1]).elements
    let width = result.width
    for index in result.elements.indices { result.elements[index] *= scales[index / width] }
    return result
  }

  func quantizedLinear(_ payload: QuantizedLinear, _ operands: [ValueID]) throws(InterpreterError) -> Tensor<Number> {
    let codes = try numbers(operands[0])
    let weight = try numbers(operands[2])
    let rowScales = try numbers(operands[1]).elements
    let scales = try numbers(operands[3]).elements
    // Sums of int8 products are exact, as integers are; fp64 holds them.
    var result =
      function[operands[0]].type.tensor?.element == .i8
      ? codes.converted(to: Double.self).product(with: weight.converted(to: Double.self), payload.orientation)
        .converted(to: Number.self)
      : codes.product(with: weight, payload.orientation)
    let width = scales.count
    for index in result.elements.indices {
      result.elements[index] = result.elements[index] * rowScales[index / width] * scales[index % width]
    }
    if operands.count == 5 {
      let bias = try numbers(operands[4])
      let isResidual = bias.shape.count == 2
      for index in result.elements.indices {
        result.elements[index] += bias.elements[isResidual ? index : index % width]
      }
    }
    return result
  }

  /// The rows of a table of bytes, decoded in fp32.
  func decodedRows(
    _ format: TableFormat, width: Int, _ table: Tensor<Int64>, _ rows: [Int]
  ) -> Tensor<Number> {
    let elements = rows.flatMap { row in
      format.decode(table.row(row).map { UInt8(truncatingIfNeeded: $0) }[...], width: width).map { Number($0) }
    }
    return Tensor(shape: [rows.count, width], elements: elements)
  }
}

extension Tensor where Element: Arithmetic {
  /// `sum over i of x[r, i] w[i, o]`, from the first term to the last.
  func product(with weight: Tensor, _ orientation: Linear.Orientation) -> Tensor {
    let input = width
    let output = weight.shape[orientation == .inOut ? 1 : 0]
    let (rowStep, columnStep) = orientation == .inOut ? (output, 1) : (1, input)
    var result = Tensor(shape: [rows, output], elements: [Element](repeating: 0, count: rows * output))
    elements.withUnsafeBufferPointer { x in
      weight.elements.withUnsafeBufferPointer { weight in
        // Where the inner width is 0 there is nothing to point at, and the sums are 0.
        guard let x = x.baseAddress, let weight = weight.baseAddress else { return }
        for index in result.elements.indices {
          let (row, column) = index.quotientAndRemainder(dividingBy: output)
          result.elements[index] = Element.dot(
            x + row * input, weight + column * columnStep, stride: rowStep, count: input)
        }
      }
    }
    return result
  }

  func converted<Other: Arithmetic>(to type: Other.Type) -> Tensor<Other> {
    Tensor<Other>(shape: shape, elements: elements.map { Other($0) })
  }
}
