import LLVMKit
import TensorIR
import TileIR

/// A model's programs for one kind of GPU: an image for its driver, and how each kernel is launched.
public struct GPUImage: Sendable {
  /// The kind.
  public var target: GPUTarget
  /// What is computed, an entry each; the image has the kernels of these.
  public var programs: [Program]
  /// PTX, which NVIDIA's driver translates; nothing for AMD's, which translates none.
  public var ptx: [UInt8]
  /// Machine code: for NVIDIA's cards nil where no assembler was there, for AMD's always there.
  public var code: [UInt8]?
  /// The launches of each program, in the order of its kernels.
  public var launches: [[GPULaunch]]

  /// An image of these programs' kernels.
  public init(target: GPUTarget, programs: [Program], ptx: [UInt8], code: [UInt8]?, launches: [[GPULaunch]]) {
    (self.target, self.programs, self.ptx, self.code, self.launches) = (target, programs, ptx, code, launches)
  }
}

/// Emits the host's side of a model's code for a GPU: `ultra_gpu` of include/ultra.h with its functions.
struct GPUStubEmitter {
  let context: Context
  let module: IRModule
  let image: GPUImage
  private var programs: [Program] { image.programs }
  /// The level of the host's code.
  let level: CPULevel
  let tiles: any TileInstructions
  /// Where weights lie in the file, and in the GPU's memory.
  let weights: WeightLayout
  private let ownWeights: WeightLayout
  let weightsBase: (IRBuilder) -> IRValue

  init(
    context: Context, module: IRModule, image: GPUImage, level: CPULevel,
    tiles: any TileInstructions, weights: WeightLayout, weightsBase: @escaping (IRBuilder) -> IRValue
  ) {
    (self.context, self.module, self.image) = (context, module, image)
    (self.level, self.tiles, self.weights, self.weightsBase) = (level, tiles, weights, weightsBase)
    ownWeights = WeightLayout(image.programs)
  }

  /// Pieces of the weights that lie together both in the file and in the GPU's memory.
  private var pieces: [(source: Int, target: Int, byteCount: Int)] {
    var pieces: [(source: Int, target: Int, byteCount: Int)] = []
    for entry in ownWeights.entries {
      guard let source = weights.offset(of: entry.buffer) else { continue }
      if let last = pieces.last, source - last.source == entry.offset - last.target {
        pieces[pieces.count - 1].byteCount = entry.offset - last.target + entry.byteCount
      } else {
        pieces.append((source, entry.offset, entry.byteCount))
      }
    }
    return pieces
  }

  private typealias DriverFunction = GPUDriverFunction
  private var vendor: GPUTarget.Vendor { image.target.vendor }

  /// Of the state: the driver's functions, then these, then each kernel's function. The context is with AMD the device's number.
  private enum State {
    static let context = DriverFunction.allCases.count * 8, module = context + 8, weights = module + 8
    /// Whether the weights' memory is the model's own.
    static let owns = weights + 8
    static let kernels = owns + 8
  }

  /// `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`.
  private static let sharedBytesAttribute = 8
  /// `CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED`.
  private static let largeClustersAttribute = 14
  private static let alignment = 256

  private var kernelCount: Int { image.launches.reduce(0) { $0 + $1.count } }
  private var prefix: String { "gpu.\(image.target.rawValue)" }

  /// The fields of the table.
  func emit() -> [IRValue] {
    let (i32, i64) = (context.i32, context.i64)
    let ptx =
      image.ptx.isEmpty
      ? nil : module.addGlobal("\(prefix).ptx", initializer: module.bytes(image.ptx + [0]), alignment: 64)
    let code = image.code.map { module.addGlobal("\(prefix).code", initializer: module.bytes($0), alignment: 64) }
    var first = 0
    let entries = zip(programs, image.launches).flatMap { program, launches in
      defer { first += launches.count }
      return emitEntry(program, launches, firstKernel: first)
    }
    let table = module.addGlobal("\(prefix).entries", initializer: context.structure(of: entries), alignment: 8)
    return [
      i32.constant(ABI.byteCount), i32.constant(programs.count), text(image.target.rawValue),
      ptx ?? context.pointer.null(),
      i64.constant(image.ptx.count), code ?? context.pointer.null(), i64.constant(image.code?.count ?? 0),
      i64.constant(State.kernels + kernelCount * 8), i64.constant(ownWeights.byteCount),
      emitLoad(ptx: ptx, code: code).value, emitUnload().value, table,
    ]
  }

