import TensorIR

/// Programs that tell what is lost where `cached-scoring` keeps codes: `forward` with every key and value computed twice, as it is and
/// as the numbers that its codes stand for, and `forward` whose attention reads the latter.
///
/// There every row is read as a kept one, also those that a call brings itself: errors are those of a call whose history is all there is,
/// and of other calls a little more than theirs.
public struct KeptProbe: Sendable {
  /// A key or value, and the results of `rows` that hold it.
  public struct Pair: Sendable {
    /// As results of `prefill` call it.
    public var name: String
    /// The results' names.
    public var results: (full: String, coded: String)
  }

  /// `forward` with the results of the pairs, and no others.
  public let rows: Module
  /// `forward` whose attention reads codes.
  public let outputs: Module
  /// In the order of layers, keys before values.
  public let pairs: [Pair]

  /// Probes a verified module before `cached-scoring` runs on it with these options; nil where it keeps no codes. Throws where the pass
  /// would.
  public init?(_ module: Module, _ options: CachedScoringOptions) throws(PassError) {
    guard options.cache != .same, var forward = module.function(named: "forward") else { return nil }
    forward.dissolveRegions()
    let model = try CachedModel(forward, keep: options.keep, cache: options.cache)
    var (exact, coded) = (
      FunctionCopy(of: forward, named: forward.name, in: module),
      FunctionCopy(of: forward, named: forward.name, in: module)
    )
    for argument in forward.arguments {
      exact.addArgument(argument)
      coded.addArgument(argument)
    }
    var pairs: [Pair] = []
    for id in forward.body {
      let operation = forward[id]
      try exact.append(operation)
      guard operation.isAttention else {
        try coded.append(operation)
        continue
      }
      var exactly: [ValueID: ValueID] = [:]
      for value in operation.operands[1...2] where exactly[value] == nil {
        guard let kept = model.kept.first(where: { $0.value == value && $0.codes != nil }) else { continue }
        let results = ("full \(pairs.count)", "coded \(pairs.count)")
        exact.function.results.append(.init(name: results.0, value: try exact.value(of: kept.source)))
        exact.function.results.append(.init(name: results.1, value: try decoded(kept, &exact)))
        pairs.append(Pair(name: kept.name, results: results))
        exactly[value] = try coded.value(of: value)
        coded[value] = try decoded(kept, &coded)
      }
      try coded.append(operation)
      for (value, own) in exactly { coded[value] = own }
    }
    for result in forward.results {
      coded.function.results.append(.init(name: result.name, value: try coded.value(of: result.value)))
    }
    func probe(_ function: Function) -> Module {
      var probe = module
      probe.functions = [function]
      return probe
    }
    (rows, outputs) = (probe(exact.function), probe(coded.function))
    self.pairs = pairs
  }
}

/// What attention makes of a kept value: its codes, and the numbers that they stand for.
private func decoded(_ kept: CachedModel.Kept, _ copy: inout FunctionCopy) throws(PassError) -> ValueID {
  guard let codes = try kept.quantize(try copy.value(of: kept.source), &copy),
    let element = copy.original[kept.value].type.tensor?.element
  else { throw PassError("%\(copy.original[kept.value].name) is not kept as codes") }
  return try copy.emit(
    .dequantizeRows(DequantizeRows(to: element)), codes, ["kept_\(copy.original[kept.value].name)"])[0]
}
