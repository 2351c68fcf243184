/// Heads and widths of a stack's layers, which are all alike.
struct LayerDimensions {
  var heads: Int
  var attentionDim: Int
  var hiddenDim: Int
  /// What the last product reads.
  var parts: [String]
  /// The norm of attention: `layer_norm` or `group_norm`.
  var norm: String
}

extension Describer {
  private static let productionParts = ["u", "attention", "gated"]

  /// Dimensions of production layers. nil where something must be told first.
  mutating func productionDimensions() throws(ModelError) -> LayerDimensions? {
    guard let uvqk = found.extents[.uvqk], let inner = found.extents[.outputInner],
      let norm = found.extents[.outputNorm]
    else { throw missingTensor(missingLayerTensor, "layer 0 needs it") }
    // Attention's norm has a number a column, or a number a head; the last product reads one to three times as many columns.
    let ratio = norm.value > 0 && inner.value % norm.value == 0 ? inner.value / norm.value : 0
    guard ratio > 0 else {
      throw error(
        inner.tensor,
        "shape \(inner.tensor.entry.shape): its rows are no multiple of the \(norm.value) numbers of \(quoted(norm.tensor.name))"
      )
    }
    var kind = ratio <= 3 ? "layer_norm" : "group_norm"
    if let told = settings[.outputNorm] {
      kind = try told.word(["layer_norm", "group_norm"])
      note("output_norm", kind, .told, told.source)
    } else {
      note("output_norm", kind, .checkpoint, "\(norm.tensor.name) \(norm.tensor.entry.shape)")
    }
    var parts = kind == "layer_norm" && ratio < 3 ? (ratio == 1 ? ["gated"] : nil) : Self.productionParts
    if let told = settings[.concatenate] {
      parts = try told.strings()
      note("concatenate", parts?.joined(separator: ", ") ?? "", .told, told.source)
    } else if let parts {
      let from = kind == "layer_norm" ? ImportFact.Origin.checkpoint : .family
      note(
        "concatenate", parts.joined(separator: ", "), from,
        from == .family ? "STULayer's last product" : "\(inner.tensor.name) \(inner.tensor.entry.shape)")
    } else {
      _ = require(.concatenate, hint: "two parts fit the shapes")
    }
    guard let parts else { return nil }
    guard !parts.isEmpty, inner.value % parts.count == 0,
      kind == "group_norm" || inner.value / parts.count == norm.value
    else {
      let told = settings[.concatenate] ?? settings[.outputNorm]
      let message =
        "\(parts.count) parts and a \(kind) do not fit \(quoted(inner.tensor.name)) of shape \(inner.tensor.entry.shape) and \(quoted(norm.tensor.name)) of shape \(norm.tensor.entry.shape)"
      throw told?.error(message) ?? error(inner.tensor, message)
    }
    return try dimensions(
      values: inner.value / parts.count, of: uvqk, heads: kind == "group_norm" ? norm : nil, parts: parts, kind: kind)
  }

  /// Dimensions of the research code's layers. nil where something must be told first.
  mutating func researchDimensions() throws(ModelError) -> LayerDimensions? {
    guard let uvqk = found.extents[.uvqk], let inner = found.extents[.outputInner] else {
      throw missingTensor(missingLayerTensor, "layer 0 needs it")
    }
    let choices: [[String]] = [["gated"], ["u", "normed_attention", "gated"]]
    var fitting: [[String]] = []
    let told = settings[.concatenate]
    if let told {
      let parts = try told.strings()
      guard choices.contains(parts) else {
        throw told.error(
          "expected gated, or u, normed_attention, gated; found \(parts.joined(separator: ", "))")
      }
      fitting = [parts]
    } else {
      // The one that leaves queries and keys a width which heads, as told, divide.
      for parts in choices where inner.value % parts.count == 0 {
        let values = inner.value / parts.count
        guard let queries = queryColumns(uvqk.value, values) else { continue }
        if try headCounts(values: values, queries: queries).allSatisfy({ $0 != nil }) { fitting.append(parts) }
      }
    }
    guard let parts = fitting.first else {
      // Neither fits: say how the more common one does not.
      return try dimensions(values: inner.value, of: uvqk, heads: nil, parts: choices[0], kind: "layer_norm")
    }
    guard fitting.count == 1 else {
      _ = require(
        .concatenate,
        hint:
          "both fit \(inner.value) columns of \(quoted(inner.tensor.name)) and \(uvqk.value) of \(quoted(uvqk.tensor.name))"
      )
      if settings[.heads] == nil, settings[.attentionDim] == nil, settings[.hiddenDim] == nil { _ = require(.heads) }
      return nil
    }
    if let told {
      note("concatenate", parts.joined(separator: ", "), .told, told.source)
    } else {
      note(
        "concatenate", parts.joined(separator: ", "), .checkpoint, "\(inner.tensor.name) \(inner.tensor.entry.shape)")
    }
    guard inner.value % parts.count == 0 else {
      throw told?.error("\(parts.count) parts do not fit the \(inner.value) columns of \(quoted(inner.tensor.name))")
        ?? error(inner.tensor, "\(inner.value) columns are no multiple of \(parts.count)")
    }
    return try dimensions(
      values: inner.value / parts.count, of: uvqk, heads: nil, parts: parts, kind: "layer_norm")
  }

