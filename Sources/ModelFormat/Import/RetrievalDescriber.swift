// Retrieval models: a stack on embeddings of items, whose last rows are compared with all items.
extension Describer {
  /// The research code's HSTU (SEMANTICS section 7).
  mutating func researchRetrieval() throws(ModelError) -> [(key: String, value: JSONNode?)] {
    let layer = try researchLayer()
    guard let items = found[.itemRows] else { throw missing(.itemTable, .research, "the input needs it") }
    guard let positions = found[.positionRows] else { throw missing(.positionTable, .research, "the input needs it") }
    note("items", items, .itemRows)
    note("positions", positions, .positionRows)
    noteFamily("padding", "item 0", "the research code")
    noteFamily("scale of rows", "sqrt(width)", "the research code")
    let input = JSONNode.object([
      ("kind", .text("embedding")), ("item", .object([("rows", .integer(items))])), ("scale", .text("sqrt(width)")),
      ("position", .object([("rows", .integer(positions)), ("order", .text("ascending"))])),
      ("padding_id", .integer(0)),
    ])
    let output = try retrievalOutput(firstRow: 1, hasItems: true)
    var weights: [(ModelRole, String)] = []
    for role in [ModelRole.itemTable, .positionTable] {
      if let tensor = found[role] { weights.append((role, tensor.name)) }
    }
    return [
      ("names", nameMap(.research, weights)), ("input", input), ("layer_count", .integer(found.layers.count)),
      ("layer", layer), ("output", output),
    ]
  }

  /// Production layers on summed embeddings of items and actions, the ULTRA form; on given rows where there are no tables.
  mutating func stackRetrieval() throws(ModelError) -> [(key: String, value: JSONNode?)] {
    let layer = try productionLayer(withSlots: false)
    var weights: [(ModelRole, String)] = []
    let (item, action) = try retrievalTables()
    var members: [(key: String, value: JSONNode?)] = [("kind", .text("rows"))]
    if let item {
      func table(_ name: String, _ role: ModelRole, _ label: String) -> JSONNode? {
        guard let tensor = found[.table(name)], let rows = found[.tableRows(name)] else { return nil }
        weights.append((role, tensor.name))
        note("\(label) (table \(name))", rows, .tableRows(name))
        return .object([("rows", .integer(rows))])
      }
      members = [("kind", .text("embedding")), ("item", table(item, .itemTable, "items"))]
      members.append(("action", action.flatMap { table($0, .actionTable, "actions") }))
      if let positions = found[.positionRows] {
        note("positions", positions, .positionRows)
        noteFamily("scale of rows", "sqrt(width)", "HSTUPositionalEncoder")
        members.append(("scale", .text("sqrt(width)")))
        members.append(("position", .object([("rows", .integer(positions)), ("order", .text("descending"))])))
        if let tensor = found[.positionTable] { weights.append((.positionTable, tensor.name)) }
      }
    } else if found.tables.isEmpty {
      noteFamily("input", "rows as given", "there is no embedding table")
      if let positions = found.extents[.positionRows] {
        throw error(positions.tensor, "rows for positions, but there is no table of items that they are added to")
      }
    }
    let stack = try stackMembers(layer)
    var rows = "last"
    if let told = settings[.rows] {
      rows = try told.word(ModelDescription.Output.Rows.allCases.map(\.rawValue))
      note("rows given back", rows, .told, told.source)
    } else {
      noteFamily("rows given back", "last", "retrieval")
    }
    let output = try retrievalOutput(rows: rows, firstRow: nil, hasItems: !found.tables.isEmpty)
    weights += outputNormWeights
    return [
      ("names", nameMap(.production, weights)),
      ("sequence", rows == "targets" ? .object([("targets", .bool(true))]) : nil), ("input", .object(members)),
    ] + stack + [("output", output)]
  }

  /// Which tables items and actions are looked up in.
  private mutating func retrievalTables() throws(ModelError) -> (item: String?, action: String?) {
    let tables = found.tables
    func known(_ setting: ToldSetting) throws(ModelError) -> String {
      let name = try setting.string()
      guard tables.contains(name) else {
        throw setting.error(
          "there is no table \(quoted(name))",
          hint: tables.isEmpty ? "the checkpoint has no tables" : "the tables are \(tables.joined(separator: ", "))")
      }
      return name
    }
    let item: String?
    if let told = settings[.itemTable] {
      item = try known(told)
    } else if tables.count == 1 || tables.contains("item") {
      item = tables.count == 1 ? tables[0] : "item"
    } else if tables.isEmpty {
      item = nil
    } else {
      item = nil
      _ = require(.itemTable, hint: "the tables are \(tables.joined(separator: ", "))")
    }
    if let told = settings[.actionTable] {
      return (item, try told.string() == "none" ? nil : try known(told))
    }
    return (item, item != "action" && tables.contains("action") ? "action" : nil)
  }

  /// `output`: users' rows, and items for them where they are asked for.
  private mutating func retrievalOutput(
    rows: String = "last", firstRow: Int?, hasItems: Bool
  ) throws(ModelError) -> JSONNode {
    let norm = try outputNorm()
    var scores: JSONNode?
    var top: JSONNode?
    let wantsScores = try settings[.scores].map { (setting) throws(ModelError) in
      try setting.read { (reader) throws(ModelError) in try reader.bool() }
    }
    let count = settings[.topK]
    if wantsScores == true || count != nil {
      guard hasItems else {
        throw (count ?? settings[.scores])?.error("scores need a table of items, but the checkpoint has none")
          ?? missingTensor("_embedding_collection.embeddings.item.weight", "scores need it")
      }
      var first = firstRow.map { JSONNode.integer($0) }
      if let told = passOn(.firstRow, required: firstRow == nil) {
        first = told
      } else if firstRow != nil {
        noteFamily("first_row", "1", "row 0 is padding")
      }
      var itemNorm: JSONNode?
      if let told = require(.itemNorm) {
        let kind = try told.word(["l2", "none"])
        note("item_norm", kind, .told, told.source)
        itemNorm = .object([("kind", .text(kind)), ("epsilon", kind == "l2" ? .number("1e-6") : nil)])
      }
      if wantsScores == true { scores = .object([("first_row", first), ("norm", itemNorm)]) }
      if count != nil {
        let seen = rows == "last" ? passOn(.seen) : passOn(.seen, required: false) ?? .text("keep")
        top = .object([
          ("k", passOn(.topK)), ("first_row", first), ("norm", itemNorm), ("seen", seen),
        ])
      }
    }
    return .object([
      ("rows", .text(rows)), ("norm", norm), ("name", rows == "last" ? .text("user_embeddings") : nil),
      ("scores", scores), ("top_k", top),
    ])
  }

  private func missing(
    _ role: ModelRole, _ preset: WeightNames.Preset, _ reason: String
  ) -> ModelError { missingTensor(preset.name(of: role) ?? role.key, reason) }
}
