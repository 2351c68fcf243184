import LLVMKit
import TensorIR
import TileIR

// Products of narrow elements by tiles: 32 rows x 32 columns of sums at a time, in two by two tiles.
//
// Panels are right sides as they are: the 16 words of a tile's row lie side by side, its rows a panel's row apart. The
// contracted index goes by steps of 16 words; the last, shorter one is copied and filled with zeros, on both sides, so
// that all rows and columns take the same sums in the same order. Rows of the left side depend on nothing else: the last
// rows take tiles of fewer rows.

/// What products by tiles need of a worker's memory, at one place for all kernels.
struct TileMemory {
  /// Byte offset of the tiles' shapes where they are not those that kernels begin with.
  static let configuration = 0
  /// Byte offset of a last step of the right side, 16 words x 32 columns.
  static let right = TileConfiguration.byteCount
  /// Bytes from word to word there: 32 columns.
  static let rightStepStride = 128
  /// Byte offset of a last step of the left side, 64 bytes for each row.
  static let left = right + TileConfiguration.words * rightStepStride
  /// Byte offset of a register tile's sums that are finished, 32 x 32.
  let sums: Int
  /// Byte offset of a left side that is stored transposed, row by row.
  let turned: Int
  /// Byte offset of what stands in for the registers.
  let state: Int
  let byteCount: Int

  fileprivate init(_ contractions: [(Kernel, Contraction)], stateByteCount: Int) {
    let rows = contractions.map { $0.rowCapacity(of: $0[$1.into.tile]) }.max() ?? 0
    sums = Self.left + rows * TileConfiguration.rowBytes
    turned = sums + 4 * TileConfiguration.rows * TileConfiguration.rowBytes
    state = turned + (contractions.map { $0.turnedByteCount($1) }.max() ?? 0)
    byteCount = state + stateByteCount
  }
}

/// The tiles that one program's code works with.
struct TileUnit {
  let instructions: any TileInstructions
  let memory: TileMemory
  /// The address of the tiles' shapes that kernels begin with: those of a whole register tile.
  let shapes: IRValue

  /// Nil where no product takes tiles.
  init?(_ instructions: any TileInstructions, _ program: Program, _ module: IRModule) {
    let contractions = program.kernels.flatMap { kernel in kernel.contractionsByTiles.map { (kernel, $0) } }
    if contractions.isEmpty { return nil }
    self.instructions = instructions
    memory = TileMemory(contractions, stateByteCount: instructions.stateByteCount)
    shapes = TileConfiguration.shapes(in: module)
  }
}

extension Kernel {
  /// The products of narrow elements.
  var contractionsByTiles: [Contraction] {
    statements.compactMap { statement in
      let contraction: Contraction
      switch statement {
      case .contract(let product): contraction = product
      case .best(let best): contraction = best.product
      default: return nil
      }
      return self[contraction.left.tile].element.contractedTogether > 1 ? contraction : nil
    }
  }

  /// Bytes from row to row of a transposed left side that has been brought into rows: whole steps.
  func turnedStride(_ contraction: Contraction) -> Int {
    let tile = self[contraction.left.tile]
    let words = tile.element.paddedContraction(rowCapacity(of: tile)) / tile.element.contractedTogether
    return (words + TileConfiguration.words - 1) / TileConfiguration.words * TileConfiguration.rowBytes
  }

  fileprivate func turnedByteCount(_ contraction: Contraction) -> Int {
    contraction.leftTransposed ? turnedStride(contraction) * contraction.left.count : 0
  }
}

extension KernelEmitter {
  /// Where products by tiles keep what is not in registers.
  func tileMemory(_ b: IRBuilder) -> IRValue { b.offset(scratch, bytes: emitter.scratch.tiles) }

  /// Where what stands in for the registers lies.
  func tileState(_ b: IRBuilder, _ tiles: TileUnit) -> IRValue { b.offset(tileMemory(b), bytes: tiles.memory.state) }

