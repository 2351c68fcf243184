import ArgumentParser
import Driver
import FoundationEssentials
import Glibc
import Passes
import TensorIR

struct OptCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "opt",
    abstract: "Read a program in text form, run passes on it, and print it.",
    discussion: """
      For looking at passes one by one; `ultrac compile --emit tensor-ir` prints a model's program. - reads from \
      standard input. Without --passes the program is read, verified and printed.

        ultrac opt program.tir --passes canonicalize,dce
        ultrac opt --help-passes
      """)

  @Argument(help: ArgumentHelp("The program.", valueName: "program.tir"), completion: .file(extensions: ["tir"]))
  var program: String?

  @OptionGroup(title: "Passes")
  var passes: PassArguments

  @Flag(help: "List the passes with their options.")
  var helpPasses = false

  func validate() throws {
    if program == nil && !helpPasses { throw ValidationError("Missing expected argument '<program.tir>'") }
  }

  func run() throws {
    guard let program, !helpPasses else {
      for line in Self.listing { print(line) }
      return
    }
    var manager = PassManager(try PassPipeline(parsing: passes.passes ?? ""))
    manager.verifiesEach = passes.verifyEach
    manager.printsAfter = try PassSelection(passes.printIRAfter)
    var module = try TensorIRParser.parse(Self.read(program), file: program)
    var dump = try passes.dumpFolder.map(PhaseDump.init(folder:))
    try dump?.write(module.text, after: "import", ending: "tir")
    let reports = try Reproducer.writing(to: passes.reproducer ?? Self.defaultReproducer(program)) {
      try manager.run(on: &module, print: Terminal.printError) { report, module in
        try dump?.write(module.text, after: report.pass, ending: "tir")
      }
    }
    print(module.text, terminator: "")
    if passes.timePasses { Self.printTimes(reports) }
  }

  /// In the working folder; none for a program that is a reproducer itself.
  private static func defaultReproducer(_ program: String) -> String? {
    if program.hasSuffix("." + Reproducer.fileEnding) { return nil }
    let name = program == "-" ? "program" : program.split(separator: "/").last.map(String.init) ?? "program"
    return "\(name.hasSuffix(".tir") ? String(name.dropLast(4)) : name).\(Reproducer.fileEnding)"
  }

  private static func read(_ path: String) throws -> String {
    let bytes: [UInt8]
    do {
      bytes = path == "-" ? try readStandardInput() : [UInt8](try Data(contentsOf: URL(filePath: path)))
    } catch {
      throw DriverError("\(path): cannot be read: \(String(cString: strerror(errno)))")
    }
    guard let text = String(validating: bytes, as: UTF8.self) else {
      throw DriverError("\(path): it is not UTF-8 text", hint: "ultrac opt reads TensorIR's text form, .tir")
    }
    return text
  }

  private static func readStandardInput() throws -> [UInt8] {
    var bytes: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 1 << 16)
    while true {
      let count = Glibc.read(STDIN_FILENO, &chunk, chunk.count)
      if count == 0 { return bytes }
      guard count > 0 else { throw DriverError("standard input cannot be read") }
      bytes += chunk[..<count]
    }
  }

  private static func printTimes(_ reports: [PassReport]) {
    var table = TextTable([("pass", .left), ("operations", .right), ("time", .right), ("", .left)])
    for report in reports {
      table.add([
        report.step, "\(report.operationsBefore) -> \(report.operationsAfter)",
        Quantity.seconds(report.time / .seconds(1)), report.notes.joined(separator: ", "),
      ])
    }
    Terminal.printError(table.lines.joined(separator: "\n"))
  }

  /// Every pass, from what the passes say of themselves.
  private static var listing: [String] {
    var table = TextTable([("", .left), ("", .left), ("", .left)])
    for pass in ModulePass.all {
      table.add([pass.name, pass.exactness.rawValue, pass.summary])
      for option in pass.options { table.add(["  \(option.name)=", "", "\(option.summary): \(option.expected)"]) }
    }
    return table.lines
  }
}
