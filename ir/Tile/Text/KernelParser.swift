import TensorIR

/// A kernel under construction, with the names that are declared so far.
struct KernelScope {
  var kernel: Kernel
  var locations: ProgramLocations.Kernel
  var tiles: [String: TileID] = [:]
  var indexVectors: [String: IndexVectorID] = [:]
}

// The body of a kernel: its tiles and vectors of indices, then its statements.
extension ProgramParser {
  mutating func body(of scope: inout KernelScope) throws(TensorIRError) {
    try expect("{")
    while true {
      let location = token.location
      if try takeWord("tile") {
        let name = try newLocalName(in: scope)
        try expect(":")
        scope.tiles[name] = scope.kernel.addTile(try tile(named: name, in: scope))
        scope.locations.tiles.append(location)
      } else if try takeWord("indices") {
        let name = try newLocalName(in: scope)
        scope.indexVectors[name] = scope.kernel.addIndexVector(name)
      } else {
        break
      }
    }
    scope.kernel.body = try statements(in: &scope, depth: 0)
  }

  private mutating func newLocalName(in scope: KernelScope) throws(TensorIRError) -> String {
    guard case .value(let name) = token.kind else { throw unexpected("a new name, %name") }
    if scope.tiles[name] != nil || scope.indexVectors[name] != nil {
      throw TensorIRError("%\(TextName.quoted(name)) is declared twice", at: token.location)
    }
    try advance()
    return name
  }

  private mutating func tile(named name: String, in scope: KernelScope) throws(TensorIRError) -> Tile {
    let rows: Tile.Rows
    if try takeWord("block") {
      rows = .block
    } else if try takeWord("keys") {
      rows = .keys
    } else {
      guard case .number = token.kind else { throw unexpected("the tile's rows: block, keys or a number") }
      rows = .fixed(try integer("the tile's rows"))
    }
    try expectWord("x")
    let columns = try integer("the number of columns")
    let declared = try takeWord("x") ? try elementType() : nil
    try expectWord("in")
    if declared != nil, token.kind != .word("scratch") { throw unexpected("scratch(rows x stride)") }
    let home = try tileHome(in: scope)
    switch home {
    case .scratch:
      let isGrouped = try takeWord("grouped")
      return Tile(
        name: name, rows: rows, columns: columns, home: home, element: declared ?? .f32, isGrouped: isGrouped)
    case .joined(_, let own):
      return Tile(name: name, rows: rows, columns: columns, home: home, element: program[own.buffer].element)
    case .window(let buffer, _, _):
      return Tile(name: name, rows: rows, columns: columns, home: home, element: program[buffer].element)
    case .columns(let base, _, _):
      let whole = scope.kernel[base]
      return Tile(
        name: name, rows: rows, columns: columns, home: home, element: whole.element, isGrouped: whole.isGrouped)
    }
  }

  private mutating func tileHome(in scope: KernelScope) throws(TensorIRError) -> Tile.Home {
    if try takeWord("scratch") {
      try expect("(")
      let capacity = try integer("the rows that there is room for")
      try expectWord("x")
      let rowStride = try integer("the elements from row to row")
      try expect(")")
      return .scratch(capacity: capacity, rowStride: rowStride)
    }
    if case .value(let name) = token.kind {
      guard let base = scope.tiles[name] else {
        throw TensorIRError("there is no tile %\(TextName.quoted(name)) in this kernel", at: token.location)
      }
      try advance()
      let (column, columnsPerPart) = try firstColumn()
      return .columns(base, column: column, columnsPerPart: columnsPerPart)
    }
    guard case .global = token.kind else {
      throw unexpected("scratch(rows x stride), a buffer, @name, or a tile, %name")
    }
    let buffer = try bufferName()
    let (column, columnsPerPart) = try firstColumn()
    let scales = try takeWord("scaled") ? try scales() : nil
    guard try takeWord("then") else {
      if scales != nil { throw unexpected("then, and the kernel's own rows") }
      return .window(buffer, column: column, columnsPerPart: columnsPerPart)
    }
    let own = try bufferName()
    let (ownColumn, ownPerPart) = try firstColumn()
    return .joined(
      kept: BufferColumns(buffer, column: column, columnsPerPart: columnsPerPart, scales: scales),
      own: BufferColumns(own, column: ownColumn, columnsPerPart: ownPerPart))
  }

  /// What follows `scaled`: `by @scales`.
  private mutating func scales() throws(TensorIRError) -> BufferID {
    try expectWord("by")
    return try bufferName()
  }

