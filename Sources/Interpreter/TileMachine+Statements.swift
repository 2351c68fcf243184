import TensorIR
import TileIR

// Maps, reductions, contractions, and rows by index.
extension TileMachine {
  /// Lanes of a reduction: sum number i takes the columns i, i + 16, and so on; then halves are added to halves.
  private static var lanes: Int { 16 }

  mutating func map(
    _ into: TileSlice, _ expression: Expression, masked: Bool, _ block: TileBlock
  ) throws(InterpreterError) {
    let target = view(into, block)
    for row in 0..<rows(of: block.kernel[into.tile], block) {
      for column in 0..<columns(of: into, block) {
        let key = block.keys.lowerBound + row
        let isHidden = masked && !block.visible[column].contains { $0.contains(key) }
        store(isHidden ? 0 : try value(expression, row, column, width: into.count, block), target, row, column)
      }
    }
  }

  mutating func reduce(
    _ into: TileSlice, _ sum: Expression, columns: Int, _ block: TileBlock
  ) throws(InterpreterError) {
    let target = view(into, block)
    for row in 0..<rows(of: block.kernel[into.tile], block) {
      var sums = [Number](repeating: 0, count: Self.lanes)
      for column in 0..<columns {
        sums[column % Self.lanes] += try value(sum, row, column, width: columns, block)
      }
      var count = Self.lanes / 2
      while count > 0 {
        for lane in 0..<count { sums[lane] += sums[lane + count] }
        count /= 2
      }
      store(sums[0], target, row, 0)
    }
  }

  mutating func maximum(
    _ into: TileSlice, _ expression: Expression, columns: Int, _ block: TileBlock
  ) throws(InterpreterError) {
    let target = view(into, block)
    for row in 0..<rows(of: block.kernel[into.tile], block) {
      var largest = -Number.infinity
      for column in 0..<columns {
        let next = try value(expression, row, column, width: columns, block)
        largest = largest < next ? next : largest
      }
      store(largest, target, row, 0)
    }
  }

  mutating func contract(_ contraction: Contraction, _ block: TileBlock) throws(InterpreterError) {
    let (left, target) = (view(contraction.left, block), view(contraction.into, block))
    let columns = columns(of: contraction.into, block)
    let (rowStride, stepStride) = contraction.leftTransposed ? (1, left.stride) : (left.stride, 1)
    let lefts = memory[left.memory]
    let rights: [Number]
    let steps: Int
    /// Columns that lie side by side, and where those of a step begin, by the first column.
    let width: Int
    let start: (_ step: Int, _ column: Int) -> Int
    switch contraction.right {
    case .tile(let slice):
      let right = view(slice, block)
      rights = memory[right.memory]
      steps = rows(of: block.kernel[slice.tile], block)
      width = max(columns, 1)
      start = { step, _ in right.first + step * right.stride }
    case .panels(let buffer, let firstRow, let rows, let firstColumn):
      rights = memory[places[buffer.index]]
      steps = contraction.left.count
      guard case .weight(_, let packing) = program[buffer].home, let panel = packing.contractedPanels?.width else {
        return
      }
      width = panel
      start = { step, column in ((firstColumn + column) / panel * rows + firstRow + step) * panel }
    }
    func finish(_ product: Number, _ row: Int, _ column: Int) throws(InterpreterError) -> Number {
      guard let finish = contraction.finish else { return product }
      let key = block.keys.lowerBound + row
      if contraction.masked, !block.visible[column].contains(where: { $0.contains(key) }) { return 0 }
      return try value(finish, row, column, width: contraction.into.count, block, product: product)
    }
    // Within a group the last product is added first.
    let together = left.element.contractedTogether
    let order = stride(from: 0, to: steps, by: together).flatMap { (($0..<min($0 + together, steps)).reversed()) }
    for row in 0..<rows(of: block.kernel[contraction.into.tile], block) {
      for first in stride(from: 0, to: columns, by: width) {
        let count = min(width, columns - first)
        if left.element == .i8 {
          // fp64 holds sums of products of codes exactly, and what was never written stays NaN.
          for lane in 0..<count {
            let sum = order.reduce(0.0) { sum, step in
              let factor = lefts[left.first + row * rowStride + step * stepStride]
              return sum + Double(factor) * Double(rights[start(step, first) + lane])
            }
            store(try finish(Number(sum), row, first + lane), target, row, first + lane)
          }
          continue
        }
        var sums = [Number](repeating: 0, count: count)
        if contraction.accumulate { for lane in 0..<count { sums[lane] = load(target, row, first + lane) } }
        for step in order {
          let factor = lefts[left.first + row * rowStride + step * stepStride]
          // Bounds are checked here, once for all lanes.
          let right = rights[start(step, first)..<start(step, first) + count]
          sums.withUnsafeMutableBufferPointer { sums in
            right.withUnsafeBufferPointer { right in
              guard let sums = sums.baseAddress, let right = right.baseAddress else { return }
              Number.accumulateFused(factor, right, into: sums, count: count)
            }
          }
        }
        for lane in 0..<count { store(try finish(sums[lane], row, first + lane), target, row, first + lane) }
      }
    }
  }

