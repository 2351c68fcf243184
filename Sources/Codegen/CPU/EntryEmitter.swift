import LLVMKit
import TensorIR
import TileIR

/// Emits an entry of the model: `workspace_size` and `run` of include/ultra.h.
final class EntryEmitter {
  let emitter: LevelEmitter
  let weights: WeightLayout
  let weightsBase: (IRBuilder) -> IRValue
  var context: Context { emitter.context }
  var program: Program { emitter.program }
  /// Of the function at hand: the call, and its frame.
  private(set) var call: IRValue
  private(set) var frame: IRValue
  private let fail: IRFunction
  /// The workspace buffers that lie in the caller's workspace, by slot: all, or where kernels run elsewhere those of the setup.
  private let placed: [(slot: Int, buffers: [BufferID])]
  private let hasScratch: Bool

  /// `weightsBase` emits the address of the artifact's weights segment.
  init(_ emitter: LevelEmitter, weights: WeightLayout, weightsBase: @escaping (IRBuilder) -> IRValue) {
    self.emitter = emitter
    self.weights = weights
    self.weightsBase = weightsBase
    call = emitter.context.pointer.null()
    frame = call
    fail = emitter.emitFail()
    placed = emitter.program.slots
    hasScratch = true
  }

  /// An entry whose kernels run elsewhere: the workspace holds what the setup makes.
  init(setupOf emitter: LevelEmitter) {
    self.emitter = emitter
    weights = WeightLayout([])
    weightsBase = { _ in emitter.context.pointer.null() }
    call = emitter.context.pointer.null()
    frame = call
    fail = emitter.emitFail()
    let program = emitter.program
    let made = program.setup.flatMap(\.writtenBuffers).filter { program[$0].home.isWorkspace }
    placed = made.enumerated().map { ($0, [$1]) }
    hasScratch = false
  }

  func emit() -> (workspaceSize: IRFunction, run: IRFunction) {
    emit { b in
      for number in program.kernels.indices {
        let kernel = KernelEmitter(emitter, number: number).emit()
        emitLaunch(&b, program.kernels[number], kernel)
      }
    }
  }

  /// The functions of an entry that runs its kernels by what `launch` emits, after the setup; it may leave the function.
  func emit(_ launch: (inout IRBuilder) -> Void) -> (workspaceSize: IRFunction, run: IRFunction) {
    let place = emitPlace()
    return (emitWorkspaceSize(place), emitRun(place, launch))
  }

  // MARK: - Workspace

  /// `i64 (dimensions, workers, base)`: the bytes that the workspace needs; where `base` is not null, the addresses in
  /// it go into the frame there.
  private func emitPlace() -> IRFunction {
    let (i64, i32, p) = (context.i64, context.i32, context.pointer)
    let function = emitter.addFunction("place", [p, i32, p], returns: i64, noInline: true)
    let parameters = function.parameters
    var b = IRBuilder(at: function.appendBlock("entry"))
    let isPlaced = b.icmp(.ne, parameters[2], p.null())
    let workers = b.zext(parameters[1], to: i64)
    var next = i64.constant(emitter.frameByteCount)
    func put(_ b: inout IRBuilder, slot: Int, bytes: IRValue) {
      b.ifThen(isPlaced) { b in
        b.store(b.offset(parameters[2], bytes: next), b.offset(parameters[2], bytes: slot))
      }
      next = b.and(b.add(b.add(next, bytes), 63), -64)
    }
    if hasScratch { put(&b, slot: emitter.scratchSlot, bytes: b.mul(workers, emitter.scratch.byteCount)) }
    for (_, members) in placed {
      // The largest buffer of a slot decides; which one that is may depend on the batch.
      guard let first = members.first else { continue }
      var bytes = i64.constant(0)
      for member in members {
        let width = program[member].columns * program[member].element.workingByteCount
        bytes = b.smax(bytes, b.mul(greatestRows(b, program[member].rows, dimensions: parameters[0]), width))
      }
      let start = next
      put(&b, slot: emitter.slot(of: first), bytes: bytes)
      for other in members.dropFirst() {
        b.ifThen(isPlaced) { b in
          b.store(b.offset(parameters[2], bytes: start), b.offset(parameters[2], bytes: emitter.slot(of: other)))
        }
      }
    }
    b.ret(next)
    return function
  }

