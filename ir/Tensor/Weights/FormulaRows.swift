/// A formula with its sources open: computes some rows of its weight at a time, from the rows that these follow from.
struct FormulaRows: Sendable {
  private let formula: WeightFormula
  private let type: TensorType
  private let sources: [WeightRows]
  /// The scale of every column, where codes have one.
  private var columnScales: [Float] = []
  /// The bytes of a vector that all rows of its source decide.
  private var vector: [UInt8]?

  /// Opens a formula that gives a weight of this type; the types fit, `WeightFormula.verify` has seen to that.
  init(_ formula: WeightFormula, _ type: TensorType, from sources: [WeightRows]) throws {
    self.formula = formula
    self.type = type
    self.sources = sources
    switch formula {
    case .product(_, _, let bias, let orientation):
      let products = try Self.product(
        sources[0], sources[1], bias: bias == nil ? nil : sources[2], orientation: orientation)
      vector = elements(products.count) { products[$0] }
    case .codes(_, .columns): columnScales = try Self.columnScales(of: sources[0], for: type.element)
    case .scales(_, .columns, let element):
      let scales = try Self.columnScales(of: sources[0], for: element)
      vector = elements(scales.count) { Double(scales[$0]) }
    case .convert, .slice, .scale, .scaleAxis, .scaleRanges, .codes, .scales, .quantizedRows: break
    }
  }

  /// Of a vector 1.
  private var width: Int { type.rank > 1 ? type.shape[1].extent ?? 0 : 1 }

  /// Bytes in memory for each row: its own, and those of the rows that it follows from.
  var heldBytes: Int {
    let own = width * type.element.byteCount
    switch formula {
    case .product, .scales(_, .columns, _): return own
    case .scaleAxis(_, _, .rows): return own + sources[0].heldBytes + sources[1].heldBytes
    case .convert, .slice, .scale, .scaleAxis, .scaleRanges, .codes, .scales, .quantizedRows:
      return own + sources[0].heldBytes
    }
  }

  /// The bytes of some rows of the weight.
  func bytes(of rows: Range<Int>) throws -> [UInt8] {
    let width = width
    let count = rows.count * width
    let source = sources[0]
    switch formula {
    case .convert: return try converted(source, rows)
    case .slice(_, .rows, let first): return try converted(source, first + rows.lowerBound..<first + rows.upperBound)
    case .slice(_, .columns, let first):
      return try source.withView(rows) { source in
        elements(count) { source.double($0 / width * source.width + first + $0 % width) }
      }
    case .scale(_, let factor):
      return try source.withView(rows) { source in elements(count) { source.double($0) * factor } }
    case .scaleAxis(_, _, let axis):
      let factors = sources[1]
      return try factors.withView(axis == .rows ? rows : 0..<factors.count) { factors in
        try source.withView(rows) { source in
          elements(count) { source.double($0) * factors.double(axis == .rows ? $0 / width : $0 % width) }
        }
      }
    case .scaleRanges(_, let axis, let widths, let factors):
      let factors = Self.expanded(factors, widths, axis == .rows ? rows : 0..<width)
      return try source.withView(rows) { source in
        elements(count) { source.double($0) * factors[axis == .rows ? $0 / width : $0 % width] }
      }
    case .codes(_, let channels):
      return try source.withView(rows) { source in
        let scales = channels == .rows ? source.rowScales(for: type.element) : columnScales
        return Self.bytes(count) { index, bytes in
          let scale = scales[channels == .rows ? index / width : index % width]
          bytes[index] = RowQuantization.byte(source.float(index), scale: scale, for: type.element)
        }
      }
    case .scales(_, .rows, let element):
      return try source.withView(rows) { source in
        let scales = source.rowScales(for: element)
        return elements(count) { Double(scales[$0]) }
      }
    case .product, .scales(_, .columns, _):
      let size = type.element.byteCount
      return Array((vector ?? [])[rows.lowerBound * size..<rows.upperBound * size])
    case .quantizedRows(_, let format):
      return try source.withView(rows) { source in
        try Self.bytes(count) { bytes in
          try source.withFloats { row, elements in
            do {
              try format.encode(elements, into: .init(rebasing: bytes[row * width..<(row + 1) * width]))
            } catch {
              throw OperationError("row \(rows.lowerBound + row): \(error)")
            }
          }
        }
      }
    }
  }

  /// Rows of the source, each number rounded once to the weight's element type.
  private func converted(_ source: WeightRows, _ rows: Range<Int>) throws -> [UInt8] {
    try source.withRows(rows) { numbers in
      Self.bytes(rows.count * width * type.element.byteCount) {
        NumberConversion.convert(numbers, from: source.element, to: type.element, into: $0)
      }
    }
  }