  /// Brings a left side that is stored transposed, in groups, into rows: its words are what moves.
  func emitTurned(
    _ b: inout IRBuilder, _ contraction: Contraction, _ tiles: TileUnit
  ) -> (address: IRValue, stride: Int) {
    let tile = kernel[contraction.left.tile]
    let together = tile.element.contractedTogether
    let stride = kernel.turnedStride(contraction)
    let shape = TranspositionShape(
      element: .f32, columns: contraction.left.count, sourceStride: rowStride(of: tile), targetStride: stride, factor: 1
    )
    let target = b.offset(tileMemory(b), bytes: tiles.memory.turned)
    let groups = b.sdiv(b.add(rows(of: tile), together - 1), together)
    b.call(emitter.transposition(shape), [address(b, contraction.left), target, groups])
    return (target, stride)
  }
}

extension LevelEmitter {
  /// `void (left, right, result, rows, steps, panels, panelStride, decoded, environment, memory)`: as `emitContraction`, by tiles;
  /// `memory` is the worker's, as `TileMemory` lays it out.
  ///
  /// Tiles have the shapes of whole register tiles before and after.
  func emitTileContraction(_ shape: ContractionShape, _ tiles: TileUnit, name: String) -> IRFunction {
    let (p, i64) = (context.pointer, context.i64)
    let function = addFunction(name, [p, p, p, i64, i64, i64, i64, p, p, p], returns: context.void, noInline: true)
    var b = IRBuilder(at: function.appendBlock("entry"))
    TileContractionEmitter(self, shape, tiles, b, function.parameters).emit(&b)
    b.ret()
    return function
  }
}

/// Emits one product by tiles, for any number of rows and panels.
private struct TileContractionEmitter {
  let level: LevelEmitter
  let context: Context
  let shape: ContractionShape
  let tiles: any TileInstructions
  let left, right, result, rows, steps, panels, panelStride, decoded, environment, memory: IRValue
  let state: IRValue
  /// Where sums that are finished wait for it.
  let waiting: IRValue
  /// Whole steps of 16 words, and the words after them, of which the last may hold fewer elements than fit.
  let wholeSteps: IRValue
  let lastWords: IRValue

  /// The element that is multiplied.
  var element: ElementType { shape.element == .f8e4m3 ? .bf16 : shape.element }
  /// Rows and columns of a register tile.
  static let size = 2 * TileConfiguration.rows

  init(
    _ level: LevelEmitter, _ shape: ContractionShape, _ unit: TileUnit, _ b: IRBuilder, _ parameters: [IRValue]
  ) {
    self.level = level
    context = level.context
    self.shape = shape
    tiles = unit.instructions
    (left, right, result) = (parameters[0], parameters[1], parameters[2])
    (rows, steps, panels, panelStride) = (parameters[3], parameters[4], parameters[5], parameters[6])
    (decoded, environment, memory) = (parameters[7], parameters[8], parameters[9])
    waiting = b.offset(memory, bytes: unit.memory.sums)
    state = b.offset(memory, bytes: unit.memory.state)
    wholeSteps = b.lshr(steps, 4)
    lastWords = b.add(b.and(steps, TileConfiguration.words - 1), shape.leftRest > 0 ? 1 : 0)
  }

