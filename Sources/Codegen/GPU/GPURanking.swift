import LLVMKit
import TensorIR
import TileIR

// Rankings: the best columns of a product for each row. A block takes a turn of 32 panels of 32 items at a time: first each warp
// multiplies all rows with panels, of which each lane has one item; then each warp looks through the products of one row, whose list of
// the best lies in shared memory. Nearly all have nothing for it, which one vote of the warp finds out.
extension GPUPlan {
  /// How a ranking is divided.
  struct Ranking {
    /// Lists, each of a row and of one warp.
    var rows: Int
    /// Places of a list.
    var places: Int
    /// Bytes of a row of the left side, in fp32.
    var leftStride = 0
    /// Items of a turn.
    var turn = 0

    /// Of shared memory: ids of all lists, then their scores, then the left side and a turn's products.
    var scores: Int { rows * places * 8 }
    var left: Int { scores + (rows * places * 4 + 15) / 16 * 16 }
    var products: Int { left + rows * leftStride }
    var byteCount: Int { products + rows * turn * 4 }
  }

  /// Items of a turn.
  private static let turnItems = 1024
  private static let rankingWarps = 8
  /// Shared memory that lets two blocks run at once.
  private static let sharedBytesOfTwo = 100 << 10

  /// The plan of a kernel that ranks, merges what parts have found, or sorts what was seen; false where it does something else.
  mutating func planRanking(target: GPUTarget) throws(GPUError) -> Bool {
    guard let statement = kernel.body.first, kernel.body.count == 1 else { return false }
    switch statement {
    case .best(let best):
      let stride = (best.left.count + 3) / 4 * 16
      ranking = try fitting(
        Ranking(rows: 0, places: best.scores.count, leftStride: stride, turn: Self.turnItems),
        within: target.sharedBytes)
    case .merge(let merged):
      ranking = try fitting(Ranking(rows: 0, places: merged.scores.count), within: target.sharedBytes)
    case .sort: ranking = Ranking(rows: 1, places: 0)
    default: return false
    }
    guard target.lanes == 32 else {
      throw GPUError(message: "kernel \(kernel.name): no code yet for a ranking of items")
    }
    stages = [.ranking(statement)]
    rows = ranking.rows
    threads = Self.rankingWarps * target.lanes
    sharedBytes = ranking.byteCount
    return true
  }

  /// The ranking with as many rows as leave room for their lists.
  private func fitting(_ wanted: Ranking, within bytes: Int) throws(GPUError) -> Ranking {
    var ranking = wanted
    for limit in [Self.sharedBytesOfTwo, bytes] {
      for rows in [8, 4, 2, 1] {
        ranking.rows = rows
        if ranking.byteCount <= limit { return ranking }
      }
    }
    throw GPUError(
      message: "kernel \(kernel.name): no code yet for the best \(wanted.places) of rows \(wanted.leftStride / 4) wide",
      hint: "a list must fit the \(bytes) bytes of shared memory")
  }
}

extension GPUKernelEmitter {
  func emitRanking(_ b: inout IRBuilder, _ statement: Statement) throws(GPUError) {
    switch statement {
    case .best(let best): try emitBest(&b, best)
    case .merge(let merged): emitMerge(&b, merged)
    case .sort(let into, let from, let offsets): emitSort(&b, into: into, from: from, offsets: offsets)
    default: throw error("a ranking of this form")
    }
  }

  private var places: Int { plan.ranking.places }

  // MARK: - Lists

  /// Places of a row, best first, those that are not taken last: they have id -1.
  private struct List {
    var scores: IRValue
    var ids: IRValue
  }

  private func list(_ b: IRBuilder, _ number: IRValue) -> List {
    let first = b.mul(number, places)
    return List(
      scores: b.offset(b.offset(emitter.shared, bytes: plan.ranking.scores), bytes: b.mul(first, 4)),
      ids: b.offset(emitter.shared, bytes: b.mul(first, 8)))
  }

  /// Empties a list.
  private func clear(_ b: inout IRBuilder, _ list: List) {
    forLanes(&b, count: places) { b, index in
      b.store(context.f32.constant(-Double.infinity), b.element(list.scores, context.f32, index), alignment: 4)
      b.store(context.i64.constant(-1), b.element(list.ids, context.i64, index), alignment: 8)
    }
  }

