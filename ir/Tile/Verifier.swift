import TensorIR

extension Program {
  /// Throws the first rule that the program breaks; see `verificationErrors`.
  public func verify() throws(TileIRError) {
    if let error = verificationErrors().first { throw error }
  }

  /// Every rule that the program breaks, in the order of the program: none where it is sound.
  ///
  /// Code made from a sound program reads and writes only what its buffers and tiles hold, whatever the inputs are; no
  /// two blocks of a kernel write the same place, or one what the other reads; and nothing is read before something has
  /// written it.
  public func verificationErrors() -> [TileIRError] { verificationErrors(nil) }

  func verificationErrors(_ locations: ProgramLocations?) -> [TileIRError] {
    var verifier = ProgramVerifier(program: self, locations: locations)
    verifier.verify()
    return verifier.errors
  }
}

/// The greatest extent, block or index that a program may name, so that sums of a few stay far from 64 bits.
let largestNumber = 1 << 40
/// The most rows that a block or a turn of keys may have.
let largestBlock = 1 << 20
/// The most bytes that a row, a weight or a tile may take.
let largestByteCount = 1 << 48

/// The product of numbers that are not negative, nil where one is or where it passes `largestByteCount`.
func byteCount(_ factors: Int...) -> Int? {
  var product = 1
  for factor in factors {
    guard factor >= 0 else { return nil }
    let (next, overflow) = product.multipliedReportingOverflow(by: factor)
    if overflow || next > largestByteCount { return nil }
    product = next
  }
  return product
}

/// Verifies what kernels share, and gathers what setup promises to them.
struct ProgramVerifier {
  let program: Program
  let locations: ProgramLocations?
  private(set) var errors: [TileIRError] = []
  private var dimensions: Set<String> = []
  private var globalNames: Set<String> = []
  /// What setup says of offsets: the rows that they cut, and the most of a sequence.
  private(set) var cutRows: [BufferID: Dimension] = [:]
  private(set) var longest: [BufferID: Int] = [:]
  /// By the buffer that a step fills.
  private(set) var selections: [BufferID: Selection] = [:]
  /// Of extents of targets what counts them.
  private var definedTargets: [String: BufferID] = [:]
  private(set) var additions: [BufferID: Addition] = [:]
  private(set) var tables: [BufferID: Table] = [:]
  /// The offsets whose lengths a buffer holds.
  private(set) var lengths: [BufferID: BufferID] = [:]
  /// Buffers whose groups are sorted, and what cuts them.
  private(set) var sorted: [BufferID: BufferID] = [:]
  /// Buffers that hold something: inputs, weights, tables, and what was written so far.
  var filled: Set<BufferID> = []

  struct Selection: Hashable {
    var selection: RowSelection
    var offsets: BufferID
    var targets: BufferID?
  }

  struct Addition: Hashable {
    var addition: RowAddition
    var offsets: BufferID
    var targets: BufferID?
  }

  struct Table: Hashable {
    var offsets: BufferID
    var block: BlockHeight
  }

  init(program: Program, locations: ProgramLocations?) {
    self.program = program
    self.locations = locations
  }

  /// Whether `selected` cuts the rows of this selection: made from its offsets at once, or by way of selections that keep
  /// more; or appended to other rows to make those that it selects from.
  func cuts(_ selected: BufferID, _ wanted: Selection) -> Bool {
    if wanted.selection == .targets, let targets = wanted.targets, lengths[targets] == selected,
      let made = additions[wanted.offsets]
    {
      return made.addition == .appended && made.targets == targets
    }
    guard var made = selections[selected], made.selection == wanted.selection else { return false }
    while made != wanted {
      guard made.targets == wanted.targets, let before = selections[made.offsets],
        wanted.selection.isUnchanged(after: before.selection)
      else { return false }
      (made.offsets, made.targets) = (before.offsets, before.targets)
    }
    return true
  }

