import TensorIR

/// Verifies one kernel of a program whose declarations and setup are sound.
struct KernelVerifier {
  let program: ProgramVerifier
  let number: Int
  let kernel: Kernel
  private(set) var errors: [TileIRError] = []
  /// Buffers that statements so far have written.
  private(set) var written: Set<BufferID> = []
  /// Buffers whose groups statements so far have sorted, and what cuts them: other blocks' groups lie there too.
  private(set) var sorted: [BufferID: BufferID] = [:]
  /// Every buffer that the kernel writes anywhere.
  let targets: Set<BufferID>
  /// Tiles in scratch, and vectors of indices, that statements so far have filled.
  private var filledTiles: Set<TileID> = []
  private var indices: [IndexVectorID: IndexSource] = [:]
  private var isInKeys = false
  private var isInParts = false
  private var statement = 0
  /// The most keys of a turn, 0 where there is no loop over keys.
  let keyStep: Int
  /// Rows that the blocks are of; nil where the domain is not sound.
  private(set) var rows: Dimension?

  init(program: ProgramVerifier, number: Int) {
    self.program = program
    self.number = number
    kernel = program.program.kernels[number]
    let tiles = kernel.tiles
    var targets: Set<BufferID> = []
    for statement in kernel.statements {
      if let buffer = statement.writtenBuffer { targets.insert(buffer) }
      if let into = statement.writtenSlice, tiles.indices.contains(into.tile.index),
        case .window(let buffer, _, _) = tiles[into.tile.index].home
      {
        targets.insert(buffer)
      }
    }
    self.targets = targets
    keyStep = kernel.keyStep
  }

  private var locations: ProgramLocations.Kernel? { program.locations?.kernels[number] }

  mutating func verify() {
    if let problem = problem(of: kernel.domain) {
      errors.append(TileIRError(problem, at: locations?.location, kernel: kernel.name, subject: "kernel"))
      return
    }
    rows = domainRows
    var names: Set<String> = []
    for name in kernel.tiles.map(\.name) + kernel.indexVectors where !names.insert(name).inserted {
      fail("%\(TextName.quoted(name)) is declared twice", "kernel", locations?.location)
    }
    for (index, tile) in kernel.tiles.enumerated() {
      if let problem = problem(of: tile) {
        fail(problem, "tile %\(TextName.quoted(tile.name))", locations?.tiles[index])
      }
    }
    if let problem = problemOfKeys { fail(problem, "kernel", locations?.location) }
    guard errors.isEmpty else { return }
    if kernel.statements.filter(\.isLoopOverKeys).count > 1 {
      fail("a kernel may have one loop over keys", "for keys", locations?.location)
    }
    verify(kernel.body)
  }

  private mutating func fail(_ message: String, _ subject: String, _ location: SourceLocation?) {
    errors.append(TileIRError(message, at: location, kernel: kernel.name, subject: subject))
  }

  // MARK: - The domain

  var block: Int { kernel.domain.block }
  /// Parts of a block that run at once; those of a loop run one after the other.
  var parts: Int { kernel.domain.parts }
  /// Whether statements stand in a loop.
  var isInLoop: Bool { isInKeys || isInParts }
  var offsets: BufferID? { if case .sequences(let offsets, _, _, _, _) = kernel.domain { offsets } else { nil } }

  /// The number of sequences, in a kernel over them.
  private var sequences: Dimension? { offsets.map { program.program[$0].rows.dimension } }

  private var domainRows: Dimension? {
    switch kernel.domain {
    case .rows(let dimension, _, _): dimension
    case .sequences(let offsets, _, _, _, _): program.cutRows[offsets]
    }
  }

  /// What cuts the rows that keys are, and their number.
  var keyOffsets: BufferID? { kernel.keys?.offsets ?? offsets }
  var keyRows: Dimension? { keyOffsets.flatMap { program.cutRows[$0] } }

