import Driver
import Foundation
import TensorIR
import TestSupport
import Testing

/// Two compilations of one input give one file, whatever process, folder and environment they run in.
///
/// Swift orders its dictionaries and sets anew in each process: only separate processes show an order that reaches the
/// file.
@Suite struct SameBytesTests {
  /// Compiles `model` with the command; the bytes of the artifact.
  private func compile(
    _ model: String, to output: String, in folder: URL, environment: [String: String], _ options: [String]
  ) throws -> [UInt8] {
    let process = Process()
    let tests = URL(fileURLWithPath: CommandLine.arguments[0]).resolvingSymlinksInPath()
    process.executableURL = tests.deletingLastPathComponent().appendingPathComponent("ultrac")
    process.arguments = ["compile", model, "-o", output] + options
    process.currentDirectoryURL = folder
    process.environment = ProcessInfo.processInfo.environment.merging(environment) { $1 }
    process.standardOutput = FileHandle.nullDevice
    try process.run()
    process.waitUntilExit()
    try #require(process.terminationStatus == 0)
    let file = output.hasPrefix("/") ? URL(fileURLWithPath: output) : folder.appendingPathComponent(output)
    return [UInt8](try Data(contentsOf: file))
  }

  /// Three times from three folders: beside the model, from elsewhere with absolute paths, and on a copy of it.
  private func expectSame(_ source: URL, _ options: [String]) throws {
    try withTemporaryFolder { folder in
      let copy = folder.appendingPathComponent("a copy in a folder with a longer name")
      try FileManager.default.copyItem(at: source, to: copy)
      let elsewhere = folder.appendingPathComponent("elsewhere")
      try FileManager.default.createDirectory(at: elsewhere, withIntermediateDirectories: true)
      let first = try compile("model.json", to: "\(elsewhere.path)/a.ultra", in: source, environment: [:], options)
      let second = try compile(
        "\(source.path)/model.json", to: "b.ultra", in: elsewhere,
        environment: ["TMPDIR": elsewhere.path, "LANG": "de_DE.UTF-8", "SOURCE_DATE_EPOCH": "1"], options)
      let third = try compile(
        "\(copy.lastPathComponent)/../\(copy.lastPathComponent)/model.json", to: "c.ultra", in: folder,
        environment: ["HOME": "/", "TZ": "Asia/Tokyo"], options)
      #expect(first == second)
      #expect(first == third)
      // Paths would be a way for folders to reach the file.
      let name = Array(folder.lastPathComponent.utf8)
      #expect(first.firstRange(of: name) == nil)
    }
  }

  @Test func aSmallModelForAllLevels() throws {
    try withTemporaryFolder { folder in
      let model = folder.appendingPathComponent("model")
      _ = try ModelFolder(model)
      try expectSame(model, ["--target-cpu", "x86-64-v3,x86-64-v4,znver4,sapphirerapids"])
    }
  }

  @Test func theExampleModel() throws {
    let tests = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
    let example = tests.appendingPathComponent("../../examples/movielens-100k").standardizedFileURL
    try expectSame(example, ["--target-cpu", "x86-64-v3", "-O0"])
  }

  /// The backend alone, on programs that no model.json describes.
  @Test func randomPrograms() throws {
    try withTemporaryFolder { folder in
      for kind in [RandomProgram.Kind.research, .truncationSkip] {
        let program = try RandomProgram(kind, seed: 7)
        var backend = RobustModel(program.module).backend
        backend.levels = [.avx2]
        let files = try ["a", "another folder"].map { name in
          let inner = folder.appendingPathComponent(name)
          try FileManager.default.createDirectory(at: inner, withIntermediateDirectories: true)
          let path = inner.appendingPathComponent("\(kind.rawValue).ultra")
          try backend.compile(program.module, weights: program.weights, to: path.path)
          return try Data(contentsOf: path)
        }
        #expect(files[0] == files[1])
      }
    }
  }
}