  private enum ABI { static let byteCount = 88 }

  private func text(_ text: String) -> IRValue {
    module.addGlobal("text", initializer: module.cString(text), alignment: 1)
  }

  private func addFunction(_ name: String, _ parameters: [IRType], returns result: IRType) -> IRFunction {
    let function = module.addFunction(
      "\(prefix).\(name)", type: context.function(parameters, returns: result), linkage: .internal)
    level.configure(function)
    function.addAttribute("nounwind")
    function.addAttribute("no-builtins", "")
    return function
  }

  // MARK: - The driver

  /// Calls a function of the driver; where it fails, tells the caller and leaves with `driverFailed` after `cleanUp`.
  private func call(
    _ b: inout IRBuilder, _ function: DriverFunction, _ arguments: [IRValue], state: IRValue, failure: IRValue,
    kernel: IRValue? = nil, cleanUp: (inout IRBuilder) -> Void = { _ in }
  ) {
    let address = b.load(context.pointer, b.offset(state, bytes: function.slot))
    let type = context.function(function.parameters(context), returns: context.i32)
    let status = b.call(pointer: address, type: type, arguments)
    b.ifThen(b.icmp(.ne, status, 0)) { b in
      cleanUp(&b)
      fail(
        &b, failure, .driverFailed, driverStatus: status, function: text(function.name(of: vendor) ?? ""),
        kernel: kernel ?? context.pointer.null())
    }
  }

  /// Fills the caller's error, if there is one, and leaves.
  private func fail(
    _ b: inout IRBuilder, _ failure: IRValue, _ status: CallABI.Status, driverStatus: IRValue, function: IRValue,
    kernel: IRValue
  ) {
    let code = context.i32.constant(status.rawValue)
    b.ifThen(b.icmp(.ne, failure, context.pointer.null())) { b in
      let size = b.load(context.i32, failure)
      b.ifThen(b.icmp(.uge, size, CallABI.GPUFailure.byteCount)) { b in
        for (value, offset) in [
          (code, CallABI.GPUFailure.status), (driverStatus, CallABI.GPUFailure.driverStatus),
          (context.i32.constant(0), CallABI.GPUFailure.reserved), (function, CallABI.GPUFailure.function),
          (kernel, CallABI.GPUFailure.kernel),
        ] { b.store(value, b.offset(failure, bytes: offset)) }
      }
    }
    b.ret(code)
  }

  // MARK: - Loading

