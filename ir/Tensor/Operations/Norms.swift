/// Layer norm over the columns of each row, statistics in the accumulation precision: operands x, and optionally
/// weight and bias of x's width.
public struct LayerNorm: OperationPayload {
  /// Its name in the text form.
  public static let mnemonic = "layer_norm"
  /// What is added to the variance; positive.
  public var epsilon: Double

  /// A norm with this epsilon, which `resultTypes` checks.
  public init(epsilon: Double) { self.epsilon = epsilon }

  /// x's type. Throws where epsilon is not positive, or weight and bias are not both vectors of x's width or both
  /// absent.
  public func resultTypes(for operands: [ValueType]) throws(OperationError) -> [ValueType] {
    try requireOperandCount(operands, 1, 3)
    try requirePositive(epsilon)
    let width = try requireMatrix(operands[0], "x").width
    if operands.count == 3 {
      try requireVector(operands[1], "weight", count: width)
      try requireVector(operands[2], "bias", count: width)
    }
    return [operands[0]]
  }

  /// Reads `epsilon`.
  public init(from reader: inout AttributeReader) { self.init(epsilon: reader.number("epsilon")) }
  /// Writes `epsilon`.
  public func writeAttributes(to writer: inout AttributeWriter) { writer.number("epsilon", epsilon) }
}

/// Layer norm over each of `groups` equal slices of a row apart: operands x, weight and bias with one number a group
/// (GR's GroupNorm over attention heads).
public struct GroupNorm: OperationPayload {
  /// Its name in the text form.
  public static let mnemonic = "group_norm"
  /// How many slices a row has; it divides x's width.
  public var groups: Int
  /// What is added to each slice's variance; positive.
  public var epsilon: Double

  /// Attributes as given; `resultTypes` checks them.
  public init(groups: Int, epsilon: Double) {
    self.groups = groups
    self.epsilon = epsilon
  }

  /// x's type. Throws where epsilon is not positive, groups do not divide x's width, or weight or bias has not one
  /// number a group.
  public func resultTypes(for operands: [ValueType]) throws(OperationError) -> [ValueType] {
    try requireOperandCount(operands, 3)
    try requirePositive(epsilon)
    let width = try requireMatrix(operands[0], "x").width
    try require(groups > 0 && width % groups == 0, "\(groups) groups do not divide a width of \(width)")
    try requireVector(operands[1], "weight", count: groups)
    try requireVector(operands[2], "bias", count: groups)
    return [operands[0]]
  }

  /// Reads `groups` and `epsilon`.
  public init(from reader: inout AttributeReader) {
    self.init(groups: reader.integer("groups"), epsilon: reader.number("epsilon"))
  }

  /// Writes `groups` and `epsilon`.
  public func writeAttributes(to writer: inout AttributeWriter) {
    writer.integer("groups", groups)
    writer.number("epsilon", epsilon)
  }
}

/// `x / max(|x|, epsilon)` with the Euclidean norm of each row.
public struct L2Norm: OperationPayload {
  /// Its name in the text form.
  public static let mnemonic = "l2_norm"
  /// The least number that a row is divided by; positive.
  public var epsilon: Double

  /// A norm with this epsilon, which `resultTypes` checks.
  public init(epsilon: Double) { self.epsilon = epsilon }

  /// x's type. Throws where epsilon is not positive or x is no floating-point matrix.
  public func resultTypes(for operands: [ValueType]) throws(OperationError) -> [ValueType] {
    try requireOperandCount(operands, 1)
    try requirePositive(epsilon)
    _ = try requireMatrix(operands[0], "x")
    return [operands[0]]
  }

  /// Reads `epsilon`.
  public init(from reader: inout AttributeReader) { self.init(epsilon: reader.number("epsilon")) }
  /// Writes `epsilon`.
  public func writeAttributes(to writer: inout AttributeWriter) { writer.number("epsilon", epsilon) }
}

private func requirePositive(_ epsilon: Double) throws(OperationError) {
  try require(epsilon > 0 && epsilon.isFinite, "epsilon must be a positive number, found \(epsilon)")
}
