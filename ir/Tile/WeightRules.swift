import TensorIR

// Rules of weights: which packings they can have.
extension ProgramVerifier {
  func problem(of weight: Buffer, _ packing: Packing) -> String? {
    guard weight.element.isTileElement || packing.isTable(of: weight.element), let rows = weight.rows.dimension.extent,
      rows > 0, weight.rows.plus == 0
    else {
      return "a weight must have numbers, and a fixed, positive number of rows"
    }
    switch packing {
    case .plain: return weight.element.isCode ? "codes must be in panels, found \(weight.element.rawValue)" : nil
    case .coded(let format):
      if weight.element != .u8 { return "coded rows are of u8, found \(weight.element.rawValue)" }
      return weight.columns > format.byteCount(width: 0) ? nil : "a coded row takes more than \(weight.columns) bytes"
    case .codedPanels(let format, let width):
      if weight.element != .u8 { return "coded rows are of u8, found \(weight.element.rawValue)" }
      guard (1...largestBlock).contains(width) else { return "a panel must be 1 to 2^20 rows wide, found \(width)" }
      if weight.columns <= format.byteCount(width: 0) { return "a coded row takes more than \(weight.columns) bytes" }
      return byteCount((rows + width - 1) / width, width, format.panelRowBytes(ofRow: weight.columns)) == nil
        ? "takes more than 2^48 bytes" : nil
    case .reversed:
      if weight.element != .f32 { return "a reversed weight must be f32, found \(weight.element.rawValue)" }
      return rows == 1 ? nil : "only a vector can be reversed, found \(rows) rows"
    case .fragments(let transposed, let isFNUZ):
      if isFNUZ, weight.element != .f8e4m3 {
        return "only f8e4m3 has another form of its numbers, found \(weight.element.rawValue)"
      }
      return problem(ofSteps: weight, "fragments", width: Packing.fragmentColumns, rows: rows, transposed)
    case .matrices(let transposed):
      return problem(ofSteps: weight, "matrices", width: Packing.matrixColumns, rows: rows, transposed)
    case .panels(let width, let transposed):
      guard (1...largestBlock).contains(width) else { return "a panel must be 1 to 2^20 columns wide, found \(width)" }
      let (inner, outer) = transposed ? (weight.columns, rows) : (rows, weight.columns)
      return byteCount((outer + width - 1) / width, width, weight.element.panelColumnBytes(inner)) == nil
        ? "takes more than 2^48 bytes" : nil
    }
  }

  /// Why a weight cannot lie as a GPU's matrix instructions take it; nil where it can.
  private func problem(
    ofSteps weight: Buffer, _ name: String, width: Int, rows: Int, _ transposed: Bool
  ) -> String? {
    guard weight.element == .bf16 || weight.element.isCode else {
      return "\(name) are of bf16 or codes, found \(weight.element.rawValue)"
    }
    let (inner, outer) = transposed ? (weight.columns, rows) : (rows, weight.columns)
    return byteCount(outer + width, inner + Packing.stepRows(of: weight.element), weight.element.byteCount) == nil
      ? "takes more than 2^48 bytes" : nil
  }
}

extension Packing {
  /// Whether a weight lies in a form of its own that tiles do not have: rows that only gathers read, or that are decoded.
  func isTable(of element: ElementType) -> Bool {
    switch self {
    case .plain: element == .f16
    case .coded, .codedPanels: element == .u8
    case .reversed, .panels, .fragments, .matrices: false
    }
  }
}
