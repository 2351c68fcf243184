import LLVMKit
import TileIR

/// What the code of an artifact is made from.
public struct ModelCode {
  /// Bytes that the artifact's format puts before the code: a note with the manifest, and a placeholder whose program
  /// header becomes that of the weights.
  public struct Notes: Sendable {
    /// The note with the manifest in it; what is known only after linking (the distance, the sizes of file and weights,
    /// the checksum) is zero.
    public var note: [UInt8]
    /// Of the 8-byte distance, within the note, from itself to the weights.
    public var weightsDistanceOffset: Int
    /// Of the manifest's first byte, within the note.
    public var manifestOffset: Int
    /// Bytes of the manifest.
    public var manifestByteCount: Int
    /// Bytes of the placeholder for the weights.
    public var weightsNote: [UInt8]

    /// Notes made by the artifact's format; offsets and counts are in bytes.
    public init(
      note: [UInt8], weightsDistanceOffset: Int, manifestOffset: Int, manifestByteCount: Int, weightsNote: [UInt8]
    ) {
      self.note = note
      self.weightsDistanceOffset = weightsDistanceOffset
      self.manifestOffset = manifestOffset
      self.manifestByteCount = manifestByteCount
      self.weightsNote = weightsNote
    }
  }

  /// What is computed, an entry each in this order; at least one, all verified, each with a name of its own.
  public var programs: [Program]
  /// Programs and images for GPUs, ascending.
  public var gpuImages: [GPUImage] = []
  /// The levels to emit code for, ascending, at least one, all of one architecture.
  public var levels: [CPULevel]
  /// What the format puts before the code.
  public var notes: Notes
  /// Makes the tile instructions of levels that have tiles, for a module: those of the processor but in tests.
  public var tiles: @Sendable (IRModule) -> any TileInstructions = { AMXInstructions($0.context) }

  /// Code for these levels, put in ascending order.
  public init(programs: [Program], levels: [CPULevel], notes: Notes) {
    self.programs = programs
    self.levels = levels.sorted()
    self.notes = notes
  }

  /// The module of all levels with the function that include/ultra.h names, not yet optimized.
  public func emit(into context: Context) throws(LLVMError) -> IRModule {
    var emitter = ModelEmitter(code: self, context: context)
    emitter.emit()
    try emitter.module.verify()
    return emitter.module
  }

  /// The module after LLVM's passes, which `pipeline` names as LLVM's `opt -passes` does.
  ///
  /// Loops are emitted in the shape they should have: what O2 adds, vectorizing and unrolling what is left, takes as long
  /// as all else and gains nothing.
  public func optimized(
    in context: Context, for machine: TargetMachine, pipeline: String = "default<O1>"
  ) throws(LLVMError) -> IRModule {
    let module = try emit(into: context)
    machine.describe(module)
    try module.optimize(pipeline, for: machine)
    return module
  }
}

private struct ModelEmitter {
  let code: ModelCode
  let context: Context
  let module: IRModule
  let note: IRValue
  let tiles: any TileInstructions
  /// The table of GPUs; null where there are none.
  private var gpuTable: IRValue

  init(code: ModelCode, context: Context) {
    self.code = code
    self.context = context
    module = IRModule(code.programs[0].name, in: context)
    tiles = code.tiles(module)
    gpuTable = context.pointer.null()
    note = module.addGlobal(
      "ultra_note", initializer: module.bytes(code.notes.note), linkage: .external, section: ".note.ultra",
      alignment: 4, externallyInitialized: true, hidden: true)
    let weights = module.addGlobal(
      "ultra_weights_note", initializer: module.bytes(code.notes.weightsNote), linkage: .external,
      section: ".note.ultra.weights", alignment: 8, externallyInitialized: true, hidden: true)
    module.used([note, weights])
  }

  mutating func emit() {
    let layout = WeightLayout(code.programs + code.gpuImages.flatMap(\.programs))
    let gpus = code.gpuImages.flatMap { image in
      GPUStubEmitter(
        context: context, module: module, image: image, level: code.levels[0], tiles: tiles,
        weights: layout, weightsBase: weightsBase
      ).emit()
    }
    gpuTable = gpus.isEmpty ? context.pointer.null() : constant("gpus", gpus)
    let tables = code.levels.map { level in (level, emitTable(level, layout)) }
    emitModelFunction(tables, refusal: emitRefusal())
  }

