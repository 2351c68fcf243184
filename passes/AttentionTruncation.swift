import TensorIR

/// Keeps only the latest `keep` history rows after layer `after`.
///
/// Approximate: later layers lose the older rows that they were trained with. Source: arXiv 2602.16986, attention
/// truncation; forms as in TER (drop: the older rows are gone) and in GR's L2STU (skip: they pass by the later layers).
public let attentionTruncation = ModulePass(
  name: "attention-truncation", summary: "run deeper layers on the latest rows only",
  options: AttentionTruncationOptions.self, exactness: .approximate
) { (module, options, context) throws(PassError) in
  var found = false
  for index in module.functions.indices {
    var function = module.functions[index]
    // Rows change between operations of a region.
    function.dissolveRegions()
    let layers = function.body.filter { function[$0].isAttention }
    guard !layers.isEmpty else { continue }
    found = true
    do throws(PassError) {
      var truncation = try Truncation(function, layers, options)
      try truncation.rewrite()
      module.functions[index] = truncation.function
    } catch {
      throw PassError("@\(function.name): \(error.message)")
    }
    let rest = options.form == .drop ? "older ones are dropped" : "older ones skip them"
    let count = layers.count - (options.after ?? 0)
    context.note("\(count) of \(layers.count) layers on the latest \(options.keep ?? 0) history rows, \(rest)")
  }
  if !found { throw PassError("no function has an attention layer") }
}

/// What `attention-truncation` takes.
public struct AttentionTruncationOptions: PassOptions {
  /// What becomes of the older rows.
  public enum Form: String, CaseIterable, Sendable { case drop, skip }

  /// Layers that run on all rows.
  public var after: Int?
  /// L', history rows that later layers run on.
  public var keep: Int?
  /// What becomes of the others.
  public var form = Form.drop
  /// Rows at the start of every sequence that are kept too; nil for as many as masks call contextual.
  public var contextual: Int?

  /// Neither `after` nor `keep`, which must be given.
  public init() {}

  /// `after`, `keep`, `form` and `contextual`.
  public static var list: [PassOption<AttentionTruncationOptions>] {
    [
      .integer("after", \.after, summary: "attention layers that run on all rows"),
      .integer("keep", \.keep, in: 1...(1 << 40), summary: "the latest history rows, which later layers run on"),
      .word("form", \.form, summary: "whether older rows are gone, or skip the later layers; drop where not given"),
      .integer("contextual", \.contextual, summary: "first rows that are kept too; those of the masks where not given"),
    ]
  }

  /// A number that is missing.
  public var problem: String? {
    if after == nil { return "the option \"after\" is missing: attention layers that run on all rows" }
    return keep == nil ? "the option \"keep\" is missing: history rows that later layers run on" : nil
  }
}

/// One function, and what of it runs on which rows.
private struct Truncation {
  var function: Function
  let form: AttentionTruncationOptions.Form
  let selection: RowSelection
  /// What cuts all rows into sequences, and their number.
  let offsets: ValueID
  let rows: Dimension
  let targets: [ValueID]
  /// What layers hand on: before the cut, and after the last layer where rows are put back.
  let stream: ValueID
  let end: ValueID?
  /// What runs on the rows that are kept.
  let late: Set<OperationID>

  init(
    _ function: Function, _ layers: [OperationID], _ options: AttentionTruncationOptions
  ) throws(PassError) {
    let (after, keep) = (options.after ?? 0, options.keep ?? 1)
    guard layers.indices.contains(after) else {
      throw PassError("after: expected a whole number from 0 to \(layers.count - 1), found \"\(after)\"")
    }
    let flow = try RowFlow(function, layers)
    let contextual = try flow.contextual(from: after, asked: options.contextual)
    let stream = try flow.stream(after: after, type: nil)
    var end: ValueID?
    if options.form == .skip {
      let last = try flow.stream(after: layers.count, type: function[stream].type)
      guard flow.isResidual(from: stream, to: last) else {
        throw PassError(
          "form=skip puts rows back into a residual stream, but no sum carries %\(function[stream].name) on")
      }
      end = last
    }
    self.function = function
    form = options.form
    selection = .latest(keep: keep, contextual: contextual)
    offsets = flow.offsets
    rows = flow.rows
    targets = flow.targets
    self.stream = stream
    self.end = end
    late = try flow.operations(from: stream, to: end)
  }

  mutating func rewrite() throws(PassError) {
    let body = function.body
    let output = end.map { function.readers(of: [$0]).operations } ?? []
    function.body = body.filter { !late.contains($0) && !output.contains($0) }
    let into = function.newDimension("kept_rows")
    let kept = try emit(.selectOffsets(SelectOffsets(selection, into: into)), [offsets] + targets, "kept_offsets")
    var stands = [offsets: kept, stream: try select(stream, kept, "kept")]
    for id in body where late.contains(id) {
      for operand in function[id].operandsOfKeptRows where stands[operand] == nil && needsSelection(operand) {
        stands[operand] = try select(operand, kept, "kept_\(function[operand].name)")
      }
    }
    for id in body where late.contains(id) {
      let kept = function[id].operandsOfKeptRows
      function[id].operands = kept.map { stands[$0] ?? $0 } + function[id].operands.dropFirst(kept.count)
      do {
        try function.inferResultTypes(of: id)
      } catch {
        throw PassError("%\(function[function[id].results[0]].name) reads rows before and after the cut: \(error)")
      }
      function.body.append(id)
    }
    if let end {
      let restored = try emit(
        .restoreRows(RestoreRows(selection)), [end, stream, offsets, kept] + targets, "restored")
      function.body += body.filter(output.contains)
      for id in output { function[id].operands = function[id].operands.map { $0 == end ? restored : $0 } }
      function.results = function.results.map { $0.value == end ? .init(name: $0.name, value: restored) : $0 }
    }
    try returnOffsets(kept, of: .symbol(into))
  }

  /// Rows of later operations that come from elsewhere than the stream: timestamps, ids.
  private func needsSelection(_ value: ValueID) -> Bool {
    if case .result(let id, _) = function[value].definition, late.contains(id) { return false }
    return function[value].type.tensor?.shape.first == rows
  }

  private mutating func select(_ value: ValueID, _ kept: ValueID, _ name: String) throws(PassError) -> ValueID {
    try emit(.selectRows(SelectRows(selection)), [value, offsets, kept] + targets, name)
  }

  private mutating func emit(_ payload: Payload, _ operands: [ValueID], _ name: String) throws(PassError) -> ValueID {
    do {
      let types = try payload.definition.resultTypes(for: operands.map { function[$0].type })
      return function[function.append(payload, operands: operands, results: types.map { (name, $0) })].results[0]
    } catch {
      throw PassError("\(payload.mnemonic) %\(name): \(error)")
    }
  }

  /// Callers that get the rows that are kept need to know where sequences begin.
  private mutating func returnOffsets(_ kept: ValueID, of rows: Dimension) throws(PassError) {
    let results = function.results
    guard let first = results.firstIndex(where: { function[$0.value].type.dimensions.contains(rows) }) else { return }
    guard !results.contains(where: { $0.name == "out_offsets" }) else {
      throw PassError("the result of the rows that are kept needs out_offsets, but a result is called so already")
    }
    function.results.insert(.init(name: "out_offsets", value: kept), at: first + 1)
  }
}

extension Operation {
  /// The first operands, which are those of the rows that are kept where the operation runs on them only: what was seen is
  /// seen, also in rows that are dropped.
  fileprivate var operandsOfKeptRows: [ValueID] { isTopK ? Array(operands.prefix(2)) : operands }
}
