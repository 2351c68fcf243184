import TensorIR

// `score` and `extend`: the rows of a call stand behind those that are kept of each sequence.
extension CachedModel {
  func continuation(_ entry: CachedEntry, in module: Module) throws(PassError) -> Function {
    var results: [Function.Result] = []
    let kept = entry == .extend ? computed : []
    // The caller knows the offsets of the rows that it brings.
    if (targets != nil) == (entry == .score) {
      results += forward.results.filter { forward[$0.value].type.tensor != nil }
    }
    // Of rows that were joined or put back, a call brings the last ones only.
    let needed = slice(results.map(\.value) + kept.map(\.source), upTo: { Self.source($0).map { [$0] } })
    if entry == .extend { try requireThatHistoryStays(needed) }
    var continuation = Continuation(
      model: self, copy: FunctionCopy(of: forward, named: entry.rawValue, in: module), entry: entry)
    let read = Set(
      forward.body.filter(needed.contains).flatMap { id in
        Self.source(forward[id]).map { [$0] } ?? forward[id].operands
      } + results.map(\.value) + kept.map(\.source))
    try continuation.begin(needed, read)
    for id in forward.body where needed.contains(id) { try continuation.append(id) }
    try continuation.finish(results)
    for kept in kept { try give(kept, try continuation.copy.value(of: kept.source), &continuation.copy) }
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
  let model: CachedModel
  var copy: FunctionCopy
  let entry: CachedEntry
  /// Of the copy: what cuts the call's own rows, and their number in each sequence.
  var own: ValueID
  var count: ValueID
  /// Of the copy, by cuts that it has: the kept rows of the same sequences, and these with the call's own behind.
  var ends: [Int: (cached: ValueID, every: ValueID)] = [:]
  /// What the caller brings of what is kept, by its place in `model.kept`.
  var caches: [Int: ValueID] = [:]

  init(model: CachedModel, copy: FunctionCopy, entry: CachedEntry) {
    (self.model, self.copy, self.entry) = (model, copy, entry)
    (own, count) = (model.offsets, model.offsets)
  }

  /// Arguments: what is kept and its offsets, then the call's own rows.
  mutating func begin(_ needed: Set<OperationID>, _ read: Set<ValueID>) throws(PassError) {
    let forward = model.forward
    guard case .offsets(let sequences, _) = forward[model.offsets].type else { return }
    /// The operations that read rows of a history, by the cut that they read.
    let readers = forward.body.filter(needed.contains).compactMap { id in model.readers[id].map { (id, $0) } }
    var coded: [(place: Int, element: ElementType, operands: [ValueID])] = []
    for (place, kept) in model.kept.enumerated() {
      guard readers.contains(where: { $0.1 == kept.cut && forward[$0.0].operands.contains(kept.value) }),
        var type = forward[kept.value].type.tensor
      else { continue }
      type.shape[0] = .symbol(model.cuts[kept.cut].rows)
      guard let codes = kept.codes else {
        caches[place] = copy.function.addArgument(name: kept.name, type: .tensor(type))
        continue
      }
      let scales = ValueType.tensor([type.shape[0]], .f32)
      let operands = [
        copy.function.addArgument(name: kept.name, type: .tensor(type.shape, codes)),
        copy.function.addArgument(name: kept.scalesName, type: scales),
      ]
      coded.append((place, type.element, operands))
    }
    // Rows are numbered among all of a sequence, whatever is kept of them.
    let numbered = forward.body.filter(needed.contains).compactMap { id in
      if case .positions = forward[id].payload { model.cut(numbering: forward[id].operands[0]) } else { nil }
    }
    var cached: [(cut: Int, offsets: ValueID)] = []
    for (index, cut) in model.cuts.enumerated()
    where readers.contains(where: { $0.1 == index }) || numbered.contains(index) {
      let type = ValueType.offsets(sequences: sequences, rows: .symbol(cut.rows))
      cached.append((index, copy.function.addArgument(name: "\(cut.rows)_offsets", type: type)))
    }
    for argument in forward.arguments
    where argument != model.targets && (read.contains(argument) || argument == model.offsets) {
      copy.addArgument(argument)
    }
    for (place, element, operands) in coded {
      let name = "kept_\(forward[model.kept[place].value].name)"
      caches[place] = try copy.emit(.dequantizeRows(DequantizeRows(to: element)), operands, [name])[0]
    }
    own = try copy.value(of: model.offsets)
    count = try copy.emit(.lengths(Lengths()), [own], ["own_lengths"])[0]
    for (index, offsets) in cached {
      let name = ends.isEmpty ? "all" : "all.\(ends.count)"
      let every = try copy.emit(
        .extendOffsets(ExtendOffsets(.appended, into: name)), [offsets, count], ["\(name)_offsets"])[0]
      ends[index] = (offsets, every)
    }
  }

  mutating func append(_ id: OperationID) throws(PassError) {
    let original = copy.original
    let operation = original[id]
    func name(_ value: ValueID) -> String { original[value].name }
    if let cut = model.readers[id] { return try append(operation, cut) }
    switch operation.payload {
    case .selectOffsets(let select) where select.selection == .targets && operation.batch?.targets == nil:
      throw PassError("%\(name(operation.results[0])) keeps candidates of sequences that have none")
    case .selectOffsets, .extendOffsets:
      // The call's own rows are all in, whatever is chosen or added.
      copy[operation.results[0]] = own
    case .selectRows, .restoreRows, .originalRows, .extendRows:
      guard let source = CachedModel.source(operation) else { return }
      copy[operation.results[0]] = try copy.value(of: source)
    case .positions(let positions):
      guard let every = model.cut(numbering: operation.operands[0]).flatMap({ ends[$0]?.every }) else {
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

  /// Appends what reads rows of a history: those that are kept, with the call's own behind.
  private mutating func append(_ operation: Operation, _ cut: Int) throws(PassError) {
    guard let every = ends[cut]?.every else {
      throw PassError("%\(copy.original[operation.operands[3]].name) cuts rows that are not kept")
    }
    var operands: [ValueID] = []
    var payload = operation.payload
    switch operation.payload {
    case .attention(var attention):
      let asHistory = entry == .extend || !attention.hasTargets
      let bias = Array(operation.operands[attention.firstBiasOperand...])
      (attention.hasTargets, attention.continuesHistory, attention.queries) = (true, asHistory, .targets)
      payload = .attention(attention)
      operands = [
        try copy.value(of: operation.operands[0]), try joined(operation.operands[1], cut),
        try joined(operation.operands[2], cut), every, count, own,
      ]
      for (index, operand) in bias.enumerated() {
        operands.append(index == 3 ? try joined(operand, cut) : try copy.value(of: operand))
      }
    default:
      // Of a list, what was seen; the call's own rows too, the last of which the list is for.
      operands = [
        try copy.value(of: operation.operands[0]), try copy.value(of: operation.operands[1]),
        try joined(operation.operands[2], cut), every,
      ]
    }
    let results = try copy.emit(payload, operands, operation.results.map { copy.original[$0].name })
    for (result, own) in zip(operation.results, results) { copy[result] = own }
  }

  /// The kept rows of a value with the call's own behind.
  private mutating func joined(_ value: ValueID, _ cut: Int) throws(PassError) -> ValueID {
    guard let place = model.kept.firstIndex(where: { $0.value == value && $0.cut == cut }), let cache = caches[place],
      let (cached, every) = ends[cut]
    else { throw PassError("%\(copy.original[value].name) is not kept") }
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
