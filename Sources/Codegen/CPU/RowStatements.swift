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
    return RowIndices(
      b: b, context: context, program: emitter.program, row: b.add(firstRow, row), position: b.add(firstPosition, row),
      sequence: sequence, length: length, targets: targets,
      integer: { [self] buffer, index in b.load(i64, b.element(address(b, buffer), i64, index)) },
      number: { [self] table, index in
        b.load(context.f32, b.element(address(b, table), context.f32, index), alignment: 4)
      },
      known: { [self] vector in b.load(i64, b.element(indexVector(b, vector), i64, row)) }
    ).index(source)
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
