import LLVMKit
import TensorIR
import TileIR

/// What a block of a cluster does of a block of attention.
struct AttentionShare {
  /// Whether the blocks of the cluster take its keys together.
  var isShared: IRValue
  /// This block among those that do, and how many they are.
  var member: IRValue
  var members: IRValue
}

// Attention by clusters of blocks. Each block takes one of the domain's, its own; but those that see many keys are taken by the whole
// cluster, one after the other: each block takes its part of the keys, and the sums of all parts are added where the others' shared
// memory is read. Whether a block is shared, and where its keys are cut, follows from its own sequence alone.
extension GPUKernelEmitter {
  /// Turns for each block of a cluster that make it worth while to share them.
  private static let leastTurns = 2
  /// The same of pairs, which share more blocks.
  private static let leastTurnsOfPairs = 8
  /// Blocks of a sequence, all heads counted, that keep a card busy without being shared, where all of them see many keys.
  private static let blocksOfLongSequences = 256

  /// Emits all that a block of a cluster does; gives the bytes of shared memory that it takes.
  func emitCluster(
    _ b: inout IRBuilder, _ attention: GPUPlan.AttentionBlock, block: IRValue
  ) throws(GPUError) -> Int {
    let (i32, i64) = (context.i32, context.i64)
    guard case .sequences(_, _, let table, _, let parts) = kernel.domain, let turn = plan.warpAttention?.turn else {
      throw error("clusters over rows")
    }
    let size = plan.cluster
    let member = special(b, "cluster_ctarank")
    let clusters = b.udiv(special(b, "nctaid.x"), size)
    let cluster = b.udiv(block, size)
    let items = itemCount(b, table: table, parts: parts)
    // Heavy blocks come first. Of a few, neighbours go to different clusters, forth and then back, so that all clusters have as much to
    // do; of many, a cluster's blocks are alike, and its places become free together.
    let areMany = size > 2 ? context.boolean(false) : b.icmp(.sgt, items, Self.blocksOfLongSequences)
    func item(_ b: IRBuilder, _ number: IRValue) -> IRValue {
      let isBack = b.icmp(.ne, b.and(number, 1), 0)
      let apart = b.add(b.mul(number, clusters), b.select(isBack, b.sub(b.sub(clusters, 1), cluster), cluster))
      return b.zext(b.select(areMany, b.add(b.mul(cluster, size), number), apart), to: i64)
    }
    // The first of them, the heaviest, is another place's in every cluster: places of the same number share a multiprocessor.
    let ownNumber = b.and(b.add(member, cluster), size - 1)
    // Each lane looks at one of the cluster's blocks.
    let number = b.and(lane, size - 1)
    let isItem = b.icmp(.slt, item(b, number), items)
    locate(&b, index: b.smin(item(b, number), b.sub(items, 1)))
    var isLong = b.and(
      isItem,
      b.icmp(
        .sge, b.udiv(keysOfEnds(b, attention.mask), turn),
        (size == 2 ? Self.leastTurnsOfPairs : Self.leastTurns) * size))
    if size == 2 {
      // A sequence of many blocks keeps all multiprocessors busy without.
      let own = b.mul(b.udiv(b.add(length, kernel.domain.block - 1), kernel.domain.block), parts)
      isLong = b.and(isLong, b.icmp(.sle, own, Self.blocksOfLongSequences))
    }
    let long = b.and(vote(b, isLong), (1 << size) - 1)
    let there = vote(b, isItem)
    let sequences = b.trunc(sequence, to: i32)
    // Those that all share, and behind them the own one.
    let isOwn = b.and(b.lshr(b.and(there, b.xor(long, -1)), ownNumber), 1)
    let work = b.or(long, b.shl(isOwn, size))
    var sharedBytes = 0
    var failure: GPUError?
    _ = b.whileLoop(name: "item", hint: .asWritten, carrying: [work]) { b, carried in
      b.icmp(.ne, carried[0], 0)
    } _: { b, carried in
      let next = b.intrinsic("llvm.cttz", overloads: [i32], [carried[0], context.boolean(true)])
      let isShared = b.icmp(.slt, next, size)
      let number = b.select(isShared, next, ownNumber)
      let known = b.intrinsic("llvm.nvvm.shfl.sync.idx.i32", [i32.constant(-1), sequences, number, i32.constant(31)])
      locate(&b, index: item(b, number), sequence: b.zext(known, to: i64))
      let share = AttentionShare(
        isShared: isShared, member: b.select(isShared, member, i32.constant(0)),
        members: b.select(isShared, i32.constant(size), i32.constant(1)))
      do throws(GPUError) { sharedBytes = try emitAttention(&b, attention, share: share) } catch { failure = error }
      return [b.and(carried[0], b.sub(carried[0], 1))]
    }
    if let failure { throw failure }
    return sharedBytes
  }

  /// Adds the sums of all blocks of the cluster, in their order, and writes a part of them.
  func writeShared(
    _ b: inout IRBuilder, _ attention: GPUPlan.AttentionBlock, _ sums: [IRValue], _ share: AttentionShare
  ) {
    let (i32, f32) = (context.i32, context.f32)
    // Nothing is on its way any more to where sums go now.
    b.intrinsic("llvm.nvvm.cp.async.wait.group", [i32.constant(0)])
    barrier(b)
    let fragments = sums.count / 4
    let place = b.offset(emitter.shared, bytes: b.mul(thread, 16))
    for fragment in 0..<fragments {
      b.store(
        vector(b, Array(sums[4 * fragment..<4 * fragment + 4])), b.offset(place, bytes: fragment * 16 * plan.threads),
        alignment: 16)
    }
    meetCluster(b)
    let each = (fragments + plan.cluster - 1) / plan.cluster
    let own = (0..<each).map { b.add(b.mul(share.member, each), $0) }
    let base = b.ptrtoint(place, to: i32)
    var totals: [[IRValue]] = []
    for member in 0..<plan.cluster {
      for number in 0..<each {
        // Past the last fragments, which blocks with high numbers have none of, the last one again.
        let fragment = b.mul(b.smin(own[number], fragments - 1), 16 * plan.threads)
        let there = inBlock(b, b.add(base, fragment), member: i32.constant(member))
        let words = b.assembly(
          "ld.shared::cluster.v4.f32 {$0, $1, $2, $3}, [$4];", constraints: "=f,=f,=f,=f,r,~{memory}",
          returns: context.structure([f32, f32, f32, f32]), [there])
        let numbers = (0..<4).map { b.extractField(words, $0) }
        if member == 0 {
          totals.append(numbers)
        } else {
          totals[number] = zip(totals[number], numbers).map { b.fadd($0, $1) }
        }
      }
    }
    for number in 0..<each {
      b.ifThen(b.icmp(.slt, own[number], fragments)) { b in
        writeFragment(&b, attention, own[number], of: fragments, totals[number])
      }
    }
    meetCluster(b)
  }

  /// About how many keys the block sees: those of its first and its last row.
  func keysOfEnds(_ b: IRBuilder, _ mask: Mask) -> IRValue {
    let ends = [context.i32.constant(0), b.sub(rowCount, 1)].map { keyBounds(b, mask, row: $0) }
    return mask.intervals.indices.reduce(context.i32.constant(0)) { keys, index in
      let start = b.smin(ends[0][index].start, ends[1][index].start)
      return b.add(keys, b.smax(b.sub(b.smax(ends[0][index].end, ends[1][index].end), start), 0))
    }
  }
}
