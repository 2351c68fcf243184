import LLVMKit
import TensorIR
import TileIR

/// Emits one kernel: a function of `ultra_body`'s type that runs one block.
final class KernelEmitter {
  let emitter: LevelEmitter
  let kernel: Kernel
  let number: Int
  let context: Context
  let function: IRFunction
  private(set) var frame: IRValue
  private(set) var scratch: IRValue
  /// Of the block: its first row among all rows, how many rows it has.
  private(set) var firstRow: IRValue
  private(set) var rowCount: IRValue
  /// Of the block's sequence, zero in a domain of rows: its number, first row, length and targets; the block's first
  /// position in it; the block's part.
  private(set) var sequence: IRValue
  private(set) var sequenceStart: IRValue
  private(set) var length: IRValue
  private(set) var targets: IRValue
  private(set) var firstPosition: IRValue
  private(set) var part: IRValue
  /// Of the rows that keys are: the sequence's first one and how many there are.
  private(set) var keySequenceStart: IRValue
  private(set) var keyLength: IRValue
  /// Where the block's rows are a selection of those: the first position that is left out, and how many are.
  private(set) var dropped: (start: IRValue, count: IRValue)?
  /// Of the rows that the sequence's own were put behind: the first one, and how many there are.
  private(set) var keptStart: IRValue
  private(set) var keptLength: IRValue
  /// Of each interval of the mask.
  var hulls: [Hull] = []
  /// The address of the hulls' bounds, start and end of each, so that the loop over keys has one body for all.
  var hullBounds: IRValue?
  /// Inside `forKeys`.
  var keys: KeyRange?

  /// The keys of one turn: the first one's position, how many, and whether every row sees all of them.
  struct KeyRange {
    var first: IRValue
    var count: IRValue
    var allVisible: IRValue
    /// Where keys lie that have two places.
    var place = KeyPlace.apart
  }

  /// Which of its two places a turn of keys lies in.
  enum KeyPlace {
    /// Nothing has two places.
    case apart
    /// All keys of the turn are rows that are kept, or the sequence's own.
    case kept, own
    /// Keys of both, which were brought together in the worker's memory.
    case joined
  }

  /// Lanes of elementwise work, the same at every level, so that sums have the same order everywhere.
  static let lanes = 16

  init(_ emitter: LevelEmitter, number: Int) {
    self.emitter = emitter
    self.number = number
    kernel = emitter.program.kernels[number]
    context = emitter.context
    function = emitter.addFunction(
      "kernel.\(number).\(kernel.name)", [context.pointer, context.i64, context.i32], returns: context.void)
    frame = function.parameters[0]
    let zero = context.i64.constant(0)
    (scratch, firstRow, rowCount, sequence, sequenceStart) = (frame, zero, zero, zero, zero)
    (length, targets, firstPosition, part) = (zero, zero, zero, zero)
    (keySequenceStart, keyLength, keptStart, keptLength) = (zero, zero, zero, zero)
  }

  func emit() -> IRFunction {
    var b = IRBuilder(at: function.appendBlock("entry"))
    let worker = b.zext(function.parameters[2], to: context.i64)
    scratch = b.offset(
      b.load(context.pointer, b.offset(frame, bytes: emitter.scratchSlot)),
      bytes: b.mul(worker, emitter.scratch.byteCount))
    locate(&b, index: function.parameters[1])
    if let mask = kernel.mask { emitIntervals(&b, mask) }
    let tiles = kernel.contractionsByTiles.isEmpty ? nil : emitter.tiles
    if let tiles { tiles.instructions.configure(b, tileState(b, tiles), from: tiles.shapes) }
    emit(&b, kernel.body)
    if let tiles { tiles.instructions.release(b, tileState(b, tiles)) }
    b.ret()
    return function
  }

  func emit(_ b: inout IRBuilder, _ statements: [Statement]) {
    for statement in statements { emit(&b, statement) }
  }

