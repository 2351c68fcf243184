import TensorIR

/// Adds the functions that serve a model from what is kept of a history: `prefill` computes keys and values of every
/// layer's history rows, `score` candidates against them, `extend` those of further history.
///
/// Exact, but for keys and values that are kept in fewer bits: a row is computed from the rows that `forward` computes it from, in the same order. Where a layer divides by a maximum
/// over the batch, that is the maximum over the rows of the call at hand, kept ones included, as in GR's cached forward.
/// Source: SEMANTICS section 10; GR modules/stu.py, the cached forward of STULayer.
public let cachedScoring = ModulePass(
  name: "cached-scoring", summary: "add functions that score candidates against a history that is kept",
  options: CachedScoringOptions.self, exactness: .exact
) { (module, options, context) throws(PassError) in
  guard var forward = module.function(named: "forward") else { throw PassError("no function is called @forward") }
  for entry in CachedEntry.allCases where module.function(named: entry.rawValue) != nil {
    throw PassError("a function is called @\(entry.rawValue) already")
  }
  forward.dissolveRegions()
  let model = try CachedModel(forward, keep: options.keep, cache: options.cache)
  if options.cache != .same { context.exactness = .approximate }
  var left: [String] = []
  for entry in CachedEntry.allCases {
    do throws(PassError) {
      let derived = try model.derive(entry, in: module)
      module = derived
      context.note("@\(entry.rawValue)")
    } catch {
      // Without rows to keep there is nothing to continue from.
      if entry == .prefill { throw error }
      left.append("no @\(entry.rawValue): \(error.message)")
    }
  }
  guard left.count < CachedEntry.allCases.count - 1 else {
    throw PassError("nothing can go on from a history that is kept: \(left.joined(separator: "; "))")
  }
  for reason in left { context.note(reason) }
}

/// What `cached-scoring` takes.
public struct CachedScoringOptions: PassOptions {
  /// Which rows are kept.
  public enum Keep: String, CaseIterable, Sendable {
    /// Those that can still be seen: of layers with a window the latest.
    case seen
    /// All, as GR's cached forward keeps them.
    case all
  }

  /// What keys and values are kept as.
  public enum Cache: String, CaseIterable, Sendable {
    /// As attention takes them: fp32, or bf16 where `lower-precision` makes it so.
    case same
    /// Codes of f8e4m3 with one scale a row.
    case fp8
  }

  /// Which rows are kept.
  public var keep = Keep.seen
  /// What keys and values are kept as.
  public var cache = Cache.same

  /// What can still be seen, as attention takes it.
  public init() {}

  /// What can still be seen, in this form.
  public init(cache: Cache) { self.cache = cache }

  /// `keep` and `cache`.
  public static var list: [PassOption<CachedScoringOptions>] {
    [
      .word("keep", \.keep, summary: "whether layers that see a window keep the rows that can still be seen, or all"),
      .word(
        "cache", \.cache, summary: "whether keys and values are kept as attention takes them, or as fp8: approximate"),
    ]
  }
}

/// A function that `cached-scoring` adds.
enum CachedEntry: String, CaseIterable {
  case prefill, score, extend
}

extension CachedModel {
  /// The module with the entry in it.
  func derive(_ entry: CachedEntry, in module: Module) throws(PassError) -> Module {
    var module = module
    switch entry {
    case .prefill: module.functions.append(try prefill(in: module))
    case .score:
      guard targets != nil else { throw PassError("the model has no candidates") }
      module.functions.append(try continuation(.score, in: module))
    case .extend: module.functions.append(try continuation(.extend, in: module))
    }
    return module
  }

  /// The operations that these values follow from, `isEnough` aside.
  func slice(_ values: [ValueID], upTo isEnough: (Operation) -> [ValueID]? = { _ in nil }) -> Set<OperationID> {
    var needed: Set<OperationID> = []
    var left = values
    while let value = left.popLast() {
      guard case .result(let id, _) = forward[value].definition, needed.insert(id).inserted else { continue }
      left += isEnough(forward[id]) ?? forward[id].operands
    }
    return needed
  }

