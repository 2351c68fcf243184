import LLVMKit
import TensorIR

// Elements of fewer bits than fp32: reading gives their fp32 value, writing rounds as ir/Tensor/Rounding.swift does.
extension LevelEmitter {
  /// The type that elements are loaded and stored as, in so many lanes; one lane is a scalar.
  func storedType(_ element: ElementType, lanes: Int) -> IRType {
    let scalar = element == .bf16 ? context.i16 : context.f32
    return lanes == 1 ? scalar : context.vector(scalar, lanes)
  }

  /// The fp32 values of stored elements.
  func widen(_ b: IRBuilder, _ stored: IRValue, _ element: ElementType) -> IRValue {
    guard element == .bf16 else { return stored }
    let bits = b.shl(b.zext(stored, to: stored.type.withElement(context.i32)), 16)
    return b.bitcast(bits, to: stored.type.withElement(context.f32))
  }

  /// The elements nearest to fp32 values, as they are stored.
  func narrow(_ b: IRBuilder, _ value: IRValue, _ element: ElementType) -> IRValue {
    guard element == .bf16 else { return value }
    let type = value.type.withElement(context.i16)
    if level == .avx512BF16 { return b.bitcast(b.fptrunc(value, to: value.type.withElement(context.bf16)), to: type) }
    return b.trunc(b.lshr(upperHalfRounded(b, value), 16), to: type)
  }

  /// Two bf16 numbers in each word of 32 bits, the first in its lower half.
  func pairs(_ b: IRBuilder, _ first: IRValue, _ second: IRValue) -> IRValue {
    let lanes = first.type.vectorCount
    if level == .avx512BF16, lanes == 16 {
      let both = b.intrinsic("llvm.x86.avx512bf16.cvtne2ps2bf16.512", [second, first])
      let interleaved = b.shuffle(both, (0..<2 * lanes).map { $0 / 2 + ($0 % 2) * lanes })
      return b.bitcast(interleaved, to: first.type.asIntegers)
    }
    let lower = b.lshr(upperHalfRounded(b, first), 16)
    return b.or(lower, b.and(upperHalfRounded(b, second), -0x10000))
  }

  /// fp32 bits whose upper half is the nearest bf16, halves to the even one; the lower half is of no meaning.
  private func upperHalfRounded(_ b: IRBuilder, _ value: IRValue) -> IRValue {
    let bits = b.bitcast(value, to: value.type.asIntegers)
    let rounded = b.add(b.add(bits, 0x7FFF), b.and(b.lshr(bits, 16), 1))
    // A NaN whose payload is in the lower half only would become an infinity.
    return b.select(b.fcmp(.uno, value, value), b.or(bits, 0x40_0000), rounded)
  }

  /// `sum` and the products of the elements in words of 32 bits, lane by lane: one of fp32, or two of bf16, of which the
  /// second comes first.
  func multiplyAdd(_ b: IRBuilder, _ left: IRValue, _ right: IRValue, _ sum: IRValue, _ element: ElementType) -> IRValue
  {
    let type = sum.type
    guard element == .bf16 else { return b.fma(b.bitcast(left, to: type), b.bitcast(right, to: type), sum) }
    if level == .avx512BF16 {
      let pairs = context.vector(context.bf16, 2 * level.floatLanes)
      return b.intrinsic(
        "llvm.x86.avx512bf16.dpbf16ps.512", [sum, b.bitcast(left, to: pairs), b.bitcast(right, to: pairs)])
    }
    func second(_ words: IRValue) -> IRValue { b.bitcast(b.and(words, -0x10000), to: type) }
    func first(_ words: IRValue) -> IRValue { b.bitcast(b.shl(words, 16), to: type) }
    return b.fma(first(left), first(right), b.fma(second(left), second(right), sum))
  }
}
