import ArgumentParser
import Artifact
import Driver
import Passes

struct CompileCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "compile",
    abstract: "Compile a model to an artifact, one file of native code and weights.",
    discussion: """
      The model is a JSON description beside its safetensors; docs/model-json.md explains every field. The result runs \
      on every x86-64 machine with AVX2, or on those that --target-cpu names, faster where there is more, and needs no \
      other file or library.

        ultrac compile model.json
        ultrac compile model.json -o /srv/ranker.ultra --target-cpu native
        ultrac compile model.json --target-cpu armv8-a,neoverse-v1          for ARM, from any machine
        ultrac compile model.json --emit tensor-ir          read what it computes
        ultrac compile model.json --rewrite "lower-precision{matmul=bf16,attention=bf16,tables=int4}"

      A compilation that fails leaves no file, and an existing one is replaced only by a complete new one.
      """)

  @Argument(
    help: ArgumentHelp("The model's description.", valueName: "model.json"), completion: .file(extensions: ["json"]))
  var model: String

  @Option(
    name: [.customShort("o"), .long],
    help: ArgumentHelp("Where to write the result; text goes to standard output otherwise.", valueName: "file"))
  var output: String?

  @Flag(help: "How much work goes into speed; every level computes the same.")
  var optimization: OptimizationFlag = .standard

  @Option(
    help: ArgumentHelp(
      """
      Processors to make code for: x86-64-v3 (AVX2), x86-64-v4 (AVX-512), znver4 (AVX-512 with BF16), \
      sapphirerapids (AMX as well; sums of bf16 are added in another order there), or for 64-bit ARM armv8-a (NEON), \
      neoverse-n1 (8-bit dot products as well), neoverse-v1 (BF16 and I8MM as well; sums of bf16 are rounded otherwise \
      there), native (the best of this machine), or several of one architecture with commas (default: \
      x86-64-v3,x86-64-v4, and znver4 where lower-precision runs).
      """, valueName: "levels"))
  var targetCPU: String?

  @Option(
    help: ArgumentHelp(
      """
      Graphics processors to make code for as well: sm_80 (NVIDIA Ampere and later), sm_90a (NVIDIA Hopper), gfx942 (AMD \
      Instinct MI300), or several with commas. With --emit llvm-ir or asm the text of one of them is written.
      """, valueName: "targets"))
  var gpu: String?

  @Option(
    help: ArgumentHelp(
      """
      NVIDIA's assembler, which makes machine code of the kernels so that no driver need translate them; "none" for none \
      (default: ptxas on the PATH, if there is one).
      """, valueName: "path"))
  var ptxas: String?

  @Option(
    help: ArgumentHelp(
      "LLVM's linker, which makes code objects for AMD's GPUs (default: ld.lld or ld.lld-19 on the PATH).",
      valueName: "path"))
  var lld: String?

  @Option(help: "What to write.")
  var emit: Emission = .artifact

  @Option(
    help: ArgumentHelp(
      """
      Passes to run before the usual ones, approximate ones as a rule: names with commas between, options in braces, \
      as in semi-local-attention{local=64,global=16}. `ultrac opt --help-passes` lists them.
      """, valueName: "pipeline"))
  var rewrite: String?

  @Option(
    name: .customLong("rows"),
    help: ArgumentHelp(
      "Rows of the sequence that the report counts work for: otherwise the most that the model takes, or 1024.",
      valueName: "n"))
  var reportRows: Int?

  @Flag(help: "Print the report as JSON, with the time of every step.")
  var json = false

  @Option(
    help: ArgumentHelp(
      """
      Real inputs, as `ultrac run` takes them, that the error of lower-precision is measured on.
      """, valueName: "in.safetensors"))
  var calibrate: String?

  @Option(
    help: ArgumentHelp(
      """
      The most that lower-precision may cost by the metric: operations keep more bits until it is met. It needs \
      --calibrate.
      """, valueName: "share"))
  var maxError: Double?

  @Option(
    help: ArgumentHelp(
      """
      What --max-error limits: error, the largest of an output as a share of its largest magnitude; or best-N, the \
      share of each row's best N columns that are lost, as of scores of items.
      """, valueName: "metric"))
  var metric = "error"

  @OptionGroup(title: "Passes")
  var passes: PassArguments

  func validate() throws {
    for (option, path) in [("--ptxas", ptxas), ("--lld", lld)] where path != nil && gpu == nil {
      throw ValidationError("\(option) needs --gpu: it makes code for GPUs")
    }
    guard Calibration.Metric(metric) != nil else {
      throw ValidationError("--metric: expected error, or best-N with N from 1, found \(metric)")
    }
    if let reportRows, !(1...1 << 20).contains(reportRows) {
      throw ValidationError("--rows: expected a whole number from 1 to \(1 << 20), found \(reportRows)")
    }
    if json && emit.isText && output == nil {
      throw ValidationError("--json and the program would both go to standard output: name a file for it with -o")
    }
    if let maxError {
      guard calibrate != nil else {
        throw ValidationError("--max-error needs --calibrate: errors are measured on real inputs")
      }
      guard maxError >= 0, maxError.isFinite else {
        throw ValidationError("--max-error: expected a number from 0, found \(maxError)")
      }
    }
  }

  func run() throws {
    var options = CompileOptions(model: model)
    options.optimization = optimization.level
    options.rewrites = rewrite
    options.reportRows = reportRows
    options.passes = passes.passes
    options.gpus = try gpu.map { try .init(gpu: $0) } ?? []
    switch ptxas {
    case nil: options.assembler = options.gpus.isEmpty ? nil : PTXAssembler.search()
    case "none": break
    case .some(let path): options.assembler = PTXAssembler(path: path)
    }
    if options.gpus.contains(where: { $0.vendor == .amd }) {
      options.codeObjectLinker = lld.map { CodeObjectLinker(path: $0) } ?? CodeObjectLinker.search()
    }
    options.levels = try targetCPU.map { try .init(targetCPU: $0) } ?? options.usualLevels()
    if let calibrate {
      options.calibration = try Calibration(file: calibrate)
      options.calibration?.maxError = maxError
      options.calibration?.metric = Calibration.Metric(metric) ?? .error
    }
    options.printAfter = passes.printIRAfter
    options.verifyEach = passes.verifyEach
    options.dumpFolder = passes.dumpFolder
    options.reproducer = passes.reproducer ?? defaultReproducer
    var compiler = Compiler(options)
    compiler.onStep = { Terminal.showProgress($0) }
    compiler.onProgress = { Terminal.showProgress($0) }
    compiler.onProgram = Terminal.printError
    defer { Terminal.endProgress() }

    let path = output ?? "\(stem).\(emit.fileEnding)"
    switch emit {
    case .artifact: try compiler.compile(to: path)
    case .object: try write(compiler.object(), to: path, &compiler)
    case .tensorIR: try write(compiler.text(.tensorIR), &compiler)
    case .tileIR: try write(compiler.text(.tileIR), &compiler)
    case .llvmIR: try write(compiler.text(.llvmIR), &compiler)
    case .assembly: try write(compiler.text(.assembly), &compiler)
    case .ptx: try write(compiler.text(.ptx), &compiler)
    }
    Terminal.endProgress()
    if json { return print(try compiler.report.json()) }
    let lines = compiler.report.lines(withTimes: passes.timePasses).joined(separator: "\n")
    if emit.isText && output == nil {
      // Standard output holds the program; a report is wanted there only where it was asked for, and then beside it.
      if passes.timePasses { Terminal.printError(lines) }
    } else {
      print(lines)
    }
  }

  /// The model's path without its ending.
  private var stem: String { model.hasSuffix(".json") ? String(model.dropLast(5)) : model }

  /// Beside the output; in the working folder where the program goes to standard output.
  private var defaultReproducer: String {
    if emit.isText && output == nil { return "\(Self.name(stem)).\(Reproducer.fileEnding)" }
    return "\(output.map(Self.withoutEnding) ?? stem).\(Reproducer.fileEnding)"
  }

  private static func name(_ path: String) -> Substring { path.split(separator: "/").last ?? "program" }

  /// The path without its last dot and what follows, where that is in its last component and does not begin it.
  private static func withoutEnding(_ path: String) -> String {
    let name = name(path)
    guard let dot = name.lastIndex(of: "."), dot != name.startIndex else { return path }
    return String(path[..<dot])
  }

  private func write(_ text: String, _ compiler: inout Compiler) throws {
    guard let output else {
      Terminal.endProgress()
      print(text, terminator: text.hasSuffix("\n") ? "" : "\n")
      return
    }
    try write(Array(text.utf8), to: output, &compiler)
  }

  private func write(_ bytes: [UInt8], to path: String, _ compiler: inout Compiler) throws {
    try writeFile(bytes, to: path)
    compiler.conclude(path, byteCount: bytes.count)
  }
}

