import TensorIR

/// How far a tensor is from what was expected.
public struct TensorComparison: Hashable, Sendable {
  /// The largest |found - expected|; NaN where either is NaN and the other is not.
  public var largestError: Double
  /// The root of the mean of (found - expected)^2.
  public var rootMeanSquareError: Double
  /// The cosine of the angle between both as vectors; 1 where both are zero.
  public var cosine: Double
  /// Elements over tolerance.
  public var failures: Int
  /// The first element over tolerance, counted from 0 in row-major order.
  public var firstFailure: Int?
  /// Elements compared.
  public var count: Int

  /// Whether every element is within tolerance.
  public var passed: Bool { failures == 0 }

  /// Compares element by element: `|found - expected| <= absolute + relative * |expected|` is within tolerance.
  /// Throws where the shapes differ.
  public init(
    found: HostTensor, expected: HostTensor, absoluteTolerance: Double, relativeTolerance: Double
  ) throws(DriverError) {
    guard found.shape == expected.shape else {
      throw DriverError("shape \(found.shape), expected \(expected.shape)")
    }
    let found = found.doubles
    let expected = expected.doubles
    count = found.count
    largestError = 0
    failures = 0
    var squares = 0.0
    var (products, foundSquares, expectedSquares) = (0.0, 0.0, 0.0)
    for index in found.indices {
      let (a, b) = (found[index], expected[index])
      // Equal infinities and two NaNs agree; NaN against a number, or an infinity that was missed, never does.
      let error = a == b || (a.isNaN && b.isNaN) ? 0 : abs(a - b)
      let isWithin = error < .infinity && error <= absoluteTolerance + relativeTolerance * abs(b)
      if error != 0 && !isWithin {
        failures += 1
        if firstFailure == nil { firstFailure = index }
      }
      // Written so that a NaN, once there, stays.
      if !(error <= largestError) && !largestError.isNaN { largestError = error }
      squares += error * error
      products += a * b
      foundSquares += a * a
      expectedSquares += b * b
    }
    rootMeanSquareError = count == 0 ? 0 : (squares / Double(count)).squareRoot()
    let norms = (foundSquares * expectedSquares).squareRoot()
    cosine = norms == 0 ? (foundSquares == expectedSquares ? 1 : 0) : products / norms
  }
}