  /// The bytes of numbers of the weight's type, each rounded once.
  private func elements(_ count: Int, _ element: (Int) -> Double) -> [UInt8] {
    Self.bytes(count * type.element.byteCount) { bytes in
      for index in 0..<count { bytes.store(element(index), index, type.element) }
    }
  }

  private static func bytes(
    _ count: Int, _ write: (UnsafeMutableRawBufferPointer) throws -> Void
  ) rethrows -> [UInt8] {
    try [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
      try write(UnsafeMutableRawBufferPointer(buffer))
      initialized = count
    }
  }

  private static func bytes(_ count: Int, _ write: (Int, UnsafeMutableRawBufferPointer) -> Void) -> [UInt8] {
    bytes(count) { bytes in for index in 0..<count { write(index, bytes) } }
  }

  // MARK: - What all rows decide

  /// A vector times a matrix, plus a bias, in fp64: each sum from its first term to its last.
  private static func product(
    _ vector: WeightRows, _ matrix: WeightRows, bias: WeightRows?, orientation: Linear.Orientation
  ) throws -> [Double] {
    let inputs = try vector.doubles()
    var sums = [Double](repeating: 0, count: orientation == .inOut ? matrix.shape[1] : matrix.count)
    for window in matrix.windows() {
      try matrix.withView(window) { view in
        for row in window {
          let first = (row - window.lowerBound) * view.width
          switch orientation {
          case .inOut: for output in 0..<view.width { sums[output] += inputs[row] * view.double(first + output) }
          case .outIn: for input in 0..<view.width { sums[row] += inputs[input] * view.double(first + input) }
          }
        }
      }
    }
    let offsets = try bias?.doubles()
    return sums.indices.map { sums[$0] + (offsets?[$0] ?? 0) }
  }

  private static func columnScales(of source: WeightRows, for element: ElementType) throws -> [Float] {
    var magnitudes = [Float](repeating: 0, count: source.shape[1])
    for window in source.windows() {
      try source.withView(window) { view in
        for index in 0..<window.count * view.width {
          magnitudes[index % view.width] = max(magnitudes[index % view.width], view.float(index).magnitude)
        }
      }
    }
    return magnitudes.map { RowQuantization.scale(ofMagnitude: $0, for: element) }
  }

  /// Each factor as often as its width says: those of some indices.
  private static func expanded(_ factors: [Double], _ widths: [Int], _ indices: Range<Int>) -> [Double] {
    var result: [Double] = []
    var first = 0
    for (width, factor) in zip(widths, factors) {
      let covered = (first..<first + width).clamped(to: indices)
      result += [Double](repeating: factor, count: covered.count)
      first += width
    }
    return result
  }
}

/// Some rows of a floating-point source.
private struct WeightView {
  let element: ElementType
  let rows: Int
  /// Of a vector 1.
  let width: Int
  let bytes: UnsafeRawBufferPointer

  func float(_ index: Int) -> Float { bytes.float(index, element) }
  func double(_ index: Int) -> Double { bytes.double(index, element) }

  /// The scale of every row.
  func rowScales(for element: ElementType) -> [Float] {
    (0..<rows).map { row in
      let magnitude = (row * width..<(row + 1) * width).reduce(Float(0)) { max($0, float($1).magnitude) }
      return RowQuantization.scale(ofMagnitude: magnitude, for: element)
    }
  }

  /// Calls `body` with every row in fp32: the row itself where it is so.
  func withFloats(_ body: (Int, UnsafeBufferPointer<Float>) throws -> Void) throws {
    if element == .f32, UInt(bitPattern: bytes.baseAddress) % 4 == 0 {
      let numbers = bytes.bindMemory(to: Float.self)
      for row in 0..<rows {
        try body(row, UnsafeBufferPointer(rebasing: numbers[row * width..<(row + 1) * width]))
      }
      return
    }
    try withUnsafeTemporaryAllocation(of: Float.self, capacity: width) { numbers in
      for row in 0..<rows {
        let size = width * element.byteCount
        NumberConversion.convert(
          UnsafeRawBufferPointer(rebasing: bytes[row * size..<(row + 1) * size]), from: element, to: .f32,
          into: UnsafeMutableRawBufferPointer(numbers))
        try body(row, UnsafeBufferPointer(numbers))
      }
    }
  }
}

extension WeightRows {
  fileprivate func withView<R>(_ rows: Range<Int>, _ body: (WeightView) throws -> R) throws -> R {
    try withRows(rows) { bytes in
      try body(
        WeightView(element: element, rows: rows.count, width: shape.count > 1 ? shape[1] : 1, bytes: bytes))
    }
  }

  /// All elements, as fp64.
  fileprivate func doubles() throws -> [Double] {
    try withRows(0..<count) { bytes in (0..<bytes.count / element.byteCount).map { bytes.double($0, element) } }
  }
}
