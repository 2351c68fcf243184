import TensorIR

/// For each row of the block the columns of a product with the greatest numbers, best first: `scores` get the numbers, `ids` the
/// columns' ids, which count from `firstID`.
///
/// The product is that of a contraction, a turn of columns at a time in `products`; no more of it is ever there. Numbers are
/// ordered as `TopK` has it: the greater first, NaN last, equal ones by id. Ids that are among the row's `seen` ones are left
/// out. Places for which no column is left have id -1 and negative infinity.
///
/// Where the domain counts parts, a part goes through its share of the panels of columns, and `scores` and `ids` have as many
/// columns for each part.
public struct BestColumns: Hashable, Sendable {
  /// Of each row the greatest numbers: a column for each place.
  public var scores: TileSlice
  /// Integers of the block's rows: for each part a column for each place.
  public var ids: BufferID
  /// The left side [rows, contracted].
  public var left: TileSlice
  /// The right side: a weight in panels [contracted, columns], or one whose panels are decoded to fp32.
  public var right: BufferID
  /// Scratch for a turn of columns, whole panels; undefined afterwards.
  public var products: TileSlice
  /// The id of column 0.
  public var firstID: Int
  /// What is left out; nil for nothing.
  public var seen: Groups?

  /// Integers in groups, one a row.
  public struct Groups: Hashable, Sendable {
    /// Integers, those of a group ascending: a `sort` made them.
    public var ids: BufferID
    /// What cuts them into groups.
    public var offsets: BufferID

    /// The integers of `ids` as `offsets` cut them.
    public init(ids: BufferID, offsets: BufferID) {
      self.ids = ids
      self.offsets = offsets
    }
  }

  /// The best columns of `left` times `right`; what they are and how many, `scores` says.
  public init(
    scores: TileSlice, ids: BufferID, left: TileSlice, right: BufferID, products: TileSlice, firstID: Int, seen: Groups?
  ) {
    self.scores = scores
    self.ids = ids
    self.left = left
    self.right = right
    self.products = products
    self.firstID = firstID
    self.seen = seen
  }

  /// The product of one turn that begins at the first column.
  public var product: Contraction {
    Contraction(
      into: products, left: left, right: .panels(right, firstRow: 0, rows: left.count, firstColumn: 0),
      accumulate: false)
  }
}

/// For each row of the block the best of what parts have found: rows of `parts` lists side by side, each sorted as
/// `BestColumns` sorts, and those of an earlier part with the smaller ids.
public struct MergedParts: Hashable, Sendable {
  /// Of each row the greatest numbers: a column for each place.
  public var scores: TileSlice
  /// Integers of the block's rows: a column for each place.
  public var ids: BufferID
  /// The numbers of all parts.
  public var partScores: BufferID
  /// The ids of all parts.
  public var partIDs: BufferID
  /// How many lists a row has.
  public var parts: Int

  /// The best of `parts` lists; how many, `scores` says.
  public init(scores: TileSlice, ids: BufferID, partScores: BufferID, partIDs: BufferID, parts: Int) {
    self.scores = scores
    self.ids = ids
    self.partScores = partScores
    self.partIDs = partIDs
    self.parts = parts
  }
}

extension Packing {
  /// Columns of a panel, rows that are contracted (of coded rows, their bytes) and columns in all, of a weight of so many rows
  /// and columns; nil where it is not in panels.
  public func panels(rows: Int, columns: Int) -> (width: Int, contracted: Int, columns: Int)? {
    switch self {
    case .panels(let width, let transposed): transposed ? (width, columns, rows) : (width, rows, columns)
    case .codedPanels(_, let width): (width, columns, rows)
    case .plain, .reversed, .coded, .fragments, .matrices: nil
    }
  }
}

// Rules of the best columns.
extension KernelVerifier {
  func problem(of best: BestColumns) -> String? {
    if isInLoop { return "stands in no loop" }
    let (scores, left, products) = (best.scores, best.left, best.products)
    if let problem = problem(ofReading: left) ?? problem(ofWriting: products) ?? problem(ofWriting: scores) {
      return problem
    }
    for slice in [scores, left, products] where kernel[slice.tile].rows != .block || kernel[slice.tile].isGrouped {
      return "works on rows of the block, one by one"
    }
    for slice in [scores, products] where kernel[slice.tile].element != .f32 {
      return "gives f32, found \(kernel[slice.tile].element.rawValue)"
    }
    if isWindow(products.tile) { return "products must be a tile in scratch" }
    for (one, other) in [(products, left), (products, scores), (scores, left)]
    where one == other || overlaps(one, other) { return "works in a tile that it reads" }
    if let problem = problem(ofItems: best) ?? problem(ofLists: best.ids, scores, parts: parts) { return problem }
    if !(0...largestNumber).contains(best.firstID) { return "first must lie in 0...2^40, found \(best.firstID)" }
    guard let seen = best.seen else { return nil }
    return problem(ofGroups: seen.ids, seen.offsets)
      ?? (program.sorted[seen.ids] == seen.offsets
        ? nil : "\(program.name(seen.ids)) must be sorted within \(program.name(seen.offsets))")
  }

