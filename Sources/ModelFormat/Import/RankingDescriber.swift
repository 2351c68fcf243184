// Whole ranking models: generative-recommenders' DlrmHSTU (SEMANTICS section 6).
extension Describer {
  private typealias Members = [(key: String, value: JSONNode?)]

  mutating func ranking() throws(ModelError) -> [(key: String, value: JSONNode?)] {
    let slots = found[.slots] ?? 0
    let layer = try productionLayer(withSlots: slots > 0)
    let stack = try stackMembers(layer)
    let events = try rankingEvents(slots: slots)
    let norm = try outputNorm()
    let tasks = try tasks()
    let items = try perceptron(.item, "the item tower")
    let head = try perceptron(.task, "the head of tasks")
    let output = JSONNode.object([
      ("rows", .text("targets")), ("norm", norm),
      (
        "ranking",
        .object([
          ("items", .object([("features", events.items), ("mlp", items)])), ("mlp", head), ("tasks", tasks),
        ])
      ),
    ])
    return [
      ("names", nameMap(.production, rankingWeights(events.tables))),
      ("sequence", .object([("targets", .bool(true))])), ("input", .object(events.input)),
    ] + stack + [("output", output)]
  }

  /// `hidden` and `epsilon` of a perceptron that the model must have.
  private mutating func perceptron(_ role: PerceptronRole, _ user: String) throws(ModelError) -> JSONNode {
    guard let hidden = found[.hidden(role)] else {
      let name = WeightNames.Preset.production.name(of: .perceptron(role, .firstWeight)) ?? role.rawValue
      throw missingTensor(name, "\(user) needs it")
    }
    note("\(role.rawValue) perceptron, hidden", hidden, .hidden(role))
    return .object([("hidden", .integer(hidden)), ("epsilon", .number("1e-5"))])
  }

  // MARK: - Events

  private struct Events {
    var input: Members
    var items: JSONNode
    /// Tables that features are looked up in, sorted.
    var tables: [String]
  }

  private mutating func rankingEvents(slots: Int) throws(ModelError) -> Events {
    noteFamily("perceptrons", "epsilon 1e-5", "DlrmHSTU")
    let tableOf = try featureTables()
    let contextual = try contextual(slots: slots, tableOf)
    // What contextual features leave may be all that there is to choose from.
    let rest = found.tables.filter { table in !contextual.contains { $0.table == table } }
    let isOnly = (slots == 0 || !contextual.isEmpty) && rest.count == 1 && tableOf.isEmpty
    func features(_ key: ImportKey) throws(ModelError) -> [String]? {
      if isOnly, settings[key] == nil {
        note(key.rawValue, rest[0], .checkpoint, "the only table that no contextual feature has")
        return rest
      }
      guard let told = require(key, hint: "the tables are \(found.tables.joined(separator: ", "))") else { return nil }
      let names = try told.strings()
      note(key.rawValue, names.joined(separator: ", "), .told, told.source)
      for name in names { _ = try table(of: name, tableOf, told) }
      return names
    }
    let content = try features(.content)
    var additional: [String]?
    if found[.inner(.additional)] ?? 0 > 0 { additional = try features(.additional) }
    let items = try features(.items)

    var names: [String] = []
    for name in (content ?? []) + (additional ?? []) + (items ?? []) where !names.contains(name) { names.append(name) }
    var input: Members = [("kind", .text("events"))]
    var tables: [String] = []
    for table in names.map({ tableOf[$0] ?? $0 }) + contextual.map(\.table) where !tables.contains(table) {
      tables.append(table)
    }
    input.append(("tables", .object(tables.map { ($0, tableNode($0)) })))
    input.append(("features", .object(names.map { ($0, .text(tableOf[$0] ?? $0)) })))
    func list(_ names: [String]?) -> JSONNode { .list((names ?? []).map { .text($0) }) }
    input.append(
      ("content", .object([("features", list(content)), ("mlp", try perceptron(.content, "an event's content"))])))
    if let additional {
      let mlp = try perceptron(.additional, "what is added to content")
      input.append(("additional", .object([("features", list(additional)), ("mlp", mlp)])))
    }
    if let (action, combine) = try action() {
      input += [("action", action), ("combine", combine)]
    }
    if !contextual.isEmpty { input.append(("contextual", .list(contextual.map(\.node)))) }
    if let positions = found[.positionRows] {
      note("positions", positions, .positionRows)
      noteFamily("scale of rows", "sqrt(width)", "HSTUPositionalEncoder")
      input += [
        ("scale", .text("sqrt(width)")),
        ("position", .object([("rows", .integer(positions)), ("order", .text("descending"))])),
      ]
    }
    if let times = found[.timeRows] {
      note("rows for times", times, .timeRows)
      noteFamily("time buckets", "square root of minutes", "HSTUPositionalEncoder")
      let limit = passOn(.timeLimit, required: false)
      input.append(
        (
          "time",
          .object([
            ("rows", .integer(times)), ("scale", .text("square_root")), ("unit", .integer(60)), ("limit", limit),
          ])
        ))
    }
    try checkTableWidth(tables)
    return Events(input: input, items: list(items), tables: tables)
  }

