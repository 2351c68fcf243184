import TensorIR

// Rows made from events (SEMANTICS section 6).
extension ModelBuilder {
  /// What a call brings for a model of events.
  struct EventArguments {
    var features: [(name: String, ids: ValueID)] = []
    var actions: ValueID?
    var watchTimes: ValueID?
    var timestamps: ValueID?
    var contextual: [(ids: ValueID, offsets: ValueID)] = []

    func ids(_ name: String) -> ValueID? { features.first { $0.name == name }?.ids }
  }

  /// The arguments that stand before `offsets`.
  mutating func eventArguments(_ events: ModelDescription.Events, rows: Dimension) -> EventArguments {
    var arguments = EventArguments()
    func numbers(_ name: String) -> ValueID { builder.argument(prefix + name, .tensor([rows], .i64)) }
    for feature in events.features { arguments.features.append((feature.name, numbers(feature.name))) }
    if let action = events.action {
      arguments.actions = numbers("actions")
      if action.watchTime != nil { arguments.watchTimes = numbers("watch_times") }
    }
    return arguments
  }

  /// The arguments that stand at the end.
  mutating func contextualArguments(
    _ events: ModelDescription.Events, _ arguments: inout EventArguments, sequences: Dimension
  ) {
    for feature in events.contextual {
      let rows = Dimension.symbol("\(feature.name).rows")
      arguments.contextual.append(
        (
          sharedArgument(feature.name, .tensor([rows], .i64)),
          sharedArgument("\(feature.name)_offsets", .offsets(sequences: sequences, rows: rows))
        ))
    }
  }

  /// The first layer's rows. `batch` comes with offsets, targets and integers of events, and leaves with those of rows.
  mutating func rows(
    of events: ModelDescription.Events, _ arguments: EventArguments, _ batch: inout Batch
  ) throws(ModelError) -> ValueID {
    let eventOffsets = batch.offsets
    var request: ValueID?
    if events.time != nil, let timestamps = batch.timestamps {
      // Rows are added before those of events, at time 0, and behind them at theirs: the last one's time stays. Made first, it
      // lets all that is made of events be one kernel.
      request = try emit(.lastRows(LastRows()), [timestamps, eventOffsets], "request_timestamps")
    }
    var x = try encode(events.content, .content, events, width: description.width) { arguments.ids($0) }
    record(.content, x)
    if let additional = events.additional {
      let more = try encode(additional, .additional, events, width: description.width) { arguments.ids($0) }
      record(.additional, more)
      x = try emit(.add(Add()), [x, more], "event")
    }
    if let action = events.action {
      let rows = try encode(action, arguments, batch)
      record(.action, rows)
      if events.isInterleaved {
        x = try interleave(x, rows, &batch)
      } else {
        x = try emit(.add(Add()), [x, rows], "token")
      }
    }
    if events.slotCount > 0 { x = try prependSlots(events, arguments, eventOffsets, to: x, &batch) }
    record(.preprocessed, x)
    if let timestamps = batch.timestamps { record(.preprocessedTimestamps, timestamps) }
    record(.preprocessedOffsets, batch.offsets)
    return try place(events, x, batch, request: request)
  }

  // MARK: - Encoders

  /// The rows of features side by side, through a perceptron with a norm at its end.
  mutating func encode(
    _ encoder: ModelDescription.Encoder, _ role: PerceptronRole, _ events: ModelDescription.Events, width: Int,
    _ ids: (String) -> ValueID?
  ) throws(ModelError) -> ValueID {
    var parts: [ValueID] = []
    var inner = 0
    for name in encoder.features {
      guard let feature = events.feature(name), let table = events.table(feature.table), let ids = ids(name) else {
        throw error("the input has no feature \(quoted(name))")
      }
      inner += table.width
      parts.append(try look(up: ids, in: table, "\(role.rawValue).\(name)"))
    }
    let joined = parts.count == 1 ? parts[0] : try emit(.concatenate(Concatenate()), parts, "\(role.rawValue).features")
    return try perceptron(encoder.perceptron, role, joined, from: inner, to: width, isNormed: true)
  }