/// -O0 to -O3.
enum OptimizationFlag: Int, EnumerableFlag {
  case none, less, standard, most

  static func name(for value: OptimizationFlag) -> NameSpecification {
    .customLong("O\(value.rawValue)", withSingleDash: true)
  }

  static func help(for value: OptimizationFlag) -> ArgumentHelp? {
    switch value {
    case .none: "Only what is needed to run."
    case .less: "Clean-ups of the program as well."
    case .standard: "Every exact pass that saves work (the default)."
    case .most: "The same passes, and more time for the code generator."
    }
  }

  var level: CompileOptions.Optimization {
    switch self {
    case .none: .none
    case .less: .less
    case .standard: .standard
    case .most: .most
    }
  }
}

/// What --emit takes.
enum Emission: String, ExpressibleByArgument, CaseIterable {
  case tensorIR = "tensor-ir"
  case tileIR = "tile-ir"
  case llvmIR = "llvm-ir"
  case assembly = "asm"
  case ptx
  case object = "obj"
  case artifact

  var isText: Bool { self != .object && self != .artifact }

  var fileEnding: String {
    switch self {
    case .tensorIR: "tir"
    case .tileIR: "tile"
    case .llvmIR: "ll"
    case .assembly: "s"
    case .ptx: "ptx"
    case .object: "o"
    case .artifact: "ultra"
    }
  }
}
