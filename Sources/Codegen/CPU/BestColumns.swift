import LLVMKit
import TensorIR
import TileIR

// The best columns of a product: a turn of columns in scratch, then those of each row that may be among its best. Nearly all
// turns have none: one comparison with a row's last place for each vector finds that out.
extension KernelEmitter {
  func emitBest(_ b: inout IRBuilder, _ best: BestColumns) {
    let items = emitter.program[best.right]
    guard case .weight(_, let packing) = items.home, let rows = items.rows.dimension.extent,
      let panels = packing.panels(rows: rows, columns: items.columns)
    else { return }
    let i64 = context.i64
    let places = best.scores.count
    let lists = emitLists(&b, best.scores, best.ids)
    let groups = best.seen.map { (ids: address(b, $0.ids), offsets: address(b, $0.offsets)) }
    let total = (panels.columns + panels.width - 1) / panels.width
    let parts = kernel.domain.parts
    let start = parts == 1 ? i64.constant(0) : b.sdiv(b.mul(part, total), parts)
    let end = parts == 1 ? i64.constant(total) : b.sdiv(b.mul(b.add(part, 1), total), parts)
    let products = address(b, best.products)
    let turn = best.products.count / panels.width
    b.loop(from: start, to: end, step: turn, name: "turn", hint: .asWritten) { b, panel in
      let count = b.smin(b.sub(end, panel), turn)
      emitProduct(b, best, packing, panels.width, first: panel, count: count)
      let first = b.mul(panel, panels.width)
      let columns = b.smin(b.mul(count, panels.width), b.sub(i64.constant(panels.columns), first))
      forRows(&b, rowCount) { b, row in
        var seen = (context.pointer.null(), i64.constant(0))
        if let groups {
          let group = b.element(groups.offsets, i64, b.add(firstRow, row))
          let from = b.load(i64, group)
          seen = (b.element(groups.ids, i64, from), b.sub(b.load(i64, b.element(group, i64, 1)), from))
        }
        let list = lists(b, row)
        b.call(
          emitter.collecting(),
          [
            b.offset(products, bytes: b.mul(row, rowStride(of: kernel[best.products.tile]))), columns,
            b.add(first, best.firstID), list.scores, list.ids, i64.constant(places), seen.0, seen.1,
          ])
      }
    }
  }

  /// The products of `count` panels from `first` on.
  private func emitProduct(
    _ b: IRBuilder, _ best: BestColumns, _ packing: Packing, _ width: Int, first: IRValue, count: IRValue
  ) {
    let left = kernel[best.left.tile]
    let into = kernel[best.products.tile]
    let together = left.element.contractedTogether
    let contracted = best.left.count
    var shape = ContractionShape(
      element: left.element, leftRowStride: rowStride(of: left), leftStepStride: 4, leftRest: contracted % together,
      rightStepStride: width * 4, panelColumns: width, resultRowStride: rowStride(of: into),
      resultColumnStride: columnStride(of: into), remainder: 0, accumulate: false, visibility: nil, finish: nil)
    var panelStride = left.element.panelColumnBytes(contracted) * width
    if case .codedPanels(let format, _) = packing {
      shape.coded = format
      panelStride = format.panelRowBytes(ofRow: format.byteCount(width: contracted)) * width
    }
    let arguments = [
      address(b, best.left), b.offset(address(b, best.right), bytes: b.mul(first, panelStride)),
      address(b, best.products), rowCount, context.i64.constant(contracted / together), count,
      context.i64.constant(panelStride), b.offset(scratch, bytes: emitter.scratch.panels[number]),
      b.offset(scratch, bytes: emitter.scratch.environments[number]),
    ]
    let usesTiles = emitter.tiles != nil && together > 1
    b.call(emitter.contraction(shape), arguments + (usesTiles ? [tileMemory(b)] : []))
  }

