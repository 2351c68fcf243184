/// The second operand as a Swift integer: it takes the first one's type, in every lane.
extension IRBuilder {
  /// `a + b`, modulo the width.
  public func add(_ a: IRValue, _ b: Int) -> IRValue { add(a, a.type.constant(b)) }
  /// `a - b`, modulo the width.
  public func sub(_ a: IRValue, _ b: Int) -> IRValue { sub(a, a.type.constant(b)) }
  /// `a * b`, modulo the width.
  public func mul(_ a: IRValue, _ b: Int) -> IRValue { mul(a, a.type.constant(b)) }
  /// The signed quotient, rounded toward zero.
  public func sdiv(_ a: IRValue, _ b: Int) -> IRValue { sdiv(a, a.type.constant(b)) }
  /// The unsigned quotient.
  public func udiv(_ a: IRValue, _ b: Int) -> IRValue { udiv(a, a.type.constant(b)) }
  /// The remainder of `sdiv`, with the sign of `a`.
  public func srem(_ a: IRValue, _ b: Int) -> IRValue { srem(a, a.type.constant(b)) }
  /// The remainder of `udiv`.
  public func urem(_ a: IRValue, _ b: Int) -> IRValue { urem(a, a.type.constant(b)) }
  /// Bitwise and.
  public func and(_ a: IRValue, _ b: Int) -> IRValue { and(a, a.type.constant(b)) }
  /// Bitwise or.
  public func or(_ a: IRValue, _ b: Int) -> IRValue { or(a, a.type.constant(b)) }
  /// Bitwise exclusive or.
  public func xor(_ a: IRValue, _ b: Int) -> IRValue { xor(a, a.type.constant(b)) }
  /// Shift left.
  public func shl(_ a: IRValue, _ b: Int) -> IRValue { shl(a, a.type.constant(b)) }
  /// Shift right, filling with zeros.
  public func lshr(_ a: IRValue, _ b: Int) -> IRValue { lshr(a, a.type.constant(b)) }
  /// Shift right, filling with the sign.
  public func ashr(_ a: IRValue, _ b: Int) -> IRValue { ashr(a, a.type.constant(b)) }
  /// The smaller of two signed integers.
  public func smin(_ a: IRValue, _ b: Int) -> IRValue { smin(a, a.type.constant(b)) }
  /// The larger of two signed integers.
  public func smax(_ a: IRValue, _ b: Int) -> IRValue { smax(a, a.type.constant(b)) }
  /// Compares integers, lane by lane.
  public func icmp(_ predicate: IntegerPredicate, _ a: IRValue, _ b: Int) -> IRValue {
    icmp(predicate, a, a.type.constant(b))
  }
}
