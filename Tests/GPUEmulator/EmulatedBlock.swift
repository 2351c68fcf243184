import Fibers

/// A thread of a block: where it is, and what it waits for.
final class EmulatedThread {
  unowned let block: EmulatedBlock
  let number: Int
  let fiber: OpaquePointer
  var isDone = false
  /// What it asked for and cannot get alone.
  var request: (number: Int, lane: DeviceOperation.Lane)?
  /// Copies on their way: groups that were closed, the oldest first, and those since.
  var groups: [[EmulatedCopy]] = []
  var open: [EmulatedCopy] = []

  init(_ block: EmulatedBlock, number: Int, fiber: OpaquePointer) {
    (self.block, self.number, self.fiber) = (block, number, fiber)
  }

  var lane: Int { number % block.emulator.lanes }

  /// The thread's warp among those of the cluster.
  var warp: Int { block.firstWarp + number / block.emulator.lanes }

  /// The thread that runs now.
  static var running: EmulatedThread? {
    fiber_tag().map { Unmanaged<EmulatedThread>.fromOpaque($0).takeUnretainedValue() }
  }

  /// Sets a copy of so many bytes on its way, and of zeros behind them, sixteen bytes in all.
  func copySixteen(_ source: UnsafeRawPointer, to target: UnsafeMutableRawPointer, count: Int) {
    if Int(bitPattern: target) % 16 != 0 || Int(bitPattern: source) % 16 != 0 {
      block.cluster.fault = "an asynchronous copy that is not at a multiple of 16 bytes"
    }
    block.noteWrite(Int(bitPattern: target) - Int(GPUEmulator.windowAddress), 16, by: self)
    start(EmulatedCopy(target: target, source: source, count: count, zeros: 16 - count))
  }

  /// Arrives at a barrier when all copies of this thread have arrived.
  func arriveWithCopies(_ address: UInt32) {
    let copies = groups.flatMap(\.self) + open
    (groups, open) = ([], [])
    if block.emulator.arrival == .early {
      block.arrive(address, by: warp)
    } else {
      block.arrive(address, by: warp, after: copies)
    }
  }

  /// Sets a copy on its way.
  func start(_ copy: EmulatedCopy) {
    if block.emulator.arrival == .early { copy.perform() } else { open.append(copy) }
  }

  /// Lets copies of all but the latest groups arrive.
  func arrive(butLatest kept: Int) {
    while groups.count > kept { for copy in groups.removeFirst() { copy.perform() } }
  }
}

/// Bytes that are to be copied to shared memory, and zeros behind them.
struct EmulatedCopy {
  var target: UnsafeMutableRawPointer
  /// Nil for `words`.
  var source: UnsafeRawPointer?
  var words: [UInt32] = []
  var count: Int
  var zeros = 0

  init(target: UnsafeMutableRawPointer, source: UnsafeRawPointer, count: Int, zeros: Int = 0) {
    (self.target, self.source, self.count, self.zeros) = (target, source, count, zeros)
  }

  /// Of numbers to a place in a block's shared memory.
  init(words: [UInt32], offset: Int) {
    self.words = words
    target = UnsafeMutableRawPointer(GPUEmulator.window.baseAddress!) + offset
    count = words.count * 4
  }

  /// The block whose shared memory it goes to must have the window.
  func perform() {
    if let source {
      target.copyMemory(from: source, byteCount: count)
    } else {
      words.withUnsafeBytes { target.copyMemory(from: $0.baseAddress!, byteCount: count) }
    }
    (target + count).initializeMemory(as: UInt8.self, repeating: 0, count: zeros)
  }
}

/// A barrier in shared memory that counts arrivals and bytes (PTX ISA, "mbarrier").
struct EmulatedBarrier {
  var expected: Int
  var pending: Int
  var bytes = 0
  var phase = 0
  var copies: [EmulatedCopy] = []
  /// Arrivals that wait for copies.
  var deferred: [[EmulatedCopy]] = []
  /// What those who arrive know, and what those do who wait for the phase that is over.
  var telling: Knowledge?
  var told: Knowledge?

