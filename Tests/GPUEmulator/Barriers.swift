// Barriers in shared memory, and the copies that arrive at them (PTX ISA, "mbarrier" and "cp.async.bulk").
extension EmulatedBlock {
  private func change(_ address: UInt32, _ body: (inout EmulatedBarrier) -> Void) {
    guard var barrier = barriers[address] else {
      cluster.fault = "there is no barrier at \(place(address))"
      return
    }
    body(&barrier)
    if barrier.pending < 0 { cluster.fault = "too many arrive at the barrier at \(place(address))" }
    barriers[address] = barrier
  }

  /// A member of the cluster, and the place in its shared memory, by an address in that of the cluster.
  func member(at address: UInt32) -> (EmulatedBlock, Int)? {
    let rank = Int(address >> 18 & 0x3FF)
    guard address >> 28 == 0xF, cluster.blocks.indices.contains(rank) else {
      cluster.fault = "\(address) is no address in the cluster's shared memory"
      return nil
    }
    return (cluster.blocks[rank], Int(address & 0x3FFFF))
  }

  /// The address of a place in the own shared memory.
  func address(_ offset: Int) -> UInt32 { UInt32(GPUEmulator.windowAddress) + UInt32(offset) }

  /// Takes arrivals at a barrier of some warps, so many that nobody waits for; false where there are fewer.
  func takeArrivals(at number: Int, _ count: Int, for warps: some Collection<Int>) -> Bool {
    guard arrivals[number, default: 0] >= count else { return false }
    if count > 0 { arrivals[number, default: 0] -= count }
    cluster.knowledge?.meet(warps)
    if let told = told[number] { for warp in warps { cluster.knowledge?.learn(warp, told) } }
    return true
  }

  /// Arrives at a barrier of some warps, and does not wait.
  func arrive(atNumber number: Int, _ warps: some Collection<Int>, _ threads: Int) {
    arrivals[number, default: 0] += threads
    for warp in warps { tell(warp, &told[number]) }
  }

  /// Arrives when these copies have.
  func arrive(_ address: UInt32, by warp: Int, after copies: [EmulatedCopy]) {
    change(address) {
      tell(warp, &$0.telling)
      $0.deferred.append(copies)
    }
  }

  private func tell(_ warp: Int, _ known: inout Knowledge?) {
    guard let own = cluster.knowledge?.tell(warp) else { return }
    if known?.learn(own) == nil { known = own }
  }

  func place(_ address: UInt32) -> Int { Int(address) - Int(bitPattern: emulator.window.baseAddress) }

  func makeBarrier(_ address: UInt32, _ count: Int) {
    barriers[address] = EmulatedBarrier(expected: count, pending: count)
  }

  func arrive(_ address: UInt32, by warp: Int, expecting bytes: Int = 0) {
    change(address) { barrier in
      tell(warp, &barrier.telling)
      barrier.bytes += bytes
      barrier.pending -= 1
      barrier.finish()
    }
  }

  func expect(_ address: UInt32, bytes: Int) { change(address) { $0.bytes += bytes } }

  /// Sets a copy on its way, whose bytes the barrier counts.
  func copy(_ copy: EmulatedCopy, by thread: EmulatedThread, arrivingAt address: UInt32) {
    let start = copy.target - UnsafeMutableRawPointer(GPUEmulator.window.baseAddress!)
    noteWrite(start, copy.count, by: thread, inBulk: copy.source != nil)
    if Int(bitPattern: copy.source) % 16 != 0 || Int(bitPattern: copy.target) % 16 != 0 || copy.count % 16 != 0 {
      cluster.fault = "a bulk copy of \(copy.count) bytes that is not in whole 16 bytes"
    }
    change(address) { barrier in
      tell(thread.warp, &barrier.telling)
      guard emulator.arrival == .early else { return barrier.copies.append(copy) }
      if cluster.isActive(self) {
        copy.perform()
      } else {
        copy.words.withUnsafeBytes { shared.replaceSubrange(start..<start + copy.count, with: $0) }
      }
      barrier.bytes -= copy.count
      barrier.finish()
    }
  }

  /// Whether the phase with this parity, which a warp waits for, is over. What is on its way arrives now, where somebody waits for it.
  func hasPassed(_ address: UInt32, _ parity: UInt32, by warp: Int) -> Bool {
    var isOver = false
    change(address) { barrier in
      if barrier.phase & 1 == Int(parity & 1) {
        for copies in barrier.deferred {
          for copy in copies { copy.perform() }
          barrier.pending -= 1
        }
        barrier.deferred = []
        for copy in barrier.copies {
          copy.perform()
          barrier.bytes -= copy.count
        }
        barrier.copies = []
        barrier.finish()
      }
      isOver = barrier.phase & 1 != Int(parity & 1)
      if isOver, let told = barrier.told { cluster.knowledge?.learn(warp, told) }
    }
    return isOver
  }
}