  // MARK: - Rows by index

  func index(_ source: IndexSource, row: Int, _ block: TileBlock) -> Int64 {
    let position = block.firstPosition + row
    switch source {
    case .loaded(let buffer, let entries, let outside):
      let id = integer(buffer, block.firstRow + row)
      if (0..<Int64(entries)).contains(id) { return id }
      switch outside {
      case .unchanged: return id
      case .fallback(let fallback): return Int64(fallback)
      case .modulo: return Gather.hashed(id, rows: entries)
      }
    case .expression(let expression): return Int64(block.evaluate(expression, position: position))
    case .beforeSelection(let selection, let offsets, let targets):
      let start = integer(offsets, block.sequence)
      let dropped = selection.dropped(
        length: Int(integer(offsets, block.sequence + 1) - start),
        targets: targets.map { Int(integer($0, block.sequence)) } ?? 0)
      return start + Int64(position < dropped.lowerBound ? position : position + dropped.count)
    case .afterSelection(let selection, let selected):
      let dropped = selection.dropped(length: block.length, targets: block.targets)
      if dropped.contains(position) { return -1 }
      let kept = position < dropped.lowerBound ? position : position - dropped.count
      return integer(selected, block.sequence) + Int64(kept)
    case .beforeAddition(let addition, let added, let offsets):
      let place = block.evaluate(added ? addition.added : addition.original, position: position)
      return place < 0 ? -1 : integer(offsets, block.sequence) + Int64(place)
    case .afterAddition(let addition, let extended):
      return integer(extended, block.sequence) + Int64(block.evaluate(addition.extendedPlace, position: position))
    case .sequence(let place): return position == place ? Int64(block.sequence) : -1
    case .pickedRow(let place, let offsets, let lengths, let minimum):
      let sequence = block.firstRow + row
      func length(_ offsets: BufferID) -> Int64 { integer(offsets, sequence + 1) - integer(offsets, sequence) }
      if Int64(place) >= length(offsets) { return -1 }
      if let lengths, length(lengths) < Int64(minimum) { return -1 }
      return integer(offsets, sequence) + Int64(place)
    case .lastRow(let offsets):
      let sequence = block.firstRow + row
      let (start, end) = (integer(offsets, sequence), integer(offsets, sequence + 1))
      return start < end ? end - 1 : -1
    case .bucket(let times, let queries, let thresholds):
      let (time, query) = (integer(times, block.firstRow + row), integer(queries, block.sequence))
      return Int64(bucket(of: query > time ? TimeBuckets.magnitude(query, time) : 0, thresholds))
    case .calendar(let times, let unit, let count):
      return CalendarUnits(unit: unit, count: count).unit(of: integer(times, block.firstRow + row))
    case .marked(let vector, let bits, let values, let least):
      let marks = integer(values, block.firstRow + row) >= Int64(least) ? Int64(bits) : 0
      return block.indices[vector.index][row] | marks
    }
  }

