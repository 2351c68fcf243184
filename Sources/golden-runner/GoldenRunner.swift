import ArgumentParser
import Foundation
import GoldenCases
import Interpreter
import ModelFormat

/// Holds a folder of golden cases against what this compiler makes of them.
@main
struct GoldenRunner: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "golden-runner",
    abstract: "Build, run and compare every golden case of a folder.",
    discussion: """
      A case is <name>.json and <name>.safetensors. Its model is built from the attributes in the JSON alone, compiled, \
      and run on its inputs; every expected tensor is compared within the case's own tolerance. One line a case; the \
      exit status is 1 unless all pass. Cases of kinds that are not supported count as not passing; leave them out with \
      --kinds.
      """)

  @Argument(help: "The folder with the cases.")
  var folder: String

  @Flag(help: "Interpret the models in fp32 instead of compiling them.")
  var interpret = false

  @Option(help: "Run cases of these kinds only, separated by commas.", transform: kindList)
  var kinds: [String]?

  @Option(help: "Keep the compiled artifacts in this folder, as <case>.ultra.")
  var keepArtifacts: String?

  private static func kindList(_ text: String) -> [String] {
    text.split(separator: ",").map { $0.trimmingCharacters(in: .whitespaces) }
  }

  func run() throws {
    let reports = try self.reports()
    guard !reports.isEmpty else { throw ValidationError("there is no case to run in \(folder)") }
    let kindWidth = reports.map(\.kind.count).max() ?? 0
    let nameWidth = reports.map(\.name.count).max() ?? 0
    for report in reports {
      print(
        report.kind.padded(to: kindWidth), report.name.padded(to: nameWidth),
        (report.maxError.map { String(format: "%.2e", $0) } ?? "-").padded(to: 8), report.status, separator: "  ")
    }
    let passed = reports.count { $0.status == .passed }
    print("\(passed) of \(reports.count) cases pass")
    if passed < reports.count { throw ExitCode(1) }
  }

  private func reports() throws -> [GoldenReport] {
    let files: [String]
    do {
      files = try FileManager.default.contentsOfDirectory(atPath: folder)
    } catch {
      throw ValidationError("the folder \(folder) cannot be read")
    }
    let names = GoldenCase.names(amongFiles: files)
    let artifacts = try interpret ? nil : ArtifactFolder(kept: keepArtifacts)
    defer { artifacts?.remove() }
    return names.compactMap { name in
      do {
        let golden = try GoldenCase(name, in: folder)
        if let kinds, !kinds.contains(golden.kind) { return nil }
        return golden.check { program, name in
          guard let artifacts else {
            return try Interpreter(module: program.module, weights: program.weights, precision: .f32)
              .run(program.entry, inputs: program.inputs)
          }
          return try compileAndRun(program, artifact: artifacts.path(of: name))
        }
      } catch {
        return GoldenReport(kind: "unreadable", name: name, status: .failed("\(error)"))
      }
    }
  }
}

extension String {
  fileprivate func padded(to width: Int) -> String {
    self + String(repeating: " ", count: max(width - count, 0))
  }
}