  /// Columns of queries, all heads; nil where none are left.
  private func queryColumns(_ uvqk: Int, _ values: Int) -> Int? {
    uvqk % 2 == 0 && values > 0 && uvqk / 2 > values ? uvqk / 2 - values : nil
  }

  /// The number of heads by each setting that tells it; nil for one that does not fit.
  private mutating func headCounts(values: Int, queries: Int) throws(ModelError) -> [Int?] {
    func count(_ columns: Int, _ width: Int, _ others: Int) -> Int? {
      guard columns % width == 0, others % (columns / width) == 0 else { return nil }
      return columns / width
    }
    var counts: [Int?] = []
    if let heads = settings[.heads] {
      let told = try heads.positiveInteger()
      counts.append(values % told == 0 && queries % told == 0 ? told : nil)
    }
    if let width = settings[.attentionDim] { counts.append(count(queries, try width.positiveInteger(), values)) }
    if let width = settings[.hiddenDim] { counts.append(count(values, try width.positiveInteger(), queries)) }
    return counts
  }

  /// Heads of `values` columns each of u and v, as told, or as a group norm says. nil where they must be told.
  private mutating func dimensions(
    values: Int, of uvqk: FoundTensors.Told, heads group: FoundTensors.Told?, parts: [String], kind: String
  ) throws(ModelError) -> LayerDimensions? {
    guard let queries = queryColumns(uvqk.value, values) else {
      throw error(
        uvqk.tensor,
        "shape \(uvqk.tensor.entry.shape): u and v take 2 x \(values) columns, which leaves none for q and k")
    }
    let common = commonDivisor(values, queries)
    let counts = try headCounts(values: values, queries: queries)
    if let group, values % group.value != 0 || queries % group.value != 0 {
      throw error(
        group.tensor,
        "shape \(group.tensor.entry.shape): \(group.value) heads divide neither \(values) columns of v nor \(queries) of q"
      )
    }
    let keys: [ImportKey] = [.heads, .attentionDim, .hiddenDim].filter { settings[$0] != nil }
    var heads = group?.value
    for (key, count) in zip(keys, counts) {
      guard let setting = settings[key] else { continue }
      let told = try setting.positiveInteger()
      guard let count else {
        throw setting.error(
          "\(told) does not fit \(values) columns of v and \(queries) of q, of all heads together",
          hint: "heads may be \(Self.divisors(of: common))")
      }
      if let heads, heads != count {
        throw setting.error("\(told) makes \(count) heads, but there are \(heads)", hint: "\(heads) x \(told) columns")
      }
      heads = count
    }
    if heads == nil, common == 1 { heads = 1 }
    guard let heads else {
      _ = require(
        .heads, hint: "\(values) columns of v and \(queries) of q, of all heads together: \(Self.divisors(of: common))")
      return nil
    }
    if let key = keys.first, let setting = settings[key] {
      note("heads", "\(heads)", .told, setting.source)
    } else if let group {
      note("heads", "\(heads)", .checkpoint, "\(group.tensor.name) \(group.tensor.entry.shape)")
    } else {
      note("heads", "1", .checkpoint, "\(values) columns of v and \(queries) of q have no other divisor in common")
    }
    note("attention_dim", queries / heads, .uvqk)
    note("hidden_dim", values / heads, .outputInner)
    return LayerDimensions(
      heads: heads, attentionDim: queries / heads, hiddenDim: values / heads, parts: parts, norm: kind)
  }

  private func commonDivisor(_ a: Int, _ b: Int) -> Int {
    var (a, b) = (a, b)
    while b != 0 { (a, b) = (b, a % b) }
    return a
  }

  /// "1, 2, 4 or 8"; the first sixteen.
  private static func divisors(of value: Int) -> String {
    let all = (1...max(min(value, 65_536), 1)).filter { value % $0 == 0 }
    return all.count > 16
      ? all.prefix(16).map(String.init).joined(separator: ", ") + " and so on"
      : alternatives(all.map(String.init))
  }

  /// The name of a tensor of layer 0 that there is none of.
  private var missingLayerTensor: String {
    let patterns = names.patterns.filter { if case .layer = $0.role { true } else { false } }
    let lacking = patterns.first { pattern in
      guard case .layer(let role) = pattern.role, let path = found.layers.first else { return false }
      return found[.layer(path: path, role)] == nil && pattern.shape.contains { found[$0] == nil }
    }
    return (lacking?.name ?? names.example).replacing("{i}", with: "0")
  }

  func error(_ tensor: FoundTensors.Tensor, _ message: String) -> ModelError {
    ModelError(.unexpectedTensor, file: tensor.file.path, place: tensor.place, message)
  }
}
