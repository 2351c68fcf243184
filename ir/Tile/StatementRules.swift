import TensorIR

// Rules of contractions, rows by index and expressions.
extension KernelVerifier {
  func problem(of contraction: Contraction) -> String? {
    let (into, left) = (contraction.into, contraction.left)
    if let problem = problem(ofWriting: into) ?? problem(ofReading: left) { return problem }
    if contraction.accumulate, let problem = problem(ofReading: into) { return problem }
    if into.tile == left.tile || overlaps(into, left) { return "the result may not be the left side" }
    let (result, leftTile) = (kernel[into.tile], kernel[left.tile])
    if let problem = problem(ofFinishing: contraction) { return problem }
    let together = leftTile.element.contractedTogether
    if contraction.leftTransposed, leftTile.element.isCode { return "a transposed left side has no codes" }
    if leftTile.isGrouped != (contraction.leftTransposed && together > 1) {
      return "the left side must \(leftTile.isGrouped ? "not " : "")be grouped"
    }
    let contracted: Tile.Rows
    if contraction.leftTransposed {
      contracted = leftTile.rows
      let needed = rowsAtMost(result)
      if left.count < needed { return "the result has up to \(needed) rows, but the left side \(left.count) columns" }
    } else {
      contracted = .fixed(left.count)
      if leftTile.rows != result.rows { return "the left side has other rows than the result" }
    }
    switch contraction.right {
    case .panels(let buffer, let firstRow, let rows, let firstColumn):
      if contraction.leftTransposed { return "a packed weight takes a left side that is not transposed" }
      if isScratchOfKeys(into.tile) { return "a packed weight gives columns that are not the block's rows" }
      return problem(ofPanels: buffer, firstRow, rows, firstColumn, contraction)
    case .tile(let slice):
      if let problem = problem(ofReading: slice) { return problem }
      if let problem = problem(ofElements: kernel[slice.tile].element, leftTile) { return problem }
      if leftTile.element.isCode { return "codes take a packed weight on the right side" }
      if into.tile == slice.tile || overlaps(into, slice) { return "the result may not be the right side" }
      if kernel[slice.tile].rows != contracted {
        return "the right side must have as many rows as there are contracted: "
          + "\(describe(contracted)), found \(describe(kernel[slice.tile].rows))"
      }
      return slice.count == into.count
        ? nil : "the right side has \(slice.count) columns, but the result \(into.count)"
    }
  }

  /// Why the products cannot become the result; nil where they can.
  private func problem(ofFinishing contraction: Contraction) -> String? {
    let (into, result) = (contraction.into, kernel[contraction.into.tile])
    guard let finish = contraction.finish else {
      if contraction.masked { return "only what finishes a product can be masked" }
      if contraction.accumulate, result.element != .f32 { return "sums are f32, found \(result.element.rawValue)" }
      return result.element.isCode ? "gives no codes, but the result is \(result.element.rawValue)" : nil
    }
    if contraction.accumulate { return "a product that is added to the result cannot be finished" }
    if contraction.masked, let problem = problem(ofMasking: into) { return problem }
    if !finish.canFinish { return "a product is finished without indices and biases of pairs" }
    return problem(of: finish, in: result.rows, columns: into.count, into: into, isFinish: true)
  }

  private func problem(ofElements right: ElementType, _ left: Tile) -> String? {
    right == left.element
      ? nil : "the left side is \(left.element.rawValue), but the right side \(right.rawValue)"
  }

  private func describe(_ rows: Tile.Rows) -> String {
    switch rows {
    case .block: "the block's"
    case .keys: "the keys"
    case .fixed(let count): "\(count)"
    }
  }

  private func rowsAtMost(_ tile: Tile) -> Int {
    switch (tile.rows, tile.home) {
    case (.block, _): block
    case (.fixed(let count), _), (.keys, .scratch(let count, _)): count
    case (.keys, .window), (.keys, .joined), (.keys, .columns): largestBlock
    }
  }