  private mutating func look(
    up ids: ValueID, in table: ModelDescription.FeatureTable, _ name: String
  ) throws(ModelError) -> ValueID {
    let weight = try modelWeight(
      .table(table.name), [table.rows, table.width], user: "the input", "rows, width of the table")
    return try emit(.gather(Gather(outOfRange: table.outOfRange)), [weight, ids], name)
  }

  /// `Linear -> x * sigmoid(LayerNorm(x)) -> Linear`, and `-> LayerNorm` where it is normed.
  mutating func perceptron(
    _ perceptron: ModelDescription.Perceptron, _ role: PerceptronRole, _ x: ValueID, from inner: Int, to outer: Int,
    isNormed: Bool
  ) throws(ModelError) -> ValueID {
    let hidden = perceptron.hidden
    func named(_ name: String) -> String { "\(role.rawValue).\(name)" }
    func weight(_ part: PerceptronPart, _ shape: [Int], _ reason: String) throws(ModelError) -> ValueID {
      try modelWeight(.perceptron(role, part), shape, user: "the \(role.rawValue) perceptron", reason)
    }
    let first = [
      x, try weight(.firstWeight, [hidden, inner], "hidden, \(inner) of its input"),
      try weight(.firstBias, [hidden], "hidden"),
    ]
    let product = try emit(.linear(Linear(.outIn)), first, named("first"))
    let norm = LayerNorm(epsilon: perceptron.epsilon)
    let normed = try emit(
      .layerNorm(norm),
      [product, try weight(.normWeight, [hidden], "hidden"), try weight(.normBias, [hidden], "hidden")],
      named("norm"))
    let gate = try emit(.sigmoid(Sigmoid()), [normed], named("gate"))
    let swish = try emit(.multiply(Multiply()), [product, gate], named("swish"))
    let second = [
      swish, try weight(.secondWeight, [outer, hidden], "\(outer) of its output, hidden"),
      try weight(.secondBias, [outer], "\(outer) of its output"),
    ]
    let out = try emit(.linear(Linear(.outIn)), second, named("second"))
    if !isNormed { return out }
    return try emit(
      .layerNorm(norm),
      [
        out, try weight(.outputNormWeight, [outer], "\(outer) of its output"),
        try weight(.outputNormBias, [outer], "\(outer) of its output"),
      ], role.rawValue)
  }

  /// What the user did with each event; targets have the learned row.
  private mutating func encode(
    _ action: ModelDescription.ActionEncoder, _ arguments: EventArguments, _ batch: Batch
  ) throws(ModelError) -> ValueID {
    guard var bits = arguments.actions else { throw error("actions are encoded, but a call brings none") }
    if let mark = action.watchTime, let watched = arguments.watchTimes {
      bits = try emit(.markBits(mark), [bits, watched], "marked_actions")
    }
    let masks = action.allMasks
    try check(.actionBits, is: masks, "input.action")
    let table = try modelWeight(
      .actionBits, [masks.count, action.width], user: "the action encoder", "bits, width of a bit's row")
    var x = try emit(.embedBits(EmbedBits(masks: masks)), [table, bits], "action_bits")
    let width = masks.count * action.width
    if let targets = batch.targets {
      let row: ValueID
      switch action.targets {
      case .learned:
        let name = try modelWeightName(
          .targetAction, [1, width], user: "the action encoder", "1, bits x width of a bit's row")
        row = try derive("\(name).row", .part(of: name, 0), [width])
      case .zero: row = try derive("target_action.zero", .zeros, [width])
      }
      x = try emit(.replaceTargets(ReplaceTargets()), [x, row, batch.offsets, targets], "action_embedding")
    }
    record(.actionEmbedding, x)
    return try perceptron(action.perceptron, .action, x, from: width, to: description.width, isNormed: true)
  }

  // MARK: - Rows beside the events

