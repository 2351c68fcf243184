import Codegen
import LLVMKit
import TensorIR

/// AMX's tiles in memory, with functions that do to them what the instructions do, for machines without AMX.
///
/// Source: the operation sections of Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2. What makes an
/// instruction fault there, a shape that does not fit, ends the process here.
final class EmulatedTiles: TileInstructions {
  let level = CPULevel.avx512BF16
  /// The configuration, then the tiles, each 16 rows of 64 bytes.
  let stateByteCount = 64 + 8 * 1024

  private let context: Context
  private let configuration, cleared, loaded, stored, released, pairs, bytes: IRFunction

  init(_ module: IRModule) {
    context = module.context
    let make = TileFunctions(module: module, context: module.context, level: level)
    configuration = make.configure()
    released = make.release()
    cleared = make.clear()
    loaded = make.load()
    stored = make.store()
    pairs = make.multiplyAdd(.bf16)
    bytes = make.multiplyAdd(.i8)
  }

  func configure(_ b: IRBuilder, _ state: IRValue, from: IRValue) { b.call(configuration, [state, from]) }
  func release(_ b: IRBuilder, _ state: IRValue) { b.call(released, [state]) }
  func clear(_ b: IRBuilder, _ state: IRValue, _ tile: Int) { b.call(cleared, [state, b.i64(tile)]) }

  func load(_ b: IRBuilder, _ state: IRValue, _ tile: Int, from: IRValue, stride: IRValue) {
    b.call(loaded, [state, b.i64(tile), from, stride])
  }

  func store(_ b: IRBuilder, _ state: IRValue, _ tile: Int, to: IRValue, stride: IRValue) {
    b.call(stored, [state, b.i64(tile), to, stride])
  }

  func multiplyAdd(_ b: IRBuilder, _ state: IRValue, into: Int, left: Int, right: Int, _ element: ElementType) {
    b.call(element == .i8 ? bytes : pairs, [state, b.i64(into), b.i64(left), b.i64(right)])
  }
}

/// The functions behind the tiles.
private struct TileFunctions {
  let module: IRModule
  let context: Context
  let level: CPULevel

  private var row: IRType { context.vector(context.i8, 64) }

  private func function(
    _ name: String, _ parameters: [IRType], _ body: (inout IRBuilder, [IRValue]) -> Void
  ) -> IRFunction {
    let function = module.addFunction(
      "emulated.\(name)", type: context.function(parameters, returns: context.void), linkage: .internal)
    level.configure(function)
    for attribute in ["nounwind", "noinline"] { function.addAttribute(attribute) }
    function.addAttribute("no-builtins", "")
    var b = IRBuilder(at: function.appendBlock("entry"))
    body(&b, function.parameters)
    b.ret()
    return function
  }

  private func forRows(_ b: inout IRBuilder, _ count: IRValue, _ body: (inout IRBuilder, IRValue) -> Void) {
    b.loop(from: b.i64(0), to: count, name: "row", hint: .asWritten, body)
  }

  private func require(_ b: inout IRBuilder, _ condition: IRValue) {
    b.ifThen(b.not(condition), name: "fault") { b in
      b.intrinsic("llvm.trap", [])
      b.unreachable()
    }
  }

  private func field(_ b: IRBuilder, _ base: IRValue, _ type: IRType, _ offset: IRValue) -> IRValue {
    b.zext(b.load(type, b.offset(base, bytes: offset), alignment: 1), to: context.i64)
  }

  /// The address, rows and bytes of a row of a tile that is configured.
  private func tile(_ b: inout IRBuilder, _ state: IRValue, _ number: IRValue) -> (
    IRValue, rows: IRValue, bytes: IRValue
  ) {
    let rows = field(b, state, context.i8, b.add(number, 48))
    let bytes = field(b, state, context.i16, b.add(b.shl(number, 1), 16))
    let palette = field(b, state, context.i8, b.i64(0))
    require(&b, b.and(b.icmp(.eq, palette, 1), b.and(b.icmp(.ne, rows, 0), b.icmp(.ne, bytes, 0))))
    return (b.offset(state, bytes: b.add(b.shl(number, 10), 64)), rows, bytes)
  }

  func configure() -> IRFunction {
    function("configure", [context.pointer, context.pointer]) { b, parameters in
      let (state, source) = (parameters[0], parameters[1])
      // The palette, and no row to go on from; what is reserved, and tiles past the eighth, must be zero.
      require(&b, b.icmp(.eq, field(b, source, context.i16, b.i64(0)), 1))
      for byte in Array(2..<16) + Array(32..<48) + Array(56..<64) {
        require(&b, b.icmp(.eq, field(b, source, context.i8, b.i64(byte)), 0))
      }
      for tile in 0..<8 {
        let rows = field(b, source, context.i8, b.i64(48 + tile))
        let bytes = field(b, source, context.i16, b.i64(16 + 2 * tile))
        require(&b, b.and(b.icmp(.ule, rows, 16), b.icmp(.ule, bytes, 64)))
        require(&b, b.icmp(.eq, b.icmp(.eq, rows, 0), b.icmp(.eq, bytes, 0)))
      }
      b.store(b.load(row, source, alignment: 1), state, alignment: 64)
      forRows(&b, b.i64(8 * 16)) { b, index in
        b.store(row.null(), b.offset(state, bytes: b.add(b.shl(index, 6), 64)), alignment: 64)
      }
    }
  }

  func release() -> IRFunction {
    function("release", [context.pointer]) { b, parameters in b.store(row.null(), parameters[0], alignment: 64) }
  }

  func clear() -> IRFunction {
    function("clear", [context.pointer, context.i64]) { b, parameters in
      let (tile, _, _) = tile(&b, parameters[0], parameters[1])
      forRows(&b, b.i64(16)) { b, index in
        b.store(row.null(), b.offset(tile, bytes: b.shl(index, 6)), alignment: 64)
      }
    }
  }

