/// Reads the text form of a module (docs/tensor-ir.md).
///
/// Takes any text: whatever is wrong becomes an error with its place. The grammar needs no recursion, so nesting cannot
/// exhaust the stack, and nothing is allocated from a number in the text.
public enum TensorIRParser {
  /// The module that `source` spells out, verified. `file` is the name that errors give.
  public static func parse(_ source: String, file: String = "<text>") throws(TensorIRError) -> Module {
    var parser = try ModuleParser(Lexer(source, file: file))
    let module = try parser.module()
    try module.verify()
    return module
  }
}

/// Recursive descent without recursion: one method for each form of the grammar, one token of lookahead.
private struct ModuleParser: TokenParser {
  var lexer: Lexer
  var token: Token

  init(_ lexer: Lexer) throws(TensorIRError) {
    self.lexer = lexer
    token = try self.lexer.next()
  }

  // MARK: Module

  mutating func module() throws(TensorIRError) -> Module {
    guard try takeWord("module") else { throw unexpected("\"module\" and the module's name") }
    var module = Module(name: try name("the module's name"))
    while token.kind != .end {
      if try takeWord("weight") {
        try weight(of: &module)
      } else if token.kind == .word("func") {
        let location = token.location
        try advance()
        let function = try function(of: module, location)
        module.functions.append(function)
      } else {
        throw unexpected("\"weight\" or \"func\"")
      }
    }
    return module
  }

  private mutating func weight(of module: inout Module) throws(TensorIRError) {
    let location = token.location
    let name = try globalName("the weight's name")
    if module.weight(named: name) != nil {
      throw TensorIRError("the weight @\(TextName.quoted(name)) is declared twice", at: location)
    }
    try expect(":")
    let typeLocation = token.location
    guard case .tensor(let type) = try type() else {
      throw TensorIRError("a weight must be a tensor", at: typeLocation)
    }
    let formula = try take("=") ? try formula() : nil
    module.declareWeight(Weight(name: name, type: type, formula: formula), at: location)
  }

  /// `name @source, ... {attributes}`; the verifier knows whether the sources fit.
  private mutating func formula() throws(TensorIRError) -> WeightFormula {
    let location = token.location
    guard case .word(let mnemonic) = token.kind, let counts = WeightFormula.sourceCounts(of: mnemonic) else {
      throw unexpected("a formula (\(WeightFormula.mnemonics.joined(separator: ", ")))")
    }
    try advance()
    var sources: [String] = []
    repeat { sources.append(try globalName("a source")) } while try take(",")
    guard counts.contains(sources.count) else {
      let expected = counts.count == 1 ? "\(counts.lowerBound)" : "\(counts.lowerBound) or \(counts.upperBound)"
      throw TensorIRError("expected \(expected) sources, found \(sources.count)", at: location, operation: mnemonic)
    }
    var attributes = AttributeReader(operation: mnemonic, location: location, entries: try attributes())
    let formula = WeightFormula(mnemonic, sources, from: &attributes)
    try attributes.finish()
    return formula
  }

  // MARK: Types

  private mutating func type() throws(TensorIRError) -> ValueType {
    if try takeWord("tensor") {
      try expect("<")
      return .tensor(try tensorType())
    }
    if try takeWord("offsets") {
      try expect("<")
      let sequences = try dimension()
      guard try takeWord("x") else { throw unexpected("\"x\"") }
      let rows = try dimension()
      try expect(">")
      return .offsets(sequences: sequences, rows: rows)
    }
    throw unexpected("a type, tensor<...> or offsets<...>")
  }

  /// Extents, then the element type, separated by `x`, up to and with the closing `>`.
  private mutating func tensorType() throws(TensorIRError) -> TensorType {
    var shape: [Dimension] = []
    while true {
      let last = token
      let dimension = try dimension()
      if try take(">") {
        guard case .word(let text) = last.kind, let element = ElementType(rawValue: text) else {
          let known = ElementType.allCases.map(\.rawValue).joined(separator: ", ")
          throw TensorIRError("expected an element type (\(known)), found \(last.description)", at: last.location)
        }
        return TensorType(shape, element)
      }
      guard try takeWord("x") else { throw unexpected("\"x\" or \">\"") }
      shape.append(dimension)
    }
  }

