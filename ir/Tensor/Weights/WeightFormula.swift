/// How the numbers of a weight follow from those of other weights, which are declared before it.
///
/// Sums and products are taken in fp64 from the sources' own elements and rounded once, to the element type of the weight.
/// Quantization is fp32 arithmetic, as the published schemes are (`RowQuantization`).
public enum WeightFormula: Hashable, Sendable {
  /// One of the two axes of a matrix. A vector has rows only.
  public enum Axis: String, Hashable, Sendable, CaseIterable {
    case rows, columns
  }

  /// The source's elements, rounded to the weight's element type.
  case convert(String)
  /// The rows or columns from `first` on, as many as the weight has.
  case slice(String, axis: Axis, first: Int)
  /// The source times a constant.
  case scale(String, factor: Double)
  /// Row or column i of the source times element i of the vector `by`.
  case scaleAxis(String, by: String, axis: Axis)
  /// Consecutive rows or columns of the source, as many as each width says, each range times its factor.
  case scaleRanges(String, axis: Axis, widths: [Int], factors: [Double])
  /// A vector times a matrix, plus a vector where there is one: what a product makes of a constant row.
  case product(vector: String, matrix: String, bias: String?, orientation: Linear.Orientation)
  /// The quantized codes of a matrix, in the scheme of the weight's element type, f8e4m3 or i8. Every row or column has
  /// a scale of its own: `channels` is the axis that is not contracted.
  case codes(String, channels: Axis)
  /// The scales that belong to the codes of this type.
  case scales(String, channels: Axis, of: ElementType)
  /// The rows of a table in FBGEMM's quantized form, as bytes.
  case quantizedRows(String, TableFormat)

  /// The weights that the numbers follow from, by name, in the order of the text.
  public var sources: [String] {
    switch self {
    case .convert(let source), .slice(let source, _, _), .scale(let source, _), .scaleRanges(let source, _, _, _),
      .codes(let source, _), .scales(let source, _, _), .quantizedRows(let source, _):
      [source]
    case .scaleAxis(let source, let vector, _): [source, vector]
    case .product(let vector, let matrix, let bias, _): [vector, matrix] + (bias.map { [$0] } ?? [])
    }
  }

  /// Throws where a weight of this type cannot follow from sources of these types, as many as `sources` has.
  func verify(_ type: TensorType, from types: [TensorType]) throws(OperationError) {
    let source = types[0]
    switch self {
    case .convert, .scale:
      try requireNumbers(type, types)
      try requireShape(type, source.shape)
    case .slice(_, let axis, let first):
      try requireNumbers(type, types)
      let extent = try axis.extent(of: source)
      let taken = try axis.extent(of: type)
      try require(
        first >= 0 && taken <= extent && first <= extent - taken,
        "\(axis.rawValue) \(first)..<\(first) + \(taken) are not within \(extent)")
      var shape = source.shape
      shape[axis.index] = .fixed(taken)
      try requireShape(type, shape)
    case .scaleAxis(_, _, let axis):
      try requireNumbers(type, types)
      try requireShape(type, source.shape)
      let extent = try axis.extent(of: source)
      try require(
        types[1].shape == [.fixed(extent)], "the factors must be a vector of \(extent) elements, found \(types[1])")
    case .scaleRanges(_, let axis, let widths, let factors):
      try requireNumbers(type, types)
      try requireShape(type, source.shape)
      let extent = try axis.extent(of: source)
      try require(
        widths.count == factors.count && !widths.isEmpty,
        "expected a factor for every width, found \(widths.count) widths and \(factors.count) factors")
      var rest = extent
      for width in widths {
        try require(width > 0 && width <= rest, "widths \(widths) do not add up to \(extent) \(axis.rawValue)")
        rest -= width
      }
      try require(rest == 0, "widths \(widths) do not add up to \(extent) \(axis.rawValue)")
    case .product(_, _, let bias, let orientation):
      try requireNumbers(type, types)
      let matrix = types[1]
      try require(matrix.rank == 2, "the second source must be a matrix, found \(matrix)")
      let (input, output) = orientation == .inOut ? (0, 1) : (1, 0)
      try require(
        source.shape == [matrix.shape[input]],
        "the vector must have \(matrix.shape[input]) elements, as the matrix takes, found \(source)")
      try requireShape(type, [matrix.shape[output]])
      if bias != nil {
        try require(
          types[2].shape == [matrix.shape[output]],
          "the bias must have \(matrix.shape[output]) elements, found \(types[2])")
      }
    case .codes:
      try requireTable(source)
      try require(type.element.isCode, "codes must be of f8e4m3 or i8, found \(type)")
      try requireShape(type, source.shape)
    case .scales(_, let channels, let element):
      try requireTable(source)
      try require(element.isCode, "of must be f8e4m3 or i8, found \(element.rawValue)")
      try require(
        type == TensorType([.fixed(try channels.extent(of: source))], .f32),
        "the scales must be a vector of f32, one for each of the source's \(channels.rawValue), found \(type)")
    case .quantizedRows(_, let format):
      try requireTable(source)
      let bytes = format.byteCount(width: source.shape[1].extent ?? 0)
      try require(
        type == TensorType([source.shape[0], .fixed(bytes)], .u8),
        "the rows of \(source) take \(bytes) bytes of u8 each, found \(type)")
    }
  }

