import TensorIR

/// One run of one function.
struct Evaluator<Number: Arithmetic> {
  let module: Module
  let function: Function
  let weights: DerivedWeights
  /// By value index; nil before its definition has run.
  private var values: [RuntimeValue<Number>?]
  /// The extents of the symbolic dimensions known so far.
  private var extents: [String: Int] = [:]

  init(module: Module, function: Function, weights: any WeightProvider) {
    self.module = module
    self.function = function
    self.weights = DerivedWeights(module, base: weights, precision: Number.self == Double.self ? .wide : .stored)
    self.values = Array(repeating: nil, count: function.values.count)
  }

  mutating func run(
    _ inputs: [String: HostTensor]
  ) throws(InterpreterError) -> [(name: String, type: ValueType, value: RuntimeValue<Number>)] {
    try bind(inputs)
    for id in function.body {
      let operation = function[id]
      try checkTypes(operation)
      let results = try evaluate(operation)
      for (id, result) in zip(operation.results, results) {
        try checkExtents(id, result)
        values[Int(id.index)] = rounded(result, to: function[id].type)
      }
    }
    var results: [(name: String, type: ValueType, value: RuntimeValue<Number>)] = []
    for result in function.results {
      results.append((result.name, function[result.value].type, try value(result.value)))
    }
    return results
  }

  /// Values of a narrow type are its numbers, whatever gave them. Codes are so already.
  private func rounded(_ value: RuntimeValue<Number>, to type: ValueType) -> RuntimeValue<Number> {
    guard case .numbers(var tensor) = value, let element = type.tensor?.element, element == .f16 || element == .bf16
    else { return value }
    for index in tensor.elements.indices {
      tensor.elements[index] = Number(element.rounded(Double(tensor.elements[index])))
    }
    return .numbers(tensor)
  }

  /// Operands and results must have the types that the payload asks for; the evaluation relies on it.
  private func checkTypes(_ operation: Operation) throws(InterpreterError) {
    let mnemonic = operation.payload.mnemonic
    let expected: [ValueType]
    do {
      expected = try operation.payload.definition.resultTypes(for: operation.operands.map { function[$0].type })
    } catch {
      throw .invalidFunction(operation: mnemonic, reason: error.message)
    }
    let found = operation.results.map { function[$0].type }
    if found != expected {
      throw .invalidFunction(operation: mnemonic, reason: "results of types \(found), expected \(expected)")
    }
  }

  /// A dimension that an operation makes, such as the rows that a selection keeps, may be an input's too: they must agree.
  private mutating func checkExtents(_ id: ValueID, _ value: RuntimeValue<Number>) throws(InterpreterError) {
    let (dimensions, found): ([Dimension], [Int]) =
      switch (function[id].type, value) {
      case (.tensor(let type), .numbers(let tensor)): (type.shape, tensor.shape)
      case (.tensor(let type), .integers(let tensor)): (type.shape, tensor.shape)
      case (.offsets(let sequences, let rows), .offsets(let offsets)):
        ([sequences, rows], [offsets.count - 1, offsets.last ?? 0])
      default: throw .invalidFunction(operation: name(id), reason: "is not of type \(function[id].type)")
      }
    for (axis, (dimension, found)) in zip(dimensions, found).enumerated() {
      let expected = extent(of: dimension, otherwise: found)
      if expected != found {
        throw .wrongExtent(
          argument: name(id), axis: axis, dimension: dimension.description, found: found, expected: expected)
      }
    }
  }

