import TensorIR

/// A function that is made of another's operations, with other operands for some of them.
struct FunctionCopy {
  let original: Function
  let module: Module
  var function: Function
  private var stands: [ValueID: ValueID] = [:]

  init(of original: Function, named name: String, in module: Module) {
    self.original = original
    self.module = module
    function = Function(name: name)
  }

  /// What stands for a value of the original.
  subscript(value: ValueID) -> ValueID? {
    get { stands[value] }
    set { stands[value] = newValue }
  }

  /// What stands for a value of the original; its weights stand for themselves.
  mutating func value(of value: ValueID) throws(PassError) -> ValueID {
    if let known = stands[value] { return known }
    guard case .weight(let weight) = original[value].definition else {
      throw PassError("%\(original[value].name) is not at hand")
    }
    let own = function.value(of: weight, in: module)
    stands[value] = own
    return own
  }

  /// Takes an argument of the original over.
  mutating func addArgument(_ argument: ValueID) {
    stands[argument] = function.addArgument(name: original[argument].name, type: original[argument].type)
  }

  /// Appends an operation of the original, its operands replaced by what stands for them.
  mutating func append(_ operation: Operation) throws(PassError) {
    var operands: [ValueID] = []
    for operand in operation.operands { operands.append(try value(of: operand)) }
    let names = operation.results.map { original[$0].name }
    let results = try emit(operation.payload, operands, names)
    for (result, own) in zip(operation.results, results) { stands[result] = own }
  }

  /// Appends an operation on values of the copy.
  @discardableResult
  mutating func emit(_ payload: Payload, _ operands: [ValueID], _ names: [String]) throws(PassError) -> [ValueID] {
    do {
      let types = try payload.definition.resultTypes(for: operands.map { function[$0].type })
      let results = zip(names, types).map { (name: $0, type: $1) }
      return function[function.append(payload, operands: operands, results: results)].results
    } catch {
      throw PassError("\(payload.mnemonic) %\(names.first ?? ""): \(error)")
    }
  }
}
