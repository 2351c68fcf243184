import TensorIR

/// Writes the function `forward` of a model, from its input to its output.
struct ModelBuilder {
  /// The model, or the transducer at hand.
  private(set) var description: ModelDescription
  /// What precedes the names of the arguments of the transducer at hand.
  private(set) var prefix = ""
  /// Arguments that several transducers read.
  private var sharedArguments: [String: ValueID] = [:]
  let checkpoint: Checkpoint
  var builder: FunctionBuilder
  var weights: CheckpointWeights
  var usedTensors: Set<String> = []
  /// Weights that are computed, by name.
  var derivedWeights: [String: ValueID] = [:]

  /// The batch as it stands between two layers.
  struct Batch {
    var x: ValueID
    var offsets: ValueID
    /// Number of targets of each sequence; truncation never changes it.
    var targets: ValueID?
    /// The ids of all rows: what sequences have seen, whatever truncation drops.
    var seen: [SeenIDs] = []
    /// When each row happened, and the row after it: of models with a time bias.
    var times: (keys: ValueID, queries: ValueID)?
    /// Integers of rows that are needed beside them: when they happened, and ids of candidates' features.
    var integers: [(name: String, value: ValueID)] = []

    var timestamps: ValueID? { integer("timestamps") }

    func integer(_ name: String) -> ValueID? { integers.first { $0.name == name }?.value }
  }

  /// Ids that a call brings of each row, and what cuts the rows.
  struct SeenIDs {
    /// The feature that brings them; nil of an embedding's items.
    var feature: String?
    /// The weight whose rows they are.
    var table: String?
    /// What is looked up for one that is no row.
    var outOfRange: Gather.OutOfRange
    var ids: ValueID
    var offsets: ValueID
  }

  /// Where the rows that a skip passes by wait.
  private struct Skipped {
    var until: Int
    var selection: RowSelection
    var outer: Batch
    var selectedOffsets: ValueID
  }

  private var truncationCount = 0
  private var stageValues: [(name: String, value: ValueID)] = []

  init(_ description: ModelDescription, _ checkpoint: Checkpoint) {
    self.description = description
    self.checkpoint = checkpoint
    self.builder = FunctionBuilder(module: Module(name: description.name), name: "forward")
    self.weights = CheckpointWeights(checkpoint: checkpoint)
  }

  func error(_ message: String) -> ModelError {
    ModelError(.unexpectedValue, file: description.name, message)
  }

  mutating func build() throws(ModelError) {
    if let mixture = description.mixture { return try build(mixture) }
    let known = description.knownStages
    if let unknown = description.stages.first(where: { !known.contains($0) }) {
      throw error("there is no stage \(unknown) in a model of \(description.layers.count) layers")
    }
    let batch = try stack()
    if description.stages.contains(.encoded) {
      record(.encoded, try norm(description.output.norm, batch.x, timestamps: batch.timestamps, "encoded"))
    }
    var offsets: [(name: String, value: ValueID)] = []
    if description.output.rows == .all,
      description.truncations.contains(where: { $0.form == .drop }) || changesRows
    {
      offsets.append(("out_offsets", batch.offsets))
    }
    try finish(try outputRows(of: batch), also: offsets)
  }

  /// The rows after the last layer.
  private mutating func stack() throws(ModelError) -> Batch {
    if let fault = description.truncationFault { throw error("truncation[\(fault.index)]: \(fault.message)") }
    var batch = try input()
    record(.inputEmbedding, batch.x)
    var skipped: Skipped?
    for (index, layer) in description.layers.enumerated() {
      if let truncation = description.truncations.first(where: { $0.after == index }) {
        skipped = try truncate(truncation, &batch)
      }
      batch.x = try self.layer(index, layer, batch)
      if let waiting = skipped, waiting.until == index + 1 {
        batch = try restore(waiting, batch)
        skipped = nil
      }
    }
    return batch
  }

