/// The type of one stored number.
public enum ElementType: String, Hashable, Sendable, CaseIterable {
  /// `f8e4m3` is E4M3FN: four bits of exponent, three of fraction, at most 448, no infinities.
  case f64, f32, f16, bf16, f8e4m3, i64, i32, i8, u8, bool

  /// Bytes that one element takes in memory.
  public var byteCount: Int {
    switch self {
    case .f64, .i64: 8
    case .f32, .i32: 4
    case .f16, .bf16: 2
    case .f8e4m3, .i8, .u8, .bool: 1
    }
  }

  /// Whether elements are floating-point numbers that mean what they say: not the codes of `f8e4m3`, which mean
  /// something together with a scale only.
  public var isFloatingPoint: Bool {
    switch self {
    case .f64, .f32, .f16, .bf16: true
    case .f8e4m3, .i64, .i32, .i8, .u8, .bool: false
    }
  }
}

/// One extent of a tensor: known when the model is compiled, or named and known only with the batch.
///
/// Equal names mean equal extents within a function: `rows` is the number of rows of the whole jagged batch,
/// `sequences` the number of sequences in it.
public enum Dimension: Hashable, Sendable, CustomStringConvertible {
  case fixed(Int)
  case symbol(String)

  /// As in the text form: the number, or the name.
  public var description: String {
    switch self {
    case .fixed(let extent): "\(extent)"
    case .symbol(let name): TextName.quoted(name)
    }
  }

  /// The extent where it is fixed; nil where only the batch tells.
  public var extent: Int? {
    if case .fixed(let extent) = self { extent } else { nil }
  }
}

/// A dense tensor in row-major order. Jagged batches are tensors whose first dimension is a symbol such as `rows`:
/// the rows of all sequences, one sequence after the other, without padding.
public struct TensorType: Hashable, Sendable {
  /// Extents, outermost first; none for a single number.
  public var shape: [Dimension]
  /// The type of each stored number.
  public var element: ElementType

  /// A type of these extents and elements; the verifier checks that fixed extents are positive.
  public init(_ shape: [Dimension], _ element: ElementType) {
    self.shape = shape
    self.element = element
  }

  /// Number of dimensions.
  public var rank: Int { shape.count }

  /// Number of elements where every extent is fixed; nil where one is symbolic or the product overflows.
  public var fixedElementCount: Int? {
    var count = 1
    for dimension in shape {
      guard let extent = dimension.extent else { return nil }
      let (product, overflow) = count.multipliedReportingOverflow(by: extent)
      if overflow { return nil }
      count = product
    }
    return count
  }
}

/// The type of a value.
public enum ValueType: Hashable, Sendable {
  case tensor(TensorType)
  /// `sequences + 1` non-decreasing int64 numbers that cut `rows` rows into sequences: the first is 0, the last is `rows`.
  case offsets(sequences: Dimension, rows: Dimension)

  /// A dense tensor of these extents and elements.
  public static func tensor(_ shape: [Dimension], _ element: ElementType) -> ValueType {
    .tensor(TensorType(shape, element))
  }

  /// The type of a tensor; nil of offsets.
  public var tensor: TensorType? {
    if case .tensor(let type) = self { type } else { nil }
  }
}

extension ValueType: CustomStringConvertible {
  /// As in the text form: `tensor<rows x 64 x f32>` or `offsets<sequences x rows>`.
  public var description: String {
    switch self {
    case .tensor(let type): type.description
    case .offsets(let sequences, let rows): "offsets<\(sequences) x \(rows)>"
    }
  }
}

extension TensorType: CustomStringConvertible {
  /// As in the text form: `tensor<rows x 64 x f32>`.
  public var description: String {
    "tensor<" + shape.map { "\($0) x " }.joined() + element.rawValue + ">"
  }
}