  private func emit(_ b: inout IRBuilder, _ statement: Statement) {
    switch statement {
    case .map(let into, let expression, let masked): emitMap(&b, into: into, expression, masked: masked)
    case .reduce(let into, let sum, let columns): emitReduce(&b, into: into, sum: sum, columns: columns)
    case .maximum(let into, let of, let columns): emitMaximum(&b, into: into, of: of, columns: columns)
    case .contract(let contraction): emitContract(&b, contraction)
    case .transpose(let into, let from, let factor): emitTranspose(&b, into: into, from: from, factor: factor)
    case .indices(let vector, let source): emitIndices(&b, vector, source)
    case .gather(let into, let from, let first, let indices, let keepMissing):
      emitGather(&b, into: into, from: from, first: first, indices, keepMissing: keepMissing)
    case .gatherIntegers(let into, let from, let indices, let missing):
      emitGatherIntegers(&b, into: into, from: from, indices, missing: missing)
    case .nextIntegers(let into, let from, let last): emitNextIntegers(&b, into: into, from: from, last: last)
    case .storeIndices(let into, let vector): emitStoreIndices(&b, into: into, vector)
    case .best(let best): emitBest(&b, best)
    case .merge(let merged): emitMerge(&b, merged)
    case .sort(let into, let from, let offsets, let modulo):
      emitSort(&b, into: into, from: from, offsets: offsets, modulo: modulo)
    case .clear(let slice): emitMap(&b, into: slice, .constant(0), masked: false)
    case .forKeys(_, let step, let body): emitForKeys(&b, step: step, body)
    case .forParts(let count, let body):
      let own = part
      let zero = context.i64.constant(0)
      b.loop(from: zero, to: context.i64.constant(count), name: "part", hint: .asWritten) { b, index in
        part = index
        emit(&b, body)
      }
      part = own
    }
  }

  // MARK: - The block

  /// Finds the block's rows from its index.
  private func locate(_ b: inout IRBuilder, index: IRValue) {
    let i64 = context.i64
    switch kernel.domain {
    case .rows(let dimension, let block, let parts):
      var blockIndex = index
      if parts > 1 { (blockIndex, part) = (b.sdiv(index, parts), b.srem(index, parts)) }
      firstRow = b.mul(blockIndex, block)
      let left = b.sub(emitter.rows(b, Extent(dimension), frame: frame), firstRow)
      rowCount = b.smin(left, block)
    case .sequences(let offsets, let targetsBuffer, let table, let block, let parts):
      // Later blocks of causal attention are heavier: they go first.
      let tableAddress = emitter.address(b, table, frame: frame)
      let sequences = b.sub(emitter.rows(b, emitter.program[table].rows, frame: frame), 1)
      let blocks = b.load(i64, b.element(tableAddress, i64, sequences))
      let backward = b.sub(b.sub(b.mul(blocks, parts), 1), index)
      let blockIndex = b.sdiv(backward, parts)
      part = b.srem(backward, parts)
      sequence = b.sequence(of: blockIndex, among: sequences) { b, number in
        b.load(i64, b.element(tableAddress, i64, number))
      }
      let offsetsAddress = emitter.address(b, offsets, frame: frame)
      sequenceStart = b.load(i64, b.element(offsetsAddress, i64, sequence))
      length = b.sub(b.load(i64, b.element(offsetsAddress, i64, b.add(sequence, 1))), sequenceStart)
      if let targetsBuffer {
        targets = b.load(i64, b.element(emitter.address(b, targetsBuffer, frame: frame), i64, sequence))
      }
      let firstBlock = b.load(i64, b.element(tableAddress, i64, sequence))
      let height = block.rows(b, ofSequence: length)
      firstPosition = b.mul(b.sub(blockIndex, firstBlock), height)
      firstRow = b.add(sequenceStart, firstPosition)
      rowCount = b.smin(b.sub(length, firstPosition), height)
      (keySequenceStart, keyLength) = (sequenceStart, length)
      if let keys = kernel.keys { locate(&b, keys) }
    }
  }

  /// Finds the rows that keys are, and which of them the block's sequence leaves out.
  private func locate(_ b: inout IRBuilder, _ keys: KeyRows) {
    let i64 = context.i64
    let offsets = emitter.address(b, keys.offsets, frame: frame)
    keySequenceStart = b.load(i64, b.element(offsets, i64, sequence))
    keyLength = b.sub(b.load(i64, b.element(offsets, i64, b.add(sequence, 1))), keySequenceStart)
    dropped = b.dropped(by: keys.selection, length: keyLength, targets: targets)
    if let kept = keys.kept {
      let offsets = emitter.address(b, kept, frame: frame)
      keptStart = b.load(i64, b.element(offsets, i64, sequence))
      keptLength = b.sub(b.load(i64, b.element(offsets, i64, b.add(sequence, 1))), keptStart)
    }
  }

  /// The position among keys of the row at a position of the block's own sequence.
  func keyPosition(_ b: IRBuilder, _ position: IRValue) -> IRValue {
    guard let dropped else { return position }
    return b.select(b.icmp(.slt, position, dropped.start), position, b.add(position, dropped.count))
  }

  // MARK: - Tiles

