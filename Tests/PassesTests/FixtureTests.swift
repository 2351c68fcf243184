import Foundation
import Passes
import TensorIR
import Testing

/// A `.tir` file with `// RUN:` lines: shell commands in which `%s` is the file, which must all exit with 0.
struct Fixture: CustomTestStringConvertible, Sendable {
  var path: String
  var source: String

  var testDescription: String {
    URL(filePath: path).pathComponents.suffix(2).joined(separator: "/")
  }

  static let all: [Fixture] = {
    let root = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "Fixtures")
    let files = FileManager.default.enumerator(at: root, includingPropertiesForKeys: nil)
    let paths = (files?.allObjects as? [URL] ?? []).filter { $0.pathExtension == "tir" }.map(\.path).sorted()
    return paths.compactMap { path in
      (try? String(contentsOfFile: path, encoding: .utf8)).map { Fixture(path: path, source: $0) }
    }
  }()

  var commands: [String] {
    let marker = "// RUN: "
    return source.split(separator: "\n").filter { $0.hasPrefix(marker) }.map { String($0.dropFirst(marker.count)) }
  }
}

/// What a shell command wrote, and how it ended.
struct CommandResult {
  var status: Int32
  var output: String
}

/// Runs a command in the shell, its input from `input`.
func runShell(_ command: String, path: String = "", input: String? = nil) throws -> CommandResult {
  let process = Process()
  process.executableURL = URL(filePath: "/bin/sh")
  process.arguments = ["-c", "set -e; \(command)"]
  var environment = ProcessInfo.processInfo.environment
  environment["PATH"] = [path, environment["PATH"] ?? ""].filter { !$0.isEmpty }.joined(separator: ":")
  process.environment = environment
  let output = Pipe()
  process.standardOutput = output
  process.standardError = output
  let folder = FileManager.default.temporaryDirectory.appending(path: "ultrac-passes-\(UUID().uuidString)")
  try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
  defer { try? FileManager.default.removeItem(at: folder) }
  // From a file: a pipe could fill up before the command reads it.
  let file = folder.appending(path: "input")
  try (input ?? "").write(to: file, atomically: false, encoding: .utf8)
  process.standardInput = try FileHandle(forReadingFrom: file)
  // Passes that fail leave a reproducer in the working folder.
  process.currentDirectoryURL = folder
  try process.run()
  let data = output.fileHandleForReading.readDataToEndOfFile()
  process.waitUntilExit()
  return CommandResult(status: process.terminationStatus, output: String(decoding: data, as: UTF8.self))
}

/// Runs RUN lines by the built `ultrac`, or, where that has no `opt`, by the pass manager in this process.
enum FixtureRunner {
  /// The folder of the built `ultrac`, where it is beside the tests and has `opt`.
  static let builtTools: String? = {
    let tests = URL(filePath: "/proc/self/exe").resolvingSymlinksInPath()
    let folder = tests.deletingLastPathComponent().path
    guard FileManager.default.isExecutableFile(atPath: folder + "/ultrac"),
      let help = try? runShell("ultrac opt --help", path: folder), help.status == 0, help.output.contains("--passes")
    else { return nil }
    return folder
  }()

  /// What failed; nil where nothing did.
  static func failure(of command: String, on fixture: Fixture) throws -> String? {
    if let builtTools {
      // A pipeline fails as its last command does: FileCheck, which refuses the empty text of a failed `ultrac`.
      let line = command.replacing("ultrac opt ", with: "ultrac opt --verify-each ")
        .replacing("%s", with: "'\(fixture.path)'")
      let result = try runShell(line, path: builtTools)
      return result.status == 0 ? nil : result.output
    }
    return try failureInProcess(of: command, on: fixture)
  }

  /// The program that the passes leave, or their error as the command says it.
  private static func printed(by passes: String, on fixture: Fixture, withErrors: Bool) throws -> String {
    var module = try TensorIRParser.parse(fixture.source, file: fixture.path)
    do {
      try PassManager(PassPipeline(parsing: passes)).run(on: &module)
    } catch {
      guard withErrors else { throw error }
      return "error: \(error)\n"
    }
    return module.text
  }

  static func failureInProcess(of command: String, on fixture: Fixture) throws -> String? {
    guard let match = command.wholeMatch(of: /ultrac opt %s --passes "([^"]*)"( 2>&1)? \| (FileCheck-19 .*)/) else {
      return "cannot run \"\(command)\" without the built ultrac"
    }
    let output = try printed(by: String(match.1), on: fixture, withErrors: match.2 != nil)
    let line = match.3.replacing("%s", with: "'\(fixture.path)'")
    let result = try runShell(String(line), input: output)
    return result.status == 0 ? nil : result.output
  }
}

@Suite("Pass fixtures")
struct FixtureTests {
  @Test("there are fixtures for every pass, 15 and more of each on average")
  func found() {
    let counts = ModulePass.all.map { pass in
      Fixture.all.count { $0.path.contains("/Fixtures/\(pass.name)/") && $0.source.contains(pass.name) }
    }
    for (pass, count) in zip(ModulePass.all, counts) { #expect(count > 0, "no fixture shows \(pass.name)") }
    #expect(counts.reduce(0, +) >= 15 * ModulePass.all.count, "\(zip(ModulePass.all.map(\.name), counts).map { $0 })")
  }

  @Test("every folder of fixtures is that of a pass")
  func named() {
    for fixture in Fixture.all {
      let folder = URL(filePath: fixture.path).pathComponents.dropLast().last
      #expect(ModulePass.all.contains { $0.name == folder }, "\(fixture) is shown for no pass")
    }
  }

  @Test("every pass has a page that the list of pages names")
  func documented() throws {
    let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
      .deletingLastPathComponent().appending(path: "docs/passes")
    let list = try String(contentsOf: root.appending(path: "README.md"), encoding: .utf8)
    for pass in ModulePass.all {
      #expect(FileManager.default.fileExists(atPath: root.appending(path: "\(pass.name).md").path))
      #expect(list.contains("| [\(pass.name)](\(pass.name).md) | \(pass.exactness.rawValue) |"))
    }
  }

  @Test("every RUN line holds", arguments: Fixture.all)
  func run(fixture: Fixture) throws {
    #expect(!fixture.commands.isEmpty)
    for command in fixture.commands {
      if let failure = try FixtureRunner.failure(of: command, on: fixture) { Issue.record("\(failure)") }
    }
  }

  @Test("a CHECK line that does not hold is seen")
  func failing() throws {
    let path = FileManager.default.temporaryDirectory.appending(path: "ultrac-\(UUID().uuidString).tir").path
    defer { try? FileManager.default.removeItem(atPath: path) }
    let source = "// CHECK: module other\nmodule m\n"
    try source.write(toFile: path, atomically: false, encoding: .utf8)
    let fixture = Fixture(path: path, source: source)
    let command = "ultrac opt %s --passes \"dce\" | FileCheck-19 %s"
    #expect(try FixtureRunner.failure(of: command, on: fixture) != nil)
    #expect(try FixtureRunner.failureInProcess(of: command, on: fixture)?.contains("module other") == true)
  }
}