  /// Lists without items for every row, of this part; gives the addresses of a row's.
  private func emitLists(
    _ b: inout IRBuilder, _ scores: TileSlice, _ ids: BufferID
  ) -> (IRBuilder, IRValue) -> (scores: IRValue, ids: IRValue) {
    let i64 = context.i64
    let places = scores.count
    let (firstScores, scoresStride) = (address(b, scores), rowStride(of: kernel[scores.tile]))
    let idsStride = emitter.program[ids].columns * 8
    let firstIDs = b.offset(
      b.offset(address(b, ids), bytes: b.mul(firstRow, idsStride)), bytes: b.mul(part, places * 8))
    func list(_ b: IRBuilder, _ row: IRValue) -> (scores: IRValue, ids: IRValue) {
      (b.offset(firstScores, bytes: b.mul(row, scoresStride)), b.offset(firstIDs, bytes: b.mul(row, idsStride)))
    }
    forRows(&b, rowCount) { b, row in
      let list = list(b, row)
      b.loop(from: i64.constant(0), to: i64.constant(places), name: "place", hint: .asWritten) { b, place in
        b.store(context.f32.constant(-Double.infinity), b.element(list.scores, context.f32, place), alignment: 4)
        b.store(i64.constant(-1), b.element(list.ids, i64, place))
      }
    }
    return list
  }

  func emitMerge(_ b: inout IRBuilder, _ merged: MergedParts) {
    let i64 = context.i64
    let places = merged.scores.count
    let lists = emitLists(&b, merged.scores, merged.ids)
    let (scores, ids) = (address(b, merged.partScores), address(b, merged.partIDs))
    let count = i64.constant(merged.parts * places)
    forRows(&b, rowCount) { b, row in
      let list = lists(b, row)
      let first = b.mul(b.add(firstRow, row), merged.parts * places)
      // Parts come in the order of their ids, so of equal scores the first one stays before.
      b.loop(from: first, to: b.add(first, count), name: "place", hint: .asWritten) { b, place in
        let id = b.load(i64, b.element(ids, i64, place))
        b.ifThen(b.icmp(.sge, id, 0)) { b in
          let score = b.load(context.f32, b.element(scores, context.f32, place), alignment: 4)
          b.call(
            emitter.insertion(),
            [score, id, list.scores, list.ids, i64.constant(places), context.pointer.null(), i64.constant(0)])
        }
      }
    }
  }

  func emitSort(_ b: inout IRBuilder, into: BufferID, from: BufferID, offsets: BufferID, modulo: Int?) {
    let i64 = context.i64
    let (target, source, cuts) = (address(b, into), address(b, from), address(b, offsets))
    forRows(&b, rowCount) { b, row in
      let group = b.element(cuts, i64, b.add(firstRow, row))
      let first = b.load(i64, group)
      let count = b.sub(b.load(i64, b.element(group, i64, 1)), first)
      let own = (source: b.element(source, i64, first), target: b.element(target, i64, first))
      guard let modulo else {
        b.call(emitter.sorting(), [own.source, own.target, count])
        return
      }
      b.loop(from: i64.constant(0), to: count, name: "hash", hint: .asWritten) { b, index in
        let id = b.load(i64, b.element(own.source, i64, index))
        b.store(b.hashed(id, rows: modulo), b.element(own.target, i64, index))
      }
      b.call(emitter.sorting(), [own.target, own.target, count])
    }
  }
}

extension Kernel {
  /// Bytes of the greatest panel of coded rows that is decoded to fp32 before it is multiplied.
  func decodedByteCount(in program: Program) -> Int {
    statements.map { statement in
      guard case .best(let best) = statement,
        case .weight(_, .codedPanels(let format, let width)) = program[best.right].home
      else { return 0 }
      return format.columns(ofRow: program[best.right].columns) * width * 4
    }.max() ?? 0
  }
}

extension LevelEmitter {
  /// Whether an item goes before the one at a place of a list, where it would be if its score were equal: those that are
  /// there have smaller ids.
  private func goesBefore(
    _ b: IRBuilder, _ score: IRValue, _ other: (score: IRValue, id: IRValue)
  ) -> IRValue {
    let isFirstNumber = b.and(b.fcmp(.uno, other.score, other.score), b.fcmp(.ord, score, score))
    return b.or(b.or(b.fcmp(.ogt, score, other.score), isFirstNumber), b.icmp(.slt, other.id, 0))
  }

