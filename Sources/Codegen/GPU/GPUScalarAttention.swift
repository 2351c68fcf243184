import LLVMKit
import TensorIR
import TileIR

// Attention of fp32 of a block of queries in one head, by fused multiply-adds: matrix units would round its numbers. One code for all
// vendors. Queries stay in shared memory. Each turn brings its keys there, from which every thread takes the scores of its queries and
// keys; what they become goes to shared memory, and the values to where the keys were. Sums stay in registers.
//
// Sums of scores are in the order of the columns, those of results in the order of the keys.
extension GPUKernelEmitter {
  private typealias Shape = GPUPlan.ScalarAttention
  private static let together = GPUPlan.ScalarAttention.together

  /// Emits the block; gives the bytes of shared memory that it takes.
  func emitScalarAttention(
    _ b: inout IRBuilder, _ attention: GPUPlan.AttentionBlock, _ shape: GPUPlan.ScalarAttention
  ) -> Int {
    let i32 = context.i32
    let hulls = emitBounds(&b, attention.mask, at: shape.bounds)
    let turns = Turns(b, hulls, step: shape.keys)
    let (gridRow, gridColumn) = (b.udiv(thread, shape.gridColumns), b.urem(thread, shape.gridColumns))
    // Neighbours have neighbouring rows, so that these lie in different banks.
    let rows = (0..<shape.queriesEach).map { b.add(gridRow, $0 * shape.gridRows) }
    bring(
      &b, attention.queries, firstRow: i32.constant(0), count: rowCount, rows: shape.queries,
      columns: shape.queryColumns, to: 0, stride: shape.queryStride, factor: attention.factor)
    let zero = context.f32.constant(0.0)
    let each = shape.columnSteps * shape.columnsTogether
    let sums = b.loop(
      from: i32.constant(0), to: turns.count, step: 1, name: "turn", hint: .asWritten,
      carrying: Array(repeating: zero, count: shape.queriesEach * each)
    ) { b, turn, sums in
      let (key, count) = turns.first(b, turn)
      // The weights and values of the turn before were read.
      barrier(b)
      putTimeWeights(&b, attention, shape, gridRow: gridRow, gridColumn: gridColumn, firstKey: key)
      bring(
        &b, attention.keys, firstRow: key, count: count, rows: shape.keys, columns: shape.queryColumns, to: shape.turn,
        stride: shape.queryStride)
      barrier(b)
      let scores = scores(&b, shape, rows: rows, gridColumn: gridColumn)
      putWeights(
        &b, attention, shape, scores, rows: rows, gridColumn: gridColumn, firstKey: key,
        allVisible: areAllVisible(b, hulls, key: key, count: shape.keys))
      barrier(b)
      bring(
        &b, attention.values, firstRow: key, count: count, rows: shape.keys, columns: shape.valueColumns,
        to: shape.turn, stride: shape.valueStride)
      barrier(b)
      return weightedSums(&b, shape, rows: rows, columns: columns(b, shape, gridColumn), count: count, onto: sums)
    }
    let isTogether = canFinish(attention.into, attention.finish, together: shape.columnsTogether)
    for (number, row) in rows.enumerated() {
      for (step, column) in columns(b, shape, gridColumn).enumerated() {
        let first = number * each + step * shape.columnsTogether
        write(
          &b, attention.into, attention.finish, row: row, column: column,
          Array(sums[first..<first + shape.columnsTogether]), together: isTogether)
      }
    }
    return shape.end(intervals: attention.mask.intervals.count)
  }

  /// The first columns of values that a thread takes, some of them past the last.
  private func columns(_ b: IRBuilder, _ shape: Shape, _ gridColumn: IRValue) -> [IRValue] {
    (0..<shape.columnSteps).map {
      b.mul(b.add(gridColumn, $0 * shape.gridColumns), shape.columnsTogether)
    }
  }

  // MARK: - Into shared memory

