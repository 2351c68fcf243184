import Foundation
import TensorIR
import TestSupport
import Testing
import TileIR

/// A `.tile` file beside the tests.
struct TileFixture: CustomTestStringConvertible, Sendable {
  var path: String
  var source: String

  var name: String { URL(filePath: path).lastPathComponent }
  var testDescription: String { name }

  /// All fixtures of a folder under Fixtures/, by name.
  static func all(in folder: String) -> [TileFixture] {
    let directory = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "Fixtures/\(folder)")
    let files = (try? FileManager.default.contentsOfDirectory(at: directory, includingPropertiesForKeys: nil)) ?? []
    return files.filter { $0.pathExtension == "tile" }.sorted { $0.path < $1.path }.compactMap { file in
      guard let source = try? String(contentsOf: file, encoding: .utf8) else { return nil }
      return TileFixture(path: file.path, source: source)
    }
  }

  /// The errors that comments `// expect-error: message` announce, on their line.
  var expectations: [(line: Int, message: String)] {
    let marker = "// expect-error: "
    return source.split(separator: "\n", omittingEmptySubsequences: false).enumerated().compactMap { index, line in
      line.range(of: marker).map { (index + 1, String(line[$0.upperBound...])) }
    }
  }
}

@Suite("Fixtures of tile programs")
struct TileFixtureTests {
  @Test("there are fixtures")
  func found() {
    #expect(TileFixture.all(in: "valid").count >= 3)
    #expect(TileFixture.all(in: "invalid").count >= 150)
  }

  @Test("a rule that is broken is reported at its line, in its words", arguments: TileFixture.all(in: "invalid"))
  func invalid(fixture: TileFixture) throws {
    let expectations = fixture.expectations
    try #require(expectations.count == 1, "one file breaks one rule")
    do throws(TileIRError) {
      _ = try TileIRParser.parse(fixture.source, file: fixture.name)
      Issue.record("\(fixture.name) was accepted")
    } catch {
      #expect(error.summary == expectations[0].message)
      #expect(error.location?.line == expectations[0].line)
      #expect(error.location?.file == fixture.name)
    }
  }

  @Test("a sound program is printed as it is written", arguments: TileFixture.all(in: "valid"))
  func valid(fixture: TileFixture) throws {
    let program = try TileIRParser.parse(fixture.source, file: fixture.name)
    #expect(program.text == fixture.source)
    #expect(try TileIRParser.parse(program.text).kernels == program.kernels)
  }
}
