import LLVMKit
import TensorIR
import TileIR

// Contractions, transposition, and rows by index.
extension KernelEmitter {
  func emitContract(_ b: inout IRBuilder, _ contraction: Contraction) {
    guard let keys, kernel.leavesOutKeys(contraction) else { return emitContract(&b, contraction, isPartial: false) }
    b.ifThenElse(keys.allVisible) { b in
      emitContract(&b, contraction, isPartial: false)
      return []
    } otherwise: { b in
      emitContract(&b, contraction, isPartial: true)
      return []
    }
  }

  private func emitContract(_ b: inout IRBuilder, _ contraction: Contraction, isPartial: Bool) {
    let visibility = isPartial ? emitVisibility(b, contraction) : nil
    let into = kernel[contraction.into.tile]
    let left = kernel[contraction.left.tile]
    let leftStride = rowStride(of: left)
    let together = left.element.contractedTogether
    let right: IRValue
    let rightStride: Int
    let panelColumns: Int
    let panelStride: Int
    switch contraction.right {
    case .panels(let buffer, let firstRow, let rows, let firstColumn):
      // Fragments are for GPUs.
      guard case .weight(_, .panels(let width, _)) = emitter.program[buffer].home else { return }
      (rightStride, panelColumns) = (width * 4, width)
      panelStride = left.element.panelColumnBytes(rows) * width
      right = b.offset(
        address(b, buffer),
        bytes: firstColumn / width * panelStride + firstRow * width * left.element.byteCount)
    case .tile(let slice) where kernel[slice.tile].isGrouped == (together > 1):
      right = address(b, slice)
      rightStride = rowStride(of: kernel[slice.tile])
      panelColumns = emitter.level.floatLanes * emitter.level.microKernel.columnVectors
      panelStride = panelColumns * 4
    case .tile(let slice):
      panelColumns = Kernel.panelColumns
      rightStride = panelColumns * 4
      (right, panelStride) = emitGrouped(&b, slice, panelColumns: panelColumns)
    }
    // Words of 32 bits are counted: a grouped left side fills its last one with zeros, another's is read in part.
    let leftRest = contraction.leftTransposed ? 0 : contraction.left.count % together
    let steps =
      contraction.leftTransposed
      ? b.sdiv(b.add(rows(of: left), together - 1), together)
      : context.i64.constant(contraction.left.count / together)
    let count = contraction.into.count
    let limit = columnLimit(into)
    let tiles = together > 1 ? emitter.tiles : nil
    var leftAddress = address(b, contraction.left)
    var (leftRowStride, leftStepStride) = contraction.leftTransposed ? (4, leftStride) : (leftStride, 4)
    if let tiles, contraction.leftTransposed {
      (leftAddress, leftRowStride) = emitTurned(&b, contraction, tiles)
      leftStepStride = 4
    }
    let finish = contraction.finish ?? (into.element == .f32 ? nil : .product)
    var shape = ContractionShape(
      element: left.element, leftRowStride: leftRowStride, leftStepStride: leftStepStride,
      leftRest: leftRest, rightStepStride: rightStride,
      panelColumns: panelColumns, resultRowStride: rowStride(of: into) / (into.isGrouped ? 2 : 1),
      resultColumnStride: columnStride(of: into), remainder: limit == nil ? count % panelColumns : 0,
      accumulate: contraction.accumulate,
      visibility: visibility,
      finish: finish.map { emitFinish(b, $0, into: contraction.into, mask: contraction.masked ? visibility : nil) })
    if let finish = shape.finish, emitter.tiles == nil {
      shape.ahead = emitRowsAhead(b, contraction, slot: max(finish.slots, visibility?.slots ?? 0))
    }
    let panels =
      limit.map { b.sdiv(b.add($0, panelColumns - 1), panelColumns) } ?? context.i64.constant(count / panelColumns)
    let arguments = [
      leftAddress, right, address(b, contraction.into), rows(of: into), steps, panels,
      context.i64.constant(panelStride), b.offset(scratch, bytes: emitter.scratch.panels[number]),
      b.offset(scratch, bytes: emitter.scratch.environments[number]),
    ]
    b.call(emitter.contraction(shape), arguments + (tiles == nil ? [] : [tileMemory(b)]))
  }

  func emitTranspose(_ b: inout IRBuilder, into: TileSlice, from: TileSlice, factor: Double) {
    let shape = TranspositionShape(
      element: kernel[from.tile].element, columns: from.count, sourceStride: rowStride(of: kernel[from.tile]),
      targetStride: rowStride(of: kernel[into.tile]),
      factor: factor)
    b.call(emitter.transposition(shape), [address(b, from), address(b, into), rowCount])
  }

  // MARK: - Rows by index

  func indexVector(_ b: IRBuilder, _ vector: IndexVectorID) -> IRValue {
    b.offset(scratch, bytes: emitter.scratch.kernels[number].indexVectors[vector.index])
  }