  private func evaluate(_ operation: Operation) throws(InterpreterError) -> [RuntimeValue<Number>] {
    let operands = operation.operands
    return switch operation.payload {
    case .add: try elementwise(operands) { $0 + $1 }
    case .attention(let payload): [.numbers(try attention(payload, operands))]
    case .bucketTimes(let payload): [.integers(try bucketTimes(payload, operands))]
    case .calendarUnits(let payload): [.integers(try integers(operands) { payload.unit(of: $0) })]
    case .concatenate: [.numbers(try concatenate(operands))]
    case .convert: try elementwise(operands) { $0 }
    case .dequantizeRows: [.numbers(try dequantizeRows(operands))]
    case .embedBits(let payload): [.numbers(try embedBits(payload, operands))]
    case .extendOffsets(let payload): [.offsets(try extendOffsets(payload, operands))]
    case .extendRows(let payload): [try extendRows(payload, operands)]
    case .gather(let payload): [.numbers(try gather(payload, operands))]
    case .groupNorm(let payload): [.numbers(try groupNorm(payload, operands))]
    case .l2Norm(let payload): [.numbers(try l2Norm(payload, operands))]
    case .lastRows: [try lastRows(operands)]
    case .lengths: [.integers(try lengths(operands[0]))]
    case .layerNorm(let payload): [.numbers(try layerNorm(payload, operands))]
    case .linear(let payload): [.numbers(try linear(payload, operands))]
    case .markBits(let payload): [.integers(try integers(operands) { payload.apply($0, value: $1) })]
    case .multiply: try elementwise(operands) { $0 * $1 }
    case .nextRows: [.integers(try nextRows(operands))]
    case .originalRows(let payload): [try originalRows(payload, operands)]
    case .pickRows(let payload): [.numbers(try pickRows(payload, operands))]
    case .positions(let payload): [.integers(try positions(payload, operands))]
    case .quantizedLinear(let payload): [.numbers(try quantizedLinear(payload, operands))]
    case .quantizeRows(let payload): try quantizeRows(payload, operands).map { .numbers($0) }
    case .replaceTargets: [.numbers(try replaceTargets(operands))]
    case .restoreRows(let payload): [.numbers(try restoreRows(payload, operands))]
    case .scale(let payload): try elementwise(operands) { $0 * Number(payload.factor) }
    case .selectOffsets(let payload): [.offsets(try selectOffsets(payload, operands))]
    case .selectRows(let payload): [try selectRows(payload, operands)]
    case .sigmoid: try elementwise(operands) { Number.sigmoid($0) }
    case .silu: try elementwise(operands) { Number.silu($0) }
    case .split(let payload): try split(payload, operands).map { .numbers($0) }
    case .topK(let payload): try topK(payload, operands)
    case .zeroRows(let payload): [.numbers(try zeroRows(payload, operands))]
    }
  }

  // MARK: - Values

  /// The name of a value in messages: inputs by their own name, which is what a caller knows.
  func name(_ id: ValueID) -> String {
    let value = function[id]
    if case .argument = value.definition { return value.name }
    return "%\(value.name)"
  }

  func value(_ id: ValueID) throws(InterpreterError) -> RuntimeValue<Number> {
    let index = Int(id.index)
    if let value = values[index] { return value }
    if case .weight(let weight) = function[id].definition { return try load(module[weight]) }
    throw .invalidFunction(operation: name(id), reason: "used before its definition")
  }

  func numbers(_ id: ValueID) throws(InterpreterError) -> Tensor<Number> {
    guard case .numbers(let tensor) = try value(id) else {
      throw .invalidFunction(operation: name(id), reason: "is not a floating-point tensor")
    }
    return tensor
  }

  func integers(_ id: ValueID) throws(InterpreterError) -> Tensor<Int64> {
    guard case .integers(let tensor) = try value(id) else {
      throw .invalidFunction(operation: name(id), reason: "is not an integer tensor")
    }
    return tensor
  }

  func offsets(_ id: ValueID) throws(InterpreterError) -> [Int] {
    guard case .offsets(let offsets) = try value(id) else {
      throw .invalidFunction(operation: name(id), reason: "is not offsets")
    }
    return offsets
  }

  /// The batch that offsets and targets describe. Throws where a sequence has fewer rows than targets.
  func sequences(_ offsetsID: ValueID, targets targetsID: ValueID?) throws(InterpreterError) -> Sequences {
    let offsets = try offsets(offsetsID)
    guard let targetsID else {
      return Sequences(offsets: offsets, targets: Array(repeating: 0, count: offsets.count - 1))
    }
    var batch = Sequences(offsets: offsets, targets: [])
    for (sequence, count) in try integers(targetsID).elements.enumerated() {
      let length = batch.length(sequence)
      guard (0...Int64(length)).contains(count) else {
        throw .badTargets(
          argument: name(targetsID), position: sequence, found: count, expected: Int64(length))
      }
      batch.targets.append(Int(count))
    }
    return batch
  }

  private func load(_ weight: Weight) throws(InterpreterError) -> RuntimeValue<Number> {
    try load(weight) { source in
      try source.withRows(0..<source.count) {
        try HostTensor(element: source.element, shape: source.shape, bytes: [UInt8]($0))
      }
    }
  }

