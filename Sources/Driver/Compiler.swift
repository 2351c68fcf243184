import Artifact
import CUltra
import Codegen
import LLVMKit
import ModelFormat
import Passes
import TensorIR
import TileIR

/// The compiler: a model's description and weights in, an artifact out, or the program in one of its other forms.
public struct Compiler {
  /// What is asked for.
  public var options: CompileOptions
  /// Called before each step with a phrase that says what is being done.
  public var onStep: (String) -> Void = { _ in }
  /// Called often while a step goes through many bytes.
  public var onProgress: (Progress) -> Void = { _ in }
  /// Called with the program's text after each pass that `options.printAfter` names.
  public var onProgram: (String) -> Void = { _ in }
  /// What has been done so far; complete when a call returns.
  public private(set) var report: CompileReport
  private var dump: PhaseDump?
  /// What each layer needed when work was counted last.
  private var layers: [LayerCost] = []
  /// What code was made for so far, by the names of processors' levels and GPUs.
  private var targets: (levels: [String], gpus: [String]) = ([], [])
  private let clock = ContinuousClock()
  private let start: ContinuousClock.Instant

  /// A compiler with these options; its clock starts now.
  public init(_ options: CompileOptions) {
    self.options = options
    report = CompileReport(model: options.model)
    start = clock.now
  }

  /// Compiles the model and writes the artifact; after an error there is no file.
  public mutating func compile(to path: String) throws {
    var front = try prepare()
    try finish(&front, to: path)
  }

  /// Compiles a program that was made by other means than `options.model`, which only names it here.
  public mutating func compile(_ module: Module, weights: any WeightProvider, to path: String) throws {
    let manager = try begin()
    var front = Front(weights: weights, module: module, backend: backend(sourceChecksum: "none"))
    front.backend.model.name = module.name
    report.model = module.name
    try run(manager, on: &front)
    try finish(&front, to: path)
  }

  private mutating func finish(_ front: inout Front, to path: String) throws {
    let (object, programs) = try object(&front)
    let progress = progress("packing weights")
    let summary = try step("artifact", "writing \(path)") {
      let weights = DerivedWeights(front.module, base: front.weights)
      let summary = try front.backend.write(
        programs, object: object, weights: weights, to: path, progress: progress)
      return (summary, "\(Quantity.bytes(Double(summary.weightsSize))) of packed weights")
    }
    conclude(path, byteCount: summary.fileSize)
  }

  /// The object file of the program, before it is linked and joined with its weights.
  public mutating func object() throws -> [UInt8] {
    var front = try prepare()
    return try object(&front).0
  }

  /// The program in one of the forms that are text.
  public mutating func text(_ form: CompileOptions.Text) throws -> String {
    var front = try prepare()
    switch form {
    case .tensorIR: return front.module.text
    case .tileIR: return try lower(&front).map(\.text).joined(separator: "\n")
    case .llvmIR where options.gpus.isEmpty: return try generate(&front).module.text
    case .assembly where options.gpus.isEmpty: return try assembly(of: try generate(&front))
    case .llvmIR, .assembly, .ptx: return try gpuText(form, &front)
    }
  }

  /// The kernels for the GPU that is asked for.
  private mutating func gpuText(_ form: CompileOptions.Text, _ front: inout Front) throws -> String {
    guard let target = options.gpus.first, options.gpus.count == 1 else {
      throw DriverError(
        "--emit ptx, and llvm-ir and asm with --gpu, write the code of one GPU",
        hint: "name it: --gpu \(GPUTarget.sm90a.rawValue)")
    }
    if form == .ptx, target.vendor != .nvidia {
      throw DriverError("--emit ptx: \(target.rawValue) has no PTX", hint: "--emit asm writes its assembly")
    }
    targets.gpus = [target.rawValue]
    return try step("gpu", "generating code for \(target.rawValue)") {
      let programs = try front.backend.lowerForGPU(front.module, target: target)
      let code = GPUCode(programs, target: target)
      let (text, launches): (String, [[GPULaunch]])
      if form == .llvmIR {
        let (module, _, own) = try code.optimized(in: Context())
        (text, launches) = (module.text, own)
      } else {
        (text, launches) = try code.assembly(in: Context())
      }
      let comment = form == .llvmIR || target.vendor == .amd ? ";" : "//"
      let headers = zip(programs, launches).map { GPUListing(program: $0, launches: $1, comment: comment).header }
      return (headers.joined() + text, "\(launches.joined().count) kernels")
    }
  }

