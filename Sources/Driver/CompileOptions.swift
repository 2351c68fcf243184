import Codegen
import Passes

/// What a compilation is asked for.
public struct CompileOptions: Sendable {
  /// How much work goes into speed. Every level computes the same function: only exact passes run unasked.
  public enum Optimization: Int, Sendable, CaseIterable {
    /// No passes but the lowering.
    case none
    /// Clean-ups: no operation twice, none whose result is unused.
    case less
    /// Those, and every exact pass that saves work.
    case standard
    /// The same passes; the code generator tries harder.
    case most
  }

  /// Forms of the program that are text.
  public enum Text: Sendable {
    case tensorIR, tileIR, llvmIR, assembly, ptx
  }

  /// The path of model.json.
  public var model: String
  /// How much work goes into speed; 2, `standard`, unless told otherwise.
  public var optimization = Optimization.standard
  /// Levels of code in the result; the machine that loads it takes the highest that it can run.
  public var levels: [CPULevel] = [.avx2, .avx512]
  /// Graphics processors to make code for, ascending.
  public var gpus: [GPUTarget] = []
  /// What makes machine code for NVIDIA's; nil to leave that to the driver.
  public var assembler: PTXAssembler?
  /// What makes code objects for AMD's, which they need.
  public var codeObjectLinker: CodeObjectLinker?
  /// A pipeline in the notation of `ultrac opt`, instead of the one that `optimization` stands for.
  public var passes: String?
  /// A pipeline in the notation of `ultrac opt` that runs first: what makes the model another one, such as a lower
  /// precision. The passes of `optimization`, or those of `passes`, follow.
  public var rewrites: String?
  /// Real inputs that the error of `lower-precision` is measured on, and how large it may be.
  public var calibration: Calibration?
  /// Passes after which the program's text is handed to `onProgram`; "all" names every one.
  public var printAfter: [String] = []
  /// Whether the verifier runs after every pass, not only at the end.
  public var verifyEach = true
  /// Rows of the sequence that the report counts work for; nil for the most that the model takes, or 1024 where it takes
  /// any number.
  public var reportRows: Int?
  /// A folder that gets a file with the program after each phase; nil for none. It is made where there is none.
  public var dumpFolder: String?
  /// The file that gets what shows a pass's failure again; nil for none.
  public var reproducer: String?

  /// The defaults, for the model.json at this path.
  public init(model: String) { self.model = model }

  /// The levels for machines of every kind, with the one that multiplies narrow numbers fast where `lower-precision` runs.
  /// Throws where a pass or one of its options is unknown.
  public func usualLevels() throws(PassError) -> [CPULevel] {
    let isLowered = try pipeline().steps.contains { $0.pass.name == lowerPrecision.name }
    return isLowered ? [.avx2, .avx512, .avx512BF16] : [.avx2, .avx512]
  }

  private func pipeline() throws(PassError) -> PassPipeline {
    var pipeline = try PassPipeline(parsing: rewrites ?? "")
    let usual = if let passes { try PassPipeline(parsing: passes) } else { PassPipeline(level: optimization.rawValue) }
    pipeline.steps += usual.steps
    return pipeline
  }

  /// The passes to run, as they are to be run. Throws where a name or an option is unknown.
  func passManager() throws(PassError) -> PassManager {
    var manager = PassManager(try pipeline())
    manager.verifiesEach = verifyEach
    manager.printsAfter = try PassSelection(printAfter)
    return manager
  }

  /// The options that decide the result, as on the command line, without paths: equal flags and sources give equal bytes.
  var flags: [String] {
    var flags = ["-O\(optimization.rawValue)", "--target-cpu", levels.map(\.rawValue).joined(separator: ",")]
    if !gpus.isEmpty { flags += ["--gpu", gpus.map(\.rawValue).joined(separator: ",")] }
    if let rewrites { flags += ["--rewrite", rewrites] }
    if let passes { flags += ["--passes", passes] }
    if let maxError = calibration?.maxError { flags += ["--max-error", "\(maxError)"] }
    if case .best(let count) = calibration?.metric { flags += ["--metric", "best-\(count)"] }
    return flags
  }
}

extension [GPUTarget] {
  /// Reads what `--gpu` takes: names of targets with commas between.
  public init(gpu text: String) throws(DriverError) {
    var targets: Set<GPUTarget> = []
    for name in text.split(separator: ",", omittingEmptySubsequences: false) {
      guard let target = GPUTarget(rawValue: String(name)) else {
        throw DriverError(
          "--gpu: no target is called \"\(name)\"",
          hint: "there are \(GPUTarget.allCases.map { "\($0.rawValue) (\($0.summary))" }.joined(separator: ", "))")
      }
      targets.insert(target)
    }
    self = targets.sorted()
  }
}

extension [CPULevel] {
  /// Reads what `--target-cpu` takes: names of levels of one architecture with commas between, "native" for the best of
  /// this machine.
  public init(targetCPU text: String) throws(DriverError) {
    var levels: Set<CPULevel> = []
    for name in text.split(separator: ",", omittingEmptySubsequences: false) {
      levels.insert(try CPULevel(targetCPU: String(name)))
    }
    self = levels.sorted()
    _ = try architecture()
  }

  /// The one that all levels are of. Throws where there are several, or none: a file holds code for one.
  func architecture() throws(DriverError) -> CPUArchitecture {
    let names = CPUArchitecture.allCases.compactMap { architecture -> String? in
      let own = filter { $0.architecture == architecture }.map(\.rawValue)
      return own.isEmpty ? nil : "\(own.joined(separator: ",")) of \(architecture.rawValue)"
    }
    guard let architecture = first?.architecture, names.count == 1 else {
      let found = isEmpty ? "none" : names.joined(separator: " and ")
      throw DriverError(
        "--target-cpu: expected levels of one architecture, found \(found)",
        hint: "a file holds code for one architecture: compile once for each")
    }
    return architecture
  }
}

extension CPULevel {
  fileprivate init(targetCPU name: String) throws(DriverError) {
    if name == "native" {
      guard let native = CPULevel.native else {
        let least =
          CPUArchitecture.host?.levels.first.map { "less than \($0.rawValue), the least" } ?? "no architecture"
        throw DriverError(
          "--target-cpu native: this machine has \(least) there is code for",
          hint: "name the level of the machine that will load the file")
      }
      self = native
      return
    }
    guard let level = CPULevel(rawValue: name) else {
      let known = (CPULevel.allCases.map(\.rawValue) + ["native"]).joined(separator: ", ")
      throw DriverError(
        "--target-cpu: expected \(known), or several with commas between, found \"\(name)\"",
        hint: "--target-cpu x86-64-v3,x86-64-v4 writes code for both; the loading machine takes the best it can run")
    }
    self = level
  }
}
