import TensorIR

/// `names` of model.json.
struct NamesDecoder {
  let layerCount: Int

  func names(_ reader: JSONReader) throws(ModelError) -> WeightNames {
    let object = try reader.object(ModelKeys.names)
    var names = WeightNames(preset: try object.required("preset").choice(WeightNames.Preset.self))
    names.prefix = try object.optional("prefix")?.string() ?? ""
    if let prefix = object.optional("layer_prefix") { names.layerPrefix = try layerPrefix(prefix) }
    for (key, value) in try object.optional("map")?.anyObject().values ?? [] {
      let name = try value.string()
      guard !name.isEmpty else { throw value.mismatch(expected: "the name of a tensor") }
      try map(key, to: name, value, &names)
    }
    return names
  }

  private func layerPrefix(_ reader: JSONReader) throws(ModelError) -> WeightNames.LayerPrefix {
    if case .string(let pattern) = reader.node.value { return .pattern(pattern) }
    guard case .array(let nodes) = reader.node.value else {
      throw reader.mismatch(expected: "a string with {i} in it, or one string for each layer")
    }
    guard nodes.count == layerCount else {
      throw reader.error(.unexpectedValue, "\(nodes.count) prefixes for \(layerCount) layers")
    }
    return .list(try reader.elements().map { (element) throws(ModelError) in try element.string() })
  }

  /// A key of the map is a role: `item_table`, `uvqk_weight` for all layers, or `layers.2.uvqk_weight` for one.
  private func map(
    _ key: String, to name: String, _ reader: JSONReader, _ names: inout WeightNames
  ) throws(ModelError) {
    if let role = ModelRole(key: key) {
      names.modelNames[role] = name
    } else if let role = LayerRole(rawValue: key) {
      names.layerNames[role] = name
    } else {
      let parts = key.split(separator: ".", omittingEmptySubsequences: false)
      guard parts.count == 3, parts[0] == "layers", let index = Int(parts[1]), (0..<layerCount).contains(index),
        let role = LayerRole(rawValue: String(parts[2]))
      else {
        let layers = LayerRole.allCases.map(\.rawValue)
        let plain = ModelRole.plain.map(\.key) + layers
        let roles = ModelRole.withoutTables.map(\.key) + layers
        throw reader.error(
          .unknownKey, "unknown weight",
          hint: nearest(to: key, in: roles).map { "did you mean \(quoted($0))?" }
            ?? "the weights are \(plain.joined(separator: ", ")); those of one layer are layers.{i}.\(roles.last ?? "")"
        )
      }
      names.singleLayerNames[index, default: [:]][role] = name
    }
  }
}

/// `input` of model.json.
struct InputDecoder {
  let width: Int
  /// Contextual rows that `sequence` tells of; nil where it does not.
  let contextual: Int?

  private enum Kind: String, CaseIterable { case rows, embedding, events }

  func input(_ reader: JSONReader) throws(ModelError) -> ModelDescription.Input {
    let object = try reader.object(ModelKeys.input)
    let kind = try object.required("kind", "it is \"rows\", \"embedding\" or \"events\"").choice(Kind.self)
    for (key, value) in object.values where key != "kind" {
      let owners = Self.owners(of: key)
      if owners.contains(kind) { continue }
      let kinds = alternatives(owners.map { quoted($0.rawValue) })
      throw value.error(.unexpectedValue, "only an input of kind \(kinds) has this key")
    }
    switch kind {
    case .rows: return .rows
    case .embedding:
      let item = try table(object.required("item"))
      var embedding = ModelDescription.Embedding(item: item)
      if let action = object.optional("action") { embedding.action = try table(action) }
      if let scale = object.optional("scale") { embedding.scale = try rowScale(scale, width: width) }
      if let position = object.optional("position") {
        embedding.position = try positionTable(position, contextual: contextual ?? 0)
      }
      embedding.paddingID = try object.optional("padding_id")?.nonNegativeInteger()
      return .embedding(embedding)
    case .events:
      let events = try EventDecoder(width: width).events(object)
      if let contextual, contextual != events.slotCount {
        throw (object.optional("contextual") ?? reader).error(
          .unexpectedValue, "\(events.slotCount) slots, but sequence.contextual is \(contextual)")
      }
      return .events(events)
    }
  }

  /// The kinds of input that have a key.
  private static func owners(of key: String) -> [Kind] {
    switch key {
    case "item", "padding_id": [.embedding]
    case "action", "scale", "position": [.embedding, .events]
    default: [.events]
    }
  }