  /// Stack after stack, each for the rows that are given back; these side by side, through one product (SEMANTICS section 5).
  private mutating func build(_ mixture: ModelDescription.Mixture) throws(ModelError) {
    if !description.stages.isEmpty { throw error("a mixture of transducers has no stages") }
    let model = description
    var outputs: [OutputRows] = []
    for (index, transducer) in mixture.transducers.enumerated() {
      (description, prefix) = (transducer, transducer.name + ".")
      // What is known of candidates comes with the first transducer's.
      description.output = index == 0 ? model.output : ModelDescription.Output(rows: model.output.rows)
      outputs.append(try outputRows(of: try stack()))
    }
    (description, prefix) = (model, "")
    guard var rows = outputs.first else { throw error("a mixture has one transducer at least") }
    rows.seen = outputs.flatMap(\.seen)
    let joined = try emit(.concatenate(Concatenate()), outputs.map(\.x), "joined")
    let (inner, outer) = (outputs.count * model.width, model.width)
    var operands = [
      joined,
      try modelWeight(
        .fusionWeight, mixture.layout == .inOut ? [inner, outer] : [outer, inner], user: "the fusion",
        "\(outputs.count) transducers x model width, model width"),
    ]
    if mixture.bias { operands.append(try modelWeight(.fusionBias, [outer], user: "the fusion", "model width")) }
    rows.x = try emit(.linear(Linear(mixture.layout)), operands, "fused")
    try finish(rows, also: [])
  }

  // MARK: - Operations

  /// Appends an operation with one result.
  mutating func emit(_ payload: Payload, _ operands: [ValueID], _ name: String) throws(ModelError) -> ValueID {
    try append(payload, operands, [name])[0]
  }

  mutating func append(_ payload: Payload, _ operands: [ValueID], _ names: [String]) throws(ModelError) -> [ValueID] {
    do throws(OperationError) {
      return try builder.append(payload, operands, names: names)
    } catch {
      throw self.error("\(payload.mnemonic) %\(names.first ?? ""): \(error)")
    }
  }

  mutating func record(_ stage: ModelDescription.Stage, _ value: ValueID) {
    if description.stages.contains(stage) { stageValues.append((stage.description, value)) }
  }

  // MARK: - Input

  private mutating func input() throws(ModelError) -> Batch {
    let rows = Dimension.symbol(prefix + "rows")
    let sequences = Dimension.symbol("sequences")
    var x: ValueID?
    var ids: ValueID?
    var actions: ValueID?
    var arguments = EventArguments()
    switch description.input {
    case .rows: x = builder.argument(prefix + "x", .tensor([rows, .fixed(description.width)], .f32))
    case .embedding(let embedding):
      ids = builder.argument(prefix + "item_ids", .tensor([rows], .i64))
      if embedding.action != nil { actions = builder.argument(prefix + "actions", .tensor([rows], .i64)) }
    case .events(let events): arguments = eventArguments(events, rows: rows)
    }
    let offsets = builder.argument(prefix + "offsets", .offsets(sequences: sequences, rows: rows))
    let targets = description.hasTargets ? sharedArgument("num_targets", .tensor([sequences], .i64)) : nil
    var batch = Batch(x: offsets, offsets: offsets, targets: targets)
    if description.readsTimestamps {
      batch.integers.append(("timestamps", builder.argument(prefix + "timestamps", .tensor([rows], .i64))))
    }
    let request = description.hasTimeBias ? sharedArgument("query_timestamps", .tensor([sequences], .i64)) : nil
    switch description.input {
    case .rows: break
    case .embedding(let embedding):
      guard let ids else { break }
      x = try embed(embedding, ids: ids, actions: actions, offsets: offsets, targets: targets)
    case .events(let events):
      contextualArguments(events, &arguments, sequences: sequences)
      for feature in Set(description.output.ranking?.items.features ?? []).sorted() {
        if let ids = arguments.ids(feature) { batch.integers.append((feature, ids)) }
      }
      x = try self.rows(of: events, arguments, &batch)
    }
    guard let x else { throw error("the model has no input") }
    batch.x = x
    let names = description.names
    switch description.input {
    case .rows: break
    case .embedding(let embedding):
      guard let ids else { break }
      batch.seen.append(
        SeenIDs(
          table: names.name(of: .itemTable), outOfRange: embedding.item.outOfRange, ids: ids, offsets: offsets))
    case .events(let events):
      for (name, ids) in arguments.features {
        guard let table = events.feature(name).flatMap({ events.table($0.table) }) else { continue }
        batch.seen.append(
          SeenIDs(
            feature: name, table: names.name(of: .table(table.name)), outOfRange: table.outOfRange, ids: ids,
            offsets: offsets))
      }
    }
    if let timestamps = batch.timestamps, let request {
      let next = try emit(.nextRows(NextRows()), [timestamps, request, batch.offsets], "next_timestamps")
      batch.times = (timestamps, next)
    }
    return batch
  }