  /// What selects the rows that offsets cut from those of `root`, or of the first offsets that no selection made; nil where
  /// there is no such selection.
  func selection(
    of offsets: BufferID, from root: BufferID?
  ) -> (root: BufferID, selection: RowSelection?, targets: BufferID?)? {
    var (buffer, kept, targets): (BufferID, RowSelection?, BufferID?) = (offsets, nil, nil)
    while buffer != root {
      guard let own = selections[buffer] else { return root == nil ? (buffer, kept, targets) : nil }
      if let kept {
        guard kept.isUnchanged(after: own.selection), own.targets == targets else { return nil }
      } else {
        (kept, targets) = (own.selection, own.targets)
      }
      buffer = own.offsets
    }
    return (buffer, kept, targets)
  }

  mutating func verify() {
    verifyDimensions()
    for index in program.buffers.indices { verify(BufferID(index: index)) }
    verifyPositions("input", program.inputs.map { program[$0].home })
    verifyPositions("output", program.outputs.map { program[$0].home })
    for index in program.setup.indices { verifySetup(index) }
    for (index, derived) in program.derivedDimensions.enumerated() where !isDefined(derived.name) {
      fail(
        "no select_offsets or extend_offsets defines it", "dimension \(TextName.quoted(derived.name))",
        locations?.dimensions[index])
    }
    for index in program.scalars.indices { verifyScalar(index) }
    // Kernels rely on what was verified so far.
    guard errors.isEmpty else { return }
    for index in program.kernels.indices {
      var verifier = KernelVerifier(program: self, number: index)
      verifier.verify()
      errors += verifier.errors
      filled.formUnion(verifier.written)
      filled.formUnion(verifier.sorted.keys)
      for (buffer, offsets) in verifier.sorted { sorted[buffer] = offsets }
      for buffer in verifier.written { sorted[buffer] = nil }
    }
    guard errors.isEmpty else { return }
    for id in program.outputs where !filled.contains(id) {
      fail("nothing writes it", "output \(name(id))", locations?.buffers[id.index])
    }
    verifySlots()
  }

  mutating func fail(_ message: String, _ subject: String? = nil, _ location: SourceLocation? = nil) {
    errors.append(TileIRError(message, at: location ?? locations?.program, subject: subject))
  }

  func name(_ id: BufferID) -> String { ProgramPrinter(program: program).name(id) }

  // MARK: - Declarations

  private mutating func verifyDimensions() {
    for name in program.dimensions where !dimensions.insert(name).inserted {
      fail("the dimension \(TextName.quoted(name)) is declared twice")
    }
    for (index, derived) in program.derivedDimensions.enumerated() {
      let subject = "dimension \(TextName.quoted(derived.name))"
      let location = locations?.dimensions[index]
      if derived.atMost.terms.isEmpty { fail("must be at most a sum of extents", subject, location) }
      for term in derived.atMost.terms {
        if let problem = problem(of: term.dimension) { fail(problem, subject, location) }
        if !(1...largestNumber).contains(term.times) {
          fail("multiples must lie in 1...2^40, found \(term.times)", subject, location)
        }
      }
      if !dimensions.insert(derived.name).inserted { fail("is declared twice", subject, location) }
      if errors.isEmpty, program.givenBound(of: derived.name) == nil {
        fail("is more than 2^31 times the extents that are given", subject, location)
      }
    }
  }

  /// Why an extent cannot be one; nil where it can.
  func problem(of dimension: Dimension) -> String? {
    switch dimension {
    case .fixed(let extent):
      (0...largestNumber).contains(extent) ? nil : "an extent must lie in 0...2^40, found \(extent)"
    case .symbol(let name):
      dimensions.contains(name) ? nil : "there is no dimension \(TextName.quoted(name))"
    }
  }

  private func isDefined(_ name: String) -> Bool {
    program.setup.contains { step in
      switch step {
      case .selectOffsets(_, _, _, _, name), .extendOffsets(_, _, _, _, name): true
      default: false
      }
    }
  }

