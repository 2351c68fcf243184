/// A weight: a tensor whose values are fixed when the model is compiled. The module knows its name and type, and of a
/// derived weight how it follows from others; its bytes stay with a `WeightProvider`.
public struct Weight: Hashable, Sendable {
  /// Its name, unique in the module, as a rule the checkpoint's; the text form writes it after `@`.
  public var name: String
  /// Its shape, all extents fixed, and the type of its elements.
  public var type: TensorType
  /// How its numbers follow from weights that are declared before it (`DerivedWeights`); nil where a provider has them.
  public var formula: WeightFormula?

  /// A weight to declare; the verifier checks that the extents are fixed and positive, and that the formula gives the type.
  public init(name: String, type: TensorType, formula: WeightFormula? = nil) {
    self.name = name
    self.type = type
    self.formula = formula
  }
}

/// Names a weight of a module.
public struct WeightID: Hashable, Sendable {
  /// Counted from 0 in `Module.weights`.
  public let index: UInt32
}

/// Names a value of a function.
public struct ValueID: Hashable, Sendable {
  /// Counted from 0 in `Function.values`.
  public let index: UInt32
}

/// Names an operation of a function.
public struct OperationID: Hashable, Sendable {
  /// Counted from 0 in `Function.operations`.
  public let index: UInt32
}

/// A compilation unit: weights and functions. The function that a compiled artifact runs is called `forward`.
public struct Module: Sendable {
  /// What stands after `module` in the text form.
  public var name: String
  /// In the order of their declarations; a `WeightID` counts them.
  public private(set) var weights: [Weight] = []
  /// In the order of the text; their names must differ.
  public var functions: [Function] = []
  private var weightByName: [String: WeightID] = [:]
  private var weightLocations: [WeightID: SourceLocation] = [:]

  /// A module without weights and functions.
  public init(name: String) { self.name = name }

  /// The weight of an identifier that this module gave out.
  public subscript(id: WeightID) -> Weight { weights[Int(id.index)] }

  /// The identifier of the weight of this name; nil where none is declared.
  public func weight(named name: String) -> WeightID? { weightByName[name] }

  /// Declares a weight. A name that is declared already gives its first declaration back; the caller compares types.
  /// `location` is its place in a text, where it has one.
  @discardableResult
  public mutating func declareWeight(_ weight: Weight, at location: SourceLocation? = nil) -> WeightID {
    if let id = weightByName[weight.name] { return id }
    let id = WeightID(index: UInt32(weights.count))
    weights.append(weight)
    weightByName[weight.name] = id
    weightLocations[id] = location
    return id
  }

  /// Declares a weight that follows from others. Where one of this name is declared with another type or formula, the
  /// new one's name gets a number.
  public mutating func deriveWeight(_ name: String, _ type: TensorType, _ formula: WeightFormula) -> WeightID {
    var weight = Weight(name: name, type: type, formula: formula)
    var suffix = 1
    while let id = weightByName[weight.name], self[id] != weight {
      weight.name = "\(name).\(suffix)"
      suffix += 1
    }
    return declareWeight(weight)
  }

  /// Where the weight was declared, in a module read from text.
  public func location(of id: WeightID) -> SourceLocation? { weightLocations[id] }

  /// Removes the declarations of weights that no function reads and no weight that stays follows from, and gives their
  /// number. In the arenas of functions, values of removed weights stay as removed operations do: nothing refers to them.
  @discardableResult
  public mutating func removeUnreadWeights() -> Int {
    var read = functions.reduce(into: Set<WeightID>()) { $0.formUnion($1.readWeights) }
    // Sources are declared before what follows from them.
    for index in weights.indices.reversed() where read.contains(WeightID(index: UInt32(index))) {
      read.formUnion((weights[index].formula?.sources ?? []).compactMap { weightByName[$0] })
    }
    guard read.count < weights.count else { return 0 }
    let before = weights
    var renumbered: [WeightID: WeightID] = [:]
    var locations: [WeightID: SourceLocation] = [:]
    weights = []
    weightByName = [:]
    for (index, weight) in before.enumerated() {
      let id = WeightID(index: UInt32(index))
      guard read.contains(id) else { continue }
      let new = WeightID(index: UInt32(weights.count))
      renumbered[id] = new
      locations[new] = weightLocations[id]
      weightByName[weight.name] = new
      weights.append(weight)
    }
    weightLocations = locations
    for index in functions.indices { functions[index].renumberWeights(renumbered) }
    return before.count - weights.count
  }

  /// The function of this name, without `@`; nil where there is none.
  public func function(named name: String) -> Function? { functions.first { $0.name == name } }
}

/// Where a value comes from.
public enum Definition: Hashable, Sendable {
  case argument(Int)
  case weight(WeightID)
  case result(OperationID, Int)
}

/// A value of a function: an argument, a weight or the result of an operation, defined once.
public struct Value: Hashable, Sendable {
  /// Its name in the text form, without the `%`; unique within the function. Weights are printed by their own name.
  public var name: String
  /// A tensor's shape and elements, or that these are offsets.
  public var type: ValueType
  /// What gives it: an argument, a weight or an operation.
  public var definition: Definition
}

/// One operation: what it does (`payload`, with its attributes), what it reads, what it defines.
public struct Operation: Hashable, Sendable {
  /// What it does, with its attributes.
  public var payload: Payload
  /// What it reads, in the order that the payload's documentation gives.
  public var operands: [ValueID]
  /// What it defines; as many as the payload infers types.
  public var results: [ValueID]
  /// The region that it belongs to, whose operations stand together in the body; nil where it stands alone.
  public var region: RegionID?
}

