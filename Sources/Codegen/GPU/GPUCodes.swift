import LLVMKit
import TensorIR
import TileIR

// Codes of eight bits, and products of them. A step of a product is 32 bytes of each row and column, 16 numbers of bf16 or 32 codes: two
// neighbouring codes are where one number of bf16 is, in memory, in shared memory and in registers, so only instructions differ.
//
// Codes are bytes as matrix instructions take them: i8 as it is, f8e4m3 in the form of NVIDIA's, or as half of each number in AMD's
// (`Rounding.fnuzBits`), whose sums of products are then a quarter of what they should be: exactly, since both factors of 1/2 are. Those
// that a caller gives or gets have the same form on every card, that of processors and NVIDIA's.
extension ElementType {
  /// Bytes of an element in a GPU's tiles and in memory between its kernels.
  var deviceByteCount: Int { isCode ? 1 : workingByteCount }
}

extension GPUKernelEmitter {
  private var isFNUZ: Bool { emitter.target.hasFNUZ }

  // MARK: - Sums

  /// A sum of a product that has no terms yet.
  func noSum(_ product: GPUPlan.Product) -> IRValue {
    product.element(emitter.program) == .i8 ? context.i32.constant(0) : context.f32.constant(0.0)
  }

  /// The numbers that sums of a product's instructions stand for.
  func numbers(_ b: IRBuilder, _ sums: [IRValue], of product: GPUPlan.Product) -> [IRValue] {
    switch product.element(emitter.program) {
    case .i8: sums.map { b.sitofp($0, to: context.f32) }
    case .f8e4m3 where isFNUZ: sums.map { b.fmul($0, context.f32.constant(4.0)) }
    default: sums
    }
  }

  // MARK: - Instructions

  /// `sum + left * right` of 16 x 32 and 32 x 8 codes (PTX ISA, "Matrix Fragments for mma.m16n8k32"): registers as those of
  /// m16n8k16 for bf16.
  func multiplyCodes(
    _ b: IRBuilder, _ left: [IRValue], _ right: [IRValue], onto sum: [IRValue], of element: ElementType
  ) -> IRValue {
    if element == .i8 { return b.intrinsic("llvm.nvvm.mma.m16n8k32.row.col.s8", left + right + sum) }
    // LLVM 19 has no intrinsic for it.
    return b.assembly(
      "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {$0, $1, $2, $3}, {$4, $5, $6, $7}, {$8, $9}, {$0, $1, $2, $3};",
      constraints: "=f,=f,=f,=f,r,r,r,r,r,r,0,1,2,3",
      returns: context.structure(Array(repeating: context.f32, count: 4)), sideEffects: false, left + right + sum)
  }

  /// What follows `wgmma.mma_async.sync.aligned.m64nN`: the rest of the instruction's name, its operands, and whether sides are negated
  /// or transposed, which not all elements may be.
  static func matrixInstruction(_ element: ElementType, _ operands: String) -> String {
    switch element {
    case .i8: "k32.s32.s8.s8 \(operands);\n"
    case .f8e4m3: "k32.f32.e4m3.e4m3 \(operands), 1, 1;\n"
    default: "k16.f32.bf16.bf16 \(operands), 1, 1, 0, 0;\n"
    }
  }

  // MARK: - Codes and numbers

  /// Up to four numbers as codes in a word, the first in its lowest byte, each the nearest one.
  func codeWord(_ b: IRBuilder, _ numbers: [IRValue], _ element: ElementType, areCallers: Bool) -> IRValue {
    /// Code by code, in the lowest byte of a word each.
    func word(_ code: (IRValue) -> IRValue) -> IRValue {
      numbers.enumerated().reduce(context.i32.constant(0)) { word, number in
        let code = code(number.element)
        return number.offset == 0 ? code : b.or(word, b.shl(code, 8 * number.offset))
      }
    }
    if element != .f8e4m3 { return word { b.and(integerCode(b, $0), 0xFF) } }
    if !emitter.target.multipliesFloat8 || (isFNUZ && areCallers) { return word { float8Code(b, $0) } }
    let pairs = stride(from: 0, to: numbers.count, by: 2).map {
      ($0, numbers[$0], numbers[min($0 + 1, numbers.count - 1)])
    }
    return pairs.reduce(context.i32.constant(0)) { word, pair in
      let (first, one, other) = pair
      switch emitter.target.vendor {
      case .nvidia:
        let bits = b.assembly(
          "cvt.rn.satfinite.e4m3x2.f32 $0, $2, $1;", constraints: "=h,f,f", returns: context.i16, sideEffects: false,
          [one, other])
        let wide = b.zext(bits, to: context.i32)
        return first == 0 ? wide : b.or(word, b.shl(wide, 16))
      case .amd:
        return b.intrinsic(
          "llvm.amdgcn.cvt.pk.fp8.f32",
          [halved(b, one), halved(b, other), word, context.integer(bits: 1).constant(first == 0 ? 0 : 1)])
      }
    }
  }

