extension Module {
  /// Throws the first rule that the module breaks; see `verificationErrors`.
  public func verify() throws(TensorIRError) {
    if let error = verificationErrors().first { throw error }
  }

  /// Every rule that the module breaks, in the order of the module: none where it is sound.
  ///
  /// A sound module has unique names; declares every weight with fixed, positive extents, and what weights follow from
  /// before them; defines every value before
  /// its uses; gives every result the type that its operation infers; and defines every symbolic dimension once.
  public func verificationErrors() -> [TensorIRError] {
    var errors: [TensorIRError] = []
    /// How many formulas lead to each weight, one after the other.
    var depths: [Int] = []
    for (index, weight) in weights.enumerated() {
      let location = location(of: WeightID(index: UInt32(index)))
      let name = TextName.quoted(weight.name)
      if let symbol = weight.type.shape.first(where: { $0.extent == nil }) {
        errors.append(TensorIRError("the extents of weight @\(name) must be numbers, found \(symbol)", at: location))
      } else if let problem = weight.type.problem {
        errors.append(TensorIRError("weight @\(name): \(problem)", at: location))
      }
      depths.append(1)
      guard let formula = weight.formula else { continue }
      do throws(OperationError) {
        let sources = try declared(formula.sources, before: index)
        depths[index] += sources.map { depths[$0] }.max() ?? 0
        try require(depths[index] <= deepestFormula, "follows from others over more than \(deepestFormula) steps")
        try formula.verify(weight.type, from: sources.map { weights[$0].type })
      } catch {
        errors.append(TensorIRError("weight @\(name) = \(formula.text): \(error)", at: location))
      }
    }
    var names: Set<String> = []
    for function in functions {
      if !names.insert(function.name).inserted {
        let name = TextName.quoted(function.name)
        errors.append(TensorIRError("the function @\(name) is defined twice", at: function.location))
      }
      var verifier = FunctionVerifier(module: self, function: function)
      verifier.verify()
      errors += verifier.errors
    }
    return errors
  }
}

extension Module {
  /// The weights of these names, counted among all, each declared before the weight `index`: so none follows from itself.
  private func declared(_ names: [String], before index: Int) throws(OperationError) -> [Int] {
    var indices: [Int] = []
    for name in names {
      guard let source = weight(named: name).map({ Int($0.index) }), source < index else {
        throw OperationError("the source @\(TextName.quoted(name)) is not declared above")
      }
      indices.append(source)
    }
    return indices
  }
}

/// The most formulas one after the other, so that evaluating them cannot exhaust the stack.
private let deepestFormula = 32

extension TensorType {
  /// Why no memory could hold a tensor of this type; nil where there is no such reason. Bounding what one entry along
  /// the symbolic dimensions takes keeps every later size computation far from 64 bits.
  fileprivate var problem: String? {
    var size = element.byteCount
    for dimension in shape {
      guard let extent = dimension.extent else { continue }
      if extent < 1 { return "extents must be positive, found \(self)" }
      let (product, overflow) = size.multipliedReportingOverflow(by: extent)
      if overflow || product > largestTypeSize { return "a type must take at most 2^48 bytes, found \(self)" }
      size = product
    }
    return nil
  }
}

/// The most bytes that the fixed extents of a type may multiply to.
private let largestTypeSize = 1 << 48

private struct FunctionVerifier {
  let module: Module
  let function: Function
  private(set) var errors: [TensorIRError] = []
  private var defined: Set<ValueID> = []
  private var names: Set<String> = []
  /// The symbolic dimensions that arguments, selections and additions have defined so far.
  private var dimensions: Set<String> = []
  /// Of dimensions that count targets what counts them.
  private var targetCounts: [String: ValueID] = [:]

  init(module: Module, function: Function) {
    self.module = module
    self.function = function
  }

