import Foundation

/// What a GPU does where a kernel calls an intrinsic or has assembly.
struct DeviceOperation {
  /// What one thread brings, and where its results go.
  struct Lane {
    var arguments: UnsafeMutableRawPointer
    var results: UnsafeMutableRawPointer

    func argument<Value: BitwiseCopyable>(_ index: Int, as type: Value.Type) -> Value {
      arguments.loadUnaligned(fromByteOffset: index * DeviceText.argumentStride, as: type)
    }

    func word(_ index: Int) -> UInt32 { argument(index, as: UInt32.self) }

    func pointer(_ index: Int) -> UnsafeMutableRawPointer {
      UnsafeMutableRawPointer(bitPattern: argument(index, as: UInt.self)) ?? arguments
    }

    /// Writes a field of the results; fields are as wide as the value.
    func give<Value: BitwiseCopyable>(_ value: Value, _ field: Int = 0) {
      results.storeBytes(of: value, toByteOffset: field * MemoryLayout<Value>.size, as: Value.self)
    }
  }

  /// Whom it takes.
  enum Action {
    /// The thread alone.
    case alone((EmulatedThread, Lane) -> Void)
    /// All lanes of a warp.
    case warp(([Lane]) -> Void)
    /// Four warps; false where they must wait for others.
    case warpGroup((GroupProducts, [Lane]) -> Bool)
    /// All threads of the block: a barrier.
    case block
    /// So many threads of the block, at a barrier of a number.
    case someOfBlock((Lane) -> (number: Int, count: Int))
    /// All threads of the cluster.
    case cluster
    /// The thread, until a barrier in shared memory is past a phase.
    case barrier
  }

  var name: String
  var action: Action

  /// Nil where the emulator does not know it.
  init?(_ call: DeviceText.Call) {
    name =
      call.isAssembly
      ? call.text.split(separator: "\n").map { String($0).trimmed }.first { $0.count > 1 } ?? "" : call.text
    guard let action = call.isAssembly ? Self.assembly(call) : Self.intrinsic(call) else { return nil }
    self.action = action
  }

  /// Functions of a library that the rewritten code may call.
  static var librarySymbols: [String: UnsafeRawPointer] {
    let one: [(String, @convention(c) (Float) -> Float)] = [
      ("exp2f", { exp2f($0) }), ("expf", { expf($0) }), ("tanhf", { tanhf($0) }),
      ("roundevenf", { $0.rounded(.toNearestOrEven) }),
    ]
    var symbols: [String: UnsafeRawPointer] = [:]
    for (name, function) in one { symbols[name] = unsafeBitCast(function, to: UnsafeRawPointer.self) }
    let copy: @convention(c) (UnsafeMutableRawPointer, UnsafeRawPointer, Int) -> UnsafeMutableRawPointer? = {
      memcpy($0, $1, $2)
    }
    let fill: @convention(c) (UnsafeMutableRawPointer, Int32, Int) -> UnsafeMutableRawPointer? = { memset($0, $1, $2) }
    symbols["memcpy"] = unsafeBitCast(copy, to: UnsafeRawPointer.self)
    symbols["memset"] = unsafeBitCast(fill, to: UnsafeRawPointer.self)
    return symbols
  }

  private static func number(_ value: @escaping (EmulatedThread) -> Int) -> Action {
    .alone { thread, lane in lane.give(UInt32(truncatingIfNeeded: value(thread))) }
  }

  private static func float(_ function: @escaping (Float) -> Float) -> Action {
    .alone { _, lane in lane.give(function(lane.argument(0, as: Float.self))) }
  }

  // MARK: - Intrinsics

