import ArgumentParser
import Driver
import TensorIR
import UltraRuntime

struct CheckCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "check",
    abstract: "Run an artifact on a case and compare with its expected results.",
    discussion: """
      A case is a safetensors file with the inputs, under their names or as input.NAME, and with what should come out \
      as expected.NAME. An element passes where |found - expected| <= atol + rtol * |expected|. The exit code is 1 \
      where one does not.

        ultrac check model.ultra --inputs case.safetensors
        ultrac check model.ultra --inputs case.safetensors --atol 1e-3 --rtol 1e-2
      """)

  @Argument(help: "The artifact.", completion: .file(extensions: ["ultra"]))
  var artifact: String

  @Option(help: ArgumentHelp("The file with inputs and expected results.", valueName: "case.safetensors"))
  var inputs: String

  @Option(help: "The absolute tolerance.")
  var atol = 1e-5

  @Option(help: "The relative tolerance.")
  var rtol = 1e-4

  @Option(help: "Which of the artifact's entries to run.")
  var entry = "forward"

  @Option(help: "Threads to run on; results do not depend on it.")
  var threads = 1

  func validate() throws {
    for (name, value) in [("--atol", atol), ("--rtol", rtol)] where !(value >= 0 && value.isFinite) {
      throw ValidationError("\(name) must be zero or a positive number, found \(value)")
    }
  }

  func run() throws {
    let model = try LoadedModel(path: artifact)
    let session = try Session(model, entry: entry, pool: makePool(threads: threads))
    let file = try CaseFile(path: inputs)
    let results = try session.run(file.inputs(for: session.entry))
    let names = file.expectedNames
    let compared = results.filter { names.contains($0.name) }
    guard !compared.isEmpty else {
      let outputs = results.map { "expected.\($0.name)" }.joined(separator: ", ")
      throw DriverError("\(inputs): nothing to compare with; \"\(entry)\" gives what could be compared with \(outputs)")
    }

    var table = TextTable([
      ("tensor", .left), ("elements", .right), ("max", .right), ("rms", .right), ("cosine", .right), ("", .left),
    ])
    var passed = true
    for (name, tensor) in compared {
      let result = try compare(name, tensor, with: file)
      passed = passed && result.passed
      table.add([
        name, "\(result.count)", Quantity.scientific(result.largestError),
        Quantity.scientific(result.rootMeanSquareError), Quantity.fixed(result.cosine, decimals: 9), verdict(result),
      ])
    }
    for line in table.lines { print(line) }
    let missing = names.filter { name in !results.contains { $0.name == name } }
    if !missing.isEmpty {
      print("not compared, since \"\(entry)\" does not give it: \(missing.joined(separator: ", "))")
    }
    if !passed { throw ExitCode.failure }
  }

  private func compare(_ name: String, _ tensor: Tensor, with file: CaseFile) throws -> TensorComparison {
    do {
      return try TensorComparison(
        found: HostTensor(tensor), expected: file.expected(name), absoluteTolerance: atol, relativeTolerance: rtol)
    } catch let error as DriverError {
      throw DriverError("\(inputs): expected.\(name): \(error.message)", hint: error.hint)
    }
  }

  private func verdict(_ result: TensorComparison) -> String {
    guard let first = result.firstFailure else { return "pass" }
    return "FAIL: \(result.failures) over tolerance, the first at element \(first)"
  }
}
