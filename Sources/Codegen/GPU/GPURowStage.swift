import LLVMKit
import TensorIR
import TileIR

// Statements of rows: a warp takes a row, its lanes neighbouring columns, and numbers that no other stage reads stay in
// registers.
extension GPUKernelEmitter {
  /// What a warp knows of its row.
  private final class RowState {
    /// Of tiles in registers: one number, or a vector for each step over the columns.
    var tiles: [TileID: [IRValue]] = [:]
    var indices: [IndexVectorID: IRValue] = [:]
  }

  func emitRows(_ b: inout IRBuilder, _ statements: [Statement]) throws(GPUError) {
    let lanes = lanesTogether(statements)
    let warps = plan.threads / emitter.target.lanes
    let meetings = plan.meetings(statements, of: emitter.program)
    var failure: GPUError?
    // Two rows wait for memory together; rows that indices name wait for those first.
    let hasIndices = statements.contains { if case .indices = $0 { true } else { false } }
    b.loop(from: warp, to: rowCount, step: warps, name: "row", hint: hasIndices ? .asWritten : .unroll(2)) { b, row in
      let state = RowState()
      for (number, statement) in statements.enumerated() {
        if meetings[number] { meetLanes(b) }
        do throws(GPUError) { try emit(&b, statement, row: row, lanes: lanes, state) } catch {
          failure = failure ?? error
        }
      }
    }
    if let failure { throw failure }
  }

  /// How many neighbours a lane takes: four where all that the statements touch can be read so.
  private func lanesTogether(_ statements: [Statement]) -> Int {
    var fits = true
    for statement in statements {
      statement.forEachSlice { slice in
        let tile = kernel[slice.tile]
        if tile.columns == 1 { return }
        if slice.count % 4 != 0
          || !isInRegisters(slice.tile) && alignment(of: slice) < 4 * tile.element.deviceByteCount
        {
          fits = false
        }
      }
      var expression: Expression?
      switch statement {
      case .map(_, let value, _), .reduce(_, let value, _), .maximum(_, let value, _): expression = value
      case .gather(_, let buffer, let first, _, _):
        let element = emitter.program[buffer].element
        if Self.alignment(rowBytes(of: buffer), first * element.byteCount) < 4 * element.byteCount { fits = false }
      default: break
      }
      expression?.forEachBuffer { buffer in
        let declared = emitter.program[buffer]
        if case .weight(_, .coded) = declared.home { return }
        if declared.rows.dimension.extent != 1, rowBytes(of: buffer) % (4 * declared.element.byteCount) != 0 {
          fits = false
        }
      }
      expression.map { if !$0.columnsBeginAtFours { fits = false } }
    }
    return fits ? 4 : 1
  }

  private func isInRegisters(_ tile: TileID) -> Bool {
    guard case .scratch = kernel[tile].home else { return false }
    return plan.places[tile] == nil
  }

  private func emit(
    _ b: inout IRBuilder, _ statement: Statement, row: IRValue, lanes: Int, _ state: RowState
  ) throws(GPUError) {
    switch statement {
    case .map(let into, let expression, _):
      emitMap(&b, into, row: row, lanes: lanes, state) { b, at, step in
        self.value(b, expression, at, self.reading(state, step: step), roundedTo: self.kernel[into.tile].element)
      }
    case .clear(let into):
      emitMap(&b, into, row: row, lanes: lanes, state) { _, at, _ in
        (at.lanes == 1 ? self.context.f32 : self.context.vector(self.context.f32, at.lanes)).null()
      }
    case .reduce(let into, let sum, let columns):
      let total = reduce(&b, sum, columns: columns, row: row, lanes: lanes, state, start: 0.0) { b, one, other in
        b.fadd(one, other)
      }
      put(&b, total, into, row: row, state)
    case .maximum(let into, let of, let columns):
      let most = reduce(&b, of, columns: columns, row: row, lanes: lanes, state, start: -.infinity) { b, one, other in
        b.fmaximumNumber(one, other)
      }
      put(&b, most, into, row: row, state)
    case .indices(let vector, let source): state.indices[vector] = index(b, source, row: row, state)
    case .gather(let into, let from, let first, let vector, let keepMissing):
      let index = state.indices[vector] ?? context.i64.constant(-1)
      emitGather(
        &b, into, from: from, first: first, index: index, keepMissing: keepMissing, row: row, lanes: lanes, state)
    case .gatherIntegers(let into, let from, let vector, let missing):
      let index = state.indices[vector] ?? context.i64.constant(-1)
      let out = rowInteger(b, into, row: row)
      func copy(_ b: IRBuilder) { b.store(integer(b, from, index), out, alignment: 8) }
      onFirstLane(&b) { b in
        if missing == .none { return copy(b) }
        b.ifThenElse(b.icmp(.sge, index, 0)) { b in
          copy(b)
          return []
        } otherwise: { b in
          if case .number(let number) = missing { b.store(context.i64.constant(number), out, alignment: 8) }
          return []
        }
      }
    case .nextIntegers(let into, let from, let last):
      let wide = b.zext(row, to: context.i64)
      let hasNext = b.icmp(.slt, b.add(b.add(firstPosition, wide), 1), length)
      let pointer = b.select(
        hasNext, b.element(address(from), context.i64, b.add(b.add(firstRow, wide), 1)),
        b.element(address(last), context.i64, sequence))
      let next = b.load(context.i64, pointer, alignment: 8)
      onFirstLane(&b) { b in b.store(next, rowInteger(b, into, row: row), alignment: 8) }
    case .storeIndices(let into, let vector):
      let index = state.indices[vector] ?? context.i64.constant(-1)
      onFirstLane(&b) { b in b.store(index, rowInteger(b, into, row: row), alignment: 8) }
    default: throw error("this statement of rows")
    }
  }

