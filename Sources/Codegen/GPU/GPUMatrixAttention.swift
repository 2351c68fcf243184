import LLVMKit
import TensorIR
import TileIR

// Attention by groups of four warps (PTX ISA, "Asynchronous Warpgroup Level Matrix Instructions"). One group brings queries, keys and values; two
// others take 64 queries each. Scores come from shared memory into registers, become weights there, and are the left side of
// the product with the values. While one turn's scores become weights, the weights before are being multiplied.
extension GPUKernelEmitter {
  typealias MatrixAttention = GPUPlan.MatrixAttention
  /// Of the two groups of warps that multiply, the numbers of the barriers at which each waits until the other has begun its products: so
  /// one's scores become weights while the other multiplies.
  private static let turnstile = 2

  /// Emits all that a block of threads does.
  func emitMatrixAttention(_ b: inout IRBuilder, _ attention: GPUPlan.AttentionBlock, _ shape: MatrixAttention) {
    let multiplying = GPUPlan.multiplyingWarps
    b.ifThen(b.icmp(.eq, thread, 0)) { b in
      // Copies of each thread that brings, and what its first one writes beside them.
      let bringing = (GPUPlan.allWarps - multiplying) * emitter.target.lanes + 1
      for slot in 0..<shape.slots {
        makeBarrier(b, sharedAddress(b, shape.barriers + 8 * slot), arrivals: bringing)
        makeBarrier(b, sharedAddress(b, shape.barriers + 8 * (shape.slots + slot)), arrivals: multiplying)
      }
      for which in 0..<2 {
        makeBarrier(b, sharedAddress(b, shape.queriesFull + 8 * which), arrivals: bringing)
        makeBarrier(b, sharedAddress(b, shape.queriesEmpty + 8 * which), arrivals: multiplying)
      }
      makeBarrier(b, sharedAddress(b, shape.sumsFull), arrivals: 1)
      makeBarrier(b, sharedAddress(b, shape.sumsRead), arrivals: multiplying * plan.cluster)
      publishBarriers(b)
    }
    if plan.cluster > 1 { meetCluster(b) } else { barrier(b) }
    b.ifThenElse(b.icmp(.sge, warp, multiplying), name: "role") { b in
      takeRegisters(b, 88, more: false)
      bringBlocks(&b, attention, shape)
      return []
    } otherwise: { b in
      takeRegisters(b, 208, more: true)
      // The first group of warps goes first.
      b.ifThen(b.icmp(.eq, b.lshr(warp, 2), 1)) { b in
        b.assembly("bar.arrive \(Self.turnstile), 256;", constraints: "~{memory}", returns: context.void)
      }
      multiplyBlocks(&b, attention, shape)
      return []
    }
  }

  // MARK: - The ring

  func fullBarrier(_ b: IRBuilder, _ shape: MatrixAttention, _ slot: IRValue) -> IRValue {
    b.add(sharedAddress(b, shape.barriers), b.mul(slot, 8))
  }

  func emptyBarrier(_ b: IRBuilder, _ shape: MatrixAttention, _ slot: IRValue) -> IRValue {
    b.add(sharedAddress(b, shape.barriers + 8 * shape.slots), b.mul(slot, 8))
  }

  func slotAddress(_ b: IRBuilder, _ shape: MatrixAttention, _ slot: IRValue) -> IRValue {
    b.add(sharedAddress(b, shape.ring), b.mul(slot, shape.slotBytes))
  }

  /// The slot after one, and the parity of its round.
  func next(_ b: IRBuilder, _ shape: MatrixAttention, _ place: [IRValue]) -> [IRValue] {
    let slot = b.add(place[0], 1)
    let isLast = b.icmp(.eq, slot, shape.slots)
    return [b.select(isLast, b.i32(0), slot), b.xor(place[1], b.zext(isLast, to: context.i32))]
  }

  // MARK: - Blocks

