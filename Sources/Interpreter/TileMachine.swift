import TensorIR
import TileIR

/// One run of a sound tile program.
struct TileMachine<Number: Arithmetic> {
  let program: Program
  let weights: any WeightProvider
  /// Memory of fp32 buffers; those of one slot share it. The tiles of the block at hand lie behind.
  var memory: [[Number]] = []
  /// Memory of buffers of integers.
  var integers: [[Int64]] = []
  /// Where each buffer's memory is, in `memory` or in `integers`.
  private(set) var places: [Int]
  private(set) var extents: [String: Int] = [:]
  var scalars: [Number] = []

  init(program: Program, weights: any WeightProvider) {
    self.program = program
    self.weights = weights
    places = Array(repeating: 0, count: program.buffers.count)
  }

  mutating func run(_ inputs: [String: HostTensor]) throws(InterpreterError) {
    try bind(inputs)
    try loadWeights()
    placeWorkspace()
    placeOutputs()
    for step in program.setup { try run(step) }
    scalars = program.scalars.map { value(of: $0.formula) }
    for kernel in program.kernels { try run(kernel) }
  }

  func outputs(_ numbers: ([Number], [Int]) -> HostTensor) -> [(name: String, tensor: HostTensor)] {
    program.outputs.map { id in
      let buffer = program[id]
      let rows = rows(buffer.rows)
      if buffer.element == .i64 {
        let elements = Array(integers[places[id.index]].prefix(rows * buffer.columns))
        return (buffer.name, HostTensor(elements, shape: buffer.columns == 1 ? [rows] : [rows, buffer.columns]))
      }
      let elements = memory[places[id.index]].prefix(rows * buffer.columns)
      return (buffer.name, numbers(Array(elements), [rows, buffer.columns]))
    }
  }

  // MARK: - Extents

  func rows(_ extent: Extent) -> Int {
    switch extent.dimension {
    case .fixed(let count): count + extent.plus
    case .symbol(let name): (extents[name] ?? 0) + extent.plus
    }
  }

  /// The most rows that an extent can have, known before the setup.
  private func rowsAtMost(_ extent: Extent) -> Int {
    program.greatestRows(extent) { extents[$0] ?? 0 }
  }

  mutating func define(_ name: String, _ extent: Int) { extents[name] = extent }

  // MARK: - Memory

  func number(_ buffer: BufferID, _ index: Int) -> Number { memory[places[buffer.index]][index] }
  func integer(_ buffer: BufferID, _ index: Int) -> Int64 { integers[places[buffer.index]][index] }
  mutating func store(_ value: Int64, _ buffer: BufferID, _ index: Int) {
    integers[places[buffer.index]][index] = value
  }

  private mutating func place(_ id: BufferID, numbers: [Number]) {
    places[id.index] = memory.count
    memory.append(numbers)
  }

  private mutating func place(_ id: BufferID, integers values: [Int64]) {
    places[id.index] = integers.count
    integers.append(values)
  }

  /// Poisoned memory: NaN, or an integer that is no row, no id and no offset.
  private mutating func place(_ id: BufferID, poisoned count: Int) {
    if program[id].element == .i64 {
      place(id, integers: Array(repeating: .min, count: count))
    } else {
      place(id, numbers: Array(repeating: .nan, count: count))
    }
  }

  private mutating func placeWorkspace() {
    for (_, buffers) in program.slots {
      // Numbers and integers of a slot lie apart here: they are never alive at once.
      for isInteger in [false, true] {
        let members = buffers.filter { (program[$0].element == .i64) == isInteger }
        guard let first = members.first else { continue }
        let count = members.map { rowsAtMost(program[$0].rows) * program[$0].columns }.max() ?? 0
        place(first, poisoned: count)
        for other in members { places[other.index] = places[first.index] }
      }
    }
  }

  private mutating func placeOutputs() {
    for id in program.outputs { place(id, poisoned: rowsAtMost(program[id].rows) * program[id].columns) }
  }

  // MARK: - Inputs

