import TensorIR

/// Reads the text form of a tile program (docs/tile-ir.md).
///
/// Takes any text: whatever is wrong becomes an error with its place. Nesting and the size of expressions are bounded, so
/// no text can exhaust the stack, and nothing is allocated from a number in the text.
public enum TileIRParser {
  /// The program that `source` spells out, verified. `file` is the name that errors give.
  public static func parse(_ source: String, file: String = "<text>") throws(TileIRError) -> Program {
    var parser: ProgramParser
    do throws(TensorIRError) {
      parser = try ProgramParser(source, file: file)
      try parser.parse()
    } catch {
      throw TileIRError(error.message, at: error.location)
    }
    if let error = parser.program.verificationErrors(parser.locations).first { throw error }
    return parser.program
  }
}

/// Recursive descent, one method for each form of the grammar, one token of lookahead.
struct ProgramParser: TokenParser {
  var lexer: Lexer
  var token: Token
  private(set) var program = Program(name: "", dimensions: [])
  var locations: ProgramLocations
  private var buffers: [String: BufferID] = [:]
  private var scalars: [String: ScalarID] = [:]

  init(_ source: String, file: String) throws(TensorIRError) {
    lexer = Lexer(source, file: file, operators: "+-*/?")
    token = try lexer.next()
    locations = ProgramLocations(program: token.location)
  }

  mutating func parse() throws(TensorIRError) {
    guard try takeWord("program") else { throw unexpected("\"program\" and the program's name") }
    program.name = try name("the program's name")
    try expect("(")
    if try !take(")") {
      repeat { program.dimensions.append(try name("a dimension's name")) } while try take(",")
      try expect(")")
    }
    while token.kind != .end {
      let location = token.location
      switch token.kind {
      case .word("dimension"): try derivedDimension(location)
      case .word("buffer"): try buffer(location)
      case .word("scalar"): try scalarDeclaration(location)
      case .word("setup"): try setup()
      case .word("kernel"): try kernel(location)
      default: throw unexpected("\"dimension\", \"buffer\", \"scalar\", \"setup\" or \"kernel\"")
      }
    }
  }

  // MARK: - What all forms share

  mutating func expectWord(_ word: String) throws(TensorIRError) {
    guard try takeWord(word) else { throw unexpected("\"\(word)\"") }
  }

  mutating func integer(_ what: String) throws(TensorIRError) -> Int {
    guard case .number(let text) = token.kind, let value = Int(text) else {
      throw unexpected("\(what), an integer of 64 bits")
    }
    try advance()
    return value
  }

  mutating func number(_ what: String) throws(TensorIRError) -> Double {
    guard case .number(let text) = token.kind, let value = Double(text), value.isFinite else {
      throw unexpected("\(what), a finite number")
    }
    try advance()
    return value
  }

  mutating func dimension() throws(TensorIRError) -> Dimension {
    if case .number = token.kind { return .fixed(try integer("an extent")) }
    return .symbol(try name("an extent, a number or a name"))
  }

  /// `label =`, after a comma.
  mutating func expectLabel(_ label: String) throws(TensorIRError) {
    try expect(",")
    try expectWord(label)
    try expect("=")
  }

  mutating func bufferName() throws(TensorIRError) -> BufferID {
    guard case .global(let name) = token.kind else { throw unexpected("a buffer, @name") }
    guard let id = buffers[name] else {
      throw TensorIRError("there is no buffer @\(TextName.quoted(name)) above", at: token.location)
    }
    try advance()
    return id
  }

  /// A scalar of this name, without consuming the token.
  func scalar(named name: String) -> ScalarID? { scalars[name] }

  mutating func labeledBuffer(_ label: String) throws(TensorIRError) -> BufferID {
    try expectLabel(label)
    return try bufferName()
  }

  /// `, targets = @name`, or nothing.
  mutating func optionalTargets() throws(TensorIRError) -> BufferID? {
    guard token.kind == .symbol(",") else { return nil }
    var ahead = lexer
    guard try ahead.next().kind == .word("targets") else { return nil }
    return try labeledBuffer("targets")
  }

