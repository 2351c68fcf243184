import Foundation
import TensorIR
import Testing

/// A `.tir` file beside the tests.
struct Fixture: CustomTestStringConvertible, Sendable {
  var path: String
  var source: String

  var name: String { URL(filePath: path).lastPathComponent }
  var testDescription: String { name }

  /// All fixtures of a folder under Fixtures/, by name.
  static func all(in folder: String) -> [Fixture] {
    let directory = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "Fixtures/\(folder)")
    let files = (try? FileManager.default.contentsOfDirectory(at: directory, includingPropertiesForKeys: nil)) ?? []
    return files.filter { $0.pathExtension == "tir" }.sorted { $0.path < $1.path }.compactMap { file in
      guard let source = try? String(contentsOf: file, encoding: .utf8) else { return nil }
      return Fixture(path: file.path, source: source)
    }
  }

  struct Expectation {
    var line: Int
    var message: String
  }

  /// The errors that comments `// expect-error: message` announce: on their own line, or, where a comment stands alone,
  /// on the line after it.
  var expectations: [Expectation] {
    let marker = "// expect-error: "
    return source.split(separator: "\n", omittingEmptySubsequences: false).enumerated().compactMap { index, line in
      guard let range = line.range(of: marker) else { return nil }
      let standsAlone = line[..<range.lowerBound].allSatisfy(\.isWhitespace)
      return Expectation(line: index + (standsAlone ? 2 : 1), message: String(line[range.upperBound...]))
    }
  }
}

@Suite("Fixtures")
struct FixtureTests {
  @Test("there are fixtures")
  func found() {
    #expect(Fixture.all(in: "valid").count >= 5)
    #expect(Fixture.all(in: "invalid").count >= 150)
  }

  @Test("a rule that is broken is reported at its line, in its words", arguments: Fixture.all(in: "invalid"))
  func invalid(fixture: Fixture) throws {
    let expectations = fixture.expectations
    try #require(expectations.count == 1, "one file breaks one rule")
    do throws(TensorIRError) {
      _ = try TensorIRParser.parse(fixture.source, file: fixture.name)
      Issue.record("\(fixture.name) was accepted")
    } catch {
      #expect(error.summary == expectations[0].message)
      #expect(error.location?.line == expectations[0].line)
      #expect(error.location?.file == fixture.name)
    }
  }

  @Test("a sound module is printed and read back byte for byte", arguments: Fixture.all(in: "valid"))
  func valid(fixture: Fixture) throws {
    let module = try TensorIRParser.parse(fixture.source, file: fixture.name)
    let text = module.text
    #expect(try TensorIRParser.parse(text, file: fixture.name).text == text)
    // The valid fixtures are written as they are printed, but for comments.
    let written = fixture.source.split(separator: "\n", omittingEmptySubsequences: false).filter {
      !$0.hasPrefix("//")
    }
    #expect(written.joined(separator: "\n") == text)
  }
}