  /// Why the kernel's rows are no selection of its keys' rows; nil where they are, or where both are the same.
  private var problemOfKeys: String? {
    guard let keys = kernel.keys else { return nil }
    guard case .sequences(let offsets, let targets, _, _, _) = kernel.domain else {
      return "rows of a selection need a kernel over sequences"
    }
    if let problem = program.problem(ofReading: keys.offsets) { return problem }
    if let kept = keys.kept, let problem = problem(ofKept: kept, keys, targets) { return problem }
    let made = ProgramVerifier.Selection(selection: keys.selection, offsets: keys.offsets, targets: targets)
    return program.cuts(offsets, made)
      ? nil : "\(program.name(offsets)) must be the select_offsets of this selection of \(program.name(keys.offsets))"
  }

  /// Why `kept` does not cut the rows that the kernel's own were put behind; nil where it does.
  private func problem(ofKept kept: BufferID, _ keys: KeyRows, _ targets: BufferID?) -> String? {
    if let problem = program.problem(ofReading: kept) { return problem }
    guard keys.selection == .targets, let made = program.additions[keys.offsets], made.addition == .appended,
      made.offsets == kept, made.targets == targets
    else {
      return "the kernel's rows must be those that were put behind rows of \(program.name(kept)) to make "
        + "\(program.name(keys.offsets))"
    }
    return nil
  }

  private func problem(of domain: Domain) -> String? {
    if !(1...largestBlock).contains(domain.block) {
      return "a block must have 1 to 2^20 rows, found \(domain.block)"
    }
    if !(1...largestBlock).contains(domain.parts) { return "parts must lie in 1...2^20, found \(domain.parts)" }
    switch domain {
    case .rows(let dimension, _, _): return program.problem(of: dimension)
    case .sequences(let offsets, let targets, let table, let block, _):
      if let problem = program.problem(ofTargets: targets, offsets: offsets) { return problem }
      for buffer in [offsets] + (targets.map { [$0] } ?? []) {
        if let problem = program.problem(ofReading: buffer) { return problem }
      }
      guard program.cutRows[offsets] != nil else {
        return "no step of the setup says how many rows \(program.name(offsets)) cuts"
      }
      guard program.tables[table] == ProgramVerifier.Table(offsets: offsets, block: block) else {
        return
          "\(program.name(table)) must be a block_table of \(program.name(offsets)) with block = \(block.arguments)"
      }
      return nil
    }
  }

  // MARK: - Statements

  private mutating func verify(_ body: [Statement]) {
    for statement in body {
      let location = locations.flatMap { self.statement < $0.statements.count ? $0.statements[self.statement] : nil }
      self.statement += 1
      if let problem = problem(of: statement) {
        fail(problem, statement.mnemonic, location)
        // What follows would only repeat it.
        return
      }
      note(statement)
      switch statement {
      case .forKeys(_, _, let inner):
        isInKeys = true
        verify(inner)
        isInKeys = false
      case .forParts(_, let inner):
        isInParts = true
        verify(inner)
        isInParts = false
      default: break
      }
    }
  }

  /// Remembers what a statement fills.
  private mutating func note(_ statement: Statement) {
    if case .sort(let into, _, let offsets, _) = statement {
      sorted[into] = offsets
    } else if let buffer = statement.writtenBuffer {
      written.insert(buffer)
    }
    if let into = statement.writtenSlice {
      filledTiles.insert(kernel.owner(of: into.tile))
      if case .window(let buffer, _, _) = kernel[into.tile].home { written.insert(buffer) }
    }
    if case .indices(let vector, let source) = statement { indices[vector] = source }
  }