  private func place(
    _ b: IRBuilder, _ scores: IRValue, _ ids: IRValue, _ index: IRValue
  ) -> (score: IRValue, id: IRValue) {
    (
      b.load(context.f32, b.element(scores, context.f32, index), alignment: 4),
      b.load(context.i64, b.element(ids, context.i64, index))
    )
  }

  /// `void (products, count, first id, scores, ids, places, seen, seen count)`: puts those of `count` products into a row's
  /// list that are among its best; `products` may be read up to a multiple of 16.
  func emitCollecting(name: String) -> IRFunction {
    let (i64, p) = (context.i64, context.pointer)
    let function = addFunction(name, [p, i64, i64, p, p, i64, p, i64], returns: context.void, noInline: true)
    let parameters = function.parameters
    let (products, count, firstID) = (parameters[0], parameters[1], parameters[2])
    var b = IRBuilder(at: function.appendBlock("entry"))
    let lanes = KernelEmitter.lanes
    let vector = context.vector(context.f32, lanes)
    let last = b.sub(parameters[5], 1)
    /// What a product must be greater than. Nothing is not greater than NaN: that is for lists which take any number.
    func threshold(_ b: IRBuilder) -> IRValue {
      let worst = place(b, parameters[3], parameters[4], last)
      return b.select(b.icmp(.slt, worst.id, 0), context.f32.constant(Double.nan), worst.score)
    }
    func isPossible(_ b: IRBuilder, _ first: IRValue, _ threshold: IRValue) -> IRValue {
      b.fcmp(
        .ugt, b.load(vector, b.element(products, context.f32, first), alignment: 4), b.splat(threshold, lanes))
    }
    /// Looks at every product of a vector whose lane is set.
    func insert(_ b: inout IRBuilder, _ first: IRValue, _ mask: IRValue) {
      let bits = b.zext(b.bitcast(mask, to: context.i16), to: context.i32)
      _ = b.whileLoop(carrying: [bits]) { b, bits in
        b.icmp(.ne, bits[0], 0)
      } _: { b, bits in
        let lane = b.zext(
          b.intrinsic("llvm.cttz", overloads: [context.i32], [bits[0], context.boolean(true)]), to: i64)
        let column = b.add(first, lane)
        let score = b.load(context.f32, b.element(products, context.f32, column), alignment: 4)
        b.call(insertion(), [score, b.add(firstID, column)] + parameters[3...])
        return [b.and(bits[0], b.sub(bits[0], 1))]
      }
    }
    let together = 4
    let whole = b.and(count, -together * lanes)
    let reached = b.loop(
      from: i64.constant(0), to: whole, step: together * lanes, name: "columns", hint: .asWritten,
      carrying: [threshold(b)]
    ) { b, first, carried in
      let masks = (0..<together).map { isPossible(b, b.add(first, $0 * lanes), carried[0]) }
      let any = masks.dropFirst().reduce(masks[0]) { b.or($0, $1) }
      return b.ifThenElse(b.icmp(.ne, b.bitcast(any, to: context.i16), 0)) { b in
        for (index, mask) in masks.enumerated() { insert(&b, b.add(first, index * lanes), mask) }
        return [threshold(b)]
      } otherwise: { _ in
        carried
      }
    }[0]
    b.loop(from: whole, to: count, step: lanes, name: "rest", hint: .asWritten) { b, first in
      insert(&b, first, b.and(isPossible(b, first, reached), b.laneMask(below: b.sub(count, first), lanes: lanes)))
    }
    b.ret()
    return function
  }