  private func forLanes(_ b: inout IRBuilder, count: Int, _ body: (inout IRBuilder, IRValue) -> Void) {
    b.loop(from: lane, to: context.i32.constant(count), step: 32, name: "place", hint: .asWritten, body)
  }

  private func place(_ b: IRBuilder, _ list: List, _ index: IRValue) -> (score: IRValue, id: IRValue) {
    (
      b.load(context.f32, b.element(list.scores, context.f32, index), alignment: 4),
      b.load(context.i64, b.element(list.ids, context.i64, index), alignment: 8)
    )
  }

  /// Whether one goes before another, as `TopK` orders them; who is nobody goes before no one.
  private func goesBefore(
    _ b: IRBuilder, _ one: (score: IRValue, id: IRValue), _ other: (score: IRValue, id: IRValue)
  ) -> IRValue {
    let isNaN = b.fcmp(.uno, one.score, one.score)
    let otherIsNaN = b.fcmp(.uno, other.score, other.score)
    let isGreater = b.or(b.fcmp(.ogt, one.score, other.score), b.and(otherIsNaN, b.not(isNaN)))
    let isEqual = b.or(b.fcmp(.oeq, one.score, other.score), b.and(otherIsNaN, isNaN))
    let isFirst = b.or(isGreater, b.and(isEqual, b.icmp(.slt, one.id, other.id)))
    return b.and(b.icmp(.sge, one.id, 0), b.or(b.icmp(.slt, other.id, 0), isFirst))
  }

  /// What a lane has, for all.
  private func broadcast(_ b: IRBuilder, _ word: IRValue, from source: IRValue) -> IRValue {
    let all = context.i32.constant(-1)
    return b.intrinsic("llvm.nvvm.shfl.sync.idx.i32", [all, word, source, context.i32.constant(31)])
  }

  /// `i32 (score, id, is there, scores, ids, seen, seen count)`, called by all lanes of a warp: puts each lane's item where it belongs
  /// in the warp's list, unless it is worse than all that are there, or seen. Gives a bit for each lane whose item was not.
  private func emitOffering() -> IRFunction {
    let (i32, i64, f32) = (context.i32, context.i64, context.f32)
    let (own, memory) = (
      context.pointer(addressSpace: GPUModuleEmitter.shared), context.pointer(addressSpace: GPUModuleEmitter.global)
    )
    let offering = emitter.module.addFunction(
      "\(function.name)_offer",
      type: context.function([f32, i64, context.i1, own, own, memory, i64], returns: i32),
      linkage: .internal)
    for attribute in ["nounwind", "noinline", "convergent"] { offering.addAttribute(attribute) }
    let parameters = offering.parameters
    let list = List(scores: parameters[3], ids: parameters[4])
    var b = IRBuilder(at: offering.appendBlock("entry"))
    let lane = b.urem(threadIndex(b), emitter.target.lanes)
    // One NaN for all, so that bits do not depend on how a product came to it.
    let isNumber = b.fcmp(.ord, parameters[0], parameters[0])
    let item = (score: b.select(isNumber, parameters[0], f32.constant(Double.nan)), id: parameters[1])
    let last = i32.constant(places - 1)
    let isPossible = b.and(parameters[2], goesBefore(b, item, place(b, list, last)))
    let isNew = b.ifThenElse(isPossible) { b in
      // The first seen id that is not smaller.
      let found = b.whileLoop(carrying: [i64.constant(0), parameters[6]]) { b, bounds in
        b.icmp(.slt, bounds[0], bounds[1])
      } _: { b, bounds in
        let middle = b.lshr(b.add(bounds[0], bounds[1]), 1)
        let isSmaller = b.icmp(.slt, b.load(i64, b.element(parameters[5], i64, middle), alignment: 8), item.id)
        return [b.select(isSmaller, b.add(middle, 1), bounds[0]), b.select(isSmaller, bounds[1], middle)]
      }[0]
      return b.ifThenElse(b.icmp(.slt, found, parameters[6])) { b in
        [b.icmp(.ne, b.load(i64, b.element(parameters[5], i64, found), alignment: 8), item.id)]
      } otherwise: { _ in
        [context.boolean(true)]
      }
    } otherwise: { _ in
      [context.boolean(false)]
    }[0]
    let wanted = vote(b, isNew)
    _ = b.whileLoop(name: "offer", carrying: [wanted]) { b, carried in
      b.icmp(.ne, carried[0], 0)
    } _: { b, carried in
      let source = b.intrinsic("llvm.cttz", overloads: [i32], [carried[0], context.boolean(true)])
      let words = [b.bitcast(item.score, to: i32), b.trunc(item.id, to: i32), b.trunc(b.lshr(item.id, 32), to: i32)]
        .map { broadcast(b, $0, from: source) }
      let id = b.or(b.zext(words[1], to: i64), b.shl(b.zext(words[2], to: i64), 32))
      let chosen = (score: b.bitcast(words[0], to: f32), id: id)
      b.ifThen(goesBefore(b, chosen, place(b, list, last))) { b in insert(&b, chosen, into: list, lane: lane) }
      return [b.and(carried[0], b.sub(carried[0], 1))]
    }
    b.ret(wanted)
    return offering
  }

