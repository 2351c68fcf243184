import LLVMKit
import TensorIR
import TileIR

// Rankings: the best columns of a product for each row. A block takes a turn of 32 panels of 32 items at a time: first each warp
// multiplies all rows with panels, of which each lane has one item (warps of 64 lanes take two panels at once); then each warp looks through
// the products of one row, whose list of the best lies in shared memory. Nearly all have nothing for it, which one vote of the warp finds
// out.
extension GPUPlan {
  /// How a ranking is divided.
  struct Ranking {
    /// Lists, each of a row and of one warp.
    var rows: Int
    /// Places of a list.
    var places: Int
    /// Candidates that wait for a list.
    var waiting = 0
    /// Bytes of a row of the left side, in fp32.
    var leftStride = 0
    /// Items of a turn.
    var turn = 0

    /// Of shared memory: ids of all lists and behind each of those that wait for it, then their scores, then the left side and a turn's
    /// products.
    var scores: Int { rows * (places + waiting) * 8 }
    var left: Int { scores + (rows * (places + waiting) * 4 + 15) / 16 * 16 }
    var products: Int { left + rows * leftStride }
    var byteCount: Int { products + rows * turn * 4 }
  }

  /// Items of a turn.
  private static let turnItems = 1024
  private static let rankingWarps = 8
  /// Items of a panel.
  static let panelItems = 32
  /// Shared memory that lets two blocks run at once.
  private static let sharedBytesOfTwo = 100 << 10

  /// The plan of a kernel that ranks, merges what parts have found, or sorts what was seen; false where it does something else.
  mutating func planRanking(target: GPUTarget) throws(GPUError) -> Bool {
    guard let statement = kernel.body.first, kernel.body.count == 1 else { return false }
    switch statement {
    case .best(let best):
      let stride = (best.left.count + 3) / 4 * 16
      ranking = try fitting(
        Ranking(
          rows: 0, places: best.scores.count, waiting: target.lanes, leftStride: stride, turn: Self.turnItems),
        within: target.sharedBytes)
    case .merge(let merged):
      ranking = try fitting(
        Ranking(rows: 0, places: merged.scores.count, waiting: target.lanes), within: target.sharedBytes)
    case .sort: ranking = Ranking(rows: 1, places: 0)
    default: return false
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
    for limit in [min(Self.sharedBytesOfTwo, bytes), bytes] {
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
    case .sort(let into, let from, let offsets, let modulo):
      emitSort(&b, into: into, from: from, offsets: offsets, modulo: modulo)
    default: throw error("a ranking of this form")
    }
  }

  // MARK: - Products

  private func emitBest(_ b: inout IRBuilder, _ best: BestColumns) throws(GPUError) {
    let (i32, i64) = (context.i32, context.i64)
    let items = emitter.program[best.right]
    guard case .weight(_, let packing) = items.home, let count = items.rows.dimension.extent,
      let panels = packing.panels(rows: count, columns: items.columns), panels.width == GPUPlan.panelItems
    else { throw error("items in panels of another width") }
    let ranking = plan.ranking
    let lanes = emitter.target.lanes
    let warps = plan.threads / lanes
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
    let total = (panels.columns + GPUPlan.panelItems - 1) / GPUPlan.panelItems
    let parts = kernel.domain.parts
    // Numbers of panels and parts fit 32 bits, their product may not.
    func bound(_ part: IRValue) -> IRValue {
      b.trunc(b.udiv(b.mul(b.zext(part, to: i64), total), i64.constant(parts)), to: i32)
    }
    let end = bound(b.add(part, 1))
    let memory = b.offset(emitter.shared, bytes: ranking.products)
    // The panels that a warp takes at once, and which of them is the lane's.
    let together = lanes / GPUPlan.panelItems
    func ownPanel(_ b: IRBuilder, _ step: IRValue) -> IRValue {
      together == 1 ? step : b.add(b.mul(step, together), b.udiv(lane, GPUPlan.panelItems))
    }
    let turnPanels = ranking.turn / GPUPlan.panelItems
    let waiting = b.loop(
      from: bound(part), to: end, step: turnPanels, name: "turn", hint: .asWritten, carrying: [i32.constant(0)]
    ) { b, first, waiting in
      let count = b.udiv(b.add(b.smin(b.sub(end, first), turnPanels), together - 1), together)
      b.loop(from: warp, to: count, step: warps, name: "panel", hint: .asWritten) { b, step in
        let panel = b.smin(b.add(first, ownPanel(b, step)), b.sub(end, 1))
        let sums = products(&b, best, items, packing, panel: panel)
        let place = b.offset(memory, bytes: b.mul(b.add(b.mul(step, lanes), lane), 4))
        for (row, sum) in sums.enumerated() {
          b.store(sum, b.offset(place, bytes: row * ranking.turn * 4), alignment: 4)
        }
      }
      barrier(b)
      let after = b.ifThenElse(hasRow, name: "row") { b in
        let row = b.offset(memory, bytes: b.add(b.mul(warp, ranking.turn * 4), b.mul(lane, 4)))
        return b.loop(
          from: i32.constant(0), to: count, step: 1, name: "look", hint: .asWritten, carrying: waiting
        ) { b, step, waiting in
          let score = b.load(context.f32, b.offset(row, bytes: b.mul(step, lanes * 4)), alignment: 4)
          let panel = b.add(first, ownPanel(b, step))
          let column = b.add(
            b.mul(b.zext(panel, to: i64), GPUPlan.panelItems), b.zext(b.urem(lane, GPUPlan.panelItems), to: i64))
          let isThere = b.and(b.icmp(.slt, column, panels.columns), b.icmp(.slt, panel, end))
          let item = (score: score, id: b.add(column, best.firstID))
          // Of equal scores those that are there have smaller ids.
          let last = place(b, own, i32.constant(places - 1))
          let isPossible = b.or(b.icmp(.slt, last.id, 0), b.fcmp(.ugt, score, last.score))
          return b.ifThenElse(b.icmp(.ne, vote(b, b.and(isThere, isPossible)), 0), name: "offer") { b in
            [offer(b, offering, item, isThere: isThere, to: own, waiting: waiting[0], seen: seen).waiting]
          } otherwise: { _ in
            waiting
          }
        }
      } otherwise: { _ in
        waiting
      }
      barrier(b)
      return after
    }[0]
    b.ifThen(hasRow) { b in
      b.call(offering.merge, [own.scores, own.ids, waiting])
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
      panelBytes = format.panelRowBytes(ofRow: items.columns) * GPUPlan.panelItems
    } else {
      panelBytes = items.element.panelColumnBytes(contracted) * GPUPlan.panelItems
    }
    let base = b.offset(address(best.right), bytes: b.mul(b.zext(panel, to: i64), panelBytes))
    let item = b.zext(b.urem(lane, GPUPlan.panelItems), to: i64)
    let own = b.offset(base, bytes: b.mul(item, 4))
    let scaleAndBias = coded.map { _ in
      [0, 128].map { b.load(f32, b.offset(own, bytes: $0), alignment: 4, invariant: true) }
    }
    let codes = b.offset(b.offset(base, bytes: 256), bytes: item)
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