  func emit(_ b: inout IRBuilder) {
    b.ifThen(hasLast(b), name: "left") { b in copyLastLeft(&b) }
    let zero = context.i64.constant(0)
    let blocks = b.lshr(rows, 5)
    let lastRows = b.and(rows, Self.size - 1)
    let hasLastRows = b.icmp(.ne, lastRows, 0)
    let pieces =
      pieces(of: shape.panelColumns).map { ($0, zero, panels) }
      + pieces(of: shape.remainder).map { ($0, panels, b.add(panels, 1)) }
    for (piece, first, end) in pieces {
      func emit(_ b: inout IRBuilder, rowTiles: Int, firstRow: IRValue, blocks: IRValue, rows: IRValue) {
        b.loop(from: first, to: end, name: "panel", hint: .asWritten) { b, number in
          let panel = self.panel(&b, number, piece)
          b.loop(from: zero, to: blocks, name: "block", hint: .asWritten) { b, block in
            emitBlock(&b, piece, panel, row: b.add(firstRow, b.shl(block, 5)), rows: rows, rowTiles: rowTiles)
          }
        }
      }
      b.ifThen(b.icmp(.ne, blocks, 0), name: "blocks") { b in
        if piece.count != Self.size { configure(b, columns: piece.count) }
        emit(&b, rowTiles: 2, firstRow: zero, blocks: blocks, rows: context.i64.constant(Self.size))
      }
      b.ifThen(hasLastRows, name: "last") { b in
        let upper = b.smin(lastRows, TileConfiguration.rows)
        let lower = b.sub(lastRows, upper)
        let one = context.i64.constant(1)
        func emitLast(_ b: inout IRBuilder, _ heights: [IRValue]) -> [IRValue] {
          configure(b, columns: piece.count, heights: heights)
          emit(&b, rowTiles: heights.count, firstRow: b.shl(blocks, 5), blocks: one, rows: lastRows)
          return []
        }
        b.ifThenElse(b.icmp(.ne, lower, 0)) {
          emitLast(&$0, [upper, lower])
        } otherwise: {
          emitLast(&$0, [upper])
        }
      }
    }
    let isChanged = pieces.contains { $0.0.count != Self.size } ? context.boolean(true) : hasLastRows
    b.ifThen(isChanged, name: "restore") { b in configure(b, columns: Self.size) }
  }

  /// Columns that a register tile takes together, of a panel.
  private struct Piece {
    var first: Int
    var count: Int
  }

  private func pieces(of columns: Int) -> [Piece] {
    stride(from: 0, to: columns, by: Self.size).map { Piece(first: $0, count: min(Self.size, columns - $0)) }
  }

  /// Sets the tiles' shapes: so many columns, and rows other than 16 where `heights` gives them for the upper, or the
  /// upper and the lower tiles.
  private func configure(_ b: IRBuilder, columns: Int, heights: [IRValue] = []) {
    let place = b.offset(memory, bytes: TileMemory.configuration)
    let bytes = TileConfiguration.bytes(columns: columns).map { Int($0) }
    b.store(context.vector(context.i8, bytes.count).constants(bytes), place, alignment: 64)
    for (row, height) in heights.enumerated() {
      for tile in [TileConfiguration.sum(row, 0), TileConfiguration.sum(row, 1), TileConfiguration.left(row)] {
        b.store(
          b.trunc(height, to: context.i8), b.offset(place, bytes: TileConfiguration.rowsOffset(tile)), alignment: 1)
      }
    }
    tiles.configure(b, state, from: place)
  }

  // MARK: - The last step

  private func hasLast(_ b: IRBuilder) -> IRValue { b.icmp(.ne, lastWords, 0) }

  /// Each row's elements after the whole steps, then zeros: what lies behind a row's last element is not of it.
  private func copyLastLeft(_ b: inout IRBuilder) {
    let bytes = TileConfiguration.rowBytes
    let type = context.vector(context.i8, bytes)
    let whole = b.shl(b.and(steps, TileConfiguration.words - 1), 2)
    let count = b.add(whole, shape.leftRest * element.byteCount)
    let mask = b.laneMask(below: count, lanes: bytes)
    let source = b.offset(left, bytes: b.shl(wholeSteps, 6))
    let target = b.offset(memory, bytes: TileMemory.left)
    b.loop(from: context.i64.constant(0), to: rows, name: "left", hint: .asWritten) { b, row in
      let stored = b.maskedLoad(type, b.offset(source, bytes: b.mul(row, shape.leftRowStride)), mask: mask)
      b.store(stored, b.offset(target, bytes: b.mul(row, bytes)), alignment: 64)
    }
  }

  /// The words after the whole steps, then zeros.
  private func copyLastRight(_ b: inout IRBuilder, _ source: IRValue, columns: Int) {
    let words = TileConfiguration.words
    let type = context.vector(context.i32, words)
    let target = b.offset(memory, bytes: TileMemory.right)
    b.loop(from: context.i64.constant(0), to: context.i64.constant(words), name: "right", hint: .asWritten) { b, step in
      let isThere = b.icmp(.slt, step, lastWords)
      for first in stride(from: 0, to: columns, by: words) {
        let mask = b.laneMask(below: b.select(isThere, b.i64(columns - first), b.i64(0)), lanes: words)
        let place = b.offset(source, bytes: b.add(b.mul(step, shape.rightStepStride), first * 4))
        let out = b.offset(target, bytes: b.add(b.mul(step, TileMemory.rightStepStride), first * 4))
        b.store(b.maskedLoad(type, place, mask: mask, alignment: 4), out, alignment: 64)
      }
    }
  }