  private func emitLoad(ptx: IRValue?, code: IRValue?) -> IRFunction {
    let (i32, i64, p) = (context.i32, context.i64, context.pointer)
    let function = addFunction("load", [p, p, i64, p], returns: i32)
    let (state, host, given, failure) = (
      function.parameters[0], function.parameters[1], function.parameters[2], function.parameters[3]
    )
    var b = IRBuilder(at: function.appendBlock("entry"))
    let none = i32.constant(0)
    let badCall = i32.constant(CallABI.Status.badCall.rawValue)
    b.ifThen(b.or(b.icmp(.eq, state, p.null()), b.icmp(.eq, host, p.null()))) { $0.ret(badCall) }
    let size = b.load(i32, b.offset(host, bytes: CallABI.GPUHost.structSize))
    b.ifThen(b.icmp(.ult, size, CallABI.GPUHost.byteCount)) { $0.ret(badCall) }
    let find = b.load(p, b.offset(host, bytes: CallABI.GPUHost.find))
    b.ifThen(b.icmp(.eq, find, p.null())) { $0.ret(badCall) }
    let finder = b.load(p, b.offset(host, bytes: CallABI.GPUHost.context))
    for wanted in DriverFunction.allCases {
      guard let name = wanted.name(of: vendor).map(text) else { continue }
      let address = b.call(pointer: find, type: context.function([p, p], returns: p), [finder, name])
      b.ifThen(b.icmp(.eq, address, p.null())) { b in
        fail(&b, failure, .noDriver, driverStatus: none, function: name, kernel: p.null())
      }
      b.store(address, b.offset(state, bytes: wanted.slot))
    }
    call(&b, .initialize, [none], state: state, failure: failure)
    noteContext(&b, state: state, failure: failure)
    let moduleSlot = b.offset(state, bytes: State.module)
    func load(_ b: inout IRBuilder, _ image: IRValue) {
      call(&b, .loadModule, [moduleSlot, image], state: state, failure: failure)
    }
    switch (ptx, code) {
    case (let ptx?, let code?):
      let address = b.load(p, b.offset(state, bytes: DriverFunction.loadModule.slot))
      let type = context.function(DriverFunction.loadModule.parameters(context), returns: i32)
      // Code is for its own kind of card alone, and an older driver may not know it.
      b.ifThen(b.icmp(.ne, b.call(pointer: address, type: type, [moduleSlot, code]), 0)) { b in load(&b, ptx) }
    case (let image?, nil), (nil, let image?): load(&b, image)
    case (nil, nil): preconditionFailure("an image without code")
    }
    func unloadModule(_ b: inout IRBuilder) {
      let unload = b.load(p, b.offset(state, bytes: DriverFunction.unloadModule.slot))
      b.call(pointer: unload, type: context.function([p], returns: i32), [b.load(p, moduleSlot)])
    }
    for (index, launch) in image.launches.flatMap(\.self).enumerated() {
      let slot = b.offset(state, bytes: State.kernels + index * 8)
      let name = text(launch.symbol)
      call(
        &b, .function, [slot, b.load(p, moduleSlot), name], state: state, failure: failure, kernel: name,
        cleanUp: unloadModule)
      func set(_ attribute: Int, _ value: Int) {
        call(
          &b, .setAttribute, [b.load(p, slot), i32.constant(attribute), i32.constant(value)], state: state,
          failure: failure, kernel: name, cleanUp: unloadModule)
      }
      guard vendor == .nvidia else { continue }
      // Less than 48 kB, and clusters of 8 blocks, may be had without asking.
      if launch.sharedBytes > 48 << 10 { set(Self.sharedBytesAttribute, launch.sharedBytes) }
      if launch.cluster > 8 { set(Self.largeClustersAttribute, 1) }
    }
    let weightsSlot = b.offset(state, bytes: State.weights)
    let owns = b.icmp(.eq, given, 0)
    b.store(given, weightsSlot)
    b.store(b.zext(owns, to: i64), b.offset(state, bytes: State.owns))
    guard ownWeights.byteCount > 0 else {
      b.store(i64.constant(0), b.offset(state, bytes: State.owns))
      b.ret(i32.constant(CallABI.Status.ok.rawValue))
      return function
    }
    b.ifThen(owns) { b in
      call(
        &b, .allocate, [weightsSlot, i64.constant(ownWeights.byteCount)], state: state, failure: failure,
        cleanUp: unloadModule)
    }
    for piece in pieces {
      let target = b.add(b.load(i64, weightsSlot), piece.target)
      let source = b.offset(weightsBase(b), bytes: piece.source)
      call(&b, .copy, [target, source, i64.constant(piece.byteCount)], state: state, failure: failure) { b in
        b.ifThen(owns) { b in
          let free = b.load(p, b.offset(state, bytes: DriverFunction.free.slot))
          b.call(pointer: free, type: context.function([i64], returns: i32), [b.load(i64, weightsSlot)])
        }
        unloadModule(&b)
      }
    }
    b.ret(i32.constant(CallABI.Status.ok.rawValue))
    return function
  }

