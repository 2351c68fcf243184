import TensorIR
import Testing

/// How far numbers are from the expected ones, and where the worst is.
public struct Comparison: Sendable, CustomStringConvertible {
  /// The greatest |got - expected|; infinite where one is NaN or infinite and the other is not the same.
  public var absolute: Double = 0
  /// The greatest |got - expected| / |expected| over the numbers whose |expected| is at least 1e-3.
  public var relative: Double = 0
  /// The greatest excess |got - expected| - (atol + rtol * |expected|); passes where it is not above 0.
  public var excess: Double = -.infinity
  /// Where the excess is greatest: an index for each axis.
  public var worstIndex: [Int] = []
  /// The number found there.
  public var worstGot: Double = 0
  /// The number that was to be there.
  public var worstExpected: Double = 0
  /// How many numbers were compared.
  public var count = 0

  /// Whether all numbers are within tolerance; so are none at all.
  public var isClose: Bool { excess <= 0 || count == 0 }

  /// The worst place and the greatest differences, in one sentence.
  public var description: String {
    "worst at \(worstIndex): \(worstGot), expected \(worstExpected); "
      + "greatest difference \(absolute), relative \(relative), of \(count) numbers"
  }
}

/// Compares element by element: close where |got - expected| <= atol + rtol * |expected|. NaN is close to NaN, and an
/// infinity to the same infinity, only. The shapes must be equal.
public func compare(_ got: HostTensor, _ expected: HostTensor, atol: Double, rtol: Double) -> Comparison {
  var comparison = Comparison()
  comparison.count = expected.count
  guard got.shape == expected.shape else {
    comparison.excess = .infinity
    comparison.absolute = .infinity
    return comparison
  }
  for (index, (got, wanted)) in zip(got.doubles, expected.doubles).enumerated() {
    let isSame = got == wanted || (got.isNaN && wanted.isNaN)
    let difference = isSame ? 0 : abs(got - wanted)
    // NaN and infinite differences compare as false: make them the greatest there is.
    let error = difference.isFinite ? difference : .infinity
    let excess = isSame ? -atol : wanted.isFinite ? error - (atol + rtol * abs(wanted)) : .infinity
    comparison.absolute = max(comparison.absolute, error)
    if abs(wanted) >= 1e-3 { comparison.relative = max(comparison.relative, error / abs(wanted)) }
    if excess > comparison.excess {
      comparison.excess = excess
      comparison.worstIndex = coordinates(of: index, in: expected.shape)
      comparison.worstGot = got
      comparison.worstExpected = wanted
    }
  }
  return comparison
}

/// Records an issue where `got` is not close to `expected` (see `compare`), with the place of the worst number.
/// `context` says what was compared, such as a case's name or a seed.
@discardableResult
public func expectClose(
  _ got: HostTensor, _ expected: HostTensor, atol: Double, rtol: Double, _ context: @autoclosure () -> String = "",
  sourceLocation: Testing.SourceLocation = #_sourceLocation
) -> Comparison {
  let comparison = compare(got, expected, atol: atol, rtol: rtol)
  if got.shape != expected.shape {
    Issue.record("\(context()): shape \(got.shape), expected \(expected.shape)", sourceLocation: sourceLocation)
  } else if !comparison.isClose {
    Issue.record("\(context()): \(comparison) (atol \(atol), rtol \(rtol))", sourceLocation: sourceLocation)
  }
  return comparison
}

private func coordinates(of index: Int, in shape: [Int]) -> [Int] {
  var rest = index
  var coordinates: [Int] = []
  for extent in shape.reversed() {
    coordinates.append(rest % extent)
    rest /= extent
  }
  return coordinates.reversed()
}
