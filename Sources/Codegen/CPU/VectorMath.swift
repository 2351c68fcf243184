import LLVMKit

/// Elementary functions of `f32` values, of any number of lanes, as straight-line IR.
///
/// Only IEEE addition, multiplication, fused multiply-add, division, square root, comparison and integer operations are
/// used, each rounded once, so that a result has the same bits on every processor with a fused multiply-add and never
/// depends on a mathematical library. The polynomials are minimax fits of this project, rounded to `f32` one
/// coefficient after the other, the lower ones first and the rest refitted.
///
/// Bounds below are in units in the last place (ulp) of the correctly rounded result. They were found over every `f32`,
/// and are less than 0.03 ulp wider than the worst; the tests sweep them. NaN gives NaN everywhere.
public struct VectorMath {
  /// e to the power of `x`, within 1.02 ulp, also where the result is subnormal.
  ///
  /// `exp(-inf)` is 0, `exp(inf)` is inf, and so are the results that round to them.
  public static func exp(_ builder: IRBuilder, _ x: IRValue) -> IRValue {
    let b = builder
    // Outside, the result is 0 or infinite anyway; inside, the power of two fits the arithmetic on exponent bits.
    let bounded = clamp(b, x, from: -104, to: 89)
    let (power, exponent) = splitNegatedExponential(b, b.fneg(bounded))
    let value = b.fadd(power, x.type.constant(1.0))
    // In two halves, since neither 2^128 nor a subnormal power of two is an exponent field plus 127.
    let half = b.ashr(exponent, 1)
    return b.fmul(b.fmul(value, powerOfTwo(b, half, like: x)), powerOfTwo(b, b.sub(exponent, half), like: x))
  }

  /// `1 / (1 + exp(-x))`, within 2.5 ulp for `x >= -88.37`; below, 0, which is within 4.2e-39.
  public static func sigmoid(_ builder: IRBuilder, _ x: IRValue) -> IRValue {
    builder.fdiv(x.type.constant(1.0), onePlusExponentialOfNegated(builder, bounded(builder, x)))
  }

  /// `x * sigmoid(x)`, within 2.46 ulp for `x >= -88.37`; below, -0, which is within 3.8e-37.
  ///
  /// `silu(inf)` is inf and `silu(-inf)` is -0, the limits.
  public static func silu(_ builder: IRBuilder, _ x: IRValue) -> IRValue {
    let x = bounded(builder, x)
    return builder.fdiv(x, onePlusExponentialOfNegated(builder, x))
  }

  /// `x * sigmoid(x)` for a result that keeps eight bits, as bf16 does: within 2^-13 of it relatively for `x >= -87`; below,
  /// within 2.7e-37, and never positive.
  ///
  /// `silu(inf)` is inf and `silu(-inf)` is -0, the limits. `usesScale` says that there are AVX-512's instructions for
  /// fractions and powers of two, which give the same bits.
  public static func siluOfFewBits(_ b: IRBuilder, _ context: Context, _ x: IRValue, usesScale: Bool) -> IRValue {
    let type = x.type
    // Minus infinity over infinity would be no number. Written so that NaN stays.
    let least = type.constant(-0x1.fffffep127)
    let numerator = b.select(b.fcmp(.olt, x, least), least, x)
    // exp(-x) = 2^(whole + fraction), |fraction| <= 1/2; of infinities the fraction is 0.
    let z = b.fmul(x, type.constant(-0x1.715476p0))
    let fraction =
      usesScale
      ? b.intrinsic("llvm.x86.avx512.mask.reduce.ps.512", reduceArguments(context, z))
      : b.select(b.fcmp(.oeq, b.fabs(z), type.constant(.infinity)), type.null(), b.fsub(z, b.roundEven(z)))
    let whole = b.fsub(z, fraction)
    // 2^f for |f| <= 1/2, within 7.5e-5 relatively.
    let power = horner(b, fraction, [0x1.c3f76p-5, 0x1.f0de1ap-3, 0x1.62f31ap-1, 0x1.fff692p-1])
    let exponential =
      usesScale
      ? b.intrinsic("llvm.x86.avx512.mask.scalef.ps.512", scaleArguments(context, power, whole))
      : scaled(b, power, by: whole)
    return b.fdiv(numerator, b.fadd(exponential, type.constant(1.0)))
  }

  // MARK: Parts