  mutating func selection() throws(TensorIRError) -> RowSelection {
    let phrase = try phrase("a selection of rows: \(RowSelection.expectedText)", until: "as", "behind")
    var reader = PhraseReader(phrase)
    guard let selection = RowSelection(from: &reader), reader.isAtEnd else {
      throw TensorIRError("expected \(RowSelection.expectedText), found \"\(phrase.text)\"", at: phrase.location)
    }
    return selection
  }

  mutating func addition() throws(TensorIRError) -> RowAddition {
    let phrase = try phrase("rows to add: \(RowAddition.expectedText)")
    var reader = PhraseReader(phrase)
    guard let addition = RowAddition(from: &reader), reader.isAtEnd else {
      throw TensorIRError("expected \(RowAddition.expectedText), found \"\(phrase.text)\"", at: phrase.location)
    }
    return addition
  }

  mutating func mask() throws(TensorIRError) -> Mask {
    let phrase = try phrase("a mask: \(Mask.expectedText)")
    var reader = PhraseReader(phrase)
    guard let mask = Mask(from: &reader), reader.isAtEnd else {
      throw TensorIRError("expected \(Mask.expectedText), found \"\(phrase.text)\"", at: phrase.location)
    }
    return mask
  }

  // MARK: - Declarations

  private mutating func derivedDimension(_ location: SourceLocation) throws(TensorIRError) {
    try advance()
    let name = try name("the dimension's name")
    try expectWord("at")
    try expectWord("most")
    var terms: [ExtentBound.Term] = []
    repeat { terms.append(try boundTerm()) } while try take("+")
    program.derivedDimensions.append(DerivedDimension(name: name, atMost: ExtentBound(terms)))
    locations.dimensions.append(location)
  }

  /// `rows`, or `3 * sequences`.
  private mutating func boundTerm() throws(TensorIRError) -> ExtentBound.Term {
    let dimension = try dimension()
    guard case .fixed(let times) = dimension, try take("*") else { return ExtentBound.Term(dimension) }
    return ExtentBound.Term(try self.dimension(), times: times)
  }

  /// `@name`, not used yet for a buffer or a scalar.
  private mutating func newGlobalName() throws(TensorIRError) -> String {
    let location = token.location
    let name = try globalName("a new name")
    if buffers[name] != nil || scalars[name] != nil {
      throw TensorIRError("@\(TextName.quoted(name)) is declared twice", at: location)
    }
    return name
  }

  private mutating func buffer(_ location: SourceLocation) throws(TensorIRError) {
    try advance()
    let name = try newGlobalName()
    try expect(":")
    let rows = try extent()
    try expectWord("x")
    let columns = try integer("the number of columns")
    try expectWord("x")
    let element = try elementType()
    try expect("=")
    let home = try home(of: name)
    buffers[name] = program.addBuffer(
      Buffer(name: name, element: element, rows: rows, columns: columns, home: home))
    locations.buffers.append(location)
  }

  mutating func elementType() throws(TensorIRError) -> ElementType {
    guard case .word(let text) = token.kind, let element = ElementType(rawValue: text) else {
      throw unexpected("an element type (\(ElementType.allCases.map(\.rawValue).joined(separator: ", ")))")
    }
    try advance()
    return element
  }

  /// `rows`, or `(sequences + 1)`.
  private mutating func extent() throws(TensorIRError) -> Extent {
    guard try take("(") else { return Extent(try dimension()) }
    let dimension = try dimension()
    try expect("+")
    let plus = try integer("what is added")
    try expect(")")
    return Extent(dimension, plus: plus)
  }

