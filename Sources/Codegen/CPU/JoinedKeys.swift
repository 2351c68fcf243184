import LLVMKit
import TensorIR
import TileIR

// Keys that lie in two places: those that are kept, perhaps as codes, and behind them the sequence's own.
extension KernelEmitter {
  /// Turns over the keys that are kept, then over the sequence's own. Sums go on from turn to turn in the order of keys, so it
  /// does not show where one ends, but for keys that are multiplied together: those that lie in both places are brought together, and
  /// have a turn of their own.
  func emitJoinedTurns(
    _ b: inout IRBuilder, from start: IRValue, to end: IRValue, step: Int, _ body: [Statement]
  ) {
    let together = kernel.joinedTiles.map { kernel[$0].element.contractedTogether }.max() ?? 1
    let seam = b.smax(start, b.smin(keptLength, end))
    guard together > 1 else {
      emitTurns(&b, from: start, to: seam, step: step, .kept, body)
      return emitTurns(&b, from: seam, to: end, step: step, .own, body)
    }
    let whole = b.add(start, b.and(b.sub(seam, start), -together))
    let isCut = b.and(b.icmp(.slt, whole, seam), b.icmp(.slt, seam, end))
    let keptEnd = b.select(isCut, whole, seam)
    let ownStart = b.select(isCut, b.smin(b.add(whole, together), end), seam)
    emitTurns(&b, from: start, to: keptEnd, step: step, .kept, body)
    b.ifThen(isCut, name: "seam") { b in
      for tile in kernel.joinedTiles {
        emitJoined(&b, tile, .kept, first: whole, count: b.sub(seam, whole), at: whole)
        emitJoined(&b, tile, .own, first: seam, count: b.sub(ownStart, seam), at: whole)
      }
      emitTurn(&b, first: whole, count: b.sub(ownStart, whole), .joined, body)
    }
    emitTurns(&b, from: ownStart, to: end, step: step, .own, body)
  }

  /// Decodes the keys of a turn that are kept as codes.
  func emitDecoded(_ b: inout IRBuilder, first: IRValue, count: IRValue) {
    for tile in kernel.joinedTiles where isDecoded(kernel[tile]) {
      emitJoined(&b, tile, .kept, first: first, count: count, at: first)
    }
  }

  /// Whether kept keys of the tile are codes, which are decoded in the worker's memory.
  func isDecoded(_ tile: Tile) -> Bool {
    guard case .joined(let kept, _) = tile.home else { return false }
    return kept.scales != nil
  }

  /// Brings keys of one place to the worker's memory, the key `start` to its first row: the columns of the part at hand, or of all parts
  /// where they are looped over in the turn.
  private func emitJoined(
    _ b: inout IRBuilder, _ id: TileID, _ place: KeyPlace, first: IRValue, count: IRValue, at start: IRValue
  ) {
    let tile = kernel[id]
    guard case .joined(let kept, let own) = tile.home else { return }
    var columns = place == .kept ? kept : own
    if kernel.turnsHaveAllParts { columns.columnsPerPart = 0 }
    let width = kernel.joinedColumns(of: tile)
    let stride = width * tile.element.workingByteCount
    let row = place == .kept ? b.add(keptStart, first) : b.add(sequenceStart, b.sub(first, keptLength))
    let target = b.offset(joinedRows(b, id), bytes: b.mul(b.sub(first, start), stride))
    let source = address(b, columns, row: row)
    if let scales = columns.scales {
      let shape = DecodingShape(
        element: tile.element, columns: width, sourceStride: rowBytes(of: columns.buffer), targetStride: stride)
      let scale = b.element(address(b, scales), context.f32, row)
      b.call(emitter.keptDecoding(shape), [source, scale, target, count])
      return
    }
    let sourceStride = rowBytes(of: columns.buffer)
    forRows(&b, count) { b, row in
      let from = b.offset(source, bytes: b.mul(row, sourceStride))
      copyRow(&b, into: b.offset(target, bytes: b.mul(row, stride)), count: width, tile.element) { b, columns in
        load(b, from, columns, tile.element)
      }
    }
  }
}

/// How rows of f8e4m3 codes with a scale each become rows of numbers.
struct DecodingShape: Hashable {
  /// Of the numbers, f32 or bf16.
  var element: ElementType
  var columns: Int
  /// Bytes from row to row.
  var sourceStride: Int
  var targetStride: Int
}

extension LevelEmitter {
  /// `void (codes, scales, target, rows)`: `code * scale`, rounded to the element.
  func emitKeptDecoding(_ shape: DecodingShape, name: String) -> IRFunction {
    let (p, i64) = (context.pointer, context.i64)
    let function = addFunction(name, [p, p, p, i64], returns: context.void, noInline: true)
    let parameters = function.parameters
    var b = IRBuilder(at: function.appendBlock("entry"))
    let lanes = KernelEmitter.lanes
    let size = shape.element.workingByteCount
    func store(_ b: IRBuilder, _ numbers: IRValue, _ scale: IRValue, _ target: IRValue, column: Int, count: Int) {
      let numbers = narrow(b, b.fmul(numbers, b.splat(scale, lanes)), shape.element)
      let place = b.offset(target, bytes: column * size)
      guard count < lanes else { return b.store(numbers, place, alignment: size) }
      b.maskedStore(numbers, place, mask: firstLanes(count), alignment: size)
    }
    func firstLanes(_ count: Int) -> IRValue {
      context.vector(context.i1, lanes).constants((0..<lanes).map { $0 < count ? 1 : 0 })
    }
    b.loop(from: i64.constant(0), to: parameters[3], step: 1, name: "row", hint: .asWritten) { b, row in
      let source = b.offset(parameters[0], bytes: b.mul(row, shape.sourceStride))
      let target = b.offset(parameters[2], bytes: b.mul(row, shape.targetStride))
      let scale = b.load(context.f32, b.element(parameters[1], context.f32, row), alignment: 4)
      let whole = shape.columns / 64 * 64
      for column in stride(from: 0, to: whole, by: 64) {
        let codes = b.load(context.vector(context.i8, 64), b.offset(source, bytes: column), alignment: 1)
        for (half, numbers) in decodeFloat8(b, codes).enumerated() {
          for quarter in 0..<2 {
            let wide = b.bitcast(numbers, to: context.vector(context.i16, 2 * lanes))
            let own = b.shuffle(wide, (0..<lanes).map { quarter * lanes + $0 })
            store(
              b, widen(b, own, .bf16), scale, target, column: column + (2 * half + quarter) * lanes, count: lanes)
          }
        }
      }
      for column in stride(from: whole, to: shape.columns, by: lanes) {
        let count = min(lanes, shape.columns - column)
        let (type, place) = (context.vector(context.i8, lanes), b.offset(source, bytes: column))
        let codes =
          count == lanes
          ? b.load(type, place, alignment: 1) : b.maskedLoad(type, place, mask: firstLanes(count), alignment: 1)
        store(b, widen(b, codes, .u8), scale, target, column: column, count: count)
      }
    }
    b.ret()
    return function
  }
}
