import TensorIR

/// Cuts products between columns that are needed of different rows: u and q of those that a layer gives, v and k of those
/// that it looks at. A column of a product is a sum of its own, so that nothing changes but where it is computed.
struct ColumnCut {
  /// What is cut into columns: a product, what its numbers pass through one by one, and the weights of the product.
  private struct Product {
    var linear: Operation
    var orientation: Linear.Orientation
    var elementwise: [Payload]
    var weights: [Weight]
  }

  /// Columns next to each other that are needed of the same rows, as results of the split.
  private struct Part {
    var rows: RowDemand
    var results: [ValueID]
    var widths: [Int]
  }

  let demands: DemandAnalysis

  /// Cuts the products of the function of this index; gives their number.
  func cut(_ module: inout Module, _ index: Int) -> Int {
    var count = 0
    var rewriter = FunctionRewriter(module.functions[index])
    rewriter.visit { id, function in
      let parts = parts(of: id, in: function)
      guard parts.count > 1, let product = product(before: id, in: function, module) else { return nil }
      count += 1
      var first = 0
      return parts.flatMap { part in
        defer { first += part.widths.reduce(0, +) }
        return append(part, from: first, of: product, to: &function, &module)
      }
    }
    module.functions[index] = rewriter.function
    return count
  }

  private func parts(of id: OperationID, in function: Function) -> [Part] {
    guard case .split(let split) = function[id].payload else { return [] }
    var parts: [Part] = []
    for (result, width) in zip(function[id].results, split.widths) {
      if parts.last?.rows == demands[result] {
        parts[parts.count - 1].results.append(result)
        parts[parts.count - 1].widths.append(width)
      } else {
        parts.append(Part(rows: demands[result], results: [result], widths: [width]))
      }
    }
    return parts
  }

  /// The product whose columns a split cuts, where nothing else reads it on the way.
  private func product(before split: OperationID, in function: Function, _ module: Module) -> Product? {
    var elementwise: [Payload] = []
    var reader = split
    while true {
      let value = function[reader].operands[0]
      guard case .result(let id, _) = function[value].definition, isRead(value, by: reader, alone: function) else {
        return nil
      }
      let operation = function[id]
      switch operation.payload {
      case .silu, .sigmoid, .scale: elementwise.insert(operation.payload, at: 0)
      case .linear(let linear):
        var weights: [Weight] = []
        for operand in operation.operands.dropFirst() {
          guard case .weight(let weight) = function[operand].definition, isSliceable(module[weight]) else { return nil }
          weights.append(module[weight])
        }
        return Product(
          linear: operation, orientation: linear.orientation, elementwise: elementwise, weights: weights)
      default: return nil
      }
      reader = id
    }
  }

  private func isRead(_ value: ValueID, by reader: OperationID, alone function: Function) -> Bool {
    !function.results.contains { $0.value == value } && demands.readers(of: value) == [reader]
  }

  private func isSliceable(_ weight: Weight) -> Bool { weight.type.element == .f32 && weight.type.rank <= 2 }

  /// Appends the product of a part's columns, and gives what stands for the results.
  private func append(
    _ part: Part, from first: Int, of product: Product, to function: inout Function, _ module: inout Module
  ) -> [ValueID] {
    let width = part.widths.reduce(0, +)
    var operands = [product.linear.operands[0]]
    for weight in product.weights {
      let axis: WeightFormula.Axis = weight.type.rank == 2 && product.orientation == .inOut ? .columns : .rows
      var type = weight.type
      type.shape[axis == .rows ? 0 : 1] = .fixed(width)
      let slice = declare(
        "\(weight.name).\(first)_\(first + width - 1)", type, .slice(weight.name, axis: axis, first: first), &module)
      operands.append(function.value(of: slice, in: module))
    }
    guard case .tensor(var type) = function[product.linear.results[0]].type else { return part.results }
    type.shape[1] = .fixed(width)
    let name = function[part.results[0]].name
    var value = emit(.linear(Linear(product.orientation)), operands, [(name, type)], &function)
    for payload in product.elementwise { value = emit(payload, value, [(name, type)], &function) }
    guard part.results.count > 1 else { return value }
    let columns = zip(part.results, part.widths).map { result, width in
      (function[result].name, TensorType([type.shape[0], .fixed(width)], type.element))
    }
    return emit(.split(Split(widths: part.widths)), value, columns, &function)
  }

  /// A weight of this name, or with a number after it where the name is taken by another.
  private func declare(_ name: String, _ type: TensorType, _ formula: WeightFormula, _ module: inout Module) -> WeightID
  {
    var unique = name
    var suffix = 2
    while true {
      let wanted = Weight(name: unique, type: type, formula: formula)
      guard let known = module.weight(named: unique), module[known] != wanted else {
        return module.declareWeight(wanted)
      }
      unique = "\(name).\(suffix)"
      suffix += 1
    }
  }

  private func emit(
    _ payload: Payload, _ operands: [ValueID], _ results: [(String, TensorType)], _ function: inout Function
  ) -> [ValueID] {
    function[function.append(payload, operands: operands, results: results.map { ($0, .tensor($1)) })].results
  }
}
