import LLVMKit

extension IRBuilder {
  /// The f8e4m3 numbers nearest to fp32 values, as fp32; what is beyond 448 becomes 448.
  func float8(_ value: IRValue) -> IRValue {
    let type = value.type
    let most = type.constant(448.0)
    let magnitude = fabs(value)
    let bounded = select(fcmp(.ogt, magnitude, most), most, magnitude)
    let bits = bitcast(bounded, to: type.asIntegers)
    // Three bits of fraction are left of 23.
    let rounded = and(add(add(bits, 0x7_FFFF), and(lshr(bits, 20), 1)), -0x10_0000)
    // Below the least normal number, 2^-6, numbers are 2^-9 apart: so are fp32 numbers around 1.5 * 2^14.
    let magic = type.constant(0x1.8p14)
    let subnormal = fsub(fadd(bounded, magic), magic)
    let isSubnormal = fcmp(.olt, bounded, type.constant(0x1p-6))
    let number = select(isSubnormal, subnormal, bitcast(rounded, to: type))
    return select(fcmp(.uno, value, value), type.constant(Double.nan), copysign(number, value))
  }
}
