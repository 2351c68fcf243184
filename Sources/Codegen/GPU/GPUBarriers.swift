import LLVMKit

// Barriers in shared memory (PTX ISA, "mbarrier"), by which groups of warps of one block, and blocks of one cluster, tell each other what is
// there; and what else groups of warps with different tasks need.
extension GPUKernelEmitter {
  /// The address, i32, of shared memory this many bytes from the block's first.
  func sharedAddress(_ b: IRBuilder, _ offset: Int) -> IRValue {
    b.ptrtoint(b.offset(emitter.shared, bytes: offset), to: context.i32)
  }

  /// Makes a barrier that so many arrivals complete.
  func makeBarrier(_ b: IRBuilder, _ barrier: IRValue, arrivals: Int) {
    b.assembly(
      "mbarrier.init.shared::cta.b64 [$0], \(arrivals);", constraints: "r,~{memory}", returns: context.void, [barrier])
  }

  /// Lets all threads, those of the cluster too, and the copy engine see the barriers that this thread made, once they have met.
  func publishBarriers(_ b: IRBuilder) {
    b.assembly("fence.mbarrier_init.release.cluster;", constraints: "~{memory}", returns: context.void)
  }

  /// Waits for the end of a barrier's phase of this parity.
  func wait(_ b: IRBuilder, _ barrier: IRValue, parity: IRValue) {
    b.assembly(
      """
      {
      \t.reg .pred done;
      AGAIN:
      \tmbarrier.try_wait.parity.shared::cta.b64 done, [$0], $1;
      \t@done bra DONE;
      \tbra AGAIN;
      DONE:
      \t}
      """, constraints: "r,r,~{memory}", returns: context.void, [barrier, parity])
  }

  /// Arrives at a barrier of the own block.
  func arrive(_ b: IRBuilder, _ barrier: IRValue) {
    b.assembly(
      "mbarrier.arrive.shared::cta.b64 _, [$0];", constraints: "r,~{memory}", returns: context.void, [barrier])
  }

  /// Arrives at a barrier of the own block, which then waits for so many bytes too.
  func arrive(_ b: IRBuilder, _ barrier: IRValue, expecting bytes: Int) {
    b.assembly(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [$0], \(bytes);", constraints: "r,~{memory}",
      returns: context.void, [barrier])
  }

  /// Sends four numbers of fp32 to an address in the cluster's shared memory; the barrier there waits for their 16 bytes.
  func send(_ b: IRBuilder, _ numbers: [IRValue], to address: IRValue, _ barrier: IRValue) {
    b.assembly(
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [$0], {$1, $2, $3, $4}, [$5];",
      constraints: "r,f,f,f,f,r,~{memory}", returns: context.void, [address] + numbers + [barrier])
  }

  /// Waits for the other threads of a barrier of some of the block's warps, by its number.
  func meet(_ b: IRBuilder, _ number: Int, threads: Int) {
    b.intrinsic(
      "llvm.nvvm.barrier.sync.cnt", [context.i32.constant(number), context.i32.constant(threads)])
  }

  /// Arrives, once for the warp, when all of its threads have come here.
  func arriveAsWarp(_ b: inout IRBuilder, _ barrier: IRValue) {
    meetLanes(b)
    b.ifThen(b.icmp(.eq, lane, 0)) { b in arrive(b, barrier) }
  }

  /// Arrives, once for the warp, at the barrier in the same place of every block of the cluster. What the warp read from its own block's
  /// shared memory before, and has used, was read before.
  func arriveEverywhere(_ b: inout IRBuilder, _ barrier: IRValue) {
    meetLanes(b)
    b.ifThen(b.icmp(.slt, lane, plan.cluster)) { b in
      b.assembly(
        "mbarrier.arrive.shared::cluster.b64 _, [$0];", constraints: "r,~{memory}",
        returns: context.void,
        [inBlock(b, barrier, member: lane)])
    }
  }

  /// The address, in the cluster's shared memory, of what lies at this address of a member's own.
  func inBlock(_ b: IRBuilder, _ address: IRValue, member: IRValue) -> IRValue {
    b.assembly(
      "mapa.shared::cluster.u32 $0, $1, $2;", constraints: "=r,r,r", returns: context.i32, sideEffects: false,
      [address, member])
  }

  /// Gives up registers of this group of four warps, or takes what others gave up, up to this many a thread.
  func takeRegisters(_ b: IRBuilder, _ registers: Int, more: Bool) {
    b.assembly(
      "setmaxnreg.\(more ? "inc" : "dec").sync.aligned.u32 \(registers);", constraints: "", returns: context.void)
  }

  /// Lets matrix instructions see what this thread has written to shared memory.
  func publishToMatrices(_ b: IRBuilder) {
    b.assembly("fence.proxy.async.shared::cta;", constraints: "~{memory}", returns: context.void)
  }

  /// All threads of the cluster have come here, and see what each has written.
  func meetCluster(_ b: IRBuilder) {
    b.assembly(
      "barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;", constraints: "~{memory}",
      returns: context.void)
  }

  /// A register of the machine by its name.
  func special(_ b: IRBuilder, _ register: String) -> IRValue {
    b.assembly("mov.u32 $0, %\(register);", constraints: "=r", returns: context.i32, sideEffects: false)
  }

  /// What a matrix instruction is told of a side in shared memory: where it begins, and how far apart its tiles of 8 x 8 numbers are
  /// (PTX ISA, "Matrix Descriptor Format").
  func description(_ b: IRBuilder, _ address: IRValue, leading: Int, stride: Int, isSwizzled: Bool) -> IRValue {
    let place = b.zext(b.lshr(b.and(address, 0x3FFFF), 4), to: context.i64)
    return b.or(
      place, context.i64.constant(((leading >> 4) << 16) | ((stride >> 4) << 32) | (isSwizzled ? 1 << 62 : 0)))
  }
}
