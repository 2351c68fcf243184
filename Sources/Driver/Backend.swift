import Artifact
import Codegen
import LLVMKit
import Passes
import TensorIR
import TileIR
import UltraRuntime

/// The back half of the compiler: a verified module becomes tile programs, machine code and an artifact.
public struct Backend: Sendable {
  /// Levels of code that go into the artifact, at least one, all of one architecture.
  public var levels: [CPULevel]
  /// Sizes of blocks.
  public var schedule = TileSchedule()
  /// How much work LLVM puts into speed.
  public var optimization = CompileOptions.Optimization.standard
  /// Graphics processors that code goes into the artifact for, ascending.
  public var gpus: [GPUTarget] = []
  /// What makes machine code of their PTX; nil to leave that to the driver.
  public var assembler: PTXAssembler?
  /// What makes code objects for AMD's; nil where there is none, and no code for them then.
  public var codeObjectLinker: CodeObjectLinker?
  /// Makes the tile instructions of levels that have tiles, for a module: those of the processor but in tests.
  public var tiles: @Sendable (IRModule) -> any TileInstructions = { AMXInstructions($0.context) }
  /// What the manifest says of the compilation: compiler, model and passes; the rest is filled in.
  public var compiler: Manifest.Compiler
  /// What the manifest says of the model: its name and the checksum of its sources.
  public var model: Manifest.Model
  /// What the manifest says of the passes that ran, in order.
  public var passes: [Manifest.Pass] = []

  /// A back half for these levels, put in ascending order.
  public init(levels: [CPULevel], compiler: Manifest.Compiler, model: Manifest.Model) {
    self.levels = levels.sorted()
    self.compiler = compiler
    self.model = model
  }

  /// The entry that every artifact has.
  public static let entry = "forward"

  /// The tile programs of the module's functions, `forward` first, verified: code generation relies on it. Throws where
  /// there is no `forward`, or where an operation cannot be lowered.
  public func lower(_ module: Module) throws -> [Program] { try lower(module, schedule) }

  /// The tile programs by another schedule.
  func lower(_ module: Module, _ schedule: TileSchedule) throws -> [Program] {
    let others = module.functions.map(\.name).filter { $0 != Self.entry }
    return try ([Self.entry] + others).map { name in
      var program = try lowerToTiles(module, function: name, schedule: schedule)
      planMemory(&program)
      try program.verify()
      return program
    }
  }

  /// The optimized LLVM module of all levels, and the machine to emit it for. Throws where the levels are of several
  /// architectures.
  public func generate(
    _ programs: [Program], of module: Module, gpu: GPUPart = GPUPart(), in context: Context
  ) throws -> (IRModule, TargetMachine) {
    let architecture = try levels.architecture()
    let manifest = try manifest(for: programs, of: module, gpu: gpu).encoded()
    let notes = ModelCode.Notes(
      note: try ArtifactNote.makeNote(manifest: manifest), weightsDistanceOffset: ArtifactNote.deltaOffset,
      manifestOffset: ArtifactNote.manifestOffset, manifestByteCount: manifest.count,
      weightsNote: ArtifactNote.weightsPlaceholder)
    TargetMachine.initializeAllTargets()
    let machine = try TargetMachine(
      triple: architecture.triple, cpu: architecture.baselineCPU, optimization: optimization.codeGeneration)
    var code = ModelCode(programs: programs, levels: levels, notes: notes)
    code.tiles = tiles
    code.gpuImages = gpu.images
    return (try code.optimized(in: context, for: machine, pipeline: optimization.pipeline), machine)
  }

  /// Compiles the module and writes the artifact; after an error there is no file.
  @discardableResult
  public func compile(_ module: Module, weights: any WeightProvider, to path: String) throws
    -> ArtifactWriter.Summary
  {
    let programs = try lower(module)
    let gpu = try generateGPU(module)
    let context = Context()
    let (generated, machine) = try generate(programs, of: module, gpu: gpu, in: context)
    let object = try machine.emitObject(generated)
    return try write(programs + gpu.programs, object: object, weights: DerivedWeights(module, base: weights), to: path)
  }

  /// Writes the artifact of programs and their object file; `weights` has derived weights too. After an error there is no
  /// file. `progress` is told how many bytes of weights are written, of how many.
  func write(
    _ programs: [Program], object: [UInt8], weights: any WeightProvider, to path: String,
    progress: (Int, Int) -> Void = { _, _ in }
  ) throws -> ArtifactWriter.Summary {
    try withoutActuallyEscaping(progress) { progress in
      let layout = WeightLayout(programs)
      let sources = layout.entries.map { entry in
        WeightSource(name: entry.name, byteCount: entry.byteCount) { sink in
          progress(entry.offset, layout.byteCount)
          try Self.write(entry.buffer, weights, to: &sink) { progress(entry.offset + $0, layout.byteCount) }
        }
      }
      return try ArtifactWriter().write(object: object, weights: sources, to: path)
    }
  }

  /// Packs a weight piece by piece, by several threads: of a table larger than memory only some rows are in memory.
  private static func write(
    _ buffer: Buffer, _ weights: any WeightProvider, to sink: inout WeightSink, progress: (Int) -> Void
  ) throws {
    switch buffer.home {
    case .table(let numbers): try numbers.withUnsafeBytes { try sink.write($0) }
    case .weight(let name, let packing):
      let weight = try weights.rows(of: name)
      let rows = buffer.rows.dimension.extent ?? 0
      guard weight.element == buffer.element, weight.shape.reduce(1, *) == rows * buffer.columns else {
        throw DriverError(
          "weight \"\(name)\": found \(weight.shape) of \(weight.element.rawValue); "
            + "expected \(rows) x \(buffer.columns) of \(buffer.element.rawValue)")
      }
      let packed = try WeightPacking(packing, of: weight, rows: rows, columns: buffer.columns)
      var written = 0
      try inOrder(packed.pieceCount, threads: packingThreads, make: { try packed.piece($0) }) { piece in
        try sink.write(piece)
        written += piece.count
        progress(written)
      }
    case .input, .output, .workspace: break
    }
  }

  /// Threads that prepare weights: beyond some they only wait for memory, and each holds a piece.
  static var packingThreads: Int { min(ThreadPool.usableProcessors, 8) }
}

extension CompileOptions.Optimization {
  /// LLVM's passes.
  fileprivate var pipeline: String {
    switch self {
    case .none: "default<O0>"
    case .less, .standard: "default<O1>"
    case .most: "default<O2>"
    }
  }

  /// LLVM's effort after them.
  fileprivate var codeGeneration: OptimizationLevel {
    switch self {
    case .none: .none
    case .less, .standard: .default
    case .most: .aggressive
    }
  }
}

extension ExtentBound {
  /// In a manifest, of a bound by extents that the caller gives.
  var manifestBound: Manifest.Bound {
    var bound = Manifest.Bound([])
    for term in terms {
      switch term.dimension {
      case .fixed(let count): bound.constant += term.times * count
      case .symbol(let name): bound.terms.append(Manifest.Bound.Term(name, times: term.times))
      }
    }
    return bound
  }
}
