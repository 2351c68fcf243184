import TensorIR

/// Adds the functions that serve a model from what is kept of a history: `prefill` computes keys and values of every
/// layer's history rows, `score` candidates against them, `extend` those of further history.
///
/// Exact: a row is computed from the rows that `forward` computes it from, in the same order. Where a layer divides by a maximum
/// over the batch, that is the maximum over the rows of the call at hand, kept ones included, as in GR's cached forward.
/// Source: SEMANTICS section 10; GR modules/stu.py, the cached forward of STULayer.
public let cachedScoring = ModulePass(
  name: "cached-scoring", summary: "add functions that score candidates against a history that is kept",
  options: NoOptions.self, exactness: .exact
) { (module, _, context) throws(PassError) in
  guard var forward = module.function(named: "forward") else { throw PassError("no function is called @forward") }
  for entry in CachedEntry.allCases where module.function(named: entry.rawValue) != nil {
    throw PassError("a function is called @\(entry.rawValue) already")
  }
  forward.dissolveRegions()
  let model = try CachedModel(forward)
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

/// A function that `cached-scoring` adds.
enum CachedEntry: String, CaseIterable {
  case prefill, score, extend
}

/// What `forward` keeps of a history, and what counts its rows.
struct CachedModel {
  let forward: Function
  /// What cuts the rows of every input into sequences, and counts candidates; nil where there are none.
  let offsets: ValueID
  let targets: ValueID?
  /// Layers with attention, in order.
  let layers: [OperationID]
  /// What reads rows of a whole history, and what cuts these as its fourth operand: the layers, and lists of what was not seen.
  let readers: [OperationID]
  /// What is kept, each value once: keys, values, times of keys, ids that were seen.
  let kept: [(name: String, value: ValueID)]
  /// The offsets that cut what is kept, each once in the order of the layers, and what the dimension of their rows is called
  /// where they are brought: layers on fewer rows keep fewer.
  let cuts: [(offsets: ValueID, rows: String)]

  init(_ forward: Function) throws(PassError) {
    self.forward = forward
    layers = forward.body.filter { forward[$0].isAttention }
    guard !layers.isEmpty else { throw PassError("@forward has no attention layer") }
    offsets = Self.root(of: forward[layers[0]].operands[3], in: forward)
    for id in layers where Self.root(of: forward[id].operands[3], in: forward) != offsets {
      throw PassError("layers run on the rows of several batches; it is known what to keep of one only")
    }
    var counted: [ValueID] = []
    for id in forward.body {
      if let value = forward[id].batch?.targets, !counted.contains(value) { counted.append(value) }
    }
    guard counted.count <= 1, counted.allSatisfy({ forward.arguments.contains($0) }) else {
      throw PassError("targets are counted by \(counted.map { "%" + forward[$0].name }.joined(separator: ", "))")
    }
    targets = counted.first
    var kept: [(name: String, value: ValueID)] = []
    var cuts: [(offsets: ValueID, rows: String)] = []
    func keep(_ name: String, _ value: ValueID) {
      guard !kept.contains(where: { $0.value == value }) else { return }
      // What the caller brought, it has.
      let isBrought = if case .argument = forward[value].definition { true } else { false }
      kept.append((isBrought ? "cached_\(forward[value].name)" : name, value))
    }
    func cut(_ offsets: ValueID) {
      if !cuts.contains(where: { $0.offsets == offsets }) {
        cuts.append((offsets, cuts.isEmpty ? "cached" : "cached.\(cuts.count)"))
      }
    }
    for (index, id) in layers.enumerated() {
      let operation = forward[id]
      guard case .attention(let attention) = operation.payload, attention.queries == nil else {
        throw PassError("queries of layer \(index) are a selection already; cached-scoring comes before prune-demand")
      }
      cut(operation.operands[3])
      keep("cache.\(index).k", operation.operands[1])
      keep("cache.\(index).v", operation.operands[2])
      if attention.bias == .positionAndTime {
        keep("cache.\(index).times", operation.operands[attention.firstBiasOperand + 3])
      }
    }
    // What a history has seen, its further rows have not seen alone. Lists of ids with offsets of their own are each call's.
    let sequences = offsets
    let lists = forward.body.filter { id in
      guard case .topK = forward[id].payload, forward[id].operands.count == 4 else { return false }
      return Self.root(of: forward[id].operands[3], in: forward) == sequences
    }
    for id in lists {
      cut(forward[id].operands[3])
      keep("cache.seen", forward[id].operands[2])
    }
    readers = layers + lists
    self.kept = kept
    self.cuts = cuts
  }

  /// The offsets that selections and additions of rows began with.
  private static func root(of offsets: ValueID, in forward: Function) -> ValueID {
    guard case .result(let id, _) = forward[offsets].definition else { return offsets }
    return root(of: forward[id].operands[0], in: forward)
  }

  /// Whether these offsets cut sequences that candidates belong to, and not a feature's ids.
  private func counts(_ cut: ValueID) -> Bool { Self.root(of: cut, in: forward) == offsets }

  /// What a call gives of what is kept: all that it computes.
  var computed: [Function.Result] {
    kept.filter { !forward.arguments.contains($0.value) }.map { Function.Result(name: $0.name, value: $0.value) }
  }

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
    var results = computed
    // The caller knows the offsets that it brought.
    for (cut, rows) in cuts where cut != offsets { results.append(.init(name: "\(rows)_offsets", value: cut)) }
    if targets == nil { results = forward.results + results }
    let needed = slice(results.map(\.value))
    var copy = FunctionCopy(of: forward, named: CachedEntry.prefill.rawValue, in: module)
    let read = Set(forward.body.filter(needed.contains).flatMap { forward[$0].operands } + results.map(\.value))
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
    copy.function.results = try results.map { (result) throws(PassError) in
      .init(name: result.name, value: try copy.value(of: result.value))
    }
    return copy.function
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

/// A function that is made of another's operations, with other operands for some of them.
struct FunctionCopy {
  let original: Function
  let module: Module
  var function: Function
  private var stands: [ValueID: ValueID] = [:]

  init(of original: Function, named name: String, in module: Module) {
    self.original = original
    self.module = module
    function = Function(name: name)
  }

  /// What stands for a value of the original.
  subscript(value: ValueID) -> ValueID? {
    get { stands[value] }
    set { stands[value] = newValue }
  }

  /// What stands for a value of the original; its weights stand for themselves.
  mutating func value(of value: ValueID) throws(PassError) -> ValueID {
    if let known = stands[value] { return known }
    guard case .weight(let weight) = original[value].definition else {
      throw PassError("%\(original[value].name) is not at hand")
    }
    let own = function.value(of: weight, in: module)
    stands[value] = own
    return own
  }

  /// Takes an argument of the original over.
  mutating func addArgument(_ argument: ValueID) {
    stands[argument] = function.addArgument(name: original[argument].name, type: original[argument].type)
  }

  /// Appends an operation of the original, its operands replaced by what stands for them.
  mutating func append(_ operation: Operation) throws(PassError) {
    var operands: [ValueID] = []
    for operand in operation.operands { operands.append(try value(of: operand)) }
    let names = operation.results.map { original[$0].name }
    let results = try emit(operation.payload, operands, names)
    for (result, own) in zip(operation.results, results) { stands[result] = own }
  }

  /// Appends an operation on values of the copy.
  @discardableResult
  mutating func emit(_ payload: Payload, _ operands: [ValueID], _ names: [String]) throws(PassError) -> [ValueID] {
    do {
      let types = try payload.definition.resultTypes(for: operands.map { function[$0].type })
      let results = zip(names, types).map { (name: $0, type: $1) }
      return function[function.append(payload, operands: operands, results: results)].results
    } catch {
      throw PassError("\(payload.mnemonic) %\(names.first ?? ""): \(error)")
    }
  }
}
