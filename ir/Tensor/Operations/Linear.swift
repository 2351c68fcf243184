/// `x W + bias`, accumulated in fp32 or wider: operands x [rows, in], W, and optionally bias [out].
///
/// x and W are of one type. Products of f16 and of bf16 numbers are exact in fp32; sums, bias and result are f32, or f64 where
/// x and W are.
public struct Linear: OperationPayload {
  /// Its name in the text form.
  public static let mnemonic = "linear"

  /// How W is stored.
  public enum Orientation: String, Hashable, Sendable, CaseIterable {
    /// [in, out], as GR's STU matrices.
    case inOut = "in_out"
    /// [out, in], as nn.Linear.
    case outIn = "out_in"
  }

  /// Which axis of W is contracted with the columns of x.
  public var orientation: Orientation

  /// A product with W stored as `orientation` says.
  public init(_ orientation: Orientation = .inOut) { self.orientation = orientation }

  /// One tensor [rows, out] of f32, or f64 where x and W are. Throws where W is no matrix of fixed shape, or W or the
  /// bias does not fit.
  public func resultTypes(for operands: [ValueType]) throws(OperationError) -> [ValueType] {
    try requireOperandCount(operands, 2, 3)
    let x = try requireMatrix(operands[0], "x")
    guard let weight = operands[1].tensor, weight.rank == 2, weight.element.isFloatingPoint,
      let first = weight.shape[0].extent, let second = weight.shape[1].extent
    else { throw OperationError("the weight must be a matrix of fixed shape, found \(operands[1])") }
    let (input, output) = orientation == .inOut ? (first, second) : (second, first)
    try require(input == x.width, "x is \(x.width) wide, but the weight takes \(input)")
    try require(
      weight.element == x.element, "x is of \(x.element.rawValue), but the weight is of \(weight.element.rawValue)")
    let result: ElementType = x.element == .f64 ? .f64 : .f32
    if operands.count == 3 { try requireVector(operands[2], "bias", count: output, result) }
    return [.tensor([x.rows, .fixed(output)], result)]
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