  private mutating func verify(_ id: BufferID) {
    let buffer = program[id]
    let subject = "buffer \(name(id))"
    let location = locations?.buffers[id.index]
    func fail(_ message: String) -> TileIRError { TileIRError(message, at: location, subject: subject) }
    if !globalNames.insert(buffer.name).inserted { errors.append(fail("is declared twice")) }
    if let problem = problem(of: buffer.rows.dimension) { errors.append(fail(problem)) }
    if !(0...1).contains(buffer.rows.plus) {
      errors.append(fail("rows may be an extent or one more, found + \(buffer.rows.plus)"))
    }
    let isTable = if case .weight(_, let packing) = buffer.home { packing.isTable(of: buffer.element) } else { false }
    if !buffer.element.isTileElement, buffer.element != .i64, !isTable {
      errors.append(fail("elements must be f32, bf16, f8e4m3, i8 or i64, found \(buffer.element.rawValue)"))
    }
    let isComputed = if case .table = buffer.home { true } else { false }
    if buffer.columns < (isComputed ? 0 : 1)
      || byteCount(buffer.rows.dimension.extent ?? 1, buffer.columns, buffer.element.byteCount) == nil
    {
      errors.append(fail("a buffer must have columns, and take at most 2^48 bytes, found \(buffer.columns) columns"))
      return
    }
    switch buffer.home {
    case .input, .output:
      if case .input = buffer.home {
        filled.insert(id)
        if buffer.element == .i64, buffer.columns != 1 {
          errors.append(fail("a buffer of integers must have 1 column, found \(buffer.columns)"))
        }
      }
      if buffer.element != .f32, buffer.element != .bf16, buffer.element != .f8e4m3, buffer.element != .i64 {
        errors.append(fail("the caller's elements are f32, bf16, f8e4m3 or i64, found \(buffer.element.rawValue)"))
      }
    case .weight(_, let packing):
      filled.insert(id)
      if let problem = problem(of: buffer, packing) { errors.append(fail(problem)) }
    case .table(let numbers):
      filled.insert(id)
      if buffer.element != .f32 || buffer.rows != Extent(.fixed(1)) || numbers.count != buffer.columns {
        errors.append(
          fail("a table must be 1 x \(numbers.count) x f32, as many columns as numbers, found \(buffer.columns)"))
      }
    case .workspace(let slot):
      if !program.buffers.indices.contains(slot) {
        errors.append(fail("a slot must lie in 0..<\(program.buffers.count), the number of buffers, found \(slot)"))
      }
    }
  }

  private mutating func verifyPositions(_ word: String, _ homes: [Buffer.Home]) {
    for (position, home) in homes.enumerated() {
      let found =
        switch home {
        case .input(let index), .output(let index): index
        case .weight, .table, .workspace: position
        }
      if found != position {
        fail("\(word)s must be numbered 0..<\(homes.count), each once; number \(position) is missing")
        return
      }
    }
  }

  // MARK: - Kinds of buffers

  func exists(_ id: BufferID) -> Bool { program.buffers.indices.contains(id.index) }

  /// Why a buffer cannot be one of integers with the rows given (any, where nil); nil where it can.
  func problem(ofIntegers id: BufferID, rows: Extent? = nil) -> String? {
    guard exists(id) else { return "there is no buffer \(id.index)" }
    let buffer = program[id]
    if buffer.element == .i64, buffer.columns == 1, rows == nil || buffer.rows == rows { return nil }
    let wanted = rows.map { $0.plus == 0 ? "\($0.dimension)" : "(\($0.dimension) + \($0.plus))" } ?? "rows"
    return "\(name(id)) must be \(wanted) x 1 x i64"
  }

  /// Why a buffer cannot be offsets; nil where it can.
  func problem(ofOffsets id: BufferID) -> String? {
    if let problem = problem(ofIntegers: id) { return problem }
    return program[id].rows.plus == 1 ? nil : "\(name(id)) must be offsets, (sequences + 1) x 1 x i64"
  }

  /// Why buffers cannot be target counts of the sequences of offsets; nil where they can.
  func problem(ofTargets targets: BufferID?, offsets: BufferID) -> String? {
    if let problem = problem(ofOffsets: offsets) { return problem }
    guard let targets else { return nil }
    return problem(ofIntegers: targets, rows: Extent(program[offsets].rows.dimension))
  }

  func problem(ofReading id: BufferID) -> String? {
    filled.contains(id) ? nil : "reads \(name(id)), which nothing has written before"
  }

  func isWritable(_ id: BufferID) -> Bool {
    switch program[id].home {
    case .output, .workspace: true
    case .input, .weight, .table: false
    }
  }

