import LLVMKit
import TensorIR
import TileIR

// Attention of a block of queries in one head. Queries, keys and values lie in shared memory, two turns of keys and values of them, one
// on its way while the other is worked on. A warp takes 32 queries, or 16; scores and sums never leave its registers.
extension GPUKernelEmitter {
  private typealias Shape = GPUPlan.WarpAttention

  /// Emits the block, or a share of it; gives the bytes of shared memory that it takes.
  func emitAttention(
    _ b: inout IRBuilder, _ attention: GPUPlan.AttentionBlock, share: AttentionShare?
  ) throws(GPUError) -> Int {
    if let division = plan.scalarAttention { return emitScalarAttention(&b, attention, division) }
    for slice in [attention.queries, attention.keys, attention.values] where kernel[slice.tile].element != .bf16 {
      throw GPUError(
        message: error("attention of \(kernel[slice.tile].element.rawValue)").message,
        hint: "matrix units multiply bf16: --rewrite \"lower-precision{matmul=bf16,attention=bf16}\"")
    }
    guard attention.factor == 1 else { throw error("attention of this form") }
    if emitter.target.vendor == .amd { return try emitWaveAttention(&b, attention) }
    guard let shape = plan.warpAttention else { throw error("attention of this form") }
    let i32 = context.i32
    let hulls = emitBounds(&b, attention.mask, at: shape.bounds)
    // Queries travel with the first turn.
    copy(
      &b, attention.queries, firstRow: i32.constant(0), count: rowCount, rows: plan.rows, columns: shape.queryColumns,
      to: emitter.shared, stride: shape.queryStride)
    let turns = Turns(b, hulls, step: shape.turn)
    var (first, end) = (i32.constant(0), turns.count)
    if let share {
      first = b.udiv(b.mul(turns.count, share.member), share.members)
      end = b.udiv(b.mul(turns.count, b.add(share.member, 1)), share.members)
    }
    fetch(&b, attention, shape, turns, first)
    b.intrinsic("llvm.nvvm.cp.async.commit.group", [])
    let zero = context.f32.constant(0.0)
    let sums = b.loop(
      from: first, to: end, step: 1, name: "turn", hint: .asWritten,
      carrying: Array(repeating: zero, count: shape.sumCount)
    ) { b, turn, sums in
      let next = b.add(turn, 1)
      b.ifThen(b.icmp(.slt, next, end)) { b in fetch(&b, attention, shape, turns, next) }
      b.intrinsic("llvm.nvvm.cp.async.commit.group", [])
      b.intrinsic("llvm.nvvm.cp.async.wait.group", [i32.constant(1)])
      barrier(b)
      let result = work(&b, attention, shape, hulls, turns.first(b, turn), stage: b.and(turn, 1), sums)
      barrier(b)
      return result
    }
    guard let share else {
      write(&b, attention, sums)
      return shape.end
    }
    b.ifThenElse(share.isShared) { b in
      writeShared(&b, attention, sums, share)
      return []
    } otherwise: { b in
      write(&b, attention, sums)
      return []
    }
    return max(shape.end, sums.count * 4 * plan.threads)
  }

  // MARK: - Keys that the block sees

  /// Of an interval over the block's rows: where it begins and ends for some row, and for every row.
  struct Hull {
    var start: IRValue
    var end: IRValue
    var sharedStart: IRValue
    var sharedEnd: IRValue
  }

  /// The keys that a row of the block sees, i32, interval by interval. An empty one begins after all others, and ends before.
  func keyBounds(_ b: IRBuilder, _ mask: Mask, row: IRValue) -> [(start: IRValue, end: IRValue)] {
    let i32 = context.i32
    let maskTargets = kernel.keys?.continuesHistory == true ? context.i64.constant(0) : targets
    let position = keyPosition(b, b.add(firstPosition, b.zext(row, to: context.i64)))
    return mask.intervals.map { interval in
      func bound(_ expression: IndexExpression) -> IRValue {
        b.trunc(b.value(of: expression, position: position, length: keyLength, targets: maskTargets), to: i32)
      }
      let (start, end) = (bound(interval.start), bound(interval.end))
      let isSeen = b.icmp(.slt, start, end)
      return (b.select(isSeen, start, i32.constant(Int(Int32.max))), b.select(isSeen, end, i32.constant(0)))
    }
  }

