import TensorIR

/// What `forward` keeps of a history, and what counts its rows.
struct CachedModel {
  let forward: Function
  /// What cuts the rows of every input into sequences, and counts candidates; nil where there are none.
  let offsets: ValueID
  let targets: ValueID?
  /// Layers with attention, in order.
  let layers: [OperationID]
  /// What reads rows of a history, and by which cut: the layers, and lists of what was not seen.
  let readers: [OperationID: Int]
  /// What is kept, each value once by each cut: keys, values, times of keys, ids that were seen.
  let kept: [Kept]
  /// What cuts what is kept: layers on fewer rows keep fewer. The first is that of all rows of the first layer.
  let cuts: [Cut]

  /// One tensor of what is kept, and which cut cuts it.
  struct Kept {
    var name: String
    var value: ValueID
    var cut: Int
    /// What the value was rounded from, or the value itself: codes are of the numbers before, not rounded twice.
    var source: ValueID
    /// The codes that it is kept as, with one scale a row; nil where it is kept as it is.
    var codes: ElementType?

    /// What its scales are called.
    var scalesName: String { "\(name).scales" }
  }

  /// Rows that are kept of each sequence.
  struct Cut {
    /// Of `forward`: what cuts the rows that there are.
    var offsets: ValueID
    /// Those of them that later rows may still see; nil for all.
    var window: RowSelection?
    /// What the dimension of the kept rows is called.
    var rows: String
  }

  init(
    _ forward: Function, keep rows: CachedScoringOptions.Keep, cache: CachedScoringOptions.Cache
  ) throws(PassError) {
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
    var kept: [Kept] = []
    var cuts = [Cut(offsets: forward[layers[0]].operands[3], window: nil, rows: "cached")]
    func isBrought(_ value: ValueID) -> Bool {
      if case .argument = forward[value].definition { true } else { false }
    }
    func keep(_ name: String, _ value: ValueID, _ cut: Int, codes: ElementType? = nil) {
      guard !kept.contains(where: { $0.value == value && $0.cut == cut }) else { return }
      // What the caller brought, it has.
      let isBrought = isBrought(value)
      var entry = Kept(
        name: isBrought ? "cached_\(forward[value].name)" : name, value: value, cut: cut, source: value,
        codes: isBrought ? nil : codes)
      if entry.codes != nil, case .result(let id, _) = forward[value].definition, case .convert = forward[id].payload,
        forward[forward[id].operands[0]].type.tensor?.element == .f32
      {
        entry.source = forward[id].operands[0]
      }
      kept.append(entry)
    }
    func cut(_ offsets: ValueID, _ window: RowSelection? = nil) -> Int {
      if let known = cuts.firstIndex(where: { $0.offsets == offsets && $0.window == window }) { return known }
      cuts.append(Cut(offsets: offsets, window: window, rows: "cached.\(cuts.count)"))
      return cuts.count - 1
    }
    var readers: [OperationID: Int] = [:]
    for (index, id) in layers.enumerated() {
      let operation = forward[id]
      guard case .attention(let attention) = operation.payload, attention.queries == nil else {
        throw PassError("queries of layer \(index) are a selection already; cached-scoring comes before prune-demand")
      }
      // Of what the caller brought, it keeps all.
      let keepsAll = rows == .all || operation.operands[1...2].contains(where: isBrought)
      let window = keepsAll ? nil : attention.window
      let own = cut(operation.operands[3], window)
      readers[id] = own
      let codes: ElementType? = cache == .fp8 ? .f8e4m3 : nil
      keep("cache.\(index).k", operation.operands[1], own, codes: codes)
      keep("cache.\(index).v", operation.operands[2], own, codes: codes)
      if attention.bias == .positionAndTime {
        keep("cache.\(index).times", operation.operands[attention.firstBiasOperand + 3], own)
      }
    }
    // What a history has seen, its further rows have not seen alone. Lists of ids with offsets of their own are each call's.
    for id in forward.body {
      guard case .topK = forward[id].payload, forward[id].operands.count == 4,
        Self.root(of: forward[id].operands[3], in: forward) == offsets
      else { continue }
      let own = cut(forward[id].operands[3])
      readers[id] = own
      keep("cache.seen", forward[id].operands[2], own)
    }
    self.readers = readers
    self.kept = kept
    self.cuts = cuts
  }

  /// The offsets that selections and additions of rows began with.
  private static func root(of offsets: ValueID, in forward: Function) -> ValueID {
    guard case .result(let id, _) = forward[offsets].definition else { return offsets }
    return root(of: forward[id].operands[0], in: forward)
  }

  /// Whether these offsets cut sequences that candidates belong to, and not a feature's ids.
  func counts(_ cut: ValueID) -> Bool { Self.root(of: cut, in: forward) == offsets }

  /// What a call gives of what is kept, of the rows that it computes.
  var computed: [Kept] { kept.filter { !forward.arguments.contains($0.value) } }

  /// The cut of all rows that these offsets cut, or else of all that inputs have.
  func cut(numbering offsets: ValueID) -> Int? {
    cuts.firstIndex { $0.offsets == offsets && $0.window == nil }
      ?? cuts.firstIndex { $0.offsets == self.offsets && $0.window == nil }
  }
}

extension Attention {
  /// The rows of a history that rows behind it can see, where those are not all: candidates, or further history of any length. Rows
  /// between the first and the latest can be left out, for masks count from either end.
  fileprivate var window: RowSelection? {
    // A bias or a divisor may count the rows between.
    guard bias == .none, case .fixed = divisor else { return nil }
    var demand = mask.keys(of: .ends(first: 0, latest: 1), hasTargets: false)
    if hasTargets { demand = demand.joined(with: mask.keys(of: .ends(first: 0, latest: 0), hasTargets: true)) }
    guard case .ends(let first, let latest) = demand else { return nil }
    return .pairedLatest(keep: latest, contextual: first)
  }
}
