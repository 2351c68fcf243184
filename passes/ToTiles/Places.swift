import TensorIR
import TileIR

// Where values live: arguments, results, weights, workspace.
extension TileLowering {
  mutating func placeArguments() throws(LoweringError) {
    for (index, argument) in function.arguments.enumerated() {
      let value = function[argument]
      places[argument] = try newBuffer(value.name, value.type, home: .input(index))
    }
  }

  /// Results that an operation makes are written straight into their output buffers; the others are copied at the end.
  mutating func placeResults() throws(LoweringError) {
    for (index, result) in function.results.enumerated() {
      let value = function[result.value]
      guard case .result(let operation, _) = value.definition, outputs[result.value] == nil,
        !isAlias(function[operation])
      else { continue }
      outputs[result.value] = try newBuffer(result.name, value.type, home: .output(index))
    }
  }

  /// Splits name columns of their operand: nothing is written.
  private func isAlias(_ operation: Operation) -> Bool {
    if case .split = operation.payload { true } else { false }
  }

  /// Copies results that are not written where they belong: slices, arguments, a value returned twice.
  mutating func copyResults() throws(LoweringError) {
    for (index, result) in function.results.enumerated() {
      let value = function[result.value]
      if case .buffer(let buffer, _, _)? = places[result.value], program[buffer].home == .output(index) { continue }
      guard case .tensor(let type) = value.type, type.rank == 2, type.element != .i64,
        case .fixed(let width) = type.shape[1],
        let source = places[result.value]
      else { throw LoweringError(message: "result \"\(result.name)\" returns \(value.type) that no operation makes") }
      guard case .buffer(let output, _, _) = try newBuffer(result.name, value.type, home: .output(index)) else {
        continue
      }
      begin("copy_\(result.name)", .rows(type.shape[0], block: schedule.rows))
      kernel.summary = "copy"
      let into = window(output, first: 0, count: width, rows: .block)
      kernel.body.append(.map(into: into, .tile(slice(of: source))))
      end()
    }
  }

  // MARK: - Buffers

  mutating func newBuffer(_ name: String, _ type: ValueType, home: Buffer.Home) throws(LoweringError) -> Place {
    switch type {
    case .offsets(let sequences, _):
      let buffer = Buffer(name: name, element: .i64, rows: Extent(sequences, plus: 1), columns: 1, home: home)
      return .buffer(program.addBuffer(buffer), first: 0, count: 1)
    case .tensor(let type):
      // The caller's numbers are f32, bf16 or f8e4m3; those that last for a call may be i8, too.
      let isInput = if case .input = home { true } else { false }
      guard
        type.element == .f32 || type.element == .bf16 || type.element == .f8e4m3
          || (home.isWorkspace && type.element.isTileElement)
          || (type.element == .i64 && (type.rank == 1 || !isInput)),
        type.rank == 1 || type.rank == 2, let columns = type.rank == 1 ? 1 : type.shape[1].extent
      else { throw LoweringError(message: "%\(name) is \(type); code is made for f32 matrices and i64 vectors") }
      let buffer = Buffer(name: name, element: type.element, rows: Extent(type.shape[0]), columns: columns, home: home)
      return .buffer(program.addBuffer(buffer), first: 0, count: columns)
    }
  }

  /// Memory for a value that outlives its kernel: its output buffer if it is a result, else workspace.
  mutating func newMemory(for value: ValueID) throws(LoweringError) -> Place {
    if let output = outputs[value] {
      places[value] = output
      return output
    }
    let place = try newBuffer(function[value].name, function[value].type, home: .workspace(slot: workspaceCount))
    workspaceCount += 1
    places[value] = place
    return place
  }

  func place(of value: ValueID) throws(LoweringError) -> Place {
    guard let place = places[value] else {
      throw LoweringError(message: "%\(function[value].name) is used before it is computed")
    }
    return place
  }

  /// The whole buffer that holds a value of one column, such as offsets or ids.
  func buffer(of value: ValueID) throws(LoweringError) -> BufferID {
    guard case .buffer(let buffer, 0, _) = try place(of: value) else {
      throw LoweringError(message: "%\(function[value].name) does not lie in memory of its own")
    }
    return buffer
  }

