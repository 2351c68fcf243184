import LLVMKit

/// A transposition's static shape: strides in bytes from row to row.
struct TranspositionShape: Hashable {
  var columns: Int
  var sourceStride: Int
  var targetStride: Int
  var factor: Double
}

extension LevelEmitter {
  /// `void (source, target, rows)`: `target[column, row] = factor * source[row, column]`, sixteen rows by sixteen columns
  /// at a time, in registers. Rows past the last repeat it, up to a multiple of sixteen.
  func emitTransposition(_ shape: TranspositionShape, name: String) -> IRFunction {
    let lanes = KernelEmitter.lanes
    let i64 = context.i64
    let vector = context.vector(context.f32, lanes)
    let function = addFunction(name, [context.pointer, context.pointer, i64], returns: context.void, noInline: true)
    let (source, target, rowCount) = (function.parameters[0], function.parameters[1], function.parameters[2])
    var b = IRBuilder(at: function.appendBlock("entry"))
    // The last columns take the same code as the others, starting further left so that they end where the row ends.
    let whole = shape.columns >= lanes
    let mask = context.vector(context.i1, lanes).constants((0..<lanes).map { $0 < shape.columns ? 1 : 0 })
    let squares = (shape.columns + lanes - 1) / lanes
    b.loop(from: i64.constant(0), to: rowCount, step: lanes, name: "rows", hint: .asWritten) { b, firstRow in
      b.loop(from: i64.constant(0), to: i64.constant(squares), name: "square", hint: .asWritten) { b, square in
        let column = whole ? b.smin(b.mul(square, lanes), shape.columns - lanes) : i64.constant(0)
        var vectors = (0..<lanes).map { lane in
          let row = b.smin(b.add(firstRow, lane), b.sub(rowCount, 1))
          let pointer = b.element(b.offset(source, bytes: b.mul(row, shape.sourceStride)), context.f32, column)
          let value =
            whole ? b.load(vector, pointer, alignment: 4) : b.maskedLoad(vector, pointer, mask: mask, alignment: 4)
          return shape.factor == 1 ? value : b.fmul(value, vector.constant(shape.factor))
        }
        // Four perfect shuffles transpose: each interleaves the first half of the vectors with the second.
        let low = (0..<lanes).map { $0 / 2 + ($0 % 2) * lanes }
        let high = low.map { $0 + lanes / 2 }
        for _ in 0..<4 {
          vectors = (0..<lanes / 2).flatMap { index in
            let (first, second) = (vectors[index], vectors[index + lanes / 2])
            return [b.shuffle(first, second, low), b.shuffle(first, second, high)]
          }
        }
        for index in 0..<min(lanes, shape.columns) {
          let row = b.offset(target, bytes: b.mul(b.add(column, index), shape.targetStride))
          b.store(vectors[index], b.element(row, context.f32, firstRow), alignment: 4)
        }
      }
    }
    b.ret()
    return function
  }
}