  // MARK: - Setup

  private mutating func verifySetup(_ index: Int) {
    let step = program.setup[index]
    if let problem = problem(of: step) {
      fail(problem, step.mnemonic, locations?.setup[index])
      return
    }
    switch step {
    case .checkOffsets(let offsets, let rows): cutRows[offsets] = rows
    case .checkLengths(let offsets, let maximum): longest[offsets] = min(longest[offsets] ?? maximum, maximum)
    case .selectOffsets(let selection, let offsets, let targets, let into, let name):
      selections[into] = Selection(selection: selection, offsets: offsets, targets: targets)
      if selection == .targets { definedTargets[name] = targets }
      cutRows[into] = .symbol(name)
      // A selection only drops rows.
      longest[into] = longest[offsets]
      filled.insert(into)
    case .extendOffsets(let addition, let offsets, let targets, let into, let name):
      additions[into] = Addition(addition: addition, offsets: offsets, targets: targets)
      cutRows[into] = .symbol(name)
      // Sequences of at most so many rows have at most that many times as many, and those before them.
      if let longest = longest[offsets] {
        let (product, overflow) = longest.multipliedReportingOverflow(by: addition.bound.rows)
        let (sum, overflows) = product.addingReportingOverflow(addition.bound.perSequence)
        if !overflow, !overflows { self.longest[into] = sum }
      }
      filled.insert(into)
    case .lengths(let offsets, let into):
      lengths[into] = offsets
      filled.insert(into)
    case .blockTable(let offsets, let block, let into):
      tables[into] = Table(offsets: offsets, block: block)
      filled.insert(into)
    case .checkTargets, .checkIDs: break
    }
  }

  private func problem(of step: SetupStep) -> String? {
    switch step {
    case .checkOffsets(let offsets, let rows):
      return problem(ofOffsets: offsets) ?? problem(ofReading: offsets) ?? problem(of: rows)
    case .checkTargets(let targets, let offsets):
      return problem(ofTargets: targets, offsets: offsets) ?? problem(ofReading: targets) ?? problem(ofReading: offsets)
    case .checkIDs(let ids, let entries):
      if !(1...largestNumber).contains(entries) { return "entries must lie in 1...2^40, found \(entries)" }
      return problem(ofIntegers: ids) ?? problem(ofReading: ids)
    case .checkLengths(let offsets, let maximum):
      if !(0...largestNumber).contains(maximum) { return "maximum must lie in 0...2^40, found \(maximum)" }
      return problem(ofOffsets: offsets) ?? problem(ofReading: offsets)
    case .selectOffsets(let selection, let offsets, let targets, let into, let name):
      do { try selection.verify() } catch { return error.message }
      return problem(ofTargets: targets, offsets: offsets) ?? problem(ofReading: offsets)
        ?? targets.flatMap(problem(ofReading:)) ?? problem(ofFilling: into, like: offsets)
        ?? problem(ofDefining: name, from: offsets, countedBy: selection == .targets ? targets : nil) {
          ExtentBound($0)
        }
    case .extendOffsets(let addition, let offsets, let targets, let into, let name):
      do { try addition.verify() } catch { return error.message }
      if targets != nil, !addition.readsTargets { return "\(addition.text) does not ask for targets" }
      if addition == .appended, targets.flatMap({ lengths[$0] }) == nil {
        return "the targets of appended rows must be lengths"
      }
      return problem(ofTargets: targets, offsets: offsets) ?? problem(ofReading: offsets)
        ?? targets.flatMap(problem(ofReading:)) ?? problem(ofFilling: into, like: offsets)
        ?? problem(ofDefining: name, from: offsets) {
          ExtentBound(
            addition, rows: $0, sequences: program[offsets].rows.dimension,
            appended: targets.flatMap { lengths[$0] }.flatMap { cutRows[$0] })
        }
    case .lengths(let offsets, let into):
      if cutRows[offsets] == nil { return "nothing says how many rows \(name(offsets)) cuts" }
      if let problem = problem(ofIntegers: into, rows: Extent(program[offsets].rows.dimension)) { return problem }
      return problem(ofReading: offsets) ?? problem(ofFilling: into)
    case .blockTable(let offsets, let block, let into):
      if !(1...largestBlock).contains(block.most) { return "block must lie in 1...2^20, found \(block.most)" }
      if let short = block.short {
        if !(1..<block.most).contains(short.rows) {
          return "short must lie in 1..<\(block.most), the rows of other blocks; found \(short.rows)"
        }
        if !(1...largestNumber).contains(short.below) { return "below must lie in 1...2^40, found \(short.below)" }
      }
      return problem(ofOffsets: offsets) ?? problem(ofReading: offsets) ?? problem(ofFilling: into, like: offsets)
    }
  }

