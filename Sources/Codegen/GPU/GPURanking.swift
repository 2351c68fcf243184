import LLVMKit
import TensorIR
import TileIR

// Rankings: the best columns of a product for each row. A block takes a turn of the items at a time: first its warps multiply all rows
// with panels of 32 items; then each warp looks through the products of some rows, whose lists of the best lie in shared memory. Nearly
// all have nothing for them, which one vote of the warp finds out for four items of each lane.
extension GPUPlan {
  /// How a ranking is divided.
  struct Ranking {
    /// Lists, each of a row and kept by one warp.
    var rows: Int
    /// Places of a list.
    var places: Int
    /// Candidates that wait for a list.
    var waiting = 0
    /// Bytes of a row of the left side.
    var leftStride = 0
    /// Items of a turn.
    var turn = 0
    /// Blocks that a multiprocessor should run at once.
    var blocksAtOnce = 1
    /// Whether matrix instructions multiply: tiles of sixteen rows, in bf16. Otherwise the left side lies in fp32.
    var hasMatrices = false

    /// Of shared memory: ids of all lists and behind each of those that wait for it, then their scores, then how many wait for each, then
    /// the left side and a turn's products.
    var scores: Int { rows * (places + waiting) * 8 }
    var counts: Int { scores + rows * (places + waiting) * 4 }
    var left: Int { (counts + rows * 4 + 15) / 16 * 16 }
    var products: Int { left + rows * leftStride }
    /// Bytes from row to row of a turn's products: an odd number of 16 bytes, so that rows that are written at once lie in different
    /// banks.
    var productStride: Int { turn * 4 + 16 }
    var byteCount: Int { products + (turn == 0 ? 0 : rows * productStride) }
  }

  static let rankingWarps = 8
  /// Items of a panel.
  static let panelItems = 32

  /// The plan of a kernel that ranks, merges what parts have found, or sorts what was seen; false where it does something else.
  mutating func planRanking(target: GPUTarget) throws(GPUError) -> Bool {
    guard let statement = kernel.body.first, kernel.body.count == 1 else { return false }
    switch statement {
    case .best(let best):
      if let matrices = Self.fitting(matrixRankings(best, target), target) {
        ranking = matrices
      } else {
        ranking = try firstFitting(numberRankings(best, target), target)
      }
    case .merge(let merged):
      ranking = try firstFitting(
        [8, 4, 2, 1].map { Ranking(rows: $0, places: merged.scores.count, waiting: target.lanes) }, target)
    case .sort: ranking = Ranking(rows: 1, places: 0)
    default: return false
    }
    stages = [.ranking(statement)]
    rows = ranking.rows
    threads = Self.rankingWarps * target.lanes
    if ranking.places > 0 { sharedBytes = ranking.byteCount }
    return true
  }

  /// Of items and rows of bf16. More rows read the items fewer times; for one alone it costs little, since its time is that of reading
  /// them once. How many rows there are, a kernel is told too late: all have one way of multiplying, so that a row's bits do not depend
  /// on the others.
  private func matrixRankings(_ best: BestColumns, _ target: GPUTarget) -> [Ranking] {
    guard kernel[best.left.tile].element == .bf16 else { return [] }
    // Tiles of eight rows by 16 bytes are read at once: with an odd number of 16 bytes between rows they lie in different banks.
    let stride = (best.left.count + Packing.fragmentRows - 1) / Packing.fragmentRows * Packing.stepBytes + 16
    return [(32, 512), (32, 256), (16, 512), (16, 256)].map { rows, turn in
      Ranking(
        rows: rows, places: best.scores.count, waiting: target.lanes, leftStride: stride, turn: turn, hasMatrices: true)
    }
  }

  /// Of all others: each lane multiplies all rows with some items.
  private func numberRankings(_ best: BestColumns, _ target: GPUTarget) -> [Ranking] {
    [16, 8, 4, 2, 1].map {
      Ranking(
        rows: $0, places: best.scores.count, waiting: target.lanes, leftStride: (best.left.count + 3) / 4 * 16,
        turn: 1024)
    }
  }