  /// Notes what was written where, as the last line of the report.
  public mutating func conclude(_ path: String, byteCount: Int) {
    report.written = CompileReport.Written(
      path: path, bytes: byteCount, levels: targets.levels, gpus: targets.gpus,
      seconds: (clock.now - start) / .seconds(1))
  }

  // MARK: Steps

  /// What all forms need: the model, and its program after the passes.
  private struct Front {
    var weights: any WeightProvider
    var module: Module
    var backend: Backend
  }

  private struct Generated {
    var module: IRModule
    var machine: TargetMachine
    /// Those of all processors, whose weights go into the file.
    var programs: [Program]

    func copy() -> Generated { Generated(module: module.copy(), machine: machine, programs: programs) }
  }

  /// What can be wrong with options is said before minutes may go by.
  private mutating func begin() throws -> PassManager {
    let manager = try options.passManager()
    dump = try options.dumpFolder.map(PhaseDump.init(folder:))
    return manager
  }

  private mutating func prepare() throws -> Front {
    let manager = try begin()
    let imported = try importModel()
    let checksum = try checksum(of: imported)
    var front = Front(weights: imported.weights, module: imported.module, backend: backend(sourceChecksum: checksum))
    front.backend.model.name = imported.name
    front.backend.passes = imported.trainedStructure.map { part in
      Manifest.Pass(name: part.pass, options: part.settings, exactness: .asTrained, note: part.summary)
    }
    try run(manager, on: &front)
    return front
  }

  private func backend(sourceChecksum: String) -> Backend {
    var backend = Backend(
      levels: options.levels,
      compiler: Manifest.Compiler(name: "ultrac", version: compilerVersion, flags: options.flags),
      model: Manifest.Model(name: options.model, sourceChecksum: sourceChecksum))
    backend.optimization = options.optimization
    (backend.gpus, backend.assembler) = (options.gpus, options.assembler)
    backend.codeObjectLinker = options.codeObjectLinker
    return backend
  }

  /// Measures `lower-precision`, the first where there are several, on real inputs, and gives it the options that keep its
  /// error within the budget.
  private mutating func calibrate(_ calibration: Calibration, _ manager: inout PassManager, _ front: Front) throws {
    let name = lowerPrecision.name
    guard let index = manager.pipeline.steps.firstIndex(where: { $0.pass.name == name }) else {
      throw DriverError(
        "--calibrate: there is no \(name) among the passes", hint: "ask for it: --rewrite \"\(name){matmul=bf16}\"")
    }
    let asked = try LowerPrecisionOptions.read(manager.pipeline.steps[index].settings, for: name)
    var module = front.module
    try PassManager(PassPipeline(Array(manager.pipeline.steps[..<index]))).run(on: &module)
    guard let function = module.function(named: Backend.entry) else { return }
    let (options, measured) = try step("calibrate", "measuring the error of \(name)") {
      let inputs = try calibration.inputs(of: function)
      let search = try PrecisionSearch(
        module, weights: front.weights, inputs: inputs, metric: calibration.metric)
      let found = try search.options(within: calibration.maxError, from: asked)
      var report = PrecisionReport(file: calibration.file, sequences: function.sequenceCount(of: inputs))
      (report.layers, report.outputs) = (found.layers, found.outputs)
      (report.metric, report.maxError) = (calibration.metric, calibration.maxError)
      return ((found.options, report), "error \(Quantity.scientific(report.error)) on \(calibration.file)")
    }
    report.precision = measured
    manager.pipeline.steps[index] = try PassPipeline.Step(lowerPrecision, options.settings)
  }

  /// Measures what `cached-scoring` loses by keeping codes.
  private mutating func measureCache(_ calibration: Calibration, _ manager: PassManager, _ front: Front) throws {
    let name = cachedScoring.name
    guard let index = manager.pipeline.steps.firstIndex(where: { $0.pass.name == name }) else { return }
    let options = try CachedScoringOptions.read(manager.pipeline.steps[index].settings, for: name)
    var module = front.module
    try PassManager(PassPipeline(Array(manager.pipeline.steps[..<index]))).run(on: &module)
    guard let function = module.function(named: Backend.entry) else { return }
    report.cachePrecision = try step("calibrate", "measuring the error of \(name)") {
      let inputs = try calibration.inputs(of: function)
      var report = PrecisionReport(file: calibration.file, sequences: function.sequenceCount(of: inputs))
      if let found = try CachePrecision(module, options, weights: front.weights, inputs: inputs) {
        (report.layers, report.outputs) = (found.layers, found.outputs)
      }
      return (report, "error \(Quantity.scientific(report.error)) on \(calibration.file)")
    }
  }