  /// An argument of sequences, of which all transducers have the same.
  mutating func sharedArgument(_ name: String, _ type: ValueType) -> ValueID {
    if let known = sharedArguments[name] { return known }
    let argument = builder.argument(name, type)
    sharedArguments[name] = argument
    return argument
  }

  private mutating func embed(
    _ embedding: ModelDescription.Embedding, ids: ValueID, actions: ValueID?, offsets: ValueID, targets: ValueID?
  ) throws(ModelError) -> ValueID {
    let itemTable = try table(.itemTable, rows: embedding.item.rows)
    var x = try emit(.gather(Gather(outOfRange: embedding.item.outOfRange)), [itemTable, ids], "item")
    if let action = embedding.action, let actions {
      let actionTable = try table(.actionTable, rows: action.rows)
      let rows = try emit(.gather(Gather(outOfRange: action.outOfRange)), [actionTable, actions], "action")
      x = try emit(.add(Add()), [x, rows], "token")
    }
    if embedding.scale != 1 { x = try emit(.scale(Scale(factor: embedding.scale)), [x], "scaled") }
    if let position = embedding.position {
      let positionTable = try table(.positionTable, rows: position.rows)
      let positions = Positions(order: position.order, contextual: description.contextual, limit: position.limit)
      let indices = try emit(.positions(positions), [offsets] + (targets.map { [$0] } ?? []), "positions")
      let rows = try emit(.gather(Gather()), [positionTable, indices], "position")
      x = try emit(.add(Add()), [x, rows], "placed")
    }
    if let padding = embedding.paddingID { x = try emit(.zeroRows(ZeroRows(id: padding)), [x, ids], "embedded") }
    return x
  }

  // MARK: - Truncation

  private mutating func truncate(
    _ truncation: ModelDescription.Truncation, _ batch: inout Batch
  ) throws(ModelError) -> Skipped? {
    truncationCount += 1
    let rows = truncationCount == 1 ? "kept_rows" : "kept_rows_\(truncationCount)"
    let selection = RowSelection.latest(
      keep: truncation.keep, contextual: truncation.contextual ?? description.contextual)
    let outer = batch
    let targets = batch.targets.map { [$0] } ?? []
    let selected = try emit(
      .selectOffsets(SelectOffsets(selection, into: rows)), [outer.offsets] + targets, "kept_offsets")
    func operands(_ value: ValueID) -> [ValueID] { [value, outer.offsets, selected] + targets }
    batch.x = try emit(.selectRows(SelectRows(selection)), operands(outer.x), "kept")
    if let times = outer.times {
      batch.times = (
        try emit(.selectRows(SelectRows(selection)), operands(times.keys), "kept_timestamps"),
        try emit(.selectRows(SelectRows(selection)), operands(times.queries), "kept_next_timestamps")
      )
    }
    for index in outer.integers.indices {
      let (name, value) = outer.integers[index]
      batch.integers[index].value = try emit(.selectRows(SelectRows(selection)), operands(value), "kept_\(name)")
    }
    batch.offsets = selected
    guard case .skip(let until) = truncation.form else { return nil }
    return Skipped(until: until, selection: selection, outer: outer, selectedOffsets: selected)
  }

