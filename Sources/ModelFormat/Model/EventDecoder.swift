import TensorIR

/// `input` of model.json where its kind is `events`.
struct EventDecoder {
  let width: Int

  func events(_ object: JSONObjectReader) throws(ModelError) -> ModelDescription.Events {
    let tables = try self.tables(object.required("tables", "embedding tables by name"))
    let features = try self.features(
      object.required("features", "the ids that a call brings of each event, and the table of each"), tables)
    let content = try encoder(object.required("content", "what an event is of"), features)
    var events = ModelDescription.Events(tables: tables, features: features, content: content)
    if let additional = object.optional("additional") { events.additional = try encoder(additional, features) }
    if let action = object.optional("action") {
      events.action = try self.action(action)
      let combine = try object.required(
        "combine", "\"sum\" adds action rows to content rows, \"interleave\" puts them behind")
      events.isInterleaved = try combine.choice(Combination.self) == .interleave
    } else if let combine = object.optional("combine") {
      throw combine.error(.unexpectedValue, "there are no actions to combine with content")
    }
    if let contextual = object.optional("contextual") { events.contextual = try self.contextual(contextual, tables) }
    if let scale = object.optional("scale") { events.scale = try rowScale(scale, width: width) }
    if let position = object.optional("position") {
      events.position = try positionTable(position, contextual: events.slotCount)
    }
    if let time = object.optional("time") { events.time = try timeTable(time) }
    try checkNames(events, object)
    return events
  }

  private enum Combination: String, CaseIterable { case sum, interleave }

  private func tables(_ reader: JSONReader) throws(ModelError) -> [ModelDescription.FeatureTable] {
    try reader.anyObject().values.map { (name, value) throws(ModelError) in
      let object = try value.object(ModelKeys.featureTable)
      let rows = try object.required("rows").positiveInteger()
      return ModelDescription.FeatureTable(
        name: name, rows: rows,
        width: try object.required("width", "the elements of a row").integer(
          in: 1...1_048_576, expected: "a positive integer"),
        outOfRange: try outOfRange(object.optional("out_of_range"), rows: rows))
    }
  }

  private func features(
    _ reader: JSONReader, _ tables: [ModelDescription.FeatureTable]
  ) throws(ModelError) -> [ModelDescription.Feature] {
    try reader.anyObject().values.map { (name, value) throws(ModelError) in
      ModelDescription.Feature(name: name, table: try known(value, tables.map(\.name), "table"))
    }
  }

  /// The text, where it is one of the names.
  private func known(_ reader: JSONReader, _ names: [String], _ what: String) throws(ModelError) -> String {
    let name = try reader.string()
    guard names.contains(name) else {
      throw reader.error(
        .unexpectedValue, "there is no \(what) \(quoted(name))",
        hint: nearest(to: name, in: names).map { "did you mean \(quoted($0))?" }
          ?? "the \(what)s are \(names.joined(separator: ", "))")
    }
    return name
  }

  func encoder(
    _ reader: JSONReader, _ features: [ModelDescription.Feature]
  ) throws(ModelError) -> ModelDescription.Encoder {
    let object = try reader.object(ModelKeys.encoder)
    let list = try object.required("features", "names of features, whose rows stand side by side")
    let names = try list.elements().map { (element) throws(ModelError) in
      try known(element, features.map(\.name), "feature")
    }
    guard !names.isEmpty else { throw list.error(.unexpectedValue, "expected at least one feature") }
    return ModelDescription.Encoder(features: names, try perceptron(object.required("mlp")))
  }

  func perceptron(_ reader: JSONReader) throws(ModelError) -> ModelDescription.Perceptron {
    let object = try reader.object(ModelKeys.perceptron)
    return ModelDescription.Perceptron(
      hidden: try object.required("hidden", "the width between its two products").integer(
        in: 1...1_048_576, expected: "a positive integer"),
      epsilon: try object.required("epsilon", "GR uses 1e-5").positiveNumber())
  }

  private func action(_ reader: JSONReader) throws(ModelError) -> ModelDescription.ActionEncoder {
    let object = try reader.object(ModelKeys.actionEncoder)
    var watchTime: MarkBits?
    if let watch = object.optional("watch_time") {
      let marks = try watch.object(ModelKeys.watchTime)
      let least = try marks.required("thresholds", "the least watch time of each bit")
      let thresholds = try least.elements().map { (element) throws(ModelError) in
        try element.integer(in: Int.min...Int.max, expected: "an integer")
      }
      let bits = try masks(marks.required("bits", "the bits that each threshold sets"))
      guard thresholds.count == bits.count else {
        throw least.error(.unexpectedValue, "\(thresholds.count) thresholds for \(bits.count) sets of bits")
      }
      watchTime = MarkBits(thresholds: thresholds, bits: bits)
    }
    return ModelDescription.ActionEncoder(
      masks: try masks(object.required("bits", "the bits that each row of the action table is for")),
      width: try object.required("width", "the width of a bit's row").integer(
        in: 1...1_048_576, expected: "a positive integer"),
      targets: try object.required("targets", "what candidates have: \"learned\" or \"zero\"").choice(
        ModelDescription.ActionEncoder.Targets.self),
      watchTime: watchTime, try perceptron(object.required("mlp")))
  }

