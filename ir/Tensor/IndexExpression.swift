/// An integer computed from a few named numbers: where a mask's intervals begin and end, which row a loop reads.
///
/// One small vocabulary serves the interpreter, which evaluates it, and the code generators, which emit it, so a
/// formula such as a mask's is written down once. Arithmetic is 64-bit and wraps nowhere for extents below 2^62.
public indirect enum IndexExpression: Hashable, Sendable {
  case constant(Int)
  case variable(IndexVariable)
  case add(IndexExpression, IndexExpression)
  case subtract(IndexExpression, IndexExpression)
  case minimum(IndexExpression, IndexExpression)
  case maximum(IndexExpression, IndexExpression)
  /// Half of it, rounded down.
  case half(IndexExpression)
  /// `then` where `left < right`, else `otherwise`.
  case ifLess(IndexExpression, IndexExpression, then: IndexExpression, otherwise: IndexExpression)

  /// The value of this expression, with `lookup` giving the value of each variable.
  public func evaluate(_ lookup: (IndexVariable) -> Int) -> Int {
    switch self {
    case .constant(let value): value
    case .variable(let variable): lookup(variable)
    case .add(let left, let right): left.evaluate(lookup) + right.evaluate(lookup)
    case .subtract(let left, let right): left.evaluate(lookup) - right.evaluate(lookup)
    case .minimum(let left, let right): Swift.min(left.evaluate(lookup), right.evaluate(lookup))
    case .maximum(let left, let right): Swift.max(left.evaluate(lookup), right.evaluate(lookup))
    case .half(let whole): whole.evaluate(lookup) >> 1
    case .ifLess(let left, let right, let then, let otherwise):
      left.evaluate(lookup) < right.evaluate(lookup) ? then.evaluate(lookup) : otherwise.evaluate(lookup)
    }
  }
}

/// A number that an index expression may read.
public enum IndexVariable: String, Hashable, Sendable, CaseIterable {
  /// A row's position in its sequence, from 0.
  case position
  /// Rows of the sequence: contextual, history and targets.
  case length
  /// Target rows at the end of the sequence.
  case targets
}

extension IndexExpression: ExpressibleByIntegerLiteral {
  /// A constant, so that formulas read `next + 1`.
  public init(integerLiteral value: Int) { self = .constant(value) }

  /// The variable `position`: a row's place in its sequence, from 0.
  public static var position: Self { .variable(.position) }
  /// The variable `length`: rows of the sequence.
  public static var length: Self { .variable(.length) }
  /// The variable `targets`: target rows at the end of the sequence.
  public static var targets: Self { .variable(.targets) }

  /// The sum, folded where both sides are constants or one of them is 0.
  public static func + (left: Self, right: Self) -> Self {
    switch (left, right) {
    case (.constant(let a), .constant(let b)): .constant(a + b)
    case (.constant(0), _): right
    case (_, .constant(0)): left
    default: .add(left, right)
    }
  }

  /// The difference, folded where both sides are constants or the right one is 0.
  public static func - (left: Self, right: Self) -> Self {
    switch (left, right) {
    case (.constant(let a), .constant(let b)): .constant(a - b)
    case (_, .constant(0)): left
    default: .subtract(left, right)
    }
  }

  /// The smaller of both, folded where both are constants.
  public static func min(_ left: Self, _ right: Self) -> Self {
    if case (.constant(let a), .constant(let b)) = (left, right) { return .constant(Swift.min(a, b)) }
    return .minimum(left, right)
  }

  /// The larger of both, folded where both are constants.
  public static func max(_ left: Self, _ right: Self) -> Self {
    if case (.constant(let a), .constant(let b)) = (left, right) { return .constant(Swift.max(a, b)) }
    return .maximum(left, right)
  }
}

extension IndexExpression: CustomStringConvertible {
  /// As a formula with parentheses, `min((position + 1), length)`.
  public var description: String {
    switch self {
    case .constant(let value): "\(value)"
    case .variable(let variable): variable.rawValue
    case .add(let left, let right): "(\(left) + \(right))"
    case .subtract(let left, let right): "(\(left) - \(right))"
    case .minimum(let left, let right): "min(\(left), \(right))"
    case .maximum(let left, let right): "max(\(left), \(right))"
    case .half(let whole): "half(\(whole))"
    case .ifLess(let left, let right, let then, let otherwise): "(\(left) < \(right) ? \(then) : \(otherwise))"
    }
  }
}