  /// `void (score, id, scores, ids, places, seen, seen count)`: puts an item where it belongs in a list, unless it is worse
  /// than all that are there, or seen. Its id is greater than those there.
  func emitInsertion(name: String) -> IRFunction {
    let (i64, p, f32) = (context.i64, context.pointer, context.f32)
    let function = addFunction(name, [f32, i64, p, p, i64, p, i64], returns: context.void, noInline: true)
    let parameters = function.parameters
    let (id, scores, ids) = (parameters[1], parameters[2], parameters[3])
    var b = IRBuilder(at: function.appendBlock("entry"))
    // One NaN for all, so that bits do not depend on how a product came to it.
    let isNumber = b.fcmp(.ord, parameters[0], parameters[0])
    let score = b.select(isNumber, parameters[0], f32.constant(Double.nan))
    let last = b.sub(parameters[4], 1)
    func leave(_ b: inout IRBuilder, if condition: IRValue) { b.ifThen(condition) { $0.ret() } }
    leave(&b, if: b.not(goesBefore(b, score, place(b, scores, ids, last))))
    // The first seen id that is not smaller.
    let found = b.whileLoop(carrying: [i64.constant(0), parameters[6]]) { b, bounds in
      b.icmp(.slt, bounds[0], bounds[1])
    } _: { b, bounds in
      let middle = b.lshr(b.add(bounds[0], bounds[1]), 1)
      let isSmaller = b.icmp(.slt, b.load(i64, b.element(parameters[5], i64, middle)), id)
      return [b.select(isSmaller, b.add(middle, 1), bounds[0]), b.select(isSmaller, bounds[1], middle)]
    }[0]
    b.ifThen(b.icmp(.slt, found, parameters[6])) { b in
      leave(&b, if: b.icmp(.eq, b.load(i64, b.element(parameters[5], i64, found)), id))
    }
    // Those that it goes before move on, a vector of them at a time while it goes before all of one.
    let lanes = KernelEmitter.lanes
    let near = b.whileLoop(carrying: [last]) { b, carried in
      let isFar = b.icmp(.sge, carried[0], lanes)
      let first = b.select(isFar, b.sub(carried[0], lanes), i64.constant(0))
      return b.and(isFar, goesBefore(b, score, place(b, scores, ids, first)))
    } _: { b, carried in
      let first = b.sub(carried[0], lanes)
      let moved = b.load(context.vector(f32, lanes), b.element(scores, f32, first), alignment: 4)
      let movedIDs = b.load(context.vector(i64, lanes), b.element(ids, i64, first), alignment: 8)
      b.store(moved, b.element(scores, f32, b.add(first, 1)), alignment: 4)
      b.store(movedIDs, b.element(ids, i64, b.add(first, 1)), alignment: 8)
      return [first]
    }[0]
    var before = (score: score, id: id)
    let own = b.whileLoop(carrying: [near]) { b, carried in
      let isAfterAnother = b.icmp(.sgt, carried[0], 0)
      before = place(b, scores, ids, b.select(isAfterAnother, b.sub(carried[0], 1), i64.constant(0)))
      return b.and(isAfterAnother, goesBefore(b, score, before))
    } _: { b, carried in
      b.store(before.score, b.element(scores, f32, carried[0]), alignment: 4)
      b.store(before.id, b.element(ids, i64, carried[0]))
      return [b.sub(carried[0], 1)]
    }[0]
    b.store(score, b.element(scores, f32, own), alignment: 4)
    b.store(id, b.element(ids, i64, own))
    b.ret()
    return function
  }

  /// `void (source, target, count)`: the integers in ascending order, by a heap: in no time that depends on how they lie. The target
  /// may be the source.
  func emitSorting(name: String) -> IRFunction {
    let (i64, p) = (context.i64, context.pointer)
    let function = addFunction(name, [p, p, i64], returns: context.void, noInline: true)
    let (source, target, count) = (function.parameters[0], function.parameters[1], function.parameters[2])
    var b = IRBuilder(at: function.appendBlock("entry"))
    let (zero, sinking) = (i64.constant(0), emitSinking(name: "\(name).sink"))
    b.loop(from: zero, to: count, name: "copy", hint: .asWritten) { b, index in
      b.store(b.load(i64, b.element(source, i64, index)), b.element(target, i64, index))
    }
    let half = b.lshr(count, 1)
    b.loop(from: zero, to: half, name: "heap", hint: .asWritten) { b, index in
      let root = b.sub(b.sub(half, 1), index)
      b.call(sinking, [target, root, count, b.load(i64, b.element(target, i64, root))])
    }
    b.loop(from: i64.constant(1), to: count, name: "take", hint: .asWritten) { b, index in
      let end = b.sub(count, index)
      let place = b.element(target, i64, end)
      let displaced = b.load(i64, place)
      b.store(b.load(i64, target), place)
      b.call(sinking, [target, zero, end, displaced])
    }
    b.ret()
    return function
  }

