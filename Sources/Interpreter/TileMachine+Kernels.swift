import TensorIR
import TileIR

/// One block of a kernel while it runs.
struct TileBlock {
  let kernel: Kernel
  /// Of the first row among all rows, and how many there are.
  var firstRow: Int
  var rowCount: Int
  /// Of the block's sequence, zero in a kernel over rows.
  var sequence = 0
  var sequenceStart = 0
  var length = 0
  var targets = 0
  var firstPosition = 0
  var part = 0
  /// Of the rows that keys are: the sequence's first one and how many there are, and the positions in it that the kernel's
  /// own rows leave out.
  var keySequenceStart = 0
  var keyLength = 0
  var dropped = 0..<0
  /// Of the rows that the sequence's own were put behind: the first one, and how many there are.
  var keptStart = 0
  var keptLength = 0
  /// Where the tiles in scratch begin in the machine's memory.
  var scratch: Int
  var indices: [[Int64]]
  /// The keys that each row sees.
  var visible: [[Range<Int>]] = []
  /// Inside a loop over keys, the positions of this turn's.
  var keys = 0..<0

  /// An index expression for the row at this position of the sequence.
  func evaluate(_ expression: IndexExpression, position: Int) -> Int {
    evaluate(expression, position: position, length: length, targets: targets)
  }

  /// An index expression for a row of the block, at its place among keys.
  func evaluateAmongKeys(_ expression: IndexExpression, row: Int) -> Int {
    evaluate(
      expression, position: keyPosition(row), length: keyLength,
      targets: kernel.keys?.continuesHistory == true ? 0 : targets)
  }

  /// The position among keys of a row of the block.
  func keyPosition(_ row: Int) -> Int {
    let position = firstPosition + row
    return position < dropped.lowerBound ? position : position + dropped.count
  }

  private func evaluate(_ expression: IndexExpression, position: Int, length: Int, targets: Int) -> Int {
    expression.evaluate { variable in
      switch variable {
      case .position: position
      case .length: length
      case .targets: targets
      }
    }
  }
}

/// Where a slice's elements lie: element [row, column] at `first + row * stride + column` of a part of the memory. How
/// rows are grouped shows nowhere.
struct TileView {
  var memory: Int
  var first: Int
  var stride: Int
  var element: ElementType
}

extension TileMachine {
  mutating func run(_ kernel: Kernel) throws(InterpreterError) {
    let scratch = memory.count
    switch kernel.domain {
    case .rows(let dimension, let block, let parts):
      let rows = rows(Extent(dimension))
      for first in stride(from: 0, to: rows, by: block) {
        for part in 0..<parts {
          var state = TileBlock(
            kernel: kernel, firstRow: first, rowCount: min(block, rows - first), scratch: scratch, indices: [])
          state.part = part
          try run(state)
        }
      }
    case .sequences(let offsets, let targets, let table, let block, let parts):
      // Blocks may run in any order; this one differs from the order of their rows.
      for sequence in (0..<rows(program[offsets].rows) - 1).reversed() {
        let start = Int(integer(offsets, sequence))
        let length = Int(integer(offsets, sequence + 1)) - start
        let blocks = Int(integer(table, sequence + 1) - integer(table, sequence))
        let height = block.rows(ofSequence: length)
        for index in 0..<blocks * parts {
          let position = index / parts * height
          var state = TileBlock(
            kernel: kernel, firstRow: start + position, rowCount: min(height, length - position), scratch: scratch,
            indices: [])
          (state.sequence, state.sequenceStart, state.length) = (sequence, start, length)
          state.targets = targets.map { Int(integer($0, sequence)) } ?? 0
          (state.firstPosition, state.part) = (position, index % parts)
          (state.keySequenceStart, state.keyLength) = (start, length)
          if let keys = kernel.keys {
            state.keySequenceStart = Int(integer(keys.offsets, sequence))
            state.keyLength = Int(integer(keys.offsets, sequence + 1)) - state.keySequenceStart
            state.dropped = keys.selection.dropped(length: state.keyLength, targets: state.targets)
            if let kept = keys.kept {
              state.keptStart = Int(integer(kept, sequence))
              state.keptLength = Int(integer(kept, sequence + 1)) - state.keptStart
            }
          }
          try run(state)
        }
      }
    }
    memory.removeLast(memory.count - scratch)
  }

