import LLVMKit
import TensorIR

extension CPULevel {
  /// `VectorMath.siluOfFewBits` with the level's instructions.
  public func siluOfFewBits(_ b: IRBuilder, _ context: Context, _ x: IRValue) -> IRValue {
    let hasScale = vectorBits == 512 && x.type.isVector && x.type.vectorCount == 16
    return VectorMath.siluOfFewBits(b, context, x, usesScale: hasScale)
  }

  /// Whether one instruction takes the products of a whole word of these elements; codes of f8e4m3 are multiplied as bf16.
  public func hasProducts(of element: ElementType) -> Bool {
    switch self {
    case .avx512BF16, .amx, .neonBF16: true
    case .neonDot: element == .f32 || element == .i8
    case .avx2, .avx512, .neon: element == .f32
    }
  }

  /// Whether one instruction rounds to bf16: what multiplies pairs of them comes with it.
  var roundsToBFloat16: Bool { hasProducts(of: .bf16) }

  /// Whether products of i8 take the left codes as they are stored, 128 too high: sums are then too high by what stands
  /// behind each panel of the right side.
  var multipliesUnsignedCodes: Bool {
    switch self {
    case .avx2, .avx512, .avx512BF16, .amx, .neonBF16: true
    case .neon, .neonDot: false
    }
  }

  /// `sum` and the products of the elements in words of 32 bits, lane by lane in a whole vector: one of fp32; two of bf16;
  /// or four of i8 in integers, the left ones 128 too high, which sums then are or are not, as
  /// `multipliesUnsignedCodes` says. Pairs of bf16 may come as integers or as the fp32 numbers of the same bits.
  ///
  /// Of two bf16 the second comes first, each product added by itself, everywhere but where the ARM instruction does it,
  /// which adds both to each other and rounds every sum to odd.
  public func multiplyAdd(
    _ b: IRBuilder, _ context: Context, _ left: IRValue, _ right: IRValue, _ sum: IRValue, _ element: ElementType
  ) -> IRValue {
    switch element {
    case .bf16: multiplyAddBFloat16(b, context, left, right, sum)
    case .i8: multiplyAddBytes(b, context, left, right, sum)
    default: b.fma(left, right, sum)
    }
  }

  private func multiplyAddBFloat16(
    _ b: IRBuilder, _ context: Context, _ left: IRValue, _ right: IRValue, _ sum: IRValue
  ) -> IRValue {
    let pairs = context.vector(context.bf16, 2 * floatLanes)
    switch self {
    case .avx512BF16, .amx:
      return b.intrinsic(
        "llvm.x86.avx512bf16.dpbf16ps.512", [sum, b.bitcast(left, to: pairs), b.bitcast(right, to: pairs)])
    case .neonBF16:
      return b.intrinsic(
        "llvm.aarch64.neon.bfdot", overloads: [sum.type, pairs],
        [sum, b.bitcast(right, to: pairs), b.bitcast(left, to: pairs)])
    case .avx2, .avx512, .neon, .neonDot:
      let type = sum.type
      let left = b.bitcast(left, to: type.asIntegers)
      func second(_ words: IRValue) -> IRValue { b.bitcast(b.and(words, -0x10000), to: type) }
      func first(_ words: IRValue) -> IRValue { b.bitcast(b.shl(words, 16), to: type) }
      return b.fma(first(left), first(right), b.fma(second(left), second(right), sum))
    }
  }

  private func multiplyAddBytes(
    _ b: IRBuilder, _ context: Context, _ left: IRValue, _ right: IRValue, _ sum: IRValue
  ) -> IRValue {
    let bytes = context.vector(context.i8, 4 * floatLanes)
    /// The left codes, signed.
    func signed() -> IRValue { b.bitcast(b.xor(left, 0x8080_8080), to: bytes) }
    switch self {
    case .avx512BF16, .amx: return b.intrinsic("llvm.x86.avx512.vpdpbusd.512", [sum, left, right])
    case .avx2, .avx512:
      let halves = context.vector(context.i16, 2 * floatLanes)
      let product = self == .avx2 ? "llvm.x86.avx2.pmadd.wd" : "llvm.x86.avx512.pmaddw.d.512"
      let (left, right) = (b.bitcast(left, to: halves), b.bitcast(right, to: halves))
      let even = b.intrinsic(product, [b.and(left, 0xFF), b.ashr(b.shl(right, 8), 8)])
      let odd = b.intrinsic(product, [b.lshr(left, 8), b.ashr(right, 8)])
      return b.add(sum, b.add(even, odd))
    case .neonBF16:
      return b.intrinsic(
        "llvm.aarch64.neon.usdot", overloads: [sum.type, bytes],
        [sum, b.bitcast(left, to: bytes), b.bitcast(right, to: bytes)])
    case .neonDot:
      return b.intrinsic(
        "llvm.aarch64.neon.sdot", overloads: [sum.type, bytes], [sum, b.bitcast(right, to: bytes), signed()])
    case .neon:
      // Codes are -127 to 127, so that two products fit 16 bits.
      let (left, right) = (signed(), b.bitcast(right, to: bytes))
      let wide = context.vector(context.i16, 2 * floatLanes)
      let products = [0, 2 * floatLanes].map { first in
        func half(_ codes: IRValue) -> IRValue {
          b.sext(b.shuffle(codes, Array(first..<first + 2 * floatLanes)), to: wide)
        }
        return b.mul(half(left), half(right))
      }
      let sums = b.intrinsic("llvm.aarch64.neon.addp", overloads: [wide], products)
      return b.add(sum, b.intrinsic("llvm.aarch64.neon.saddlp", overloads: [sum.type, wide], [sums]))
    }
  }
  /// The nearest fp32 numbers to unsigned integers of 64 bits, in any number of lanes.
  func floats(_ b: IRBuilder, ofUnsigned integers: IRValue, _ type: IRType) -> IRValue {
    switch architecture {
    case .x8664: return b.uitofp(integers, to: type)
    case .aarch64:
      // NEON has no instruction for vectors, and LLVM 19 goes through fp64, which rounds twice.
      return (0..<type.vectorCount).reduce(type.poison()) { floats, lane in
        b.insert(floats, b.uitofp(b.extract(integers, lane), to: type.elementType), lane)
      }
    }
  }
}