  private func problem(of statement: Statement) -> String? {
    if let problem = problem(ofCallersCodes: statement) { return problem }
    switch statement {
    case .map(let into, let expression, let masked):
      if let problem = problem(ofWriting: into) { return problem }
      if masked, let problem = problem(ofMasking: into) { return problem }
      return problem(of: expression, in: kernel[into.tile].rows, columns: into.count, into: into)
    case .reduce(let into, let sum, let columns), .maximum(let into, let sum, let columns):
      if let problem = problem(ofWriting: into) { return problem }
      if into.count != 1 { return "fills one column, found \(into.count)" }
      if kernel[into.tile].element != .f32 { return "gives f32, found \(kernel[into.tile].element.rawValue)" }
      if kernel[into.tile].rows == .keys {
        return "rows of keys cannot be reduced: their columns are not all in use"
      }
      if !(1...largestNumber).contains(columns) { return "the number of columns must be positive, found \(columns)" }
      return problem(of: sum, in: kernel[into.tile].rows, columns: columns, into: into)
    case .contract(let contraction): return problem(of: contraction)
    case .transpose(let into, let from, let factor): return problem(ofTransposing: from, into: into, factor)
    case .indices(let vector, let source):
      guard kernel.indexVectors.indices.contains(vector.index) else { return "there are no indices \(vector.index)" }
      return problem(of: source)
    case .gather(let into, let from, let first, let vector, _):
      return problem(ofGathering: into, from, first: first, vector)
    case .gatherIntegers(let into, let from, let vector, let missing):
      if missing == .kept, program.exists(into), !written.contains(into) {
        return "keeps what \(program.name(into)) holds, which nothing has written before"
      }
      return problem(ofFilling: into) ?? program.problem(ofIntegers: from) ?? problem(ofReadingElsewhere: from)
        ?? problem(ofIndices: vector, within: from, mayMiss: missing != .none)
    case .nextIntegers(let into, let from, let last):
      guard let offsets, let rows else { return "needs a kernel over sequences" }
      return problem(ofFilling: into) ?? program.problem(ofIntegers: from, rows: Extent(rows))
        ?? program.problem(ofIntegers: last, rows: Extent(program.program[offsets].rows.dimension))
        ?? problem(ofReadingElsewhere: from) ?? problem(ofReadingElsewhere: last)
    case .storeIndices(let into, let vector): return problem(ofFilling: into) ?? problem(ofReading: vector)
    case .clear(let slice): return problem(ofWriting: slice)
    case .best(let best): return problem(of: best)
    case .merge(let merged): return problem(of: merged)
    case .sort(let into, let from, let offsets, let modulo):
      if let modulo, !(1...largestNumber).contains(modulo) { return "modulo must lie in 1...2^40, found \(modulo)" }
      return problem(ofSorting: from, into: into, offsets: offsets)
    case .forKeys(let mask, let step, _):
      guard offsets != nil else { return "needs a kernel over sequences" }
      if isInKeys { return "stands in a loop over keys already" }
      if !(1...largestBlock).contains(step) { return "a turn must have 1 to 2^20 keys, found \(step)" }
      do { try mask.verify() } catch { return error.message }
      return nil
    case .forParts(let count, _):
      if isInParts { return "stands in a loop over parts already" }
      if parts > 1 { return "the kernel's domain counts parts already" }
      if !(1...largestBlock).contains(count) { return "there must be 1 to 2^20 parts, found \(count)" }
      return count == kernel.parts ? nil : "another loop of the kernel has \(kernel.parts) parts, found \(count)"
    }
  }

  /// Codes of the caller are bytes, unlike those that products take: maps alone read and write them.
  private func problem(ofCallersCodes statement: Statement) -> String? {
    if case .map(_, _, masked: false) = statement { return nil }
    var found: BufferID?
    func note(_ buffer: BufferID) {
      if program.exists(buffer), program.program[buffer].holdsCallersCodes { found = found ?? buffer }
    }
    statement.forEachTile { tile in
      if kernel.tiles.indices.contains(tile.index), case .window(let buffer, _, _) = kernel[tile].home { note(buffer) }
    }
    if case .gather(_, let from, _, _, _) = statement { note(from) }
    return found.map { "the codes of \(program.name($0)) are only read and written by maps" }
  }

  func problem(ofMasking into: TileSlice) -> String? {
    isInKeys && isScratchOfKeys(into.tile) ? nil : "only a tile of keys in scratch can be masked"
  }

  func isWindow(_ id: TileID) -> Bool { if case .window = kernel[id].home { true } else { false } }

  func isScratchOfKeys(_ id: TileID) -> Bool {
    guard case .scratch = kernel[id].home else { return false }
    return kernel[id].rows == .keys
  }

  // MARK: - Slices

