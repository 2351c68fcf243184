import LLVMKit
import TensorIR
import TileIR

/// Emits one kernel: a function that runs one block, or a piece of one, of the kernel's domain.
///
/// Numbers of rows and columns within a block have 32 bits, addresses in memory 64.
final class GPUKernelEmitter {
  let emitter: GPUModuleEmitter
  let kernel: Kernel
  let plan: GPUPlan
  let number: Int
  let context: Context
  let function: IRFunction
  private var parameters: [GPULaunch.Parameter: IRValue] = [:]
  private let order: [GPULaunch.Parameter]
  /// The thread, its warp, and its place in that.
  private(set) var thread: IRValue
  private(set) var warp: IRValue
  private(set) var lane: IRValue
  /// As for processors: of the block (i64), and of its sequence.
  private(set) var firstRow: IRValue
  private(set) var rowCount: IRValue
  private(set) var sequence: IRValue
  private(set) var sequenceStart: IRValue
  private(set) var length: IRValue
  private(set) var targets: IRValue
  private(set) var firstPosition: IRValue
  private(set) var part: IRValue
  private(set) var keySequenceStart: IRValue
  private(set) var keyLength: IRValue
  /// Of keys in two places, where those of the sequence begin that are kept, and how many they are.
  private(set) var keptStart: IRValue
  private(set) var keptLength: IRValue
  private(set) var dropped: (start: IRValue, count: IRValue)?
  /// The next place of the ring of weights, and the parity of its round.
  var ringPlace: (slot: IRValue, round: IRValue)
  /// Pieces of columns of the products so far, where blocks divide them among them.
  var dealtPieces = 0

  init(_ emitter: GPUModuleEmitter, number: Int) throws(GPUError) {
    self.emitter = emitter
    self.number = number
    context = emitter.context
    plan = try GPUPlan(emitter.program.kernels[number], of: emitter.program, target: emitter.target)
    kernel = plan.kernel
    order = kernel.launchParameters(in: emitter.program) + (plan.matrixAttention == nil ? [] : [.counter])
    let types = order.map { parameter in
      switch parameter {
      case .buffer, .counter: emitter.context.pointer(addressSpace: GPUModuleEmitter.global)
      case .extent: emitter.context.i64
      case .scalar: emitter.context.f32
      }
    }
    function = emitter.module.addFunction(
      "\(emitter.program.name)_\(number)_\(kernel.name.filter { $0.isLetter || $0.isNumber || $0 == "_" })",
      type: context.function(types, returns: context.void))
    switch emitter.target.vendor {
    case .nvidia: function.callingConvention = .ptxKernel
    case .amd: function.callingConvention = .amdgpuKernel
    }
    function.addAttribute("nounwind")
    parameters = Dictionary(uniqueKeysWithValues: zip(order, function.parameters))
    let (zero, none) = (context.i64.constant(0), context.i32.constant(0))
    (thread, warp, lane) = (none, none, none)
    (firstRow, rowCount, sequence, sequenceStart) = (zero, none, zero, zero)
    (length, targets, firstPosition, part) = (zero, zero, zero, none)
    (keySequenceStart, keyLength, keptStart, keptLength) = (zero, zero, zero, zero)
    ringPlace = (none, none)
  }

  func emit() throws(GPUError) -> GPULaunch {
    var b = IRBuilder(at: function.appendBlock("entry"))
    thread = threadIndex(b)
    warp = uniform(b, b.udiv(thread, emitter.target.lanes))
    lane = b.urem(thread, emitter.target.lanes)
    let block = blockIndex(b)
    if let shape = plan.matrixAttention, case .attention(let attention) = plan.stages[0] {
      emitMatrixAttention(&b, attention, shape)
      b.ret()
      return launch(sharedBytes: shape.end)
    }
    if plan.cluster > 1, case .attention(let attention) = plan.stages[0] {
      let shared = try emitCluster(&b, attention, block: block)
      b.ret()
      return launch(sharedBytes: shared)
    }
    locate(&b, index: b.zext(block, to: context.i64))
    let end = b.appendBlock("end")
    // The last piece of a short block has no rows.
    let start = b.appendBlock("start")
    b.condBr(b.icmp(.sgt, rowCount, 0), then: start, else: end)
    b.position(at: start)
    var shared = plan.sharedBytes
    if plan.ring != nil { emitRing(&b) }
    for (index, stage) in plan.stages.enumerated() {
      switch stage {
      case .rows(let statements): try emitRows(&b, statements)
      case .product(let product): try emitProduct(&b, product)
      case .products(let products): emitProducts(&b, products, isLast: index + 1 == plan.stages.count)
      case .attention(let attention): shared = try emitAttention(&b, attention, share: nil)
      case .ranking(let statement): try emitRanking(&b, statement)
      }
      if index + 1 < plan.stages.count {
        if case .products = plan.stages[index + 1] { publishToMatrices(b) }
        barrier(b)
      }
    }
    b.br(end)
    b.position(at: end)
    b.ret()
    return launch(sharedBytes: shared)
  }