  private mutating func run(_ state: TileBlock) throws(InterpreterError) {
    var block = state
    memory.removeLast(memory.count - block.scratch)
    for tile in block.kernel.tiles {
      guard case .scratch(let capacity, let rowStride) = tile.home else {
        memory.append([])
        continue
      }
      memory.append(Array(repeating: .nan, count: capacity * rowStride))
    }
    block.indices = block.kernel.indexVectors.map { _ in Array(repeating: .min, count: block.rowCount) }
    try run(block.kernel.body, &block)
  }

  private mutating func run(_ body: [Statement], _ block: inout TileBlock) throws(InterpreterError) {
    for statement in body { try run(statement, &block) }
  }

  private mutating func run(_ statement: Statement, _ block: inout TileBlock) throws(InterpreterError) {
    switch statement {
    case .map(let into, let expression, let masked): try map(into, expression, masked: masked, block)
    case .clear(let slice): try map(slice, .constant(0), masked: false, block)
    case .reduce(let into, let sum, let columns): try reduce(into, sum, columns: columns, block)
    case .maximum(let into, let of, let columns): try maximum(into, of, columns: columns, block)
    case .contract(let contraction): try contract(contraction, block)
    case .transpose(let into, let from, let factor):
      let (target, source) = (view(into, block), view(from, block))
      for row in 0..<block.rowCount {
        for column in 0..<from.count {
          store(load(source, row, column) * Number(factor), target, column, row)
        }
      }
    case .indices(let vector, let source):
      for row in 0..<block.rowCount { block.indices[vector.index][row] = index(source, row: row, block) }
    case .gather(let into, let from, let first, let vector, let keepMissing):
      try gather(into, from, first: first, block.indices[vector.index], keepMissing: keepMissing, block)
    case .gatherIntegers(let into, let from, let vector, let missing):
      for row in 0..<block.rowCount {
        let index = block.indices[vector.index][row]
        if index < 0, missing != .none {
          if case .number(let number) = missing { store(Int64(number), into, block.firstRow + row) }
          continue
        }
        store(integer(from, try checked(index, from)), into, block.firstRow + row)
      }
    case .nextIntegers(let into, let from, let last):
      for row in 0..<block.rowCount {
        let isLast = block.firstPosition + row + 1 == block.length
        let value = isLast ? integer(last, block.sequence) : integer(from, block.firstRow + row + 1)
        store(value, into, block.firstRow + row)
      }
    case .storeIndices(let into, let vector):
      for row in 0..<block.rowCount { store(block.indices[vector.index][row], into, block.firstRow + row) }
    case .best(let columns): try best(columns, block)
    case .merge(let merged): merge(merged, block)
    case .sort(let into, let from, let offsets, let modulo):
      sort(into: into, from: from, offsets: offsets, modulo: modulo, block)
    case .forKeys(let mask, let step, let body): try forKeys(mask, step: step, body, &block)
    case .forParts(let count, let body):
      for part in 0..<count {
        block.part = part
        try run(body, &block)
      }
      block.part = 0
    }
  }