  private func multiplyBlocks(_ b: inout IRBuilder, _ attention: GPUPlan.AttentionBlock, _ shape: MatrixAttention) {
    let i32 = context.i32
    let zero = i32.constant(0)
    var known = BlockNote(kind: zero, turns: zero)
    // The ring's place; which queries are next, and the parities of both; the parity of the sums' barriers.
    let end = b.whileLoop(name: "block", hint: .asWritten, carrying: Array(repeating: zero, count: 5)) { b, carried in
      let which = carried[2]
      wait(b, queriesFull(b, shape, which), parity: bit(b, carried[3], which))
      known = readNote(b, shape, which)
      return b.icmp(.sge, known.kind, 0)
    } _: { b, carried in
      let which = carried[2]
      readBlock(b, shape, which)
      let rows = (0..<2).map { b.add(b.add(b.mul(warp, 16), laneGroup(b)), 8 * $0) }
      let seen = rows.map { intervals(b, attention.mask, row: $0) }
      let place = Array(carried[..<2])
      let sumsOfNone = Array(repeating: context.f32.constant(0.0), count: shape.sumCount)
      let result = b.ifThenElse(b.icmp(.sgt, known.turns, 0), name: "turns") { b in
        turns(&b, attention, shape, count: known.turns, which: which, place: place, rows: rows, seen: seen)
      } otherwise: { b in
        arriveAsWarp(&b, queriesEmpty(b, shape, which))
        return sumsOfNone + place
      }
      let sums = Array(result[..<shape.sumCount])
      var (nextQueries, sumsParity) = (b.xor(which, 1), carried[4])
      if plan.cluster > 1 {
        let after = b.ifThenElse(b.icmp(.sgt, known.kind, 0), name: "shared") { b in
          addShares(&b, attention, shape, sums, parity: sumsParity, rows: rows)
          return [zero, b.xor(sumsParity, 1)]
        } otherwise: { b in
          write(&b, attention, tiles(sums), from: zero, rows: rows)
          return [nextQueries, sumsParity]
        }
        (nextQueries, sumsParity) = (after[0], after[1])
      } else {
        write(&b, attention, tiles(sums), from: zero, rows: rows)
      }
      return Array(result[shape.sumCount...])
        + [nextQueries, b.xor(carried[3], b.shl(i32.constant(1), which)), sumsParity]
    }
    // Other blocks of the cluster arrive here until all of them have read the last sums.
    if plan.cluster > 1 { wait(b, sharedAddress(b, shape.sumsRead), parity: b.xor(end[4], 1)) }
  }

  /// The keys that a row of the block sees, i32; none past the last row.
  private func intervals(_ b: IRBuilder, _ mask: Mask, row: IRValue) -> [(start: IRValue, end: IRValue)] {
    let i32 = context.i32
    let isRow = b.icmp(.slt, row, rowCount)
    return keyBounds(b, mask, row: row).map { start, end in
      (start, b.select(isRow, end, i32.constant(0)))
    }
  }

  // MARK: - Turns