  /// Rows of a table. Of a weight, which may be larger than memory, only these are read.
  func rows(of table: ValueID, _ rows: [Int]) throws(InterpreterError) -> RuntimeValue<Number> {
    if values[Int(table.index)] == nil, case .weight(let weight) = function[table].definition {
      return try load(module[weight]) { source in
        var bytes: [UInt8] = []
        for row in rows { try source.withRows(row..<row + 1) { bytes += $0 } }
        return try HostTensor(
          element: source.element, shape: [rows.count] + source.shape.dropFirst(), bytes: bytes)
      }
    }
    return switch try value(table) {
    case .numbers(let tensor): .numbers(tensor.rows(rows))
    case .integers(let tensor): .integers(tensor.rows(rows))
    case .offsets: throw .invalidFunction(operation: name(table), reason: "is not a tensor")
    }
  }

  /// What `read` takes of a weight, which must be as it is declared.
  private func load(
    _ weight: Weight, _ read: (WeightRows) throws -> HostTensor
  ) throws(InterpreterError) -> RuntimeValue<Number> {
    do {
      let source = try weights.rows(of: weight.name)
      let isWide = weight.formula != nil && weight.type.element == .f32 && source.element == .f64
      guard source.element == weight.type.element || isWide, source.shape == weight.type.shape.map({ $0.extent ?? -1 })
      else {
        throw OperationError(
          "declared as \(weight.type), found shape \(source.shape) of \(source.element.rawValue)")
      }
      return RuntimeValue(try read(source))
    } catch {
      throw .badWeight(name: weight.name, reason: "\(error)")
    }
  }

  // MARK: - Inputs

  private mutating func bind(_ inputs: [String: HostTensor]) throws(InterpreterError) {
    let names = function.arguments.map { function[$0].name }
    for name in inputs.keys.sorted() where !names.contains(name) {
      throw .unexpectedInput(name, expected: names)
    }
    for id in function.arguments {
      let argument = function[id]
      guard let input = inputs[argument.name] else { throw .missingInput(argument.name) }
      switch argument.type {
      case .tensor(let type):
        try check(input.element, input.shape, are: type, argument.name)
        values[Int(id.index)] = RuntimeValue(input)
      case .offsets(let sequences, _):
        // One entry more than sequences, so an empty tensor is none.
        guard input.shape.count == 1, input.count > 0 else {
          throw .wrongRank(argument: argument.name, found: input.shape, expected: 1)
        }
        try check(input.element, [input.count - 1], are: TensorType([sequences], .i64), argument.name)
      }
    }
    // Only now is the number of rows known that offsets must end at.
    for id in function.arguments {
      guard case .offsets(_, let rows) = function[id].type, let input = inputs[function[id].name] else { continue }
      values[Int(id.index)] = .offsets(try checkedOffsets(input.integers, rows: rows, argument: function[id].name))
    }
  }

  /// Throws where a tensor is not of a type; symbols that are not known yet take its extents.
  private mutating func check(
    _ element: ElementType, _ shape: [Int], are type: TensorType, _ argument: String
  ) throws(InterpreterError) {
    guard element == type.element else {
      throw .wrongElementType(argument: argument, found: element, expected: type.element)
    }
    guard shape.count == type.rank else {
      throw .wrongRank(argument: argument, found: shape, expected: type.rank)
    }
    for (axis, (dimension, extent)) in zip(type.shape, shape).enumerated() {
      let expected = self.extent(of: dimension, otherwise: extent)
      if expected != extent {
        throw .wrongExtent(
          argument: argument, axis: axis, dimension: dimension.description, found: extent, expected: expected)
      }
    }
  }

  /// The extent of a dimension; a symbol that is not known yet becomes `otherwise`.
  private mutating func extent(of dimension: Dimension, otherwise: Int) -> Int {
    switch dimension {
    case .fixed(let extent): return extent
    case .symbol(let name):
      if let extent = extents[name] { return extent }
      extents[name] = otherwise
      return otherwise
    }
  }

  private mutating func checkedOffsets(
    _ entries: [Int64], rows: Dimension, argument: String
  ) throws(InterpreterError) -> [Int] {
    // Rows that no tensor has are as many as the offsets say, within reason: nothing is allocated for absurd numbers.
    let end = extent(of: rows, otherwise: Int(min(max(entries.last ?? 0, 0), 1 << 32)))
    var checked: [Int] = []
    for (position, entry) in entries.enumerated() {
      let least = position == 0 ? 0 : Int64(checked[position - 1])
      let isLast = position == entries.count - 1
      if position == 0, entry != 0 {
        throw .badOffsets(argument: argument, position: 0, found: entry, expected: 0)
      }
      if isLast, entry != Int64(end) {
        throw .badOffsets(argument: argument, position: position, found: entry, expected: Int64(end))
      }
      if entry < least {
        throw .badOffsets(argument: argument, position: position, found: entry, expected: least)
      }
      checked.append(Int(entry))
    }
    return checked
  }
}
