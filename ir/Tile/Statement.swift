import TensorIR

/// One operation on tiles.
public indirect enum Statement: Hashable, Sendable {
  /// Every element of `into` becomes the expression's value at its place; of a tile of keys in scratch, in its first
  /// columns, as many as the block has rows, and the others are left undefined. Under `masked`, rows are keys and columns the
  /// block's rows, and an element whose key its row does not see becomes 0.
  case map(into: TileSlice, Expression, masked: Bool = false)
  /// `into` (one column) becomes the sum of the expression over `columns` columns of each row.
  case reduce(into: TileSlice, sum: Expression, columns: Int)
  /// `into` (one column) becomes the largest value of the expression over `columns` columns of each row, NaN left out;
  /// negative infinity where there is none.
  case maximum(into: TileSlice, of: Expression, columns: Int)
  case contract(Contraction)
  /// `into[c, r]` = `factor * from[r, c]`; columns of `into` past the block's rows are left undefined.
  case transpose(into: TileSlice, from: TileSlice, factor: Double)
  /// A number for every row of the block.
  case indices(IndexVectorID, IndexSource)
  /// Rows of a buffer by index, from column `first` on; where the index is negative, zeros, or what `into` held under
  /// `keepMissing`.
  case gather(into: TileSlice, from: BufferID, first: Int, indices: IndexVectorID, keepMissing: Bool)
  /// Rows of one integer each, by index, into a buffer's rows of this block.
  case gatherIntegers(into: BufferID, from: BufferID, indices: IndexVectorID, missing: MissingIntegers = .none)
  /// The integer of the next row of the sequence; for a sequence's last row, the sequence's own of `last`.
  case nextIntegers(into: BufferID, from: BufferID, last: BufferID)
  /// Writes the indices into a buffer of integers.
  case storeIndices(into: BufferID, IndexVectorID)
  /// Fills with 0.
  case clear(TileSlice)
  case best(BestColumns)
  case merge(MergedParts)
  /// The integers of each row's group, as `offsets` cut them, in ascending order; where there is a modulus, after each was taken
  /// modulo that, from 0 on.
  case sort(into: BufferID, from: BufferID, offsets: BufferID, modulo: Int? = nil)
  /// Runs over the keys that some row of the block sees, at most `step` at a time, in ascending order, none twice.
  case forKeys(Mask, step: Int, body: [Statement])
  /// Runs the body once for each of `count` parts (heads), in ascending order: tiles whose columns move with the part
  /// are those of the part at hand.
  case forParts(count: Int, body: [Statement])

  /// The statements of a loop; none where the statement is no loop.
  public var inner: [Statement] {
    switch self {
    case .forKeys(_, _, let body), .forParts(_, let body): body
    case .map, .reduce, .maximum, .contract, .transpose, .indices, .gather, .gatherIntegers, .nextIntegers,
      .storeIndices, .clear, .best, .merge, .sort:
      []
    }
  }

  /// The statement, then those in its loop, and in the loops in that.
  public var flattened: [Statement] { [self] + inner.flatMap(\.flattened) }
}

extension Kernel {
  /// Every statement, those of loops after the loop.
  public var statements: [Statement] { body.flatMap(\.flattened) }

  /// The mask of the kernel's loop over keys; nil where there is none.
  public var mask: Mask? {
    for case .forKeys(let mask, _, _) in statements { return mask }
    return nil
  }

  /// The most keys of a turn; 0 where there is no loop over keys.
  public var keyStep: Int { statements.map { if case .forKeys(_, let step, _) = $0 { step } else { 0 } }.max() ?? 0 }

  /// How many parts a block has: those of its loops over parts, or those that the domain counts.
  public var parts: Int {
    for case .forParts(let count, _) in statements { return count }
    return domain.parts
  }
}

/// `into (+)= left * right`, both sides of one element type, accumulated in fp32 with fused multiply-add; under `finish`
/// `into = finish(left * right)`.
///
/// Of fp32 in order of the contracted index. Of bf16 in pairs, the second of a pair before the first, as the
/// instructions of processors do it; a last one without a partner takes a zero. Numbers below fp32's normal range may be
/// taken as zeros, as these instructions do. Code for tiles adds bf16 in another order; see docs/tile-ir.md. f8e4m3 as the bf16 numbers that they are. i8 exactly, as integers, the sum
/// then rounded to fp32.
public struct Contraction: Hashable, Sendable {
  /// What stands on the right of a product.
  public enum Right: Hashable, Sendable {
    /// A packed weight, from contracted row `firstRow` of `rows` in all on, and from column `firstColumn` on, where a panel
    /// begins.
    case panels(BufferID, firstRow: Int, rows: Int, firstColumn: Int)
    /// A tile [contracted, columns].
    case tile(TileSlice)
  }

  /// The result [rows, columns], a tile that neither side reads.
  public var into: TileSlice
  /// The left side: [rows, contracted], or [contracted, rows] under `leftTransposed`.
  public var left: TileSlice
  /// Whether `left` is stored [contracted, rows].
  public var leftTransposed: Bool
  /// The right side [contracted, columns].
  public var right: Right
  /// Whether the old value of `into` is added to.
  public var accumulate: Bool
  /// What each element of the result becomes as it leaves the registers, in which `Expression.product` stands for the
  /// product; nil where it is the product. Either way it is rounded to what the result holds.
  public var finish: Expression?
  /// Whether, under `finish`, rows are keys and columns the block's rows, and an element whose key its row does not see
  /// becomes 0.
  public var masked = false