  private mutating func restore(_ skipped: Skipped, _ inner: Batch) throws(ModelError) -> Batch {
    var batch = skipped.outer
    let operands = [inner.x, batch.x, batch.offsets, skipped.selectedOffsets] + (batch.targets.map { [$0] } ?? [])
    batch.x = try emit(.restoreRows(RestoreRows(skipped.selection)), operands, "restored")
    return batch
  }

  // MARK: - Output

  /// The rows that are given back, before their norm, and the integers of theirs that are needed then.
  private struct OutputRows {
    var x: ValueID
    var timestamps: ValueID?
    var ids: [(name: String, value: ValueID)] = []
    /// The ids that each row's sequence has seen, of last rows.
    var seen: [SeenIDs] = []
  }

  private mutating func outputRows(of batch: Batch) throws(ModelError) -> OutputRows {
    let output = description.output
    let timestamps = output.readsTimestamps ? batch.timestamps : nil
    switch output.rows {
    case .all: return OutputRows(x: batch.x, timestamps: timestamps)
    case .last:
      func last(_ value: ValueID, _ name: String) throws(ModelError) -> ValueID {
        try emit(.lastRows(LastRows()), [value, batch.offsets], name)
      }
      var rows = OutputRows(x: try last(batch.x, "last"))
      rows.seen = batch.seen
      if let timestamps { rows.timestamps = try last(timestamps, "last_timestamps") }
      return rows
    case .targets:
      guard let targets = batch.targets else { throw error("the output is target rows, but the model has no targets") }
      let selected = try emit(
        .selectOffsets(SelectOffsets(.targets, into: "target_rows")), [batch.offsets, targets], "target_offsets")
      func select(_ value: ValueID, _ name: String) throws(ModelError) -> ValueID {
        try emit(.selectRows(SelectRows(.targets)), [value, batch.offsets, selected, targets], name)
      }
      var rows = OutputRows(x: try select(batch.x, "targets"))
      if let timestamps { rows.timestamps = try select(timestamps, "target_timestamps") }
      for feature in batch.integers where output.ranking?.items.features.contains(feature.name) == true {
        rows.ids.append((feature.name, try select(feature.value, "target_\(feature.name)")))
      }
      return rows
    }
  }

  /// The results: the rows that are given back, or candidates' scores; offsets that go with them, and stages.
  private mutating func finish(
    _ rows: OutputRows, also offsets: [(name: String, value: ValueID)]
  ) throws(ModelError) {
    let output = description.output
    var x = try norm(output.norm, rows.x, timestamps: rows.timestamps, "output")
    if let ranking = output.ranking, case .events(let events) = description.input {
      record(.userEmbeddings, x)
      x = try rank(ranking, events, users: x) { name in rows.ids.first { $0.name == name }?.value }
    }
    var results = [(name: output.resultName, value: x)] + offsets
    if let scores = output.scores {
      let items = try itemRows(scores)
      results.append(("scores", try emit(.linear(Linear(.outIn)), [x, items], "scores")))
    }
    if let top = output.topK {
      let items = try itemRows(top.scores)
      let seen = top.leavesOutSeen ? try self.seen(rows.seen, of: top.scores) : (operands: [], modulo: nil)
      let payload = Payload.topK(TopK(count: top.count, firstID: top.scores.firstRow, seenModulo: seen.modulo))
      let names = ["top_scores", "top_ids"]
      results += zip(names, try append(payload, [x, items] + seen.operands, names)).map { (name: $0, value: $1) }
    }
    results += stageValues
    var seen: Set<String> = []
    for result in results {
      guard seen.insert(result.name).inserted else { throw error("two results are called \(quoted(result.name))") }
      builder.result(result.name, result.value)
    }
  }