  /// Puts an item into a list; those behind it move on, the last is gone. By all lanes.
  private func insert(
    _ b: inout IRBuilder, _ item: (score: IRValue, id: IRValue), into list: List, lane: IRValue
  ) {
    let i32 = context.i32
    let chunks = (places + 31) / 32
    let own = b.loop(
      from: i32.constant(0), to: i32.constant(chunks), step: 1, name: "before", hint: .asWritten,
      carrying: [i32.constant(0)]
    ) { b, chunk, carried in
      let index = b.add(b.mul(chunk, 32), lane)
      let there = place(b, list, b.smin(index, places - 1))
      let isBefore = b.and(b.icmp(.slt, index, places), goesBefore(b, there, item))
      return [b.add(carried[0], b.intrinsic("llvm.ctpop", overloads: [i32], [vote(b, isBefore)]))]
    }[0]
    b.loop(
      from: i32.constant(0), to: b.sub(i32.constant(chunks), b.udiv(own, 32)), step: 1, name: "move", hint: .asWritten
    ) { b, number in
      let index = b.add(b.mul(b.sub(i32.constant(chunks - 1), number), 32), lane)
      let moves = b.and(b.icmp(.sgt, index, own), b.icmp(.slt, index, places))
      let there = place(b, list, b.smin(b.smax(b.sub(index, 1), 0), places - 1))
      meetLanes(b)
      b.ifThen(moves) { b in
        b.store(there.score, b.element(list.scores, context.f32, index), alignment: 4)
        b.store(there.id, b.element(list.ids, context.i64, index), alignment: 8)
      }
      meetLanes(b)
    }
    b.ifThen(b.icmp(.eq, lane, 0)) { b in
      b.store(item.score, b.element(list.scores, context.f32, own), alignment: 4)
      b.store(item.id, b.element(list.ids, context.i64, own), alignment: 8)
    }
    meetLanes(b)
  }

  @discardableResult
  private func offer(
    _ b: IRBuilder, _ offering: IRFunction, _ item: (score: IRValue, id: IRValue), isThere: IRValue, to list: List,
    seen: (ids: IRValue, count: IRValue)? = nil
  ) -> IRValue {
    let none = context.pointer(addressSpace: GPUModuleEmitter.global).null()
    return b.call(
      offering,
      [
        item.score, item.id, isThere, list.scores, list.ids, seen?.ids ?? none, seen?.count ?? context.i64.constant(0),
      ])
  }

  /// Writes a list where a row's results go; ids from a column on.
  private func write(
    _ b: inout IRBuilder, _ list: List, row: IRValue, _ scores: TileSlice, _ ids: BufferID, firstColumn: IRValue
  ) {
    let i64 = context.i64
    let target = rowAddress(b, scores, row: row)
    let index = b.add(b.mul(b.add(firstRow, b.zext(row, to: i64)), emitter.program[ids].columns), firstColumn)
    let idTarget = b.element(address(ids), i64, index)
    forLanes(&b, count: places) { b, index in
      let there = place(b, list, index)
      b.store(there.score, b.element(target, context.f32, index), alignment: 4)
      b.store(there.id, b.element(idTarget, i64, index), alignment: 8)
    }
  }