  private mutating func dimension() throws(TensorIRError) -> Dimension {
    guard case .number(let text) = token.kind else {
      return .symbol(try name("an extent, a number or a name"))
    }
    guard let extent = Int(text), extent >= 0 else { throw unexpected("an extent, a whole number of 64 bits") }
    try advance()
    return .fixed(extent)
  }

  // MARK: Functions

  /// A function under construction, with the names that are defined so far.
  private struct Scope {
    var function: Function
    var values: [String: ValueID] = [:]
  }

  private mutating func function(of module: Module, _ location: SourceLocation) throws(TensorIRError) -> Function {
    var scope = Scope(function: Function(name: try globalName("the function's name")))
    scope.function.location = location
    try arguments(of: &scope)
    try expect("->")
    let declared = try resultTypes()
    try expect("{")
    while true {
      let start = token.location
      if try takeWord("return") {
        try returned(declared, at: start, to: &scope, in: module)
        try expect("}")
        return scope.function
      }
      if try takeWord("region") {
        try region(of: &scope, in: module, at: start)
      } else {
        try operation(of: &scope, in: module, region: nil)
      }
    }
  }

  /// Operations up to the closing brace. The rows may be left out; where they are written, they must be those of the
  /// operations.
  private mutating func region(
    of scope: inout Scope, in module: Module, at location: SourceLocation
  ) throws(TensorIRError) {
    let region = scope.function.newRegion()
    let written: Dimension? = try takeWord("over") ? try dimension() : nil
    try expect("{")
    guard case .value = token.kind else { throw unexpected("an operation, %name = ...") }
    repeat {
      let id = try operation(of: &scope, in: module, region: region)
      if let written, let rows = scope.function.rows(of: id), rows != written {
        throw TensorIRError(
          "the region is over \(written), but \(scope.function[id].payload.mnemonic) gives \(rows)", at: location,
          function: scope.function.name)
      }
    } while try !take("}")
  }

  private mutating func arguments(of scope: inout Scope) throws(TensorIRError) {
    try expect("(")
    if try take(")") { return }
    repeat {
      let (name, location) = try newValueName(in: scope)
      try expect(":")
      scope.values[name] = scope.function.addArgument(name: name, type: try type())
      scope.function.argumentLocations.append(location)
    } while try take(",")
    try expect(")")
  }

  private mutating func newValueName(in scope: Scope) throws(TensorIRError) -> (String, SourceLocation) {
    guard case .value(let name) = token.kind else { throw unexpected("a value, %name") }
    let location = token.location
    if scope.values[name] != nil {
      throw TensorIRError("%\(TextName.quoted(name)) is defined twice", at: location, function: scope.function.name)
    }
    try advance()
    return (name, location)
  }

  private struct DeclaredResult {
    var name: String
    var type: ValueType
    var location: SourceLocation
  }

  private mutating func resultTypes() throws(TensorIRError) -> [DeclaredResult] {
    try expect("(")
    if try take(")") { return [] }
    var results: [DeclaredResult] = []
    repeat {
      let location = token.location
      let name = try name("the result's name")
      try expect(":")
      results.append(DeclaredResult(name: name, type: try type(), location: location))
    } while try take(",")
    try expect(")")
    return results
  }

  private mutating func returned(
    _ declared: [DeclaredResult], at location: SourceLocation, to scope: inout Scope, in module: Module
  ) throws(TensorIRError) {
    let values = try operands(of: &scope, in: module)
    scope.function.returnLocation = location
    guard values.count == declared.count else {
      throw TensorIRError(
        "results: \(declared.count) declared, \(values.count) returned",
        at: location, function: scope.function.name)
    }
    for (result, value) in zip(declared, values) {
      guard scope.function[value].type == result.type else {
        throw TensorIRError(
          "result \(TextName.quoted(result.name)) is declared \(result.type), but "
            + "\(scope.function.reference(value, in: module)) is \(scope.function[value].type)",
          at: location, function: scope.function.name)
      }
      scope.function.results.append(Function.Result(name: result.name, value: value))
    }
  }

  // MARK: Operations