  private func problem(
    ofPanels id: BufferID, _ firstRow: Int, _ rows: Int, _ firstColumn: Int, _ contraction: Contraction
  ) -> String? {
    guard program.exists(id) else { return "there is no buffer \(id.index)" }
    let buffer = program.program[id]
    guard case .weight(_, let packing) = buffer.home, let (width, transposed) = packing.contractedPanels,
      let extent = buffer.rows.dimension.extent
    else {
      return "\(program.name(id)) must be a weight in panels"
    }
    if let problem = problem(ofElements: buffer.element, kernel[contraction.left.tile]) { return problem }
    let (inner, outer) = transposed ? (buffer.columns, extent) : (extent, buffer.columns)
    if rows != inner { return "\(program.name(id)) has \(inner) rows to contract, found \(rows)" }
    if firstRow < 0 || firstRow > inner || contraction.left.count > inner - firstRow {
      return
        "[\(firstRow) : \(firstRow &+ contraction.left.count)] reaches past the \(inner) rows of \(program.name(id))"
    }
    let (together, end) = (buffer.element.contractedTogether, firstRow + contraction.left.count)
    if firstRow % together != 0 || (end % together != 0 && end != inner) {
      return "[\(firstRow) : \(end)] cuts groups of \(together) rows of \(program.name(id))"
    }
    if buffer.element == .i8, contraction.accumulate || end - firstRow != inner {
      return "i8 takes all \(inner) rows of \(program.name(id)) at once: its sums are integers"
    }
    let count = contraction.into.count
    if firstColumn == 0, count > outer {
      return "\(program.name(id)) gives \(outer) columns, but the result has \(count)"
    }
    if firstColumn < 0 || firstColumn > outer || count > outer - firstColumn {
      return "columns [\(firstColumn) : \(firstColumn &+ count)] reach past the \(outer) of \(program.name(id))"
    }
    return firstColumn % width == 0 && (count % width == 0 || count == outer - firstColumn)
      ? nil : "columns [\(firstColumn) : \(firstColumn + count)] cut panels of \(width) of \(program.name(id))"
  }

  func problem(ofTransposing from: TileSlice, into: TileSlice, _ factor: Double) -> String? {
    if let problem = problem(ofWriting: into) ?? problem(ofReading: from) { return problem }
    guard !isWindow(into.tile), kernel[into.tile].rows == .fixed(from.count) else {
      return "the result must be a tile in scratch with as many rows as \(from.count) columns are transposed"
    }
    let (source, target) = (kernel[from.tile], kernel[into.tile])
    if source.element != target.element { return "a transposition changes no elements" }
    if source.element.isCode { return "codes are not transposed" }
    if target.isGrouped != (target.element.contractedTogether > 1) {
      return "the result must \(target.isGrouped ? "not " : "")be grouped"
    }
    if target.isGrouped, factor != 1 { return "only f32 takes a factor, found \(factor)" }
    if kernel[from.tile].rows != .block || into.count != block || into.tile == from.tile {
      return "the block's rows become all \(block) columns of another tile, found \(into.count)"
    }
    if block % 16 != 0 { return "blocks must have a multiple of 16 rows, found \(block)" }
    return factor.isFinite ? nil : "the factor must be finite, found \(factor)"
  }

  // MARK: - Indices