  /// `void (heap, root, end, value)`: puts the value into the heap below `root`, which stands empty.
  private func emitSinking(name: String) -> IRFunction {
    let (i64, p) = (context.i64, context.pointer)
    let function = addFunction(name, [p, i64, i64, i64], returns: context.void, noInline: true)
    let (heap, end, value) = (function.parameters[0], function.parameters[2], function.parameters[3])
    var b = IRBuilder(at: function.appendBlock("entry"))
    func load(_ b: IRBuilder, _ index: IRValue) -> IRValue { b.load(i64, b.element(heap, i64, index)) }
    var greater = (index: value, value: value)
    let own = b.whileLoop(carrying: [function.parameters[1]]) { b, carried in
      let first = b.add(b.shl(carried[0], 1), 1)
      let hasChild = b.icmp(.slt, first, end)
      // What is no child is not looked at: the root stands in for it.
      let child = b.select(hasChild, first, carried[0])
      let other = b.select(b.icmp(.slt, b.add(first, 1), end), b.add(first, 1), child)
      let (one, two) = (load(b, child), load(b, other))
      let isSecond = b.icmp(.sgt, two, one)
      greater = (b.select(isSecond, other, child), b.select(isSecond, two, one))
      return b.and(hasChild, b.icmp(.slt, value, greater.value))
    } _: { b, carried in
      b.store(greater.value, b.element(heap, i64, carried[0]))
      return [greater.index]
    }[0]
    b.store(value, b.element(heap, i64, own))
    b.ret()
    return function
  }

  /// `void (source, target, groups)`: a panel of 32 coded rows as fp32 [column][row]: code * scale + bias, both rounded. A group
  /// is what 32 bytes hold.
  func emitRowPanelDecoding(_ format: TableFormat, name: String) -> IRFunction {
    let i64 = context.i64
    let function = addFunction(name, [context.pointer, context.pointer, i64], returns: context.void, noInline: true)
    let (source, target, groups) = (function.parameters[0], function.parameters[1], function.parameters[2])
    var b = IRBuilder(at: function.appendBlock("entry"))
    let (lanes, width) = (KernelEmitter.lanes, Kernel.panelColumns)
    let vector = context.vector(context.f32, lanes)
    let bytes = context.vector(context.i8, width)
    let halves = stride(from: 0, to: width, by: lanes).map { first in
      (
        first: first, scale: b.load(vector, b.offset(source, bytes: first * 4), alignment: 4),
        bias: b.load(vector, b.offset(source, bytes: (width + first) * 4), alignment: 4)
      )
    }
    let codes = b.offset(source, bytes: 2 * width * 4)
    let together = format == .int4 ? 2 : 1
    b.loop(from: i64.constant(0), to: groups, name: "group", hint: .asWritten) { b, group in
      let stored = b.load(bytes, b.offset(codes, bytes: b.mul(group, width)), alignment: 1)
      let columns = format == .int4 ? [b.and(stored, 15), b.lshr(stored, 4)] : [stored]
      for (column, codes) in columns.enumerated() {
        let out = b.offset(target, bytes: b.mul(b.add(b.mul(group, together), column), width * 4))
        for half in halves {
          let own = b.shuffle(codes, (0..<lanes).map { half.first + $0 })
          let numbers = b.sitofp(b.zext(own, to: context.vector(context.i32, lanes)), to: vector)
          b.store(b.fadd(b.fmul(numbers, half.scale), half.bias), b.offset(out, bytes: half.first * 4), alignment: 4)
        }
      }
    }
    b.ret()
    return function
  }
}