  /// Where nothing is there, nothing is read: a buffer may be empty. What a tile in registers holds afterwards depends on the way
  /// taken.
  private func emitGather(
    _ b: inout IRBuilder, _ into: TileSlice, from: BufferID, first: Int, index: IRValue, keepMissing: Bool,
    row: IRValue,
    lanes: Int, _ state: RowState
  ) {
    let declared = emitter.program[from]
    let size = declared.element.byteCount
    let before = state.tiles[into.tile]
    let numbers = b.ifThenElse(b.icmp(.sge, index, 0)) { b in
      let source = b.offset(b.offset(address(from), bytes: b.mul(index, rowBytes(of: from))), bytes: first * size)
      emitMap(&b, into, row: row, lanes: lanes, state) { b, at, _ in
        self.load(
          b, b.offset(source, bytes: b.mul(at.column, size)), declared.element, lanes: at.lanes,
          alignment: Self.alignment(self.rowBytes(of: from), first * size, size * at.lanes),
          areCallers: declared.holdsCallersCodes)
      }
      return state.tiles[into.tile] ?? []
    } otherwise: { b in
      if keepMissing { return before ?? [] }
      emitMap(&b, into, row: row, lanes: lanes, state) { _, at, _ in
        (at.lanes == 1 ? self.context.f32 : self.context.vector(self.context.f32, at.lanes)).null()
      }
      return state.tiles[into.tile] ?? []
    }
    if !numbers.isEmpty { state.tiles[into.tile] = numbers }
  }

  /// Runs the body on one lane; then the others see what it wrote.
  private func onFirstLane(_ b: inout IRBuilder, _ body: (inout IRBuilder) -> Void) {
    b.ifThen(b.icmp(.eq, lane, 0), body)
    meetLanes(b)
  }

  private func rowInteger(_ b: IRBuilder, _ buffer: BufferID, row: IRValue) -> IRValue {
    b.element(address(buffer), context.i64, b.add(firstRow, b.zext(row, to: context.i64)))
  }

  // MARK: - Columns

  private func reading(_ state: RowState, step: Int) -> Reading {
    Reading(
      tile: { slice in
        guard let numbers = state.tiles[slice.tile] else { return nil }
        return numbers.count == 1 ? numbers[0] : numbers[step]
      },
      index: { state.indices[$0] })
  }

  /// Runs the body for each step of the warp through `count` columns: with its elements, whose column may be past the last
  /// one in the last step, and then whether it is not.
  private func forSteps(
    _ b: inout IRBuilder, count: Int, row: IRValue, lanes: Int,
    _ body: (inout IRBuilder, Elements, Int, IRValue?) -> Void
  ) {
    let width = emitter.target.lanes * lanes
    for step in 0..<(count + width - 1) / width {
      let column = b.add(b.mul(lane, lanes), step * width)
      guard (step + 1) * width > count else {
        body(&b, Elements(row: row, column: column, lanes: lanes), step, nil)
        continue
      }
      let isInside = b.icmp(.slt, column, count)
      let safe = b.select(isInside, column, context.i32.constant(0))
      body(&b, Elements(row: row, column: safe, lanes: lanes), step, isInside)
    }
  }