  /// The most rows that an extent can have, from the dimensions that the caller gave.
  func greatestRows(_ b: IRBuilder, _ extent: Extent, dimensions: IRValue) -> IRValue {
    let rows: IRValue
    switch extent.dimension {
    case .fixed(let count): rows = context.i64.constant(count)
    case .symbol(let name):
      let bound = sum(b, program.givenBound(of: name), dimensions: dimensions)
      rows =
        program.keptRows(of: name).map {
          b.smin(bound, b.mul(given(b, $0.sequences, dimensions: dimensions), $0.ofSequence))
        } ?? bound
    }
    return extent.plus == 0 ? rows : b.add(rows, extent.plus)
  }

  /// An extent that the caller gave.
  private func given(_ b: IRBuilder, _ name: String, dimensions: IRValue) -> IRValue {
    let index = program.dimensions.firstIndex(of: name) ?? 0
    return b.load(context.i64, b.offset(dimensions, bytes: index * 8))
  }

  /// A bound by extents that the caller gave; the verifier has seen that there is one.
  private func sum(_ b: IRBuilder, _ bound: ExtentBound?, dimensions: IRValue) -> IRValue {
    var sum: IRValue?
    for term in bound?.terms ?? [] {
      let extent =
        switch term.dimension {
        case .fixed(let count): context.i64.constant(count)
        case .symbol(let name): given(b, name, dimensions: dimensions)
        }
      let product = term.times == 1 ? extent : b.mul(extent, term.times)
      sum = sum.map { b.add($0, product) } ?? product
    }
    return sum ?? context.i64.constant(0)
  }

  /// The bounds of extents that may be more than what the caller gives, and the dimension that a refusal names.
  private var sums: [(bound: ExtentBound, dimension: Int)] {
    program.derivedDimensions.compactMap { derived in
      guard let bound = program.givenBound(of: derived.name), !bound.isOneExtent,
        case .symbol(let name)? = bound.terms.first?.dimension, let index = program.dimensions.firstIndex(of: name)
      else { return nil }
      return (bound, index)
    }
  }

  private func emitWorkspaceSize(_ place: IRFunction) -> IRFunction {
    let (i64, i32, p) = (context.i64, context.i32, context.pointer)
    let function = emitter.addFunction("workspace_size", [p, i32], returns: i64)
    var b = IRBuilder(at: function.appendBlock("entry"))
    if !program.dimensions.isEmpty {
      leave(&b, unless: b.icmp(.ne, function.parameters[0], p.null())) { $0.ret(i64.constant(-1)) }
    }
    var areValid = b.icmp(.ugt, function.parameters[1], i32.constant(0))
    for index in program.dimensions.indices {
      let extent = b.load(i64, b.offset(function.parameters[0], bytes: index * 8))
      areValid = b.and(areValid, b.icmp(.ule, extent, CallABI.maximumExtent))
    }
    for (bound, _) in sums {
      let most = sum(b, bound, dimensions: function.parameters[0])
      areValid = b.and(areValid, b.icmp(.ule, most, CallABI.maximumExtent))
    }
    let size = b.call(place, [function.parameters[0], function.parameters[1], p.null()])
    b.ret(b.select(areValid, size, i64.constant(-1)))
    return function
  }

  // MARK: - Run

