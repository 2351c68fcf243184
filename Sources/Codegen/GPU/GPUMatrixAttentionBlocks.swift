import LLVMKit
import TensorIR
import TileIR

// The group of warps that brings what the others multiply: it goes through the blocks, and through the keys of each.
extension GPUKernelEmitter {
  /// What is told of a block beside where it is.
  struct BlockNote {
    /// 0 for a block of its own, 1 for one whose keys the cluster takes together; -1 where there are no more.
    var kind: IRValue
    /// Turns through keys.
    var turns: IRValue
  }

  /// Blocks of a sequence, all heads counted, from which on they are dealt out evenly enough without any being shared.
  private static let blocksOfLongSequences = 240
  /// Keys of a block of each size of clusters from which on it is shared.
  private var sharedKeys: Int { plan.cluster == 2 ? 512 : 1024 }

  /// Where a block is told of whose queries are the first or the second.
  private func note(_ b: IRBuilder, _ shape: MatrixAttention, _ which: IRValue) -> IRValue {
    b.offset(b.offset(emitter.shared, bytes: shape.blocks), bytes: b.mul(which, MatrixAttention.blockBytes))
  }

  func queriesFull(_ b: IRBuilder, _ shape: MatrixAttention, _ which: IRValue) -> IRValue {
    b.add(sharedAddress(b, shape.queriesFull), b.mul(which, 8))
  }

  func queriesEmpty(_ b: IRBuilder, _ shape: MatrixAttention, _ which: IRValue) -> IRValue {
    b.add(sharedAddress(b, shape.queriesEmpty), b.mul(which, 8))
  }

  func queriesAddress(_ b: IRBuilder, _ shape: MatrixAttention, _ which: IRValue) -> IRValue {
    b.add(sharedAddress(b, 0), b.mul(which, shape.queryBytes))
  }

  /// The bit of the first or the second queries.
  func bit(_ b: IRBuilder, _ bits: IRValue, _ which: IRValue) -> IRValue { b.and(b.lshr(bits, which), 1) }

  func readNote(_ b: IRBuilder, _ shape: MatrixAttention, _ which: IRValue) -> BlockNote {
    let note = note(b, shape, which)
    return BlockNote(
      kind: b.load(context.i32, note, alignment: 8),
      turns: b.load(context.i32, b.offset(note, bytes: 4), alignment: 4))
  }

  func readBlock(_ b: IRBuilder, _ shape: MatrixAttention, _ which: IRValue) {
    loadBlock(b, from: b.offset(note(b, shape, which), bytes: 8))
  }

  // MARK: - Going through blocks

  /// Brings all that the blocks of this block of threads need.
  func bringBlocks(_ b: inout IRBuilder, _ attention: GPUPlan.AttentionBlock, _ shape: MatrixAttention) {
    guard case .sequences(_, _, let table, _, let parts) = kernel.domain else { return }
    let zero = context.i32.constant(0)
    let items = itemCount(b, table: table, parts: parts)
    // The ring's place; which queries are next, and the parities of both.
    var place = [zero, zero, zero, zero]
    if plan.cluster > 1 { place = bringShared(&b, attention, shape, items: items, place) }
    // Then each block of threads takes the next one that no other has taken, when all of the one before is on its way: the slots' worth of
    // work that is left hides how long that takes. Where none are shared the first is known.
    let isFirst = isFirstBringing(b)
    let all = special(b, "nctaid.x")
    func ticket(_ b: inout IRBuilder) -> IRValue {
      b.ifThenElse(isFirst, name: "ticket") { b in
        let taken = b.assembly(
          "atom.global.add.u32 $0, [$1], 1;", constraints: "=r,l,~{memory}", returns: context.i32, [counter])
        return [plan.cluster == 1 ? b.add(taken, all) : taken]
      } otherwise: { _ in
        [zero]
      }[0]
    }
    func index(_ b: inout IRBuilder, _ ticket: IRValue, _ round: IRValue) -> IRValue {
      // Two words in turns: one is written again when all threads have read the other.
      let word = b.offset(b.offset(emitter.shared, bytes: shape.ticket), bytes: b.mul(b.and(round, 1), 4))
      b.ifThen(isFirst) { b in b.store(ticket, word, alignment: 4) }
      meet(b, 1, threads: (GPUPlan.allWarps - GPUPlan.multiplyingWarps) * emitter.target.lanes)
      return b.load(context.i32, word, alignment: 4)
    }
    let firstTicket = plan.cluster == 1 ? special(b, "ctaid.x") : ticket(&b)
    var own = zero
    let end = b.whileLoop(name: "own", hint: .asWritten, carrying: [zero, firstTicket] + place) { b, carried in
      own = index(&b, carried[1], carried[0])
      return b.icmp(.slt, b.zext(own, to: context.i64), items)
    } _: { b, carried in
      locate(&b, index: b.zext(own, to: context.i64))
      let place = Array(carried[2...])
      let after: [IRValue]
      if plan.cluster == 1 {
        after = bring(&b, attention, shape, shared: false, place)
      } else {
        after = b.ifThenElse(isShared(b, attention.mask, parts: parts)) { _ in
          place
        } otherwise: { b in
          bring(&b, attention, shape, shared: false, place)
        }
      }
      return [b.add(carried[0], 1), ticket(&b)] + after
    }
    let which = end[4]
    wait(b, queriesEmpty(b, shape, which), parity: b.xor(bit(b, end[5], which), 1))
    complete(&b, queriesFull(b, shape, which)) { b in
      b.store(context.i32.constant(-1), note(b, shape, which), alignment: 8)
    }
  }