  /// Copies rows of fp32 into shared memory, zeros past the last row and the last column, by all threads.
  private func bring(
    _ b: inout IRBuilder, _ slice: TileSlice, firstRow: IRValue, count: IRValue, rows: Int, columns: Int,
    to offset: Int,
    stride: Int, factor: Double = 1
  ) {
    let i32 = context.i32
    // Sixteen bytes at once where all of them belong to the rows.
    let lanes = slice.count % Self.together == 0 && alignment(of: slice) == 16 ? Self.together : 1
    let type = lanes == 1 ? context.f32 : context.vector(context.f32, lanes)
    let pieces = columns / lanes
    let all = rows * pieces
    // So many are on their way together.
    let ahead = min(8, (all + plan.threads - 1) / plan.threads)
    let areWhole = all % (plan.threads * ahead) == 0
    b.loop(from: i32.constant(0), to: i32.constant(all), step: plan.threads * ahead, name: "bring", hint: .asWritten) {
      b, first in
      let own = (0..<ahead).map { number -> (place: IRValue, isOwn: IRValue, number: IRValue) in
        let index = b.add(b.add(first, thread), number * plan.threads)
        let (row, column) = (b.udiv(index, pieces), b.mul(b.urem(index, pieces), lanes))
        var isThere = b.icmp(.slt, row, count)
        if slice.count < columns { isThere = b.and(isThere, b.icmp(.slt, column, slice.count)) }
        let source = b.offset(
          rowAddress(b, slice, row: b.select(isThere, b.add(firstRow, row), firstRow)),
          bytes: b.mul(b.select(isThere, column, i32.constant(0)), 4))
        var value = load(b, source, .f32, lanes: lanes, alignment: 4 * lanes)
        if factor != 1 { value = b.fmul(value, type.constant(factor)) }
        let place = b.offset(emitter.shared, bytes: b.add(b.add(b.mul(row, stride), b.mul(column, 4)), offset))
        return (place, b.icmp(.slt, index, all), b.select(isThere, value, type.null()))
      }
      for piece in own {
        func put(_ b: IRBuilder) { store(b, piece.number, piece.place, .f32, alignment: 4 * lanes) }
        if areWhole { put(b) } else { b.ifThen(piece.isOwn) { b in put(b) } }
      }
    }
  }

  /// Neighbouring numbers in shared memory.
  private func numbers(_ b: IRBuilder, _ place: IRValue, count: Int = 4) -> [IRValue] {
    scalars(b, load(b, place, .f32, lanes: count, alignment: 4 * count))
  }

  /// The addresses of rows in shared memory.
  private func addresses(_ b: IRBuilder, _ rows: [IRValue], at offset: Int, stride: Int) -> [IRValue] {
    rows.map { b.offset(b.offset(emitter.shared, bytes: b.mul($0, stride)), bytes: offset) }
  }

  // MARK: - A turn

  /// A thread's keys, counted from the turn's first.
  private func keys(_ b: IRBuilder, _ shape: Shape, _ gridColumn: IRValue) -> [IRValue] {
    (0..<Shape.keysEach).map { b.add(gridColumn, $0 * shape.gridColumns) }
  }

  /// The scores of a thread's queries and keys, query by query.
  private func scores(_ b: inout IRBuilder, _ shape: Shape, rows: [IRValue], gridColumn: IRValue) -> [IRValue] {
    let queries = addresses(b, rows, at: 0, stride: shape.queryStride)
    let keys = addresses(b, keys(b, shape, gridColumn), at: shape.turn, stride: shape.queryStride)
    return b.loop(
      from: context.i32.constant(0), to: context.i32.constant(shape.queryColumns * 4), step: 4 * Self.together,
      name: "score", hint: .asWritten,
      carrying: Array(repeating: context.f32.constant(0.0), count: queries.count * keys.count)
    ) { b, bytes, scores in
      let left = queries.map { numbers(b, b.offset($0, bytes: bytes)) }
      let right = keys.map { numbers(b, b.offset($0, bytes: bytes)) }
      return scores.enumerated().map { place, score in
        (0..<Self.together).reduce(score) { sum, column in
          b.fma(left[place / keys.count][column], right[place % keys.count][column], sum)
        }
      }
    }
  }

