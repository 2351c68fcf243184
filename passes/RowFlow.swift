import TensorIR

/// How the rows of a batch pass through a function's layers of attention: where a stack can be cut in two.
struct RowFlow {
  let function: Function
  /// The layers' attentions, in order; there is one at least.
  let layers: [OperationID]
  /// What cuts the rows into sequences, and the number of rows.
  let offsets: ValueID
  let rows: Dimension
  /// The number of targets of each sequence: one value, or none.
  let targets: [ValueID]

  /// Throws where layers differ in rows or targets, or where the number of rows has no name.
  init(_ function: Function, _ layers: [OperationID]) throws(PassError) {
    self.function = function
    self.layers = layers
    let name = { (id: OperationID) in "%" + function[function[id].results[0]].name }
    offsets = function[layers[0]].operands[3]
    for layer in layers where function[layer].choosesQueries {
      throw PassError("prune-demand has run already: \(name(layer)) has some queries only; cut rows before it")
    }
    for layer in layers where function[layer].operands[3] != offsets {
      throw PassError("is truncated already: \(name(layer)) reads other offsets than \(name(layers[0]))")
    }
    if case .result(let id, _) = function[offsets].definition, case .selectOffsets = function[id].payload {
      throw PassError("is truncated already: %\(function[offsets].name) are offsets of a selection")
    }
    guard case .offsets(let sequences, let rows) = function[offsets].type, rows.extent == nil, rows != sequences else {
      throw PassError("\(function[offsets].type) has no name of its own for the number of rows, which the pass changes")
    }
    self.rows = rows
    var targets: [ValueID] = []
    for id in function.body {
      if let value = function[id].batch?.targets, !targets.contains(value) { targets.append(value) }
    }
    guard targets.count <= 1 else {
      throw PassError(
        "targets are counted twice, by \(targets.map { "%" + function[$0].name }.joined(separator: " and "))")
    }
    self.targets = targets
  }

  /// How many rows at the start of a sequence the layers from `first` on keep: as many as asked for, or as their masks
  /// call contextual. Throws where layers would then see other rows in their place.
  func contextual(from first: Int, asked: Int?) throws(PassError) -> Int {
    var named = 0
    var biased: String?
    for layer in layers[first...] {
      guard case .attention(let attention) = function[layer].payload else { continue }
      named = max(named, attention.mask.contextual)
      if attention.bias != .none { biased = biased ?? function[function[layer].results[0]].name }
    }
    if let asked, asked < named {
      throw PassError("contextual=\(asked), but the masks of later layers take \(named) rows for contextual")
    }
    let kept = asked ?? named
    if kept > 0, let biased {
      throw PassError(
        "the position bias of %\(biased) counts the rows between two: contextual rows that are kept would move nearer")
    }
    return kept
  }

  /// The first value after the attention of layer `count` through which alone rows reach what follows. Throws where there is none.
  func stream(after count: Int, type: ValueType?) throws(PassError) -> ValueID {
    let attended = count == 0 ? [] : Set(function[layers[count - 1]].results)
    let below = attended.union(function.readers(of: attended).values)
    let candidates =
      count == 0
      ? function.arguments + function.body.flatMap { function[$0].results }
      : function.body.flatMap { function[$0].results }
    for value in candidates where isRows(value) && (type == nil || function[value].type == type) {
      if count > 0 && !below.contains(value) { continue }
      let above = function.readers(of: [value])
      let isCut = layers.indices.allSatisfy { ($0 >= count) == above.operations.contains(layers[$0]) }
      let isAlone = function.body.allSatisfy { id in
        !above.operations.contains(id)
          || function[id].operands.allSatisfy { !isRows($0) || $0 == value || above.values.contains($0) }
      }
      if isCut && isAlone && (count < layers.count || reachesResults(value, above.values, below)) {
        return value
      }
    }
    let place = count == layers.count ? "after the last layer" : "between layers \(count) and \(count + 1)"
    throw PassError("the layers are not recognized: \(place), no one value carries all rows")
  }

  /// Whether every result that the last layer gives lies before the value or comes from it.
  private func reachesResults(_ value: ValueID, _ above: Set<ValueID>, _ below: Set<ValueID>) -> Bool {
    function.results.map(\.value).allSatisfy { result in
      !below.contains(result) || result == value || above.contains(result)
        || function.readers(of: [result]).values.contains(value)
    }
  }

  private func isRows(_ value: ValueID) -> Bool {
    guard let type = function[value].type.tensor, type.rank == 2 else { return false }
    return type.shape[0] == rows
  }

  /// Whether layers add to what they read: `first` is a term of a sum, `last` is a sum.
  func isResidual(from first: ValueID, to last: ValueID) -> Bool {
    guard case .result(let id, _) = function[last].definition, case .add = function[id].payload else { return false }
    return function.body.contains { id in
      if case .add = function[id].payload { function[id].operands.contains(first) } else { false }
    }
  }

  /// What runs between two values of the stream, or to the end of the function, with the selections of rows that it reads.
  func operations(from first: ValueID, to last: ValueID?) throws(PassError) -> Set<OperationID> {
    let output = last.map { function.readers(of: [$0]) }
    var inner = function.readers(of: [first]).operations
    inner.subtract(output?.operations ?? [])
    // A selection for the output, as of target rows, is then one of the rows that are left.
    for id in function.body.reversed() where !inner.contains(id) {
      guard case .selectOffsets = function[id].payload,
        function.body.contains(where: { inner.contains($0) && function[$0].reads(function[id]) })
      else { continue }
      inner.insert(id)
      inner.formUnion(function.readers(of: Set(function[id].results)).operations)
      inner.subtract(output?.operations ?? [])
    }
    for id in function.body where inner.contains(id) {
      if function[id].results.contains(first)
        || output?.operations.contains(where: {
          function[$0].operands.contains { $0 != last && function[id].results.contains($0) }
        }) == true
      {
        throw PassError("%\(function[function[id].results[0]].name) is read on both sides of the cut")
      }
    }
    return inner
  }
}

extension Function {
  /// The operations that read one of the values, or what such operations give, and what they give.
  func readers(of values: Set<ValueID>) -> (operations: Set<OperationID>, values: Set<ValueID>) {
    var operations: Set<OperationID> = []
    var given: Set<ValueID> = []
    for id in body where self[id].operands.contains(where: { values.contains($0) || given.contains($0) }) {
      operations.insert(id)
      given.formUnion(self[id].results)
    }
    return (operations, given)
  }

  /// The operations that read each value.
  var readersOfValues: [ValueID: Set<OperationID>] {
    body.reduce(into: [:]) { readers, id in
      for value in self[id].operands { readers[value, default: []].insert(id) }
    }
  }

  /// A name for a dimension that no value has yet.
  func newDimension(_ name: String) -> String {
    let taken = Set(values.flatMap(\.type.dimensions))
    var unique = name
    var suffix = 2
    while taken.contains(.symbol(unique)) {
      unique = "\(name)_\(suffix)"
      suffix += 1
    }
    return unique
  }
}

extension Operation {
  var choosesQueries: Bool {
    if case .attention(let attention) = payload { attention.queries != nil } else { false }
  }

  fileprivate func reads(_ other: Operation) -> Bool { operands.contains(where: other.results.contains) }
}