  private static func intrinsic(_ call: DeviceText.Call) -> Action? {
    switch call.text {
    case "llvm.nvvm.read.ptx.sreg.tid.x": return number(\.number)
    case "llvm.nvvm.read.ptx.sreg.ctaid.x": return number(\.block.x)
    case "llvm.nvvm.barrier0": return .block
    case "llvm.nvvm.bar.warp.sync": return .warp { _ in }
    case "llvm.nvvm.barrier.sync.cnt": return .someOfBlock { lane in (Int(lane.word(0)), Int(lane.word(1))) }
    case "llvm.nvvm.rcp.approx.ftz.f": return float { 1 / $0 }
    case "llvm.nvvm.ex2.approx.f": return float(exp2f)
    case "llvm.nvvm.sqrt.rn.f": return float { $0.squareRoot() }
    case "llvm.nvvm.f2i.rn":
      return .alone { _, lane in lane.give(Int32(lane.argument(0, as: Float.self).rounded(.toNearestOrEven))) }
    case "llvm.nvvm.ff2bf16x2.rn":
      // The first number is the upper half.
      return .alone { _, lane in
        lane.give(bf16Bits(lane.argument(1, as: Float.self)), 0)
        lane.give(bf16Bits(lane.argument(0, as: Float.self)), 1)
      }
    case "llvm.nvvm.cp.async.commit.group":
      return .alone { thread, _ in
        thread.groups.append(thread.open)
        thread.open = []
      }
    case "llvm.nvvm.cp.async.wait.group":
      return .alone { thread, lane in thread.arrive(butLatest: Int(lane.word(0))) }
    case "llvm.nvvm.cp.async.cg.shared.global.16.s":
      return .alone { thread, lane in
        thread.copySixteen(lane.pointer(1), to: lane.pointer(0), count: Int(lane.word(2)))
      }
    case "llvm.nvvm.shfl.sync.idx.i32", "llvm.nvvm.shfl.sync.idx.f32":
      return .warp { lanes in
        let values = lanes.map { $0.word(1) }
        for lane in lanes { lane.give(values[Int(lane.word(2)) & 31]) }
      }
    case "llvm.nvvm.shfl.sync.bfly.f32", "llvm.nvvm.shfl.sync.bfly.i32":
      return .warp { lanes in
        let values = lanes.map { $0.word(1) }
        for (number, lane) in lanes.enumerated() { lane.give(values[number ^ Int(lane.word(2)) & 31]) }
      }
    case "llvm.nvvm.vote.ballot.sync":
      return .warp { lanes in
        let bits = lanes.enumerated().reduce(UInt32(0)) { bits, lane in
          bits | UInt32(lane.element.argument(1, as: UInt8.self) & 1) << UInt32(lane.offset)
        }
        for lane in lanes { lane.give(bits) }
      }
    case "llvm.nvvm.redux.sync.min": return reduction(min)
    case "llvm.nvvm.redux.sync.max": return reduction(max)
    case "llvm.nvvm.mma.m16n8k16.row.col.bf16": return .warp(WarpMatrix.multiply(.bf16))
    case "llvm.nvvm.mma.m16n8k32.row.col.s8": return .warp(WarpMatrix.multiply(.s8))
    case let name where name.hasPrefix("llvm.nvvm.ldmatrix.sync.aligned.m8n8.x4"):
      let isTransposed = name.contains(".trans")
      return .warp { WarpMatrix.load($0, isTransposed: isTransposed) }
    default: return WaveOperation.action(call)
    }
  }

  private static func reduction(_ combine: @escaping (Int32, Int32) -> Int32) -> Action {
    .warp { lanes in
      let values = lanes.map { $0.argument(0, as: Int32.self) }
      let result = values.dropFirst().reduce(values[0], combine)
      for lane in lanes { lane.give(result) }
    }
  }

  // MARK: - Assembly

  private static func assembly(_ call: DeviceText.Call) -> Action? {
    let text = call.text.trimmed
    func has(_ mnemonic: String) -> Bool { text.contains(mnemonic) }
    if has("wgmma.") {
      return GroupMatrix(text, call).map { matrix in .warpGroup { products, lanes in products.run(matrix, lanes) } }
    }
    if text.hasPrefix("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32") {
      return .warp(WarpMatrix.multiply(.e4m3))
    }
    if text.hasPrefix("cvt.rn.satfinite.e4m3x2.f32 $0, $2, $1;") {
      // The second operand of the text is the upper half.
      return .alone { _, lane in
        for half in 0..<2 { lane.give(EightBits.ocp.code(of: lane.argument(half, as: Float.self)), half) }
      }
    }
    if has("barrier.cluster.arrive"), has("barrier.cluster.wait") { return .cluster }
    if has("mbarrier.try_wait.parity") { return .barrier }
    if text.hasPrefix("fence.proxy.async") {
      return .alone { thread, _ in thread.block.cluster.knowledge?.publish(thread.warp) }
    }
    let ignored = ["fence.", "setmaxnreg.", "griddepcontrol."]
    // What only keeps the compiler from moving things has no text.
    if text.isEmpty || ignored.contains(where: { text.hasPrefix($0) }) {
      let ties = call.ties
      return .alone { _, lane in for tie in ties { lane.give(lane.word(tie.argument), tie.output) } }
    }
    if text.hasPrefix("mov.u32 $0, %") {
      switch text.dropFirst("mov.u32 $0, %".count).prefix(while: { $0 != ";" }) {
      case "nctaid.x": return number(\.block.launch.blocks.x)
      case "nctaid.y": return number(\.block.launch.blocks.y)
      case "ctaid.x": return number(\.block.x)
      case "ctaid.y": return number(\.block.y)
      case "cluster_ctarank": return number(\.block.rank)
      default: return nil
      }
    }
    if text.hasPrefix("tanh.approx.f32") { return float(tanhf) }
    if text.hasPrefix("ld.global.nc.v4.b32") {
      return .alone { _, lane in
        for word in 0..<4 { lane.give(lane.pointer(0).load(fromByteOffset: 4 * word, as: UInt32.self), word) }
      }
    }
    if text.hasPrefix("atom.global.add.u32 $0, [$1], 1;") {
      return .alone { _, lane in
        let word = lane.pointer(0).assumingMemoryBound(to: UInt32.self)
        lane.give(word.pointee)
        word.pointee &+= 1
      }
    }
    if text.hasPrefix("cp.async.cg.shared.global [$0], [$1], 16, $2;") {
      return .alone { thread, lane in
        let target = UnsafeMutableRawPointer(bitPattern: UInt(lane.word(0))) ?? lane.arguments
        thread.copySixteen(lane.pointer(1), to: target, count: Int(lane.word(2)))
      }
    }
    if text.hasPrefix("mapa.shared::cluster.u32") {
      return .alone { thread, lane in
        lane.give(0xF000_0000 | lane.word(1) << 18 | UInt32(thread.block.place(lane.word(0))))
      }
    }
    if text.hasPrefix("ld.shared::cluster.v4.f32") {
      return .alone { thread, lane in
        guard let (block, offset) = thread.block.member(at: lane.word(0)),
          let bytes = thread.block.cluster.shared(rank: block.rank, offset: offset, count: 16)
        else { return }
        for (index, byte) in bytes.enumerated() { lane.give(byte, index) }
      }
    }
    return barrierAssembly(text)
  }