  /// All turns of a block: the sums, and the ring's next place.
  private func turns(
    _ b: inout IRBuilder, _ attention: GPUPlan.AttentionBlock, _ shape: MatrixAttention, count: IRValue,
    which: IRValue, place: [IRValue], rows: [IRValue], seen: [[(start: IRValue, end: IRValue)]]
  ) -> [IRValue] {
    let i32 = context.i32
    let group = b.lshr(warp, 2)
    let queries = description(
      b, b.add(queriesAddress(b, shape, which), b.mul(group, MatrixAttention.tileBytes / 2)), leading: 16, stride: 1024,
      isSwizzled: true)
    func keys(_ b: IRBuilder, _ slot: IRValue) -> IRValue {
      description(b, slotAddress(b, shape, slot), leading: 16, stride: 1024, isSwizzled: true)
    }
    func values(_ b: IRBuilder, _ slot: IRValue) -> IRValue {
      description(
        b, slotAddress(b, shape, slot), leading: MatrixAttention.tileBytes, stride: 1024, isSwizzled: true)
    }
    /// What scores become; their keys are not needed any more.
    func weights(_ b: inout IRBuilder, _ scores: [IRValue], slot: IRValue) -> [IRValue] {
      let note = b.offset(b.offset(emitter.shared, bytes: shape.turns), bytes: b.mul(slot, 8))
      let firstKey = b.load(i32, note, alignment: 8)
      let allVisible = b.icmp(.ne, b.load(i32, b.offset(note, bytes: 4), alignment: 4), 0)
      arriveAsWarp(&b, emptyBarrier(b, shape, slot))
      return activate(&b, attention, scores, firstKey: firstKey, allVisible: allVisible, rows: rows, seen: seen)
    }
    wait(b, fullBarrier(b, shape, place[0]), parity: place[1])
    publishToMatrices(b)
    let scores = products(b, shape, scores: (queries, keys(b, place[0])), sums: nil, pending: 0).scores
    let words = weights(&b, scores, slot: place[0])
    let zero = context.f32.constant(0.0)
    let sumCount = shape.sumCount
    let carried = b.loop(
      from: i32.constant(1), to: count, step: 1, name: "turn", hint: .asWritten,
      carrying: Array(repeating: zero, count: sumCount) + words + next(b, shape, place)
    ) { b, _, carried in
      let sums = Array(carried[..<sumCount])
      let before = Array(carried[sumCount..<carried.count - 2])
      let keyPlace = Array(carried[(carried.count - 2)...])
      let valuePlace = next(b, shape, keyPlace)
      wait(b, fullBarrier(b, shape, keyPlace[0]), parity: keyPlace[1])
      wait(b, fullBarrier(b, shape, valuePlace[0]), parity: valuePlace[1])
      publishToMatrices(b)
      let result = products(
        b, shape, scores: (queries, keys(b, keyPlace[0])), sums: (before, values(b, valuePlace[0]), sums), pending: 1,
        turnstile: (own: b.add(group, Self.turnstile), other: b.sub(i32.constant(Self.turnstile + 1), group)))
      let words = weights(&b, result.scores, slot: keyPlace[0])
      let settled = settle(b, result.sums, reading: before)
      arriveAsWarp(&b, emptyBarrier(b, shape, valuePlace[0]))
      return settled + words + next(b, shape, valuePlace)
    }
    // All scores are there: the next block's queries may come.
    arriveAsWarp(&b, queriesEmpty(b, shape, which))
    let last = Array(carried[(carried.count - 2)...])
    wait(b, fullBarrier(b, shape, last[0]), parity: last[1])
    publishToMatrices(b)
    let result = products(
      b, shape, scores: nil,
      sums: (Array(carried[sumCount..<carried.count - 2]), values(b, last[0]), Array(carried[..<sumCount])), pending: 0)
    arriveAsWarp(&b, emptyBarrier(b, shape, last[0]))
    return result.sums + next(b, shape, last)
  }