  private func isFirstBringing(_ b: IRBuilder) -> IRValue {
    b.icmp(.eq, thread, GPUPlan.multiplyingWarps * emitter.target.lanes)
  }

  /// Goes through the blocks that clusters share, of which each takes as many as the others.
  private func bringShared(
    _ b: inout IRBuilder, _ attention: GPUPlan.AttentionBlock, _ shape: MatrixAttention, items: IRValue,
    _ place: [IRValue]
  ) -> [IRValue] {
    guard case .sequences(_, _, _, _, let parts) = kernel.domain else { return place }
    let (i32, i64) = (context.i32, context.i64)
    let clusters = b.udiv(special(b, "nctaid.x"), plan.cluster)
    let cluster = b.udiv(special(b, "ctaid.x"), plan.cluster)
    func item(_ b: IRBuilder, _ number: IRValue) -> IRValue {
      let isBack = b.icmp(.ne, b.and(number, 1), 0)
      return b.zext(
        b.add(b.mul(number, clusters), b.select(isBack, b.sub(b.sub(clusters, 1), cluster), cluster)), to: i64)
    }
    // Each lane looks at one of the cluster's.
    let result = b.whileLoop(name: "lanes", hint: .asWritten, carrying: [i32.constant(0)] + place) { b, carried in
      b.icmp(.slt, b.zext(b.mul(carried[0], clusters), to: i64), items)
    } _: { b, carried in
      let own = item(b, b.add(carried[0], lane))
      let isItem = b.icmp(.slt, own, items)
      locate(&b, index: b.smin(own, b.sub(items, 1)))
      let sequences = b.trunc(sequence, to: i32)
      let shared = vote(b, b.and(isItem, isShared(b, attention.mask, parts: parts)))
      let end = b.whileLoop(name: "shared", hint: .asWritten, carrying: [shared] + carried[1...]) { b, inner in
        b.icmp(.ne, inner[0], 0)
      } _: { b, inner in
        let number = b.intrinsic("llvm.cttz", overloads: [i32], [inner[0], context.boolean(true)])
        let known = b.intrinsic("llvm.nvvm.shfl.sync.idx.i32", [i32.constant(-1), sequences, number, i32.constant(31)])
        locate(&b, index: item(b, b.add(carried[0], number)), sequence: b.zext(known, to: i64))
        return [b.and(inner[0], b.sub(inner[0], 1))] + bring(&b, attention, shape, shared: true, Array(inner[1...]))
      }
      return [b.add(carried[0], emitter.target.lanes)] + end[1...]
    }
    return Array(result[1...])
  }

  /// Whether the cluster takes the block's keys together. It follows from the block's own sequence alone.
  private func isShared(_ b: IRBuilder, _ mask: Mask, parts: Int) -> IRValue {
    let isLong = b.icmp(.sge, keysOfEnds(b, mask), sharedKeys)
    guard case .causal = mask.form, kernel.keys == nil else { return isLong }
    // A sequence of many blocks keeps all multiprocessors busy without.
    let own = b.mul(b.udiv(b.add(length, kernel.domain.block - 1), kernel.domain.block), parts)
    return b.and(isLong, b.icmp(.sle, own, Self.blocksOfLongSequences))
  }

  // MARK: - Bringing a block