  /// Writes the weights of times to where those of a thread's scores will be, row by row: all at once they would take more registers than
  /// there are.
  private func putTimeWeights(
    _ b: inout IRBuilder, _ attention: GPUPlan.AttentionBlock, _ shape: Shape, gridRow: IRValue, gridColumn: IRValue,
    firstKey: IRValue
  ) {
    guard let bias = attention.timeBias else { return }
    let own = keys(b, shape, gridColumn)
    let keyTimes = keyTimes(b, bias, own.map { b.add(firstKey, $0) })
    b.loop(
      from: gridRow, to: context.i32.constant(shape.queries), step: shape.gridRows, name: "times", hint: .asWritten
    ) { b, row in
      let queryTime = queryTimes(b, bias, [row])[0]
      let place = addresses(b, [row], at: shape.weights, stride: shape.weightStride)[0]
      for (key, time) in zip(own, keyTimes) {
        b.store(timeWeight(b, bias, query: queryTime, key: time), b.offset(place, bytes: b.mul(key, 4)), alignment: 4)
      }
    }
  }

  /// Writes what a thread's scores become.
  private func putWeights(
    _ b: inout IRBuilder, _ attention: GPUPlan.AttentionBlock, _ shape: Shape, _ scores: [IRValue], rows: [IRValue],
    gridColumn: IRValue, firstKey: IRValue, allVisible: IRValue
  ) {
    let own = keys(b, shape, gridColumn)
    let keys = own.map { b.add(firstKey, $0) }
    let rowPlaces = addresses(b, rows, at: shape.weights, stride: shape.weightStride)
    let places = scores.indices.map {
      b.offset(rowPlaces[$0 / keys.count], bytes: b.mul(own[$0 % keys.count], 4))
    }
    let hasTimes = attention.timeBias != nil
    func activate(_ b: IRBuilder, isMasked: Bool) -> [IRValue] {
      let seen = rows.map {
        isMasked ? intervals(b, attention.mask, of: $0, at: b.offset(emitter.shared, bytes: shape.bounds)) : nil
      }
      return scores.enumerated().map { place, score in
        let (row, key) = (place / keys.count, place % keys.count)
        return activated(
          b, attention, score, row: rows[row], key: keys[key],
          timeWeight: hasTimes ? b.load(context.f32, places[place], alignment: 4) : nil, intervals: seen[row],
          roundedTo: .f32)
      }
    }
    let weights = b.ifThenElse(allVisible) { b in
      activate(b, isMasked: false)
    } otherwise: { b in
      activate(b, isMasked: true)
    }
    for (weight, place) in zip(weights, places) { b.store(weight, place, alignment: 4) }
  }

  /// The sums with a turn's values added, weighted; of the turn's keys only the first `count`, rounded up to four, are there.
  private func weightedSums(
    _ b: inout IRBuilder, _ shape: Shape, rows: [IRValue], columns: [IRValue], count: IRValue, onto sums: [IRValue]
  ) -> [IRValue] {
    let weights = addresses(b, rows, at: shape.weights, stride: shape.weightStride)
    let values = columns.map { column in
      // Past the last column there is something as well, that nobody needs.
      let safe = b.smin(column, shape.valueColumns - shape.columnsTogether)
      return b.offset(b.offset(emitter.shared, bytes: b.mul(safe, 4)), bytes: shape.turn)
    }
    return b.loop(
      from: context.i32.constant(0), to: count, step: Self.together, name: "weigh", hint: .asWritten, carrying: sums
    ) { b, key, sums in
      let left = weights.map { numbers(b, b.offset($0, bytes: b.mul(key, 4))) }
      var sums = sums
      for step in 0..<Self.together {
        let right = values.flatMap { value in
          numbers(
            b, b.offset(b.offset(value, bytes: b.mul(key, shape.valueStride)), bytes: step * shape.valueStride),
            count: shape.columnsTogether)
        }
        for place in sums.indices {
          sums[place] = b.fma(left[place / right.count][step], right[place % right.count], sums[place])
        }
      }
      return sums
    }
  }
}