  /// Notes which card the calling thread works on, the first one where none is chosen.
  private func noteContext(_ b: inout IRBuilder, state: IRValue, failure: IRValue) {
    let (i32, p) = (context.i32, context.pointer)
    let current = b.offset(state, bytes: State.context)
    switch vendor {
    case .nvidia:
      call(&b, .currentContext, [current], state: state, failure: failure)
      b.ifThen(b.icmp(.eq, b.load(p, current), p.null())) { b in
        let device = b.alloca(i32)
        call(&b, .firstDevice, [device, i32.constant(0)], state: state, failure: failure)
        call(&b, .retainContext, [current, b.load(i32, device)], state: state, failure: failure)
        call(&b, .setContext, [b.load(p, current)], state: state, failure: failure)
      }
    case .amd: call(&b, .currentDevice, [current], state: state, failure: failure)
    }
  }

  /// Lets the calling thread work on the card of the state.
  private func enterContext(_ b: inout IRBuilder, state: IRValue, failure: IRValue) {
    let current = b.offset(state, bytes: State.context)
    switch vendor {
    case .nvidia: call(&b, .setContext, [b.load(context.pointer, current)], state: state, failure: failure)
    case .amd: call(&b, .setDevice, [b.load(context.i32, current)], state: state, failure: failure)
    }
  }

  private func emitUnload() -> IRFunction {
    let (i32, i64, p) = (context.i32, context.i64, context.pointer)
    let function = addFunction("unload", [p, p], returns: i32)
    let (state, failure) = (function.parameters[0], function.parameters[1])
    var b = IRBuilder(at: function.appendBlock("entry"))
    b.ifThen(b.icmp(.eq, state, p.null())) { $0.ret(i32.constant(CallABI.Status.badCall.rawValue)) }
    enterContext(&b, state: state, failure: failure)
    b.ifThen(b.icmp(.ne, b.load(i64, b.offset(state, bytes: State.owns)), 0)) { b in
      call(&b, .free, [b.load(i64, b.offset(state, bytes: State.weights))], state: state, failure: failure)
      b.store(i64.constant(0), b.offset(state, bytes: State.owns))
    }
    call(&b, .unloadModule, [b.load(p, b.offset(state, bytes: State.module))], state: state, failure: failure)
    b.ret(i32.constant(CallABI.Status.ok.rawValue))
    return function
  }

  // MARK: - Entries