  /// Begins the product of queries and keys, then that of weights and values, which is added to the sums; then waits until at most so many of
  /// the two are still going on. What is may not be touched before `settle`.
  private func products(
    _ b: IRBuilder, _ shape: MatrixAttention, scores: (queries: IRValue, keys: IRValue)?,
    sums: (weights: [IRValue], values: IRValue, before: [IRValue])?, pending: Int,
    turnstile: (own: IRValue, other: IRValue)? = nil
  ) -> (scores: [IRValue], sums: [IRValue]) {
    let scoreCount = scores == nil ? 0 : MatrixAttention.keys / 2
    let sumCount = sums == nil ? 0 : shape.sumCount
    let weightCount = sums?.weights.count ?? 0
    var operand = scoreCount + 2 * sumCount
    func list(_ range: Range<Int>) -> String { range.map { "$\($0)" }.joined(separator: ", ") }
    var text = """
      {
      \t.reg .pred isAdded, isFirst;
      \t.reg .b64 left, right;
      \tsetp.ne.b32 isAdded, 1, 0;
      \tsetp.ne.b32 isFirst, 0, 0;

      """
    let threads = GPUPlan.multiplyingWarps * emitter.target.lanes
    if turnstile != nil {
      text += "\tbar.sync $\(operand), \(threads);\n"
      operand += 2
    }
    text += "\twgmma.fence.sync.aligned;\n"
    var arguments: [IRValue] = []
    var inputs: [String] = []
    if let sums {
      arguments += sums.before
      inputs += (0..<sumCount).map { String(scoreCount + $0) }
    }
    if let turnstile {
      arguments += [turnstile.own, turnstile.other]
      inputs += ["r", "r"]
    }
    if let scores {
      let (left, right) = (operand, operand + 1)
      operand += 2
      arguments += [scores.queries, scores.keys]
      inputs += ["l", "l"]
      for step in 0..<shape.queryColumns / 16 {
        let bytes = step / 4 * MatrixAttention.tileBytes + step % 4 * 32
        text += """
          \tadd.s64 left, $\(left), \(bytes >> 4);
          \tadd.s64 right, $\(right), \(bytes >> 4);
          \twgmma.mma_async.sync.aligned.m64n\(MatrixAttention.keys)k16.f32.bf16.bf16 {\(list(0..<scoreCount))}, \
          left, right, \(step == 0 ? "isFirst" : "isAdded"), 1, 1, 0, 0;

          """
      }
      text += "\twgmma.commit_group.sync.aligned;\n"
    }
    if let sums {
      let right = operand
      let words = operand + 1
      arguments += [sums.values] + sums.weights
      inputs += ["l"] + Array(repeating: "r", count: weightCount)
      for step in 0..<MatrixAttention.keys / 16 {
        text += """
          \tadd.s64 right, $\(right), \(step * 2048 >> 4);
          \twgmma.mma_async.sync.aligned.m64n\(shape.valueColumns)k16.f32.bf16.bf16 \
          {\(list(scoreCount..<scoreCount + sumCount))}, {\(list(words + 4 * step..<words + 4 * step + 4))}, right, isAdded, \
          1, 1, 1;

          """
      }
      text += "\twgmma.commit_group.sync.aligned;\n"
    }
    if turnstile != nil { text += "\tbar.arrive $\(scoreCount + 2 * sumCount + 1), \(threads);\n" }
    text += "\twgmma.wait_group.sync.aligned \(pending);\n\t}"
    let outputs =
      Array(repeating: "=&f", count: scoreCount) + Array(repeating: "=f", count: sumCount)
    let result = b.assembly(
      text, constraints: (outputs + inputs + ["~{memory}"]).joined(separator: ","),
      returns: context.structure(Array(repeating: context.f32, count: outputs.count)), arguments)
    let fields = outputs.indices.map { b.extractField(result, $0) }
    return (Array(fields[..<scoreCount]), Array(fields[scoreCount...]))
  }

  /// The sums, when all that was begun has ended: until then the weights that it reads stay in their registers.
  private func settle(_ b: IRBuilder, _ sums: [IRValue], reading weights: [IRValue]) -> [IRValue] {
    let constraints =
      Array(repeating: "=f", count: sums.count) + sums.indices.map(String.init)
      + Array(repeating: "r", count: weights.count) + ["~{memory}"]
    let result = b.assembly(
      "wgmma.wait_group.sync.aligned 0;", constraints: constraints.joined(separator: ","),
      returns: context.structure(Array(repeating: context.f32, count: sums.count)), sums + weights)
    return sums.indices.map { b.extractField(result, $0) }
  }