  mutating func verify() {
    verifyArguments()
    var visited: Set<OperationID> = []
    for id in function.body {
      guard function.operations.indices.contains(Int(id.index)) else {
        fail("the body names operation \(id.index), but there are \(function.operations.count)")
        continue
      }
      guard visited.insert(id).inserted else {
        fail("is in the body twice", id)
        continue
      }
      verify(id)
    }
    // Rules of regions look at operands by number: they rely on what was verified so far.
    if errors.isEmpty { verifyRegions() }
    verifyResults()
  }

  private mutating func verifyRegions() {
    var closed: Set<RegionID> = []
    for unit in function.units {
      guard let region = unit.region else { continue }
      guard closed.insert(region).inserted else {
        fail("stands apart from the other operations of its region", unit.operations[0])
        continue
      }
      var rules = RegionRules(function)
      for id in unit.operations {
        guard let problem = rules.add(id) else { continue }
        fail(problem, id)
        break
      }
    }
  }

  // MARK: Reporting

  private mutating func fail(_ message: String, at location: SourceLocation? = nil) {
    errors.append(TensorIRError(message, at: location ?? function.location, function: function.name))
  }

  private mutating func fail(_ message: String, _ id: OperationID) {
    let operation = function[id]
    let result = operation.results.first { exists($0) }
    errors.append(
      TensorIRError(
        message, at: function.location(of: id), function: function.name, operation: operation.payload.mnemonic,
        result: result.map { function[$0].name }))
  }

  private func exists(_ id: ValueID) -> Bool { function.values.indices.contains(Int(id.index)) }

  // MARK: Rules

  private mutating func verifyArguments() {
    /// The argument that cuts each symbolic number of rows into sequences.
    var cuts: [Dimension: String] = [:]
    for (index, id) in function.arguments.enumerated() {
      let location = index < function.argumentLocations.count ? function.argumentLocations[index] : nil
      guard exists(id), function[id].definition == .argument(index) else {
        fail("argument \(index) is not defined as an argument", at: location)
        continue
      }
      let value = function[id]
      let name = "%" + TextName.quoted(value.name)
      if !names.insert(value.name).inserted { fail("\(name) is defined twice", at: location) }
      defined.insert(id)
      if let problem = value.type.tensor?.problem { fail("argument \(name): \(problem)", at: location) }
      for case .symbol(let symbol) in value.type.dimensions { dimensions.insert(symbol) }
      if case .offsets(_, let rows) = value.type, rows.extent == nil {
        if let other = cuts[rows] {
          fail("\(name) cuts \(rows) into sequences, but %\(TextName.quoted(other)) does so already", at: location)
        }
        cuts[rows] = value.name
      }
    }
  }

  private mutating func verify(_ id: OperationID) {
    let operation = function[id]
    var operandsAreSound = true
    for (index, operand) in operation.operands.enumerated() {
      if let problem = problem(of: operand) {
        fail("operand \(index) \(problem)", id)
        operandsAreSound = false
      }
    }
    verifyDefinitions(of: id)
    guard operandsAreSound, operation.results.allSatisfy(exists) else { return }
    do {
      let types = try operation.payload.definition.resultTypes(for: operation.operands.map { function[$0].type })
      verifyTypes(of: id, types)
    } catch {
      fail(error.message, id)
      return
    }
    verifyDerivedOffsets(id)
  }

  /// Why a value cannot be read here; nil where it can.
  private func problem(of id: ValueID) -> String? {
    guard exists(id) else { return "is value \(id.index), but there are \(function.values.count)" }
    let value = function[id]
    guard case .weight(let weight) = value.definition else {
      return defined.contains(id) ? nil : "is %\(TextName.quoted(value.name)), which is used before it is defined"
    }
    let name = TextName.quoted(value.name)
    guard module.weights.indices.contains(Int(weight.index)) else { return "is @\(name), which is not declared" }
    let declared = module[weight]
    guard declared.name == value.name, .tensor(declared.type) == value.type else {
      return "is @\(name) : \(value.type), but declared is @\(TextName.quoted(declared.name)) : \(declared.type)"
    }
    return nil
  }