  // MARK: - Products

  private func emitBest(_ b: inout IRBuilder, _ best: BestColumns) throws(GPUError) {
    let (i32, i64) = (context.i32, context.i64)
    let items = emitter.program[best.right]
    guard case .weight(_, let packing) = items.home, let count = items.rows.dimension.extent,
      let panels = packing.panels(rows: count, columns: items.columns), panels.width == 32
    else { throw error("items in panels of another width") }
    let ranking = plan.ranking
    let warps = plan.threads / emitter.target.lanes
    let offering = emitOffering()
    // Each warp's list is that of one row.
    let own = list(b, b.smin(warp, ranking.rows - 1))
    let hasRow = b.icmp(.slt, warp, rowCount)
    b.ifThen(hasRow) { b in clear(&b, own) }
    bringLeft(&b, best.left)
    let seen = best.seen.map { groups -> (ids: IRValue, count: IRValue) in
      let row = b.add(firstRow, b.zext(b.smin(warp, b.sub(rowCount, 1)), to: i64))
      let first = integer(b, groups.offsets, row)
      return (b.element(address(groups.ids), i64, first), b.sub(integer(b, groups.offsets, b.add(row, 1)), first))
    }
    barrier(b)
    let total = (panels.columns + 31) / 32
    let parts = kernel.domain.parts
    // Numbers of panels and parts fit 32 bits, their product may not.
    func bound(_ part: IRValue) -> IRValue {
      b.trunc(b.udiv(b.mul(b.zext(part, to: i64), total), i64.constant(parts)), to: i32)
    }
    let end = bound(b.add(part, 1))
    let memory = b.offset(emitter.shared, bytes: ranking.products)
    b.loop(from: bound(part), to: end, step: ranking.turn / 32, name: "turn", hint: .asWritten) { b, first in
      let count = b.smin(b.sub(end, first), ranking.turn / 32)
      b.loop(from: warp, to: count, step: warps, name: "panel", hint: .asWritten) { b, panel in
        let sums = products(&b, best, items, packing, panel: b.add(first, panel))
        let place = b.offset(memory, bytes: b.mul(b.add(b.mul(panel, 32), lane), 4))
        for (row, sum) in sums.enumerated() {
          b.store(sum, b.offset(place, bytes: row * ranking.turn * 4), alignment: 4)
        }
      }
      barrier(b)
      b.ifThen(hasRow) { b in
        let row = b.offset(memory, bytes: b.add(b.mul(warp, ranking.turn * 4), b.mul(lane, 4)))
        b.loop(from: i32.constant(0), to: count, step: 1, name: "look", hint: .asWritten) { b, panel in
          let score = b.load(context.f32, b.offset(row, bytes: b.mul(panel, 128)), alignment: 4)
          let column = b.add(b.mul(b.zext(b.add(first, panel), to: i64), 32), b.zext(lane, to: i64))
          let isThere = b.icmp(.slt, column, panels.columns)
          let item = (score: score, id: b.add(column, best.firstID))
          // Of equal scores those that are there have smaller ids.
          let last = place(b, own, i32.constant(places - 1))
          let isPossible = b.or(b.icmp(.slt, last.id, 0), b.fcmp(.ugt, score, last.score))
          b.ifThen(b.icmp(.ne, vote(b, b.and(isThere, isPossible)), 0)) { b in
            offer(b, offering, item, isThere: isThere, to: own, seen: seen)
          }
        }
      }
      barrier(b)
    }
    b.ifThen(hasRow) { b in
      write(&b, own, row: warp, best.scores, best.ids, firstColumn: b.mul(b.zext(part, to: i64), places))
    }
  }

