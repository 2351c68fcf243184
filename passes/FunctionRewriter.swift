import TensorIR

/// Walks a function forward once and lets earlier values stand in for results, with every later use following.
struct FunctionRewriter {
  private(set) var function: Function
  private var substitutes: [ValueID: ValueID] = [:]

  init(_ function: Function) { self.function = function }

  /// Calls `replace` for every operation in order, its operands up to date. Where that gives values, they stand in for
  /// the operation's results, one for each, and the operation leaves the body. It may change the operation in place, and
  /// append others, which then stand before it, in its region.
  mutating func visit(_ replace: (OperationID, inout Function) -> [ValueID]?) {
    var body: [OperationID] = []
    let original = function.body
    for id in original {
      function[id].operands = function[id].operands.map { substitutes[$0] ?? $0 }
      let length = function.body.count
      let values = replace(id, &function)
      for new in function.body[length...] { function[new].region = function[id].region }
      body += function.body[length...]
      if let values {
        for (result, value) in zip(function[id].results, values) { substitutes[result] = value }
      } else {
        body.append(id)
      }
    }
    function.body = body
    for index in function.results.indices {
      let value = function.results[index].value
      function.results[index].value = substitutes[value] ?? value
    }
  }
}
