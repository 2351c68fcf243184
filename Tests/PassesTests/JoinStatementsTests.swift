import Testing
import TileIR

@testable import Passes

@Suite("to-tiles joins statements")
struct JoinStatementsTests {
  static let fixtures = TileFixtures.files("to-tiles")

  @Test("every CHECK line holds", arguments: fixtures.map(\.lastPathComponent))
  func fixture(name: String) throws {
    let file = try #require(Self.fixtures.first { $0.lastPathComponent == name })
    try TileFixtures.check(file) { program in
      try program.verify()
      func join(_ program: inout Program) {
        for index in program.kernels.indices { program.kernels[index].joinStatements { _ in 32 } }
      }
      join(&program)
      // What is joined has nothing more to join.
      var again = program
      join(&again)
      #expect(again.kernels == program.kernels)
    }
  }

  @Test("there are fixtures")
  func found() { #expect(Self.fixtures.count >= 14) }
}