/// A straight line of operations over an arena of values, in an order where definitions come before uses.
public struct Function: Sendable {
  /// A value that the function returns.
  public struct Result: Hashable, Sendable {
    /// The caller's name for it, which may differ from the value's own.
    public var name: String
    /// The value returned; one value may be returned under several names.
    public var value: ValueID

    /// Returns `value` under the name `name`.
    public init(name: String, value: ValueID) {
      self.name = name
      self.value = value
    }
  }

  /// Its name, without the `@` of the text form.
  public var name: String
  /// The arena that a `ValueID` counts: arguments, weights and results in the order in which they were made.
  public private(set) var values: [Value] = []
  /// The arena that an `OperationID` counts, with operations that an edit removed.
  public private(set) var operations: [Operation] = []
  /// The order in which operations run. Operations that an edit removed stay in the arena but not here.
  public var body: [OperationID] = []
  /// What the caller gives, in order.
  public private(set) var arguments: [ValueID] = []
  /// What the caller gets, in order.
  public var results: [Result] = []
  private var usedNames: Set<String> = []
  private var weightValues: [WeightID: ValueID] = [:]
  private var operationLocations: [OperationID: SourceLocation] = [:]
  private var regionCount: UInt32 = 0
  /// Where a function that was read from text begins, names its arguments, and returns.
  var location: SourceLocation?
  var argumentLocations: [SourceLocation] = []
  var returnLocation: SourceLocation?

  /// A function without arguments, operations and results.
  public init(name: String) { self.name = name }

  /// The value of an identifier that this function gave out.
  public subscript(id: ValueID) -> Value { values[Int(id.index)] }

  /// The operation of an identifier that this function gave out.
  public subscript(id: OperationID) -> Operation {
    get { operations[Int(id.index)] }
    set { operations[Int(id.index)] = newValue }
  }

  /// Appends an argument; its name is made unique within the function.
  @discardableResult
  public mutating func addArgument(name: String, type: ValueType) -> ValueID {
    let id = addValue(name: name, type: type, definition: .argument(arguments.count))
    arguments.append(id)
    return id
  }

  /// The value that stands for a weight in this function; made on first use.
  public mutating func value(of weight: WeightID, in module: Module) -> ValueID {
    if let id = weightValues[weight] { return id }
    let declared = module[weight]
    let id = ValueID(index: UInt32(values.count))
    values.append(Value(name: declared.name, type: .tensor(declared.type), definition: .weight(weight)))
    weightValues[weight] = id
    return id
  }

  /// The weights that the body or the results read.
  package var readWeights: Set<WeightID> {
    var weights: Set<WeightID> = []
    let read = body.lazy.flatMap { self[$0].operands }
    for value in Array(read) + results.map(\.value) {
      if case .weight(let weight) = self[value].definition { weights.insert(weight) }
    }
    return weights
  }

  mutating func renumberWeights(_ numbers: [WeightID: WeightID]) {
    var renumbered: [WeightID: ValueID] = [:]
    for (weight, value) in weightValues {
      guard let new = numbers[weight] else { continue }
      values[Int(value.index)].definition = .weight(new)
      renumbered[new] = value
    }
    weightValues = renumbered
  }

  /// Appends an operation at the end of the body; its results get the names given, made unique.
  @discardableResult
  public mutating func append(
    _ payload: Payload, operands: [ValueID], results: [(name: String, type: ValueType)]
  ) -> OperationID {
    let id = OperationID(index: UInt32(operations.count))
    operations.append(Operation(payload: payload, operands: operands, results: []))
    let values = results.enumerated().map { index, result in
      addValue(name: result.name, type: result.type, definition: .result(id, index))
    }
    operations[Int(id.index)].results = values
    body.append(id)
    return id
  }

  /// Gives the operation's results the types that follow from its operands, which an edit has changed. Throws where the
  /// operands do not fit.
  public mutating func inferResultTypes(of id: OperationID) throws(OperationError) {
    let types = try self[id].payload.definition.resultTypes(for: self[id].operands.map { self[$0].type })
    for (result, type) in zip(self[id].results, types) { values[Int(result.index)].type = type }
  }

  /// A name for a new region, which operations are then given.
  public mutating func newRegion() -> RegionID {
    regionCount += 1
    return RegionID(index: regionCount - 1)
  }

  /// Makes every use of `old`, in the body and in the results, a use of `new`.
  public mutating func replaceUses(of old: ValueID, with new: ValueID) {
    for id in body {
      operations[Int(id.index)].operands = operations[Int(id.index)].operands.map { $0 == old ? new : $0 }
    }
    results = results.map { $0.value == old ? Result(name: $0.name, value: new) : $0 }
  }

  /// Where the operation stands, in a function read from text.
  public func location(of id: OperationID) -> SourceLocation? { operationLocations[id] }

  /// Notes where the operation stands in a text; nil forgets it.
  public mutating func setLocation(_ location: SourceLocation?, of id: OperationID) {
    operationLocations[id] = location
  }

  private mutating func addValue(name: String, type: ValueType, definition: Definition) -> ValueID {
    var unique = name
    var suffix = 1
    while !usedNames.insert(unique).inserted {
      unique = "\(name).\(suffix)"
      suffix += 1
    }
    let id = ValueID(index: UInt32(values.count))
    values.append(Value(name: unique, type: type, definition: definition))
    return id
  }
}