  // MARK: - Sums

  /// A piece of a panel, ready to be multiplied: its words, where its columns go, and of i8 what to add to its sums.
  private struct Panel {
    var right: IRValue
    var column: IRValue
    var corrections: IRValue
  }

  private func panel(_ b: inout IRBuilder, _ number: IRValue, _ piece: Piece) -> Panel {
    let groups = shape.leftRest > 0 ? b.add(steps, 1) : steps
    var words = b.offset(right, bytes: b.mul(number, panelStride))
    if shape.element == .f8e4m3 {
      b.call(level.panelDecoding(), [words, decoded, b.mul(groups, shape.panelColumns)])
      words = decoded
    }
    words = b.offset(words, bytes: piece.first * 4)
    let panel = Panel(
      right: words, column: b.add(b.mul(number, shape.panelColumns), piece.first),
      corrections: b.offset(words, bytes: b.mul(groups, shape.rightStepStride)))
    b.ifThen(hasLast(b), name: "right") { b in
      let source = b.offset(words, bytes: b.mul(wholeSteps, TileConfiguration.words * shape.rightStepStride))
      copyLastRight(&b, source, columns: piece.count)
    }
    return panel
  }

  /// One register tile of so many rows, over all steps.
  private func emitBlock(
    _ b: inout IRBuilder, _ piece: Piece, _ panel: Panel, row: IRValue, rows: IRValue, rowTiles: Int
  ) {
    let columnTiles = (piece.count + TileConfiguration.words - 1) / TileConfiguration.words
    let own = b.offset(
      result, bytes: b.add(b.mul(row, shape.resultRowStride), b.mul(panel.column, shape.resultColumnStride)))
    let rowStride = shape.finish == nil ? shape.resultRowStride : Self.size * 4
    let out = shape.finish == nil ? own : waiting
    let outStride = b.i64(rowStride)
    func forSums(_ body: (_ sum: Int, _ row: Int, _ column: Int) -> Void) {
      for row in 0..<rowTiles {
        for column in 0..<columnTiles { body(TileConfiguration.sum(row, column), row, column) }
      }
    }
    func place(_ b: IRBuilder, _ row: Int, _ column: Int) -> IRValue {
      b.offset(out, bytes: row * TileConfiguration.rows * rowStride + column * TileConfiguration.rowBytes)
    }
    forSums { sum, row, column in
      if element == .i8 {
        // One row for all: each begins with what the codes of the left side, stored 128 too high, will add too much.
        let corrections = b.offset(panel.corrections, bytes: column * TileConfiguration.rowBytes)
        tiles.load(b, state, sum, from: corrections, stride: b.i64(0))
      } else if shape.accumulate {
        tiles.load(b, state, sum, from: place(b, row, column), stride: outStride)
      } else {
        tiles.clear(b, state, sum)
      }
    }
    let ownLeft = b.offset(left, bytes: b.mul(row, shape.leftRowStride))
    let lastLeft = b.offset(memory, bytes: b.add(b.mul(row, TileConfiguration.rowBytes), TileMemory.left))
    let lastRight = b.offset(memory, bytes: TileMemory.right)
    let count = b.add(wholeSteps, b.zext(hasLast(b), to: context.i64))
    b.loop(from: context.i64.constant(0), to: count, name: "step", hint: .asWritten) { b, step in
      let isWhole = b.icmp(.slt, step, wholeSteps)
      func side(_ whole: IRValue, _ stride: Int, _ last: IRValue, _ lastStride: Int) -> (IRValue, IRValue) {
        (b.select(isWhole, whole, last), b.select(isWhole, b.i64(stride), b.i64(lastStride)))
      }
      let (leftStep, leftStride) = side(
        b.offset(ownLeft, bytes: b.shl(step, 6)), shape.leftRowStride, lastLeft, TileConfiguration.rowBytes)
      let (rightStep, rightStride) = side(
        b.offset(panel.right, bytes: b.mul(step, TileConfiguration.words * shape.rightStepStride)),
        shape.rightStepStride, lastRight, TileMemory.rightStepStride)
      for column in 0..<columnTiles {
        let from = b.offset(rightStep, bytes: column * TileConfiguration.rowBytes)
        tiles.load(b, state, TileConfiguration.right(column), from: from, stride: rightStride)
      }
      for row in 0..<rowTiles {
        let from = row == 0 ? leftStep : b.offset(leftStep, bytes: b.mul(leftStride, TileConfiguration.rows))
        tiles.load(b, state, TileConfiguration.left(row), from: from, stride: leftStride)
      }
      forSums { sum, row, column in
        tiles.multiplyAdd(
          b, state, into: sum, left: TileConfiguration.left(row), right: TileConfiguration.right(column), element)
      }
    }
    forSums { sum, row, column in tiles.store(b, state, sum, to: place(b, row, column), stride: outStride) }
    if element == .i8 { convert(&b, out, rowStride, rows: rows, columns: piece.count) }
    if let finish = shape.finish {
      self.finish(&b, finish, piece, into: own, row: row, column: panel.column, rows: rows)
    }
  }

