import TensorIR

/// Removes operations whose results nobody reads, and weights that no operation is left to read.
///
/// Exact: what stays computes what it did. A lookup that is removed no longer refuses ids outside its table.
public let eliminateDeadCode = ModulePass(
  name: "dce", summary: "remove operations and weights whose values are not used",
  options: NoOptions.self, exactness: .exact
) { (module, _, context) throws(PassError) in
  var removed = 0
  for index in module.functions.indices { removed += removeDeadOperations(of: &module.functions[index]) }
  context.note(removed, "operation", "removed")
  context.note(module.removeUnreadWeights(), "weight", "removed")
}

/// Backward, since the operands of what is needed are needed. Gives the number of operations removed.
private func removeDeadOperations(of function: inout Function) -> Int {
  var needed = Set(function.results.map(\.value))
  var kept: [OperationID] = []
  for id in function.body.reversed() where function[id].results.contains(where: needed.contains) {
    needed.formUnion(function[id].operands)
    kept.append(id)
  }
  let removed = function.body.count - kept.count
  if removed > 0 { function.body = kept.reversed() }
  return removed
}