  /// The ids that each sequence has seen of the items that are scored, and what cuts them: those that all transducers bring
  /// of the same table, one list behind the other. Then the rows that ids are hashed into, where they are: what was seen is what was
  /// looked up. A row that stands in for ids outside the table makes none of them its item.
  private mutating func seen(
    _ lists: [SeenIDs], of scores: ModelDescription.Output.Scores
  ) throws(ModelError) -> (operands: [ValueID], modulo: Int?) {
    let items = description.items(feature: scores.feature)
    let table = items.flatMap { description.names.name(of: $0.role) }
    let lists = lists.filter { $0.table == table && $0.feature == scores.feature }
    guard let first = lists.first else { throw error("only last rows have items that were seen") }
    let isHashed = lists.contains { $0.outOfRange == .modulo }
    for list in lists where isHashed {
      guard case .fallback(let row) = list.outOfRange else { continue }
      throw error(
        "transducers look up rows of \(quoted(table ?? "")) with out_of_range \"modulo\" and {\"fallback\": \(row)}, "
          + "so an id outside has two meanings in the list of what was seen")
    }
    var (ids, offsets) = (first.ids, first.offsets)
    for (index, list) in lists.enumerated().dropFirst() {
      let name = "seen.\(index)"
      let lengths = try emit(.lengths(Lengths()), [list.offsets], "\(name)_lengths")
      let both = try emit(
        .extendOffsets(ExtendOffsets(.appended, into: name)), [offsets, lengths], "\(name)_offsets")
      ids = try emit(.extendRows(ExtendRows(.appended)), [list.ids, ids, offsets, both, lengths], name)
      offsets = both
    }
    return ([ids, offsets], isHashed ? items?.rows : nil)
  }

  /// Whether layers have other rows than a call brings.
  private var changesRows: Bool {
    if case .events(let events) = description.input { events.changesRows } else { false }
  }

  /// The rows of the item table that scores are taken against: a weight derived from the table where it is not the
  /// table as it is, since it depends on nothing that a call brings.
  private mutating func itemRows(_ scores: ModelDescription.Output.Scores) throws(ModelError) -> ValueID {
    guard let (role, rows) = description.items(feature: scores.feature) else {
      throw error("scores need the item table of an embedding, or that of a feature of events")
    }
    let count = rows - scores.firstRow
    guard count > 0 else { throw error("scores begin at row \(scores.firstRow) of an item table of \(rows) rows") }
    var epsilon: Double?
    if case .l2(let value) = scores.norm { epsilon = value }
    if scores.firstRow == 0 && epsilon == nil { return try table(role, rows: rows) }
    let source = try modelWeightName(role, [rows, description.width], user: "the input", "rows, model width")
    let name = source + (epsilon == nil ? "" : ".l2_normed") + (scores.firstRow == 0 ? "" : ".from_\(scores.firstRow)")
    return try derive(
      name, .rows(of: source, from: scores.firstRow, normEpsilon: epsilon), [count, description.width])
  }
}

extension ModelDescription {
  /// The table whose rows are the items that are scored, and how many rows it has: the item table of an embedding, or of events
  /// that of a feature. Nil where the input has no such table.
  func items(feature: String?) -> (role: ModelRole, rows: Int)? {
    switch input {
    case .rows: nil
    case .embedding(let embedding): (.itemTable, embedding.item.rows)
    case .events(let events):
      feature.flatMap(events.feature).flatMap { events.table($0.table) }.map { (.table($0.name), $0.rows) }
    }
  }

  /// The first truncation that does not fit the layers or those before it.
  var truncationFault: (index: Int, message: String)? {
    // Layers before this one are taken.
    var free = 0
    for (index, truncation) in truncations.enumerated() {
      guard (0..<layers.count).contains(truncation.after) else {
        return (index, "\"after\" must lie below the number of layers, \(layers.count), found \(truncation.after)")
      }
      guard truncation.after >= free else {
        return (index, "it begins after layer \(truncation.after), but the one before it takes effect until \(free)")
      }
      switch truncation.form {
      case .drop: free = truncation.after + 1
      case .skip(let until):
        guard until > truncation.after, until <= layers.count else {
          return (index, "\"until\" must lie in \(truncation.after + 1)...\(layers.count), found \(until)")
        }
        free = until
      }
    }
    return nil
  }
}
