import Foundation
import TensorIR
import Testing

@Suite("Documentation")
struct DocumentationTests {
  func document() throws -> String {
    let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
      .deletingLastPathComponent()
    return try String(contentsOf: root.appending(path: "docs/tensor-ir.md"), encoding: .utf8)
  }

  @Test func examplesArePrintedModules() throws {
    let examples = try document().components(separatedBy: "```tir\n").dropFirst().map {
      $0.components(separatedBy: "```")[0]
    }
    #expect(!examples.isEmpty)
    for example in examples { #expect(try TensorIRParser.parse(example).text == example) }
  }

  @Test(arguments: Payload.mnemonics)
  func everyOperationIsDocumented(mnemonic: String) throws {
    #expect(try document().contains("`\(mnemonic)`"))
  }

  @Test(arguments: Payload.mnemonics)
  func everyOperationIsInAFixture(mnemonic: String) {
    let isUsed = { (fixture: Fixture) in fixture.source.contains(" = \(mnemonic) ") }
    #expect(Fixture.all(in: "valid").contains(where: isUsed), "no valid fixture has \(mnemonic)")
    #expect(Fixture.all(in: "invalid").contains(where: isUsed), "no invalid fixture has \(mnemonic)")
  }
}