  private func emitRun(_ place: IRFunction, _ launch: (inout IRBuilder) -> Void) -> IRFunction {
    let (i64, i32, p) = (context.i64, context.i32, context.pointer)
    let function = emitter.addFunction("run", [p], returns: i32)
    call = function.parameters[0]
    var b = IRBuilder(at: function.appendBlock("entry"))
    let workers = emitCallChecks(&b)
    let dimensions = b.load(p, b.offset(call, bytes: CallABI.Call.dimensions))
    let workspace = b.load(p, b.offset(call, bytes: CallABI.Call.workspace))
    let need = b.call(place, [dimensions, workers, p.null()])
    let size = b.load(i64, b.offset(call, bytes: CallABI.Call.workspaceSize))
    let misaligned = b.and(b.ptrtoint(workspace, to: i64), CallABI.workspaceAlignment - 1)
    let isUsable = b.and(
      b.and(b.icmp(.ne, workspace, p.null()), b.icmp(.eq, misaligned, 0)), b.icmp(.uge, size, need))
    check(&b, isUsable, .badWorkspace, found: size, expected: need)
    b.call(place, [dimensions, workers, workspace])
    frame = workspace
    for (index, name) in program.dimensions.enumerated() {
      let extent = b.load(i64, b.offset(dimensions, bytes: index * 8))
      b.store(extent, b.offset(frame, bytes: emitter.slot(ofExtent: name)))
    }
    for index in program.buffers.indices {
      guard let offset = weights.offset(of: program.buffers[index]) else { continue }
      let slot = emitter.slot(of: BufferID(index: index))
      b.store(b.offset(weightsBase(b), bytes: offset), b.offset(frame, bytes: slot))
    }
    emitInputs(&b)
    emitOutputs(&b, derived: false)
    for step in program.setup { emit(&b, step) }
    emitOutputs(&b, derived: true)
    emitOutputCounts(&b)
    for index in program.scalars.indices { emitScalar(&b, ScalarID(index: index)) }
    launch(&b)
    b.ret(i32.constant(CallABI.Status.ok.rawValue))
    return function
  }

  /// Checks the call itself; gives the number of workers.
  private func emitCallChecks(_ b: inout IRBuilder) -> IRValue {
    let (i64, i32, p) = (context.i64, context.i32, context.pointer)
    func field(_ b: IRBuilder, _ type: IRType, _ offset: Int) -> IRValue { b.load(type, b.offset(call, bytes: offset)) }
    leave(&b, unless: b.icmp(.ne, call, p.null())) { $0.ret(i32.constant(CallABI.Status.badCall.rawValue)) }
    let hasSize = b.icmp(.uge, field(b, i32, CallABI.Call.structSize), CallABI.Call.byteCount)
    // Nothing behind the size may be read where the struct is too small, not even to report it.
    leave(&b, unless: hasSize) { $0.ret(i32.constant(CallABI.Status.badCall.rawValue)) }
    let dimensionCount = field(b, i32, CallABI.Call.dimensionCount)
    check(
      &b, b.icmp(.eq, dimensionCount, program.dimensions.count), .badCall, found: b.zext(dimensionCount, to: i64),
      expected: i64.constant(program.dimensions.count))
    for (offset, isUsed) in [
      (CallABI.Call.dimensions, !program.dimensions.isEmpty), (CallABI.Call.inputs, !program.inputs.isEmpty),
      (CallABI.Call.outputs, !program.outputs.isEmpty),
    ] where isUsed {
      check(&b, b.icmp(.ne, field(b, p, offset), p.null()), .badCall)
    }
    for (offset, expected) in [
      (CallABI.Call.inputCount, program.inputs.count), (CallABI.Call.outputCount, program.outputs.count),
    ] {
      let count = b.zext(field(b, i32, offset), to: i64)
      check(&b, b.icmp(.eq, count, expected), .badArgumentCount, found: count, expected: i64.constant(expected))
    }
    let dimensions = field(b, p, CallABI.Call.dimensions)
    for index in program.dimensions.indices {
      let extent = b.load(i64, b.offset(dimensions, bytes: index * 8))
      check(
        &b, b.icmp(.ule, extent, CallABI.maximumExtent), .badDimension, argument: i32.constant(index), found: extent,
        expected: i64.constant(CallABI.maximumExtent))
    }
    // What rows become with those that are added must be an extent, too.
    for (bound, index) in sums {
      let most = sum(b, bound, dimensions: dimensions)
      check(
        &b, b.icmp(.ule, most, CallABI.maximumExtent), .badDimension, argument: i32.constant(index), found: most,
        expected: i64.constant(CallABI.maximumExtent))
    }
    let parallel = field(b, p, CallABI.Call.parallel)
    let one = i32.constant(1)
    return b.ifThenElse(b.icmp(.ne, parallel, p.null())) { b in
      let size = b.load(i32, b.offset(parallel, bytes: CallABI.Parallel.structSize))
      let least = i64.constant(CallABI.Parallel.byteCount)
      check(&b, b.icmp(.uge, size, CallABI.Parallel.byteCount), .badCall, found: b.zext(size, to: i64), expected: least)
      let workers = b.load(i32, b.offset(parallel, bytes: CallABI.Parallel.workers))
      check(&b, b.icmp(.ne, workers, 0), .badCall, expected: i64.constant(1))
      let loop = b.load(p, b.offset(parallel, bytes: CallABI.Parallel.parallelFor))
      check(&b, b.icmp(.ne, loop, p.null()), .badCall)
      return [workers]
    } otherwise: { _ in
      [one]
    }[0]
  }