  private mutating func run(_ manager: PassManager, on front: inout Front) throws {
    var manager = manager
    // As asked for: the options that a calibration finds are in its own report.
    var names = manager.pipeline.steps.map(\.description)[...]
    if let calibration = options.calibration {
      let keepsCodes = try manager.pipeline.keepsCodes
      if !keepsCodes || manager.pipeline.steps.contains(where: { $0.pass.name == lowerPrecision.name }) {
        try calibrate(calibration, &manager, front)
      }
      if keepsCodes { try measureCache(calibration, manager, front) }
    }
    try dump?.write(front.module.text, after: "import", ending: "tir")
    onStep("running passes")
    let reports = try Reproducer.writing(to: options.reproducer) {
      try manager.run(on: &front.module, print: onProgram) { pass, module in
        try dump?.write(module.text, after: pass.pass, ending: "tir")
        let summary = pass.notes.isEmpty ? "nothing to do" : pass.notes.joined(separator: ", ")
        report.steps.append(
          CompileReport.Step(
            name: names.popFirst() ?? pass.step, summary: summary, exactness: pass.exactness.rawValue,
            seconds: pass.time / .seconds(1)))
        count(module)
      }
    }
    front.backend.passes += zip(manager.pipeline.steps, reports).map { step, report in
      Manifest.Pass(
        name: report.pass, options: step.settings.map { "\($0.name)=\($0.value)" }.joined(separator: ","),
        exactness: report.exactness == .exact ? .exact : .approximate,
        note: report.notes.isEmpty ? nil : report.notes.joined(separator: ", "))
    }
  }

  private mutating func importModel() throws -> ImportedModel {
    let path = options.model
    let imported = try step("import", "reading \(path)") {
      let imported = try ModelFormat.importModel(at: path)
      try imported.module.verify()
      let bytes = imported.module.weights.reduce(0.0) { sum, weight in
        sum + Double((weight.type.fixedElementCount ?? 0) * weight.type.element.byteCount)
      }
      return (imported, "\(Quantity.bytes(bytes)) of weights, \(imported.module.weights.count) tensors")
    }
    report.model = imported.name
    count(imported.plainProgram)
    for part in imported.trainedStructure {
      report.steps.append(
        CompileReport.Step(
          name: part.step, summary: part.summary, exactness: Manifest.Exactness.asTrained.words, seconds: 0))
      count(part.program)
    }
    report.notes += imported.notes
    if !imported.unusedTensors.isEmpty {
      report.notes.append("no layer uses \(imported.unusedTensors.joined(separator: ", "))")
    }
    return imported
  }

  /// Notes the work that the program needs now, beside the step that was done last, where it changed.
  private mutating func count(_ module: Module) {
    guard let function = module.function(named: Backend.entry) else { return }
    let before = report.steps.last { $0.flops != nil }?.flops
    if before == nil {
      report.length = options.reportRows ?? function.longSequence(usual: CompileReport.defaultLength)
      report.targets = function.readsTargets ? min(CompileReport.defaultTargets, report.length / 8) : 0
    }
    let batch = BatchShape(lengths: [report.length], targets: [report.targets])
    let flops = function.cost(on: batch).flops
    if flops != before { report.steps[report.steps.count - 1].flops = flops }
    let layers = function.layerCosts(on: batch)
    report.steps[report.steps.count - 1].layers = layerChanges(self.layers, layers)
    self.layers = layers
  }

  /// What became of each layer, where some layer's rows are others.
  private func layerChanges(_ before: [LayerCost], _ after: [LayerCost]) -> [CompileReport.LayerChange] {
    let pairs = zip(before, after)
    guard before.count == after.count, pairs.contains(where: { $0.rows != $1.rows || $0.keys != $1.keys }) else {
      return []
    }
    return pairs.map { old, new in
      CompileReport.LayerChange(
        rows: [old.rows, new.rows], keys: [old.keys, new.keys], flops: [old.flops, new.flops])
    }
  }