  private static func barrierAssembly(_ text: String) -> Action? {
    /// The numbers that stand in the text as such, without those in names.
    func constants() -> [Int] {
      text.split { " ,;[]\n\t".contains($0) }.compactMap { Int($0) }
    }
    if text.hasPrefix("mbarrier.init."), let count = constants().last {
      return .alone { thread, lane in thread.block.makeBarrier(lane.word(0), count) }
    }
    if text.hasPrefix("mbarrier.arrive.expect_tx."), let bytes = constants().last {
      return .alone { thread, lane in thread.block.arrive(lane.word(0), by: thread.warp, expecting: bytes) }
    }
    if text.hasPrefix("mbarrier.arrive.shared::cluster.") {
      return .alone { thread, lane in
        guard let (block, offset) = thread.block.member(at: lane.word(0)) else { return }
        block.arrive(block.address(offset), by: thread.warp)
      }
    }
    if text.hasPrefix("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32") {
      return .alone { thread, lane in
        guard let (block, offset) = thread.block.member(at: lane.word(0)),
          let (same, barrier) = thread.block.member(at: lane.word(5)), same === block
        else { return }
        let words = (1...4).map { lane.word($0) }
        block.copy(EmulatedCopy(words: words, offset: offset), by: thread, arrivingAt: block.address(barrier))
      }
    }
    if text.hasPrefix("cp.async.mbarrier.arrive.noinc.shared::cta.b64") {
      return .alone { thread, lane in thread.arriveWithCopies(lane.word(0)) }
    }
    if text.hasPrefix("mbarrier.arrive.") {
      return .alone { thread, lane in thread.block.arrive(lane.word(0), by: thread.warp) }
    }
    if text.hasPrefix("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes"), let bytes = constants().last
    {
      return .alone { thread, lane in
        let target = UnsafeMutableRawPointer(bitPattern: UInt(lane.word(0))) ?? lane.arguments
        thread.block.copy(
          EmulatedCopy(target: target, source: lane.pointer(1), count: bytes), by: thread, arrivingAt: lane.word(2))
      }
    }
    if text.hasPrefix("bar.arrive ") {
      let operands = constants()
      guard operands.count == 2 else { return nil }
      return .alone { thread, _ in thread.block.arrive(atNumber: operands[0], [thread.warp], 1) }
    }
    if text.hasPrefix("bar.sync") || text.hasPrefix("barrier.sync") {
      // Numbers in the text or arguments, in this order.
      let operands = text.split { " ,;\n\t".contains($0) }.dropFirst().map(String.init)
      func value(_ operand: String, _ lane: Lane) -> Int {
        operand.hasPrefix("$") ? Int(lane.word(Int(operand.dropFirst()) ?? 0)) : Int(operand) ?? 0
      }
      guard operands.count == 2 else { return nil }
      return .someOfBlock { lane in (value(operands[0], lane), value(operands[1], lane)) }
    }
    return nil
  }
}

/// fp32 rounded to bf16, to nearest even.
func bf16Bits(_ value: Float) -> UInt16 {
  let bits = value.bitPattern
  if value.isNaN { return UInt16(bits >> 16 | 0x40) }
  return UInt16((bits &+ 0x7FFF &+ (bits >> 16 & 1)) >> 16)
}

/// bf16 as fp32.
func bf16(_ bits: UInt16) -> Float { Float(bitPattern: UInt32(bits) << 16) }