  func load() -> IRFunction {
    function("load", [context.pointer, context.i64, context.pointer, context.i64]) { b, parameters in
      let (tile, rows, bytes) = tile(&b, parameters[0], parameters[1])
      let mask = b.laneMask(below: bytes, lanes: 64)
      forRows(&b, b.i64(16)) { b, index in
        // Nothing past the tile's rows and bytes is read; the rest becomes zero.
        let own = b.and(mask, b.splat(b.icmp(.slt, index, rows), 64))
        let values = b.maskedLoad(row, b.offset(parameters[2], bytes: b.mul(index, parameters[3])), mask: own)
        b.store(values, b.offset(tile, bytes: b.shl(index, 6)), alignment: 64)
      }
    }
  }

  func store() -> IRFunction {
    function("store", [context.pointer, context.i64, context.pointer, context.i64]) { b, parameters in
      let (tile, rows, bytes) = tile(&b, parameters[0], parameters[1])
      let mask = b.laneMask(below: bytes, lanes: 64)
      forRows(&b, rows) { b, index in
        let values = b.load(row, b.offset(tile, bytes: b.shl(index, 6)), alignment: 64)
        b.maskedStore(values, b.offset(parameters[2], bytes: b.mul(index, parameters[3])), mask: mask)
      }
    }
  }

  func multiplyAdd(_ element: ElementType) -> IRFunction {
    let (p, i64, i32) = (context.pointer, context.i64, context.i32)
    let products = element == .i8 ? byteProducts() : pairProducts()
    return function("multiply.\(element.rawValue)", [p, i64, i64, i64]) { b, parameters in
      let (sums, rows, columns) = tile(&b, parameters[0], parameters[1])
      let (left, leftRows, leftBytes) = tile(&b, parameters[0], parameters[2])
      let (right, words, rightBytes) = tile(&b, parameters[0], parameters[3])
      require(&b, b.and(b.icmp(.eq, rows, leftRows), b.icmp(.eq, columns, rightBytes)))
      require(&b, b.icmp(.eq, leftBytes, b.shl(words, 2)))
      require(&b, b.icmp(.eq, b.and(columns, 3), 0))
      // Denormal numbers count as zeros and become zeros, whatever the thread's own setting is.
      let (own, flushing) = (b.alloca(i32), b.alloca(i32))
      b.intrinsic("llvm.x86.sse.stmxcsr", [own])
      b.store(b.i32(0x1F80 | 0x8000 | 0x40), flushing)
      b.intrinsic("llvm.x86.sse.ldmxcsr", [flushing])
      b.call(products, [sums, left, right, rows, words])
      b.intrinsic("llvm.x86.sse.ldmxcsr", [own])
    }
  }

  /// `void (sums, left, right, rows, words)`; a function of its own, so that no arithmetic leaves it.
  private func products(
    _ name: String,
    _ body:
      @escaping (inout IRBuilder, IRValue, (IRBuilder, IRValue) -> (IRValue, IRValue), IRValue)
      -> IRValue
  ) -> IRFunction {
    let (p, i64) = (context.pointer, context.i64)
    let words = context.vector(context.i32, 16)
    return function(name, [p, p, p, i64, i64]) { b, parameters in
      forRows(&b, parameters[3]) { b, row in
        let place = b.offset(parameters[0], bytes: b.shl(row, 6))
        let leftRow = b.offset(parameters[1], bytes: b.shl(row, 6))
        /// A word of the left side in every lane, and the words of the right side's row.
        func operands(_ b: IRBuilder, _ step: IRValue) -> (IRValue, IRValue) {
          let left = b.splat(b.load(context.i32, b.element(leftRow, context.i32, step)), 16)
          return (left, b.load(words, b.offset(parameters[2], bytes: b.shl(step, 6)), alignment: 64))
        }
        let sum = b.load(words, place, alignment: 64)
        let result = body(&b, sum, operands, parameters[4])
        b.store(result, place, alignment: 64)
      }
    }
  }

  /// `tdpbf16ps`: the first elements of all pairs are summed on their own, and so are the second ones.
  private func pairProducts() -> IRFunction {
    let floats = context.vector(context.f32, 16)
    return products("pairs") { b, sum, operands, words in
      let sums = b.loop(
        from: b.i64(0), to: words, step: 1, name: "step", hint: .asWritten, carrying: [floats.null(), floats.null()]
      ) { b, step, carried in
        let (left, right) = operands(b, step)
        func first(_ words: IRValue) -> IRValue { b.bitcast(b.shl(words, 16), to: floats) }
        func second(_ words: IRValue) -> IRValue { b.bitcast(b.and(words, -0x10000), to: floats) }
        return [b.fma(first(left), first(right), carried[0]), b.fma(second(left), second(right), carried[1])]
      }
      return b.bitcast(b.fadd(b.bitcast(sum, to: floats), b.fadd(sums[0], sums[1])), to: sum.type)
    }
  }

  /// `tdpbusd`: integers wrap around.
  private func byteProducts() -> IRFunction {
    products("bytes") { b, sum, operands, words in
      b.loop(from: b.i64(0), to: words, step: 1, name: "step", hint: .asWritten, carrying: [sum]) { b, step, carried in
        let (left, right) = operands(b, step)
        var sum = carried[0]
        for byte in 0..<4 {
          let unsigned = b.and(b.lshr(left, 8 * byte), 0xFF)
          let signed = b.ashr(b.shl(right, 24 - 8 * byte), 24)
          sum = b.add(sum, b.mul(unsigned, signed))
        }
        return [sum]
      }[0]
    }
  }
}