  /// Writes each row's intervals into shared memory, starts and then ends of each, and gives their hulls.
  func emitBounds(_ b: inout IRBuilder, _ mask: Mask, at offset: Int) -> [Hull] {
    let i32 = context.i32
    let bounds = b.offset(emitter.shared, bytes: offset)
    // Where there are more threads than rows, the others write what the last row's thread does.
    let own = plan.threads > plan.rows ? b.smin(thread, plan.rows - 1) : thread
    let isRow = b.icmp(.slt, own, rowCount)
    for (index, interval) in keyBounds(b, mask, row: own).enumerated() {
      let start = b.select(isRow, interval.start, i32.constant(Int(Int32.max)))
      let end = b.select(isRow, interval.end, i32.constant(0))
      b.store(start, boundAddress(b, bounds, index, end: false, row: own), alignment: 4)
      b.store(end, boundAddress(b, bounds, index, end: true, row: own), alignment: 4)
    }
    barrier(b)
    return hulls(b, mask) { b, row in
      mask.intervals.indices.map { index in
        (
          b.load(i32, boundAddress(b, bounds, index, end: false, row: row), alignment: 4),
          b.load(i32, boundAddress(b, bounds, index, end: true, row: row), alignment: 4)
        )
      }
    }
  }

  /// The hulls of the intervals of the block's rows, of which each lane asks for some.
  func hulls(_ b: IRBuilder, _ mask: Mask) -> [Hull] { hulls(b, mask) { b, row in keyBounds(b, mask, row: row) } }

  private func hulls(
    _ b: IRBuilder, _ mask: Mask, _ bounds: (IRBuilder, IRValue) -> [(start: IRValue, end: IRValue)]
  ) -> [Hull] {
    let i32 = context.i32
    let greatest = i32.constant(Int(Int32.max))
    let zero = i32.constant(0)
    var hulls = mask.intervals.map { _ in Hull(start: greatest, end: zero, sharedStart: zero, sharedEnd: greatest) }
    let lanes = emitter.target.lanes
    for group in 0..<(plan.rows + lanes - 1) / lanes {
      let own = b.add(lane, group * lanes)
      let row = plan.rows < lanes ? b.smin(own, plan.rows - 1) : own
      let isRow = b.icmp(.slt, own, rowCount)
      for (index, own) in bounds(b, row).enumerated() {
        hulls[index].start = b.smin(hulls[index].start, b.select(isRow, own.start, greatest))
        hulls[index].end = b.smax(hulls[index].end, b.select(isRow, own.end, zero))
        hulls[index].sharedStart = b.smax(hulls[index].sharedStart, b.select(isRow, own.start, zero))
        hulls[index].sharedEnd = b.smin(hulls[index].sharedEnd, b.select(isRow, own.end, greatest))
      }
    }
    return hulls.map { hull in
      Hull(
        start: least(b, hull.start), end: self.greatest(b, hull.end),
        sharedStart: self.greatest(b, hull.sharedStart), sharedEnd: least(b, hull.sharedEnd))
    }
  }

  /// Whether every row of the block sees all of these keys.
  func areAllVisible(_ b: IRBuilder, _ hulls: [Hull], key: IRValue, count: Int) -> IRValue {
    hulls.reduce(context.boolean(false)) { known, hull in
      b.or(known, b.and(b.icmp(.sle, hull.sharedStart, key), b.icmp(.sge, hull.sharedEnd, b.add(key, count))))
    }
  }

  func boundAddress(_ b: IRBuilder, _ bounds: IRValue, _ interval: Int, end: Bool, row: IRValue) -> IRValue {
    b.offset(
      b.offset(bounds, bytes: b.mul(row, 4)), bytes: (2 * interval + (end ? 1 : 0)) * plan.rows * 4)
  }

  /// The turns through the hulls of intervals, one after the other, none of whose keys is visited twice.
  struct Turns {
    /// Of each interval, the first key that no interval before has, its end, and the turns before it.
    private var parts: [(start: IRValue, end: IRValue, before: IRValue)] = []
    private let step: Int
    let count: IRValue

    init(_ b: IRBuilder, _ hulls: [Hull], step: Int) {
      self.step = step
      var visited = b.i32(0)
      var turns = b.i32(0)
      for hull in hulls {
        let start = b.smax(visited, hull.start)
        parts.append((start, hull.end, turns))
        let keys = b.smax(b.sub(hull.end, start), 0)
        turns = b.add(turns, b.udiv(b.add(keys, step - 1), step))
        visited = b.smax(visited, hull.end)
      }
      count = turns
    }

