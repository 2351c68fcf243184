import TensorIR

/// Cuts products between columns of different kinds, such as u and q, which only a row itself looks at, and v and k, which
/// others do. A column of a product is a sum of its own, so that nothing changes but where it is computed.
struct ColumnCut<Kind: Equatable> {
  /// What is cut into columns: a product, and what its numbers pass through one by one.
  private struct Product {
    var linear: OperationID
    var elementwise: [OperationID]
    /// The axis of the weight that is not contracted, and the first operand that is a weight.
    var axis: WeightFormula.Axis
    var firstWeight: Int
  }

  /// Columns next to each other that are of one kind, as results of the split.
  private struct Part {
    var kind: Kind
    var results: [ValueID]
    var widths: [Int]
  }

  /// Asked for the results of splits.
  private let kind: (ValueID) -> Kind
  private let readers: [ValueID: Set<OperationID>]
  private let results: Set<ValueID>

  /// A cut of this function's products.
  init(_ function: Function, by kind: @escaping (ValueID) -> Kind) {
    self.kind = kind
    readers = function.readersOfValues
    results = Set(function.results.map(\.value))
  }

  /// Cuts the products of the function of this index, the one that the cut was made for; gives their number.
  func cut(_ module: inout Module, _ index: Int) -> Int {
    var count = 0
    var replaced: Set<OperationID> = []
    var rewriter = FunctionRewriter(module.functions[index])
    rewriter.visit { id, function in
      let parts = parts(of: id, in: function)
      guard parts.count > 1, let product = product(before: id, in: function, module) else { return nil }
      count += 1
      replaced.insert(product.linear)
      replaced.formUnion(product.elementwise)
      var first = 0
      return parts.flatMap { part in
        defer { first += part.widths.reduce(0, +) }
        return append(part, from: first, of: product, to: &function, &module)
      }
    }
    module.functions[index] = rewriter.function
    module.functions[index].body.removeAll(where: replaced.contains)
    return count
  }

  private func parts(of id: OperationID, in function: Function) -> [Part] {
    guard case .split(let split) = function[id].payload else { return [] }
    var parts: [Part] = []
    for (result, width) in zip(function[id].results, split.widths) {
      let kind = kind(result)
      if parts.last?.kind == kind {
        parts[parts.count - 1].results.append(result)
        parts[parts.count - 1].widths.append(width)
      } else {
        parts.append(Part(kind: kind, results: [result], widths: [width]))
      }
    }
    return parts
  }

  /// The product whose columns a split cuts, where nothing else reads it on the way and its weights can be cut.
  private func product(before split: OperationID, in function: Function, _ module: Module) -> Product? {
    var elementwise: [OperationID] = []
    var reader = split
    while true {
      let value = function[reader].operands[0]
      guard case .result(let id, _) = function[value].definition, readers[value] == [reader], !results.contains(value)
      else { return nil }
      let product: Product
      switch function[id].payload {
      case .silu, .sigmoid, .scale:
        elementwise.insert(id, at: 0)
        reader = id
        continue
      case .linear(let linear):
        product = Product(linear: id, elementwise: elementwise, axis: linear.orientation.outputs, firstWeight: 1)
      case .quantizedLinear(let linear):
        product = Product(linear: id, elementwise: elementwise, axis: linear.orientation.outputs, firstWeight: 2)
      default: return nil
      }
      let canBeCut = function[id].operands[product.firstWeight...].allSatisfy { operand in
        guard case .weight(let weight) = function[operand].definition else { return false }
        return module.canSlice(module[weight], product.axis)
      }
      return canBeCut ? product : nil
    }
  }

  /// Appends the product of a part's columns, and gives what stands for the results.
  private func append(
    _ part: Part, from first: Int, of product: Product, to function: inout Function, _ module: inout Module
  ) -> [ValueID] {
    let (linear, width) = (function[product.linear], part.widths.reduce(0, +))
    var operands = Array(linear.operands[..<product.firstWeight])
    for operand in linear.operands[product.firstWeight...] {
      guard case .weight(let weight) = function[operand].definition else { return part.results }
      let slice = module.slice(module[weight], product.axis, first, width)
      operands.append(function.value(of: slice, in: module))
    }
    guard case .tensor(var type) = function[linear.results[0]].type else { return part.results }
    type.shape[1] = .fixed(width)
    let name = function[part.results[0]].name
    var value = emit(linear.payload, operands, [(name, type)], &function)
    for id in product.elementwise { value = emit(function[id].payload, value, [(name, type)], &function) }
    guard part.results.count > 1 else { return value }
    let columns = zip(part.results, part.widths).map { result, width in
      (function[result].name, TensorType([type.shape[0], .fixed(width)], type.element))
    }
    return emit(.split(Split(widths: part.widths)), value, columns, &function)
  }

  private func emit(
    _ payload: Payload, _ operands: [ValueID], _ results: [(String, TensorType)], _ function: inout Function
  ) -> [ValueID] {
    function[function.append(payload, operands: operands, results: results.map { ($0, .tensor($1)) })].results
  }
}

extension Linear.Orientation {
  /// The axis of the weight that is not contracted.
  fileprivate var outputs: WeightFormula.Axis { self == .inOut ? .columns : .rows }
}

// Weights of some of a product's columns.
extension Module {
  /// Whether `slice` can cut the weight of a product whose outputs lie along this axis of its matrix.
  fileprivate func canSlice(_ matrix: Weight, _ axis: WeightFormula.Axis) -> Bool {
    switch matrix.formula {
    case .codes(let source, let channels), .scales(let source, let channels, _):
      channels == axis && (weight(named: source).map { canSlice(self[$0], axis) } ?? false)
    default: matrix.type.element.isFloatingPoint && matrix.type.rank <= 2
    }
  }

  /// The weight that has `count` of the outputs of another, a product's matrix or a vector with an element for each output. What is
  /// converted or coded follows from a slice of its source, as each output's codes and scale follow from that output's numbers.
  fileprivate mutating func slice(
    _ whole: Weight, _ axis: WeightFormula.Axis, _ first: Int, _ count: Int
  ) -> WeightID {
    let axis = whole.type.rank == 1 ? .rows : axis
    var type = whole.type
    type.shape[axis == .rows ? 0 : 1] = .fixed(count)
    let formula: WeightFormula
    switch whole.formula {
    case .convert(let source): formula = .convert(sliceName(source, axis, first, count))
    case .codes(let source, let channels):
      formula = .codes(sliceName(source, channels, first, count), channels: channels)
    case .scales(let source, let channels, let element):
      formula = .scales(sliceName(source, channels, first, count), channels: channels, of: element)
    default: formula = .slice(whole.name, axis: axis, first: first)
    }
    return deriveWeight("\(whole.name).\(first)_\(first + count - 1)", type, formula)
  }

  private mutating func sliceName(_ source: String, _ axis: WeightFormula.Axis, _ first: Int, _ count: Int) -> String {
    guard let id = weight(named: source) else { return source }
    let part = slice(self[id], axis, first, count)
    return self[part].name
  }
}