  private mutating func verifyDefinitions(of id: OperationID) {
    for (index, result) in function[id].results.enumerated() {
      guard exists(result), function[result].definition == .result(id, index) else {
        fail("result \(index) is not defined as the operation's result", id)
        continue
      }
      let name = function[result].name
      if !names.insert(name).inserted { fail("%\(TextName.quoted(name)) is defined twice", id) }
      defined.insert(result)
    }
  }

  private mutating func verifyTypes(of id: OperationID, _ inferred: [ValueType]) {
    let results = function[id].results
    guard results.count == inferred.count else {
      fail("gives \(inferred.count) results, but has \(results.count)", id)
      return
    }
    for (index, (result, type)) in zip(results, inferred).enumerated() {
      if function[result].type != type {
        fail("result \(index) is written as \(function[result].type), but it is \(type)", id)
      }
      if let problem = type.tensor?.problem { fail(problem, id) }
    }
  }

  /// Offsets of a selection, or of an addition, must be its own: the same rows chosen from, or added to, the same batch.
  private mutating func verifyDerivedOffsets(_ id: OperationID) {
    let operation = function[id]
    switch operation.payload {
    case .extendOffsets(let payload):
      if payload.addition == .appended, lengthsOperand(of: operation.operands[1]) == nil {
        fail("the targets of appended rows must be the result of lengths", id)
      }
      if !dimensions.insert(payload.into).inserted {
        fail("the dimension \(TextName.quoted(payload.into)) is defined already", id)
      }
    case .extendRows(let payload):
      let places = payload.places(among: operation.operands.count)
      let batch = [places.offsets] + (places.targets.map { [$0] } ?? [])
      verify(id, payload.addition, extended: places.extended, of: batch.map { operation.operands[$0] })
      guard payload.addition == .appended, let targets = places.targets,
        let offsets = lengthsOperand(of: operation.operands[targets]),
        case .offsets(_, let rows) = function[offsets].type
      else { return }
      let added = operation.operands[places.added.lowerBound]
      if function[added].type.tensor?.shape.first != rows {
        fail("the added rows are \(function[added].type), but \(rows) are appended", id)
      }
    case .originalRows(let payload):
      verify(id, payload.addition, extended: 2, of: [operation.operands[1]] + operation.operands[3...])
    case .selectOffsets(let payload):
      // The targets of several batches are as many where one value counts them.
      let counts = payload.selection == .targets ? operation.operands.dropFirst().first : nil
      if let counts, targetCounts[payload.into] == counts { return }
      targetCounts[payload.into] = counts
      if !dimensions.insert(payload.into).inserted {
        fail("the dimension \(TextName.quoted(payload.into)) is defined already", id)
      }
    case .selectRows(let payload):
      verify(id, payload.selection, selected: 2, of: [operation.operands[1]] + operation.operands[3...])
    case .restoreRows(let payload):
      verify(id, payload.selection, selected: 3, of: [operation.operands[2]] + operation.operands[4...])
    case .attention(let payload):
      guard let queries = payload.queries else { return }
      let selected = payload.selectedOffsetsOperand
      verify(id, queries, selected: selected, of: Array(operation.operands[3..<selected]))
    default: break
    }
  }

  /// `selected` is the number of the operand with the selected offsets, `batch` are the offsets and targets to select from.
  private mutating func verify(_ id: OperationID, _ selection: RowSelection, selected: Int, of batch: [ValueID]) {
    if selection == .targets, isAppended(function[id].operands[selected], to: batch) { return }
    guard let (own, operands) = selectOffsets(of: function[id].operands[selected]) else {
      fail("the selected offsets must be the result of select_offsets", id)
      return
    }
    if own != selection {
      fail("keeps other rows than the select_offsets that its selected offsets come from", id)
    }
    // A selection of rows that were selected before, of which the first kept more, is one of all rows.
    var made = operands
    while made != batch {
      guard made.dropFirst() == batch.dropFirst(), let (before, operands) = selectOffsets(of: made[0]),
        own.isUnchanged(after: before)
      else {
        fail("reads other offsets or targets than the select_offsets that its selected offsets come from", id)
        return
      }
      made = operands
    }
  }