  /// Why a slice names no columns of a tile; nil where it does.
  private func problem(of slice: TileSlice) -> String? {
    guard kernel.tiles.indices.contains(slice.tile.index) else { return "there is no tile \(slice.tile.index)" }
    let tile = kernel[slice.tile]
    let name = "%\(TextName.quoted(tile.name))"
    guard slice.first >= 0, slice.count >= 1, slice.first <= tile.columns, slice.count <= tile.columns - slice.first
    else {
      return "[\(slice.first) : \(slice.first &+ slice.count)] is no range of the \(tile.columns) columns of \(name)"
    }
    if tile.rows == .keys, !isInKeys { return "\(name) has rows in a loop over keys only" }
    if tile.columnsPerPart > 0, !isInParts, hasLoopOverParts {
      return "\(name) moves with the part, so it has columns in a loop over parts only"
    }
    return nil
  }

  private var hasLoopOverParts: Bool { kernel.statements.contains { if case .forParts = $0 { true } else { false } } }

  func problem(ofWriting slice: TileSlice) -> String? {
    if let problem = problem(of: slice) { return problem }
    if isScratchOfKeys(slice.tile), slice.count != block {
      return "a tile of keys in scratch is filled whole, found \(slice.count) columns of \(block)"
    }
    if case .joined = kernel[slice.tile].home { return "rows of two buffers are only read" }
    guard case .window(let buffer, _, _) = kernel[slice.tile].home else { return nil }
    if !program.isWritable(buffer) {
      return "\(program.name(buffer)) cannot be written: it is neither workspace nor an output"
    }
    return kernel[slice.tile].rows == .block ? nil : "writes rows of \(program.name(buffer)) that are not the block's"
  }

  func problem(ofReading slice: TileSlice) -> String? {
    if let problem = problem(of: slice) { return problem }
    let tile = kernel[slice.tile]
    switch tile.home {
    case .scratch, .columns:
      return filledTiles.contains(kernel.owner(of: slice.tile))
        ? nil : "reads %\(TextName.quoted(tile.name)), which nothing has written before"
    case .window(let buffer, _, _):
      return tile.rows == .block ? problem(ofReadingHere: buffer) : problem(ofReadingElsewhere: buffer)
    case .joined:
      return tile.buffers.lazy.compactMap(problem(ofReadingElsewhere:)).first
    }
  }

  /// Rows of the block may be what this kernel wrote.
  func problem(ofReadingHere buffer: BufferID) -> String? {
    written.contains(buffer) ? nil : program.problem(ofReading: buffer)
  }

  /// Other rows may be those of another block, which runs at any time: they must have been written by an earlier kernel.
  func problem(ofReadingElsewhere buffer: BufferID) -> String? {
    guard program.exists(buffer) else { return "there is no buffer \(buffer.index)" }
    if targets.contains(buffer) {
      return "reads rows of \(program.name(buffer)) that other blocks of this kernel write"
    }
    return program.problem(ofReading: buffer)
  }

  /// Why a buffer of integers cannot be filled for the block's rows; nil where it can.
  private func problem(ofFilling into: BufferID) -> String? {
    if let problem = program.problem(ofIntegers: into, rows: rows.map { Extent($0) }) { return problem }
    if !program.isWritable(into) {
      return "\(program.name(into)) cannot be written: it is neither workspace nor an output"
    }
    return parts == 1 ? nil : "\(program.name(into)) would be written by every part"
  }

  func problem(ofReading vector: IndexVectorID) -> String? {
    guard kernel.indexVectors.indices.contains(vector.index) else { return "there are no indices \(vector.index)" }
    let name = TextName.quoted(kernel.indexVectors[vector.index])
    return indices[vector] == nil ? "reads %\(name), which nothing has written before" : nil
  }

