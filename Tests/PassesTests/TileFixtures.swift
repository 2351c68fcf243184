import Foundation
import TestSupport
import Testing
import TileIR

/// Tile programs with CHECK lines, for what a pass makes of them.
enum TileFixtures {
  /// The files of a folder of fixtures, by name.
  static func files(_ folder: String) -> [URL] {
    let folder = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "Fixtures/\(folder)")
    let files = (try? FileManager.default.contentsOfDirectory(at: folder, includingPropertiesForKeys: nil)) ?? []
    return files.filter { $0.pathExtension == "tile" }.sorted { $0.path < $1.path }
  }

  /// Runs the pass on the file's program, verifies what it gives, and holds that to the file's CHECK lines.
  static func check(_ file: URL, _ pass: (inout Program) throws -> Void) throws {
    var program = try TileIRParser.parse(
      String(contentsOf: file, encoding: .utf8), file: file.lastPathComponent)
    try pass(&program)
    try program.verify()
    let result = try runShell("FileCheck-19 '\(file.path)'", input: program.text)
    #expect(result.status == 0, "\(result.output)")
  }
}