  /// How many rows a tile has in this turn.
  func rows(of tile: Tile) -> IRValue {
    switch tile.rows {
    case .block: rowCount
    case .keys: keys?.count ?? rowCount
    case .fixed(let count): context.i64.constant(count)
    }
  }

  /// Bytes from one row of a tile to the next, where rows are grouped from one group to the next.
  func rowStride(of tile: Tile) -> Int {
    switch tile.home {
    case .scratch(_, let rowStride): rowStride * columnStride(of: tile)
    case .columns(let base, _, _): rowStride(of: kernel[base])
    case .window(let buffer, _, _): rowBytes(of: buffer)
    case .joined(let kept, let own):
      switch keys?.place {
      case .kept where kept.scales == nil: rowBytes(of: kept.buffer)
      case .own, .apart, nil: rowBytes(of: own.buffer)
      case .kept, .joined: kernel.joinedColumns(of: tile) * tile.element.workingByteCount
      }
    }
  }

  /// Bytes from one column of a tile to the next.
  func columnStride(of tile: Tile) -> Int {
    storage(of: tile).workingByteCount * (tile.isGrouped ? tile.element.contractedTogether : 1)
  }

  /// What a tile's elements are loaded and stored as: codes of the caller as bytes, for which u8 stands.
  func storage(of tile: Tile) -> ElementType {
    guard case .window(let buffer, _, _) = tile.home, emitter.program[buffer].holdsCallersCodes else {
      return tile.element
    }
    return .u8
  }

  /// The address of a slice's first element.
  func address(_ b: IRBuilder, _ slice: TileSlice) -> IRValue {
    let tile = kernel[slice.tile]
    switch tile.home {
    case .scratch:
      let offset = emitter.scratch.kernels[number].tiles[slice.tile.index] ?? 0
      return b.offset(scratch, bytes: offset + slice.first * columnStride(of: tile))
    case .columns(let base, let column, let columnsPerPart):
      let first = address(b, TileSlice(base, first: column + slice.first, count: slice.count))
      return columnsPerPart == 0
        ? first : b.offset(first, bytes: b.mul(part, columnsPerPart * columnStride(of: tile)))
    case .window(let buffer, let column, let columnsPerPart):
      let row: IRValue
      switch tile.rows {
      case .block: row = firstRow
      case .keys: row = b.add(keySequenceStart, keys?.first ?? firstPosition)
      case .fixed: row = context.i64.constant(0)
      }
      let columns = BufferColumns(buffer, column: column + slice.first, columnsPerPart: columnsPerPart)
      return address(b, columns, row: row)
    case .joined(let kept, let own):
      let first = keys?.first ?? firstPosition
      func address(_ columns: BufferColumns, row: IRValue) -> IRValue {
        b.offset(self.address(b, columns, row: row), bytes: slice.first * columnStride(of: tile))
      }
      switch keys?.place {
      case .kept where kept.scales == nil: return address(kept, row: b.add(keptStart, first))
      case .own, .apart, nil: return address(own, row: b.add(sequenceStart, b.sub(first, keptLength)))
      case .kept, .joined:
        let first = b.offset(joinedRows(b, slice.tile), bytes: slice.first * columnStride(of: tile))
        return kernel.turnsHaveAllParts
          ? b.offset(first, bytes: b.mul(part, own.columnsPerPart * columnStride(of: tile))) : first
      }
    }
  }

  /// Where keys of a tile are brought together that lie in two places.
  func joinedRows(_ b: IRBuilder, _ tile: TileID) -> IRValue {
    b.offset(scratch, bytes: emitter.scratch.kernels[number].tiles[tile.index] ?? 0)
  }

  /// The address of a row's first column of the part at hand.
  func address(_ b: IRBuilder, _ columns: BufferColumns, row: IRValue) -> IRValue {
    let size = emitter.program[columns.buffer].elementByteCount
    let bytes = b.add(b.mul(row, rowBytes(of: columns.buffer)), b.mul(part, columns.columnsPerPart * size))
    return b.offset(b.offset(address(b, columns.buffer), bytes: bytes), bytes: columns.column * size)
  }

  /// Bytes from one row of a buffer to the next.
  func rowBytes(of buffer: BufferID) -> Int {
    emitter.program[buffer].columns * emitter.program[buffer].elementByteCount
  }

  func address(_ b: IRBuilder, _ buffer: BufferID) -> IRValue { emitter.address(b, buffer, frame: frame) }

  /// Runs the body for every row below `count`, with the row's number.
  func forRows(_ b: inout IRBuilder, _ count: IRValue, _ body: (inout IRBuilder, IRValue) -> Void) {
    b.loop(from: context.i64.constant(0), to: count, name: "row", hint: .asWritten, body)
  }
}