  func emitIndices(_ b: inout IRBuilder, _ vector: IndexVectorID, _ source: IndexSource) {
    let i64 = context.i64
    let base = indexVector(b, vector)
    forRows(&b, rowCount) { b, row in
      b.store(index(b, source, row: row), b.element(base, i64, row))
    }
  }

  private func index(_ b: IRBuilder, _ source: IndexSource, row: IRValue) -> IRValue {
    let i64 = context.i64
    let position = b.add(firstPosition, row)
    func bounds(_ offsets: BufferID, _ sequence: IRValue) -> (start: IRValue, end: IRValue) {
      let base = address(b, offsets)
      return (b.load(i64, b.element(base, i64, sequence)), b.load(i64, b.element(base, i64, b.add(sequence, 1))))
    }
    switch source {
    case .loaded(let buffer, let entries, let outside):
      let id = b.load(i64, b.element(address(b, buffer), i64, b.add(firstRow, row)))
      switch outside {
      case .unchanged: return id
      case .fallback(let fallback): return b.select(b.icmp(.ult, id, entries), id, i64.constant(fallback))
      case .modulo:
        let rest = b.srem(id, entries)
        return b.select(b.icmp(.slt, rest, 0), b.add(rest, entries), rest)
      }
    case .expression(let expression): return emit(b, expression, position: position)
    case .beforeSelection(let selection, let offsets, let targetsBuffer):
      let outer = bounds(offsets, sequence)
      let outerLength = b.sub(outer.end, outer.start)
      let count =
        targetsBuffer.map { b.load(i64, b.element(address(b, $0), i64, sequence)) } ?? i64.constant(0)
      let dropped = selection.dropped
      let start = emitter.emit(b, dropped.start, position: position, length: outerLength, targets: count)
      let end = emitter.emit(b, dropped.end, position: position, length: outerLength, targets: count)
      let moved = b.add(position, b.sub(end, start))
      return b.add(outer.start, b.select(b.icmp(.slt, position, start), position, moved))
    case .afterSelection(let selection, let selected):
      let inner = bounds(selected, sequence)
      let dropped = selection.dropped
      let start = emit(b, dropped.start, position: position)
      let end = emit(b, dropped.end, position: position)
      let moved = b.sub(position, b.sub(end, start))
      let isBefore = b.icmp(.slt, position, start)
      let kept = b.add(inner.start, b.select(isBefore, position, moved))
      return b.select(b.or(isBefore, b.icmp(.sge, position, end)), kept, i64.constant(-1))
    case .beforeAddition(let addition, let added, let offsets):
      let place = emit(b, added ? addition.added : addition.original, position: position)
      let start = b.load(i64, b.element(address(b, offsets), i64, sequence))
      return b.select(b.icmp(.sge, place, 0), b.add(start, place), i64.constant(-1))
    case .afterAddition(let addition, let extended):
      let start = b.load(i64, b.element(address(b, extended), i64, sequence))
      return b.add(start, emit(b, addition.extendedPlace, position: position))
    case .sequence(let place): return b.select(b.icmp(.eq, position, place), sequence, i64.constant(-1))
    case .pickedRow(let place, let offsets, let lengths, let minimum):
      let number = b.add(firstRow, row)
      let own = bounds(offsets, number)
      var isThere = b.icmp(.slt, i64.constant(place), b.sub(own.end, own.start))
      if let lengths {
        let other = bounds(lengths, number)
        isThere = b.and(isThere, b.icmp(.sge, b.sub(other.end, other.start), minimum))
      }
      return b.select(isThere, b.add(own.start, place), i64.constant(-1))
    case .lastRow(let offsets):
      let own = bounds(offsets, b.add(firstRow, row))
      return b.select(b.icmp(.slt, own.start, own.end), b.sub(own.end, 1), i64.constant(-1))
    case .bucket(let times, let queries, let thresholds):
      let query = b.load(i64, b.element(address(b, queries), i64, sequence))
      return bucket(b, of: b.load(i64, b.element(address(b, times), i64, b.add(firstRow, row))), query, thresholds)
    case .calendar(let times, let unit, let count):
      let time = b.load(i64, b.element(address(b, times), i64, b.add(firstRow, row)))
      let rounded = b.sitofp(time, to: context.f32)
      // 2^63 is no int64; the instruction's own result for it counts for nothing.
      let isPast = b.fcmp(.oge, rounded, context.f32.constant(0x1p63))
      let seconds = b.select(isPast, i64.constant(.max), b.fptosi(rounded, to: i64))
      let rest = b.srem(seconds, unit * count)
      return b.sdiv(b.select(b.icmp(.slt, rest, 0), b.add(rest, unit * count), rest), unit)
    case .marked(let vector, let bits, let values, let least):
      let marks = b.load(i64, b.element(indexVector(b, vector), i64, row))
      let value = b.load(i64, b.element(address(b, values), i64, b.add(firstRow, row)))
      return b.select(b.icmp(.sge, value, least), b.or(marks, i64.constant(bits)), marks)
    }
  }