  /// Brings a block's queries, then the keys of a turn and the values of the turn before, in turns; gives the place after them.
  private func bring(
    _ b: inout IRBuilder, _ attention: GPUPlan.AttentionBlock, _ shape: MatrixAttention, shared: Bool,
    _ place: [IRValue]
  ) -> [IRValue] {
    let (i32, zero) = (context.i32, context.i32.constant(0))
    let hulls = hulls(b, attention.mask)
    let turns = Turns(b, hulls, step: MatrixAttention.keys)
    var (first, end) = (zero, turns.count)
    if shared {
      let member = special(b, "cluster_ctarank")
      first = b.udiv(b.mul(turns.count, member), plan.cluster)
      end = b.udiv(b.mul(turns.count, b.add(member, 1)), plan.cluster)
    }
    let count = b.sub(end, first)
    // A shared block has the first queries' place, and the second ones' for sums.
    let which = shared ? zero : place[2]
    wait(b, queriesEmpty(b, shape, which), parity: b.xor(bit(b, place[3], which), 1))
    bring(b, attention.queries, firstRow: zero, count: rowCount, to: queriesAddress(b, shape, which))
    complete(&b, queriesFull(b, shape, which)) { b in
      let note = note(b, shape, which)
      b.store(i32.constant(shared ? 1 : 0), note, alignment: 8)
      b.store(count, b.offset(note, bytes: 4), alignment: 4)
      storeBlock(b, to: b.offset(note, bytes: 8))
    }
    let pieces = b.mul(count, 2)
    let result = b.loop(
      from: zero, to: pieces, step: 1, name: "piece", hint: .asWritten,
      carrying: Array(place[..<2])
    ) { b, piece, carried in
      // The first keys, keys and values in turns, the last values.
      let isLast = b.icmp(.eq, piece, b.sub(pieces, 1))
      let areValues = b.or(
        isLast, b.and(b.icmp(.sgt, piece, 0), b.icmp(.eq, b.and(piece, 1), 0)))
      let half = b.lshr(piece, 1)
      let turn = b.select(
        isLast, b.sub(count, 1), b.select(areValues, b.sub(half, 1), b.add(half, b.and(piece, 1))))
      let (key, keyCount) = turns.first(b, b.add(first, turn))
      let slot = carried[0]
      wait(b, emptyBarrier(b, shape, slot), parity: b.xor(carried[1], 1))
      let target = slotAddress(b, shape, slot)
      b.ifThenElse(areValues, name: "values") { b in
        bring(b, attention.values, firstRow: key, count: keyCount, to: target)
        complete(&b, fullBarrier(b, shape, slot)) { _ in }
        return []
      } otherwise: { b in
        bring(b, attention.keys, firstRow: key, count: keyCount, to: target)
        complete(&b, fullBarrier(b, shape, slot)) { b in
          let note = b.offset(b.offset(emitter.shared, bytes: shape.turns), bytes: b.mul(slot, 8))
          b.store(key, note, alignment: 8)
          b.store(
            b.zext(areAllVisible(b, hulls, key: key, count: MatrixAttention.keys), to: i32), b.offset(note, bytes: 4),
            alignment: 4)
        }
        return []
      }
      return next(b, shape, carried)
    }
    let used = shared ? i32.constant(3) : b.shl(i32.constant(1), which)
    return Array(result[..<2]) + [shared ? zero : b.xor(which, 1), b.xor(place[3], used)]
  }

  /// Lets a barrier be complete when all copies that these threads have begun have ended, and the first of them has written
  /// what belongs to them. Those who wait for it let matrix instructions see the copies.
  private func complete(_ b: inout IRBuilder, _ barrier: IRValue, _ note: (inout IRBuilder) -> Void) {
    b.assembly(
      "cp.async.mbarrier.arrive.noinc.shared::cta.b64 [$0];", constraints: "r,~{memory}", returns: context.void,
      [barrier])
    b.ifThen(isFirstBringing(b)) { b in
      note(&b)
      arrive(b, barrier)
    }
  }

  /// Begins to copy 128 rows of bf16 into tiles of 64 columns, swizzled, zeros past the last row. Each thread copies the same 16 bytes
  /// of every eighth row, or of every sixteenth one where rows have 64 columns: all of them have the same place in their row's tile.
  private func bring(_ b: IRBuilder, _ slice: TileSlice, firstRow: IRValue, count: IRValue, to target: IRValue) {
    let i32 = context.i32
    let pieces = slice.count / 8
    let own = b.sub(thread, GPUPlan.multiplyingWarps * emitter.target.lanes)
    let (row, piece) = (b.udiv(own, pieces), b.urem(own, pieces))
    let step = (GPUPlan.allWarps - GPUPlan.multiplyingWarps) * emitter.target.lanes / pieces
    let place = b.add(
      b.add(target, b.mul(b.lshr(piece, 3), MatrixAttention.tileBytes)),
      b.add(b.mul(row, 128), b.shl(b.xor(b.and(piece, 7), b.and(row, 7)), 4)))
    let bytes = b.zext(b.mul(piece, 16), to: context.i64)
    let first = b.offset(rowAddress(b, slice, row: firstRow), bytes: bytes)
    let stride = rowStride(of: slice.tile)
    /// Of rows in two places each has to be found.
    func source(_ row: IRValue) -> IRValue {
      guard stride == 0 else { return b.offset(first, bytes: b.mul(b.zext(row, to: context.i64), stride)) }
      return b.offset(rowAddress(b, slice, row: b.add(firstRow, row)), bytes: bytes)
    }
    for number in 0..<MatrixAttention.keys / step {
      let own = b.add(row, number * step)
      let isThere = b.icmp(.slt, own, count)
      let safe = b.select(isThere, own, i32.constant(0))
      b.assembly(
        "cp.async.cg.shared.global [$0], [$1], 16, $2;", constraints: "r,l,r,~{memory}", returns: context.void,
        [
          b.add(place, number * step * 128), source(safe),
          b.select(isThere, i32.constant(16), i32.constant(0)),
        ])
    }
  }
}