  private mutating func home(of name: String) throws(TensorIRError) -> Buffer.Home {
    if try takeWord("input") { return .input(try integer("the input's number")) }
    if try takeWord("output") { return .output(try integer("the output's number")) }
    if try takeWord("workspace") {
      try expectWord("slot")
      return .workspace(slot: try integer("the slot's number"))
    }
    if try takeWord("table") { return .table(try table()) }
    guard try takeWord("weight") else { throw unexpected("input, output, weight, table or workspace") }
    var weight = name
    if case .string(let text) = token.kind {
      weight = text
      try advance()
    }
    if try takeWord("reversed") { return .weight(weight, .reversed) }
    for format in TableFormat.allCases where try takeWord(format.rawValue) {
      guard let width = try panelWidth() else { return .weight(weight, .coded(format)) }
      return .weight(weight, .codedPanels(format, width: width))
    }
    let transposed = try takeWord("transposed")
    if let width = try panelWidth() { return .weight(weight, .panels(width: width, transposed: transposed)) }
    if try takeWord("fnuz") {
      try expectWord("fragments")
      return .weight(weight, .fragments(transposed: transposed, isFNUZ: true))
    }
    if try takeWord("fragments") { return .weight(weight, .fragments(transposed: transposed)) }
    if try takeWord("matrices") { return .weight(weight, .matrices(transposed: transposed)) }
    if transposed { throw unexpected("\"panels\", \"fragments\" or \"matrices\"") }
    return .weight(weight, .plain)
  }

  /// `panels(32)`, or nothing.
  private mutating func panelWidth() throws(TensorIRError) -> Int? {
    guard try takeWord("panels") else { return nil }
    try expect("(")
    let width = try integer("the width of a panel")
    try expect(")")
    return width
  }

  private mutating func table() throws(TensorIRError) -> [Float] {
    try expect("[")
    var numbers: [Float] = []
    if try take("]") { return numbers }
    repeat {
      guard case .number(let text) = token.kind, let number = Float(text), number.isFinite else {
        throw unexpected("a finite number of fp32")
      }
      numbers.append(number)
      try advance()
    } while try take(",")
    try expect("]")
    return numbers
  }

  private mutating func scalarDeclaration(_ location: SourceLocation) throws(TensorIRError) {
    try advance()
    let name = try newGlobalName()
    try expect("=")
    let formula: Scalar.Formula
    if try takeWord("reciprocal_of_longest_sequence") {
      try expect("(")
      formula = .reciprocalOfLongestSequence(offsets: try bufferName())
    } else if try takeWord("reciprocal_of_longest_history_plus_targets") {
      try expect("(")
      formula = .reciprocalOfLongestHistoryPlusTargets(offsets: try bufferName(), targets: try optionalTargets())
    } else {
      throw unexpected("reciprocal_of_longest_sequence or reciprocal_of_longest_history_plus_targets")
    }
    try expect(")")
    scalars[name] = program.addScalar(Scalar(name: name, formula: formula))
    locations.scalars.append(location)
  }

  // MARK: - Setup

  private mutating func setup() throws(TensorIRError) {
    try advance()
    try expect("{")
    while try !take("}") {
      locations.setup.append(token.location)
      program.setup.append(try setupStep())
    }
  }

