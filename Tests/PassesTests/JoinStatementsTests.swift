import Foundation
import TestSupport
import Testing
import TileIR

@testable import Passes

@Suite("to-tiles joins statements")
struct JoinStatementsTests {
  static let fixtures: [URL] = {
    let folder = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "Fixtures/to-tiles")
    let files = (try? FileManager.default.contentsOfDirectory(at: folder, includingPropertiesForKeys: nil)) ?? []
    return files.filter { $0.pathExtension == "tile" }.sorted { $0.path < $1.path }
  }()

  @Test("every CHECK line holds", arguments: fixtures.map(\.lastPathComponent))
  func fixture(name: String) throws {
    let file = try #require(Self.fixtures.first { $0.lastPathComponent == name })
    var program = try TileIRParser.parse(String(contentsOf: file, encoding: .utf8), file: name)
    try program.verify()
    for index in program.kernels.indices { program.kernels[index].joinStatements(panel: 32) }
    try program.verify()
    // What is joined has nothing more to join.
    var again = program
    for index in again.kernels.indices { again.kernels[index].joinStatements(panel: 32) }
    #expect(again.kernels == program.kernels)
    let result = try runShell("FileCheck-19 '\(file.path)'", input: program.text)
    #expect(result.status == 0, "\(result.output)")
  }

  @Test("there are fixtures")
  func found() { #expect(Self.fixtures.count >= 13) }
}