  private func problem(ofItems best: BestColumns) -> String? {
    guard program.exists(best.right) else { return "there is no buffer \(best.right.index)" }
    let (buffer, name) = (program.program[best.right], program.name(best.right))
    guard case .weight(_, let packing) = buffer.home, let rows = buffer.rows.dimension.extent,
      let panels = packing.panels(rows: rows, columns: buffer.columns)
    else { return "\(name) must be a weight in panels" }
    let (left, contracted) = (kernel[best.left.tile].element, best.left.count)
    switch packing {
    case .codedPanels(let format, _):
      if left != .f32 { return "\(name) is decoded to f32, but the left side is \(left.rawValue)" }
      let bytes = format.byteCount(width: contracted)
      if bytes != buffer.columns {
        return
          "\(name) has \(buffer.columns) bytes a row, but \(contracted) columns of \(format.rawValue) take \(bytes)"
      }
    default:
      if buffer.element.isCode { return "codes have no scores without their scales" }
      if left != buffer.element {
        return "the left side is \(left.rawValue), but the right side \(buffer.element.rawValue)"
      }
      if contracted != panels.contracted {
        return "\(name) has \(panels.contracted) rows to contract, but the left side \(contracted) columns"
      }
    }
    if best.products.count % panels.width != 0 {
      return "a turn takes whole panels of \(panels.width) columns, found \(best.products.count)"
    }
    return best.scores.count <= panels.columns
      ? nil : "\(name) gives \(panels.columns) columns, but the best \(best.scores.count) are wanted"
  }

  /// Why a buffer cannot take the ids of places, as many as scores have columns for each part; nil where it can.
  private func problem(ofLists ids: BufferID, _ scores: TileSlice, parts: Int) -> String? {
    if let problem = problem(ofIntegers: ids, columns: parts * scores.count) { return problem }
    return program.isWritable(ids)
      ? nil : "\(program.name(ids)) cannot be written: it is neither workspace nor an output"
  }

  /// Why a buffer has not so many integers for each row of the kernel; nil where it has.
  private func problem(ofIntegers id: BufferID, columns: Int) -> String? {
    guard program.exists(id) else { return "there is no buffer \(id.index)" }
    let buffer = program.program[id]
    guard let rows, buffer.element == .i64, buffer.rows == Extent(rows), buffer.columns == columns else {
      return "\(program.name(id)) must be \(rows?.description ?? "rows") x \(columns) x i64"
    }
    return nil
  }

  func problem(of merged: MergedParts) -> String? {
    if isInLoop || parts > 1 { return "stands in no loop, and its kernel has no parts" }
    if let problem = problem(ofWriting: merged.scores) { return problem }
    let tile = kernel[merged.scores.tile]
    if tile.rows != .block || tile.element != .f32 { return "gives f32 for the rows of the block" }
    if !(1...largestBlock).contains(merged.parts) { return "parts must lie in 1...2^20, found \(merged.parts)" }
    guard let columns = byteCount(merged.parts, merged.scores.count) else { return "has too many parts" }
    if let problem = problem(ofLists: merged.ids, merged.scores, parts: 1)
      ?? problem(ofIntegers: merged.partIDs, columns: columns)
    {
      return problem
    }
    guard program.exists(merged.partScores) else { return "there is no buffer \(merged.partScores.index)" }
    let scores = program.program[merged.partScores]
    guard scores.element == .f32, scores.rows == program.program[merged.partIDs].rows, scores.columns == columns else {
      return "\(program.name(merged.partScores)) must be \(rows?.description ?? "rows") x \(columns) x f32"
    }
    return problem(ofReadingElsewhere: merged.partScores) ?? problem(ofReadingElsewhere: merged.partIDs)
  }

  func problem(ofSorting from: BufferID, into: BufferID, offsets: BufferID) -> String? {
    if isInLoop || parts > 1 { return "stands in no loop, and its kernel has no parts" }
    if let problem = problem(ofGroups: from, offsets) { return problem }
    if let problem = program.problem(ofIntegers: into, rows: program.program[from].rows) { return problem }
    return program.isWritable(into)
      ? nil : "\(program.name(into)) cannot be written: it is neither workspace nor an output"
  }

  /// Why integers are not cut into one group for each row of the kernel; nil where they are.
  private func problem(ofGroups ids: BufferID, _ offsets: BufferID) -> String? {
    if let problem = program.problem(ofIntegers: ids) ?? program.problem(ofOffsets: offsets)
      ?? problem(ofReadingElsewhere: ids) ?? problem(ofReadingElsewhere: offsets)
    {
      return problem
    }
    guard let cut = program.cutRows[offsets], program.program[ids].rows == Extent(cut) else {
      return "\(program.name(offsets)) must cut the rows of \(program.name(ids))"
    }
    return rows == program.program[offsets].rows.dimension
      ? nil : "needs a kernel over \(program.program[offsets].rows.dimension)"
  }
}