  /// Visits the hull of each of the mask's intervals over the block's rows, without what was visited before.
  private mutating func forKeys(
    _ mask: Mask, step: Int, _ body: [Statement], _ block: inout TileBlock
  ) throws(InterpreterError) {
    block.visible = Array(repeating: [], count: block.rowCount)
    var visited = 0
    var hulls: [Range<Int>] = []
    for interval in mask.intervals {
      var hull: Range<Int>?
      for row in 0..<block.rowCount {
        let start = block.evaluateAmongKeys(interval.start, row: row)
        let end = block.evaluateAmongKeys(interval.end, row: row)
        guard start < end else { continue }
        block.visible[row].append(start..<end)
        hull = min(hull?.lowerBound ?? start, start)..<max(hull?.upperBound ?? end, end)
      }
      if let hull {
        let targets = block.kernel.keys?.continuesHistory == true ? 0 : block.targets
        hulls.append(Mask.pairs(of: hull, history: block.keyLength - targets, length: block.keyLength))
      }
    }
    for hull in hulls {
      for first in stride(from: max(visited, hull.lowerBound), to: hull.upperBound, by: step) {
        block.keys = first..<min(first + step, hull.upperBound)
        for tile in block.kernel.joinedTiles { join(tile, block) }
        try run(body, &block)
      }
      visited = max(visited, hull.upperBound)
    }
    block.keys = 0..<0
  }

  /// Brings the keys of this turn together that lie in two places.
  private mutating func join(_ id: TileID, _ block: TileBlock) {
    guard case .joined(let kept, let own) = block.kernel[id].home else { return }
    let width = block.kernel.joinedColumns(of: block.kernel[id])
    let part = block.kernel.turnsHaveAllParts ? 0 : block.part
    memory[block.scratch + id.index] = block.keys.flatMap { key in
      let isKept = key < block.keptLength
      let row = isKept ? block.keptStart + key : block.sequenceStart + key - block.keptLength
      let columns = isKept ? kept : own
      let first = row * program[columns.buffer].columns + columns.column + part * columns.columnsPerPart
      let stored = memory[places[columns.buffer.index]][first..<first + width]
      guard let scales = columns.scales else { return Array(stored) }
      let scale = number(scales, row)
      return stored.map { rounded($0 * scale, to: block.kernel[id].element) }
    }
  }

  // MARK: - Tiles

  func rows(of tile: Tile, _ block: TileBlock) -> Int {
    switch tile.rows {
    case .block: block.rowCount
    case .keys: block.keys.count
    case .fixed(let count): count
    }
  }

  /// Of a slice's columns those that hold something: of a tile of keys in scratch, as many as the block has rows.
  func columns(of slice: TileSlice, _ block: TileBlock) -> Int {
    let tile = block.kernel[slice.tile]
    if case .keys = tile.rows, case .scratch = tile.home { return block.rowCount }
    return slice.count
  }

  func view(_ slice: TileSlice, _ block: TileBlock) -> TileView {
    let tile = block.kernel[slice.tile]
    switch tile.home {
    case .scratch(_, let rowStride):
      return TileView(
        memory: block.scratch + slice.tile.index, first: slice.first, stride: rowStride, element: tile.element)
    case .joined(_, let own):
      return TileView(
        memory: block.scratch + slice.tile.index,
        first: (block.kernel.turnsHaveAllParts ? block.part * own.columnsPerPart : 0) + slice.first,
        stride: block.kernel.joinedColumns(of: tile), element: tile.element)
    case .columns(let base, let column, let columnsPerPart):
      let first = column + block.part * columnsPerPart
      var view = view(TileSlice(base, first: first, count: tile.columns), block)
      view.first += slice.first
      return view
    case .window(let buffer, let column, let columnsPerPart):
      let row =
        switch tile.rows {
        case .block: block.firstRow
        case .keys: block.keySequenceStart + block.keys.lowerBound
        case .fixed: 0
        }
      let columns = program[buffer].columns
      return TileView(
        memory: places[buffer.index], first: row * columns + column + block.part * columnsPerPart + slice.first,
        stride: columns, element: tile.element)
    }
  }

  func load(_ view: TileView, _ row: Int, _ column: Int) -> Number {
    memory[view.memory][view.first + row * view.stride + column]
  }

  mutating func store(_ value: Number, _ view: TileView, _ row: Int, _ column: Int) {
    memory[view.memory][view.first + row * view.stride + column] = rounded(value, to: view.element)
  }

  /// What would be fp32 is as exact as the machine's numbers are.
  private func rounded(_ value: Number, to element: ElementType) -> Number {
    element == .f32 ? value : Number(element.rounded(Double(value)))
  }
}