  private mutating func tableNode(_ name: String) -> JSONNode {
    note("table \(name)", found[.tableRows(name)], .tableRows(name))
    return .object([
      ("rows", found[.tableRows(name)].map { .integer($0) }),
      ("width", found[.tableWidth(name)].map { .integer($0) }),
    ])
  }

  private mutating func checkTableWidth(_ tables: [String]) throws(ModelError) {
    for table in tables { try check(.tableWidth, is: found[.tableWidth(table)]) }
  }

  /// The tables of features that are called otherwise.
  private mutating func featureTables() throws(ModelError) -> [String: String] {
    guard let told = settings[.features] else { return [:] }
    let pairs = try told.read { (reader) throws(ModelError) in
      try reader.anyObject().values.map { (name, value) throws(ModelError) in (name, try value.string()) }
    }
    note("features", pairs.map { "\($0) in \($1)" }.joined(separator: ", "), .told, told.source)
    let tables = Dictionary(pairs) { first, _ in first }
    for (name, _) in pairs { _ = try table(of: name, tables, told) }
    return tables
  }

  /// The table of a feature: as told, or of its own name.
  private func table(
    of feature: String, _ tables: [String: String], _ setting: ToldSetting
  ) throws(ModelError) -> String {
    let name = tables[feature] ?? feature
    if found[.table(name)] != nil { return name }
    let known = found.tables.joined(separator: ", ")
    throw setting.error(
      "there is no embedding table \(quoted(name)) for the feature \(quoted(feature))",
      hint: found.tables.isEmpty
        ? "the checkpoint has no tensor \"_embedding_collection.embeddings.TABLE.weight\""
        : "the tables are \(known); say \(ImportKey.features.flag) \(feature)=TABLE")
  }

  private mutating func contextual(
    slots: Int, _ tables: [String: String]
  ) throws(ModelError) -> [(table: String, node: JSONNode)] {
    note("contextual slots", found[.slots], .slots)
    guard slots > 0 else {
      if let told = settings[.contextual], case .array(let list) = told.reader.node.value, !list.isEmpty {
        throw told.error("the checkpoint has no weights for contextual features")
      }
      return []
    }
    guard let told = require(.contextual, hint: "\(slots) slots") else { return [] }
    let readers = try told.read { (reader) throws(ModelError) in try reader.elements() }
    var features: [(table: String, node: JSONNode)] = []
    var count = 0
    for reader in readers {
      let (name, tableName, ownSlots, least) = try told.read { (_) throws(ModelError) in
        let object = try reader.object(ModelKeys.contextualFeature)
        return (
          try object.required("feature").string(), try object.optional("table")?.string(),
          try object.optional("slots")?.positiveInteger(),
          try object.optional("minimum_events")?.nonNegativeInteger() ?? 0
        )
      }
      let table = try table(of: tableName ?? name, tableName == nil ? tables : [:], told)
      // A single feature has all slots.
      let own = ownSlots ?? (readers.count == 1 ? slots : 1)
      count += own
      features.append(
        (
          table,
          .object([
            ("feature", .text(name)), ("table", .text(table)), ("slots", .integer(own)),
            ("minimum_events", least > 0 ? .integer(least) : nil),
          ])
        ))
      let condition = least > 0 ? "of sequences of at least \(least) events" : "of all sequences"
      note("contextual \(name)", "\(own) of \(slots) slots, \(condition)", .told, told.source)
    }
    guard count == slots else {
      throw told.error("\(count) slots in all, but the checkpoint has \(slots)")
    }
    return features
  }

  // MARK: - Actions and tasks