  private func emitInputs(_ b: inout IRBuilder) {
    let inputs = b.load(context.pointer, b.offset(call, bytes: CallABI.Call.inputs))
    for (index, buffer) in program.inputs.enumerated() {
      let expected = elementCount(b, buffer)
      let tensor = b.offset(inputs, bytes: index * CallABI.Tensor.byteCount)
      let data = b.load(context.pointer, b.offset(tensor, bytes: CallABI.Tensor.data))
      let count = b.load(context.i64, b.offset(tensor, bytes: CallABI.Tensor.count))
      let isUsable = b.and(b.icmp(.eq, count, expected), hasData(b, data, count))
      check(&b, isUsable, .badInput, argument: context.i32.constant(index), found: count, expected: expected)
      b.store(data, b.offset(frame, bytes: emitter.slot(of: buffer)))
    }
  }

  /// Outputs whose extents the caller knew are checked before anything is written, the others once their extents are known.
  private func emitOutputs(_ b: inout IRBuilder, derived: Bool) {
    let outputs = b.load(context.pointer, b.offset(call, bytes: CallABI.Call.outputs))
    for (index, buffer) in program.outputs.enumerated() where isDerived(program[buffer].rows) == derived {
      let expected = elementCount(b, buffer)
      let tensor = b.offset(outputs, bytes: index * CallABI.Tensor.byteCount)
      let data = b.load(context.pointer, b.offset(tensor, bytes: CallABI.Tensor.data))
      let count = b.load(context.i64, b.offset(tensor, bytes: CallABI.Tensor.count))
      let isUsable = b.and(b.icmp(.sge, count, expected), hasData(b, data, expected))
      check(&b, isUsable, .badOutput, argument: context.i32.constant(index), found: count, expected: expected)
      b.store(data, b.offset(frame, bytes: emitter.slot(of: buffer)))
    }
  }

  /// Tells the caller how much will be written, once nothing can be refused any more: a refused call leaves the room
  /// that the caller gave as it was, for the next.
  private func emitOutputCounts(_ b: inout IRBuilder) {
    let outputs = b.load(context.pointer, b.offset(call, bytes: CallABI.Call.outputs))
    for (index, buffer) in program.outputs.enumerated() {
      let tensor = b.offset(outputs, bytes: index * CallABI.Tensor.byteCount)
      b.store(elementCount(b, buffer), b.offset(tensor, bytes: CallABI.Tensor.count))
    }
  }

  private func isDerived(_ extent: Extent) -> Bool {
    guard case .symbol(let name) = extent.dimension else { return false }
    return program.derivedDimensions.contains { $0.name == name }
  }

  private func elementCount(_ b: IRBuilder, _ buffer: BufferID) -> IRValue {
    b.mul(emitter.rows(b, program[buffer].rows, frame: frame), program[buffer].columns)
  }

  private func hasData(_ b: IRBuilder, _ data: IRValue, _ count: IRValue) -> IRValue {
    b.or(b.icmp(.ne, data, context.pointer.null()), b.icmp(.eq, count, 0))
  }

  // MARK: - Launch