  mutating func finish() {
    guard pending == 0, bytes == 0 else { return }
    told = telling
    phase += 1
    pending = expected
  }
}

/// A block: its threads, and its shared memory while another block has the window.
final class EmulatedBlock {
  unowned let emulator: GPUEmulator
  unowned var cluster: EmulatedCluster!
  let launch: GPUEmulator.Launch
  let (x, y, rank): (Int, Int, Int)
  private(set) var threads: [EmulatedThread] = []
  var shared: [UInt8]
  var barriers: [UInt32: EmulatedBarrier] = [:]
  /// Threads that have arrived at a barrier of some warps, by its number, and wait for nobody; and what they know.
  var arrivals: [Int: Int] = [:]
  var told: [Int: Knowledge] = [:]
  /// What groups of four warps multiply.
  private(set) var products: [GroupProducts] = []
  /// Nil where no products read shared memory.
  private var notes: SharedNotes?

  init(
    _ emulator: GPUEmulator, _ launch: GPUEmulator.Launch, x: Int, y: Int, rank: Int, fibers: [OpaquePointer]
  ) {
    (self.emulator, self.launch, self.x, self.y, self.rank) = (emulator, launch, x, y, rank)
    // NaN in every width.
    shared = Array(repeating: 0xFF, count: launch.sharedBytes)
    threads = fibers.enumerated().map { EmulatedThread(self, number: $0, fiber: $1) }
    guard emulator.hasGroupProducts else { return }
    notes = SharedNotes(bytes: launch.sharedBytes, warps: warpCount, warpsBefore: firstWarp)
    products = (0..<warpCount / 4).map { GroupProducts(self, group: $0) }
  }

  var warpCount: Int { launch.threads / emulator.lanes }

  /// Its first warp among those of the cluster.
  var firstWarp: Int { rank * warpCount }

  func warps(ofGroup group: Int) -> Range<Int> { firstWarp + 4 * group..<firstWarp + 4 * group + 4 }

  /// Notes that a thread, of this block or another, writes to this block's shared memory, itself or by a bulk copy.
  func noteWrite(_ offset: Int, _ count: Int, by thread: EmulatedThread, inBulk: Bool = false) {
    guard let knowledge = cluster.knowledge else { return }
    if let fault = notes?.write(
      offset, count, by: thread.warp, inBulk: inBulk, at: knowledge.moment, knowledge[thread.warp])
    {
      cluster.fault = fault
    }
  }

  func beginReading(_ pieces: [Int], group: Int) {
    guard let common = cluster.knowledge?.common(to: warps(ofGroup: group)) else { return }
    if let fault = notes?.begin(pieces, group: group, common) { cluster.fault = fault }
  }

  func endReading(_ pieces: [Int], group: Int) {
    guard let moment = cluster.knowledge?.moment else { return }
    notes?.end(pieces, group: group, at: moment)
  }

  var isDone: Bool { threads.allSatisfy(\.isDone) }

  /// The threads of these numbers that have not ended.
  func living(_ range: Range<Int>) -> [EmulatedThread] {
    threads[range.clamped(to: 0..<threads.count)].filter { !$0.isDone }
  }
}

extension GPUEmulator.Order {
  func applied<Element>(to elements: [Element], _ random: inout SplitMix) -> [Element] {
    switch self {
    case .ascending: elements
    case .descending: elements.reversed()
    case .shuffled: elements.shuffled(using: &random)
    }
  }
}

/// Blocks that run at the same time.
final class EmulatedCluster {
  let blocks: [EmulatedBlock]
  private var active: EmulatedBlock?
  /// What a thread did that a GPU does not do, the first of it.
  var fault: String? { didSet { fault = oldValue ?? fault } }
  /// What warps know of each other; nil where nothing follows from it.
  var knowledge: ClusterKnowledge?

