/// `x + y`, element by element; both of one type.
public struct Add: OperationPayload {
  public static let mnemonic = "add"
  public init() {}
  public func resultTypes(for operands: [ValueType]) throws(OperationError) -> [ValueType] {
    [try requireAlike(operands)]
  }

  public init(from reader: inout AttributeReader) { self.init() }
  public func writeAttributes(to writer: inout AttributeWriter) {}
}

/// `x * y`, element by element; both of one type.
public struct Multiply: OperationPayload {
  public static let mnemonic = "multiply"
  public init() {}
  public func resultTypes(for operands: [ValueType]) throws(OperationError) -> [ValueType] {
    [try requireAlike(operands)]
  }

  public init(from reader: inout AttributeReader) { self.init() }
  public func writeAttributes(to writer: inout AttributeWriter) {}
}

/// `x * sigmoid(x)`, element by element.
public struct SiLU: OperationPayload {
  public static let mnemonic = "silu"
  public init() {}
  public func resultTypes(for operands: [ValueType]) throws(OperationError) -> [ValueType] {
    [try requireFloatingPoint(operands)]
  }

  public init(from reader: inout AttributeReader) { self.init() }
  public func writeAttributes(to writer: inout AttributeWriter) {}
}

/// `1 / (1 + exp(-x))`, element by element.
public struct Sigmoid: OperationPayload {
  public static let mnemonic = "sigmoid"
  public init() {}
  public func resultTypes(for operands: [ValueType]) throws(OperationError) -> [ValueType] {
    [try requireFloatingPoint(operands)]
  }

  public init(from reader: inout AttributeReader) { self.init() }
  public func writeAttributes(to writer: inout AttributeWriter) {}
}

/// `x * factor`, element by element.
public struct Scale: OperationPayload {
  public static let mnemonic = "scale"
  public var factor: Double
  public init(factor: Double) { self.factor = factor }
  public func resultTypes(for operands: [ValueType]) throws(OperationError) -> [ValueType] {
    try require(factor.isFinite, "factor must be finite, found \(factor)")
    return [try requireFloatingPoint(operands)]
  }

  public init(from reader: inout AttributeReader) { self.init(factor: reader.number("factor")) }
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