  /// How many blocks a kernel has, each once for every part, where blocks of rows have `rows`.
  func blockCount(_ b: IRBuilder, of kernel: Kernel, rows: Int) -> IRValue {
    switch kernel.domain {
    case .rows(let dimension, _, let parts):
      let blocks = b.sdiv(b.add(emitter.rows(b, Extent(dimension), frame: frame), rows - 1), rows)
      return b.mul(blocks, parts)
    case .sequences(_, _, let table, let block, let parts):
      let last = b.sub(emitter.rows(b, program[table].rows, frame: frame), 1)
      let blocks = b.load(context.i64, b.element(emitter.address(b, table, frame: frame), context.i64, last))
      return b.mul(blocks, parts * ((block.most + rows - 1) / rows))
    }
  }

  private func emitLaunch(_ b: inout IRBuilder, _ kernel: Kernel, _ function: IRFunction) {
    let (i64, i32, p) = (context.i64, context.i32, context.pointer)
    let count = blockCount(b, of: kernel, rows: kernel.domain.block)
    let parallel = b.load(p, b.offset(call, bytes: CallABI.Call.parallel))
    // Also for a block or none: who counts the loops of a call then knows the kernel of each.
    b.ifThenElse(b.icmp(.ne, parallel, p.null())) { b in
      let body = context.function([p, i64, p, p], returns: context.void)
      b.call(
        pointer: b.load(p, b.offset(parallel, bytes: CallABI.Parallel.parallelFor)), type: body,
        [b.load(p, b.offset(parallel, bytes: CallABI.Parallel.pool)), count, function.value, frame])
      return []
    } otherwise: { b in
      b.loop(from: i64.constant(0), to: count, name: "block", hint: .asWritten) { b, index in
        b.call(function, [frame, index, i32.constant(0)])
      }
      return []
    }
  }

  // MARK: - Refusals

  /// Returns from the function with what `body` emits unless the condition holds.
  func leave(_ b: inout IRBuilder, unless condition: IRValue, _ body: (inout IRBuilder) -> Void) {
    let failure = b.appendBlock("refuse")
    let ok = b.appendBlock("ok")
    b.condBr(condition, then: ok, else: failure)
    b.position(at: failure)
    body(&b)
    b.position(at: ok)
  }

  /// Refuses the call unless the condition holds.
  func check(
    _ b: inout IRBuilder, _ condition: IRValue, _ status: CallABI.Status, argument: IRValue? = nil,
    position: IRValue? = nil, found: IRValue? = nil, expected: IRValue? = nil
  ) {
    let zero = context.i64.constant(0)
    leave(&b, unless: condition) { b in
      b.ret(
        b.call(
          fail,
          [
            call, context.i32.constant(status.rawValue), argument ?? context.i32.constant(-1), position ?? zero,
            found ?? zero, expected ?? zero,
          ]))
    }
  }
}

extension LevelEmitter {
  /// `i32 (call, status, argument, position, found, expected)`: fills the caller's error, if there is one, and gives the
  /// status back.
  func emitFail() -> IRFunction {
    let (i64, i32, p) = (context.i64, context.i32, context.pointer)
    let function = addFunction("fail", [p, i32, i32, i64, i64, i64], returns: i32, noInline: true)
    let parameters = function.parameters
    var b = IRBuilder(at: function.appendBlock("entry"))
    let error = b.load(p, b.offset(parameters[0], bytes: CallABI.Call.error))
    b.ifThen(b.icmp(.ne, error, p.null())) { b in
      let size = b.load(i32, b.offset(error, bytes: CallABI.Failure.structSize))
      b.ifThen(b.icmp(.uge, size, CallABI.Failure.byteCount)) { b in
        let fields = [
          (parameters[1], CallABI.Failure.status), (parameters[2], CallABI.Failure.argument),
          (i32.constant(0), CallABI.Failure.reserved), (parameters[3], CallABI.Failure.position),
          (parameters[4], CallABI.Failure.found), (parameters[5], CallABI.Failure.expected),
        ]
        for (value, offset) in fields { b.store(value, b.offset(error, bytes: offset)) }
      }
    }
    b.ret(parameters[1])
    return function
  }
}