  /// Copies the left side's rows into shared memory as fp32; past the last row the last one again.
  private func bringLeft(_ b: inout IRBuilder, _ left: TileSlice) {
    let columns = left.count
    let element = kernel[left.tile].element
    let target = b.offset(emitter.shared, bytes: plan.ranking.left)
    b.loop(
      from: thread, to: context.i32.constant(plan.ranking.rows * columns), step: plan.threads, name: "left",
      hint: .asWritten
    ) { b, index in
      let (row, column) = (b.udiv(index, columns), b.urem(index, columns))
      let source = b.offset(
        rowAddress(b, left, row: b.smin(row, b.sub(rowCount, 1))), bytes: b.mul(column, element.deviceByteCount))
      let number = load(b, source, element, lanes: 1, alignment: element.deviceByteCount)
      b.store(
        number, b.offset(target, bytes: b.add(b.mul(row, plan.ranking.leftStride), b.mul(column, 4))), alignment: 4)
    }
  }

  /// Of each row the product with the lane's item of a panel.
  private func products(
    _ b: inout IRBuilder, _ best: BestColumns, _ items: Buffer, _ packing: Packing, panel: IRValue
  ) -> [IRValue] {
    let (i32, i64, f32) = (context.i32, context.i64, context.f32)
    let contracted = best.left.count
    let rows = plan.ranking.rows
    let panelBytes: Int
    var coded: TableFormat?
    if case .codedPanels(let format, _) = packing {
      coded = format
      panelBytes = format.panelRowBytes(ofRow: items.columns) * 32
    } else {
      panelBytes = items.element.panelColumnBytes(contracted) * 32
    }
    let base = b.offset(address(best.right), bytes: b.mul(b.zext(panel, to: i64), panelBytes))
    let own = b.offset(base, bytes: b.mul(b.zext(lane, to: i64), 4))
    let scaleAndBias = coded.map { _ in
      [0, 128].map { b.load(f32, b.offset(own, bytes: $0), alignment: 4, invariant: true) }
    }
    let codes = b.offset(b.offset(base, bytes: 256), bytes: b.zext(lane, to: i64))
    /// The item's numbers from a column on, a multiple of 4.
    func numbers(_ b: IRBuilder, _ column: IRValue, _ count: Int) -> [IRValue] {
      func row(_ pointer: IRValue, _ index: IRValue, _ bytes: Int) -> IRValue {
        b.offset(pointer, bytes: b.mul(b.zext(index, to: i64), bytes))
      }
      guard let coded, let scaleAndBias else {
        if items.element == .bf16 {
          return stride(from: 0, to: count, by: 2).flatMap { first -> [IRValue] in
            let pair = b.load(i32, row(own, b.add(b.lshr(column, 1), first / 2), 128), alignment: 4, invariant: true)
            return [b.shl(pair, 16), b.and(pair, -65536)].map { b.bitcast($0, to: f32) }
          }
        }
        return (0..<count).map { b.load(f32, row(own, b.add(column, $0), 128), alignment: 4, invariant: true) }
      }
      func decoded(_ code: IRValue) -> IRValue {
        b.fadd(b.fmul(b.uitofp(code, to: f32), scaleAndBias[0]), scaleAndBias[1])
      }
      func byte(_ index: IRValue) -> IRValue {
        b.zext(b.load(context.i8, row(codes, index, 32), alignment: 1, invariant: true), to: i32)
      }
      switch coded {
      case .int8: return (0..<count).map { decoded(byte(b.add(column, $0))) }
      case .int4:
        return stride(from: 0, to: count, by: 2).flatMap { first -> [IRValue] in
          let both = byte(b.add(b.lshr(column, 1), first / 2))
          return [b.and(both, 15), b.lshr(both, 4)].map(decoded)
        }
      }
    }
    let left = b.offset(emitter.shared, bytes: plan.ranking.left)
    func add(_ b: IRBuilder, _ column: IRValue, _ count: Int, to sums: [IRValue]) -> [IRValue] {
      let numbers = numbers(b, column, count)
      return sums.enumerated().map { row, sum in
        let place = b.offset(b.offset(left, bytes: row * plan.ranking.leftStride), bytes: b.mul(column, 4))
        let factors =
          count == 4
          ? scalars(b, b.load(context.vector(f32, 4), place, alignment: 16))
          : (0..<count).map { b.load(f32, b.offset(place, bytes: 4 * $0), alignment: 4) }
        return zip(factors, numbers).reduce(sum) { b.fma($1.0, $1.1, $0) }
      }
    }
    let whole = contracted / 4 * 4
    let sums = b.loop(
      from: i32.constant(0), to: i32.constant(whole), step: 4, name: "contract", hint: .unroll(4),
      carrying: Array(repeating: f32.constant(0.0), count: rows)
    ) { b, column, sums in add(b, column, 4, to: sums) }
    return contracted == whole ? sums : add(b, i32.constant(whole), contracted - whole, to: sums)
  }

