import TensorIR

/// Writes a function anew with every value computed for the rows that are needed of it; where a user needs fewer, those are
/// selected from it.
struct RowPruner {
  private(set) var function: Function
  private let original: Function
  private let spaces: RowSpaces
  private let demands: DemandAnalysis
  /// By space, rows that some value holds, from all to the fewest, each within the one before; with what cuts them.
  private var levels: [[(rows: RowDemand, offsets: ValueID)]] = []
  /// What stands for a value of the old function, and the rows that it holds.
  private var stands: [ValueID: (value: ValueID, rows: RowDemand)] = [:]
  /// Rows selected from values.
  private var selected: [Selected: ValueID] = [:]
  /// What such rows were selected from, and the rows that it holds.
  private var sources: [ValueID: (value: ValueID, rows: RowDemand)] = [:]

  private struct Selected: Hashable {
    var value: ValueID
    var rows: RowDemand
  }

  /// Throws where the rows that values need are not each within the next.
  init(_ function: Function, _ spaces: RowSpaces, _ demands: DemandAnalysis) throws(PassError) {
    self.function = function
    original = function
    self.spaces = spaces
    self.demands = demands
    for space in spaces.spaces.indices { levels.append(try levels(of: space)) }
    for argument in function.arguments { stands[argument] = (argument, .all) }
  }

  private func levels(of space: Int) throws(PassError) -> [(rows: RowDemand, offsets: ValueID)] {
    // Operations whose rows have no name, or another space's, go on with the rows that they read.
    var rows = demands.all(in: space)
    for id in function.body where self.space(of: function[id].results[0]) != space {
      rows += function[id].operands.filter { self.space(of: $0) == space }.compactMap { whole(of: $0) }
    }
    for id in function.body {
      guard case .extendRows(let extend) = function[id].payload, demands.rows(of: id) != .none else { continue }
      let x = function[id].operands[extend.places(among: function[id].operands.count).x]
      if self.space(of: x) == space, whole(of: x) == .all { rows.append(before(extend, id)) }
    }
    var sorted: [RowDemand] = [.all]
    for demand in rows where !sorted.contains(demand) {
      let place = sorted.firstIndex { $0.isWithin(demand) } ?? sorted.count
      guard sorted[..<place].allSatisfy({ demand.isWithin($0) }) else {
        throw PassError("values need rows of which none are part of the others'")
      }
      sorted.insert(demand, at: place)
    }
    return sorted.map { ($0, spaces.spaces[space].offsets) }
  }

  /// The rows that an addition is needed of before it, among those of x's space.
  private func before(_ extend: ExtendRows, _ id: OperationID) -> RowDemand {
    extend.addition.demands(for: demands.rows(of: id)).before
  }

  private func whole(of value: ValueID) -> RowDemand? { spaces.whole(of: value, in: original) }

  private func space(of value: ValueID) -> Int? { spaces.space(of: value, in: original) }

  private func targets(of value: ValueID) -> [ValueID] { spaces.targets(of: value, in: original) }

  /// What cuts these rows of the space that a value's rows are of.
  private func offsets(of rows: RowDemand, like value: ValueID) throws(PassError) -> ValueID {
    guard let space = space(of: value), let level = levels[space].first(where: { $0.rows == rows }) else {
      throw PassError("rows without offsets")
    }
    return level.offsets
  }

  // MARK: - Rewriting

  mutating func rewrite() throws(PassError) {
    let body = function.body
    function.body = []
    for space in spaces.spaces.indices { try emitOffsets(of: space) }
    for id in body where demands.rows(of: id) != .none || isOffsets(id) { try rewrite(id) }
    for index in function.results.indices {
      let value = function.results[index].value
      let whole = self.whole(of: value) ?? .all
      function.results[index].value = try rows(whole, of: value)
    }
  }

  private func isOffsets(_ id: OperationID) -> Bool {
    switch function[id].payload {
    case .extendOffsets, .selectOffsets: true
    default: false
    }
  }