  /// Why rows of a buffer cannot be read by these indices; nil where every index is one of its rows, or, under `mayMiss`,
  /// negative.
  func problem(ofIndices vector: IndexVectorID, within buffer: BufferID, mayMiss: Bool) -> String? {
    if let problem = problem(ofReading: vector) { return problem }
    guard program.exists(buffer), let source = indices[vector] else { return "there is no buffer \(buffer.index)" }
    let extent = program.program[buffer].rows
    let matches: Bool
    switch source {
    case .loaded(_, let entries, _): matches = extent.plus == 0 && entries <= extent.dimension.extent ?? -1
    case .expression, .bucket, .calendar, .marked: matches = false
    case .beforeSelection(_, let offsets, _): matches = program.cutRows[offsets].map { Extent($0) } == extent
    case .beforeAddition(_, _, let offsets): matches = mayMiss && program.cutRows[offsets].map { Extent($0) } == extent
    case .afterAddition(_, let extended): matches = program.cutRows[extended].map { Extent($0) } == extent
    case .sequence: matches = mayMiss && sequences.map { Extent($0) } == extent
    case .pickedRow(_, let offsets, _, _): matches = mayMiss && program.cutRows[offsets].map { Extent($0) } == extent
    case .afterSelection(_, let selected):
      matches = mayMiss && program.cutRows[selected].map { Extent($0) } == extent
    case .lastRow(let offsets): matches = mayMiss && program.cutRows[offsets].map { Extent($0) } == extent
    }
    let name = TextName.quoted(kernel.indexVectors[vector.index])
    return matches ? nil : "the indices %\(name) need not be rows of \(program.name(buffer))"
  }

  /// Whether two slices may share an element without being the same.
  func overlaps(_ first: TileSlice, _ second: TileSlice) -> Bool {
    guard first != second else { return false }
    if first.tile == second.tile {
      return first.first < second.first + second.count && second.first < first.first + first.count
    }
    let (one, other) = (kernel[first.tile], kernel[second.tile])
    if case .window(let buffer, _, _) = one.home {
      guard case .window(buffer, _, _) = other.home else { return false }
    } else if kernel.owner(of: first.tile) != kernel.owner(of: second.tile) {
      return false
    }
    let (a, b) = (one.firstColumn + first.first, other.firstColumn + second.first)
    return one.columnsPerPart != other.columnsPerPart || (a < b + second.count && b < a + first.count)
  }
}

extension Tile {
  /// Where its columns begin for part 0, in the buffer or tile that they are columns of.
  fileprivate var firstColumn: Int {
    switch home {
    case .scratch: 0
    case .window(_, let column, _), .columns(_, let column, _): column
    case .joined(_, let own): own.column
    }
  }

  /// How far its columns move from one part to the next.
  fileprivate var columnsPerPart: Int {
    switch home {
    case .scratch: 0
    case .window(_, _, let columnsPerPart), .columns(_, _, let columnsPerPart): columnsPerPart
    case .joined(_, let own): own.columnsPerPart
    }
  }
}

extension Statement {
  fileprivate var isLoopOverKeys: Bool { if case .forKeys = self { true } else { false } }

  /// The columns that this statement fills, where it fills a tile.
  fileprivate var writtenSlice: TileSlice? {
    switch self {
    case .map(let into, _, _), .reduce(let into, _, _), .maximum(let into, _, _), .transpose(let into, _, _),
      .gather(let into, _, _, _, _),
      .clear(let into):
      into
    case .contract(let contraction): contraction.into
    case .best(let best): best.scores
    case .merge(let merged): merged.scores
    case .indices, .gatherIntegers, .nextIntegers, .sort, .storeIndices, .forKeys, .forParts: nil
    }
  }

  /// The buffer of integers that this statement fills.
  fileprivate var writtenBuffer: BufferID? {
    switch self {
    case .gatherIntegers(let into, _, _, _), .nextIntegers(let into, _, _), .sort(let into, _, _, _),
      .storeIndices(let into, _):
      into
    case .best(let best): best.ids
    case .merge(let merged): merged.ids
    default: nil
    }
  }

  /// What errors call the statement.
  fileprivate var mnemonic: String {
    switch self {
    case .map: "map"
    case .reduce: "sum"
    case .maximum: "maximum"
    case .contract: "contract"
    case .transpose: "transpose"
    case .indices: "indices"
    case .gather, .gatherIntegers: "gather"
    case .nextIntegers: "next"
    case .storeIndices: "store"
    case .clear: "clear"
    case .best: "best_columns"
    case .merge: "merge"
    case .sort: "sort"
    case .forKeys: "for keys"
    case .forParts: "for parts"
    }
  }
}