  // MARK: - What parts have found, and what was seen

  private func emitMerge(_ b: inout IRBuilder, _ merged: MergedParts) {
    let (i32, i64) = (context.i32, context.i64)
    let offering = emitOffering()
    b.ifThen(b.icmp(.slt, warp, rowCount)) { b in
      let own = list(b, warp)
      clear(&b, own)
      meetLanes(b)
      let first = b.mul(b.add(firstRow, b.zext(warp, to: i64)), merged.parts * places)
      // The best of all parts, then the second of all: where none of them is wanted, none of the next is.
      _ = b.whileLoop(name: "rank", carrying: [i32.constant(0), i32.constant(1)]) { b, carried in
        b.and(b.icmp(.slt, carried[0], places), b.icmp(.ne, carried[1], 0))
      } _: { b, carried in
        let wanted = b.loop(
          from: i32.constant(0), to: i32.constant(merged.parts), step: 32, name: "part", hint: .asWritten,
          carrying: [i32.constant(0)]
        ) { b, chunk, wanted in
          let part = b.add(chunk, lane)
          let index = b.add(b.mul(b.smin(part, merged.parts - 1), places), carried[0])
          let place = b.add(first, b.zext(index, to: i64))
          let score = b.load(context.f32, b.element(address(merged.partScores), context.f32, place), alignment: 4)
          let id = b.load(i64, b.element(address(merged.partIDs), i64, place), alignment: 8)
          let isThere = b.icmp(.slt, part, merged.parts)
          return [b.or(wanted[0], offer(b, offering, (score, id), isThere: isThere, to: own))]
        }[0]
        return [b.add(carried[0], 1), wanted]
      }
      write(&b, own, row: warp, merged.scores, merged.ids, firstColumn: i64.constant(0))
    }
  }

  /// Sorts the integers of the block's group: pairs are put in order, then neighbouring runs of twice as many, mirrored against each
  /// other (a bitonic network, which as good as ends with what is greater than all).
  private func emitSort(_ b: inout IRBuilder, into: BufferID, from: BufferID, offsets: BufferID) {
    let i64 = context.i64
    let start = integer(b, offsets, firstRow)
    let count = b.sub(integer(b, offsets, b.add(firstRow, 1)), start)
    let target = b.element(address(into), i64, start)
    let first = b.zext(thread, to: i64)
    b.loop(from: first, to: count, step: plan.threads, name: "copy", hint: .asWritten) { b, index in
      b.store(integer(b, from, b.add(start, index)), b.element(target, i64, index), alignment: 8)
    }
    barrier(b)
    func exchange(_ b: inout IRBuilder, _ mask: IRValue) {
      b.loop(from: first, to: count, step: plan.threads, name: "exchange", hint: .asWritten) { b, index in
        let partner = b.xor(index, mask)
        b.ifThen(b.and(b.icmp(.sgt, partner, index), b.icmp(.slt, partner, count))) { b in
          let places = [index, partner].map { b.element(target, i64, $0) }
          let values = places.map { b.load(i64, $0, alignment: 8) }
          b.ifThen(b.icmp(.sgt, values[0], values[1])) { b in
            b.store(values[1], places[0], alignment: 8)
            b.store(values[0], places[1], alignment: 8)
          }
        }
      }
      barrier(b)
    }
    _ = b.whileLoop(name: "run", carrying: [i64.constant(1)]) { b, run in
      b.icmp(.slt, run[0], count)
    } _: { b, run in
      let twice = b.shl(run[0], 1)
      exchange(&b, b.sub(twice, 1))
      _ = b.whileLoop(name: "half", carrying: [b.lshr(run[0], 1)]) { b, half in
        b.icmp(.sgt, half[0], 0)
      } _: { b, half in
        exchange(&b, half[0])
        return [b.lshr(half[0], 1)]
      }
      return [twice]
    }
  }
}