  /// The offsets of a space, and one selection after the other, those of the function where it has them.
  private mutating func emitOffsets(of space: Int) throws(PassError) {
    let (root, targets) = (spaces.spaces[space].offsets, spaces.spaces[space].targets)
    if let maker = spaces.spaces[space].maker {
      let operands = function[maker].operands
      guard let before = stands[operands[0]]?.value else { throw unknown(operands[0]) }
      function[maker].operands = [before] + operands.dropFirst()
      function.body.append(maker)
      stands[root] = (root, .all)
    }
    for index in levels[space].indices.dropFirst() {
      let rows = levels[space][index].rows
      let operands = [levels[space][index - 1].offsets] + targets
      if let own = spaces.selection(of: rows, in: space) {
        function[own].operands = operands
        function.body.append(own)
        levels[space][index].offsets = function[own].results[0]
      } else if let selection = rows.selection {
        levels[space][index].offsets = try emit(
          .selectOffsets(SelectOffsets(selection, into: function.newDimension("needed_rows"))), operands,
          "needed_offsets")
      }
    }
    for (id, own, whole) in spaces.selections where own == space {
      guard levels[space].contains(where: { $0.rows == whole }) else { continue }
      stands[function[id].results[0]] = (try offsets(of: whole, like: root), whole)
    }
  }

  private mutating func rewrite(_ id: OperationID) throws(PassError) {
    let operation = function[id]
    let operands = operation.operands
    let result = operation.results[0]
    let isTold = whole(of: result) != nil
    let demand = demands.rows(of: id)
    switch operation.payload {
    case .extendOffsets: return
    case .selectOffsets where isTold: return
    case .extendRows(let extend) where whole(of: operands[extend.places(among: operands.count).x]) == .all:
      let places = extend.places(among: operands.count)
      let before = before(extend, id)
      var values: [ValueID] = []
      for added in operands[places.added] { values.append(try rows(before, of: added)) }
      values += [
        try rows(before, of: operands[places.x]), try offsets(of: before, like: operands[places.x]),
        try offsets(of: demand, like: result),
      ]
      if let targets = places.targets { values.append(operands[targets]) }
      try append(id, values, rows: demand)
    case .extendRows, .originalRows:
      // Between two spaces: of both all rows that there are.
      var values: [ValueID] = []
      for operand in operands { values.append(try rows(whole(of: operand) ?? .all, of: operand)) }
      try append(id, values, rows: whole(of: result) ?? .all)
    case .selectRows where isTold:
      // The rows of another value, taken from it when they are needed.
      stands[result] = stands[operands[0]]
    case .selectRows where whole(of: operands[0]) != nil && whole(of: operands[2]) != nil:
      stands[result] = (try rows(whole(of: operands[2]) ?? .all, of: operands[0]), .all)
    case .restoreRows where isTold && whole(of: operands[0]) != nil:
      let kept = whole(of: operands[0]) ?? .all
      if demand.isWithin(kept) {
        stands[result] = stands[operands[0]]
        return
      }
      guard let selection = selection(of: kept, like: result) else { throw unknown(operands[3]) }
      function[id].payload = .restoreRows(RestoreRows(selection))
      let values = [try rows(kept, of: operands[0]), try rows(demand, of: operands[1])]
      let offsets = [try offsets(of: demand, like: result), try offsets(of: kept, like: result)]
      try append(id, values + offsets + targets(of: result), rows: demand)
    case .attention(let attention) where isTold: try rewrite(id, attention, demand)
    case .replaceTargets where targets(of: result) == [operands[3]]:
      let values = [try rows(demand, of: operands[0]), operands[1], try offsets(of: demand, like: result)]
      try append(id, values + targets(of: result), rows: demand)
    case .lastRows where whole(of: operands[0]) != nil:
      // The last row is one of any rows that are needed.
      guard let x = stands[operands[0]] else { throw unknown(operands[0]) }
      try append(id, [x.value, try offsets(of: x.rows, like: operands[0])], rows: .all)
    case .topK:
      // What was seen stays whole.
      var values: [ValueID] = []
      for (index, operand) in operands.enumerated() {
        let whole = whole(of: operand) ?? .all
        values.append(try rows(index == 0 && isTold ? demand : whole, of: operand))
      }
      try append(id, values, rows: demand)
    default:
      let needed = isTold ? demand : nil
      var values: [ValueID] = []
      for operand in operands {
        let whole = whole(of: operand) ?? .all
        values.append(try rows(needed ?? whole, of: operand))
      }
      try append(id, values, rows: demand)
    }
  }

