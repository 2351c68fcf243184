import Foundation

/// The floating-point numbers that the interpreter computes with. Sums run from the first term to the last, one rounding
/// a step, so a result depends on nothing but its own terms.
///
/// The loops are here, once for each type, because generic code is some fifty times slower in debug builds.
protocol Arithmetic: BinaryFloatingPoint, BitwiseCopyable, Sendable {
  /// e to the power of x.
  static func exponential(_ x: Self) -> Self
  /// Sum of `x[i] * y[i * stride]` for i in 0..<count.
  static func dot(_ x: UnsafePointer<Self>, _ y: UnsafePointer<Self>, stride: Int, count: Int) -> Self
  /// Adds `factor * x[i]` to `y[i]` for i in 0..<count.
  static func accumulate(_ factor: Self, _ x: UnsafePointer<Self>, into y: UnsafeMutablePointer<Self>, count: Int)
  /// Adds `factor * x[i]` to `y[i]` for i in 0..<count, with one rounding each.
  static func accumulateFused(
    _ factor: Self, _ x: UnsafePointer<Self>, into y: UnsafeMutablePointer<Self>, count: Int)
}

extension Arithmetic {
  static func sigmoid(_ x: Self) -> Self { 1 / (1 + exponential(-x)) }
  static func silu(_ x: Self) -> Self { x * sigmoid(x) }
}

extension Float: Arithmetic {
  static func exponential(_ x: Float) -> Float { exp(x) }

  static func dot(_ x: UnsafePointer<Float>, _ y: UnsafePointer<Float>, stride: Int, count: Int) -> Float {
    var sum: Float = 0
    var index = 0
    while index < count {
      sum += x[index] * y[index &* stride]
      index &+= 1
    }
    return sum
  }

  static func accumulate(
    _ factor: Float, _ x: UnsafePointer<Float>, into y: UnsafeMutablePointer<Float>, count: Int
  ) {
    var index = 0
    while index < count {
      y[index] += factor * x[index]
      index &+= 1
    }
  }

  static func accumulateFused(
    _ factor: Float, _ x: UnsafePointer<Float>, into y: UnsafeMutablePointer<Float>, count: Int
  ) {
    var index = 0
    while index < count {
      y[index] = y[index].addingProduct(factor, x[index])
      index &+= 1
    }
  }
}

extension Double: Arithmetic {
  static func exponential(_ x: Double) -> Double { exp(x) }

  static func dot(_ x: UnsafePointer<Double>, _ y: UnsafePointer<Double>, stride: Int, count: Int) -> Double {
    var sum: Double = 0
    var index = 0
    while index < count {
      sum += x[index] * y[index &* stride]
      index &+= 1
    }
    return sum
  }

  static func accumulate(
    _ factor: Double, _ x: UnsafePointer<Double>, into y: UnsafeMutablePointer<Double>, count: Int
  ) {
    var index = 0
    while index < count {
      y[index] += factor * x[index]
      index &+= 1
    }
  }

  static func accumulateFused(
    _ factor: Double, _ x: UnsafePointer<Double>, into y: UnsafeMutablePointer<Double>, count: Int
  ) {
    var index = 0
    while index < count {
      y[index] = y[index].addingProduct(factor, x[index])
      index &+= 1
    }
  }
}