  func problem(of source: IndexSource) -> String? {
    switch source {
    case .loaded(let buffer, let entries, let outside):
      if entries < 1 { return "the number of entries must be positive, found \(entries)" }
      if case .fallback(let fallback) = outside, fallback < 0 || fallback >= entries {
        return "what stands in must lie in 0..<\(entries), found \(fallback)"
      }
      return program.problem(ofIntegers: buffer, rows: rows.map { Extent($0) }) ?? problem(ofReadingHere: buffer)
    case .expression(let expression):
      if offsets == nil { return "positions need a kernel over sequences" }
      return expression.hasLargeConstants ? "numbers must lie in -2^40...2^40" : nil
    case .beforeSelection(let selection, let before, let targets):
      guard let offsets else { return "needs a kernel over sequences" }
      let made = ProgramVerifier.Selection(selection: selection, offsets: before, targets: targets)
      return program.cuts(offsets, made)
        ? nil : "\(program.name(offsets)) must be the select_offsets of this selection"
    case .afterSelection(let selection, let selected):
      guard case .sequences(let offsets, let targets, _, _, _) = kernel.domain else {
        return "needs a kernel over sequences"
      }
      let made = ProgramVerifier.Selection(selection: selection, offsets: offsets, targets: targets)
      return program.cuts(selected, made)
        ? nil : "\(program.name(selected)) must be the select_offsets of this selection"
    case .beforeAddition(let addition, let added, let before):
      guard case .sequences(let offsets, let targets, _, _, _) = kernel.domain else {
        return "needs a kernel over sequences"
      }
      if added, addition == .appended {
        guard let targets, program.lengths[targets] == before, program.additions[offsets]?.targets == targets else {
          return "\(program.name(before)) must cut the rows that were appended to make \(program.name(offsets))"
        }
        return nil
      }
      if added, addition != .interleaved { return "\(addition.text) has no rows of their own that it adds" }
      return isAddition(offsets, addition, to: before, targets)
        ? nil : "\(program.name(offsets)) must be the extend_offsets of this addition"
    case .afterAddition(let addition, let extended):
      guard case .sequences(let offsets, let targets, _, _, _) = kernel.domain else {
        return "needs a kernel over sequences"
      }
      return isAddition(extended, addition, to: offsets, targets)
        ? nil : "\(program.name(extended)) must be the extend_offsets of this addition"
    case .sequence(let position):
      if offsets == nil { return "positions need a kernel over sequences" }
      return (0...largestNumber).contains(position) ? nil : "a position must lie in 0...2^40, found \(position)"
    case .pickedRow(let row, let of, let lengths, let minimum):
      if !(0...largestNumber).contains(row) { return "a row must lie in 0...2^40, found \(row)" }
      if lengths == nil, minimum != 0 { return "a minimum is one of lengths" }
      if !(0...largestNumber).contains(minimum) { return "a minimum must lie in 0...2^40, found \(minimum)" }
      if let problem = problem(ofOverSequences: of) ?? lengths.flatMap(problem(ofOverSequences:)) { return problem }
      return nil
    case .lastRow(let of): return problem(ofOverSequences: of)
    case .bucket(let times, let queries, let thresholds):
      guard let offsets else { return "needs a kernel over sequences" }
      let sequences = Extent(program.program[offsets].rows.dimension)
      return program.problem(ofIntegers: times, rows: rows.map { Extent($0) }) ?? problem(ofReadingHere: times)
        ?? program.problem(ofIntegers: queries, rows: sequences) ?? problem(ofReadingElsewhere: queries)
        ?? problem(ofThresholds: thresholds)
    case .calendar(let times, let unit, let count):
      for (name, value) in [("the unit", unit), ("the number of units", count)] where !(1...1 << 20).contains(value) {
        return "\(name) must lie in 1...2^20, found \(value)"
      }
      return program.problem(ofIntegers: times, rows: rows.map { Extent($0) }) ?? problem(ofReadingHere: times)
    case .marked(let vector, _, let values, _):
      return problem(ofReading: vector) ?? program.problem(ofIntegers: values, rows: rows.map { Extent($0) })
        ?? problem(ofReadingHere: values)
    }
  }

  /// Whether extended offsets are those of an addition to the rows that `offsets` cut, by such targets as it reads.
  private func isAddition(
    _ extended: BufferID, _ addition: RowAddition, to offsets: BufferID, _ targets: BufferID?
  ) -> Bool {
    guard let after = program.selection(of: extended, from: nil), let made = program.additions[after.root],
      made.addition == addition, let before = program.selection(of: offsets, from: made.offsets)
    else { return false }
    if addition.readsTargets, made.targets != targets { return false }
    switch (before.selection, after.selection) {
    case (nil, nil): return true
    case (let kept?, let extended?): return before.targets == after.targets && addition.keeps(kept, as: extended)
    default: return false
    }
  }

  /// Why offsets do not cut the sequences that are the kernel's rows; nil where they do.
  private func problem(ofOverSequences offsets: BufferID) -> String? {
    if let problem = program.problem(ofOffsets: offsets) ?? problem(ofReadingElsewhere: offsets) { return problem }
    let sequences = program.program[offsets].rows.dimension
    guard case .rows(sequences, _, _) = kernel.domain else { return "needs a kernel over \(sequences)" }
    return program.cutRows[offsets] == nil
      ? "no step of the setup says how many rows \(program.name(offsets)) cuts" : nil
  }

