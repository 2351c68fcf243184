import TensorIR

extension Evaluator {
  /// Scores and ids [n, k] of the best items for each query.
  func topK(_ payload: TopK, _ operands: [ValueID]) throws(InterpreterError) -> [RuntimeValue<Number>] {
    let queries = try numbers(operands[0])
    let count = function[operands[1]].type.tensor?.shape[0].extent ?? 0
    let items: Tensor<Number>
    if let format = payload.rows {
      items = decodedRows(format, width: queries.width, try integers(operands[1]), Array(0..<count))
    } else {
      items = try numbers(operands[1])
    }
    var seen: (ids: [Int64], groups: [Int])?
    if operands.count == 4 { seen = (try integers(operands[2]).elements, try offsets(operands[3])) }
    var scores: [Number] = []
    var ids: [Int64] = []
    for row in 0..<queries.rows {
      let query = Tensor(shape: [1, queries.width], elements: Array(queries.row(row)))
      var own: Set<Int64> = []
      if let seen { own = Set(seen.ids[seen.groups[row]..<seen.groups[row + 1]].map(payload.item)) }
      let best = query.product(with: items, .outIn).elements.enumerated()
        .map { (score: $1, id: Int64(payload.firstID + $0)) }
        .filter { !own.contains($0.id) }.sorted(by: TopK.isBefore).prefix(payload.count)
      let missing = payload.count - best.count
      scores += best.map(\.score) + Array(repeating: -.infinity, count: missing)
      ids += best.map(\.id) + Array(repeating: -1, count: missing)
    }
    let shape = [queries.rows, payload.count]
    return [
      .numbers(Tensor(shape: shape, elements: scores)), .integers(Tensor(shape: shape, elements: ids)),
    ]
  }
}
