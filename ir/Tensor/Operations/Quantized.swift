/// The codes of x with one scale a row, in fp32 as `RowQuantization` has it: operand x [rows, width].
///
/// GR ops/pytorch/pt_fp8.py: `scale = amax / 448`, 1 where that is 0; a code is the nearest to `x / scale`.
public struct QuantizeRows: OperationPayload {
  /// Its name in the text form.
  public static let mnemonic = "quantize_rows"
  /// The type of the codes, f8e4m3 or i8.
  public var element: ElementType

  /// Quantization to `element`, which `resultTypes` checks.
  public init(to element: ElementType) { self.element = element }

  /// Codes [rows, width], and fp32 scales [rows]. Throws unless x is an f32 matrix and the codes are of a code's type.
  public func resultTypes(for operands: [ValueType]) throws(OperationError) -> [ValueType] {
    try requireOperandCount(operands, 1)
    let x = try requireMatrix(operands[0], "x")
    try require(x.element == .f32, "x must be of f32, found \(operands[0])")
    try require(element.isCode, "to must be f8e4m3 or i8, found \(element.rawValue)")
    return [.tensor([x.rows, .fixed(x.width)], element), .tensor([x.rows], .f32)]
  }

  /// Reads `to`.
  public init(from reader: inout AttributeReader) { self.init(to: reader.word("to")) }
  /// Writes `to`.
  public func writeAttributes(to writer: inout AttributeWriter) { writer.word("to", element) }
}

/// The numbers that codes with one scale a row stand for, `codes[r, i] * scales[r]` rounded to `element`: operands codes
/// [rows, width], scales [rows].
public struct DequantizeRows: OperationPayload {
  /// Its name in the text form.
  public static let mnemonic = "dequantize_rows"
  /// The type of the numbers, f32 or bf16.
  public var element: ElementType

  /// Numbers of type `element`, which `resultTypes` checks.
  public init(to element: ElementType) { self.element = element }

  /// Numbers of the codes' shape. Throws unless codes are a matrix of a code's type with one fp32 scale a row.
  public func resultTypes(for operands: [ValueType]) throws(OperationError) -> [ValueType] {
    try requireOperandCount(operands, 2)
    let codes = try requireCodes(operands[0], scales: operands[1])
    try require(element == .f32 || element == .bf16, "to must be f32 or bf16, found \(element.rawValue)")
    return [.tensor([codes.rows, .fixed(codes.width)], element)]
  }

  /// Reads `to`.
  public init(from reader: inout AttributeReader) { self.init(to: reader.word("to")) }
  /// Writes `to`.
  public func writeAttributes(to writer: inout AttributeWriter) { writer.word("to", element) }
}

/// The operands as a matrix of codes of fixed width, and one fp32 scale for each of its rows.
private func requireCodes(
  _ codes: ValueType, scales: ValueType
) throws(OperationError) -> (rows: Dimension, width: Int, element: ElementType) {
  guard let type = codes.tensor, type.rank == 2, let width = type.shape[1].extent, type.element.isCode else {
    throw OperationError("codes must be a matrix of f8e4m3 or i8, of fixed width, found \(codes)")
  }
  let rows = type.shape[0]
  try require(scales == .tensor([rows], .f32), "scales must be tensor<\(rows) x f32>, found \(scales)")
  return (rows, width, type.element)
}

/// The product of quantized rows with a quantized weight:
/// `(sum over i of codes[r, i] W[i, o]) * scales[r] * W.scales[o] + bias`, in fp32 but for the sum.
///
/// Operands: codes [rows, in], scales [rows], the weight's codes, its scales [out], and optionally a bias, [out] or
/// [rows, out]: the residual. Products of codes are exact; sums are fp32 for f8e4m3, exact for i8.
public struct QuantizedLinear: OperationPayload {
  /// Its name in the text form.
  public static let mnemonic = "quantized_linear"
  /// Which axis of the weight is contracted with the columns of the codes.
  public var orientation: Linear.Orientation

  /// A product with a weight stored as `orientation` says.
  public init(_ orientation: Linear.Orientation = .inOut) { self.orientation = orientation }

  /// One f32 tensor [rows, out]. Throws where codes, scales or the bias do not fit each other.
  public func resultTypes(for operands: [ValueType]) throws(OperationError) -> [ValueType] {
    try requireOperandCount(operands, 4, 5)
    let codes = try requireCodes(operands[0], scales: operands[1])
    guard let weight = operands[2].tensor, weight.rank == 2, weight.element == codes.element,
      let first = weight.shape[0].extent, let second = weight.shape[1].extent
    else {
      throw OperationError(
        "the weight must be a matrix of \(codes.element.rawValue), as the codes, found \(operands[2])")
    }
    let (input, output) = orientation == .inOut ? (first, second) : (second, first)
    try require(input == codes.width, "the codes are \(codes.width) wide, but the weight takes \(input)")
    try require(
      operands[3] == .tensor([.fixed(output)], .f32),
      "the weight's scales must be tensor<\(output) x f32>, found \(operands[3])")
    let result = ValueType.tensor([codes.rows, .fixed(output)], .f32)
    if operands.count == 5 {
      try require(
        operands[4] == .tensor([.fixed(output)], .f32) || operands[4] == result,
        "bias must be tensor<\(output) x f32> or \(result), found \(operands[4])")
    }
    return [result]
  }

  /// Reads `orientation`, `in_out` where it is missing.
  public init(from reader: inout AttributeReader) {
    self.init(reader.word("orientation", defaultValue: .inOut))
  }

  /// Writes `orientation` unless it is `in_out`.
  public func writeAttributes(to writer: inout AttributeWriter) {
    if orientation != .inOut { writer.word("orientation", orientation) }
  }
}
