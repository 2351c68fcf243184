import GoldenCases
import Interpreter
import TensorIR
import Testing

/// Models built from the attributes of golden cases, interpreted, against what the reference implementations computed.
@Suite struct GoldenCaseTests {
  @Test(arguments: try goldenCaseNames()) func caseIsMet(name: String) throws {
    let report = try GoldenCase(name, in: goldenFolder).check { program, _ in
      try Interpreter(module: program.module, weights: program.weights, precision: .f32)
        .run(program.entry, inputs: program.inputs)
    }
    #expect(report.status == .passed, "\(report)")
  }

  @Test("ranking models that a program of its own computed", arguments: try rankingCaseNames())
  func rankingCaseIsMet(name: String) throws {
    let report = try GoldenCase(name, in: rankingFolder).check { program, _ in
      try Interpreter(module: program.module, weights: program.weights, precision: .f32)
        .run(program.entry, inputs: program.inputs)
    }
    #expect(report.status == .passed, "\(report)")
  }

  @Test func everyKindHasCases() throws {
    let kinds = try Set(goldenCaseNames().map { try GoldenCase($0, in: goldenFolder).kind })
    #expect(kinds == Set(GoldenCase.supportedKinds))
  }
}
