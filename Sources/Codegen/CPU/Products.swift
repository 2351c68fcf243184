import LLVMKit
import TensorIR

extension CPULevel {
  /// `VectorMath.siluOfFewBits` with the level's instructions.
  public func siluOfFewBits(_ b: IRBuilder, _ context: Context, _ x: IRValue) -> IRValue {
    let hasScale = vectorBits == 512 && x.type.isVector && x.type.vectorCount == 16
    return VectorMath.siluOfFewBits(b, context, x, usesScale: hasScale)
  }

  /// Whether one instruction takes the products of a whole word of narrow elements.
  public func hasProducts(of element: ElementType) -> Bool { element == .f32 || self >= .avx512BF16 }

  /// `sum` and the products of the elements in words of 32 bits, lane by lane in a whole vector: one of fp32; two of bf16,
  /// of which the second comes first; or four of i8 in integers, the left ones unsigned.
  public func multiplyAdd(
    _ b: IRBuilder, _ context: Context, _ left: IRValue, _ right: IRValue, _ sum: IRValue, _ element: ElementType
  ) -> IRValue {
    let type = sum.type
    switch element {
    case .bf16:
      if hasProducts(of: .bf16) {
        let pairs = context.vector(context.bf16, 2 * floatLanes)
        return b.intrinsic(
          "llvm.x86.avx512bf16.dpbf16ps.512", [sum, b.bitcast(left, to: pairs), b.bitcast(right, to: pairs)])
      }
      func second(_ words: IRValue) -> IRValue { b.bitcast(b.and(words, -0x10000), to: type) }
      func first(_ words: IRValue) -> IRValue { b.bitcast(b.shl(words, 16), to: type) }
      return b.fma(first(left), first(right), b.fma(second(left), second(right), sum))
    case .i8:
      if hasProducts(of: .i8) { return b.intrinsic("llvm.x86.avx512.vpdpbusd.512", [sum, left, right]) }
      let halves = context.vector(context.i16, 2 * floatLanes)
      let product = self == .avx2 ? "llvm.x86.avx2.pmadd.wd" : "llvm.x86.avx512.pmaddw.d.512"
      let (left, right) = (b.bitcast(left, to: halves), b.bitcast(right, to: halves))
      let even = b.intrinsic(product, [b.and(left, 0xFF), b.ashr(b.shl(right, 8), 8)])
      let odd = b.intrinsic(product, [b.lshr(left, 8), b.ashr(right, 8)])
      return b.add(sum, b.add(even, odd))
    default: return b.fma(left, right, sum)
    }
  }
}
