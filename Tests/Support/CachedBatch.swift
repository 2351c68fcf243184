import TensorIR

/// The batch of a random program, cut into the history of each sequence, which is kept, and the rows behind it, which a call
/// brings: its targets, or its last rows.
public struct CachedBatch {
  /// Gives the results of a function for inputs.
  public typealias Run = (_ function: String, _ inputs: [String: HostTensor]) throws -> [String: HostTensor]

  /// A program with `prefill`, `score` and `extend`.
  public let module: Module
  private let inputs: [String: HostTensor]
  private let forward: Function
  private let offsets: [Int]
  /// Rows of each sequence that a call brings.
  private let own: [Int]

  /// Cuts off a program's targets where `module`, the program rewritten, has `score`, else the last rows of each sequence,
  /// as many as `own` says. nil where it has no offsets.
  public init?(_ program: RandomProgram, _ module: Module, own: (_ length: Int) -> Int) {
    guard let forward = module.function(named: "forward"), program.inputs["offsets"] != nil,
      module.function(named: "score") != nil || program.inputs["targets"] == nil
    else { return nil }
    self.module = module
    self.forward = forward
    inputs = program.inputs
    offsets = program.offsets
    let lengths = zip(program.offsets, program.offsets.dropFirst()).map { $1 - $0 }
    self.own =
      module.function(named: "score") == nil
      ? lengths.map(own) : (program.inputs["targets"]?.integers.map(Int.init) ?? lengths.map { _ in 0 })
  }

  /// How many rows a call brings.
  public var ownRows: Int { own.reduce(0, +) }

  /// What `forward` gives for the whole batch, of each result the rows that a call brings.
  public func whole(_ run: Run) throws -> [String: HostTensor] {
    let results = try run("forward", inputs)
    var found: [String: HostTensor] = [:]
    for result in forward.results {
      guard let type = forward[result.value].type.tensor, let tensor = results[result.name] else { continue }
      let cut: [Int]
      if type.shape[0] == .symbol("sequences") {
        // What comes last of a sequence that gets no more rows is not told.
        found[result.name] = try tensor.rows(own.indices.filter { own[$0] > 0 })
        continue
      } else if type.shape[0] == .symbol("rows") {
        cut = offsets
      } else {
        // Rows of a selection are known by offsets that are a result too.
        let name = forward.results.first {
          forward[$0.value].type.tensor == nil && forward[$0.value].type.dimensions.last == type.shape[0]
        }?.name
        guard let kept = name.flatMap({ results[$0] }) else { continue }
        cut = kept.integers.map(Int.init)
      }
      found[result.name] = try tensor.rows(
        zip(cut.dropFirst(), own).flatMap { end, count in end - count..<end })
    }
    return found
  }

  /// What `prefill` and then `score` or `extend` give.
  public func continued(_ run: Run) throws -> [String: HostTensor] {
    let history = zip(zip(offsets, offsets.dropFirst()), own).map { bounds, count in bounds.0..<bounds.1 - count }
    let behind = zip(offsets.dropFirst(), own).map { end, count in end - count..<end }
    var kept = try run("prefill", try given(history, to: "prefill", isHistory: true))
    // What prefill does not give, its caller has.
    for (name, tensor) in try given(history, to: "forward", isHistory: true) where kept["cached_\(name)"] == nil {
      kept["cached_\(name)"] = tensor
    }
    let next = module.function(named: "score") == nil ? "extend" : "score"
    var given = try given(behind, to: next, isHistory: false)
    for argument in module.function(named: next)?.argumentNames ?? [] where given[argument] == nil {
      given[argument] = kept[argument]
    }
    var found = try run(next, given)
    for result in forward.results where forward[result.value].type.dimensions.first == .symbol("sequences") {
      found[result.name] = try found[result.name]?.rows(own.indices.filter { own[$0] > 0 })
    }
    return found
  }

  private static func offsets(_ ranges: [Range<Int>]) -> HostTensor {
    HostTensor(ranges.reduce(into: [0]) { $0.append($0[$0.count - 1] + Int64($1.count)) })
  }

  /// The inputs of these rows, as far as the function takes them.
  private func given(_ ranges: [Range<Int>], to name: String, isHistory: Bool) throws -> [String: HostTensor] {
    var given: [String: HostTensor] = [:]
    let names = module.function(named: name)?.argumentNames ?? []
    for argument in forward.arguments {
      let value = forward[argument]
      guard names.contains(value.name), let input = inputs[value.name] else { continue }
      switch value.type {
      case .offsets: given[value.name] = value.name == "offsets" ? Self.offsets(ranges) : input
      case .tensor(let type) where type.shape[0] == .symbol("rows"):
        given[value.name] = try input.rows(ranges.flatMap { $0 })
      case .tensor: given[value.name] = input
      }
    }
    for name in names where isHistory && given[name] == nil && name.hasPrefix("query_") {
      // The request is known before its candidates: it has the time of the last of them.
      let times = inputs[String(name.dropFirst(6))]?.integers ?? []
      given[name] = HostTensor(zip(offsets, offsets.dropFirst()).map { $0 < $1 ? times[$1 - 1] : 0 })
    }
    if isHistory, names.contains("candidate_offsets") {
      given["candidate_offsets"] = HostTensor(own.reduce(into: [Int64(0)]) { $0.append($0[$0.count - 1] + Int64($1)) })
    }
    // After a history comes its next row, not yet the request.
    if isHistory, let times = inputs["times"]?.integers, let requests = given["request_times"]?.integers {
      given["request_times"] = HostTensor(
        zip(requests, zip(ranges, own)).map { request, rows in rows.1 > 0 ? times[rows.0.upperBound] : request })
    }
    return given
  }
}

extension Function {
  /// What its arguments are called, in order.
  public var argumentNames: [String] { arguments.map { self[$0].name } }
}