  /// Content and action rows of history in turn; candidates have content alone.
  private mutating func interleave(_ x: ValueID, _ actions: ValueID, _ batch: inout Batch) throws(ModelError) -> ValueID
  {
    let targets = batch.targets.map { [$0] } ?? []
    let before = batch.offsets
    let after = try emit(
      .extendOffsets(ExtendOffsets(.interleaved, into: prefix + "turn_rows")), [before] + targets, "turn_offsets")
    let extend = Payload.extendRows(ExtendRows(.interleaved))
    for index in batch.integers.indices {
      let value = batch.integers[index].value
      batch.integers[index].value = try emit(
        extend, [value, value, before, after] + targets, "turn_\(batch.integers[index].name)")
    }
    batch.offsets = after
    return try emit(extend, [actions, x, before, after] + targets, "turns")
  }

  /// A row for each slot of each contextual feature before every sequence.
  private mutating func prependSlots(
    _ events: ModelDescription.Events, _ arguments: EventArguments, _ eventOffsets: ValueID, to x: ValueID,
    _ batch: inout Batch
  ) throws(ModelError) -> ValueID {
    let count = events.slotCount
    let width = description.width
    guard let inner = events.table(events.contextual[0].table)?.width else {
      throw error("there is no table \(quoted(events.contextual[0].table))")
    }
    let weights = try modelWeightName(
      .contextualWeight, [count, inner, width], user: "the contextual encoder", "slots, width of a table, model width")
    let biases = try modelWeightName(
      .contextualBias, [count, width], user: "the contextual encoder", "slots, model width")
    var slots: [ValueID] = []
    for (feature, argument) in zip(events.contextual, arguments.contextual) {
      guard let table = events.table(feature.table), table.width == inner else {
        throw error("contextual features need tables of one width, which \(quoted(feature.table)) has not")
      }
      let rows = try look(up: argument.ids, in: table, feature.name)
      let lengths = feature.minimumEvents > 0 ? [eventOffsets] : []
      for slot in 0..<feature.slots {
        let name = feature.slots == 1 ? feature.name : "\(feature.name).\(slot)"
        let picked = try emit(
          .pickRows(PickRows(row: slot, minimum: feature.minimumEvents)), [rows, argument.offsets] + lengths,
          "\(name).picked")
        let weight = try derive("\(weights).\(slots.count)", .part(of: weights, slots.count), [inner, width])
        let bias = try derive("\(biases).\(slots.count)", .part(of: biases, slots.count), [width])
        slots.append(try emit(.linear(Linear(.inOut)), [picked, weight, bias], "\(name).slot"))
      }
    }
    let before = batch.offsets
    let addition = RowAddition.before(count)
    let after = try emit(
      .extendOffsets(ExtendOffsets(addition, into: prefix + "all_rows")), [before], "all_offsets")
    for index in batch.integers.indices {
      batch.integers[index].value = try emit(
        .extendRows(ExtendRows(addition)), [batch.integers[index].value, before, after],
        "all_\(batch.integers[index].name)")
    }
    batch.offsets = after
    return try emit(.extendRows(ExtendRows(addition)), slots + [x, before, after], "preprocessed")
  }

  // MARK: - Position and time

  private mutating func place(
    _ events: ModelDescription.Events, _ preprocessed: ValueID, _ batch: Batch, request: ValueID?
  ) throws(ModelError) -> ValueID {
    var x = preprocessed
    if events.scale != 1 { x = try emit(.scale(Scale(factor: events.scale)), [x], "scaled") }
    if let position = events.position {
      let table = try modelWeight(
        .positionTable, [position.rows, description.width], user: "the input", "rows, model width")
      let payload = Positions(order: position.order, contextual: description.contextual, limit: position.limit)
      let indices = try emit(
        .positions(payload), [batch.offsets] + (batch.targets.map { [$0] } ?? []), "positions")
      record(.positionIndex, indices)
      x = try emit(.add(Add()), [x, try emit(.gather(Gather()), [table, indices], "position")], "placed")
    }
    if let time = events.time, let timestamps = batch.timestamps, let request {
      let table = try modelWeight(
        .timeTable, [time.rows, description.width], user: "the input", "rows, model width")
      let buckets = try emit(.bucketTimes(time.buckets), [timestamps, request, batch.offsets], "time_buckets")
      record(.timeBucket, buckets)
      x = try emit(.add(Add()), [x, try emit(.gather(Gather()), [table, buckets], "time")], "timed")
    }
    return x
  }
}