  private func emitEntry(_ program: Program, _ launches: [GPULaunch], firstKernel: Int) -> [IRValue] {
    let (i32, i64, p) = (context.i32, context.i64, context.pointer)
    let emitter = LevelEmitter(
      context: context, module: module, program: program, level: level, tiles: tiles,
      prefix: "\(prefix).\(program.name)")
    let entry = EntryEmitter(setupOf: emitter)
    let place = emitPlace(entry, emitter, launches)
    let functions = entry.emit { b in
      let (call, frame) = (entry.call, entry.frame)
      func field(_ b: IRBuilder, _ type: IRType, _ offset: Int) -> IRValue {
        b.load(type, b.offset(call, bytes: offset))
      }
      entry.check(
        &b, b.icmp(.uge, field(b, i32, CallABI.Call.structSize), CallABI.GPUCall.byteCount), .badCall,
        found: b.zext(field(b, i32, CallABI.Call.structSize), to: i64),
        expected: i64.constant(CallABI.GPUCall.byteCount))
      let state = field(b, p, CallABI.GPUCall.state)
      entry.check(&b, b.icmp(.ne, state, p.null()), .badCall)
      let dimensions = field(b, p, CallABI.Call.dimensions)
      let workspace = field(b, i64, CallABI.GPUCall.workspace)
      let need = b.call(place, [dimensions, i64.constant(0), p.null()])
      let size = field(b, i64, CallABI.GPUCall.workspaceSize)
      let isUsable = b.and(
        b.and(b.icmp(.ne, workspace, 0), b.icmp(.eq, b.and(workspace, Self.alignment - 1), 0)), b.icmp(.uge, size, need)
      )
      entry.check(&b, isUsable, .badWorkspace, found: size, expected: need)
      let failure = field(b, p, CallABI.GPUCall.failure)
      let stream = field(b, p, CallABI.GPUCall.stream)
      // Block counts are read from tables in the host's memory.
      let grids = zip(program.kernels, launches).map { kernel, launch in
        let blocks = launch.blocks(b, for: b.trunc(entry.blockCount(b, of: kernel, rows: launch.rows), to: i32))
        return (blocks: blocks, columnParts: launch.columnParts(b, for: blocks))
      }
      let sent = program.sentBuffers.map { buffer in
        (
          buffer, emitter.address(b, buffer, frame: frame),
          b.mul(emitter.rows(b, program[buffer].rows, frame: frame), program[buffer].columns * 8)
        )
      }
      enterContext(&b, state: state, failure: failure)
      b.call(place, [dimensions, workspace, frame])
      for (buffer, source, bytes) in sent {
        let target = b.load(i64, b.offset(frame, bytes: emitter.slot(of: buffer)))
        b.ifThen(b.icmp(.ne, bytes, 0)) { b in
          self.call(&b, .copyAsync, [target, source, bytes, stream], state: state, failure: failure)
        }
      }
      // Behind all else are the words that kernels count in.
      let counters = b.sub(b.add(workspace, need), Self.counterBytes(of: launches))
      let counting = launches.count { $0.parameters.contains(.counter) }
      if counting > 0 {
        self.call(
          &b, .fill, [counters, i32.constant(0), i64.constant(counting), stream], state: state,
          failure: failure)
      }
      var counter = 0
      let weightsAddress = b.load(i64, b.offset(state, bytes: State.weights))
      for (index, buffer) in program.buffers.enumerated() {
        guard let offset = ownWeights.offset(of: buffer) else { continue }
        b.store(b.add(weightsAddress, offset), b.offset(frame, bytes: emitter.slot(of: BufferID(index: index))))
      }
      for (number, launch) in launches.enumerated() {
        let parameters = b.alloca(p, count: max(launch.parameters.count, 1))
        for (index, parameter) in launch.parameters.enumerated() {
          let place: IRValue
          switch parameter {
          case .buffer(let id): place = b.offset(frame, bytes: emitter.slot(of: id))
          case .extent(let name): place = b.offset(frame, bytes: emitter.slot(ofExtent: name))
          case .scalar(let id): place = b.offset(frame, bytes: emitter.slot(of: id))
          case .counter:
            place = b.alloca(i64)
            b.store(b.add(counters, 4 * counter), place)
            counter += 1
          }
          b.store(place, b.element(parameters, p, index))
        }
        let one = i32.constant(1)
        b.ifThen(b.icmp(.ne, grids[number].blocks, 0)) { b in
          self.call(
            &b, .launch,
            [
              b.load(p, b.offset(state, bytes: State.kernels + (firstKernel + number) * 8)), grids[number].blocks,
              grids[number].columnParts, one,
              i32.constant(launch.threads), one, one, i32.constant(launch.sharedBytes), stream, parameters, p.null(),
            ], state: state, failure: failure, kernel: text(launch.symbol))
        }
      }
    }
    return [
      text(program.name), i32.constant(program.dimensions.count), i32.constant(program.inputs.count),
      i32.constant(program.outputs.count), i32.constant(launches.count), functions.workspaceSize.value,
      emitWorkspaceSize(place, program).value, functions.run.value,
    ]
  }