  /// All sources and the result of a formula that computes.
  private func requireNumbers(_ type: TensorType, _ sources: [TensorType]) throws(OperationError) {
    for type in sources + [type] {
      try require(
        (1...2).contains(type.rank) && type.element.isFloatingPoint,
        "expected floating-point vectors and matrices, found \(type)")
    }
  }

  private func requireTable(_ source: TensorType) throws(OperationError) {
    try require(
      source.rank == 2 && source.element.isFloatingPoint, "the source must be a floating-point matrix, found \(source)")
  }

  private func requireShape(_ type: TensorType, _ shape: [Dimension]) throws(OperationError) {
    try require(type.shape == shape, "gives \(TensorType(shape, type.element)), but the weight is \(type)")
  }
}

extension WeightFormula.Axis {
  /// Counted from the outermost.
  var index: Int { self == .rows ? 0 : 1 }

  /// The type's extent along this axis. Throws where it has none.
  func extent(of type: TensorType) throws(OperationError) -> Int {
    guard index < type.rank, let extent = type.shape[index].extent else {
      throw OperationError("\(type) has no \(rawValue)")
    }
    return extent
  }
}

// MARK: - Text

extension WeightFormula {
  /// As in the text form: `slice @table {axis = rows, first = 1}`.
  public var text: String {
    var writer = AttributeWriter()
    let mnemonic: String
    switch self {
    case .convert: mnemonic = "convert"
    case .slice(_, let axis, let first):
      mnemonic = "slice"
      writer.word("axis", axis)
      writer.integer("first", first)
    case .scale(_, let factor):
      mnemonic = "scale"
      writer.number("factor", factor)
    case .scaleAxis(_, _, let axis):
      mnemonic = "scale_axis"
      writer.word("axis", axis)
    case .scaleRanges(_, let axis, let widths, let factors):
      mnemonic = "scale_ranges"
      writer.word("axis", axis)
      writer.integers("widths", widths)
      writer.numbers("factors", factors)
    case .product(_, _, _, let orientation):
      mnemonic = "product"
      if orientation != .inOut { writer.word("orientation", orientation) }
    case .codes(_, let channels):
      mnemonic = "codes"
      writer.word("channels", channels)
    case .scales(_, let channels, let element):
      mnemonic = "scales"
      writer.word("channels", channels)
      writer.word("of", element)
    case .quantizedRows(_, let format):
      mnemonic = "quantized_rows"
      writer.word("rows", format)
    }
    return "\(mnemonic) \(sources.map { "@\(TextName.quoted($0))" }.joined(separator: ", "))\(writer.text)"
  }

  /// The names of all formulas in the text form, sorted.
  public static let mnemonics = [
    "codes", "convert", "product", "quantized_rows", "scale", "scale_axis", "scale_ranges", "scales", "slice",
  ]

  /// How many sources a formula of this name takes; nil where there is none of this name.
  static func sourceCounts(of mnemonic: String) -> ClosedRange<Int>? {
    switch mnemonic {
    case "scale_axis": 2...2
    case "product": 2...3
    default: mnemonics.contains(mnemonic) ? 1...1 : nil
    }
  }

  /// The formula of this name, which is one of `mnemonics`, with as many sources as it takes.
  init(_ mnemonic: String, _ sources: [String], from reader: inout AttributeReader) {
    let source = sources[0]
    switch mnemonic {
    case "slice": self = .slice(source, axis: reader.word("axis"), first: reader.integer("first"))
    case "scale": self = .scale(source, factor: reader.number("factor"))
    case "scale_axis": self = .scaleAxis(source, by: sources[1], axis: reader.word("axis"))
    case "scale_ranges":
      self = .scaleRanges(
        source, axis: reader.word("axis"), widths: reader.integers("widths"), factors: reader.numbers("factors"))
    case "product":
      self = .product(
        vector: source, matrix: sources[1], bias: sources.count == 3 ? sources[2] : nil,
        orientation: reader.word("orientation", defaultValue: .inOut))
    case "codes": self = .codes(source, channels: reader.word("channels"))
    case "scales": self = .scales(source, channels: reader.word("channels"), of: reader.word("of"))
    case "quantized_rows": self = .quantizedRows(source, reader.word("rows"))
    default: self = .convert(source)
    }
  }
}