  private func launch(sharedBytes: Int) -> GPULaunch {
    describe(sharedBytes: sharedBytes)
    return GPULaunch(
      symbol: function.name, kernel: number, threads: plan.threads, sharedBytes: sharedBytes, rows: plan.rows,
      cluster: plan.cluster, isPersistent: plan.matrixAttention != nil, columnParts: plan.columnParts,
      parameters: order)
  }

  /// Tells the code generator what a block is, from which follows how many registers a thread may have.
  private func describe(sharedBytes: Int) {
    switch emitter.target.vendor {
    case .nvidia:
      for (name, value) in [("maxntidx", plan.threads), ("minctasm", plan.blocksAtOnce)] {
        emitter.module.addNamedMetadata(
          "nvvm.annotations", [.value(function.value), .string(name), .value(context.i32.constant(value))])
      }
    case .amd:
      function.addAttribute("amdgpu-flat-work-group-size", "\(plan.threads),\(plan.threads)")
      function.addAttribute("uniform-work-group-size", "true")
      // A compute unit has four units that run warps, with eight places each.
      let warps = plan.threads / emitter.target.lanes
      let least = max(1, plan.blocksAtOnce * warps / 4)
      let most = min(8, emitter.target.sharedBytes / max(sharedBytes, 1) * warps / 4)
      function.addAttribute("amdgpu-waves-per-eu", "\(least),\(max(least, most))")
    }
  }

  func error(_ what: String) -> GPUError { GPUError(message: "kernel \(kernel.name): no code yet for \(what)") }

  // MARK: - What the kernel is given

  func address(_ buffer: BufferID) -> IRValue { parameters[.buffer(buffer)] ?? context.pointer(addressSpace: 1).null() }

  /// A word that is 0 when the kernel begins.
  var counter: IRValue { parameters[.counter] ?? context.pointer(addressSpace: 1).null() }

  func scalar(_ scalar: ScalarID) -> IRValue { parameters[.scalar(scalar)] ?? context.f32.constant(0.0) }

  /// The rows of an extent.
  func rows(_ b: IRBuilder, _ extent: Extent) -> IRValue {
    let base: IRValue
    switch extent.dimension {
    case .fixed(let count): base = context.i64.constant(count)
    case .symbol(let name): base = parameters[.extent(name)] ?? context.i64.constant(0)
    }
    return extent.plus == 0 ? base : b.add(base, extent.plus)
  }

  /// An integer of a buffer, which the kernel does not write.
  func integer(_ b: IRBuilder, _ buffer: BufferID, _ index: IRValue) -> IRValue {
    b.load(context.i64, b.element(address(buffer), context.i64, index), alignment: 8)
  }

  // MARK: - The block

  /// Pieces that a block of the domain is cut into.
  private var pieces: Int { (kernel.domain.block + plan.rows - 1) / plan.rows }

  /// Of a kernel over sequences, how many blocks and pieces of them there are.
  func itemCount(_ b: IRBuilder, table: BufferID, parts: Int) -> IRValue {
    let sequences = b.sub(rows(b, emitter.program[table].rows), 1)
    return b.mul(integer(b, table, sequences), parts * pieces)
  }

  /// Finds the block's rows from its index, and its sequence too unless that is known.
  func locate(_ b: inout IRBuilder, index: IRValue, sequence known: IRValue? = nil) {
    let i32 = context.i32
    func count(_ left: IRValue) -> IRValue { b.trunc(b.smin(left, plan.rows), to: i32) }
    switch kernel.domain {
    case .rows(let dimension, _, let parts):
      let all = rows(b, Extent(dimension))
      guard parts > 1 else {
        firstRow = b.mul(index, plan.rows)
        rowCount = count(b.sub(all, firstRow))
        break
      }
      // The blocks of a part go together: what all of them read comes from memory once.
      let blocks = b.smax(b.udiv(b.add(all, plan.rows - 1), plan.rows), 1)
      let own = b.udiv(index, blocks)
      part = b.trunc(own, to: i32)
      firstRow = b.mul(b.urem(index, blocks), plan.rows)
      // Pieces that have no rows come last, in parts that are none.
      rowCount = b.select(b.icmp(.slt, own, parts), count(b.sub(all, firstRow)), i32.constant(0))
    case .sequences(let offsets, let targetsBuffer, let table, let block, let parts):
      // Later blocks of causal attention are heavier: they go first.
      let backward = b.sub(b.sub(itemCount(b, table: table, parts: parts), 1), index)
      part = b.trunc(b.urem(backward, parts), to: i32)
      let piece = b.urem(b.udiv(backward, parts), pieces)
      let blockIndex = b.udiv(backward, parts * pieces)
      sequence = known ?? findSequence(&b, table: table, block: blockIndex)
      sequenceStart = integer(b, offsets, sequence)
      length = b.sub(integer(b, offsets, b.add(sequence, 1)), sequenceStart)
      if let targetsBuffer { targets = integer(b, targetsBuffer, sequence) }
      let own = b.sub(blockIndex, integer(b, table, sequence))
      firstPosition = b.add(b.mul(own, block.most), b.mul(piece, plan.rows))
      firstRow = b.add(sequenceStart, firstPosition)
      rowCount = count(b.sub(length, firstPosition))
      (keySequenceStart, keyLength) = (sequenceStart, length)
      if let keys = kernel.keys { locate(&b, keys) }
    }
  }

