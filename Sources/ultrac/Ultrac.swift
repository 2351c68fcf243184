import ArgumentParser
import Driver

/// The command: one subcommand a file.
@main
struct Ultrac: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "ultrac",
    abstract: "Compiles HSTU and ULTRA-HSTU recommendation models ahead of time, to native code.",
    discussion: """
      A model is a description (model.json) with its weights (*.safetensors). \
      `compile` turns it into one file, an artifact (.ultra), which any program can \
      load with dlopen: see include/ultra.h.

        ultrac import weights.safetensors --family gr-retrieval        write model.json
        ultrac compile model.json         write model.ultra
        ultrac inspect model.ultra        what it takes and gives, how it was made
        ultrac run model.ultra --inputs in.safetensors --outputs out.safetensors
        ultrac check model.ultra --inputs case.safetensors
        ultrac bench model.ultra          how fast it is on this machine
        ultrac opt program.tir --passes cse,dce        rewrite a program

      Exit codes: 0 done; 1 it could not be done, or results are over tolerance; \
      64 the command line is wrong.
      """,
    version: compilerVersion,
    subcommands: [
      ImportCommand.self, CompileCommand.self, RunCommand.self, CheckCommand.self, BenchCommand.self,
      InspectCommand.self, OptCommand.self,
    ])

  static func main() {
    do {
      var command = try parseAsRoot()
      try command.run()
    } catch {
      finish(with: error)
    }
  }

  /// Prints why the command ended, help and versions to standard output, errors to standard error, and ends it.
  private static func finish(with error: any Error) -> Never {
    let code = exitCode(for: error)
    let message = fullMessage(for: error)
    if code.isSuccess {
      print(message)
    } else if !message.isEmpty {
      // The parser's own errors begin with a capital letter.
      Terminal.printError(
        message.hasPrefix("Error: ") ? "error: " + message.dropFirst("Error: ".count) : message)
    }
    exit(withError: ExitCode(code.rawValue))
  }
}