  /// `i64 (dimensions, base, frame)`: bytes of the GPU's memory that a call needs; where `frame` is not null, addresses from `base`
  /// on go into it.
  private func emitPlace(_ entry: EntryEmitter, _ emitter: LevelEmitter, _ launches: [GPULaunch]) -> IRFunction {
    let (i64, p) = (context.i64, context.pointer)
    let program = emitter.program
    let function = addFunction("\(program.name).place", [p, i64, p], returns: i64)
    let (dimensions, base, frame) = (function.parameters[0], function.parameters[1], function.parameters[2])
    var b = IRBuilder(at: function.appendBlock("entry"))
    let isPlaced = b.icmp(.ne, frame, p.null())
    var next = i64.constant(0)
    func put(_ b: inout IRBuilder, _ buffers: [BufferID]) {
      var bytes = i64.constant(0)
      for buffer in buffers {
        let width = program[buffer].columns * program[buffer].element.workingByteCount
        bytes = b.smax(bytes, b.mul(entry.greatestRows(b, program[buffer].rows, dimensions: dimensions), width))
        b.ifThen(isPlaced) { b in b.store(b.add(base, next), b.offset(frame, bytes: emitter.slot(of: buffer))) }
      }
      next = b.and(b.add(b.add(next, bytes), Self.alignment - 1), -Self.alignment)
    }
    for (_, buffers) in program.slots { put(&b, buffers) }
    for buffer in program.integersOfHost { put(&b, [buffer]) }
    // Never nothing, so that a caller need not ask whether there is any.
    b.ret(b.add(next, Self.counterBytes(of: launches)))
    return function
  }

  /// Bytes for a word of each kernel.
  private static func counterBytes(of launches: [GPULaunch]) -> Int {
    (max(1, launches.count) * 4 + alignment - 1) / alignment * alignment
  }

  private func emitWorkspaceSize(_ place: IRFunction, _ program: Program) -> IRFunction {
    let (i64, p) = (context.i64, context.pointer)
    let function = addFunction("\(program.name).workspace_size", [p], returns: i64)
    var b = IRBuilder(at: function.appendBlock("entry"))
    let dimensions = function.parameters[0]
    if !program.dimensions.isEmpty {
      b.ifThen(b.icmp(.eq, dimensions, p.null())) { $0.ret(i64.constant(-1)) }
    }
    for index in program.dimensions.indices {
      let extent = b.load(i64, b.offset(dimensions, bytes: index * 8))
      b.ifThen(b.icmp(.ugt, extent, CallABI.maximumExtent)) { $0.ret(i64.constant(-1)) }
    }
    b.ret(b.call(place, [dimensions, i64.constant(0), p.null()]))
    return function
  }
}

extension Program {
  /// What the host has when kernels begin and they read: integers of the caller, and what the setup made.
  fileprivate var sentBuffers: [BufferID] {
    inputs.filter { self[$0].element == .i64 } + setup.flatMap(\.writtenBuffers)
  }

  /// Those of them that lie in the caller's memory on the host, and are given memory on the card: offsets that are results too.
  fileprivate var integersOfHost: [BufferID] {
    sentBuffers.filter { buffer in
      switch self[buffer].home {
      case .input, .output: true
      case .workspace, .weight, .table: false
      }
    }
  }
}

extension GPULaunch {
  /// `blocks(for:)` of a number that is known when the call is made.
  fileprivate func blocks(_ b: IRBuilder, for count: IRValue) -> IRValue {
    if isPersistent {
      let all = count.type.constant(residentBlocks)
      return cluster == 1 ? b.smin(count, all) : b.select(b.icmp(.eq, count, 0), count, all)
    }
    if cluster == 1 { return count }
    let whole = b.mul(b.udiv(b.add(b.smax(count, Self.clusteredBlocks), cluster - 1), cluster), cluster)
    return b.select(b.icmp(.eq, count, 0), count, whole)
  }

  /// `columnParts(for:)` of a number that is known when the call is made.
  fileprivate func columnParts(_ b: IRBuilder, for blocks: IRValue) -> IRValue {
    if columnParts == 1 { return blocks.type.constant(1) }
    let fitting = b.udiv(blocks.type.constant(Self.multiprocessors), b.smax(blocks, 1))
    return b.smin(b.smax(fitting, 1), columnParts)
  }
}