  /// The sequence that a block of all sequences' belongs to.
  private func findSequence(_ b: inout IRBuilder, table: BufferID, block: IRValue) -> IRValue {
    let sequences = b.sub(rows(b, emitter.program[table].rows), 1)
    return b.sequence(of: block, among: sequences) { b, number in integer(b, table, number) }
  }

  /// Finds the rows that keys are, and which of them the block's sequence leaves out.
  private func locate(_ b: inout IRBuilder, _ keys: KeyRows) {
    keySequenceStart = integer(b, keys.offsets, sequence)
    keyLength = b.sub(integer(b, keys.offsets, b.add(sequence, 1)), keySequenceStart)
    dropped = b.dropped(by: keys.selection, length: keyLength, targets: targets)
    guard let kept = keys.kept else { return }
    keptStart = integer(b, kept, sequence)
    keptLength = b.sub(integer(b, kept, b.add(sequence, 1)), keptStart)
  }

  /// Writes to shared memory where the block is, 72 bytes.
  func storeBlock(_ b: IRBuilder, to place: IRValue) {
    for (index, number) in [firstRow, firstPosition, length, targets, keyLength].enumerated() {
      b.store(number, b.offset(place, bytes: 8 * index), alignment: 8)
    }
    b.store(rowCount, b.offset(place, bytes: 40), alignment: 8)
    b.store(part, b.offset(place, bytes: 44), alignment: 4)
    guard let dropped else { return }
    b.store(dropped.start, b.offset(place, bytes: 48), alignment: 8)
    b.store(dropped.count, b.offset(place, bytes: 56), alignment: 8)
  }

  /// Takes over where the block is, as `storeBlock` wrote it: all that its own rows and masks need, not where its keys are.
  func loadBlock(_ b: IRBuilder, from place: IRValue) {
    let numbers = (0..<5).map { b.load(context.i64, b.offset(place, bytes: 8 * $0), alignment: 8) }
    (firstRow, firstPosition, length, targets, keyLength) = (numbers[0], numbers[1], numbers[2], numbers[3], numbers[4])
    rowCount = b.load(context.i32, b.offset(place, bytes: 40), alignment: 8)
    part = b.load(context.i32, b.offset(place, bytes: 44), alignment: 4)
    guard kernel.keys != nil else { return }
    dropped = (
      b.load(context.i64, b.offset(place, bytes: 48), alignment: 8),
      b.load(context.i64, b.offset(place, bytes: 56), alignment: 8)
    )
  }

  /// The position among keys of the row at a position of the block's own sequence.
  func keyPosition(_ b: IRBuilder, _ position: IRValue) -> IRValue {
    guard let dropped else { return position }
    return b.select(b.icmp(.slt, position, dropped.start), position, b.add(position, dropped.count))
  }
}

extension Kernel {
  /// What a kernel reads of its program, each once, in the program's order.
  func launchParameters(in program: Program) -> [GPULaunch.Parameter] {
    let buffers = Set(buffers)
    var extents: Set<String> = []
    var scalars: Set<ScalarID> = []
    func note(_ dimension: Dimension) { if case .symbol(let name) = dimension { extents.insert(name) } }
    switch domain {
    case .rows(let dimension, _, _): note(dimension)
    case .sequences(_, _, let table, _, _): note(program[table].rows.dimension)
    }
    func visit(_ expression: Expression) {
      switch expression {
      case .scalar(let id): scalars.insert(id)
      case .unary(_, let operand), .unlessIndex(_, _, let operand), .whereBits(_, _, let operand): visit(operand)
      case .binary(_, let left, let right):
        visit(left)
        visit(right)
      default: break
      }
    }
    for statement in statements {
      switch statement {
      case .map(_, let expression, _), .reduce(_, let expression, _), .maximum(_, let expression, _): visit(expression)
      case .contract(let contraction): contraction.finish.map(visit)
      default: break
      }
    }
    return program.buffers.indices.map { BufferID(index: $0) }.filter(buffers.contains).map { .buffer($0) }
      + (program.dimensions + program.derivedDimensions.map(\.name)).filter(extents.contains).map { .extent($0) }
      + program.scalars.indices.map { ScalarID(index: $0) }.filter(scalars.contains).map { .scalar($0) }
  }
}