  /// Operands up to the first token that cannot be one; none where the first token is not.
  private mutating func operands(of scope: inout Scope, in module: Module) throws(TensorIRError) -> [ValueID] {
    var operands: [ValueID] = []
    switch token.kind {
    case .value, .global: break
    default: return []
    }
    repeat {
      switch token.kind {
      case .value(let name):
        guard let id = scope.values[name] else {
          throw TensorIRError(
            "%\(TextName.quoted(name)) is used before it is defined", at: token.location,
            function: scope.function.name)
        }
        operands.append(id)
      case .global(let name):
        guard let id = module.weight(named: name) else {
          throw TensorIRError(
            "the weight @\(TextName.quoted(name)) is not declared above", at: token.location,
            function: scope.function.name)
        }
        operands.append(scope.function.value(of: id, in: module))
      default: throw unexpected("an operand, %name or @name")
      }
      try advance()
    } while try take(",")
    return operands
  }

  @discardableResult
  private mutating func operation(
    of scope: inout Scope, in module: Module, region: RegionID?
  ) throws(TensorIRError) -> OperationID {
    guard case .value = token.kind else {
      throw unexpected("an operation, %name = ..., or " + (region == nil ? "\"return\"" : "\"}\""))
    }
    var names: [String] = []
    var distinctNames: Set<String> = []
    repeat {
      let (name, location) = try newValueName(in: scope)
      if !distinctNames.insert(name).inserted {
        throw TensorIRError("%\(TextName.quoted(name)) is defined twice", at: location, function: scope.function.name)
      }
      names.append(name)
    } while try take(",")
    try expect("=")
    let location = token.location
    guard case .word(let mnemonic) = token.kind else { throw unexpected("an operation") }
    guard let read = Payload.readers[mnemonic] else {
      let known = Payload.mnemonics.joined(separator: ", ")
      throw TensorIRError("there is no operation \"\(mnemonic)\"; known are \(known)", at: location)
    }
    try advance()
    let operands = try operands(of: &scope, in: module)
    var attributes = AttributeReader(operation: mnemonic, location: location, entries: try attributes())
    let payload = read(&attributes)
    let fail = { [function = scope.function.name] (error: TensorIRError) in
      var error = error
      error.function = function
      error.operation = mnemonic
      error.result = names[0]
      return error
    }
    do { try attributes.finish() } catch { throw fail(error) }
    let types: [ValueType]
    do {
      types = try payload.definition.resultTypes(for: operands.map { scope.function[$0].type })
    } catch {
      throw fail(TensorIRError(error.message, at: location))
    }
    guard names.count == types.count else {
      throw fail(TensorIRError("results: expected \(types.count) names, found \(names.count)", at: location))
    }
    if token.kind == .symbol(":") {
      try advance()
      try check(types, fail)
    }
    let results = Array(zip(names, types)).map { (name: $0.0, type: $0.1) }
    let id = scope.function.append(payload, operands: operands, results: results)
    scope.function[id].region = region
    scope.function.setLocation(location, of: id)
    for (name, value) in zip(names, scope.function[id].results) { scope.values[name] = value }
    return id
  }

  /// The written types of an operation's results, which must be the inferred ones.
  private mutating func check(_ types: [ValueType], _ fail: (TensorIRError) -> TensorIRError) throws(TensorIRError) {
    for (index, inferred) in types.enumerated() {
      if index > 0 { try expect(",") }
      let location = token.location
      let written = try type()
      guard written == inferred else {
        throw fail(TensorIRError("result \(index) is written as \(written), but it is \(inferred)", at: location))
      }
    }
  }

  // MARK: Attributes

  private mutating func attributes() throws(TensorIRError) -> [AttributeReader.Entry] {
    guard try take("{") else { return [] }
    var entries: [AttributeReader.Entry] = []
    var names: Set<String> = []
    repeat {
      let location = token.location
      guard case .word(let name) = token.kind else { throw unexpected("an attribute's name") }
      try advance()
      if !names.insert(name).inserted {
        throw TensorIRError("the attribute \"\(name)\" is given twice", at: location)
      }
      let value = try take("=") ? try phrase("the attribute's value") : nil
      entries.append(AttributeReader.Entry(name: name, location: location, value: value))
    } while try take(",")
    try expect("}")
    return entries
  }
}