  /// `from column 8 + part * 4`, or nothing.
  private mutating func firstColumn() throws(TensorIRError) -> (column: Int, columnsPerPart: Int) {
    guard try takeWord("from") else { return (0, 0) }
    try expectWord("column")
    let column = try integer("the first column")
    guard try take("+") else { return (column, 0) }
    try expectWord("part")
    try expect("*")
    return (column, try integer("the columns of a part"))
  }

  // MARK: - Names

  /// `%name`, or `%name[first : end]`.
  mutating func slice(in scope: KernelScope) throws(TensorIRError) -> TileSlice {
    guard case .value(let name) = token.kind else { throw unexpected("a tile, %name") }
    guard let id = scope.tiles[name] else {
      throw TensorIRError("there is no tile %\(TextName.quoted(name)) in this kernel", at: token.location)
    }
    try advance()
    guard token.kind == .symbol("[") else {
      return TileSlice(id, first: 0, count: scope.kernel[id].columns)
    }
    let range = try range()
    return TileSlice(id, first: range.first, count: range.count)
  }

  /// `[first : end]`.
  private mutating func range() throws(TensorIRError) -> (first: Int, count: Int) {
    let location = token.location
    try expect("[")
    let first = try integer("where the range begins")
    try expect(":")
    let end = try integer("where the range ends")
    try expect("]")
    let (count, overflow) = end.subtractingReportingOverflow(first)
    if overflow { throw TensorIRError("the range [\(first) : \(end)] is too long", at: location) }
    return (first, count)
  }

  mutating func indexVector(in scope: KernelScope) throws(TensorIRError) -> IndexVectorID {
    guard case .value(let name) = token.kind else { throw unexpected("a vector of indices, %name") }
    guard let id = scope.indexVectors[name] else {
      throw TensorIRError("there are no indices %\(TextName.quoted(name)) in this kernel", at: token.location)
    }
    try advance()
    return id
  }

  // MARK: - Statements

  /// Statements up to and with the closing brace.
  private mutating func statements(in scope: inout KernelScope, depth: Int) throws(TensorIRError) -> [Statement] {
    var statements: [Statement] = []
    while try !take("}") {
      scope.locations.statements.append(token.location)
      statements.append(try statement(in: &scope, depth: depth))
    }
    return statements
  }

  private mutating func statement(in scope: inout KernelScope, depth: Int) throws(TensorIRError) -> Statement {
    switch token.kind {
    case .word("clear"):
      try advance()
      return .clear(try slice(in: scope))
    case .word("for"): return try loop(in: &scope, depth: depth)
    case .global: return try bufferStatement(in: scope)
    case .value(let name) where scope.indexVectors[name] != nil:
      let vector = try indexVector(in: scope)
      try expect("=")
      return .indices(vector, try indexSource(in: scope))
    case .value: return try tileStatement(in: scope)
    default: throw unexpected("a statement: %name = ..., @name = ..., clear, for, or \"}\"")
    }
  }

  private mutating func loop(in scope: inout KernelScope, depth: Int) throws(TensorIRError) -> Statement {
    let location = token.location
    try advance()
    // The verifier takes few loops in loops; the bound keeps any text from exhausting the stack before.
    if depth > 3 { throw TensorIRError("loops are nested too deep", at: location) }
    if case .number = token.kind {
      let count = try integer("the number of parts")
      try expectWord("parts")
      try expect("{")
      return .forParts(count: count, body: try statements(in: &scope, depth: depth + 1))
    }
    guard try takeWord("keys") else { throw unexpected("\"keys\" or a number of parts") }
    try expectWord("of")
    let mask = try mask()
    try expect(",")
    let step = try integer("the keys of a turn")
    try expectWord("at")
    try expectWord("a")
    try expectWord("time")
    try expect("{")
    return .forKeys(mask, step: step, body: try statements(in: &scope, depth: depth + 1))
  }

  /// A statement that fills a buffer of integers.
  private mutating func bufferStatement(in scope: KernelScope) throws(TensorIRError) -> Statement {
    let into = try bufferName()
    try expect("=")
    if case .value = token.kind { return .storeIndices(into: into, try indexVector(in: scope)) }
    if try takeWord("gather") {
      try expect("(")
      let from = try bufferName()
      try expectLabel("rows")
      let indices = try indexVector(in: scope)
      var missing = MissingIntegers.none
      if token.kind == .symbol(",") {
        try expectLabel("otherwise")
        missing = .number(try integer("the number that stands in"))
      }
      try expect(")")
      if missing == .none, try takeWord("keep") {
        try expectWord("missing")
        missing = .kept
      }
      return .gatherIntegers(into: into, from: from, indices: indices, missing: missing)
    }
    if try takeWord("sort") {
      try expect("(")
      let from = try bufferName()
      let offsets = try labeledBuffer("offsets")
      let modulo = try isNext(label: "modulo") ? try labeledInteger("modulo") : nil
      try expect(")")
      return .sort(into: into, from: from, offsets: offsets, modulo: modulo)
    }
    guard try takeWord("next") else { throw unexpected("gather, next, sort or a vector of indices, %name") }
    try expect("(")
    let from = try bufferName()
    let last = try labeledBuffer("last")
    try expect(")")
    return .nextIntegers(into: into, from: from, last: last)
  }

