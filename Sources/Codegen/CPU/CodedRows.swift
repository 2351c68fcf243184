import LLVMKit
import TensorIR
import TileIR

// Rows of tables in a quantized form: codes, then a scale and a bias, decoded sixteen elements at a time.
extension KernelEmitter {
  func emitDecode(
    _ b: inout IRBuilder, into: TileSlice, from: BufferID, _ format: TableFormat, _ indices: IndexVectorID,
    keepMissing: Bool
  ) {
    let i64 = context.i64
    let (target, targetStride) = (address(b, into), rowStride(of: kernel[into.tile]))
    let (source, rowBytes) = (address(b, from), emitter.program[from].columns)
    let element = kernel[into.tile].element
    let vector = indexVector(b, indices)
    forRows(&b, rowCount) { b, row in
      let index = b.load(i64, b.element(vector, i64, row))
      let out = b.offset(target, bytes: b.mul(row, targetStride))
      b.ifThenElse(b.icmp(.sge, index, 0)) { b in
        let bytes = b.offset(source, bytes: b.mul(index, rowBytes))
        let (scale, bias) = scaleAndBias(b, bytes, format, width: into.count)
        copyRow(&b, into: out, count: into.count, element) { b, columns in
          let codes = codes(b, bytes, format, columns, width: into.count)
          let type = codes.type.withElement(context.f32)
          let product = b.fmul(b.uitofp(codes, to: type), b.splat(scale, columns.lanes))
          return b.fadd(product, b.splat(bias, columns.lanes))
        }
        return []
      } otherwise: { b in
        if !keepMissing {
          copyRow(&b, into: out, count: into.count, element) { b, columns in
            (columns.lanes == 1 ? context.f32 : context.vector(context.f32, columns.lanes)).null()
          }
        }
        return []
      }
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
