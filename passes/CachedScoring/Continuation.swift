import TensorIR

// `score` and `extend`: the rows of a call stand behind those that are kept of each sequence.
extension CachedModel {
  func continuation(_ entry: CachedEntry, in module: Module) throws(PassError) -> Function {
    var results: [Function.Result] = []
    // The caller knows the offsets of the rows that it brings.
    if (targets != nil) == (entry == .score) {
      results += forward.results.filter { forward[$0.value].type.tensor != nil }
    }
    if entry == .extend { results += computed }
    // Of rows that were joined or put back, a call brings the last ones only.
    let needed = slice(results.map(\.value), upTo: { Self.source($0).map { [$0] } })
    if entry == .extend { try requireThatHistoryStays(needed) }
    var continuation = Continuation(
      copy: FunctionCopy(of: forward, named: entry.rawValue, in: module), entry: entry, offsets: offsets)
    let read = Set(
      forward.body.filter(needed.contains).flatMap { id in
        Self.source(forward[id]).map { [$0] } ?? forward[id].operands
      } + results.map(\.value))
    try continuation.begin(self, needed, read)
    for id in forward.body where needed.contains(id) { try continuation.append(forward[id]) }
    try continuation.finish(results)
    return continuation.copy.function
  }

  /// Where the rows that a call brings pass an operation as they are, the operand that they come from.
  fileprivate static func source(_ operation: Operation) -> ValueID? {
    switch operation.payload {
    case .selectRows, .restoreRows, .originalRows: operation.operands[0]
    case .extendRows(let extend): operation.operands[extend.places(among: operation.operands.count).x]
    default: nil
    }
  }

  /// Throws where further history changes what was computed of the rows before it.
  private func requireThatHistoryStays(_ needed: Set<OperationID>) throws(PassError) {
    for (index, id) in layers.enumerated() {
      guard case .attention(let attention) = forward[id].payload else { continue }
      if case .windowed(_, let tail) = attention.mask.form, tail > 0 {
        throw PassError(
          "the last \(tail) history rows of layer \(index) see all before them, and cease to as others follow")
      }
      if attention.mask.contextual > 0, attention.mask.form.letsContextualRowsSeeAll, id != layers.last {
        throw PassError("contextual rows of layer \(index) see the whole history")
      }
    }
    for id in forward.body where needed.contains(id) {
      let name = forward[forward[id].results[0]].name
      switch forward[id].payload {
      case .positions(let positions) where positions.order == .descending:
        throw PassError("%\(name) counts positions from the latest row, which others follow")
      case .bucketTimes:
        throw PassError("%\(name) tells how long before the request a row happened, and the next request is later")
      case .extendRows(let extend) where extend.addition == .interleaved:
        throw PassError("%\(name) puts rows between others")
      case .selectRows, .restoreRows:
        throw PassError("%\(name) chooses among rows, which others follow")
      default: break
      }
    }
  }
}

extension Mask.Form {
  fileprivate var letsContextualRowsSeeAll: Bool {
    switch self {
    case .causal, .windowed: true
    case .keyPrefix: false
    }
  }
}

/// `score` or `extend` while it is written.
private struct Continuation {
  var copy: FunctionCopy
  let entry: CachedEntry
  /// Of `forward`: what cuts its inputs.
  let offsets: ValueID
  /// Of the copy: what cuts the call's own rows, and their number in each sequence.
  var own: ValueID
  var count: ValueID
  /// By offsets of `forward` the kept rows of the same sequences, and these with the call's own behind.
  var kept: [ValueID: ValueID] = [:]
  var all: [ValueID: ValueID] = [:]
  /// By kept values of `forward` what the caller brings of them.
  var caches: [ValueID: ValueID] = [:]

  init(copy: FunctionCopy, entry: CachedEntry, offsets: ValueID) {
    (self.copy, self.entry, self.offsets) = (copy, entry, offsets)
    (own, count) = (offsets, offsets)
  }

  /// Arguments: what is kept and its offsets, then the call's own rows.
  mutating func begin(
    _ model: CachedModel, _ needed: Set<OperationID>, _ read: Set<ValueID>
  ) throws(PassError) {
    let forward = model.forward
    guard case .offsets(let sequences, _) = forward[offsets].type else { return }
    let attended = model.readers.filter(needed.contains)
    for (name, value) in model.kept where attended.contains(where: { forward[$0].operands.contains(value) }) {
      guard var type = forward[value].type.tensor,
        let rows = model.cuts.first(where: { forward[$0.offsets].type.dimensions.last == type.shape[0] })?.rows
      else { continue }
      type.shape[0] = .symbol(rows)
      caches[value] = copy.function.addArgument(name: name, type: .tensor(type))
    }
    for (cut, rows) in model.cuts where attended.contains(where: { forward[$0].operands[3] == cut }) {
      kept[cut] = copy.function.addArgument(
        name: "\(rows)_offsets", type: .offsets(sequences: sequences, rows: .symbol(rows)))
    }
    for argument in forward.arguments
    where argument != model.targets && (read.contains(argument) || argument == offsets) {
      copy.addArgument(argument)
    }
    own = try copy.value(of: offsets)
    count = try copy.emit(.lengths(Lengths()), [own], ["own_lengths"])[0]
    for (cut, _) in model.cuts {
      guard let cached = kept[cut] else { continue }
      let name = all.isEmpty ? "all" : "all.\(all.count)"
      all[cut] = try copy.emit(
        .extendOffsets(ExtendOffsets(.appended, into: name)), [cached, count], ["\(name)_offsets"])[0]
    }
  }