  private func masks(_ reader: JSONReader) throws(ModelError) -> [Int] {
    let masks = try reader.elements().map { (element) throws(ModelError) in
      try element.integer(in: 1...Int.max, expected: "a positive integer, whose bits count")
    }
    guard (1...4096).contains(masks.count) else {
      throw reader.error(.unexpectedValue, "expected 1 to 4096 numbers, found \(masks.count)")
    }
    return masks
  }

  private func contextual(
    _ reader: JSONReader, _ tables: [ModelDescription.FeatureTable]
  ) throws(ModelError) -> [ModelDescription.ContextualFeature] {
    var width: Int?
    return try reader.elements().map { (element) throws(ModelError) in
      let object = try element.object(ModelKeys.contextualFeature)
      let name = try object.required("feature", "the argument that brings its ids")
      let tableReader = try object.required("table", "where its ids are looked up")
      let table = try known(tableReader, tables.map(\.name), "table")
      let own = tables.first { $0.name == table }?.width
      width = width ?? own
      guard own == width else {
        throw tableReader.error(
          .unexpectedValue, "rows of \(own ?? 0) elements, but the contextual features before it have \(width ?? 0)")
      }
      return ModelDescription.ContextualFeature(
        name: try name.string(), table: table,
        slots: try object.required("slots", "rows for it before each sequence").integer(
          in: 1...65_536, expected: "a number of rows from 1 to 65536"),
        minimumEvents: try object.optional("minimum_events")?.nonNegativeInteger() ?? 0)
    }
  }

  private func timeTable(_ reader: JSONReader) throws(ModelError) -> ModelDescription.TimeTable {
    let object = try reader.object(ModelKeys.timeTable)
    let rows = try object.required("rows").integer(in: 1...1 << 20, expected: "a number of rows from 1 to 2^20")
    let scale = try object.required("scale", "it is \"square_root\" (GR's default) or \"logarithm\"")
    let unit = try object.required("unit", "seconds that count as one: 60 in GR")
    let seconds = try unit.positiveNumber()
    guard (1...0x1p40).contains(seconds) else { throw unit.mismatch(expected: "seconds from 1 to 2^40") }
    return ModelDescription.TimeTable(
      rows: rows,
      buckets: BucketTimes(
        try scale.choice(BucketTimes.Scale.self), unit: seconds,
        limit: try object.optional("limit")?.integer(
          in: 0...(rows - 1), expected: "a row of the time table, 0...\(rows - 1)") ?? rows - 1))
  }

  /// Names of arguments must differ.
  private func checkNames(_ events: ModelDescription.Events, _ object: JSONObjectReader) throws(ModelError) {
    var names: Set<String> = [
      "actions", "num_targets", "offsets", "query_timestamps", "timestamps", "watch_times",
    ]
    let given =
      events.features.map { ($0.name, "features") }
      + events.contextual.flatMap { [($0.name, "contextual"), ("\($0.name)_offsets", "contextual")] }
    for (name, key) in given {
      guard !name.isEmpty, names.insert(name).inserted else {
        throw (object.optional(key) ?? object.reader).error(
          .unexpectedValue, "a call already brings \(quoted(name))", hint: "give the feature a name of its own")
      }
    }
  }
}

extension OutputDecoder {
  func ranking(
    _ reader: JSONReader, _ rows: ModelDescription.Output.Rows
  ) throws(ModelError) -> ModelDescription.Ranking {
    guard case .events(let events) = description.input else {
      throw reader.error(.unexpectedValue, "ranking needs an input of kind \"events\", for the candidates' features")
    }
    guard rows == .targets else {
      throw reader.error(.unexpectedValue, "ranking is of candidates", hint: "set output.rows to \"targets\"")
    }
    let object = try reader.object(ModelKeys.ranking)
    let decoder = EventDecoder(width: description.width)
    let list = try object.required("tasks", "the name and kind of each score")
    var tasks: [(name: String, kind: ModelDescription.Ranking.Task)] = []
    for element in try list.elements() {
      let task = try element.object(ModelKeys.task)
      let name = try task.required("name")
      let text = try name.string()
      guard !text.isEmpty, !tasks.contains(where: { $0.name == text }) else {
        throw name.mismatch(expected: "a name of its own")
      }
      tasks.append(
        (
          text,
          try task.required("kind", "it is \"binary\" or \"regression\"").choice(ModelDescription.Ranking.Task.self)
        ))
    }
    guard (1...65_536).contains(tasks.count) else { throw list.error(.unexpectedValue, "expected at least one task") }
    return ModelDescription.Ranking(
      items: try decoder.encoder(
        object.required("items", "the candidates' own rows: features and mlp"), events.features),
      try decoder.perceptron(object.required("mlp")), tasks: tasks)
  }
}