    /// A turn's first key, and how many there are.
    func first(_ b: IRBuilder, _ turn: IRValue) -> (key: IRValue, count: IRValue) {
      var (first, end) = (b.i32(0), b.i32(0))
      for part in parts {
        let isHere = b.icmp(.sge, turn, part.before)
        let own = b.add(part.start, b.mul(b.sub(turn, part.before), step))
        (first, end) = (b.select(isHere, own, first), b.select(isHere, part.end, end))
      }
      return (first, b.smin(b.sub(end, first), step))
    }
  }

  // MARK: - Into shared memory

  private func fetch(
    _ b: inout IRBuilder, _ attention: GPUPlan.AttentionBlock, _ shape: Shape, _ turns: Turns, _ turn: IRValue
  ) {
    let (key, count) = turns.first(b, turn)
    let stage = b.offset(
      b.offset(emitter.shared, bytes: b.mul(b.and(turn, 1), shape.turnBytes)), bytes: shape.keys)
    copy(
      &b, attention.keys, firstRow: key, count: count, rows: shape.turn, columns: shape.queryColumns, to: stage,
      stride: shape.queryStride)
    copy(
      &b, attention.values, firstRow: key, count: count, rows: shape.turn, columns: shape.valueColumns,
      to: b.offset(stage, bytes: shape.keyBytes), stride: shape.valueStride)
  }

  /// Copies rows of bf16 into shared memory, zeros past the last row and the last column, by all threads.
  private func copy(
    _ b: inout IRBuilder, _ slice: TileSlice, firstRow: IRValue, count: IRValue, rows: Int, columns: Int,
    to target: IRValue,
    stride: Int
  ) {
    let i32 = context.i32
    // Sixteen bytes at once where all of them belong to the rows.
    let isWide = slice.count % 8 == 0 && alignment(of: slice) == 16
    let pieces = isWide ? columns / 8 : columns
    let all = rows * pieces
    let used = isWide ? slice.count / 8 : slice.count
    func piece(_ b: inout IRBuilder, _ index: IRValue) {
      let (row, column) = (b.udiv(index, pieces), b.urem(index, pieces))
      var isThere = b.icmp(.slt, row, count)
      if used < pieces { isThere = b.and(isThere, b.icmp(.slt, column, used)) }
      let safe = b.select(isThere, b.add(firstRow, row), firstRow)
      let size = isWide ? 16 : 2
      let source = b.offset(
        rowAddress(b, slice, row: safe), bytes: b.select(isThere, b.mul(column, size), i32.constant(0)))
      let place = b.offset(target, bytes: b.add(b.mul(row, stride), b.mul(column, size)))
      if isWide {
        b.intrinsic(
          "llvm.nvvm.cp.async.cg.shared.global.16.s",
          [place, source, b.select(isThere, i32.constant(16), i32.constant(0))])
      } else {
        let number = b.load(context.i16, source, alignment: 2)
        b.store(b.select(isThere, number, context.i16.constant(0)), place, alignment: 2)
      }
    }
    if isWide, all % plan.threads == 0, all / plan.threads <= 16 {
      for number in 0..<all / plan.threads { piece(&b, b.add(thread, number * plan.threads)) }
    } else {
      b.loop(from: thread, to: i32.constant(all), step: plan.threads, name: "copy", hint: .asWritten) { b, index in
        piece(&b, index)
      }
    }
  }

  // MARK: - A turn