  /// The first that leaves room for a second block, or else that finds room itself; nil where none does. NVIDIA keeps 1024 bytes more for
  /// each block; AMD's have twice the threads, and one will do.
  private static func fitting(_ rankings: [Ranking], _ target: GPUTarget) -> Ranking? {
    if target.vendor == .nvidia, var found = rankings.first(where: { 2 * $0.byteCount + 1024 <= target.sharedBytes }) {
      found.blocksAtOnce = 2
      return found
    }
    return rankings.first { $0.byteCount <= target.sharedBytes }
  }

  private func firstFitting(_ rankings: [Ranking], _ target: GPUTarget) throws(GPUError) -> Ranking {
    if let found = Self.fitting(rankings, target) { return found }
    let wanted = rankings[0]
    throw GPUError(
      message: "kernel \(kernel.name): no code yet for the best \(wanted.places) of rows \(wanted.leftStride / 4) wide",
      hint: "a list must fit the \(target.sharedBytes) bytes of shared memory")
  }
}

extension GPUKernelEmitter {
  func emitRanking(_ b: inout IRBuilder, _ statement: Statement) throws(GPUError) {
    switch statement {
    case .best(let best): try emitBest(&b, best)
    case .merge(let merged): emitMerge(&b, merged)
    case .sort(let into, let from, let offsets, let modulo):
      emitSort(&b, into: into, from: from, offsets: offsets, modulo: modulo)
    default: throw error("a ranking of this form")
    }
  }

  private func emitBest(_ b: inout IRBuilder, _ best: BestColumns) throws(GPUError) {
    let (i32, i64) = (context.i32, context.i64)
    let buffer = emitter.program[best.right]
    guard case .weight(_, let packing) = buffer.home, let count = buffer.rows.dimension.extent,
      let panels = packing.panels(rows: count, columns: buffer.columns), panels.width == GPUPlan.panelItems
    else { throw error("items in panels of another width") }
    let items = RankedItems(best, packing, element: buffer.element, columns: buffer.columns)
    let offering = emitOffering()
    forLists(&b) { b, row in
      clear(&b, list(b, row))
      b.store(i32.constant(0), waitingCount(b, row), alignment: 4)
    }
    bringLeft(&b, best.left)
    barrier(b)
    let total = (panels.columns + GPUPlan.panelItems - 1) / GPUPlan.panelItems
    let parts = kernel.domain.parts
    // Numbers of panels and parts fit 32 bits, their product may not.
    func bound(_ part: IRValue) -> IRValue {
      b.trunc(b.udiv(b.mul(b.zext(part, to: i64), total), i64.constant(parts)), to: i32)
    }
    let end = bound(b.add(part, 1))
    let turn = plan.ranking.turn / GPUPlan.panelItems
    b.loop(from: bound(part), to: end, step: turn, name: "turn", hint: .asWritten) { b, first in
      let count = b.smin(b.sub(end, first), turn)
      if plan.ranking.hasMatrices {
        multiplyMatrices(&b, items, first: first, count: count)
      } else {
        multiplyNumbers(&b, items, first: first, count: count)
      }
      barrier(b)
      let column = b.mul(b.zext(first, to: i64), GPUPlan.panelItems)
      let there = b.smin(
        b.mul(count, GPUPlan.panelItems),
        b.trunc(b.smin(b.sub(i64.constant(panels.columns), column), plan.ranking.turn), to: i32))
      forLists(&b) { b, row in look(&b, best, offering, row: row, first: column, count: there) }
      barrier(b)
    }
    forLists(&b) { b, row in
      let own = list(b, row)
      b.call(offering.merge, [own.scores, own.ids, b.load(i32, waitingCount(b, row), alignment: 4)])
      write(&b, own, row: row, best.scores, best.ids, firstColumn: b.mul(b.zext(part, to: i64), places))
    }
  }