  /// What scores become, as the left side of the product with values (PTX ISA, "Register Fragments for wgmma.mma_async.m64k16"): of each
  /// 8 keys two words, of the lane's two rows.
  private func activate(
    _ b: inout IRBuilder, _ attention: GPUPlan.AttentionBlock, _ scores: [IRValue], firstKey: IRValue,
    allVisible: IRValue, rows: [IRValue], seen: [[(start: IRValue, end: IRValue)]]
  ) -> [IRValue] {
    let first = b.add(firstKey, b.mul(lanePlace(b), 2))
    func words(_ b: IRBuilder, isMasked: Bool) -> [IRValue] {
      let bits = isMasked ? seen.map { seenBits(b, $0, first: first) } : []
      return (0..<scores.count / 2).map { word in
        let (tile, half) = (word / 2, word % 2)
        let numbers = (0..<2).map { place -> IRValue in
          let key = b.add(first, tile * 8 + place)
          let number = value(
            b, attention.activation, Elements(row: rows[half], column: key, lanes: 1),
            Reading(product: scores[2 * word + place], key: key), roundedTo: .bf16)
          guard isMasked else { return number }
          let isSeen = b.icmp(.ne, b.and(bits[half], 1 << (2 * tile + place)), 0)
          return b.select(isSeen, number, context.f32.constant(0.0))
        }
        return pair(b, numbers[0], numbers[1])
      }
    }
    return b.ifThenElse(allVisible, name: "visible") { b in
      words(b, isMasked: false)
    } otherwise: { b in
      words(b, isMasked: true)
    }
  }

  /// Of the keys that a lane has of a turn, the first two of each eight from `first` on, a bit for each that is in one of the intervals.
  private func seenBits(_ b: IRBuilder, _ intervals: [(start: IRValue, end: IRValue)], first: IRValue) -> IRValue {
    let (i32, i64) = (context.i32, context.i64)
    /// The bits of keys before one.
    func before(_ key: IRValue) -> IRValue {
      let distance = b.smin(b.smax(b.sub(key, first), 0), MatrixAttention.keys)
      let count = b.add(b.shl(b.lshr(distance, 3), 1), b.smin(b.and(distance, 7), 2))
      return b.trunc(b.sub(b.shl(i64.constant(1), b.zext(count, to: i64)), 1), to: i32)
    }
    return intervals.reduce(i32.constant(0)) { known, interval in
      b.or(known, b.and(before(interval.end), b.not(before(interval.start))))
    }
  }

  // MARK: - Results

  /// Sums of tiles of 8 columns, of each of which a lane has four: two neighbours in either of its rows.
  private func tiles(_ sums: [IRValue]) -> [[IRValue]] {
    stride(from: 0, to: sums.count, by: 4).map { Array(sums[$0..<$0 + 4]) }
  }