  /// The number of thresholds that the seconds from a time to a later one reach: halving steps from the largest power of
  /// two within their number.
  private func bucket(_ b: IRBuilder, of time: IRValue, _ query: IRValue, _ thresholds: BufferID) -> IRValue {
    let (f32, i64) = (context.f32, context.i64)
    let count = emitter.program[thresholds].columns
    // The difference may wrap, but as an unsigned number it is exact.
    let difference = b.select(b.icmp(.sgt, query, time), b.sub(query, time), i64.constant(0))
    let seconds = b.uitofp(difference, to: f32)
    var step = 1
    while step <= count / 2 { step *= 2 }
    var bucket = i64.constant(0)
    while step > 0 {
      let next = b.add(bucket, step)
      // One that is past the last counts as the last, which was reached then.
      let known = b.smin(next, count)
      let threshold = b.load(f32, b.element(address(b, thresholds), f32, b.sub(known, 1)), alignment: 4)
      bucket = b.select(b.fcmp(.ole, threshold, seconds), known, bucket)
      step /= 2
    }
    return bucket
  }

  func emitGather(
    _ b: inout IRBuilder, into: TileSlice, from: BufferID, first: Int, _ indices: IndexVectorID, keepMissing: Bool
  ) {
    let i64 = context.i64
    let target = address(b, into)
    let targetStride = rowStride(of: kernel[into.tile])
    let source = address(b, from)
    let (element, stored) = (kernel[into.tile].element, emitter.program[from].element)
    let sourceStride = emitter.program[from].columns * stored.byteCount
    let vector = indexVector(b, indices)
    forRows(&b, rowCount) { b, row in
      let index = b.load(i64, b.element(vector, i64, row))
      let out = b.offset(target, bytes: b.mul(row, targetStride))
      b.ifThenElse(b.icmp(.sge, index, 0)) { b in
        let row = b.offset(source, bytes: b.mul(index, sourceStride))
        let from = b.offset(row, bytes: first * stored.byteCount)
        copyRow(&b, into: out, count: into.count, element) { b, columns in load(b, from, columns, stored) }
        return []
      } otherwise: { b in
        if !keepMissing {
          copyRow(&b, into: out, count: into.count, element) { b, columns in
            (columns.lanes == 1 ? context.f32 : context.vector(context.f32, columns.lanes)).null()
          }
        }
        return []
      }
    }
  }

  func emitGatherIntegers(
    _ b: inout IRBuilder, into: BufferID, from: BufferID, _ indices: IndexVectorID, missing: MissingIntegers
  ) {
    let i64 = context.i64
    let target = b.element(address(b, into), i64, firstRow)
    let source = address(b, from)
    let vector = indexVector(b, indices)
    forRows(&b, rowCount) { b, row in
      let index = b.load(i64, b.element(vector, i64, row))
      let out = b.element(target, i64, row)
      func copy(_ b: IRBuilder) { b.store(b.load(i64, b.element(source, i64, index)), out) }
      guard missing != .none else { return copy(b) }
      b.ifThenElse(b.icmp(.sge, index, 0)) { b in
        copy(b)
        return []
      } otherwise: { b in
        if case .number(let number) = missing { b.store(i64.constant(number), out) }
        return []
      }
    }
  }

  func emitNextIntegers(_ b: inout IRBuilder, into: BufferID, from: BufferID, last: BufferID) {
    let i64 = context.i64
    let target = b.element(address(b, into), i64, firstRow)
    let source = b.element(address(b, from), i64, firstRow)
    let own = b.element(address(b, last), i64, sequence)
    forRows(&b, rowCount) { b, row in
      let next = b.add(row, 1)
      let hasNext = b.icmp(.slt, b.add(firstPosition, next), length)
      let pointer = b.select(hasNext, b.element(source, i64, next), own)
      b.store(b.load(i64, pointer), b.element(target, i64, row))
    }
  }

  func emitStoreIndices(_ b: inout IRBuilder, into: BufferID, _ vector: IndexVectorID) {
    let i64 = context.i64
    let target = b.element(address(b, into), i64, firstRow)
    let base = indexVector(b, vector)
    forRows(&b, rowCount) { b, row in
      b.store(b.load(i64, b.element(base, i64, row)), b.element(target, i64, row))
    }
  }

  /// Writes a row of `count` columns.
  func copyRow(
    _ b: inout IRBuilder, into: IRValue, count: Int, _ element: ElementType, _ value: (IRBuilder, Columns) -> IRValue
  ) {
    forColumns(&b, row: context.i64.constant(0), count: count, limit: nil) { b, columns in
      store(b, value(b, columns), into, columns, element)
    }
  }
}
