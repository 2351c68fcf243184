import TensorIR

// Operations that make integers of integers, or decide by their bits.
extension Evaluator {
  func integers(
    _ operands: [ValueID], _ apply: (Int64) -> Int64
  ) throws(InterpreterError) -> Tensor<Int64> {
    let x = try integers(operands[0])
    return Tensor(shape: x.shape, elements: x.elements.map(apply))
  }

  func integers(
    _ operands: [ValueID], _ apply: (Int64, Int64) -> Int64
  ) throws(InterpreterError) -> Tensor<Int64> {
    let x = try integers(operands[0])
    let y = try integers(operands[1])
    return Tensor(shape: x.shape, elements: zip(x.elements, y.elements).map(apply))
  }

  func bucketTimes(_ payload: BucketTimes, _ operands: [ValueID]) throws(InterpreterError) -> Tensor<Int64> {
    var times = try integers(operands[0])
    let queries = try integers(operands[1]).elements
    let batch = try sequences(operands[2], targets: nil)
    for sequence in 0..<batch.count {
      for row in batch.offsets[sequence]..<batch.offsets[sequence + 1] {
        times.elements[row] = Int64(payload.bucket(time: times.elements[row], query: queries[sequence]))
      }
    }
    return times
  }

  func embedBits(_ payload: EmbedBits, _ operands: [ValueID]) throws(InterpreterError) -> Tensor<Number> {
    let table = try numbers(operands[0])
    let values = try integers(operands[1]).elements
    let none = ArraySlice(repeating: Number(0), count: table.width)
    let elements: [Number] = values.flatMap { value -> [Number] in
      payload.masks.indices.flatMap { value & Int64(payload.masks[$0]) > 0 ? table.row($0) : none }
    }
    return Tensor(shape: [values.count, payload.masks.count * table.width], elements: elements)
  }
}