  func problem(ofGathering into: TileSlice, _ from: BufferID, first: Int, _ vector: IndexVectorID) -> String? {
    if let problem = problem(ofWriting: into) { return problem }
    if kernel[into.tile].rows != .block { return "fills rows of the block only" }
    if kernel[into.tile].isGrouped { return "the result must not be grouped" }
    if program.exists(from), case .weight(_, .coded) = program.program[from].home {
      return "\(program.name(from)) has quantized rows, which only expressions decode"
    }
    if let problem = problem(ofGathered: from, first: first, count: into.count) { return problem }
    return problem(ofReadingElsewhere: from) ?? problem(ofIndices: vector, within: from, mayMiss: true)
  }

  /// Why a buffer has no rows with so many columns from one on; nil where it has.
  private func problem(ofGathered from: BufferID, first: Int, count: Int) -> String? {
    guard program.exists(from) else { return "there is no buffer \(from.index)" }
    let buffer = program.program[from]
    if case .weight(_, .coded(let format)) = buffer.home {
      return first == 0 && format.byteCount(width: count) == buffer.columns
        ? nil
        : "\(program.name(from)) has \(buffer.columns) bytes a row, but \(count) columns of \(format.rawValue) "
          + "from 0 on take \(format.byteCount(width: count))"
    }
    if buffer.element != .f16, buffer.element != .bf16, let problem = problem(ofRows: from) { return problem }
    if case .weight(_, let packing) = buffer.home, packing != .plain {
      return "\(program.name(from)) must not be packed"
    }
    return first >= 0 && count <= buffer.columns - first
      ? nil : "[\(first) : \(first &+ count)] reaches past the \(buffer.columns) columns of \(program.name(from))"
  }

  /// Why a buffer is no plain matrix of fp32; nil where it is.
  private func problem(ofRows id: BufferID) -> String? {
    guard program.exists(id) else { return "there is no buffer \(id.index)" }
    let buffer = program.program[id]
    if case .weight(_, let packing) = buffer.home, packing != .plain { return "\(program.name(id)) must not be packed" }
    return buffer.element == .f32 ? nil : "\(program.name(id)) must be f32, found \(buffer.element.rawValue)"
  }

  // MARK: - Expressions

  /// Why an expression has no value in `columns` columns of such rows; nil where it has. `into` is what it fills, a product
  /// where it is `isFinish`.
  func problem(
    of expression: Expression, in rows: Tile.Rows, columns: Int, into: TileSlice, isFinish: Bool = false
  ) -> String? {
    func problemWithin(_ operand: Expression) -> String? {
      problem(of: operand, in: rows, columns: columns, into: into, isFinish: isFinish)
    }
    switch expression {
    case .product: return isFinish ? nil : "there is no product to finish"
    case .tile(let slice):
      if let problem = problem(ofReading: slice) { return problem }
      if kernel[slice.tile].isGrouped { return "reads \(name(slice)), whose rows lie in groups" }
      if kernel[slice.tile].rows != rows { return "reads \(name(slice)), which has other rows" }
      if slice.count != columns { return "reads \(slice.count) columns of \(name(slice)), expected \(columns)" }
      return overlaps(into, slice) ? "reads columns of \(name(slice)) that it writes at another place" : nil
    case .rowValue(let slice):
      if let problem = problem(ofReading: slice) { return problem }
      if kernel[slice.tile].isGrouped { return "reads \(name(slice)), whose rows lie in groups" }
      if kernel[slice.tile].rows != rows { return "reads \(name(slice)), which has other rows" }
      if slice.count != 1 { return "row(\(name(slice))) needs one column, found \(slice.count)" }
      return slice == into || !overlaps(into, slice) ? nil : "reads columns of \(name(slice)) that it writes"
    case .columnValue(let buffer, let first):
      if let problem = problem(ofVector: buffer) { return problem }
      return first >= 0 && columns <= program.program[buffer].columns - first
        ? nil : "column(\(program.name(buffer))) has no elements [\(first) : \(first &+ columns)]"
    case .gathered(let buffer, let vector):
      if rows != .block { return "indices are those of the block's rows" }
      return problem(ofGathered: buffer, first: 0, count: columns) ?? problem(ofReadingElsewhere: buffer)
        ?? problem(ofIndices: vector, within: buffer, mayMiss: false)
    case .element(let buffer, let index):
      if let problem = problem(ofVector: buffer) { return problem }
      return (0..<program.program[buffer].columns).contains(index)
        ? nil : "\(program.name(buffer)) has no element \(index)"
    case .constant(let number): return number.isFinite ? nil : "a constant must be finite, found \(number)"
    case .scalar(let scalar):
      return program.program.scalars.indices.contains(scalar.index) ? nil : "there is no scalar \(scalar.index)"
    case .unary(_, let operand): return problemWithin(operand)
    case .binary(_, let left, let right): return problemWithin(left) ?? problemWithin(right)
    case .unlessIndex(let vector, _, let operand):
      if rows != .block { return "indices are those of the block's rows" }
      return problem(ofReading: vector) ?? problemWithin(operand)
    case .whereBits(let vector, let mask, let operand):
      if rows != .block { return "indices are those of the block's rows" }
      if mask <= 0 { return "a mask must be positive, found \(mask)" }
      return problem(ofReading: vector) ?? problemWithin(operand)
    case .positionBias(let weights, let reference): return problem(ofPositions: weights, reference, into: into)
    case .timeBias(let bias): return problem(of: bias, into: into)
    }
  }