  private mutating func bind(_ inputs: [String: HostTensor]) throws(InterpreterError) {
    let names = program.inputs.map { program[$0].name }
    for name in inputs.keys.sorted() where !names.contains(name) { throw .unexpectedInput(name, expected: names) }
    for id in program.inputs {
      let buffer = program[id]
      guard let input = inputs[buffer.name] else { throw .missingInput(buffer.name) }
      guard input.element == buffer.element else {
        throw .wrongElementType(argument: buffer.name, found: input.element, expected: buffer.element)
      }
      // A matrix of one column may be a vector.
      let isVector = buffer.columns == 1 && input.shape.count == 1
      guard isVector || (input.shape.count == 2 && buffer.element != .i64) else {
        throw .wrongRank(argument: buffer.name, found: input.shape, expected: buffer.element == .i64 ? 1 : 2)
      }
      try check(buffer, rows: input.shape[0])
      if !isVector, input.shape[1] != buffer.columns {
        throw .wrongExtent(
          argument: buffer.name, axis: 1, dimension: "\(buffer.columns)", found: input.shape[1],
          expected: buffer.columns)
      }
      if buffer.element == .i64 {
        place(id, integers: input.integers)
      } else {
        place(id, numbers: input.doubles.map { Number($0) })
      }
    }
    // Rows that no tensor has are as many as the offsets say, within reason.
    for case .checkOffsets(let offsets, .symbol(let name)) in program.setup where extents[name] == nil {
      extents[name] = Int(min(max(integers[places[offsets.index]].last ?? 0, 0), 1 << 32))
    }
  }

  private mutating func check(_ buffer: Buffer, rows found: Int) throws(InterpreterError) {
    if case .symbol(let name) = buffer.rows.dimension, extents[name] == nil, found >= buffer.rows.plus {
      extents[name] = found - buffer.rows.plus
    }
    let expected = rows(buffer.rows)
    if found != expected {
      throw .wrongExtent(
        argument: buffer.name, axis: 0, dimension: buffer.rows.dimension.description, found: found, expected: expected)
    }
  }

  // MARK: - Weights

  private mutating func loadWeights() throws(InterpreterError) {
    for index in program.buffers.indices {
      let id = BufferID(index: index)
      switch program[id].home {
      case .table(let numbers): place(id, numbers: numbers.map { Number($0) })
      case .weight(let name, let packing):
        place(id, numbers: try load(name, program[id], packing))
      case .input, .output, .workspace: break
      }
    }
  }

  private func load(_ name: String, _ buffer: Buffer, _ packing: Packing) throws(InterpreterError) -> [Number] {
    let (rows, columns) = (buffer.rows.dimension.extent ?? 0, buffer.columns)
    let numbers: [Number]
    do {
      numbers = try weights.withWeight(name) { element, shape, bytes in
        guard element == buffer.element, shape == [rows, columns] || (rows == 1 && shape.reduce(1, *) == columns)
        else {
          throw OperationError(
            "declared as \(rows) x \(columns) x \(buffer.element.rawValue), "
              + "found shape \(shape) of \(element.rawValue)")
        }
        return try HostTensor(element: element, shape: shape, bytes: [UInt8](bytes)).floats.map { Number($0) }
      }
    } catch {
      throw .badWeight(name: name, reason: "\(error)")
    }
    switch packing {
    case .plain, .coded: return numbers
    case .codedPanels(let format, let width):
      let contracted = format.columns(ofRow: columns)
      let decoded = (0..<rows).flatMap { row in
        format.decode(
          numbers[row * columns..<(row + 1) * columns].map { UInt8($0) }[...], width: contracted)
      }
      return panels(decoded.map { Number($0) }, rows: rows, columns: contracted, width: width, transposed: true)
    case .reversed: return numbers.reversed()
    case .panels, .fragments, .matrices:
      guard let (width, transposed) = packing.contractedPanels else { return numbers }
      return panels(numbers, rows: rows, columns: columns, width: width, transposed: transposed)
    }
  }

  private func panels(_ numbers: [Number], rows: Int, columns: Int, width: Int, transposed: Bool) -> [Number] {
    let (inner, outer) = transposed ? (columns, rows) : (rows, columns)
    var packed = [Number](repeating: 0, count: (outer + width - 1) / width * width * inner)
    for step in 0..<inner {
      for column in 0..<outer {
        let (panel, lane) = column.quotientAndRemainder(dividingBy: width)
        packed[(panel * inner + step) * width + lane] =
          numbers[transposed ? column * columns + step : step * columns + column]
      }
    }
    return packed
  }
}
