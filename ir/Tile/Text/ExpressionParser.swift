import TensorIR

/// How deep expressions may be nested, and how many operations one may have: what recursion over any of them takes.
private let largestNesting = 50
private let largestExpression = 250

// Expressions of tiles and of indices.
extension ProgramParser {
  mutating func expression(in scope: KernelScope) throws(TensorIRError) -> Expression {
    var budget = ExpressionBudget()
    return try sum(in: scope, &budget)
  }

  /// An expression that fills `into`, in which one contraction may stand.
  mutating func expression(
    in scope: KernelScope, into: TileSlice, contraction: inout Contraction?
  ) throws(TensorIRError) -> Expression {
    var budget = ExpressionBudget(into: into)
    let expression = try sum(in: scope, &budget)
    contraction = budget.contraction
    return expression
  }

  private struct ExpressionBudget {
    var nesting = 0
    var operations = 0
    /// What the expression fills, where it may finish a contraction; and the contraction, once it was met.
    var into: TileSlice?
    var contraction: Contraction?

    mutating func enter(at location: SourceLocation) throws(TensorIRError) {
      nesting += 1
      operations += 1
      if nesting > largestNesting {
        throw TensorIRError("an expression may be nested \(largestNesting) deep at most", at: location)
      }
      if operations > largestExpression {
        throw TensorIRError("an expression may have \(largestExpression) operations at most", at: location)
      }
    }

    mutating func leave() { nesting -= 1 }
  }

  private mutating func sum(in scope: KernelScope, _ budget: inout ExpressionBudget) throws(TensorIRError) -> Expression
  {
    var left = try product(in: scope, &budget)
    while token.kind == .symbol("+") || token.kind == .symbol("-") {
      let function: BinaryFunction = token.kind == .symbol("+") ? .add : .subtract
      try advance()
      left = .binary(function, left, try product(in: scope, &budget))
    }
    return left
  }

  private mutating func product(
    in scope: KernelScope, _ budget: inout ExpressionBudget
  ) throws(TensorIRError) -> Expression {
    var left = try operand(in: scope, &budget)
    while token.kind == .symbol("*") || token.kind == .symbol("/") {
      let function: BinaryFunction = token.kind == .symbol("*") ? .multiply : .divide
      try advance()
      left = .binary(function, left, try operand(in: scope, &budget))
    }
    return left
  }

  private mutating func operand(
    in scope: KernelScope, _ budget: inout ExpressionBudget
  ) throws(TensorIRError) -> Expression {
    try budget.enter(at: token.location)
    defer { budget.leave() }
    switch token.kind {
    case .number: return .constant(try number("a constant"))
    case .value: return .tile(try slice(in: scope))
    case .global(let name):
      if let scalar = scalar(named: name) {
        try advance()
        return .scalar(scalar)
      }
      let buffer = try bufferName()
      try expect("[")
      if case .value = token.kind {
        let rows = try indexVector(in: scope)
        try expect("]")
        return .gathered(buffer, rows: rows)
      }
      let index = try integer("the element's index")
      try expect("]")
      return .element(buffer, index)
    case .symbol("("):
      try advance()
      let inner = try sum(in: scope, &budget)
      try expect(")")
      return inner
    case .word(let word): return try function(word, in: scope, &budget)
    default:
      throw unexpected("an expression: %tile, @scalar, @weight[index], @table[%id], a number, a function or \"(\"")
    }
  }

  private mutating func function(
    _ word: String, in scope: KernelScope, _ budget: inout ExpressionBudget
  ) throws(TensorIRError) -> Expression {
    if word == "contract", let into = budget.into {
      if budget.contraction != nil {
        throw TensorIRError("a statement has one contraction at most", at: token.location)
      }
      budget.contraction = try contract(into: into, accumulate: false, in: scope)
      return .product
    }
    let unary = UnaryFunction(rawValue: word)
    let others = ["maximum", "nonzero", "row", "column", "unless", "bits", "position_bias", "time_bias"]
    guard unary != nil || others.contains(word) else {
      let known = (UnaryFunction.allCases.map(\.rawValue) + others).joined(separator: ", ")
      throw unexpected("a function (\(budget.into == nil ? "" : "contract, ")\(known))")
    }
    try advance()
    try expect("(")
    let result: Expression
    switch word {
    case "maximum", "nonzero":
      let left = try sum(in: scope, &budget)
      try expect(",")
      result = .binary(word == "maximum" ? .maximum : .nonzero, left, try sum(in: scope, &budget))
    case "row": result = .rowValue(try slice(in: scope))
    case "column":
      let buffer = try bufferName()
      var first = 0
      if token.kind == .symbol(",") {
        try expectLabel("from")
        first = try integer("the first element")
      }
      result = .columnValue(buffer, first: first)
    case "unless":
      let indices = try indexVector(in: scope)
      try expect("=")
      let id = try integer("an index")
      try expect(",")
      result = .unlessIndex(indices, is: id, try sum(in: scope, &budget))
    case "bits":
      let indices = try indexVector(in: scope)
      try expect(",")
      let mask = try integer("a mask")
      try expect(",")
      result = .whereBits(indices, mask: mask, try sum(in: scope, &budget))
    case "position_bias":
      let weights = try bufferName()
      try expectLabel("reference")
      result = .positionBias(weights, reference: try integer("where distance 0 is"))
    case "time_bias":
      result = .timeBias(
        TimeBias(
          weights: try bufferName(), thresholds: try labeledBuffer("thresholds"),
          queryTimes: try labeledBuffer("queries"), keyTimes: try labeledBuffer("keys")))
    default:
      let operand = try sum(in: scope, &budget)
      // The word was found among the functions above.
      result = unary.map { .unary($0, operand) } ?? operand
    }
    try expect(")")
    return result
  }

  // MARK: - Indices

  mutating func indexExpression() throws(TensorIRError) -> IndexExpression {
    var budget = ExpressionBudget()
    return try indexExpression(&budget)
  }

  /// `3`, `position`, `(a + b)`, `(a - b)`, `min(a, b)`, `max(a, b)`, `half(a)` or `(a < b ? c : d)`.
  private mutating func indexExpression(_ budget: inout ExpressionBudget) throws(TensorIRError) -> IndexExpression {
    try budget.enter(at: token.location)
    defer { budget.leave() }
    if case .number = token.kind { return .constant(try integer("an index")) }
    if case .word(let word) = token.kind {
      if let variable = IndexVariable(rawValue: word) {
        try advance()
        return .variable(variable)
      }
      guard word == "min" || word == "max" || word == "half" else {
        throw unexpected("an index: a number, position, length, targets, min, max, half or \"(\"")
      }
      try advance()
      try expect("(")
      let left = try indexExpression(&budget)
      if word == "half" {
        try expect(")")
        return .half(left)
      }
      try expect(",")
      let right = try indexExpression(&budget)
      try expect(")")
      return word == "min" ? .minimum(left, right) : .maximum(left, right)
    }
    try expect("(")
    let left = try indexExpression(&budget)
    let result: IndexExpression
    if try take("+") {
      result = .add(left, try indexExpression(&budget))
    } else if try take("-") {
      result = .subtract(left, try indexExpression(&budget))
    } else {
      guard try take("<") else { throw unexpected("\"+\", \"-\" or \"<\"") }
      let right = try indexExpression(&budget)
      try expect("?")
      let then = try indexExpression(&budget)
      try expect(":")
      result = .ifLess(left, right, then: then, otherwise: try indexExpression(&budget))
    }
    try expect(")")
    return result
  }
}