  /// Runs the body for each row whose list is this warp's.
  private func forLists(_ b: inout IRBuilder, _ body: (inout IRBuilder, IRValue) -> Void) {
    b.loop(from: warp, to: rowCount, step: GPUPlan.rankingWarps, name: "list", hint: .asWritten, body)
  }

  /// Where it stands how many wait for a row's list.
  private func waitingCount(_ b: IRBuilder, _ row: IRValue) -> IRValue {
    b.offset(b.offset(emitter.shared, bytes: plan.ranking.counts), bytes: b.mul(row, 4))
  }

  /// Offers a row's list those of a turn's `count` items, the first of which is the column `first`, that may be among its best.
  private func look(
    _ b: inout IRBuilder, _ best: BestColumns, _ offering: Offering, row: IRValue, first: IRValue, count: IRValue
  ) {
    let (i32, i64, f32) = (context.i32, context.i64, context.f32)
    let own = list(b, row)
    let products = b.offset(
      b.offset(emitter.shared, bytes: plan.ranking.products), bytes: b.mul(row, plan.ranking.productStride))
    b.loop(
      from: i32.constant(0), to: count, step: 4 * emitter.target.lanes, name: "look", hint: .asWritten
    ) { b, start in
      let four = b.add(start, b.mul(lane, 4))
      let scores = scalars(
        b, b.load(context.vector(f32, 4), b.offset(products, bytes: b.mul(four, 4)), alignment: 16))
      // Of equal scores those that are there have smaller ids.
      let last = place(b, own, i32.constant(places - 1))
      let hasRoom = b.icmp(.slt, last.id, 0)
      let isPossible = scores.enumerated().reduce(context.boolean(false)) { isPossible, score in
        let isThere = b.icmp(.slt, b.add(four, score.offset), count)
        return b.or(isPossible, b.and(isThere, b.or(hasRoom, b.fcmp(.ugt, score.element, last.score))))
      }
      b.ifThen(b.icmp(.ne, vote(b, isPossible), 0), name: "offer") { b in
        let seen = best.seen.map { groups -> (ids: IRValue, count: IRValue) in
          let group = b.add(firstRow, b.zext(row, to: i64))
          let first = integer(b, groups.offsets, group)
          return (b.element(address(groups.ids), i64, first), b.sub(integer(b, groups.offsets, b.add(group, 1)), first))
        }
        let waiting = waitingCount(b, row)
        let known = uniform(b, b.load(i32, waiting, alignment: 4))
        let after = b.loop(
          from: i32.constant(0), to: i32.constant(4), step: 1, name: "each", hint: .asWritten, carrying: [known]
        ) { b, number, known in
          let column = b.add(four, number)
          let score = b.load(f32, b.offset(products, bytes: b.mul(column, 4)), alignment: 4)
          let item = (score: score, id: b.add(b.add(first, b.zext(column, to: i64)), best.firstID))
          let isThere = b.icmp(.slt, column, count)
          return [offer(b, offering, item, isThere: isThere, to: own, waiting: known[0], seen: seen).waiting]
        }
        b.store(after[0], waiting, alignment: 4)
        meetLanes(b)
      }
    }
  }

  // MARK: - What was seen

  /// Sorts the integers of the block's group: pairs are put in order, then neighbouring runs of twice as many, mirrored against each
  /// other (a bitonic network, which as good as ends with what is greater than all).
  private func emitSort(_ b: inout IRBuilder, into: BufferID, from: BufferID, offsets: BufferID, modulo: Int?) {
    let i64 = context.i64
    let start = integer(b, offsets, firstRow)
    let count = b.sub(integer(b, offsets, b.add(firstRow, 1)), start)
    let target = b.element(address(into), i64, start)
    let first = b.zext(thread, to: i64)
    b.loop(from: first, to: count, step: plan.threads, name: "copy", hint: .asWritten) { b, index in
      let id = integer(b, from, b.add(start, index))
      b.store(modulo.map { b.hashed(id, rows: $0) } ?? id, b.element(target, i64, index), alignment: 8)
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
