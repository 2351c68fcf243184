import TensorIR

/// Which rows of each value can still reach a result: found backward, since what is needed needs its operands.
struct DemandAnalysis {
  private let function: Function
  private let spaces: RowSpaces
  private var demands: [ValueID: RowDemand] = [:]
  /// Of every attention that is needed, the rows that its keys are needed of.
  private var keys: [OperationID: RowDemand] = [:]

  init(_ function: Function, _ spaces: RowSpaces) {
    self.function = function
    self.spaces = spaces
    for result in function.results { need(result.value, .all) }
    for id in function.body.reversed() { visit(id) }
  }

  /// The rows that are needed of a value; of one without rows, all or none.
  subscript(value: ValueID) -> RowDemand { demands[value] ?? .none }

  /// The rows that an operation which treats each row alone is needed of.
  func rows(of id: OperationID) -> RowDemand {
    function[id].results.reduce(.none) { $0.joined(with: self[$1]) }
  }

  /// The rows that an attention is needed of, as queries and as keys.
  func queries(of id: OperationID) -> RowDemand { rows(of: id) }
  func keys(of id: OperationID) -> RowDemand { keys[id] ?? .none }

  /// Every demand of some value of a space, each once, in the order of the function.
  func all(in space: Int) -> [RowDemand] {
    var found: [RowDemand] = []
    func note(_ demand: RowDemand) { if demand != .none, !found.contains(demand) { found.append(demand) } }
    func isThere(_ value: ValueID) -> Bool { spaces.space(of: value, in: function) == space }
    let values = function.arguments + function.body.flatMap { function[$0].results }
    for value in values where isThere(value) { note(self[value]) }
    for id in function.body where function[id].isAttention && isThere(function[id].operands[1]) { note(keys(of: id)) }
    return found
  }

  /// Whether some operation is needed of fewer rows than it computes.
  var isNarrower: Bool {
    function.body.contains { id in
      guard let result = function[id].results.first, function[result].type.tensor != nil,
        let whole = spaces.whole(of: result, in: function)
      else { return false }
      return rows(of: id) != .none && rows(of: id) != whole
    }
  }

  /// Whether an attention is needed of fewer queries or keys than it has.
  func isNarrower(_ id: OperationID) -> Bool {
    let operation = function[id]
    return queries(of: id) != spaces.whole(of: operation.results[0], in: function)
      || keys(of: id) != spaces.whole(of: operation.operands[1], in: function)
  }

  // MARK: - Backward

  private mutating func need(_ value: ValueID, _ demand: RowDemand) {
    guard demand != .none else { return }
    guard let whole = spaces.whole(of: value, in: function) else {
      demands[value] = .all
      return
    }
    demands[value] = self[value].joined(with: demand.isWithin(whole) ? demand : whole)
  }

  private mutating func visit(_ id: OperationID) {
    let operation = function[id]
    let operands = operation.operands
    let demand = rows(of: id)
    guard demand != .none else { return }
    switch operation.payload {
    case .attention(let attention): visit(id, attention, demand)
    case .extendOffsets, .lengths, .selectOffsets: break
    case .extendRows(let extend):
      let places = extend.places(among: operands.count)
      guard isTold(operation.results[0]), spaces.whole(of: operands[places.x], in: function) == .all else {
        for value in operation.results + operands { need(value, .all) }
        return
      }
      let (before, after) = extend.addition.demands(for: demand)
      need(operation.results[0], after)
      need(operands[places.x], before)
      for added in operands[places.added] { need(added, before) }
    case .originalRows:
      // Rows of two batches: computed for all.
      for value in operation.results + operands { need(value, .all) }
    case .bucketTimes, .nextRows, .positions:
      // Cheap integers that depend on rows around: computed for all.
      for value in operation.results + operands { need(value, .all) }
    case .selectRows:
      // Of rows that several batches have as many of, those that are kept of this one.
      let kept = spaces.whole(of: operands[2], in: function) ?? .all
      need(operands[0], isTold(operation.results[0]) ? demand : kept)
    case .restoreRows:
      guard isTold(operation.results[0]), let kept = spaces.whole(of: operands[0], in: function) else {
        for value in operation.results + operands { need(value, .all) }
        return
      }
      if demand.isWithin(kept) {
        need(operands[0], demand)
      } else {
        // Rows can be put back only where they were.
        let both = demand.joined(with: kept)
        need(operation.results[0], both)
        need(operands[0], kept)
        need(operands[1], both)
      }
    case .lastRows: need(operands[0], .ends(first: 0, latest: 1))
    case .pickRows: need(operands[0], .all)
    case .replaceTargets where spaces.targets(of: operation.results[0], in: function) == [operands[3]]:
      need(operands[0], demand)
    case .replaceTargets: for value in operation.results + operands { need(value, .all) }
    case .topK:
      let isTold = operation.results.contains(where: isTold)
      need(operands[0], isTold ? demand : .all)
      // What was seen is of the whole batch, whatever rows are dropped.
      for operand in operands.dropFirst() { need(operand, .all) }
    case .add, .calendarUnits, .concatenate, .convert, .dequantizeRows, .embedBits, .gather, .groupNorm, .l2Norm,
      .layerNorm, .linear,
      .markBits, .multiply, .quantizeRows, .quantizedLinear, .scale, .sigmoid, .silu, .split, .zeroRows:
      // Each row alone.
      let isTold = operation.results.contains(where: isTold)
      for operand in operands { need(operand, isTold ? demand : .all) }
    }
  }

  private func isTold(_ value: ValueID) -> Bool { spaces.whole(of: value, in: function) != nil }

  private mutating func visit(_ id: OperationID, _ attention: Attention, _ demand: RowDemand) {
    let operation = function[id]
    let operands = operation.operands
    guard isTold(operation.results[0]), let whole = spaces.whole(of: operands[1], in: function),
      attention.hasTargets == !spaces.targets(of: operands[1], in: function).isEmpty
    else {
      // A mask that takes targets for history shows rows that demands have no name for.
      for value in operation.results + operands { need(value, .all) }
      if let whole = spaces.whole(of: operands[1], in: function) { keys[id] = whole }
      return
    }
    var keys = attention.mask.keys(
      of: demand, hasTargets: attention.hasTargets, keepsDistances: attention.bias != .none)
    // A divisor of the batch is that of all rows which the layer has.
    if case .fixed = attention.divisor {} else { keys = .all }
    if !keys.isWithin(whole) { keys = whole }
    self.keys[id] = keys
    need(operands[0], demand)
    need(operands[1], keys)
    need(operands[2], keys)
    guard attention.bias == .positionAndTime else { return }
    need(operands[attention.firstBiasOperand + 2], demand)
    need(operands[attention.firstBiasOperand + 3], keys)
  }
}
