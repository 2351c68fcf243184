import Foundation
import ModelFormat
import TensorIR
import TestSupport
import Testing

/// docs/import.md shows what the command prints, to the letter.
@Suite struct ImportDocumentationTests {
  private static let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    .deletingLastPathComponent()

  /// Blocks of a page between ``` lines.
  private func blocks(_ text: String) -> [String] {
    text.components(separatedBy: "\n```").enumerated().filter { $0.offset % 2 == 1 }.map { block in
      String(block.element.drop { $0 != "\n" }.dropFirst())
    }
  }

  /// The words of a line as a shell has them; quotes are double ones.
  private func words(_ line: String) -> [String] {
    line.components(separatedBy: "\"").enumerated().flatMap { index, part in
      index % 2 == 1 ? [part] : part.split(separator: " ").map(String.init)
    }
  }

  @Test func printedOutputIsTrue() throws {
    let page = try String(contentsOf: Self.root.appendingPathComponent("docs/import.md"), encoding: .utf8)
    let shown = blocks(page)
    try withTemporaryFolder { folder in
      // The trained model, and the reference's ranking model without the inputs and results of its golden case.
      try FileManager.default.copyItem(
        at: Self.root.appendingPathComponent("examples/movielens-100k/weights.safetensors"),
        to: folder.appendingPathComponent("films.safetensors"))
      let golden = "Tests/Golden/dlrm_two_contextual_layernorm.safetensors"
      let file = try SafetensorsFile(path: Self.root.appendingPathComponent(golden).path)
      let weights = file.names.filter { !$0.hasPrefix("input.") && !$0.hasPrefix("expected") }
      try Safetensors.write(
        weights.map { ($0, try file.tensor(named: $0)) },
        to: folder.appendingPathComponent("ranker.safetensors").path)
      let config = try #require(shown.first { $0.contains("\"hstu_num_heads\"") })
      try config.write(to: folder.appendingPathComponent("config.json"), atomically: true, encoding: .utf8)
      var count = 0
      for block in shown where block.hasPrefix("$ ultrac ") {
        // A command may go on in the next line.
        let joined = block.replacing(" \\\n", with: "")
        let lines = joined.split(separator: "\n", maxSplits: 1).map(String.init)
        let outcome = try ultrac(Array(words(lines[0]).dropFirst(2)), in: folder)
        let printed = (outcome.output + outcome.errors).trimmingCharacters(in: .newlines)
        #expect(printed == (lines.last ?? "").trimmingCharacters(in: .newlines), "\(lines[0])")
        if outcome.status == 0 { try? FileManager.default.removeItem(at: folder.appendingPathComponent("model.json")) }
        count += 1
      }
      #expect(count >= 3)
    }
  }
}
