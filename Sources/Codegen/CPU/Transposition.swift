import LLVMKit
import TensorIR

/// A transposition's static shape: strides in bytes from row to row.
///
/// What moves are words of 32 bits: numbers of fp32, or pairs of bf16, which thereby come to lie in groups.
struct TranspositionShape: Hashable {
  var element: ElementType
  var columns: Int
  var sourceStride: Int
  var targetStride: Int
  var factor: Double
}

extension LevelEmitter {
  /// `void (source, target, rows)`: `target[column, row] = factor * source[row, column]`, a square at a time, in registers.
  /// Rows past the last repeat it, up to a multiple of the square's side.
  func emitTransposition(_ shape: TranspositionShape, name: String) -> IRFunction {
    let lanes = level.transposedSquare
    let i64 = context.i64
    let vector = context.vector(context.f32, lanes)
    let function = addFunction(name, [context.pointer, context.pointer, i64], returns: context.void, noInline: true)
    let (source, target, rowCount) = (function.parameters[0], function.parameters[1], function.parameters[2])
    var b = IRBuilder(at: function.appendBlock("entry"))
    // The last columns take the same code as the others, starting further left so that they end where the row ends.
    let together = shape.element.contractedTogether
    let words = (shape.columns + together - 1) / together
    let whole = words >= lanes
    let squares = (words + lanes - 1) / lanes
    // Of a row's last word only what is the row's may be read.
    let stored = context.vector(together == 1 ? context.f32 : context.i16, lanes * together)
    func load(_ b: IRBuilder, _ row: IRValue, column: IRValue) -> IRValue {
      let pointer = b.element(row, context.f32, column)
      let alignment = shape.element.byteCount
      if whole, shape.columns % together == 0 { return b.load(vector, pointer, alignment: alignment) }
      let mask = b.laneMask(below: b.sub(i64.constant(shape.columns), b.mul(column, together)), lanes: lanes * together)
      return b.bitcast(b.maskedLoad(stored, pointer, mask: mask, alignment: alignment), to: vector)
    }
    b.loop(from: i64.constant(0), to: rowCount, step: lanes, name: "rows", hint: .asWritten) { b, firstRow in
      b.loop(from: i64.constant(0), to: i64.constant(squares), name: "square", hint: .asWritten) { b, square in
        let column = whole ? b.smin(b.mul(square, lanes), words - lanes) : i64.constant(0)
        var vectors = (0..<lanes).map { lane in
          let row = b.smin(b.add(firstRow, lane), b.sub(rowCount, 1))
          let value = load(b, b.offset(source, bytes: b.mul(row, shape.sourceStride)), column: column)
          return shape.factor == 1 ? value : b.fmul(value, vector.constant(shape.factor))
        }
        // Perfect shuffles transpose, one for each halving of the square: each interleaves the first half of the vectors
        // with the second.
        let low = (0..<lanes).map { $0 / 2 + ($0 % 2) * lanes }
        let high = low.map { $0 + lanes / 2 }
        for _ in 0..<lanes.trailingZeroBitCount {
          vectors = (0..<lanes / 2).flatMap { index in
            let (first, second) = (vectors[index], vectors[index + lanes / 2])
            return [b.shuffle(first, second, low), b.shuffle(first, second, high)]
          }
        }
        for index in 0..<min(lanes, words) {
          let row = b.offset(target, bytes: b.mul(b.add(column, index), shape.targetStride))
          b.store(vectors[index], b.element(row, context.f32, firstRow), alignment: 4)
        }
      }
    }
    b.ret()
    return function
  }
}
