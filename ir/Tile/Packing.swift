import TensorIR

/// How a weight lies in the artifact.
public enum Packing: Hashable, Sendable {
  /// Row-major.
  case plain
  /// A vector back to front.
  case reversed
  /// A matrix [k, n] as [ceil(n / width)][ceil(k / g)][width][g], zeros past n and k: what a contraction streams
  /// through. `g` is the element's `contractedTogether`. `transposed` where the weight is stored [n, k].
  ///
  /// Behind each panel of i8 lie `width` int32 numbers, -128 times the sum of each column: what a left side whose codes are
  /// stored 128 too high adds too much.
  case panels(width: Int, transposed: Bool)
  /// A matrix of bf16 in panels of 32 columns, whose pairs of rows lie in the order in which the lanes of a GPU's warp take them for
  /// its matrix instructions: [ceil(n / 32)][ceil(k / 16)][2][8][4][2][2] pairs, by panel, step, half, group, place, column and
  /// row: the pair number `8 * step + 4 * row + place` of the panel's column `4 * group + 2 * half + column`. Zeros past n and k.
  ///
  /// Of codes two that follow each other down a column stand in the place of one number, so a step has 32 rows. Under `isFNUZ` those
  /// of f8e4m3 are the bits of half of each number in another form (`Rounding.fnuzBits`).
  case fragments(transposed: Bool, isFNUZ: Bool = false)
  /// A matrix of bf16 as the matrix instructions of a GPU's groups of four warps read it from shared memory, in panels of 256 columns
  /// and steps of 16 rows: [ceil(n / 256)][ceil(k / 16)][32][2][8][8], by panel, step, tile of 8 columns, half of the step, column and
  /// row. The tile `4 * group + tile` has in its place `2 * pair + column` the panel's column `32 * group + 8 * pair + 2 * tile + column`, so
  /// that a lane's sums are of neighbours. Zeros past n and k. Of codes two stand in the place of one number, as in fragments.
  case matrices(transposed: Bool)
  /// Rows of a table in a quantized form, a byte an element.
  case coded(TableFormat)
  /// The same rows, `width` of them a panel, for products with each of them: the scales of a panel's rows in fp32, their
  /// biases, then the codes of the first column of all rows, those of the second, and so on; of int4 two columns at a time, the
  /// even one in the lower half of a byte. Rows past the last are zeros.
  case codedPanels(TableFormat, width: Int)

  /// Bytes stored for a weight of this shape.
  public func byteCount(rows: Int, columns: Int, _ element: ElementType) -> Int {
    switch self {
    case .plain, .reversed, .coded: rows * columns * element.byteCount
    case .codedPanels(let format, let width):
      (rows + width - 1) / width * width * format.panelRowBytes(ofRow: columns)
    case .panels(let width, let transposed):
      (((transposed ? rows : columns) + width - 1) / width) * width
        * element.panelColumnBytes(transposed ? columns : rows)
    case .fragments(let transposed, _):
      ((transposed ? rows : columns) + Self.fragmentColumns - 1) / Self.fragmentColumns
        * Self.fragmentColumns * Self.stepBytes * Self.steps(transposed ? columns : rows, of: element)
    case .matrices(let transposed):
      ((transposed ? rows : columns) + Self.matrixColumns - 1) / Self.matrixColumns
        * Self.matrixColumns * Self.stepBytes * Self.steps(transposed ? columns : rows, of: element)
    }
  }

  /// Columns of a left side of bf16 that matrix instructions read from shared memory lie together in so many: 128 bytes.
  public static let matrixLeftColumns = 64
  /// Columns of a panel of matrices.
  public static let matrixColumns = 256

  /// Columns of a panel of fragments.
  public static let fragmentColumns = 32
  /// Rows of bf16 that a step of fragments, or of matrices, contracts; twice as many of codes.
  public static let fragmentRows = 16
  /// Bytes of a column that a step contracts, and of a row of the left side.
  public static let stepBytes = 2 * fragmentRows

  /// Rows of elements of this type that a step contracts.
  public static func stepRows(of element: ElementType) -> Int { stepBytes / element.byteCount }

  /// Steps that contract so many rows, the last one filled up.
  public static func steps(_ rows: Int, of element: ElementType) -> Int {
    (rows + stepRows(of: element) - 1) / stepRows(of: element)
  }

  /// Of a weight that contractions take, the columns of a panel and whether the weight is stored [n, k]; nil for others.
  public var contractedPanels: (width: Int, transposed: Bool)? {
    switch self {
    case .panels(let width, let transposed): (width, transposed)
    case .fragments(let transposed, _): (Self.fragmentColumns, transposed)
    case .matrices(let transposed): (Self.matrixColumns, transposed)
    case .plain, .reversed, .coded, .codedPanels: nil
    }
  }
}

extension TableFormat {
  /// Bytes of a row's codes, of a row of so many bytes.
  public func codeByteCount(ofRow bytes: Int) -> Int { bytes - byteCount(width: 0) }

  /// Columns that the codes of a row of so many bytes hold, the last one perhaps past the row's own.
  public func columns(ofRow bytes: Int) -> Int {
    switch self {
    case .int8: codeByteCount(ofRow: bytes)
    case .int4: 2 * codeByteCount(ofRow: bytes)
    }
  }

  /// Bytes that a row of so many takes in a panel, where scale and bias are fp32.
  public func panelRowBytes(ofRow bytes: Int) -> Int { codeByteCount(ofRow: bytes) + 8 }
}

extension ElementType {
  /// Whether tiles can have such elements: each stands for one fp32 number exactly.
  public var isTileElement: Bool {
    switch self {
    case .f32, .bf16, .f8e4m3, .i8: true
    case .f64, .f16, .i64, .i32, .u8, .bool: false
    }
  }

  /// Neighbours along the contracted index that lie side by side, since one instruction takes their products together.
  public var contractedTogether: Int {
    switch self {
    case .bf16, .f8e4m3: 2
    case .i8: 4
    default: 1
    }
  }

  /// Bytes of an element in tiles and in memory that lasts for a call. f8e4m3 is kept as the bf16 number that it is, which
  /// products take.
  public var workingByteCount: Int { self == .f8e4m3 ? 2 : byteCount }

  /// Bytes of one column of a panel with so many contracted rows.
  public func panelColumnBytes(_ count: Int) -> Int {
    paddedContraction(count) * byteCount + (self == .i8 ? 4 : 0)
  }

  /// A contracted extent with what fills its last group.
  public func paddedContraction(_ count: Int) -> Int {
    (count + contractedTogether - 1) / contractedTogether * contractedTogether
  }
}
