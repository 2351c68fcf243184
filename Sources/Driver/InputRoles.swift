import Artifact
import TensorIR

extension Function {
  /// What the numbers of an integer argument mean, by what the program does with them, or with rows of them; nil where
  /// nothing tells.
  func role(ofArgument argument: ValueID) -> Manifest.Role? {
    if cutsFeatures(argument) { return .featureOffsets }
    var role: Manifest.Role?
    // What holds some or all of the argument's numbers.
    var moved: Set<ValueID> = [argument]
    for id in body {
      for (index, operand) in self[id].operands.enumerated() where moved.contains(operand) {
        if self[id].movesIntegers(index) { moved.formUnion(self[id].results) }
        let found = self.role(ofOperand: index, of: self[id])
        if case .ids(let known) = role, case .ids(let below) = found {
          role = .ids(below: min(known, below))
        } else {
          role = role ?? found
        }
      }
    }
    return role
  }

  private func role(ofOperand index: Int, of operation: Operation) -> Manifest.Role? {
    if operation.batch?.targets == operation.operands[index] { return .targetCounts }
    switch operation.payload {
    case .gather:
      guard index == 1, let rows = self[operation.operands[0]].type.tensor?.shape[0].extent else { return nil }
      return .ids(below: rows)
    case .attention(let attention):
      // Query and key times are the bias's last two operands.
      return attention.bias == .positionAndTime && index >= operation.operands.count - 2 ? .timestamps : nil
    case .bucketTimes, .nextRows: return index < 2 ? .timestamps : nil
    case .calendarUnits: return .timestamps
    default: return nil
    }
  }
}

extension Operation {
  /// Whether the result has the operand's integers, some of them or in other places.
  fileprivate func movesIntegers(_ operand: Int) -> Bool {
    switch payload {
    case .extendRows(let extend): operand == extend.places(among: operands.count).x
    case .lastRows, .originalRows, .selectRows: operand == 0
    default: false
    }
  }
}

extension Module {
  /// The argument or result of `prefill` whose rows an argument of another function brings back, as `cached-scoring` calls
  /// them; nil for what is new with each call.
  func kept(byArgument argument: ValueID, of function: Function) -> String? {
    guard let prefill = self.function(named: "prefill"), function.name != prefill.name,
      function.arguments.contains(where: {
        function.cutsKeptRows($0) && ($0 == argument || function[$0].type.dimensions.last == function[argument].rows)
      })
    else { return nil }
    let name = function[argument].name
    if prefill.results.contains(where: { $0.name == name }) { return name }
    return prefill.arguments.lazy.map { prefill[$0].name }.first { "cached_\($0)" == name }
  }

  /// The window that offsets of kept rows have, as `prefill` selects it; nil where all rows are needed.
  func window(ofArgument argument: ValueID, of function: Function) -> Manifest.Window? {
    guard let name = kept(byArgument: argument, of: function), let prefill = self.function(named: "prefill"),
      let result = prefill.results.first(where: { $0.name == name }),
      case .result(let id, _) = prefill[result.value].definition, case .selectOffsets(let select) = prefill[id].payload,
      case .pairedLatest(let keep, let contextual) = select.selection
    else { return nil }
    return Manifest.Window(first: contextual, latest: keep)
  }
}

extension Value {
  fileprivate var rows: Dimension? { type.tensor?.shape.first }
}