  private func table(_ reader: JSONReader) throws(ModelError) -> ModelDescription.Table {
    let object = try reader.object(ModelKeys.table)
    let rows = try object.required("rows").positiveInteger()
    return ModelDescription.Table(
      rows: rows, outOfRange: try outOfRange(object.optional("out_of_range"), rows: rows))
  }
}

/// What is done with ids that are no row of a table; an error of the call where nothing is said.
func outOfRange(_ reader: JSONReader?, rows: Int) throws(ModelError) -> Gather.OutOfRange {
  guard let reader else { return .error }
  switch reader.node.value {
  case .string("error"): return .error
  case .string("modulo"): return .modulo
  case .object:
    let fallback = try reader.object(ModelKeys.fallback).required("fallback", "the row that stands in")
    return .fallback(row: try fallback.integer(in: 0...(rows - 1), expected: "a row of the table, 0...\(rows - 1)"))
  default: throw reader.mismatch(expected: "\"error\", \"modulo\" or {\"fallback\": row}")
  }
}

/// A factor on rows of the model's width.
func rowScale(_ reader: JSONReader, width: Int) throws(ModelError) -> Double {
  try number(reader, words: [("sqrt(width)", Double(width).squareRoot())])
}

func positionTable(_ reader: JSONReader, contextual: Int) throws(ModelError) -> ModelDescription.PositionTable {
  let object = try reader.object(ModelKeys.positionTable)
  let rows = try object.required("rows").positiveInteger()
  let order = try object.required("order", "it is \"ascending\" or \"descending\"").choice(Positions.Order.self)
  let limit = try object.optional("limit")?.integer(
    in: 0...(rows - 1), expected: "a row of the position table, 0...\(rows - 1)")
  if order == .descending, contextual > (limit ?? rows - 1) + 1 {
    throw reader.error(
      .unexpectedValue,
      "\(contextual) contextual rows need as many positions, but the last one is \(limit ?? rows - 1)")
  }
  return ModelDescription.PositionTable(rows: rows, order: order, limit: limit)
}

/// `output` of model.json.
struct OutputDecoder {
  /// The model so far, without its output.
  let description: ModelDescription

  private enum NormKind: String, CaseIterable {
    case none, l2
    case layer = "layer_norm"
    case timestampLayer = "timestamp_layer_norm"
  }

  func output(_ reader: JSONReader) throws(ModelError) -> ModelDescription.Output {
    let object = try reader.object(ModelKeys.output)
    let rows = try object.required("rows", "they are \"all\", \"last\" or \"targets\"")
    var output = ModelDescription.Output(rows: try rows.choice(ModelDescription.Output.Rows.self))
    if output.rows == .targets && !description.hasTargets {
      throw rows.error(.unexpectedValue, "the model has no targets", hint: "set sequence.targets to true")
    }
    output.norm = try norm(
      object.required(
        "norm", "its kind is \"none\", \"l2\", \"layer_norm\" or \"timestamp_layer_norm\""))
    if let name = object.optional("name") {
      output.name = try name.string()
      if ["", "scores", "top_scores", "top_ids", "out_offsets"].contains(output.name) {
        throw name.mismatch(expected: "a name of its own")
      }
    }
    if let scores = object.optional("scores") { output.scores = try self.scores(scores.object(ModelKeys.scores)) }
    if let ranking = object.optional("ranking") {
      output.ranking = try self.ranking(ranking, output.rows)
      for other in ["scores", "top_k", "name"] {
        if let value = object.optional(other) {
          throw value.error(.unexpectedValue, "stands beside \"ranking\", whose result is \"scores\"")
        }
      }
    }
    if let top = object.optional("top_k") { output.topK = try topK(top, output.rows) }
    return output
  }

  private func norm(_ reader: JSONReader) throws(ModelError) -> ModelDescription.Output.Norm {
    let object = try reader.object(ModelKeys.outputNorm)
    let kind = try object.required("kind").choice(NormKind.self)
    for (key, value) in object.values where key != "kind" {
      if kind == .none { throw value.error(.unexpectedValue, "a norm of kind \"none\" has no \(key)") }
      if kind != .timestampLayer, key != "epsilon" {
        throw value.error(.unexpectedValue, "only a norm of kind \"timestamp_layer_norm\" has this key")
      }
    }
    func epsilon(_ published: String) throws(ModelError) -> Double {
      try object.required("epsilon", "the published models use \(published)").positiveNumber()
    }
    switch kind {
    case .none: return .none
    case .l2: return .l2(epsilon: try epsilon("1e-6"))
    case .layer: return .layer(epsilon: try epsilon("1e-5"))
    case .timestampLayer:
      let list = try object.required("periods", "GR takes the hours of a day and the days of a week")
      let periods = try list.elements().map { (element) throws(ModelError) in
        let period = try element.object(ModelKeys.period)
        func number(_ key: String, _ what: String) throws(ModelError) -> Int {
          try period.required(key, what).integer(in: 1...1 << 20, expected: "a number from 1 to 2^20")
        }
        return ModelDescription.Output.Period(
          unit: try number("unit", "seconds of a unit"), count: try number("count", "units until they begin again"))
      }
      return .timestampLayer(
        epsilon: try epsilon("1e-5"), periods: periods,
        pi: try object.required("pi", "GR takes 3.14").positiveNumber())
    }
  }