  mutating func append(_ operation: Operation) throws(PassError) {
    let original = copy.original
    func name(_ value: ValueID) -> String { original[value].name }
    switch operation.payload {
    case .selectOffsets(let select) where select.selection == .targets && operation.batch?.targets == nil:
      throw PassError("%\(name(operation.results[0])) keeps candidates of sequences that have none")
    case .selectOffsets, .extendOffsets:
      // The call's own rows are all in, whatever is chosen or added.
      copy[operation.results[0]] = own
    case .selectRows, .restoreRows, .originalRows, .extendRows:
      guard let source = CachedModel.source(operation) else { return }
      copy[operation.results[0]] = try copy.value(of: source)
    case .attention(let attention): try append(attention, operation)
    case .topK where operation.operands.count == 4 && kept[operation.operands[3]] != nil:
      // The call's own rows are seen too: the last of them is what the list is for.
      let (cached, every) = try ends(of: operation.operands[3])
      let seen = try joined(operation.operands[2], cached, every)
      let (queries, items) = (try copy.value(of: operation.operands[0]), try copy.value(of: operation.operands[1]))
      let results = try copy.emit(operation.payload, [queries, items, seen, every], operation.results.map(name))
      for (result, own) in zip(operation.results, results) { copy[result] = own }
    case .positions(let positions):
      // A place among all rows of the sequence: of the layers' first batch, whose rows are all kept.
      guard let every = all[operation.operands[0]] ?? all[offsets] else {
        throw PassError("%\(name(operation.results[0])) numbers rows that no layer has")
      }
      let counted = operation.operands.count > 1
      if entry == .score, !counted, positions.order == .descending {
        throw PassError("%\(name(operation.results[0])) counts candidates as history")
      }
      let places = try copy.emit(
        .positions(positions), counted && entry == .score ? [every, count] : [every], ["all_positions"])[0]
      copy[operation.results[0]] = try copy.emit(
        .selectRows(SelectRows(.targets)), [places, every, own, count], [name(operation.results[0])])[0]
    case .replaceTargets:
      let x = try copy.value(of: operation.operands[0])
      guard entry == .score else {
        copy[operation.results[0]] = x
        return
      }
      copy[operation.results[0]] = try copy.emit(
        .replaceTargets(ReplaceTargets()), [x, try copy.value(of: operation.operands[1]), own, count],
        [name(operation.results[0])])[0]
    case .nextRows where entry == .score, .pickRows:
      throw PassError("%\(name(operation.results[0])) reads rows of a sequence that a call does not bring")
    default:
      guard operation.batch?.targets == nil else {
        throw PassError("%\(name(operation.results[0])) counts targets")
      }
      try copy.append(operation)
    }
  }

  private mutating func append(_ attention: Attention, _ operation: Operation) throws(PassError) {
    let (cached, every) = try ends(of: operation.operands[3])
    var attention = attention
    let asHistory = entry == .extend || !attention.hasTargets
    let first = attention.firstBiasOperand
    let biasOperands = Array(operation.operands[first...])
    (attention.hasTargets, attention.continuesHistory, attention.queries) = (true, asHistory, .targets)
    var operands = [
      try copy.value(of: operation.operands[0]), try joined(operation.operands[1], cached, every),
      try joined(operation.operands[2], cached, every), every, count, own,
    ]
    for (index, operand) in biasOperands.enumerated() {
      operands.append(index == 3 ? try joined(operand, cached, every) : try copy.value(of: operand))
    }
    copy[operation.results[0]] = try copy.emit(
      .attention(attention), operands, [copy.original[operation.results[0]].name])[0]
  }

  /// The offsets of kept rows, and of these with the call's own behind.
  private func ends(of cut: ValueID) throws(PassError) -> (cached: ValueID, every: ValueID) {
    guard let every = all[cut], let cached = kept[cut] else {
      throw PassError("%\(copy.original[cut].name) cuts rows that are not kept")
    }
    return (cached, every)
  }

  /// The kept rows of a value with the call's own behind.
  private mutating func joined(
    _ value: ValueID, _ cached: ValueID, _ every: ValueID
  ) throws(PassError) -> ValueID {
    guard let cache = caches[value] else { throw PassError("%\(copy.original[value].name) is not kept") }
    let rows = try copy.value(of: value)
    let name = "all_\(copy.original[value].name)"
    return try copy.emit(.extendRows(ExtendRows(.appended)), [rows, cache, cached, every, count], [name])[0]
  }

  mutating func finish(_ results: [Function.Result]) throws(PassError) {
    for result in results {
      copy.function.results.append(.init(name: result.name, value: try copy.value(of: result.value)))
    }
  }
}