  /// The address of the weights: the linker does not know it, the note holds its distance.
  private func weightsBase(_ b: IRBuilder) -> IRValue {
    let distance = b.offset(note, bytes: code.notes.weightsDistanceOffset)
    return b.element(distance, context.i8, b.load(context.i64, distance, alignment: 4))
  }

  private func emitTable(_ level: CPULevel, _ layout: WeightLayout) -> IRValue {
    let (i32, i64) = (context.i32, context.i64)
    let entries = code.programs.flatMap { program in
      let emitter = LevelEmitter(context: context, module: module, program: program, level: level, tiles: tiles)
      let entry = EntryEmitter(emitter, weights: layout, weightsBase: weightsBase).emit()
      return [
        text(program.name), i32.constant(program.dimensions.count), i32.constant(program.inputs.count),
        i32.constant(program.outputs.count), i32.constant(0), entry.workspaceSize.value, entry.run.value,
      ]
    }
    let table = constant("\(level.rawValue).entries", entries)
    return constant(
      "\(level.rawValue).model",
      modelFields(
        level: text(level.rawValue), refusal: nil, count: i64.constant(code.programs.count), table))
  }

  /// The table for machines that can run none of the levels.
  private func emitRefusal() -> IRValue {
    let lowest = code.levels[0]
    let others = code.levels.count > 1 ? " (the least demanding of its \(code.levels.count) levels)" : ""
    var sentence = "this file needs \(lowest.rawValue)\(others): \(lowest.requirement)"
    if let least = lowest.architecture.levels.first, least < lowest {
      sentence +=
        "; compile with --target-cpu \(least.rawValue), or several: --target-cpu \(least.rawValue),"
        + code.levels.map(\.rawValue).joined(separator: ",")
    }
    return constant(
      "refusal.model",
      modelFields(level: nil, refusal: text(sentence), count: context.i64.constant(0), context.pointer.null()))
  }

  private func modelFields(level: IRValue?, refusal: IRValue?, count: IRValue, _ entries: IRValue) -> [IRValue] {
    [
      context.i32.constant(CallABI.Model.byteCount), context.i32.constant(CallABI.version),
      module.address(note, plus: code.notes.manifestOffset),
      context.i64.constant(code.notes.manifestByteCount), level ?? context.pointer.null(),
      refusal ?? context.pointer.null(), count, entries,
      // A machine that can run no level has no code for the host's side either.
      context.i64.constant(refusal == nil ? code.gpuImages.count : 0),
      refusal == nil ? gpuTable : context.pointer.null(),
    ]
  }

  private func constant(_ name: String, _ fields: [IRValue]) -> IRValue {
    module.addGlobal(name, initializer: context.structure(of: fields), alignment: 8)
  }

  private func text(_ text: String) -> IRValue {
    module.addGlobal("text", initializer: module.cString(text), alignment: 1)
  }

  /// `const ultra_model *ultra_model_v1(void)`: the table of the highest level that the machine supports.
  private func emitModelFunction(_ tables: [(CPULevel, IRValue)], refusal: IRValue) {
    /// What a machine needs for a level's code.
    func needed(_ level: CPULevel) -> CPULevel { level.hasTiles ? tiles.level : level }
    let architecture = code.levels[0].architecture
    let detection = architecture.emitDetection(of: code.levels.map(needed), into: module)
    let function = module.addFunction(
      "ultra_model_v1", type: context.function([], returns: context.pointer), linkage: .external)
    function.setTarget(cpu: architecture.baselineCPU)
    let b = IRBuilder(at: function.appendBlock("entry"))
    let supported = b.call(detection, [])
    var chosen = refusal
    for (level, table) in tables {
      chosen = b.select(b.icmp(.ne, b.and(supported, 1 << needed(level).ordinal), 0), table, chosen)
    }
    b.ret(chosen)
  }
}