  /// The artifact's copy of a weight in the packing given.
  /// The numbers of a matrix are one row after the other where it is taken as a vector.
  mutating func weightBuffer(
    _ value: ValueID, _ packing: Packing, asVector: Bool = false
  ) throws(LoweringError) -> BufferID {
    guard case .weight(let weight) = function[value].definition else {
      throw LoweringError(message: "%\(function[value].name) must be a weight; computed weights are not lowered")
    }
    let key = WeightKey(weight: weight, packing: packing, isVector: asVector)
    if let buffer = weightBuffers[key] { return buffer }
    let declared = module[weight]
    guard let first = declared.type.shape.first?.extent, declared.type.rank <= 2,
      let second = declared.type.rank == 2 ? declared.type.shape[1].extent : 1
    else { throw LoweringError(message: "@\(declared.name) is \(declared.type); weights are vectors and matrices") }
    let (rows, columns) = declared.type.rank == 2 && !asVector ? (first, second) : (1, first * second)
    let buffer = program.addBuffer(
      Buffer(
        name: declared.name, element: declared.type.element, rows: Extent(.fixed(rows)), columns: columns,
        home: .weight(declared.name, packing)))
    weightBuffers[key] = buffer
    return buffer
  }

  /// Where each bucket of time differences begins.
  mutating func timeTable(_ formula: TimeBuckets.Formula, last: Int) -> BufferID {
    let key = TimeTableKey(formula: formula, last: last)
    if let known = timeTables[key] { return known }
    let numbers = TimeBuckets.thresholds(formula, last: last)
    let table = program.addBuffer(
      Buffer(
        name: "time_thresholds.\(last + 1)", element: .f32, rows: Extent(.fixed(1)), columns: numbers.count,
        home: .table(numbers)))
    timeTables[key] = table
    return table
  }

  mutating func blockTable(_ offsets: BufferID, block: BlockHeight) -> BufferID {
    let key = BlockTableKey(offsets: offsets, block: block)
    if let table = blockTables[key] { return table }
    let table = program.addBuffer(
      Buffer(
        name: "\(program[offsets].name).blocks", element: .i64, rows: program[offsets].rows, columns: 1,
        home: .workspace(slot: workspaceCount)))
    workspaceCount += 1
    program.setup.append(.blockTable(offsets: offsets, block: block, into: table))
    blockTables[key] = table
    return table
  }

  // MARK: - Kernels and tiles

  mutating func begin(_ name: String, _ domain: Domain) {
    kernel = Kernel(name: "\(name)_\(program.kernels.count)", domain: domain)
    windows = [:]
  }

  mutating func end() { program.kernels.append(kernel) }

  /// A tile in the worker's memory. Rows begin on cache lines, and powers of two are avoided so that rows do not fall
  /// into the same cache sets.
  mutating func scratch(
    _ name: String, rows: Tile.Rows, capacity: Int, columns: Int, element: ElementType = .f32, isGrouped: Bool = false
  ) -> TileSlice {
    let line = 64 / element.workingByteCount
    var stride = (columns + line - 1) / line * line
    if stride % (8 * line) == 0 { stride += line }
    let home = Tile.Home.scratch(capacity: capacity, rowStride: columns == 1 ? 1 : stride)
    let tile = Tile(name: name, rows: rows, columns: columns, home: home, element: element, isGrouped: isGrouped)
    return TileSlice(kernel.addTile(tile), first: 0, count: columns)
  }

  mutating func window(
    _ buffer: BufferID, first: Int, count: Int, rows: Tile.Rows, columnsPerPart: Int = 0
  ) -> TileSlice {
    let home = Tile.Home.window(buffer, column: first, columnsPerPart: columnsPerPart)
    return known(
      Tile(name: program[buffer].name, rows: rows, columns: count, home: home, element: program[buffer].element))
  }

  /// The columns that belong to the part at hand, `count` for each, of all columns of a place.
  mutating func partColumns(of place: Place, count: Int, rows: Tile.Rows = .block) throws(LoweringError) -> TileSlice {
    switch place {
    case .buffer(let buffer, let first, _):
      return window(buffer, first: first, count: count, rows: rows, columnsPerPart: count)
    case .tile(let slice):
      let whole = kernel[slice.tile]
      if rows == .keys { throw LoweringError(message: "other rows of %\(whole.name) are not in the kernel") }
      let home = Tile.Home.columns(slice.tile, column: slice.first, columnsPerPart: count)
      return known(
        Tile(
          name: whole.name, rows: whole.rows, columns: count, home: home, element: whole.element,
          isGrouped: whole.isGrouped))
    }
  }

  /// The tile as given, or an equal one that the kernel has already.
  mutating func known(_ tile: Tile) -> TileSlice {
    if let known = windows[tile] { return TileSlice(known, first: 0, count: tile.columns) }
    let id = kernel.addTile(tile)
    windows[tile] = id
    return TileSlice(id, first: 0, count: tile.columns)
  }

  /// A place as a slice of a tile of the kernel at hand, over its block's rows.
  mutating func slice(of place: Place) -> TileSlice {
    switch place {
    case .tile(let slice): slice
    case .buffer(let buffer, let first, let count): window(buffer, first: first, count: count, rows: .block)
    }
  }
}