  private func emitMap(
    _ b: inout IRBuilder, _ into: TileSlice, row: IRValue, lanes: Int, _ state: RowState,
    _ value: @escaping (IRBuilder, Elements, Int) -> IRValue
  ) {
    let tile = kernel[into.tile]
    if into.count == 1 {
      let number = value(b, Elements(row: row, column: context.i32.constant(0), lanes: 1), 0)
      put(&b, number, into, row: row, state)
      return emitPadding(&b, into, row: row)
    }
    let isKept = isInRegisters(into.tile)
    let base = isKept || plan.places[into.tile]?.isSwizzled == true ? nil : rowAddress(b, into, row: row)
    let size = tile.element.deviceByteCount
    var numbers: [IRValue] = []
    forSteps(&b, count: into.count, row: row, lanes: lanes) { b, at, step, isInside in
      let number = value(b, at, step)
      if isKept { return numbers.append(rounded(b, number, tile.element)) }
      let place =
        base.map { b.offset($0, bytes: b.mul(at.column, size)) }
        ?? elementAddress(b, into, row: row, column: at.column)
      let alignment = min(alignment(of: into), size * lanes)
      func store(_ b: IRBuilder) {
        self.store(
          b, number, place, tile.element, alignment: alignment, areCallers: holdsCallersCodes(into.tile))
      }
      if let isInside { b.ifThen(isInside) { b in store(b) } } else { store(b) }
    }
    if isKept { state.tiles[into.tile] = numbers }
    emitPadding(&b, into, row: row)
  }

  /// Zeros behind the last columns of a left side: products read whole steps.
  private func emitPadding(_ b: inout IRBuilder, _ into: TileSlice, row: IRValue) {
    let tile = kernel[into.tile]
    let size = tile.element.deviceByteCount
    let padding = (Packing.stepBytes - tile.columns * size % Packing.stepBytes) % Packing.stepBytes / size
    guard size <= 2, padding > 0, into.first + into.count == tile.columns, let place = plan.places[into.tile],
      place.rowStride >= (tile.columns + padding) * size
    else { return }
    b.ifThen(b.icmp(.slt, lane, padding)) { b in
      let place = b.offset(rowAddress(b, into, row: row), bytes: b.mul(b.add(lane, into.count), size))
      b.store(context.integer(bits: 8 * size).constant(0), place, alignment: size)
    }
  }

  /// Gives a tile of one column its number, the same in all lanes.
  private func put(_ b: inout IRBuilder, _ value: IRValue, _ into: TileSlice, row: IRValue, _ state: RowState) {
    let tile = kernel[into.tile]
    if isInRegisters(into.tile) { return state.tiles[into.tile] = [rounded(b, value, tile.element)] }
    if case .scratch = tile.home, tile.columns == 1 {
      state.tiles[into.tile] = [rounded(b, value, tile.element)]
    } else {
      // The value itself may follow from what is there.
      meetLanes(b)
    }
    onFirstLane(&b) { b in
      store(
        b, value, rowAddress(b, into, row: row), tile.element, alignment: tile.element.deviceByteCount,
        areCallers: holdsCallersCodes(into.tile))
    }
  }

  private func reduce(
    _ b: inout IRBuilder, _ expression: Expression, columns: Int, row: IRValue, lanes: Int, _ state: RowState,
    start: Double, _ combine: (IRBuilder, IRValue, IRValue) -> IRValue
  ) -> IRValue {
    var total = context.f32.constant(start)
    forSteps(&b, count: columns, row: row, lanes: columns % lanes == 0 ? lanes : 1) { b, at, step, isInside in
      let values = scalars(b, value(b, expression, at, reading(state, step: step)))
      let own = values.dropFirst().reduce(values[0]) { combine(b, $0, $1) }
      total = combine(b, total, isInside.map { b.select($0, own, context.f32.constant(start)) } ?? own)
    }
    return combined(b, total, combine)
  }

  // MARK: - Indices

  private func index(_ b: IRBuilder, _ source: IndexSource, row: IRValue, _ state: RowState) -> IRValue {
    let wide = b.zext(row, to: context.i64)
    return RowIndices(
      b: b, context: context, program: emitter.program, row: b.add(firstRow, wide),
      position: b.add(firstPosition, wide), sequence: sequence, length: length, targets: targets,
      integer: { [self] buffer, index in integer(b, buffer, index) },
      number: { [self] table, index in
        b.load(context.f32, b.element(address(table), context.f32, index), alignment: 4, invariant: true)
      },
      known: { [self] vector in state.indices[vector] ?? context.i64.constant(0) }
    ).index(source)
  }
}

extension Expression {
  /// Whether columns that it reads of vectors begin with a multiple of four.
  fileprivate var columnsBeginAtFours: Bool {
    switch self {
    case .columnValue(_, let first): first % 4 == 0
    case .unary(_, let operand), .unlessIndex(_, _, let operand), .whereBits(_, _, let operand):
      operand.columnsBeginAtFours
    case .binary(_, let left, let right): left.columnsBeginAtFours && right.columnsBeginAtFours
    default: true
    }
  }
}