  /// `first_row` and `norm` of an object that has both.
  private func scores(_ object: JSONObjectReader) throws(ModelError) -> ModelDescription.Output.Scores {
    let feature = try itemFeature(object)
    guard let (_, rows) = description.items(feature: feature) else {
      throw object.reader.error(
        .unexpectedValue, "scores need a table of items, but the input is of kind \"rows\"",
        hint: "an input of kind \"embedding\" or \"events\" has tables")
    }
    return ModelDescription.Output.Scores(
      firstRow: try object.required("first_row", "1 where row 0 of the item table is padding, else 0").integer(
        in: 0...(rows - 1), expected: "a row of the item table, 0...\(rows - 1)"),
      norm: try itemNorm(object.required("norm", "its kind is \"none\" or \"l2\"")), feature: feature)
  }

  /// Of events, the feature whose table's rows are the items.
  private func itemFeature(_ object: JSONObjectReader) throws(ModelError) -> String? {
    guard case .events(let events) = description.input else {
      if let feature = object.optional("feature") {
        throw feature.error(.unexpectedValue, "only an input of kind \"events\" has features")
      }
      return nil
    }
    let reader = try object.required("feature", "the feature whose table's rows are the items")
    let name = try reader.string()
    guard let feature = events.feature(name), let table = events.table(feature.table) else {
      let names = events.features.map(\.name)
      throw reader.mismatch(
        expected: "a feature of the input, \(alternatives(names.map { quoted($0) }))",
        hint: nearest(to: name, in: names).map { "did you mean \(quoted($0))?" })
    }
    guard table.width == description.width else {
      throw reader.error(
        .unexpectedValue,
        "rows of its table \(quoted(table.name)) are \(table.width) wide, but the model's are \(description.width): "
          + "there is no product of the two")
    }
    return name
  }
}

extension OutputDecoder {
  /// A norm of the item table's rows, which has no weights.
  private func itemNorm(_ reader: JSONReader) throws(ModelError) -> ModelDescription.Output.Norm {
    let norm = try norm(reader)
    switch norm {
    case .none, .l2: return norm
    case .layer, .timestampLayer:
      throw reader.error(.unexpectedValue, "items have a norm of kind \"none\" or \"l2\"")
    }
  }

  private enum Seen: String, CaseIterable { case leaveOut = "leave_out", keep }

  private func topK(
    _ reader: JSONReader, _ rows: ModelDescription.Output.Rows
  ) throws(ModelError) -> ModelDescription.Output.TopK {
    let object = try reader.object(ModelKeys.topK)
    let scores = try scores(object)
    let items = description.items(feature: scores.feature)?.rows ?? 0
    let most = min(TopK.mostItems, items - scores.firstRow)
    let count = try object.required("k", "how many items are wanted").integer(
      in: 1...most, expected: "a number of items, 1...\(most)")
    let seen = try object.required("seen", "it is \"leave_out\" or \"keep\"")
    let leavesOut = try seen.choice(Seen.self) == .leaveOut
    if leavesOut && rows != .last {
      throw seen.error(
        .unexpectedValue, "items that a sequence has seen are left out of the list of its last row only",
        hint: "set output.rows to \"last\", or seen to \"keep\"")
    }
    return ModelDescription.Output.TopK(count: count, scores: scores, leavesOutSeen: leavesOut)
  }
}

/// A finite number, or one of a few words that stand for numbers.
func number(_ reader: JSONReader, words: [(key: String, value: Double)]) throws(ModelError) -> Double {
  let expected = (["a number"] + words.map { quoted($0.key) })
  switch reader.node.value {
  case .number(let number) where number.double.isFinite: return number.double
  case .string(let text):
    if let word = words.first(where: { $0.key == text }) { return word.value }
    let near = nearest(to: text, in: words.map(\.key))
    throw reader.mismatch(expected: alternatives(expected), hint: near.map { "did you mean \(quoted($0))?" })
  default: throw reader.mismatch(expected: alternatives(expected))
  }
}
