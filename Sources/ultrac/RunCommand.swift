import ArgumentParser
import Driver
import ModelFormat
import TensorIR
import UltraRuntime

struct RunCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "run",
    abstract: "Run an artifact on inputs from a file.",
    discussion: """
      Inputs and outputs are safetensors under the names that `ultrac inspect` shows; an input may also be called \
      input.NAME. A batch is jagged: the rows of all sequences one after the other, and offsets that cut them.

        ultrac run model.ultra --inputs in.safetensors --outputs out.safetensors
      """)

  @Argument(help: "The artifact.", completion: .file(extensions: ["ultra"]))
  var artifact: String

  @Option(help: ArgumentHelp("The file with the inputs.", valueName: "in.safetensors"))
  var inputs: String

  @Option(help: ArgumentHelp("The file to write the outputs to.", valueName: "out.safetensors"))
  var outputs: String

  @Option(help: "Which of the artifact's entries to run.")
  var entry = "forward"

  @Option(help: "Threads to run on; results do not depend on it.")
  var threads = 1

  func run() throws {
    let model = try LoadedModel(path: artifact)
    let session = try Session(model, entry: entry, pool: makePool(threads: threads))
    try session.bind(CaseFile(path: inputs).inputs(for: session.entry))
    let clock = ContinuousClock()
    let time = try clock.measure { try session.call() }
    let results = try session.results()
    try Safetensors.write(results.map { ($0.name, try HostTensor($0.tensor)) }, to: outputs)
    var table = TextTable([("", .left), ("", .left), ("", .left)])
    for (name, tensor) in results {
      table.add([name, tensor.shape.map(String.init).joined(separator: " x "), tensor.element.rawValue])
    }
    for line in table.lines { print(line) }
    let batch = session.batch.map { "\($0.extent) \($0.name)" }.joined(separator: ", ")
    print("wrote \(outputs)  \(batch) in \(Quantity.seconds(time / .seconds(1)))")
  }
}
