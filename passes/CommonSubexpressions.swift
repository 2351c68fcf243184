import TensorIR

/// Computes once what is computed several times: operations that do the same to the same operands become one.
///
/// Exact: every operation is a function of its operands. Sums and products of two count as the same in either order,
/// which IEEE arithmetic guarantees. Selections of rows are left alone: each defines a dimension of its own.
public let eliminateCommonSubexpressions = ModulePass(
  name: "cse", summary: "compute once what is computed several times",
  options: NoOptions.self, exactness: .exact
) { (module, _, context) throws(PassError) in
  var removed = 0
  for index in module.functions.indices { removed += merge(in: &module.functions[index]) }
  context.note(removed, "operation", "merged with an earlier one")
}

private struct OperationKey: Hashable {
  /// Attributes are compared as text: as numbers, 0 and -0 would be equal, and they are not alike in a product.
  var payload: String
  var operands: [ValueID]
  /// What two regions compute stays in their tiles; as one it would cross memory.
  var region: RegionID?
}

/// Gives the number of operations removed.
private func merge(in function: inout Function) -> Int {
  var rewriter = FunctionRewriter(function)
  var first: [OperationKey: OperationID] = [:]
  var removed = 0
  rewriter.visit { id, function in
    let operation = function[id]
    var operands = operation.operands
    switch operation.payload {
    case .add, .multiply: operands.sort { $0.index < $1.index }
    default: break
    }
    let key = OperationKey(payload: operation.payload.text, operands: operands, region: operation.region)
    if let earlier = first[key] {
      removed += 1
      return function[earlier].results
    }
    first[key] = id
    return nil
  }
  function = rewriter.function
  return removed
}