  private mutating func action() throws(ModelError) -> (encoder: JSONNode, combine: JSONNode?)? {
    guard let table = found[.actionBits], let rows = found[.bits], let width = found[.bitWidth] else {
      if let told = settings[.actionBits] { throw told.error("the checkpoint has no table of actions") }
      return nil
    }
    note("action table", "\(rows) x \(width)", .checkpoint, table.name)
    let watch = passOn(.watchTime, required: false)
    var watched: [JSONNode] = []
    if case .array(let bits)? = watch?["bits"]?.value { watched = bits }
    let bits: JSONNode?
    if let told = settings[.actionBits] {
      let node = told.reader.node
      guard case .array(let list) = node.value, list.count + watched.count == rows else {
        throw told.error("expected a list of \(rows - watched.count) numbers, one a row of \(quoted(table.name))")
      }
      // The buffer, where there is one, has the bits of watch times too, after the others.
      let all = (list + watched).map(\.compact)
      if let stored = try found.integers(of: .actionBits), let buffer = found[.stored(.actionBits)] {
        guard stored.map(String.init) == all else {
          throw told.error("[\(all.joined(separator: ", "))], but \(buffer.place) holds \(stored)")
        }
        markRead(buffer)
      }
      note("action_bits", list.map(\.compact).joined(separator: ", "), .told, told.source)
      bits = node
    } else if let stored = try integers(of: .actionBits, "action_bits") {
      guard watched.map(\.compact) == stored.suffix(watched.count).map(String.init) else {
        throw settings[.watchTime]?.error("its bits are not the last of \(stored), which the checkpoint has")
          ?? error(table, "its bits are unknown")
      }
      bits = .list(stored.dropLast(watched.count).map { .integer($0) })
    } else {
      bits = passOn(.actionBits, hint: "\(rows) numbers")
    }
    let learned = found[.targetAction] != nil
    note(
      "actions of candidates", learned ? "a learned row" : "zero", .checkpoint,
      found[.targetAction]?.name ?? "there is no row for them")
    var combine: JSONNode?
    let mlp = found[.perceptron(.action, .firstWeight)]
    if let told = settings[.combine] {
      combine = .text(try told.word(["sum", "interleave"]))
      note("combine", combine?.compact ?? "", .told, told.source)
    } else if let mlp, mlp.name.contains("_embedding_mlp._mlp.") {
      combine = passOn(.combine, hint: "ContextualInterleavePreprocessor does either: enable_interleaving")
    } else {
      combine = .text(learned ? "sum" : "interleave")
      noteFamily("combine", learned ? "sum" : "interleave", "ContextualPreprocessor")
    }
    let encoder = JSONNode.object([
      ("bits", bits), ("width", .integer(width)), ("targets", .text(learned ? "learned" : "zero")),
      ("watch_time", watch), ("mlp", try perceptron(.action, "the action encoder")),
    ])
    return (encoder, combine)
  }

  private mutating func tasks() throws(ModelError) -> JSONNode? {
    guard let count = found[.tasks] else { return nil }
    guard let told = require(.tasks, hint: "\(count) of them") else { return nil }
    let elements = try told.read { (reader) throws(ModelError) in try reader.elements() }
    guard elements.count == count else {
      throw told.error("\(elements.count) tasks, but the checkpoint has \(count)")
    }
    func words(_ element: JSONReader) throws(ModelError) -> String {
      let object = try element.object(ModelKeys.task)
      let name = try object.required("name").string()
      let kind = try object.required("kind", "it is \"binary\" or \"regression\"")
      let task = try kind.choice(ModelDescription.Ranking.Task.self)
      return "\(name) (\(task.rawValue))"
    }
    let tasks = try told.read { (_) throws(ModelError) -> [String] in
      var tasks: [String] = []
      for element in elements { tasks.append(try words(element)) }
      return tasks
    }
    note("tasks", tasks.joined(separator: ", "), .told, told.source)
    return told.reader.node
  }

  // MARK: - Names

  /// The weights of what the model has, by role.
  private func rankingWeights(_ tables: [String]) -> [(ModelRole, String)] {
    var roles = tables.map { ModelRole.table($0) }
    roles += [
      .positionTable, .timeTable, .actionBits, .targetAction, .contextualWeight, .contextualBias,
    ]
    for role in PerceptronRole.allCases where role != .additional || found[.inner(.additional)] ?? 0 > 0 {
      roles += PerceptronPart.allCases.map { .perceptron(role, $0) }
    }
    let weights = roles.compactMap { role in found[role].map { (role, $0.name) } }
    return weights + outputNormWeights
  }
}
