import Artifact
import Codegen
import LLVMKit
import Passes
import TensorIR
import TileIR

/// The back half of the compiler: a verified module becomes tile programs, machine code and an artifact.
public struct Backend: Sendable {
  /// Levels of code that go into the artifact, at least one, all of one architecture.
  public var levels: [CPULevel]
  /// Sizes of blocks.
  public var schedule = TileSchedule()
  /// How much work LLVM puts into speed.
  public var optimization = CompileOptions.Optimization.standard
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

  /// The tile program of the module's `forward`, verified: code generation relies on it. Throws where there is no such
  /// function, or where an operation cannot be lowered.
  public func lower(_ module: Module) throws -> Program {
    var program = try lowerToTiles(module, function: Self.entry, schedule: schedule)
    planMemory(&program)
    try program.verify()
    return program
  }

  /// The optimized LLVM module of all levels, and the machine to emit it for. Throws where the levels are of several
  /// architectures.
  public func generate(_ program: Program, of module: Module, in context: Context) throws -> (IRModule, TargetMachine) {
    let architecture = try levels.architecture()
    let manifest = try manifest(for: program, of: module).encoded()
    let notes = ModelCode.Notes(
      note: try ArtifactNote.makeNote(manifest: manifest), weightsDistanceOffset: ArtifactNote.deltaOffset,
      manifestOffset: ArtifactNote.manifestOffset, manifestByteCount: manifest.count,
      weightsNote: ArtifactNote.weightsPlaceholder)
    TargetMachine.initializeAllTargets()
    let machine = try TargetMachine(
      triple: architecture.triple, cpu: architecture.baselineCPU, optimization: optimization.codeGeneration)
    var code = ModelCode(program: program, levels: levels, notes: notes)
    code.tiles = tiles
    return (try code.optimized(in: context, for: machine, pipeline: optimization.pipeline), machine)
  }

  /// Compiles the module and writes the artifact; after an error there is no file.
  @discardableResult
  public func compile(_ module: Module, weights: any WeightProvider, to path: String) throws
    -> ArtifactWriter.Summary
  {
    let program = try lower(module)
    let context = Context()
    let (generated, machine) = try generate(program, of: module, in: context)
    let object = try machine.emitObject(generated)
    return try write(program, object: object, weights: DerivedWeights(module, base: weights), to: path)
  }

  /// Writes the artifact of a program and its object file; `weights` has derived weights too. After an error there is no
  /// file.
  func write(_ program: Program, object: [UInt8], weights: any WeightProvider, to path: String) throws
    -> ArtifactWriter.Summary
  {
    let sources = WeightLayout(program).entries.map { entry in
      let buffer = program[entry.buffer]
      return WeightSource(name: Self.weightName(program, entry.buffer), byteCount: entry.byteCount) { sink in
        try Self.write(buffer, weights, to: &sink)
      }
    }
    return try ArtifactWriter().write(object: object, weights: sources, to: path)
  }

  private static func write(_ buffer: Buffer, _ weights: any WeightProvider, to sink: inout WeightSink) throws {
    switch buffer.home {
    case .table(let numbers): try numbers.withUnsafeBytes { try sink.write($0) }
    case .weight(let name, let packing):
      let rows = buffer.rows.dimension.extent ?? 0
      let expected = rows * buffer.columns * buffer.element.byteCount
      try weights.withWeight(name) { element, shape, bytes in
        guard element == buffer.element, bytes.count == expected else {
          throw DriverError(
            "weight \"\(name)\": found \(shape) of \(element.rawValue), \(bytes.count) bytes; "
              + "expected \(rows) x \(buffer.columns) of \(buffer.element.rawValue)")
        }
        try WeightPacking.write(
          packing, buffer.element, rows: rows, columns: buffer.columns, elements: bytes
        ) { try sink.write($0) }
      }
    case .input, .output, .workspace: break
    }
  }

  /// A weight's name in the manifest: its own, followed by the packing where it is not row-major, since one weight may be
  /// stored in two ways.
  private static func weightName(_ program: Program, _ id: BufferID) -> String {
    guard case .weight(let name, let packing) = program[id].home, packing != .plain else { return program[id].name }
    return "\(name) (\(packing.name))"
  }

  /// The manifest of a program.
  func manifest(for program: Program, of module: Module) throws -> Manifest {
    guard let function = module.function(named: Self.entry) else {
      throw DriverError("no function is called @\(Self.entry)")
    }
    let given = program.dimensions.map { Manifest.Dimension(name: $0) }
    let derived = program.derivedDimensions.map { dimension in
      Manifest.Dimension(name: dimension.name, atMost: program.givenBound(of: dimension.name)?.manifestBound)
    }
    let inputs = function.arguments.map { argument in
      Manifest.Port(
        name: function[argument].name, type: portType(function[argument].type),
        role: function.role(ofArgument: argument))
    }
    let outputs = function.results.map { result in
      Manifest.Port(name: result.name, type: portType(function[result.value].type))
    }
    var manifest = Manifest(
      compiler: compiler, model: model, dimensions: given + derived,
      entries: [Manifest.Entry(name: Self.entry, dimensions: program.dimensions, inputs: inputs, outputs: outputs)])
    manifest.passes = passes
    manifest.program = module.text
    manifest.levels = levels.reversed().map { Manifest.Level(name: $0.rawValue, needs: $0.requirement) }
    manifest.weights = WeightLayout(program).entries.map { entry in
      let buffer = program[entry.buffer]
      let packing = if case .weight(_, let packing) = buffer.home { packing.name } else { "table" }
      return Manifest.Weight(
        name: Self.weightName(program, entry.buffer), element: Self.manifestElement(buffer.element),
        shape: [buffer.rows.dimension.extent ?? 1, buffer.columns], offset: entry.offset, bytes: entry.byteCount,
        packing: packing)
    }
    manifest.kernels = program.kernels.map { kernel in
      Manifest.Kernel(
        name: kernel.name, entry: Self.entry, computes: kernel.summary, domain: kernel.domain.manifestText)
    }
    return manifest
  }

  private func portType(_ type: ValueType) -> Manifest.PortType {
    func extent(_ dimension: Dimension) -> Manifest.Extent {
      switch dimension {
      case .fixed(let count): .fixed(count)
      case .symbol(let name): .symbol(name)
      }
    }
    switch type {
    case .offsets(let sequences, let rows): return .offsets(sequences: extent(sequences), rows: extent(rows))
    case .tensor(let tensor):
      return .tensor(element: Self.manifestElement(tensor.element), shape: tensor.shape.map(extent))
    }
  }

  /// Both lists of element types name the same ones; the manifest's is the artifact's own.
  private static func manifestElement(_ element: ElementType) -> Manifest.Element {
    Manifest.Element(rawValue: element.rawValue) ?? .f32
  }
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
  fileprivate var manifestBound: Manifest.Bound {
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

extension Domain {
  /// What blocks cover, for people.
  fileprivate var manifestText: String {
    switch self {
    case .rows(let dimension, let block): "\(dimension), \(block) at a time"
    case .sequences(_, _, _, let block, let parts):
      "rows of sequences, \(block.text)" + (parts > 1 ? ", \(parts) parts apart" : "")
    }
  }
}

extension Packing {
  /// Its name in a manifest.
  var name: String {
    switch self {
    case .plain: "plain"
    case .coded(let format): "\(format.rawValue) rows"
    case .reversed: "reversed"
    case .panels(let width, let transposed): "panels of \(width)\(transposed ? ", transposed" : "")"
    }
  }
}