  private func name(_ slice: TileSlice) -> String { "%\(TextName.quoted(kernel[slice.tile].name))" }

  /// Why a buffer is no vector of numbers that come with the artifact; nil where it is.
  private func problem(ofVector id: BufferID) -> String? {
    if let problem = problem(ofRows: id) { return problem }
    switch program.program[id].home {
    case .weight, .table:
      return program.program[id].rows == Extent(.fixed(1)) ? nil : "\(program.name(id)) must have one row"
    case .input, .output, .workspace: return "\(program.name(id)) must be a weight"
    }
  }

  private func problem(ofBias into: TileSlice) -> String? {
    isScratchOfKeys(into.tile) ? nil : "a bias has values for a tile of keys in scratch only"
  }

  private func problem(ofPositions weights: BufferID, _ reference: Int, into: TileSlice) -> String? {
    if let problem = problem(ofBias: into) { return problem }
    guard program.exists(weights), case .weight(_, .reversed) = program.program[weights].home else {
      return "position_bias needs a reversed weight"
    }
    let last = program.program[weights].columns - 1
    guard (0...last).contains(reference) else {
      return "\(program.name(weights)) has no element \(reference) to be distance 0"
    }
    let reach = min(reference, last - reference) + 1
    guard let offsets = keyOffsets, let longest = program.longest[offsets], longest <= reach else {
      return "position_bias reaches over \(reach) rows; the setup must check that no sequence is longer"
    }
    return nil
  }

  private func problem(ofThresholds id: BufferID) -> String? {
    if let problem = problem(ofVector: id) { return problem }
    guard case .table(let thresholds) = program.program[id].home,
      zip(thresholds, thresholds.dropFirst()).allSatisfy({ $0 < $1 })
    else { return "thresholds must be a table of ascending numbers" }
    return nil
  }

  private func problem(of bias: TimeBias, into: TileSlice) -> String? {
    if let problem = problem(ofBias: into) ?? problem(ofVector: bias.weights)
      ?? problem(ofThresholds: bias.thresholds)
    {
      return problem
    }
    let count = program.program[bias.thresholds].columns
    if count >= program.program[bias.weights].columns {
      return "\(count) thresholds need more weights than \(program.program[bias.weights].columns)"
    }
    for (times, rows) in [(bias.queryTimes, rows), (bias.keyTimes, keyRows)] {
      let problem =
        program.problem(ofIntegers: times, rows: rows.map { Extent($0) }) ?? problem(ofReadingElsewhere: times)
      if let problem { return problem }
    }
    return nil
  }
}

extension IndexExpression {
  fileprivate var hasLargeConstants: Bool {
    switch self {
    case .constant(let value): value < -largestNumber || value > largestNumber
    case .variable: false
    case .half(let whole): whole.hasLargeConstants
    case .add(let left, let right), .subtract(let left, let right), .minimum(let left, let right),
      .maximum(let left, let right):
      left.hasLargeConstants || right.hasLargeConstants
    case .ifLess(let left, let right, let then, let otherwise):
      [left, right, then, otherwise].contains { $0.hasLargeConstants }
    }
  }
}