  private mutating func labeledInteger(_ label: String) throws(TensorIRError) -> Int {
    try expectLabel(label)
    return try integer("\"\(label)\"")
  }

  private mutating func indexSource(in scope: KernelScope) throws(TensorIRError) -> IndexSource {
    if try takeWord("index") { return .expression(try indexExpression()) }
    let source: IndexSource
    if try takeWord("load") {
      try expect("(")
      let buffer = try bufferName()
      var entries = Int.max
      var outside = OutsideIndex.unchanged
      while try take(",") {
        if try takeWord("below") {
          try expect("=")
          entries = try integer("the number of entries")
        } else if try takeWord("modulo") {
          try expect("=")
          (entries, outside) = (try integer("the number of entries"), .modulo)
        } else {
          guard try takeWord("otherwise") else { throw unexpected("\"below\", \"modulo\" or \"otherwise\"") }
          try expect("=")
          outside = .fallback(try integer("the index that stands in"))
        }
      }
      source = .loaded(buffer, entries: entries, outside: outside)
    } else if try takeWord("before_selection") {
      try expect("(")
      let selection = try selection()
      source = .beforeSelection(selection, offsets: try labeledBuffer("offsets"), targets: try optionalTargets())
    } else if try takeWord("after_selection") {
      try expect("(")
      let selection = try selection()
      source = .afterSelection(selection, selected: try labeledBuffer("selected"))
    } else if token.kind == .word("before_addition") || token.kind == .word("added_rows") {
      let added = token.kind == .word("added_rows")
      try advance()
      try expect("(")
      let addition = try addition()
      source = .beforeAddition(addition, added: added, offsets: try labeledBuffer("offsets"))
    } else if try takeWord("after_addition") {
      try expect("(")
      let addition = try addition()
      source = .afterAddition(addition, extended: try labeledBuffer("extended"))
    } else if try takeWord("sequence") {
      try expect("(")
      try expectWord("position")
      try expect("=")
      source = .sequence(position: try integer("a position"))
    } else if try takeWord("row_of_sequence") {
      try expect("(")
      let offsets = try bufferName()
      try expectLabel("row")
      let row = try integer("the row's place")
      var lengths: BufferID?
      var minimum = 0
      if token.kind == .symbol(",") {
        lengths = try labeledBuffer("lengths")
        try expectLabel("minimum")
        minimum = try integer("the least number of rows")
      }
      source = .pickedRow(row, offsets: offsets, lengths: lengths, minimum: minimum)
    } else if try takeWord("last_row") {
      try expect("(")
      source = .lastRow(offsets: try bufferName())
    } else if try takeWord("bucket") {
      try expect("(")
      source = .bucket(
        times: try bufferName(), queries: try labeledBuffer("queries"), thresholds: try labeledBuffer("thresholds"))
    } else if try takeWord("calendar") {
      try expect("(")
      source = .calendar(
        try bufferName(), unit: try labeledInteger("unit"), count: try labeledInteger("count"))
    } else if try takeWord("mark") {
      try expect("(")
      source = .marked(
        try indexVector(in: scope), bits: try labeledInteger("bits"), values: try labeledBuffer("values"),
        least: try labeledInteger("least"))
    } else {
      throw unexpected(
        "load, index, before_selection, after_selection, before_addition, added_rows, after_addition, sequence, "
          + "row_of_sequence, last_row, bucket, calendar or mark")
    }
    try expect(")")
    return source
  }