  /// The product of `left` and `right` in `into`, added to what is there under `accumulate`.
  public init(into: TileSlice, left: TileSlice, leftTransposed: Bool = false, right: Right, accumulate: Bool) {
    self.into = into
    self.left = left
    self.leftTransposed = leftTransposed
    self.right = right
    self.accumulate = accumulate
  }
}

/// What becomes of a loaded index that is none of a table's entries.
public enum OutsideIndex: Hashable, Sendable {
  /// It stays as it is: the setup has seen that there is none, or it names no row.
  case unchanged
  /// This one stands in.
  case fallback(Int)
  /// The index modulo the number of entries, from 0 on.
  case modulo
}

/// What an integer becomes whose index is negative.
public enum MissingIntegers: Hashable, Sendable {
  /// No index is.
  case none
  case number(Int)
  /// It stays what the buffer holds.
  case kept
}

/// Where a row's index comes from.
public enum IndexSource: Hashable, Sendable {
  /// The integer that a buffer holds for the row, and what becomes of it outside 0..<`entries`.
  case loaded(BufferID, entries: Int, outside: OutsideIndex = .unchanged)
  /// An expression of the row's place in its sequence.
  case expression(IndexExpression)
  /// The row's counterpart in its sequence before a selection (`of: offsets`): kept rows to kept rows. The domain is
  /// that of the selected offsets.
  case beforeSelection(RowSelection, offsets: BufferID, targets: BufferID?)
  /// The row's counterpart after a selection, -1 where it was dropped. The domain is that of the offsets before it.
  case afterSelection(RowSelection, selected: BufferID)
  /// The row's counterpart in its sequence before an addition (`offsets`), or, with `added`, the counterpart among the rows
  /// added to it, which are as many at most; -1 where it has none. The domain is that of the extended offsets.
  case beforeAddition(RowAddition, added: Bool, offsets: BufferID)
  /// The row's counterpart after an addition. The domain is that of the offsets before it.
  case afterAddition(RowAddition, extended: BufferID)
  /// For a domain of sequences: the sequence's number for its row at this position, -1 for all others.
  case sequence(position: Int)
  /// For a domain of sequences as rows: the sequence's row `row`, -1 where it has none, or where the sequence of the same
  /// number that `lengths` cut has fewer than `minimum` rows.
  case pickedRow(Int, offsets: BufferID, lengths: BufferID?, minimum: Int)
  /// For a domain of sequences as rows: the sequence's last row, -1 where it is empty.
  case lastRow(offsets: BufferID)
  /// How many of the thresholds, an ascending table, are not above the fp32 number of seconds from the row's time to its
  /// sequence's of `queries`; 0 where it lies after it. For a domain of sequences.
  case bucket(times: BufferID, queries: BufferID, thresholds: BufferID)
  /// `floor(time / unit) mod count` of the row's time, rounded to fp32 (`CalendarUnits`).
  case calendar(BufferID, unit: Int, count: Int)
  /// Another vector's number, with these bits set where the integer of `values` is at least `least`.
  case marked(IndexVectorID, bits: Int, values: BufferID, least: Int)
}

/// A value for each element of a tile.
public indirect enum Expression: Hashable, Sendable {
  /// The element at the same place of another tile.
  case tile(TileSlice)
  /// In what finishes a contraction, the product at this place.
  case product
  /// The element in the same row of a tile of one column.
  case rowValue(TileSlice)
  /// The element in the same column of a weight [1, n], from element `first` on.
  case columnValue(BufferID, first: Int)
  /// The element in the same column of the row of a buffer that the row's index names; a quantized one decoded.
  case gathered(BufferID, rows: IndexVectorID)
  /// One element of a weight, the same everywhere.
  case element(BufferID, Int)
  case constant(Double)
  case scalar(ScalarID)
  case unary(UnaryFunction, Expression)
  case binary(BinaryFunction, Expression, Expression)
  /// `then` where the row's index is not `id`, else 0.
  case unlessIndex(IndexVectorID, is: Int, Expression)
  /// `then` where the row's index and the mask share bits and their conjunction is positive, else 0.
  case whereBits(IndexVectorID, mask: Int, Expression)
  /// For tiles [keys, rows]: `weights[reference + key - row]` of positions, the weights stored back to front.
  case positionBias(BufferID, reference: Int)
  /// For tiles [keys, rows]: the weight of the bucket of |query time - key time|.
  case timeBias(TimeBias)
}

/// A weight for each pair of a query and a key, by how far their times are apart.
public struct TimeBias: Hashable, Sendable {
  /// One weight a bucket, fp32; at least one more than there are thresholds.
  public var weights: BufferID
  /// For each bucket from 1 the smallest fp32 magnitude in it.
  public var thresholds: BufferID
  /// int64 [rows]: the time of each row as a query.
  public var queryTimes: BufferID
  /// int64 [rows]: the time of each row as a key.
  public var keyTimes: BufferID

  /// The bias as given; its buffers are for the verifier to check.
  public init(weights: BufferID, thresholds: BufferID, queryTimes: BufferID, keyTimes: BufferID) {
    self.weights = weights
    self.thresholds = thresholds
    self.queryTimes = queryTimes
    self.keyTimes = keyTimes
  }
}

/// A function of one number.
public enum UnaryFunction: String, Hashable, Sendable, CaseIterable {
  case silu, sigmoid, absolute
  case squareRoot = "square_root"
}

/// A function of two numbers.
public enum BinaryFunction: String, Hashable, Sendable, CaseIterable {
  case add, subtract, multiply, divide, maximum
  /// The first, or the second where the first is 0.
  case nonzero
}