  private func work(
    _ b: inout IRBuilder, _ attention: GPUPlan.AttentionBlock, _ shape: Shape, _ hulls: [Hull],
    _ keys: (key: IRValue, count: IRValue), stage: IRValue, _ sums: [IRValue]
  ) -> [IRValue] {
    let firstOfWarp = b.mul(warp, shape.warpQueries)
    let queries = leftAddress(
      b, b.offset(emitter.shared, bytes: b.mul(firstOfWarp, shape.queryStride)), rowStride: shape.queryStride)
    let stageBase = b.offset(b.offset(emitter.shared, bytes: b.mul(stage, shape.turnBytes)), bytes: shape.keys)
    let (lane8, lane15) = (b.and(lane, 7), b.and(lane, 15))
    let keyRow = b.add(lane8, b.mul(b.lshr(lane, 4), 8))
    let keyBase = b.offset(
      stageBase, bytes: b.add(b.mul(keyRow, shape.queryStride), b.mul(b.and(b.lshr(lane, 3), 1), 16)))
    let valueBase = b.offset(
      b.offset(stageBase, bytes: shape.keyBytes),
      bytes: b.add(b.mul(lane15, shape.valueStride), b.mul(b.lshr(lane, 4), 16)))
    // Every key of the turn, those past its last too.
    let allVisible = areAllVisible(b, hulls, key: keys.key, count: shape.turn)
    var sums = sums
    let zero = context.f32.constant(0.0)
    for pass in 0..<shape.turn / shape.pass {
      var scores = Array(repeating: zero, count: shape.rowTiles * shape.pass / 8 * 4)
      for step in 0..<shape.queryColumns / 16 {
        let left = (0..<shape.rowTiles).map {
          fragments(b, b.offset(queries, bytes: $0 * 16 * shape.queryStride + step * 32))
        }
        for keyTiles in 0..<shape.pass / 16 {
          let right = fragments(
            b, b.offset(keyBase, bytes: (pass * shape.pass + keyTiles * 16) * shape.queryStride + step * 32))
          for rowTile in 0..<shape.rowTiles {
            for half in 0..<2 {
              let sum = (rowTile * shape.pass / 8 + keyTiles * 2 + half) * 4
              scores.replaceSubrange(
                sum..<sum + 4,
                with: multiply(
                  b, left[rowTile], Array(right[2 * half..<2 * half + 2]), onto: Array(scores[sum..<sum + 4])))
            }
          }
        }
      }
      let words = activate(
        &b, attention, scores, rowTiles: shape.rowTiles, firstRow: firstOfWarp,
        firstKey: b.add(keys.key, pass * shape.pass), allVisible,
        bounds: b.offset(emitter.shared, bytes: shape.bounds))
      for step in 0..<shape.pass / 16 {
        for valueTiles in 0..<shape.valueColumns / 16 {
          let right = fragments(
            b,
            b.offset(valueBase, bytes: (pass * shape.pass + step * 16) * shape.valueStride + valueTiles * 32),
            transposed: true)
          for rowTile in 0..<shape.rowTiles {
            let first = (rowTile * shape.pass / 8 + step * 2) * 2
            for half in 0..<2 {
              let sum = (rowTile * shape.valueColumns / 8 + valueTiles * 2 + half) * 4
              sums.replaceSubrange(
                sum..<sum + 4,
                with: multiply(
                  b, Array(words[first..<first + 4]), Array(right[2 * half..<2 * half + 2]),
                  onto: Array(sums[sum..<sum + 4])))
            }
          }
        }
      }
    }
    return sums
  }

  /// The activated score of a query and a key, of which as much counts as an element keeps; 0 where the query's intervals have not
  /// the key. Without intervals it is seen.
  func activated(
    _ b: IRBuilder, _ attention: GPUPlan.AttentionBlock, _ score: IRValue, row: IRValue, key: IRValue,
    timeWeight: IRValue?, intervals: [(start: IRValue, end: IRValue)]?, roundedTo element: ElementType = .bf16
  ) -> IRValue {
    let number = value(
      b, attention.activation, Elements(row: row, column: key, lanes: 1),
      Reading(product: score, key: key, timeWeight: timeWeight), roundedTo: element)
    guard let intervals else { return number }
    let isSeen = intervals.reduce(context.boolean(false)) { seen, interval in
      b.or(seen, b.and(b.icmp(.sle, interval.start, key), b.icmp(.slt, key, interval.end)))
    }
    return b.select(isSeen, number, context.f32.constant(0.0))
  }

  /// The keys that a row sees, as `emitBounds` wrote them.
  func intervals(
    _ b: IRBuilder, _ mask: Mask, of row: IRValue, at bounds: IRValue
  ) -> [(start: IRValue, end: IRValue)] {
    mask.intervals.indices.map { index in
      let ends = [false, true].map {
        b.load(context.i32, boundAddress(b, bounds, index, end: $0, row: row), alignment: 4)
      }
      return (ends[0], ends[1])
    }
  }