  /// `extended` is the number of the operand with the extended offsets, `batch` are the offsets and targets that they follow
  /// from.
  private mutating func verify(_ id: OperationID, _ addition: RowAddition, extended: Int, of batch: [ValueID]) {
    let all = selection(of: function[id].operands[extended], from: nil)
    guard case .result(let producer, _)? = all.map({ function[$0.root].definition }),
      case .extendOffsets(let own) = function[producer].payload
    else {
      fail("the extended offsets must be the result of extend_offsets", id)
      return
    }
    if own.addition != addition {
      fail("adds other rows than the extend_offsets that its extended offsets come from", id)
      return
    }
    let operands = function[producer].operands
    // Where some of the extended rows are read only, they must be what becomes of those that are read of the others.
    if Array(operands.dropFirst()) == Array(batch.dropFirst()), let all,
      let before = selection(of: batch[0], from: operands[0])
    {
      switch (before.selection, all.selection) {
      case (nil, nil): return
      case (let kept?, let extended?):
        if before.targets == all.targets, addition.keeps(kept, as: extended) { return }
      default: break
      }
    }
    fail("reads other offsets or targets than the extend_offsets that its extended offsets come from", id)
  }

  /// What selects the rows that offsets cut from those of `root`, or of the first offsets that no selection made; nil where
  /// there is no such selection.
  private func selection(
    of offsets: ValueID, from root: ValueID?
  ) -> (root: ValueID, selection: RowSelection?, targets: [ValueID])? {
    var (value, kept, targets): (ValueID, RowSelection?, [ValueID]) = (offsets, nil, [])
    while value != root {
      guard let (own, operands) = selectOffsets(of: value) else { return root == nil ? (value, kept, targets) : nil }
      if let kept {
        guard kept.isUnchanged(after: own), Array(operands.dropFirst()) == targets else { return nil }
      } else {
        (kept, targets) = (own, Array(operands.dropFirst()))
      }
      value = operands[0]
    }
    return (value, kept, targets)
  }

  /// Whether a batch, offsets and targets, is one that the rows which `offsets` cut were appended to: its targets are they.
  private func isAppended(_ offsets: ValueID, to batch: [ValueID]) -> Bool {
    guard batch.count == 2, lengthsOperand(of: batch[1]) == offsets,
      case .result(let producer, _) = function[batch[0]].definition,
      case .extendOffsets(let extend) = function[producer].payload
    else { return false }
    return extend.addition == .appended && function[producer].operands[1] == batch[1]
  }

  /// The offsets whose lengths a value is; nil where it is anything else.
  private func lengthsOperand(of value: ValueID) -> ValueID? {
    guard case .result(let producer, _) = function[value].definition, case .lengths = function[producer].payload
    else { return nil }
    return function[producer].operands[0]
  }

  private func selectOffsets(of value: ValueID) -> (selection: RowSelection, operands: [ValueID])? {
    guard case .result(let producer, _) = function[value].definition,
      case .selectOffsets(let payload) = function[producer].payload
    else { return nil }
    return (payload.selection, function[producer].operands)
  }

  private mutating func verifyResults() {
    var resultNames: Set<String> = []
    for result in function.results {
      let name = TextName.quoted(result.name)
      if !resultNames.insert(result.name).inserted {
        fail("the result \(name) is returned twice", at: function.returnLocation)
      }
      if let problem = problem(of: result.value) { fail("result \(name) \(problem)", at: function.returnLocation) }
    }
  }
}

extension ValueType {
  /// The type's dimensions from the outermost.
  public var dimensions: [Dimension] {
    switch self {
    case .tensor(let type): type.shape
    case .offsets(let sequences, let rows): [sequences, rows]
    }
  }
}