  /// Keys and values of a history, which is all that a batch has; what comes last of it too, where the model gives that.
  private func prefill(in module: Module) throws(PassError) -> Function {
    let own = targets == nil ? forward.results : []
    // The caller knows the offsets that it brought.
    let given = cuts.filter { $0.offsets != offsets || $0.window != nil }
    let values = own.map(\.value) + computed.map(\.source) + given.map(\.offsets)
    let needed = slice(values)
    var copy = FunctionCopy(of: forward, named: CachedEntry.prefill.rawValue, in: module)
    let read = Set(forward.body.filter(needed.contains).flatMap { forward[$0].operands } + values)
    for argument in forward.arguments where argument != targets && (read.contains(argument) || argument == offsets) {
      copy.addArgument(argument)
    }
    var expected: ValueID?
    for id in forward.body where needed.contains(id) {
      var operation = forward[id]
      if case .replaceTargets = operation.payload {
        copy[operation.results[0]] = try copy.value(of: operation.operands[0])
        continue
      }
      if case .pickRows(let pick) = operation.payload, pick.minimum > 0, targets != nil, counts(operation.operands[2]) {
        let ends = if let expected { expected } else { try expectedOffsets(&copy, operation) }
        expected = ends
        let operands = [try copy.value(of: operation.operands[0]), try copy.value(of: operation.operands[1]), ends]
        copy[operation.results[0]] = try copy.emit(
          operation.payload, operands, [forward[operation.results[0]].name])[0]
        continue
      }
      if case .lastRows = operation.payload, targets != nil, counts(operation.operands[1]) {
        let query = try queryArgument(operation)
        // The sequence's last row will be a candidate: its time is that of the request.
        copy[operation.results[0]] = copy.function.addArgument(name: query.name, type: query.type)
        continue
      }
      if let targets, operation.operands.contains(targets) {
        guard operation.batch?.targets == targets else {
          throw PassError("%\(forward[operation.results[0]].name) reads %\(forward[targets].name)")
        }
        // A history without candidates: nothing is counted.
        operation.operands.removeAll { $0 == targets }
        if case .attention(var attention) = operation.payload {
          attention.hasTargets = false
          operation.payload = .attention(attention)
        }
      }
      try copy.append(operation)
    }
    for result in own {
      copy.function.results.append(.init(name: result.name, value: try copy.value(of: result.value)))
    }
    try keep(&copy)
    return copy.function
  }

  /// Gives what is kept of the rows at hand: of a window, its rows alone.
  private func keep(_ copy: inout FunctionCopy) throws(PassError) {
    var ends: [ValueID] = []
    for (index, cut) in cuts.enumerated() {
      let all = try copy.value(of: cut.offsets)
      guard let window = cut.window else {
        ends.append(all)
        continue
      }
      let select = SelectOffsets(window, into: "window.\(index)")
      ends.append(try copy.emit(.selectOffsets(select), [all], ["\(cut.rows)_offsets"])[0])
    }
    for kept in computed {
      var value = try copy.value(of: kept.source)
      let cut = cuts[kept.cut]
      if let window = cut.window {
        let operands = [value, try copy.value(of: cut.offsets), ends[kept.cut]]
        value = try copy.emit(.selectRows(SelectRows(window)), operands, [kept.name])[0]
      }
      try give(kept, value, &copy)
    }
    for (cut, end) in zip(cuts, ends) where cut.offsets != offsets || cut.window != nil {
      copy.function.results.append(.init(name: "\(cut.rows)_offsets", value: end))
    }
  }

  /// Gives rows of what is kept as results, in the form in which it is kept.
  func give(_ kept: Kept, _ rows: ValueID, _ copy: inout FunctionCopy) throws(PassError) {
    let values = try kept.quantize(rows, &copy) ?? [rows]
    for (name, value) in zip([kept.name, kept.scalesName], values) {
      copy.function.results.append(.init(name: name, value: value))
    }
  }

  /// What cuts sequences as long as they will be with their candidates, which features that ask for so many events count: the
  /// caller tells how many there will be, by offsets of their own.
  private func expectedOffsets(_ copy: inout FunctionCopy, _ operation: Operation) throws(PassError) -> ValueID {
    let cut = operation.operands[2]
    guard cut == offsets, case .offsets(let sequences, _) = forward[offsets].type else {
      throw PassError("%\(forward[operation.results[0]].name) counts rows of sequences that others were added to")
    }
    let candidates = copy.function.addArgument(
      name: "candidate_offsets", type: .offsets(sequences: sequences, rows: .symbol("candidates")))
    let count = try copy.emit(.lengths(Lengths()), [candidates], ["candidate_lengths"])[0]
    let own = try copy.value(of: cut)
    return try copy.emit(
      .extendOffsets(ExtendOffsets(.appended, into: "expected")), [own, count], ["expected_offsets"])[0]
  }

  /// What stands for the last rows' numbers where those rows are not there yet.
  private func queryArgument(_ operation: Operation) throws(PassError) -> (name: String, type: ValueType) {
    guard case .argument = forward[operation.operands[0]].definition,
      forward[operation.operands[0]].type.tensor?.element == .i64
    else {
      throw PassError("%\(forward[operation.results[0]].name) looks at the last row, which is not there yet")
    }
    return ("query_\(forward[operation.operands[0]].name)", forward[operation.results[0]].type)
  }
}

extension CachedModel.Kept {
  /// The codes of rows and their scales; nil where rows are kept as they are.
  func quantize(_ rows: ValueID, _ copy: inout FunctionCopy) throws(PassError) -> [ValueID]? {
    guard let codes else { return nil }
    var numbers = rows
    if copy.function[rows].type.tensor?.element != .f32 {
      numbers = try copy.emit(.convert(Convert(to: .f32)), [rows], [name])[0]
    }
    return try copy.emit(.quantizeRows(QuantizeRows(to: codes)), [numbers], [name, scalesName])
  }
}