  /// Activated scores as the left side of the product with values: of each tile of 8 keys two words, rows `group` and
  /// `group + 8`.
  private func activate(
    _ b: inout IRBuilder, _ attention: GPUPlan.AttentionBlock, _ scores: [IRValue], rowTiles: Int, firstRow: IRValue,
    firstKey: IRValue,
    _ allVisible: IRValue, bounds: IRValue
  ) -> [IRValue] {
    let tiles = scores.count / 4 / rowTiles
    func row(_ b: IRBuilder, _ rowTile: Int, _ half: Int) -> IRValue {
      b.add(b.add(firstRow, laneGroup(b)), rowTile * 16 + half * 8)
    }
    func key(_ b: IRBuilder, _ tile: Int, _ place: Int) -> IRValue {
      b.add(b.add(firstKey, tile * 8 + place), b.mul(lanePlace(b), 2))
    }
    let timeWeights = timeWeights(
      b, attention, rows: (0..<2 * rowTiles).map { row(b, $0 / 2, $0 % 2) },
      keys: (0..<2 * tiles).map { key(b, $0 / 2, $0 % 2) })
    func words(_ b: IRBuilder, _ isMasked: Bool) -> [IRValue] {
      (0..<rowTiles).flatMap { rowTile -> [IRValue] in
        let rows = (0..<2).map { row(b, rowTile, $0) }
        let seen = rows.map { isMasked ? intervals(b, attention.mask, of: $0, at: bounds) : nil }
        return (0..<tiles).flatMap { tile in
          (0..<2).map { half -> IRValue in
            let pair = (0..<2).map { place -> IRValue in
              activated(
                b, attention, scores[(rowTile * tiles + tile) * 4 + 2 * half + place], row: rows[half],
                key: key(b, tile, place),
                timeWeight: timeWeights?[2 * rowTile + half][2 * tile + place], intervals: seen[half])
            }
            return self.pair(b, pair[0], pair[1])
          }
        }
      }
    }
    return b.ifThenElse(allVisible) { b in
      words(b, false)
    } otherwise: { b in
      words(b, true)
    }
  }

  /// Writes the block's sums, as they are finished.
  private func write(_ b: inout IRBuilder, _ attention: GPUPlan.AttentionBlock, _ sums: [IRValue]) {
    for fragment in 0..<sums.count / 4 {
      writeFragment(
        &b, attention, context.i32.constant(fragment), of: sums.count / 4, Array(sums[4 * fragment..<4 * fragment + 4]))
    }
  }

  /// Writes a lane's four sums of a tile of 16 x 8, one of the tiles of its warp's rows, as they are finished.
  func writeFragment(
    _ b: inout IRBuilder, _ attention: GPUPlan.AttentionBlock, _ fragment: IRValue, of count: Int, _ sums: [IRValue]
  ) {
    let element = kernel[attention.into.tile].element
    let size = element.deviceByteCount
    let isPaired = attention.into.count % 8 == 0 && alignment(of: attention.into) >= 2 * size
    let rowTiles = plan.warpAttention?.rowTiles ?? 1
    let column = b.add(b.mul(lanePlace(b), 2), b.mul(b.urem(fragment, count / rowTiles), 8))
    let firstRow = b.add(
      b.add(b.mul(warp, 16 * rowTiles), laneGroup(b)), b.mul(b.udiv(fragment, count / rowTiles), 16))
    func put(_ b: IRBuilder, _ row: IRValue, _ column: IRValue, _ sum: IRValue, lanes: Int) {
      let number = value(
        b, attention.finish, Elements(row: row, column: column, lanes: lanes), Reading(product: sum), roundedTo: element
      )
      let place = b.offset(rowAddress(b, attention.into, row: row), bytes: b.mul(column, size))
      store(b, number, place, element, alignment: lanes * size)
    }
    for half in 0..<2 {
      let row = b.add(firstRow, half * 8)
      let numbers = Array(sums[2 * half..<2 * half + 2])
      if isPaired {
        b.ifThen(b.and(b.icmp(.slt, row, rowCount), b.icmp(.slt, column, attention.into.count))) { b in
          put(b, row, column, vector(b, numbers), lanes: 2)
        }
      } else {
        for (place, sum) in numbers.enumerated() {
          let own = b.add(column, place)
          b.ifThen(b.and(b.icmp(.slt, row, rowCount), b.icmp(.slt, own, attention.into.count))) { b in
            put(b, row, own, sum, lanes: 1)
          }
        }
      }
    }
  }
}
