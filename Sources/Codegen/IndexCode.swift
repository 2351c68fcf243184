import LLVMKit
import TensorIR

extension IRBuilder {
  /// An index expression as code, in 64 bits.
  func value(of expression: IndexExpression, position: IRValue, length: IRValue, targets: IRValue) -> IRValue {
    func value(_ expression: IndexExpression) -> IRValue {
      switch expression {
      case .constant(let number): i64(number)
      case .variable(.position): position
      case .variable(.length): length
      case .variable(.targets): targets
      case .add(let left, let right): add(value(left), value(right))
      case .subtract(let left, let right): sub(value(left), value(right))
      case .minimum(let left, let right): smin(value(left), value(right))
      case .maximum(let left, let right): smax(value(left), value(right))
      case .half(let whole): ashr(value(whole), 1)
      case .ifLess(let left, let right, let then, let otherwise):
        select(icmp(.slt, value(left), value(right)), value(then), value(otherwise))
      }
    }
    return value(expression)
  }
}