  /// `x`, from below not less than -88.9, where exp(-x) is infinite in `f32`.
  private static func bounded(_ b: IRBuilder, _ x: IRValue) -> IRValue {
    let least = x.type.constant(-88.9)
    // Written so that NaN stays: every comparison with it is false.
    return b.select(b.fcmp(.olt, x, least), least, x)
  }

  /// 1 + exp(-x), rounded once after the polynomial, infinite for x < -88.37; `x` is at least -88.9.
  private static func onePlusExponentialOfNegated(_ b: IRBuilder, _ x: IRValue) -> IRValue {
    let one = x.type.constant(1.0)
    // Above 87 the exponential no longer counts beside 1, and its power of two would be subnormal.
    let most = x.type.constant(87.0)
    let bounded = b.select(b.fcmp(.ogt, x, most), most, x)
    let (power, exponent) = splitNegatedExponential(b, bounded)
    return b.fma(b.fadd(power, one), powerOfTwo(b, exponent, like: x), one)
  }

  /// exp(-x) as (1 + p) * 2^n, the nearest n, for |x| up to 104; `p` is NaN where `x` is.
  private static func splitNegatedExponential(_ b: IRBuilder, _ x: IRValue) -> (p: IRValue, n: IRValue) {
    let type = x.type
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits: no conversion, which NaN would spoil.
    let magic = type.constant(0x1.8p23)
    let shifted = b.fma(x, type.constant(-0x1.715476p0), magic)
    let whole = b.fsub(shifted, magic)
    // s = x + n log 2 in two steps, |s| <= log(2) / 2; log 2 in two parts.
    let s = b.fma(whole, type.constant(-0x1.05c61p-29), b.fma(whole, type.constant(0x1.62e43p-1), x))
    // exp(-s) = 1 + (-s + s^2 q(s)), with a relative error of 3.2e-9.
    let q = horner(b, s, [0x1.6a4f88p-10, -0x1.123988p-7, 0x1.5558aep-5, -0x1.555492p-3, 0x1.fffffcp-2])
    let p = b.fma(b.fmul(s, s), q, b.fneg(s))
    return (p, b.sub(b.bitcast(shifted, to: type.asIntegers), 0x4b40_0000))
  }

  /// `x * 2^n` for a whole `n` of any size and an `x` near 1, rounded once.
  private static func scaled(_ b: IRBuilder, _ x: IRValue, by n: IRValue) -> IRValue {
    // In two halves, of which the first keeps x within the normal range; beyond, the result is 0 or infinite anyway.
    let bounded = clamp(b, n, from: -252, to: 252)
    let magic = x.type.constant(0x1.8p23)
    let exponent = b.sub(b.bitcast(b.fadd(bounded, magic), to: x.type.asIntegers), 0x4b40_0000)
    let half = b.ashr(exponent, 1)
    return b.fmul(b.fmul(x, powerOfTwo(b, half, like: x)), powerOfTwo(b, b.sub(exponent, half), like: x))
  }

  /// No lanes left out, the nearest whole number, the current rounding.
  private static func reduceArguments(_ context: Context, _ x: IRValue) -> [IRValue] {
    [x, context.i32.constant(0), x.type.null(), context.i16.constant(-1), context.i32.constant(4)]
  }

  private static func scaleArguments(_ context: Context, _ x: IRValue, _ n: IRValue) -> [IRValue] {
    [x, n, x.type.null(), context.i16.constant(-1), context.i32.constant(4)]
  }

  /// 2^n from its exponent field, for n from -126 to 127; 128 gives infinity.
  private static func powerOfTwo(_ b: IRBuilder, _ n: IRValue, like type: IRValue) -> IRValue {
    b.bitcast(b.shl(b.add(n, 127), 23), to: type.type)
  }

  /// A polynomial, coefficients from the highest power down.
  private static func horner(_ b: IRBuilder, _ x: IRValue, _ coefficients: [Double]) -> IRValue {
    coefficients.dropFirst().reduce(x.type.constant(coefficients[0])) { b.fma($0, x, x.type.constant($1)) }
  }

  private static func clamp(_ b: IRBuilder, _ x: IRValue, from least: Double, to most: Double) -> IRValue {
    let least = x.type.constant(least)
    let most = x.type.constant(most)
    let raised = b.select(b.fcmp(.olt, x, least), least, x)
    return b.select(b.fcmp(.ogt, raised, most), most, raised)
  }
}
