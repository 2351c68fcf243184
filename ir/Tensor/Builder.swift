/// Writes a function one operation after the other, inferring result types: `build.linear(x, w)` reads like the text form.
public struct FunctionBuilder: Sendable {
  /// What `finish` gives back: the weights declared so far, and the functions that were there before.
  public var module: Module
  /// The function so far; it joins the module at `finish`.
  public var function: Function

  /// Begins a function called `name` that joins `module` when it is finished.
  public init(module: Module, name: String) {
    self.module = module
    self.function = Function(name: name)
  }

  /// Appends an argument; its name is made unique within the function.
  public mutating func argument(_ name: String, _ type: ValueType) -> ValueID {
    function.addArgument(name: name, type: type)
  }

  /// The value of a weight, which is declared on first use. Throws where it was declared with another type.
  public mutating func weight(_ name: String, _ shape: [Int], _ element: ElementType = .f32) throws(OperationError)
    -> ValueID
  {
    let type = TensorType(shape.map { .fixed($0) }, element)
    let id = module.declareWeight(Weight(name: name, type: type))
    try require(module[id].type == type, "@\(name) is declared as \(module[id].type), used as \(type)")
    return function.value(of: id, in: module)
  }

  /// The value of a weight that follows from others, which are declared.
  public mutating func derivedWeight(
    _ name: String, _ shape: [Int], _ element: ElementType, _ formula: WeightFormula
  ) -> ValueID {
    let id = module.deriveWeight(name, TensorType(shape.map { .fixed($0) }, element), formula)
    return function.value(of: id, in: module)
  }

  /// Appends an operation with several results. `names` gives result names; missing ones are named for the operation.
  public mutating func append(_ payload: Payload, _ operands: [ValueID], names: [String] = []) throws(OperationError)
    -> [ValueID]
  {
    let types = try payload.definition.resultTypes(for: operands.map { function[$0].type })
    let results = types.enumerated().map { index, type in
      (name: index < names.count ? names[index] : payload.mnemonic, type: type)
    }
    let id = function.append(payload, operands: operands, results: results)
    return function[id].results
  }

  /// Appends an operation with one result.
  public mutating func emit(_ payload: Payload, _ operands: ValueID..., name: String? = nil) throws(OperationError)
    -> ValueID
  {
    try append(payload, operands, names: name.map { [$0] } ?? [])[0]
  }

  /// Makes `value` the next result, under a name of its own.
  public mutating func result(_ name: String, _ value: ValueID) {
    function.results.append(Function.Result(name: name, value: value))
  }

  /// The module with the finished function in it.
  public consuming func finish() -> Module {
    module.functions.append(function)
    return module
  }
}
