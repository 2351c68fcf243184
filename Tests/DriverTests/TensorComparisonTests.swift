import Driver
import TensorIR
import Testing

@Suite struct TensorComparisonTests {
  private func compare(
    _ found: [Float], _ expected: [Float], absolute: Double = 0.1, relative: Double = 0
  ) throws -> TensorComparison {
    try TensorComparison(
      found: HostTensor(found), expected: HostTensor(expected), absoluteTolerance: absolute, relativeTolerance: relative
    )
  }

  @Test func equalTensorsAgree() throws {
    let result = try compare([1, -2, 0], [1, -2, 0], absolute: 0)
    #expect(result.passed && result.largestError == 0 && result.rootMeanSquareError == 0)
    #expect(abs(result.cosine - 1) < 1e-15)
    #expect(try compare([], []).passed)
    #expect(try compare([0, 0], [0, 0]).cosine == 1)
  }

  @Test func errorsAreMeasuredAndCounted() throws {
    let result = try compare([3, 4, 0], [3, 0, 0.05])
    #expect(result.failures == 1 && result.firstFailure == 1 && result.largestError == 4)
    #expect(abs(result.rootMeanSquareError - (16.0025 / 3).squareRoot()) < 1e-6)
    #expect(abs(result.cosine - 9 / (5 * 9.0025.squareRoot())) < 1e-6)
  }

  @Test func toleranceIsAbsolutePlusRelative() throws {
    #expect(try compare([110], [100], absolute: 5, relative: 0.05).passed)
    #expect(try !compare([110.5], [100], absolute: 5, relative: 0.05).passed)
    #expect(try !compare([100], [-100], absolute: 5, relative: 0.05).passed)
  }

  @Test func numbersThatAreNoneFail() throws {
    let result = try compare([.nan, 1, 2], [0, 1, 9])
    #expect(result.failures == 2 && result.largestError.isNaN)
    #expect(try !compare([0], [.nan], relative: 1).passed)
    #expect(try !compare([1], [.infinity], relative: 1).passed)
    #expect(try !compare([.infinity], [1], relative: 1).passed)
    #expect(try compare([.infinity], [.infinity]).passed)
  }

  @Test func shapesMustBeEqual() {
    #expect(throws: DriverError.self) { try compare([1, 2], [1]) }
  }
}