  init(_ blocks: [EmulatedBlock]) {
    self.blocks = blocks
    if blocks[0].emulator.hasGroupProducts { knowledge = ClusterKnowledge(warps: blocks.count * blocks[0].warpCount) }
    for block in blocks { block.cluster = self }
  }

  /// The bytes of a block's shared memory from an offset on.
  func shared(rank: Int, offset: Int, count: Int) -> [UInt8]? {
    guard blocks.indices.contains(rank), offset >= 0, offset + count <= blocks[rank].shared.count else { return nil }
    let block = blocks[rank]
    if block === active { return Array(block.emulator.window[offset..<offset + count]) }
    return Array(block.shared[offset..<offset + count])
  }

  /// Whether a block has the window.
  func isActive(_ block: EmulatedBlock) -> Bool { block === active }

  private func activate(_ block: EmulatedBlock) {
    if block === active { return }
    let window = block.emulator.window
    if let active { active.shared = Array(window[..<active.shared.count]) }
    // Past its end lies nothing that a block may read.
    window.initializeMemory(as: UInt8.self, repeating: 0xFF)
    window.copyBytes(from: block.shared)
    active = block
  }

  func run(_ operations: [DeviceOperation], order: GPUEmulator.Order, _ random: inout SplitMix) throws(GPUEmulator
    .Fault)
  {
    while !blocks.allSatisfy(\.isDone) {
      var isStuck = true
      for block in order.applied(to: blocks, &random) where !block.isDone {
        activate(block)
        while advance(block, operations, order, &random) {
          isStuck = false
          if let fault { throw error(block, fault) }
        }
      }
      if meet(operations) { isStuck = false }
      if isStuck { throw error(blocks[0], "threads wait without end: " + waiting(operations)) }
    }
    for block in blocks where !block.products.allSatisfy(\.areOver) {
      throw error(block, "its threads end with products that they have not waited for")
    }
  }

  private func error(_ block: EmulatedBlock, _ what: String) -> GPUEmulator.Fault {
    GPUEmulator.Fault(description: "\(block.launch.kernel), block \(block.x), \(block.y): \(what)")
  }

  /// Runs each warp as far as it comes without the others, and lets go on who waits together. False where nothing happened.
  private func advance(
    _ block: EmulatedBlock, _ operations: [DeviceOperation], _ order: GPUEmulator.Order, _ random: inout SplitMix
  ) -> Bool {
    var hasMoved = false
    let size = block.emulator.lanes
    let firsts = Array(stride(from: 0, to: block.threads.count, by: size))
    for first in order.applied(to: firsts, &random) {
      let warp = order.applied(to: Array(block.threads[first..<min(first + size, block.threads.count)]), &random)
      while fault == nil, run(warp) || agree(block, first..<first + size, operations) { hasMoved = true }
    }
    return fault == nil ? resolve(block, operations) || hasMoved : true
  }

  /// Runs threads until they ask for what they cannot get alone. False where none can run.
  private func run(_ threads: [EmulatedThread]) -> Bool {
    var hasRun = false
    for thread in threads where !thread.isDone && thread.request == nil {
      hasRun = true
      let tag = Unmanaged.passUnretained(thread).toOpaque()
      if let asked = fiber_resume(thread.fiber, tag)?.pointee, let arguments = asked.arguments {
        let lane = DeviceOperation.Lane(arguments: arguments, results: asked.results ?? arguments)
        thread.request = (Int(asked.number), lane)
      } else {
        thread.isDone = true
      }
      if fault != nil { break }
    }
    return hasRun
  }

  /// What a warp's threads have in common, where they all ask for it; and threads whose barriers in shared memory are passed.
  private func agree(_ block: EmulatedBlock, _ range: Range<Int>, _ operations: [DeviceOperation]) -> Bool {
    let living = block.living(range)
    guard let asked = living.first?.request?.number else { return false }
    if case .warp(let action) = operations[asked].action {
      guard let lanes = lanes(of: living, asking: asked) else { return passed(living, operations) }
      guard lanes.count == range.count else {
        fault = "\(lanes.count) of a warp's threads ask for \(operations[asked].name)"
        return true
      }
      action(lanes)
      block.emulator.warpOperations += 1
      for thread in living { thread.request = nil }
      return true
    }
    return passed(living, operations)
  }

