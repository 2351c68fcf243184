import TensorIR

/// Products that are best computed late: of whose results nothing is read but by rows themselves, and that only together with
/// attention which the product need not wait for. u and q of a layer are such; k and v, which other rows read, are not.
///
/// Where the rows that such a product starts from lie in memory anyway, as x does for the residual, what it gives need never
/// be written: it is computed again in the region that reads it, norm and all.
struct LateProducts {
  private let function: Function
  private let readers: [ValueID: Set<OperationID>]
  private let results: Set<ValueID>
  /// How many numbers such a product contracts at least.
  private let narrowest: Int
  /// The attentions that a value follows from.
  private var attentions: [ValueID: Set<OperationID>] = [:]

  init(_ function: Function, narrowest: Int) {
    self.function = function
    self.narrowest = narrowest
    readers = function.readersOfValues
    results = Set(function.results.map(\.value))
    for id in function.body {
      var awaited = awaited(by: function[id].operands)
      if function[id].isAttention { awaited.insert(id) }
      for result in function[id].results { attentions[result] = awaited }
    }
  }

  private func awaited(by values: [ValueID]) -> Set<OperationID> {
    values.reduce(into: []) { $0.formUnion(attentions[$1] ?? []) }
  }

  // MARK: - Late values

  /// Whether a value, columns of a product, is best computed late.
  func isLate(_ value: ValueID) -> Bool {
    guard let product = product(of: value), startsFromMemory(product),
      let width = function[function[product].operands[0]].type.tensor?.shape[1].extent, width >= narrowest
    else { return false }
    return readsWait(for: value, than: attentions[value] ?? [])?.count == 1
  }

  /// The attentions beyond `known` that what reads the value, or columns of it, one element or one row at a time, waits for; nil
  /// where something does not wait, or reads other rows.
  private func readsWait(for value: ValueID, than known: Set<OperationID>) -> Set<OperationID>? {
    guard !results.contains(value) else { return nil }
    var awaited: Set<OperationID> = []
    for id in readers[value] ?? [] {
      let operation = function[id]
      let byRow = operation.operandsReadByRow
      guard operation.operands.count(where: { $0 == value }) == byRow.count(where: { $0 == value }) else { return nil }
      let beyond = (attentions[operation.results[0]] ?? []).subtracting(known)
      if !beyond.isEmpty {
        awaited.formUnion(beyond)
        continue
      }
      guard operation.payload.isFollowing else { return nil }
      for result in operation.results {
        guard let inner = readsWait(for: result, than: known) else { return nil }
        awaited.formUnion(inner)
      }
    }
    return awaited
  }

  /// The product that a value is columns of.
  private func product(of value: ValueID) -> OperationID? {
    guard case .result(let id, _) = function[value].definition else { return nil }
    if function[id].payload.isProduct { return id }
    return function[id].payload.isFollowing ? product(of: function[id].operands[0]) : nil
  }

  /// What makes a product's rows of others, one after the other from the last one on.
  private func preparation(of product: OperationID) -> (operations: [OperationID], source: ValueID) {
    var (operations, source): ([OperationID], ValueID) = ([], function[product].operands[0])
    while case .result(let id, _) = function[source].definition, function[id].payload.preparesRows {
      operations.append(id)
      source = function[id].operands[0]
    }
    return (operations, source)
  }

  /// Whether something else reads what the product's rows are made of, from memory: other rows do, or what waits for attention.
  private func startsFromMemory(_ product: OperationID) -> Bool {
    let source = preparation(of: product).source
    let known = attentions[source] ?? []
    guard case .result = function[source].definition, !results.contains(source) else { return true }
    return (readers[source] ?? []).contains { id in
      !function[id].operandsReadByRow.contains(source)
        || !(attentions[function[id].results[0]] ?? []).isSubset(of: known)
    }
  }

  // MARK: - Late operations

  /// Late products, with what follows them up to where they are read, and what prepares rows for them alone.
  var operations: Set<OperationID> {
    var late: Set<OperationID> = []
    for id in function.body {
      let operation = function[id]
      if operation.payload.isProduct ? isLate(operation.results[0]) : follows(operation, late) { late.insert(id) }
    }
    for id in function.body.reversed() where function[id].payload.preparesRows {
      let reading = function[id].results.reduce(into: Set<OperationID>()) { $0.formUnion(readers[$1] ?? []) }
      if !reading.isEmpty, reading.isSubset(of: late), !function[id].results.contains(where: results.contains) {
        late.insert(id)
      }
    }
    return late
  }

  private func follows(_ operation: Operation, _ late: Set<OperationID>) -> Bool {
    guard operation.payload.isFollowing, case .result(let id, _) = function[operation.operands[0]].definition else {
      return false
    }
    return late.contains(id)
  }

  /// The function with rows prepared for late products apart from those for others.
  func preparedApart() -> Function {
    let late = operations
    var rewriter = FunctionRewriter(function)
    var apart: [ValueID: ValueID] = [:]
    var copied: Set<OperationID> = []
    rewriter.visit { id, function in
      guard late.contains(id), function[id].payload.isProduct else { return nil }
      let operations = preparation(of: id).operations.reversed()
      guard operations.contains(where: { !late.contains($0) }) else { return nil }
      for old in operations {
        let operation = function[old]
        guard !operation.results.contains(where: { apart[$0] != nil }) else { continue }
        copied.insert(old)
        let copy = function.append(
          operation.payload, operands: operation.operands.map { apart[$0] ?? $0 },
          results: operation.results.map { (function[$0].name, function[$0].type) })
        for (result, new) in zip(operation.results, function[copy].results) { apart[result] = new }
      }
      function[id].operands = function[id].operands.map { apart[$0] ?? $0 }
      return nil
    }
    var result = rewriter.function
    // What prepared rows for late products alone is done with.
    for id in result.body.reversed() where copied.contains(id) {
      let readers = result.readersOfValues
      if result[id].results.allSatisfy({ readers[$0] == nil && !results.contains($0) }) {
        result.body.removeAll { $0 == id }
      }
    }
    return result
  }
}

extension Payload {
  var isProduct: Bool {
    switch self {
    case .linear, .quantizedLinear: true
    default: false
    }
  }

  /// Whether each element of the result is made of one of the first operand's, next to nothing beside a product.
  fileprivate var isFollowing: Bool {
    switch self {
    case .convert, .scale, .sigmoid, .silu, .split: true
    default: false
    }
  }

  /// Whether rows of the results are made of those of the first operand, with so little to compute that it may be done twice.
  var preparesRows: Bool {
    switch self {
    case .convert, .groupNorm, .l2Norm, .layerNorm, .quantizeRows: true
    default: false
    }
  }

  /// Whether an element of the result needs all of a row.
  var readsWholeRows: Bool {
    switch self {
    case .groupNorm, .l2Norm, .layerNorm, .quantizeRows: true
    default: isProduct
    }
  }
}
