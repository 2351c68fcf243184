import LLVMKit
import TensorIR
import TileIR

// Rows of tables in a quantized form: codes, then a scale and a bias, decoded sixteen elements at a time.
extension KernelEmitter {
  /// What gives the numbers of a row that begins at `bytes`, from its codes, its scale and its bias, which are read here.
  func decoder(
    _ b: IRBuilder, _ bytes: IRValue, _ format: TableFormat, width: Int
  ) -> (IRBuilder, Columns) -> IRValue {
    let (scale, bias) = scaleAndBias(b, bytes, format, width: width)
    return { b, columns in
      let codes = self.codes(b, bytes, format, columns, width: width)
      let type = codes.type.withElement(self.context.f32)
      let product = b.fmul(b.uitofp(codes, to: type), b.splat(scale, columns.lanes))
      return b.fadd(product, b.splat(bias, columns.lanes))
    }
  }

  private func scaleAndBias(
    _ b: IRBuilder, _ bytes: IRValue, _ format: TableFormat, width: Int
  ) -> (scale: IRValue, bias: IRValue) {
    let type = format == .int8 ? context.f32 : context.f16
    let size = format == .int8 ? 4 : 2
    let end = format.byteCount(width: width) - 2 * size
    let numbers = [end, end + size].map { offset in
      let number = b.load(type, b.offset(bytes, bytes: offset), alignment: 1)
      return format == .int8 ? number : b.fpext(number, to: context.f32)
    }
    return (numbers[0], numbers[1])
  }

  /// The codes of these columns, in 32 bits each.
  private func codes(
    _ b: IRBuilder, _ bytes: IRValue, _ format: TableFormat, _ columns: Columns, width: Int
  ) -> IRValue {
    let lanes = columns.lanes
    let i32 = lanes == 1 ? context.i32 : context.vector(context.i32, lanes)
    /// `count` bytes from one on; those behind the row's codes may be read where they are still the row's.
    func load(_ count: Int, at first: IRValue, rest: Int) -> IRValue {
      let pointer = b.offset(bytes, bytes: first)
      if count == 1 { return b.load(context.i8, pointer, alignment: 1) }
      let type = context.vector(context.i8, count)
      guard columns.mask != nil else { return b.load(type, pointer, alignment: 1) }
      // Byte by byte, since narrow loads under a mask are no instructions of every level.
      return (0..<rest).reduce(type.null()) {
        b.insert($0, b.load(context.i8, b.offset(pointer, bytes: $1), alignment: 1), $1)
      }
    }
    let rest = width % Self.lanes
    switch format {
    case .int8: return b.zext(load(lanes, at: columns.first, rest: rest), to: i32)
    case .int4:
      let packed = load((lanes + 1) / 2, at: b.lshr(columns.first, 1), rest: (rest + 1) / 2)
      if lanes == 1 { return b.zext(b.and(packed, 15), to: i32) }
      let halves = b.shuffle(b.and(packed, 15), b.lshr(packed, 4), (0..<lanes).map { $0 / 2 + ($0 % 2) * lanes / 2 })
      return b.zext(halves, to: i32)
    }
  }
}
