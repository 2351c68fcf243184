import LLVMKit
import TensorIR
import TileIR

// Elements of fewer bits than fp32: reading gives their fp32 value, writing rounds as ir/Tensor/Rounding.swift does.
//
// Codes of f8e4m3 are kept as the bf16 numbers that they are, those of the caller as bytes (u8 here), and codes of i8 as bytes 128 too high, as the instruction
// wants them that multiplies bytes.
extension LevelEmitter {
  /// The type that elements are loaded and stored as, in so many lanes; one lane is a scalar.
  func storedType(_ element: ElementType, lanes: Int) -> IRType {
    let scalar =
      switch element {
      case .bf16, .f8e4m3: context.i16
      case .f16: context.f16
      case .i8, .u8: context.i8
      default: context.f32
      }
    return lanes == 1 ? scalar : context.vector(scalar, lanes)
  }

  /// The fp32 values of stored elements.
  func widen(_ b: IRBuilder, _ stored: IRValue, _ element: ElementType) -> IRValue {
    let (f32, i32) = (stored.type.withElement(context.f32), stored.type.withElement(context.i32))
    switch element {
    case .bf16, .f8e4m3: return b.bitcast(b.shl(b.zext(stored, to: i32), 16), to: f32)
    case .f16: return b.fpext(stored, to: f32)
    case .i8: return b.sitofp(b.sub(b.zext(stored, to: i32), 128), to: f32)
    case .u8: return float8Number(b, b.zext(stored, to: i32))
    default: return stored
    }
  }

  /// The elements nearest to fp32 values, as they are stored.
  func narrow(_ b: IRBuilder, _ value: IRValue, _ element: ElementType) -> IRValue {
    let (i8, i16) = (value.type.withElement(context.i8), value.type.withElement(context.i16))
    switch element {
    case .bf16:
      if level.roundsToBFloat16 {
        return b.bitcast(b.fptrunc(value, to: value.type.withElement(context.bf16)), to: i16)
      }
      return b.trunc(b.lshr(upperHalfRounded(b, value), 16), to: i16)
    case .f8e4m3: return b.trunc(b.lshr(b.bitcast(b.float8(value), to: value.type.asIntegers), 16), to: i16)
    case .u8:
      // The exponent's bias is 120 less than that of fp32, of subnormal numbers too.
      let number = b.float8(value)
      let bits = b.bitcast(b.fmul(number, value.type.constant(0x1p-120)), to: value.type.asIntegers)
      let code = b.or(b.and(b.lshr(bits, 20), 0x7F), b.and(b.lshr(bits, 24), 0x80))
      return b.trunc(b.select(b.fcmp(.uno, number, number), code.type.constant(0x7F), code), to: i8)
    case .i8:
      let most = value.type.constant(127.0)
      let number = b.select(b.fcmp(.uno, value, value), value.type.null(), value)
      let bounded = b.fmaximumNumber(b.fminimumNumber(number, most), b.fneg(most))
      return b.trunc(b.add(b.fptosi(b.roundEven(bounded), to: value.type.asIntegers), 128), to: i8)
    default: return value
    }
  }

  /// Two bf16 numbers in each word of 32 bits, the first in its lower half.
  func pairs(_ b: IRBuilder, _ first: IRValue, _ second: IRValue) -> IRValue {
    let lanes = first.type.vectorCount
    if level.roundsToBFloat16, level.architecture == .x8664, lanes == 16 {
      let both = b.intrinsic("llvm.x86.avx512bf16.cvtne2ps2bf16.512", [second, first])
      let interleaved = b.shuffle(both, (0..<2 * lanes).map { $0 / 2 + ($0 % 2) * lanes })
      return b.bitcast(interleaved, to: first.type.asIntegers)
    }
    if level.roundsToBFloat16, lanes > 1 {
      let order = (0..<2 * lanes).map { $0 / 2 + ($0 % 2) * lanes }
      let pairs = b.shuffle(narrow(b, first, .bf16), narrow(b, second, .bf16), order)
      return b.bitcast(pairs, to: first.type.asIntegers)
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

  // MARK: - Panels of f8e4m3

  /// `void (source, target, count)`: `count` pairs of codes, a multiple of 32, as pairs of bf16.
  func emitPanelDecoding(name: String) -> IRFunction {
    let i64 = context.i64
    let function = addFunction(name, [context.pointer, context.pointer, i64], returns: context.void, noInline: true)
    let (source, target, count) = (function.parameters[0], function.parameters[1], function.parameters[2])
    var b = IRBuilder(at: function.appendBlock("entry"))
    let codes = context.vector(context.i8, 64)
    b.loop(from: i64.constant(0), to: count, step: 32, name: "decode", hint: .asWritten) { b, pair in
      let stored = b.load(codes, b.element(source, context.i16, pair), alignment: 1)
      let out = b.element(target, context.i32, pair)
      for (index, numbers) in decodeFloat8(b, stored).enumerated() {
        b.store(numbers, b.offset(out, bytes: 64 * index), alignment: 4)
      }
    }
    b.ret()
    return function
  }

  /// The fp32 numbers of codes, each in 32 bits.
  private func float8Number(_ b: IRBuilder, _ codes: IRValue) -> IRValue {
    let f32 = codes.type.withElement(context.f32)
    let magnitude = b.and(codes, 0x7F)
    // The exponent's bias is 120 less than that of fp32, of subnormal numbers too.
    let number = b.fmul(b.bitcast(b.shl(magnitude, 20), to: f32), f32.constant(0x1p120))
    let finite = b.select(b.icmp(.eq, magnitude, 0x7F), f32.constant(Double.nan), number)
    return b.bitcast(b.or(b.bitcast(finite, to: codes.type), b.shl(b.and(codes, 0x80), 24)), to: f32)
  }

  /// 64 codes as bf16 numbers, 32 in each of two vectors.
  func decodeFloat8(_ b: IRBuilder, _ codes: IRValue) -> [IRValue] {
    if level.looksUpBytes {
      // Both bytes of a number by tables of the 128 magnitudes; the sign joins the upper one.
      let numbers = (0..<128).map { Int(Float(float8Bits: UInt8($0)).bitPattern >> 16) }
      func lookUp(_ bytes: [Int]) -> IRValue {
        let tables = [bytes[..<64], bytes[64...]].map { codes.type.constants($0.map { $0 }) }
        return b.intrinsic("llvm.x86.avx512.vpermi2var.qi.512", [tables[0], codes, tables[1]])
      }
      let lower = lookUp(numbers.map { $0 & 0xFF })
      let upper = b.or(lookUp(numbers.map { $0 >> 8 }), b.and(codes, 0x80))
      return [0, 32].map { first in b.shuffle(lower, upper, (0..<64).map { first + $0 / 2 + ($0 % 2) * 64 }) }
    }
    return [0, 32].map { first in
      let halves = [0, 16].map { half -> IRValue in
        let own = b.shuffle(codes, (0..<16).map { first + half + $0 })
        let number = float8Number(b, b.zext(own, to: context.vector(context.i32, 16)))
        return b.trunc(b.lshr(b.bitcast(number, to: number.type.asIntegers), 16), to: context.vector(context.i16, 16))
      }
      return b.concatenate(halves[0], halves[1])
    }
  }
}