  /// Thresholds are fp32 in every precision: they decide integers.
  private func bucket(of magnitude: UInt64, _ thresholds: BufferID) -> Int {
    let reached = Number(Float(magnitude))
    return (0..<program[thresholds].columns).count { number(thresholds, $0) <= reached }
  }

  /// The index as one of a buffer's rows. Throws where it is none: setup and verifier should have seen to it.
  func checked(_ index: Int64, _ buffer: BufferID) throws(InterpreterError) -> Int {
    guard (0..<Int64(rows(program[buffer].rows))).contains(index) else {
      throw .invalidFunction(operation: "gather", reason: "\(program[buffer].name) has no row \(index)")
    }
    return Int(index)
  }

  mutating func gather(
    _ into: TileSlice, _ from: BufferID, first: Int, _ indices: [Int64], keepMissing: Bool, _ block: TileBlock
  ) throws(InterpreterError) {
    let target = view(into, block)
    for row in 0..<block.rowCount {
      if indices[row] < 0 {
        if !keepMissing { for column in 0..<into.count { store(0, target, row, column) } }
        continue
      }
      let start = try checked(indices[row], from) * program[from].columns + first
      for column in 0..<into.count { store(number(from, start + column), target, row, column) }
    }
  }

  // MARK: - Expressions

  /// The element of a row of `width` columns; `product` is what an expression finishes that stands in a contraction.
  private func value(
    _ expression: Expression, _ row: Int, _ column: Int, width: Int, _ block: TileBlock, product: Number = .nan
  ) throws(InterpreterError) -> Number {
    switch expression {
    case .product: return product
    case .tile(let slice): return load(view(slice, block), row, column)
    case .rowValue(let slice): return load(view(slice, block), row, 0)
    case .columnValue(let buffer, let first): return number(buffer, first + column)
    case .gathered(let buffer, let vector):
      let start = try checked(block.indices[vector.index][row], buffer) * program[buffer].columns
      guard case .weight(_, .coded(let format)) = program[buffer].home else { return number(buffer, start + column) }
      return Number(format.element(column, width: width) { UInt8(number(buffer, start + $0)) })
    case .element(let buffer, let index): return number(buffer, index)
    case .constant(let number): return Number(number)
    case .scalar(let scalar): return scalars[scalar.index]
    case .unary(let function, let operand):
      let x = try value(operand, row, column, width: width, block, product: product)
      switch function {
      case .silu: return Number.silu(x)
      case .sigmoid: return Number.sigmoid(x)
      case .squareRoot: return x.squareRoot()
      case .absolute: return x.magnitude
      }
    case .binary(let function, let left, let right):
      let x = try value(left, row, column, width: width, block, product: product)
      let y = try value(right, row, column, width: width, block, product: product)
      switch function {
      case .add: return x + y
      case .subtract: return x - y
      case .multiply: return x * y
      case .divide: return x / y
      case .maximum: return x < y ? y : x
      case .nonzero: return x == 0 ? y : x
      }
    case .unlessIndex(let vector, let id, let operand):
      return block.indices[vector.index][row] == Int64(id)
        ? 0 : try value(operand, row, column, width: width, block, product: product)
    case .whereBits(let vector, let mask, let operand):
      return block.indices[vector.index][row] & Int64(mask) > 0
        ? try value(operand, row, column, width: width, block, product: product) : 0
    case .positionBias(let weights, let reference):
      // The weights lie back to front.
      let distance = (block.keys.lowerBound + row) - block.keyPosition(column)
      return number(weights, program[weights].columns - 1 - reference - distance)
    case .timeBias(let bias):
      let query = integer(bias.queryTimes, block.firstRow + column)
      let key = integer(bias.keyTimes, block.keySequenceStart + block.keys.lowerBound + row)
      return number(bias.weights, bucket(of: TimeBuckets.magnitude(query, key), bias.thresholds))
    }
  }
}