  /// The checksum of all sources, one after the other, read in windows.
  private mutating func checksum(of imported: ImportedModel) throws -> String {
    let progress = progress("reading weights")
    return try step("checksum", "reading weights") {
      let total = imported.sources.reduce(0) { $0 + $1.byteCount }
      var checksum: UInt64 = 0
      var done = 0
      for source in imported.sources {
        let windows = stride(from: 0, to: source.byteCount, by: WeightRows.windowBytes).map {
          $0..<min($0 + WeightRows.windowBytes, source.byteCount)
        }
        try inOrder(windows.count, threads: Backend.packingThreads) { number in
          let bytes = windows[number].count
          return (
            sum: source.withBytes(windows[number]) { ultra_crc64(0, $0.baseAddress, bytes) }, bytes: bytes
          )
        } take: { window in
          checksum = ultra_crc64_join(checksum, window.sum, UInt64(window.bytes))
          done += window.bytes
          progress(done, total)
        }
      }
      let digits = String(checksum, radix: 16)
      return ("crc64:" + String(repeating: "0", count: 16 - digits.count) + digits, "")
    }
  }

  /// What a step calls to tell how far it has come.
  private func progress(_ phrase: String) -> (Int, Int) -> Void {
    let start = clock.now
    return { [onProgress, clock] done, total in
      onProgress(
        Progress(phrase: phrase, done: done, total: total, seconds: (clock.now - start) / .seconds(1)))
    }
  }

  private mutating func lower(_ front: inout Front) throws -> [Program] {
    let programs = try step("to-tiles", "lowering to tiles") {
      let programs = try front.backend.lower(front.module)
      let kernels = programs.reduce(0) { $0 + $1.kernels.count }
      let buffers = programs.reduce(0) { $0 + $1.buffers.count }
      let entries = programs.count > 1 ? " in \(programs.count) entries" : ""
      return (programs, "\(kernels) kernels, \(buffers) buffers\(entries)")
    }
    try dump?.write(programs.map(\.text).joined(separator: "\n"), after: "to-tiles", ending: "tile")
    let slots = programs[0].slots
    let bytes = programs[0].workspaceBytes(forOneSequenceOf: report.length)
    report.steps.append(
      CompileReport.Step(
        name: "plan-memory",
        summary: "\(slots.reduce(0) { $0 + $1.buffers.count }) buffers in \(slots.count) slots, "
          + "\(Quantity.bytes(Double(bytes))) at \(report.length) rows", seconds: 0))
    return programs
  }

  private mutating func generate(_ front: inout Front) throws -> Generated {
    let programs = try lower(&front)
    targets = (options.levels.map(\.rawValue), options.gpus.map(\.rawValue))
    var gpu = GPUPart()
    if !options.gpus.isEmpty {
      gpu = try step("gpu", "generating code for GPUs") {
        let part = try front.backend.generateGPU(front.module)
        return (part, part.summary)
      }
    }
    let generated = try step("code", "generating code") {
      let (module, machine) = try front.backend.generate(programs, of: front.module, gpu: gpu, in: Context())
      return (
        Generated(module: module, machine: machine, programs: programs + gpu.programs),
        "\(module.functions.count) functions"
      )
    }
    try dump?.write(generated.module.text, after: "code", ending: "ll")
    return generated
  }

  private mutating func assembly(of generated: Generated) throws -> String {
    let text = try step("assembly", "writing assembly") { (try generated.machine.emitAssembly(generated.module), "") }
    try dump?.write(text, after: "assembly", ending: "s")
    return text
  }

  private mutating func object(_ front: inout Front) throws -> ([UInt8], [Program]) {
    let generated = try generate(&front)
    // Emitting lowers a module in place: with and without a dump, the object file comes from one that nobody emitted.
    if dump != nil { _ = try assembly(of: generated.copy()) }
    let object = try step("object", "generating machine code") {
      let object = try generated.machine.emitObject(generated.module)
      return (object, Quantity.bytes(Double(object.count)))
    }
    return (object, generated.programs)
  }

  /// Does one step and notes how long it took.
  private mutating func step<Result>(
    _ name: String, _ phrase: String, _ body: () throws -> (Result, summary: String)
  ) throws -> Result {
    onStep(phrase)
    let began = clock.now
    let (result, summary) = try body()
    report.steps.append(
      CompileReport.Step(name: name, summary: summary, seconds: (clock.now - began) / .seconds(1)))
    return result
  }
}

extension TrainedStructure {
  /// As between the braces of a pass on the command line.
  fileprivate var settings: String { options.map { "\($0.name)=\($0.value)" }.joined(separator: ",") }
  /// The pass that it is like, as on the command line.
  fileprivate var step: String { "\(pass){\(settings)}" }
}

extension PassPipeline {
  /// Whether `cached-scoring` is among the passes, and keeps codes.
  fileprivate var keepsCodes: Bool {
    get throws {
      guard let step = steps.first(where: { $0.pass.name == cachedScoring.name }) else { return false }
      return try CachedScoringOptions.read(step.settings, for: cachedScoring.name).cache != .same
    }
  }
}