  private mutating func rewrite(
    _ id: OperationID, _ attention: Attention, _ demand: RowDemand
  ) throws(PassError) {
    var attention = attention
    let operands = function[id].operands
    var keys = demands.keys(of: id)
    // Keys that are there anyway need not be selected.
    if let whole = whole(of: operands[1]), stands[operands[1]]?.rows == whole,
      stands[operands[2]]?.rows == whole
    {
      keys = whole
    }
    var values = [
      try rows(demand, of: operands[0]), try rows(keys, of: operands[1]), try rows(keys, of: operands[2]),
      try offsets(of: keys, like: operands[1]),
    ]
    if attention.hasTargets { values += targets(of: operands[1]) }
    let first = attention.firstBiasOperand
    attention.queries = demand == keys ? nil : selection(of: demand, like: operands[1])
    if attention.queries != nil { values.append(try offsets(of: demand, like: operands[1])) }
    values += operands[first...].prefix(2)
    if attention.bias == .positionAndTime {
      values += [try rows(demand, of: operands[first + 2]), try rows(keys, of: operands[first + 3])]
    }
    function[id].payload = .attention(attention)
    try append(id, values, rows: demand)
  }

  /// The selection as the offsets of these rows have it.
  private func selection(of rows: RowDemand, like value: ValueID) -> RowSelection? {
    guard let own = space(of: value).flatMap({ spaces.selection(of: rows, in: $0) }),
      case .selectOffsets(let select) = function[own].payload
    else { return rows.selection }
    return select.selection
  }

  /// Appends an operation of the old function with new operands; its results then hold these rows.
  private mutating func append(_ id: OperationID, _ operands: [ValueID], rows: RowDemand) throws(PassError) {
    function[id].operands = operands
    do {
      try function.inferResultTypes(of: id)
    } catch {
      throw PassError("%\(function[function[id].results[0]].name): \(error)")
    }
    function.body.append(id)
    for result in function[id].results { stands[result] = (result, rows) }
  }

  // MARK: - Rows of values

  private func unknown(_ value: ValueID) -> PassError {
    PassError("%\(function[value].name) is read before it is computed")
  }

  /// The given rows of a value of the old function; of one without rows, the value.
  private mutating func rows(_ rows: RowDemand, of value: ValueID) throws(PassError) -> ValueID {
    if case .weight = function[value].definition { return value }
    guard let stand = stands[value] else { throw unknown(value) }
    guard whole(of: value) != nil, original[value].type.tensor != nil else { return stand.value }
    return try select(rows, from: stand.value, holding: stand.rows, like: value)
  }

  private mutating func select(
    _ rows: RowDemand, from value: ValueID, holding held: RowDemand, like whole: ValueID
  ) throws(PassError) -> ValueID {
    if rows == held { return value }
    if let source = sources[value] {
      return try select(rows, from: source.value, holding: source.rows, like: whole)
    }
    let key = Selected(value: value, rows: rows)
    if let known = selected[key] { return known }
    if case .result(let id, let position) = function[value].definition, function[id].payload.preparesRows {
      // What is normed is selected for the residual anyway, and the norm of the others then stays in its kernel.
      let (payload, operands, results) = (function[id].payload, function[id].operands, function[id].results)
      let x = try select(rows, from: operands[0], holding: held, like: whole)
      let made = try emit(payload, [x] + operands.dropFirst(), results.map { "needed_\(function[$0].name)" })
      for (old, new) in zip(results, made) { selected[Selected(value: old, rows: rows)] = new }
      return made[position]
    }
    let name = function[value].name
    guard let selection = selection(of: rows, like: whole) else {
      throw PassError("%\(name) lacks rows that are needed")
    }
    let batch = [try offsets(of: held, like: whole), try offsets(of: rows, like: whole)] + targets(of: whole)
    let result = try emit(.selectRows(SelectRows(selection)), [value] + batch, "needed_\(name)")
    sources[result] = (value, held)
    selected[key] = result
    return result
  }

  private mutating func emit(_ payload: Payload, _ operands: [ValueID], _ name: String) throws(PassError) -> ValueID {
    try emit(payload, operands, [name])[0]
  }

  private mutating func emit(
    _ payload: Payload, _ operands: [ValueID], _ names: [String]
  ) throws(PassError) -> [ValueID] {
    do {
      let types = try payload.definition.resultTypes(for: operands.map { function[$0].type })
      return function[function.append(payload, operands: operands, results: Array(zip(names, types)))].results
    } catch {
      throw PassError("\(payload.mnemonic) %\(names[0]): \(error)")
    }
  }
}
