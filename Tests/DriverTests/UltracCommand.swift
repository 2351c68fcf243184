import Foundation

/// What a run of the command left.
struct Outcome {
  var status: Int32
  var output: String
  var errors: String
}

/// Runs the executable that was built beside these tests.
func ultrac(_ arguments: String..., in folder: URL? = nil) throws -> Outcome {
  try ultrac(arguments, in: folder)
}

/// The executable that was built beside these tests, not started yet, with nothing to read.
func ultracProcess(_ arguments: [String], in folder: URL? = nil) -> Process {
  let process = Process()
  let tests = URL(fileURLWithPath: CommandLine.arguments[0]).resolvingSymlinksInPath()
  process.executableURL = tests.deletingLastPathComponent().appendingPathComponent("ultrac")
  process.arguments = arguments
  process.standardInput = FileHandle.nullDevice
  if let folder { process.currentDirectoryURL = folder }
  return process
}

/// Runs the executable that was built beside these tests.
func ultrac(_ arguments: [String], in folder: URL? = nil) throws -> Outcome {
  let process = ultracProcess(arguments, in: folder)
  let (output, errors) = (Pipe(), Pipe())
  process.standardOutput = output
  process.standardError = errors
  try process.run()
  // Errors are a few lines, which fit the pipe while the output is read.
  let outputText = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
  let errorText = String(decoding: errors.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
  process.waitUntilExit()
  return Outcome(status: process.terminationStatus, output: outputText, errors: errorText)
}