  private func problem(ofFilling into: BufferID, like offsets: BufferID) -> String? {
    problem(ofIntegers: into, rows: program[offsets].rows) ?? problem(ofFilling: into)
  }

  private func problem(ofFilling into: BufferID) -> String? {
    if !isWritable(into) { return "\(name(into)) cannot be written: it is neither workspace nor an output" }
    return filled.contains(into) ? "\(name(into)) is written twice" : nil
  }

  /// `bound` gives what the extent never exceeds, by the rows that the offsets cut. Of an extent of targets `counts` counts
  /// them: other batches with these targets define the same number again.
  private func problem(
    ofDefining name: String, from offsets: BufferID, countedBy counts: BufferID? = nil,
    _ bound: (Dimension) -> ExtentBound
  ) -> String? {
    let quoted = TextName.quoted(name)
    if let counts, definedTargets[name] == counts { return nil }
    guard let derived = program.derivedDimensions.first(where: { $0.name == name }) else {
      return "there is no dimension \(quoted) to define"
    }
    if cutRows.values.contains(.symbol(name)) { return "the dimension \(quoted) is defined twice" }
    guard let rows = cutRows[offsets] else { return "nothing says how many rows \(self.name(offsets)) cuts" }
    return derived.atMost == bound(rows)
      ? nil : "\(quoted) is declared at most \(derived.atMost), but it is at most \(bound(rows))"
  }

  // MARK: - Scalars

  private mutating func verifyScalar(_ index: Int) {
    let scalar = program.scalars[index]
    let offsets: BufferID
    var targets: BufferID?
    switch scalar.formula {
    case .reciprocalOfLongestSequence(let of): offsets = of
    case .reciprocalOfLongestHistoryPlusTargets(let of, let counts): (offsets, targets) = (of, counts)
    }
    let subject = "scalar @\(TextName.quoted(scalar.name))"
    if !globalNames.insert(scalar.name).inserted {
      fail("is declared twice", subject, locations?.scalars[index])
    }
    let problem =
      problem(ofTargets: targets, offsets: offsets) ?? problem(ofReading: offsets)
      ?? targets.flatMap(problem(ofReading:))
    if let problem { fail(problem, subject, locations?.scalars[index]) }
  }

  // MARK: - Memory

  /// Buffers of one slot must not be alive at once, but for one that takes another's place: alive is from the first kernel
  /// that names one to the last, and from before all kernels what setup fills.
  private mutating func verifySlots() {
    let lifetimes = program.workspaceLifetimes
    var slots: [Int: [BufferID]] = [:]
    for index in program.buffers.indices {
      let id = BufferID(index: index)
      guard case .workspace(let slot) = program[id].home, lifetimes[id] != nil else { continue }
      if let other = slots[slot]?.first(where: { !program.canShareMemory($0, id, lifetimes) }) {
        fail(
          "shares slot \(slot) with \(name(other)) while both are alive", "buffer \(name(id))",
          locations?.buffers[index])
      }
      slots[slot, default: []].append(id)
    }
  }
}

extension SetupStep {
  /// The step's name in the text form.
  var mnemonic: String {
    switch self {
    case .checkOffsets: "check_offsets"
    case .checkTargets: "check_targets"
    case .checkIDs: "check_ids"
    case .checkLengths: "check_lengths"
    case .selectOffsets: "select_offsets"
    case .extendOffsets: "extend_offsets"
    case .blockTable: "block_table"
    case .lengths: "lengths"
    }
  }
}
