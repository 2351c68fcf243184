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

  func place(_ address: UInt32) -> Int { Int(address) - Int(bitPattern: emulator.window.baseAddress) }

  func makeBarrier(_ address: UInt32, _ count: Int) {
    barriers[address] = EmulatedBarrier(expected: count, pending: count)
  }

  func arrive(_ address: UInt32, expecting bytes: Int = 0) {
    change(address) { barrier in
      barrier.bytes += bytes
      barrier.pending -= 1
      barrier.finish()
    }
  }

  func expect(_ address: UInt32, bytes: Int) { change(address) { $0.bytes += bytes } }

  /// Sets a copy on its way, whose bytes the barrier counts.
  func copy(_ copy: EmulatedCopy, arrivingAt address: UInt32) {
    if Int(bitPattern: copy.source) % 16 != 0 || Int(bitPattern: copy.target) % 16 != 0 || copy.count % 16 != 0 {
      cluster.fault = "a bulk copy of \(copy.count) bytes that is not in whole 16 bytes"
    }
    change(address) { barrier in
      guard emulator.arrival == .early else { return barrier.copies.append(copy) }
      copy.perform()
      barrier.bytes -= copy.count
      barrier.finish()
    }
  }

  /// Whether the phase with this parity is over. What is on its way arrives now, where somebody waits for it.
  func hasPassed(_ address: UInt32, _ parity: UInt32) -> Bool {
    var isOver = false
    change(address) { barrier in
      if barrier.phase & 1 == Int(parity & 1), barrier.pending == 0 {
        for copy in barrier.copies {
          copy.perform()
          barrier.bytes -= copy.count
        }
        barrier.copies = []
        barrier.finish()
      }
      isOver = barrier.phase & 1 != Int(parity & 1)
    }
    return isOver
  }
}
