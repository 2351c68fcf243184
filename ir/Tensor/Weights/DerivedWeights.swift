/// The weights of a module: those that `base` has, and those that follow from others by their formulas.
///
/// A derived weight is computed when it is asked for, and kept no longer than its reader wants it; what it follows from is
/// read in place, and only the rows that are needed. The module must be verified.
public struct DerivedWeights: WeightProvider {
  /// What fp32 formulas are rounded to.
  public enum Precision: Sendable {
    /// To fp32, as artifacts hold them.
    case stored
    /// To nothing: what is declared f32 or f64 is given as f64, and other such formulas read it so. Formulas of narrower
    /// types, quantized ones among them, give what they give under `stored`.
    case wide
  }

  /// The module whose formulas are followed.
  public let module: Module
  /// The bytes of weights without a formula.
  public let base: any WeightProvider
  /// How fp32 weights are given.
  public let precision: Precision

  /// The weights of a verified module.
  public init(_ module: Module, base: any WeightProvider, precision: Precision = .stored) {
    self.module = module
    self.base = base
    self.precision = precision
  }

  /// The bytes of a weight, valid during `body` only. Throws where there is no weight of this name, where a source is
  /// not of the type that it is declared with, and where numbers do not fit a quantized form.
  public func withWeight<R>(
    _ name: String, _ body: (ElementType, [Int], UnsafeRawBufferPointer) throws -> R
  ) throws -> R {
    guard let id = module.weight(named: name), module[id].formula != nil else {
      return try base.withWeight(name, body)
    }
    let rows = try self.rows(of: name)
    return try rows.withRows(0..<rows.count) { try body(rows.element, rows.shape, $0) }
  }

  /// A weight, open for reading some rows at a time. Of what it follows from, the same rows are read each time, and
  /// everything once where it is opened, if numbers of all rows together decide, as do the scales of columns. Throws as
  /// `withWeight` does.
  public func rows(of name: String) throws -> WeightRows {
    guard let id = module.weight(named: name), let formula = module[id].formula else {
      return try base.rows(of: name)
    }
    let type = module[id].type
    let isWide = precision == .wide && type.element.isWide
    let element = isWide ? .f64 : type.element
    let provider = isWide ? self : DerivedWeights(module, base: base)
    @Sendable func named<R>(_ body: () throws -> R) throws -> R {
      do {
        return try body()
      } catch let error as OperationError {
        throw OperationError("@\(TextName.quoted(name)) = \(formula.text): \(error)")
      }
    }
    let rows = try named {
      try FormulaRows(formula, TensorType(type.shape, element), from: formula.sources.map(provider.source))
    }
    return WeightRows(element, type.shape.map { $0.extent ?? 0 }, heldBytes: rows.heldBytes) { range, body in
      let bytes = try named { try rows.bytes(of: range) }
      try bytes.withUnsafeBytes { try body($0) }
    }
  }

  /// A weight that a formula reads, which must be of its declared type.
  private func source(_ name: String) throws -> WeightRows {
    guard let id = module.weight(named: name) else { throw OperationError("no weight is called \"\(name)\"") }
    let declared = module[id].type
    let rows = try self.rows(of: name)
    let isGiven =
      rows.element == declared.element || (precision == .wide && declared.element.isWide && rows.element == .f64)
    guard isGiven, declared.shape == rows.shape.map({ .fixed($0) }) else {
      throw OperationError("@\(name) is declared as \(declared), found \(rows.shape) of \(rows.element.rawValue)")
    }
    return rows
  }
}

extension ElementType {
  /// Whether weights of this type are given in fp64 where precision is wide.
  fileprivate var isWide: Bool { self == .f32 || self == .f64 }
}