  private mutating func setupStep() throws(TensorIRError) -> SetupStep {
    let step: SetupStep
    if case .global = token.kind {
      let into = try bufferName()
      try expect("=")
      if try takeWord("select_offsets") {
        try expect("(")
        let selection = try selection()
        let offsets = try labeledBuffer("offsets")
        let targets = try optionalTargets()
        try expectLabel("defines")
        let extent = try name("the dimension's name")
        step = .selectOffsets(selection, offsets: offsets, targets: targets, into: into, defines: extent)
      } else if try takeWord("extend_offsets") {
        try expect("(")
        let addition = try addition()
        let offsets = try labeledBuffer("offsets")
        let targets = try optionalTargets()
        try expectLabel("defines")
        let extent = try name("the dimension's name")
        step = .extendOffsets(addition, offsets: offsets, targets: targets, into: into, defines: extent)
      } else if try takeWord("lengths") {
        try expect("(")
        step = .lengths(offsets: try bufferName(), into: into)
      } else if try takeWord("block_table") {
        try expect("(")
        let offsets = try bufferName()
        try expectLabel("block")
        var block = BlockHeight(try integer("the rows of a block"))
        if token.kind == .symbol(",") {
          try expectLabel("short")
          let rows = try integer("the rows of a short sequence's block")
          try expectLabel("below")
          block.short = .init(rows: rows, below: try integer("the rows from which a sequence is not short"))
        }
        step = .blockTable(offsets: offsets, block: block, into: into)
      } else {
        throw unexpected("select_offsets, extend_offsets, lengths or block_table")
      }
    } else {
      guard case .word(let word) = token.kind else { throw unexpected("a step of the setup, or \"}\"") }
      guard ["check_offsets", "check_targets", "check_ids", "check_lengths"].contains(word) else {
        throw unexpected("check_offsets, check_targets, check_ids, check_lengths or @name = ...")
      }
      try advance()
      try expect("(")
      let buffer = try bufferName()
      switch word {
      case "check_offsets":
        try expectLabel("rows")
        step = .checkOffsets(buffer, rows: try dimension())
      case "check_targets": step = .checkTargets(buffer, offsets: try labeledBuffer("offsets"))
      case "check_ids":
        try expectLabel("entries")
        step = .checkIDs(buffer, entries: try integer("the number of entries"))
      default:
        try expectLabel("maximum")
        step = .checkLengths(offsets: buffer, maximum: try integer("the most rows"))
      }
    }
    try expect(")")
    return step
  }

  // MARK: - Kernels

  private mutating func kernel(_ location: SourceLocation) throws(TensorIRError) {
    try advance()
    let name = try name("the kernel's name")
    var summary = ""
    if case .string(let text) = token.kind {
      summary = text
      try advance()
    }
    try expectWord("over")
    var domain = try domain()
    try expect(",")
    let block = try integer("the rows of a block")
    try expectWord("at")
    try expectWord("a")
    try expectWord("time")
    switch domain {
    case .rows(let dimension, _, let parts): domain = .rows(dimension, block: block, parts: parts)
    case .sequences(let offsets, let targets, let table, _, let parts):
      var height = BlockHeight(block)
      var ahead = lexer
      if token.kind == .symbol(","), case .number = try ahead.next().kind {
        try advance()
        let rows = try integer("the rows of a short sequence's block")
        try expectWord("below")
        height.short = .init(rows: rows, below: try integer("the rows from which a sequence is not short"))
        try expectWord("rows")
      }
      domain = .sequences(offsets: offsets, targets: targets, table: table, block: height, parts: parts)
    }
    var scope = KernelScope(kernel: Kernel(name: name, domain: domain), locations: .init(location: location))
    scope.kernel.summary = summary
    if try take(",") {
      try expectWord("selected")
      try expectWord("from")
      let offsets = try bufferName()
      try expectWord("by")
      var keys = KeyRows(try selection(), of: offsets)
      if try takeWord("as") {
        try expectWord("history")
        keys.continuesHistory = true
      }
      if try takeWord("behind") { keys.kept = try bufferName() }
      scope.kernel.keys = keys
    }
    try body(of: &scope)
    program.kernels.append(scope.kernel)
    locations.kernels.append(scope.locations)
  }

  private mutating func domain() throws(TensorIRError) -> Domain {
    var ahead = lexer
    let isCall = try ahead.next().kind == .symbol("(")
    if isCall, try takeWord("rows") {
      try expect("(")
      let dimension = try dimension()
      try expectLabel("parts")
      let parts = try integer("the number of parts")
      try expect(")")
      return .rows(dimension, block: 0, parts: parts)
    }
    guard isCall, try takeWord("sequences") else { return .rows(try dimension(), block: 0) }
    try expect("(")
    let offsets = try bufferName()
    let targets = try optionalTargets()
    let table = try labeledBuffer("table")
    try expectLabel("parts")
    let parts = try integer("the number of parts")
    try expect(")")
    return .sequences(offsets: offsets, targets: targets, table: table, block: BlockHeight(0), parts: parts)
  }
}