  /// A statement that fills a tile.
  private mutating func tileStatement(in scope: KernelScope) throws(TensorIRError) -> Statement {
    let into = try slice(in: scope)
    if try take(",") { return try bestStatement(scores: into, in: scope) }
    if try take("+") {
      try expect("=")
      guard token.kind == .word("contract") else { throw unexpected("\"contract\" after \"+=\"") }
      return .contract(try contract(into: into, accumulate: true, in: scope))
    }
    try expect("=")
    switch token.kind {
    case .word("sum"):
      try advance()
      try expectWord("over")
      let columns = try integer("the number of columns")
      try expectWord("columns")
      try expectWord("of")
      return .reduce(into: into, sum: try expression(in: scope), columns: columns)
    case .word("maximum") where try isFollowed(by: "over"):
      try advance()
      try expectWord("over")
      let columns = try integer("the number of columns")
      try expectWord("columns")
      try expectWord("of")
      return .maximum(into: into, of: try expression(in: scope), columns: columns)
    case .word("transpose"):
      try advance()
      try expect("(")
      let from = try slice(in: scope)
      try expectLabel("factor")
      let factor = try number("the factor")
      try expect(")")
      return .transpose(into: into, from: from, factor: factor)
    case .word("gather"):
      try advance()
      try expect("(")
      let from = try bufferName()
      try expectLabel("rows")
      let indices = try indexVector(in: scope)
      var first = 0
      if token.kind == .symbol(",") {
        try expectLabel("column")
        first = try integer("the first column")
      }
      try expect(")")
      let keepMissing = try takeWord("keep")
      if keepMissing { try expectWord("missing") }
      return .gather(into: into, from: from, first: first, indices: indices, keepMissing: keepMissing)
    default:
      var contraction: Contraction?
      let expression = try expression(in: scope, into: into, contraction: &contraction)
      let masked = try takeWord("where")
      if masked { try expectWord("visible") }
      guard var contraction else { return .map(into: into, expression, masked: masked) }
      if expression != .product || masked { contraction.finish = expression }
      contraction.masked = masked
      return .contract(contraction)
    }
  }

  /// A statement that fills a tile with the best scores and a buffer with their ids.
  private mutating func bestStatement(scores: TileSlice, in scope: KernelScope) throws(TensorIRError) -> Statement {
    let ids = try bufferName()
    try expect("=")
    if try takeWord("merge") {
      try expect("(")
      let partScores = try bufferName()
      try expect(",")
      let partIDs = try bufferName()
      try expectLabel("parts")
      let parts = try integer("the number of parts")
      try expect(")")
      return .merge(MergedParts(scores: scores, ids: ids, partScores: partScores, partIDs: partIDs, parts: parts))
    }
    guard try takeWord("best_columns") else { throw unexpected("best_columns or merge") }
    try expect("(")
    let left = try slice(in: scope)
    try expect(",")
    let right = try bufferName()
    try expectLabel("products")
    var best = BestColumns(
      scores: scores, ids: ids, left: left, right: right, products: try slice(in: scope), firstID: 0, seen: nil)
    if try isNext(label: "first") {
      try expectLabel("first")
      best.firstID = try integer("the first id")
    }
    if try isNext(label: "without") {
      let seen = try labeledBuffer("without")
      best.seen = .init(ids: seen, offsets: try labeledBuffer("of"))
    }
    try expect(")")
    return .best(best)
  }

  /// Whether a comma and this word come next.
  private func isNext(label: String) throws(TensorIRError) -> Bool {
    guard token.kind == .symbol(",") else { return false }
    return try isFollowed(by: label)
  }

  private func isFollowed(by word: String) throws(TensorIRError) -> Bool {
    var ahead = lexer
    return try ahead.next().kind == .word(word)
  }

  mutating func contract(
    into: TileSlice, accumulate: Bool, in scope: KernelScope
  ) throws(TensorIRError) -> Contraction {
    try advance()
    try expect("(")
    let transposed = try takeWord("transposed")
    let left = try slice(in: scope)
    try expect(",")
    let right: Contraction.Right
    if case .global = token.kind {
      let buffer = try bufferName()
      var (firstRow, rows) = (0, left.count)
      let location = token.location
      if token.kind == .symbol("[") {
        let range = try range()
        guard range.count == left.count else {
          throw TensorIRError(
            "takes \(range.count) rows, but the left side has \(left.count) columns", at: location)
        }
        firstRow = range.first
        try expectWord("of")
        rows = try integer("the rows in all")
      }
      let (firstColumn, columnsPerPart) = try self.firstColumn()
      if columnsPerPart != 0 {
        throw TensorIRError("the columns of a packed weight do not move with the part", at: location)
      }
      right = .panels(buffer, firstRow: firstRow, rows: rows, firstColumn: firstColumn)
    } else {
      right = .tile(try slice(in: scope))
    }
    try expect(")")
    return Contraction(into: into, left: left, leftTransposed: transposed, right: right, accumulate: accumulate)
  }
}