  /// Writes sums of tiles of 8 columns, from a column on, as they are finished. Of two tiles neighbouring lanes exchange what makes each
  /// have four neighbours of one.
  private func write(
    _ b: inout IRBuilder, _ attention: GPUPlan.AttentionBlock, _ tiles: [[IRValue]], from firstColumn: IRValue,
    rows: [IRValue]
  ) {
    let element = kernel[attention.into.tile].element
    let size = element.deviceByteCount
    let isOdd = b.icmp(.ne, b.and(lane, 1), 0)
    let place = lanePlace(b)
    func put(_ b: inout IRBuilder, row: IRValue, column: IRValue, _ sums: [IRValue]) {
      let at = Elements(row: row, column: b.add(firstColumn, column), lanes: sums.count)
      let number = value(b, attention.finish, at, Reading(product: vector(b, sums)), roundedTo: element)
      store(
        b, number, b.offset(rowAddress(b, attention.into, row: row), bytes: b.mul(at.column, size)), element,
        alignment: min(alignment(of: attention.into), sums.count * size))
    }
    for half in 0..<2 {
      let own = tiles.map { Array($0[2 * half..<2 * half + 2]) }
      let isWide = tiles.count % 2 == 0 && alignment(of: attention.into) >= 4 * size
      let pairs = (0..<(isWide ? tiles.count / 2 : 0)).map { pair -> [IRValue] in
        let (first, second) = (own[2 * pair], own[2 * pair + 1])
        let others = zip(first, second).map { one, other in
          b.intrinsic(
            "llvm.nvvm.shfl.sync.bfly.f32",
            [context.i32.constant(-1), b.select(isOdd, one, other), context.i32.constant(1), context.i32.constant(31)])
        }
        return zip(first + others, others + second).map { b.select(isOdd, $1, $0) }
      }
      b.ifThen(b.icmp(.slt, rows[half], rowCount)) { b in
        if isWide {
          let column = b.add(
            b.mul(b.lshr(place, 1), 4), b.select(isOdd, context.i32.constant(8), context.i32.constant(0)))
          for (pair, sums) in pairs.enumerated() {
            put(&b, row: rows[half], column: b.add(column, 16 * pair), sums)
          }
        } else {
          for (tile, sums) in own.enumerated() {
            put(&b, row: rows[half], column: b.add(b.mul(place, 2), 8 * tile), sums)
          }
        }
      }
    }
  }

  /// Sends each block of the cluster the sums of its part of the columns, adds those that came, in the order of the blocks, and
  /// writes them.
  private func addShares(
    _ b: inout IRBuilder, _ attention: GPUPlan.AttentionBlock, _ shape: MatrixAttention, _ sums: [IRValue],
    parity: IRValue, rows: [IRValue]
  ) {
    let tiles = tiles(sums)
    let each = tiles.count / plan.cluster
    let threads = GPUPlan.multiplyingWarps * emitter.target.lanes
    let (full, read) = (sharedAddress(b, shape.sumsFull), sharedAddress(b, shape.sumsRead))
    let member = special(b, "cluster_ctarank")
    // All have read the sums before.
    wait(b, read, parity: b.xor(parity, 1))
    b.ifThen(b.icmp(.eq, thread, 0)) { b in arrive(b, full, expecting: (tiles.count - each) * 16 * threads) }
    let own = b.add(sharedAddress(b, shape.sums), b.mul(thread, 16))
    let sent = b.add(own, b.mul(member, each * 16 * threads))
    for other in 0..<plan.cluster {
      let number = context.i32.constant(other)
      let part = tiles[other * each..<(other + 1) * each]
      b.ifThenElse(b.icmp(.eq, member, number), name: "own") { b in
        for (index, tile) in part.enumerated() {
          let place = b.add(sent, index * 16 * threads)
          b.store(
            vector(b, tile), b.inttoptr(place, to: context.pointer(addressSpace: GPUModuleEmitter.shared)),
            alignment: 16)
        }
        return []
      } otherwise: { b in
        let (target, barrier) = (inBlock(b, sent, member: number), inBlock(b, full, member: number))
        for (index, tile) in part.enumerated() { send(b, tile, to: b.add(target, index * 16 * threads), barrier) }
        return []
      }
    }
    wait(b, full, parity: parity)
    let came = b.offset(b.offset(emitter.shared, bytes: shape.sums), bytes: b.mul(thread, 16))
    var totals: [[IRValue]] = []
    for other in 0..<plan.cluster {
      for index in 0..<each {
        let found = scalars(
          b,
          b.load(
            context.vector(context.f32, 4), b.offset(came, bytes: (other * each + index) * 16 * threads), alignment: 16)
        )
        if other == 0 {
          totals.append(found)
        } else {
          totals[index] = zip(totals[index], found).map { b.fadd($0, $1) }
        }
      }
    }
    write(&b, attention, totals, from: b.mul(member, 8 * each), rows: rows)
    arriveEverywhere(&b, read)
    arriveAsWarp(&b, queriesEmpty(b, shape, context.i32.constant(1)))
  }
}
