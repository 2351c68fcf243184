import TensorIR

/// Computes only the rows that can still reach an output: walks backward from the results, through selections, masks and
/// truncations, and rewrites every value to hold the rows that something looks at.
///
/// Exact: the rows that are left are computed as before, in the same order. Rows that nobody needs are not looked up either, so
/// bad ids among them may go unnoticed, as with `dce`.
public let pruneDemand = ModulePass(
  name: "prune-demand", summary: "compute only the rows that can still reach an output",
  options: NoOptions.self, exactness: .exact
) { (module, _, context) in
  for index in module.functions.indices {
    let name = module.functions[index].name
    do throws(PassError) {
      if let note = try prune(&module, index) { context.note(note) }
    } catch {
      context.note("@\(name) left as it is: \(error.message)")
    }
  }
}

/// Rewrites the function of this index and says what was done; nil where it has nothing to prune. Throws where it is left alone.
private func prune(_ module: inout Module, _ index: Int) throws(PassError) -> String? {
  let layers = module.functions[index].body.filter { module.functions[index][$0].isAttention }
  let spaces = try RowSpaces(module.functions[index])
  var demands = DemandAnalysis(module.functions[index], spaces)
  guard demands.isNarrower else {
    return layers.isEmpty ? nil : "every row reaches an output"
  }
  var pruned = module
  pruned.functions[index].dissolveRegions()
  let cut = ColumnCut(pruned.functions[index]) { [demands] in demands[$0] }
  if cut.cut(&pruned, index) > 0 {
    demands = DemandAnalysis(pruned.functions[index], spaces)
  }
  var pruner = try RowPruner(pruned.functions[index], spaces, demands)
  try pruner.rewrite()
  pruned.functions[index] = pruner.function
  module = pruned
  let narrower = layers.filter { demands.isNarrower($0) }
  guard let last = layers.last, narrower.contains(last) else {
    return "\(narrower.count) of \(layers.count) layers on fewer rows"
  }
  return "\(narrower.count) of \(layers.count) layers on fewer rows, the last for \(demands.queries(of: last).phrase)"
}

extension RowDemand {
  /// In words, after "for".
  fileprivate var phrase: String {
    switch self {
    case .none: "no row"
    case .all: "all rows"
    case .ends(0, 0): "targets only"
    case .ends(0, 1): "the last row"
    case .ends(0, let latest): "the latest \(latest) rows"
    case .ends(let first, let latest): "the first \(first) and the latest \(latest) rows"
    }
  }
}
