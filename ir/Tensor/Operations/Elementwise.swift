/// `x + y`, element by element; both of one type.
public struct Add: OperationPayload {
  /// Its name in the text form.
  public static let mnemonic = "add"

  /// It has no attributes.
  public init() {}

  /// The operands' type. Throws unless they are two floating-point matrices of one type.
  public func resultTypes(for operands: [ValueType]) throws(OperationError) -> [ValueType] {
    [try requireAlike(operands)]
  }

  /// Reads nothing: it has no attributes.
  public init(from reader: inout AttributeReader) { self.init() }
  /// Writes nothing: it has no attributes.
  public func writeAttributes(to writer: inout AttributeWriter) {}
}

/// `x * y`, element by element; both of one type.
public struct Multiply: OperationPayload {
  /// Its name in the text form.
  public static let mnemonic = "multiply"

  /// It has no attributes.
  public init() {}

  /// The operands' type. Throws unless they are two floating-point matrices of one type.
  public func resultTypes(for operands: [ValueType]) throws(OperationError) -> [ValueType] {
    [try requireAlike(operands)]
  }

  /// Reads nothing: it has no attributes.
  public init(from reader: inout AttributeReader) { self.init() }
  /// Writes nothing: it has no attributes.
  public func writeAttributes(to writer: inout AttributeWriter) {}
}

/// `x * sigmoid(x)`, element by element.
public struct SiLU: OperationPayload {
  /// Its name in the text form.
  public static let mnemonic = "silu"

  /// It has no attributes.
  public init() {}

  /// The operand's type. Throws unless it is one floating-point matrix.
  public func resultTypes(for operands: [ValueType]) throws(OperationError) -> [ValueType] {
    [try requireFloatingPoint(operands)]
  }

  /// Reads nothing: it has no attributes.
  public init(from reader: inout AttributeReader) { self.init() }
  /// Writes nothing: it has no attributes.
  public func writeAttributes(to writer: inout AttributeWriter) {}
}

/// `1 / (1 + exp(-x))`, element by element.
public struct Sigmoid: OperationPayload {
  /// Its name in the text form.
  public static let mnemonic = "sigmoid"

  /// It has no attributes.
  public init() {}

  /// The operand's type. Throws unless it is one floating-point matrix.
  public func resultTypes(for operands: [ValueType]) throws(OperationError) -> [ValueType] {
    [try requireFloatingPoint(operands)]
  }

  /// Reads nothing: it has no attributes.
  public init(from reader: inout AttributeReader) { self.init() }
  /// Writes nothing: it has no attributes.
  public func writeAttributes(to writer: inout AttributeWriter) {}
}

/// `x * factor`, element by element.
public struct Scale: OperationPayload {
  /// Its name in the text form.
  public static let mnemonic = "scale"
  /// What every element is multiplied by; finite.
  public var factor: Double

  /// A product with `factor`, which `resultTypes` checks.
  public init(factor: Double) { self.factor = factor }

  /// The operand's type. Throws unless it is one floating-point matrix and the factor is finite.
  public func resultTypes(for operands: [ValueType]) throws(OperationError) -> [ValueType] {
    try require(factor.isFinite, "factor must be finite, found \(factor)")
    return [try requireFloatingPoint(operands)]
  }

  /// Reads `factor`.
  public init(from reader: inout AttributeReader) { self.init(factor: reader.number("factor")) }
  /// Writes `factor`.
  public func writeAttributes(to writer: inout AttributeWriter) { writer.number("factor", factor) }
}

private func requireFloatingPoint(_ operands: [ValueType]) throws(OperationError) -> ValueType {
  try requireOperandCount(operands, 1)
  _ = try requireMatrix(operands[0], "operand")
  return operands[0]
}

private func requireAlike(_ operands: [ValueType]) throws(OperationError) -> ValueType {
  try requireOperandCount(operands, 2)
  _ = try requireMatrix(operands[0], "operand")
  try require(operands[0] == operands[1], "operands differ in type: \(operands[0]) and \(operands[1])")
  return operands[0]
}