  /// The code of f8e4m3 of a number, by arithmetic.
  private func float8Code(_ b: IRBuilder, _ value: IRValue) -> IRValue {
    let i32 = context.i32
    // The product is exact, a subnormal number where the code's is: its exponent and its bits are the code's.
    let small = b.fmul(b.fabs(b.float8(value)), context.f32.constant(0x1p-120))
    let magnitude = b.lshr(b.bitcast(small, to: i32), 20)
    let sign = b.and(b.lshr(b.bitcast(value, to: i32), 24), 0x80)
    return b.or(b.select(b.fcmp(.uno, value, value), i32.constant(0x7F), magnitude), sign)
  }

  /// Half of a number, within half of what f8e4m3 holds.
  private func halved(_ b: IRBuilder, _ value: IRValue) -> IRValue {
    let most = context.f32.constant(Double(Rounding.largestFloat8) / 2)
    let half = b.fmul(value, context.f32.constant(0.5))
    let bounded = b.fmaximumNumber(b.fminimumNumber(half, most), b.fneg(most))
    return b.select(b.fcmp(.uno, value, value), value, bounded)
  }

  /// The code of i8 of a number, i32; 0 for a NaN.
  func integerCode(_ b: IRBuilder, _ value: IRValue) -> IRValue {
    let most = context.f32.constant(Double(Rounding.largestInt8))
    let number = b.select(b.fcmp(.uno, value, value), context.f32.constant(0.0), value)
    return nearestInteger(b, b.fmaximumNumber(b.fminimumNumber(number, most), b.fneg(most)))
  }

  /// The numbers of codes at an address.
  func codes(
    _ b: IRBuilder, _ pointer: IRValue, _ element: ElementType, lanes: Int, alignment: Int, invariant: Bool,
    areCallers: Bool
  ) -> IRValue {
    let (i8, i32) = (context.i8, context.i32)
    let bytes =
      lanes % 4 == 0
      ? words(b, pointer, count: lanes / 4, alignment: alignment, invariant: invariant).flatMap { word in
        (0..<4).map { b.trunc(b.lshr(word, 8 * $0), to: i8) }
      }
      : (0..<lanes).map { b.load(i8, b.offset(pointer, bytes: $0), alignment: 1, invariant: invariant) }
    return vector(
      b,
      bytes.map { byte in
        element == .i8
          ? b.sitofp(b.sext(byte, to: i32), to: context.f32)
          : float8(b, b.zext(byte, to: i32), isFNUZ: isFNUZ && !areCallers)
      })
  }

  /// The number of f8e4m3 whose code is a word.
  private func float8(_ b: IRBuilder, _ code: IRValue, isFNUZ: Bool) -> IRValue {
    // As the bits of an fp32 number these have an exponent that is 120 too low; the product with a power of two is exact.
    let magnitude = b.and(code, 0x7F)
    let number = b.fmul(b.bitcast(b.shl(magnitude, 20), to: context.f32), context.f32.constant(0x1p120))
    let isNumber = isFNUZ ? b.icmp(.ne, code, 0x80) : b.icmp(.ne, magnitude, 0x7F)
    let signed = b.bitcast(b.or(b.bitcast(number, to: context.i32), b.shl(b.and(code, 0x80), 24)), to: context.f32)
    return b.select(isNumber, signed, context.f32.constant(Double.nan))
  }
}