  /// Lets threads go on whose barriers in shared memory are past the phase that they wait for.
  private func passed(_ threads: [EmulatedThread], _ operations: [DeviceOperation]) -> Bool {
    var hasMoved = false
    for thread in threads {
      guard let request = thread.request, case .barrier = operations[request.number].action,
        thread.block.hasPassed(request.lane.word(0), request.lane.word(1), by: thread.warp)
      else { continue }
      thread.request = nil
      hasMoved = true
    }
    return hasMoved
  }

  /// What threads bring to what they all ask for; nil where one asks for something else.
  private func lanes(of threads: [EmulatedThread], asking number: Int) -> [DeviceOperation.Lane]? {
    var lanes: [DeviceOperation.Lane] = []
    lanes.reserveCapacity(threads.count)
    for thread in threads {
      guard let request = thread.request, request.number == number else { return nil }
      lanes.append(request.lane)
    }
    return lanes
  }

  /// Gives groups of warps and the block what all of their threads wait for.
  private func resolve(_ block: EmulatedBlock, _ operations: [DeviceOperation]) -> Bool {
    var hasMoved = false
    let size = block.emulator.lanes
    for first in stride(from: 0, to: block.threads.count, by: size) {
      let warp = block.living(first..<first + size)
      guard let request = warp.first?.request else { continue }
      switch operations[request.number].action {
      case .alone, .warp, .barrier, .cluster: break
      case .warpGroup(let action):
        guard first % (4 * size) == 0 else { continue }
        let group = block.living(first..<first + 4 * size)
        guard let lanes = lanes(of: group, asking: request.number) else { continue }
        guard lanes.count == 4 * size else {
          fault = "part of a group of warps multiplies matrices"
          return true
        }
        guard action(block.products[first / (4 * size)], lanes) else { continue }
        for thread in group { thread.request = nil }
        hasMoved = true
      case .block:
        let all = block.living(0..<block.threads.count)
        guard lanes(of: all, asking: request.number) != nil else { continue }
        knowledge?.meet(block.firstWarp..<block.firstWarp + block.warpCount)
        for thread in all { thread.request = nil }
        hasMoved = true
      case .someOfBlock(let barrier):
        // Whoever waits at it, whatever the text.
        let (number, count) = barrier(request.lane)
        let there = block.threads.filter { other in
          guard let own = other.request, case .someOfBlock(let same) = operations[own.number].action else {
            return false
          }
          return same(own.lane).number == number
        }
        guard block.takeArrivals(at: number, count - there.count, for: Set(there.map(\.warp))) else { continue }
        for other in there { other.request = nil }
        hasMoved = true
      }
    }
    return hasMoved
  }

  /// Lets all threads of the cluster go on where they all have met.
  private func meet(_ operations: [DeviceOperation]) -> Bool {
    let living = blocks.flatMap { $0.living(0..<$0.threads.count) }
    let isThere = living.allSatisfy { thread in
      guard let request = thread.request, case .cluster = operations[request.number].action else { return false }
      return true
    }
    guard isThere, !living.isEmpty else { return false }
    knowledge?.meet(0..<blocks.count * blocks[0].warpCount)
    for thread in living { thread.request = nil }
    return true
  }

  private func waiting(_ operations: [DeviceOperation]) -> String {
    var counts: [(what: String, threads: Int)] = []
    for block in blocks {
      for thread in block.threads {
        guard let request = thread.request else { continue }
        let what =
          "\(operations[request.number].name) in block \(block.x), warp \(thread.number / block.emulator.lanes)"
        if counts.last?.what == what { counts[counts.count - 1].threads += 1 } else { counts.append((what, 1)) }
      }
    }
    return counts.map { "\($0.threads) at \($0.what)" }.joined(separator: "; ")
  }
}