  /// Finishes the sums that wait, two rows at a time where rows lie in pairs.
  private func finish(
    _ b: inout IRBuilder, _ finish: FinishShape, _ piece: Piece, into own: IRValue, row: IRValue, column: IRValue,
    rows: IRValue
  ) {
    let lanes = level.level.floatLanes
    let vectors = (piece.count + lanes - 1) / lanes
    let type = context.vector(context.f32, lanes)
    let lastLanes = piece.count - (vectors - 1) * lanes
    let mask =
      lastLanes == lanes
      ? nil : context.vector(context.i1, lanes).constants((0..<lanes).map { $0 < lastLanes ? 1 : 0 })
    func finishRows(_ b: IRBuilder, _ first: IRValue, count: Int) {
      let products = (0..<count * vectors).map { index in
        let (line, vector) = index.quotientAndRemainder(dividingBy: vectors)
        let place = b.offset(waiting, bytes: b.mul(b.add(first, line), Self.size * 4))
        return b.load(type, b.offset(place, bytes: vector * lanes * 4), alignment: 64)
      }
      level.emitFinish(
        b, finish, products: products, vectors: vectors, lastLanes: mask,
        result: b.offset(own, bytes: b.mul(first, shape.resultRowStride)), rowStride: shape.resultRowStride,
        columnStride: shape.resultColumnStride,
        at: FinishPlace(environment: environment, row: b.add(row, first), column: column))
    }
    let together = finish.isGrouped ? 2 : 1
    let whole = finish.isGrouped ? b.and(rows, -2) : rows
    b.loop(from: b.i64(0), to: whole, step: together, name: "finish", hint: .asWritten) { b, first in
      finishRows(b, first, count: together)
    }
    if finish.isGrouped { b.ifThen(b.icmp(.slt, whole, rows)) { b in finishRows(b, whole, count: 1) } }
  }

  /// Sums in int32 become fp32, where they are.
  private func convert(_ b: inout IRBuilder, _ sums: IRValue, _ rowStride: Int, rows: IRValue, columns: Int) {
    let lanes = level.level.floatLanes
    let type = context.vector(context.f32, lanes)
    b.loop(from: context.i64.constant(0), to: rows, name: "convert", hint: .asWritten) { b, row in
      for first in stride(from: 0, to: columns, by: lanes) {
        let mask = b.laneMask(below: b.i64(columns - first), lanes: lanes)
        let place = b.offset(sums, bytes: b.add(b.mul(row, rowStride), first * 4))
        let numbers = b.sitofp(b.maskedLoad(type.asIntegers, place, mask: mask, alignment: 4), to: type)
        b.maskedStore(numbers, place, mask: mask, alignment: 4)
      }
    }
  }
}
