import TensorIR

/// Brings operations into their simplest equal form, so that later passes need to know one form only.
///
/// Exact: what is removed copies numbers or multiplies by one, and a mask is replaced by one that shows the same keys.
/// Masks are simplified only where the longest sequence is known: from a fixed number of rows, from a selection of the
/// latest rows, or from a position bias, whose table refuses longer sequences.
public let canonicalize = ModulePass(
  name: "canonicalize", summary: "bring operations and masks into their simplest equal form",
  options: NoOptions.self, exactness: .exact
) { (module, _, context) throws(PassError) in
  var removed = 0
  var simplified = 0
  for index in module.functions.indices {
    var rewriter = FunctionRewriter(module.functions[index])
    rewriter.visit { id, function in
      let simpler = simplerOperation(id, in: function)
      if let simpler { function[id] = simpler }
      if let values = equalValues(id, in: function) ?? regroupedColumns(id, in: &function) {
        removed += 1
        return values
      }
      if simpler != nil { simplified += 1 }
      return nil
    }
    module.functions[index] = rewriter.function
  }
  context.note(removed, "operation", "removed that changed nothing")
  context.note(simplified, "operation", "simplified")
}

/// Earlier values that the operation's results equal, bit for bit; nil where none are known.
private func equalValues(_ id: OperationID, in function: Function) -> [ValueID]? {
  let operation = function[id]
  let operands = operation.operands
  switch operation.payload {
  case .scale(let scale):
    return scale.factor == 1 ? operands : nil
  case .convert:
    return function[operands[0]].type == function[operation.results[0]].type ? operands : nil
  case .split(let split):
    return split.widths.count == 1 ? operands : nil
  case .concatenate:
    if operands.count == 1 { return operands }
    guard let producer = function.producer(of: operands[0]), case .split = producer.payload,
      producer.results == operands
    else { return nil }
    return producer.operands
  case .zeroRows(let zero):
    guard let producer = function.producer(of: operands[0]), case .zeroRows(zero) = producer.payload,
      producer.operands[1] == operands[1]
    else { return nil }
    return [operands[0]]
  case .selectRows(let select):
    // The rows that were just put back, taken out again.
    guard let producer = function.producer(of: operands[0]), case .restoreRows(let restore) = producer.payload,
      restore.selection == select.selection, Array(producer.operands[2...]) == Array(operands[1...])
    else { return nil }
    return [producer.operands[0]]
  case .restoreRows(let restore):
    // Rows taken out and put back where they were.
    guard let producer = function.producer(of: operands[0]), case .selectRows(let select) = producer.payload,
      restore.selection == select.selection, producer.operands[0] == operands[1],
      Array(producer.operands[1...]) == Array(operands[2...])
    else { return nil }
    return [operands[1]]
  default:
    return nil
  }
}

/// For a split that cuts a concatenation between its operands: what was joined, in the groups that are cut. Groups of
/// one are values that are there; others are concatenations of their own, which are appended.
private func regroupedColumns(_ id: OperationID, in function: inout Function) -> [ValueID]? {
  guard case .split(let split) = function[id].payload, let producer = function.producer(of: function[id].operands[0]),
    case .concatenate = producer.payload
  else { return nil }
  var groups: [[ValueID]] = []
  var rest = producer.operands[...]
  for width in split.widths {
    var group: [ValueID] = []
    var joined = 0
    while joined < width, let next = rest.popFirst() {
      group.append(next)
      joined += function.width(of: next) ?? 0
    }
    guard joined == width else { return nil }
    groups.append(group)
  }
  return zip(groups, function[id].results).map { group, result in
    if group.count == 1 { return group[0] }
    let new = function.append(
      .concatenate(Concatenate()), operands: group, results: [(function[result].name, function[result].type)])
    return function[new].results[0]
  }
}

/// The operation in a simpler form with the same results; nil where it is simple already.
private func simplerOperation(_ id: OperationID, in function: Function) -> Operation? {
  var operation = function[id]
  switch operation.payload {
  case .concatenate:
    // Columns of a concatenation inside another are columns of the outer one.
    let flat = operation.operands.flatMap { operand in
      if let producer = function.producer(of: operand), case .concatenate = producer.payload {
        return producer.operands
      }
      return [operand]
    }
    guard flat.count != operation.operands.count, flat.count <= mostConcatenated else { return nil }
    operation.operands = flat
    return operation
  case .restoreRows(let restore):
    // Rows that are replaced twice keep the later ones only.
    guard let producer = function.producer(of: operation.operands[1]), case .restoreRows(restore) = producer.payload,
      producer.operands[2...] == operation.operands[2...]
    else { return nil }
    operation.operands[1] = producer.operands[1]
    return operation
  case .attention(var attention):
    guard let bounds = attentionBounds(attention, operation.operands, in: function) else { return nil }
    let mask = attention.mask.simplified(bounds)
    guard mask != attention.mask else { return nil }
    attention.mask = mask
    operation.payload = .attention(attention)
    return operation
  default:
    return nil
  }
}

/// Concatenations of each other twice over double their operands at every step: there is an end to it.
private let mostConcatenated = 256

/// What is known of the lengths of the sequences that an attention reads; nil where nothing is.
private func attentionBounds(
  _ attention: Attention, _ operands: [ValueID], in function: Function
) -> Mask.Bounds? {
  var lengths: [Int] = []
  var histories: [Int] = []
  let offsets = operands[3]
  if case .offsets(_, .fixed(let rows)) = function[offsets].type { lengths.append(rows) }
  if let producer = function.producer(of: offsets), case .selectOffsets(let select) = producer.payload,
    case .latest(let keep, let contextual) = select.selection
  {
    let kept = keep + contextual
    if producer.operands.count == 1 {
      lengths.append(kept)
    } else if attention.hasTargets, producer.operands[1] == operands[4] {
      histories.append(kept)
    }
  }
  if attention.bias != .none {
    let weights = function[operands[attention.firstBiasOperand]].type.tensor
    if let count = weights?.shape[0].extent { lengths.append((count + 1) / 2) }
  }
  guard let history = (lengths + histories).min() else { return nil }
  return Mask.Bounds(history: history, hasTargets: attention.hasTargets)
}

extension Function {
  /// The operation that defines the value; nil for arguments and weights.
  fileprivate func producer(of value: ValueID) -> Operation? {
    if case .result(let id, _) = self[value].definition { self[id] } else { nil }
  }

  fileprivate func width(of value: ValueID) -> Int? { self[value].type.tensor?.shape.last?.extent }
}
