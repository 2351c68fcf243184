import LLVMKit
import TensorIR
import TileIR

/// Where a row's index comes from, as code. How a kernel reaches its memory differs from target to target; the formulas do not.
struct RowIndices {
  let b: IRBuilder
  let context: Context
  let program: Program
  /// The row among all of the batch and in its sequence, the sequence, its rows and how many of them are targets, each int64.
  var row: IRValue
  var position: IRValue
  var sequence: IRValue
  var length: IRValue
  var targets: IRValue
  /// The int64 of a buffer that stands at an index.
  var integer: (BufferID, IRValue) -> IRValue
  /// The fp32 number of a table that stands at an index.
  var number: (BufferID, IRValue) -> IRValue
  /// The row's number of another vector.
  var known: (IndexVectorID) -> IRValue

  /// The row's index, int64.
  func index(_ source: IndexSource) -> IRValue {
    let i64 = context.i64
    let none = i64.constant(-1)
    switch source {
    case .loaded(let buffer, let entries, let outside):
      let id = integer(buffer, row)
      switch outside {
      case .unchanged: return id
      case .fallback(let fallback): return b.select(b.icmp(.ult, id, entries), id, i64.constant(fallback))
      case .modulo: return b.hashed(id, rows: entries)
      }
    case .expression(let expression): return place(expression)
    case .beforeSelection(let selection, let offsets, let targetsBuffer):
      let outer = bounds(offsets, sequence)
      let outerLength = b.sub(outer.end, outer.start)
      let count = targetsBuffer.map { integer($0, sequence) } ?? i64.constant(0)
      let start = place(selection.dropped.start, length: outerLength, targets: count)
      let end = place(selection.dropped.end, length: outerLength, targets: count)
      let moved = b.add(position, b.sub(end, start))
      return b.add(outer.start, b.select(b.icmp(.slt, position, start), position, moved))
    case .afterSelection(let selection, let selected):
      let inner = bounds(selected, sequence)
      let start = place(selection.dropped.start)
      let end = place(selection.dropped.end)
      let moved = b.sub(position, b.sub(end, start))
      let isBefore = b.icmp(.slt, position, start)
      let kept = b.add(inner.start, b.select(isBefore, position, moved))
      return b.select(b.or(isBefore, b.icmp(.sge, position, end)), kept, none)
    case .beforeAddition(let addition, let added, let offsets):
      let own = place(added ? addition.added : addition.original)
      return b.select(b.icmp(.sge, own, 0), b.add(integer(offsets, sequence), own), none)
    case .afterAddition(let addition, let extended):
      return b.add(integer(extended, sequence), place(addition.extendedPlace))
    case .sequence(let place): return b.select(b.icmp(.eq, position, place), sequence, none)
    case .pickedRow(let place, let offsets, let lengths, let minimum):
      let own = bounds(offsets, row)
      var isThere = b.icmp(.slt, i64.constant(place), b.sub(own.end, own.start))
      if let lengths {
        let other = bounds(lengths, row)
        isThere = b.and(isThere, b.icmp(.sge, b.sub(other.end, other.start), minimum))
      }
      return b.select(isThere, b.add(own.start, place), none)
    case .lastRow(let offsets):
      let own = bounds(offsets, row)
      return b.select(b.icmp(.slt, own.start, own.end), b.sub(own.end, 1), none)
    case .bucket(let times, let queries, let thresholds):
      let query = integer(queries, sequence)
      return bucket(of: integer(times, row), query, thresholds)
    case .calendar(let times, let unit, let count):
      let rounded = b.sitofp(integer(times, row), to: context.f32)
      // 2^63 is no int64; the instruction's own result for it counts for nothing.
      let isPast = b.fcmp(.oge, rounded, context.f32.constant(0x1p63))
      let seconds = b.select(isPast, i64.constant(.max), b.fptosi(rounded, to: i64))
      let rest = b.srem(seconds, unit * count)
      return b.sdiv(b.select(b.icmp(.slt, rest, 0), b.add(rest, unit * count), rest), unit)
    case .marked(let vector, let bits, let values, let least):
      let marks = known(vector)
      return b.select(b.icmp(.sge, integer(values, row), least), b.or(marks, i64.constant(bits)), marks)
    }
  }

  private func place(_ expression: IndexExpression, length: IRValue? = nil, targets: IRValue? = nil) -> IRValue {
    b.value(
      of: expression, position: position, length: length ?? self.length, targets: targets ?? self.targets)
  }

  private func bounds(_ offsets: BufferID, _ sequence: IRValue) -> (start: IRValue, end: IRValue) {
    (integer(offsets, sequence), integer(offsets, b.add(sequence, 1)))
  }

  /// The number of thresholds that the seconds from a time to a later one reach: halving steps from the largest power of
  /// two within their number.
  private func bucket(of time: IRValue, _ query: IRValue, _ thresholds: BufferID) -> IRValue {
    let count = program[thresholds].columns
    // The difference may wrap, but as an unsigned number it is exact.
    let difference = b.select(b.icmp(.sgt, query, time), b.sub(query, time), context.i64.constant(0))
    let seconds = b.uitofp(difference, to: context.f32)
    var step = 1
    while step <= count / 2 { step *= 2 }
    var bucket = context.i64.constant(0)
    while step > 0 {
      let next = b.add(bucket, step)
      // One that is past the last counts as the last, which was reached then.
      let known = b.smin(next, count)
      let threshold = number(thresholds, b.sub(known, 1))
      bucket = b.select(b.fcmp(.ole, threshold, seconds), known, bucket)
      step /= 2
    }
    return bucket
  }
}

extension IRBuilder {
  /// An id modulo a table's rows, from 0 on, as `Gather.hashed` has it.
  func hashed(_ id: IRValue, rows: Int) -> IRValue {
    let rest = srem(id, rows)
    return select(icmp(.slt, rest, 0), add(rest, rows), rest)
  }

  /// The last of `sequences` sequences whose first block is at or before a block.
  mutating func sequence(
    of block: IRValue, among sequences: IRValue, firstBlock: (IRBuilder, IRValue) -> IRValue
  ) -> IRValue {
    whileLoop(carrying: [i64(0), sequences]) { b, bounds in
      b.icmp(.slt, b.add(bounds[0], 1), bounds[1])
    } _: { b, bounds in
      let middle = b.ashr(b.add(bounds[0], bounds[1]), 1)
      let isLow = b.icmp(.sle, firstBlock(b, middle), block)
      return [b.select(isLow, middle, bounds[0]), b.select(isLow, bounds[1], middle)]
    }[0]
  }

  /// The rows that a selection leaves out of a sequence: the position of the first, and how many they are.
  func dropped(
    by selection: RowSelection, length: IRValue, targets: IRValue
  ) -> (start: IRValue, count: IRValue) {
    let zero = i64(0)
    let start = value(of: selection.dropped.start, position: zero, length: length, targets: targets)
    let end = value(of: selection.dropped.end, position: zero, length: length, targets: targets)
    return (start, smax(sub(end, start), zero))
  }

  /// The bucket of research time biases that seconds fall into, fp32 numbers of 1 or more, of `count` and one for those below the
  /// first threshold. `threshold` gives the smallest number of the bucket after one, where there is such; its result for others counts for
  /// nothing.
  ///
  /// It is first estimated from below, then set right by comparing with the next threshold.
  func timeBucket(
    of seconds: IRValue, count: Int, integers: IRType, threshold: (IRValue, IRValue) -> IRValue
  ) -> IRValue {
    // A number's bits, read as an integer, are its base-2 logarithm in fixed point but for at most 0.0861: too little, so
    // the bucket that they give is the true one or the one before.
    let bits = sitofp(sub(bitcast(seconds, to: integers), Int(Float(1).bitPattern)), to: seconds.type)
    let naturalLogarithmOf2 = 0.6931471805599453
    let bucketsPerUnit = naturalLogarithmOf2 / 0.301 / Double(1 << 23)
    let estimate = fptosi(
      fma(bits, seconds.type.constant(bucketsPerUnit), seconds.type.constant(-0.001)), to: integers)
    let bucket = smin(smax(estimate, 0), count)
    let hasNext = icmp(.slt, bucket, count)
    let isHigher = and(hasNext, fcmp(.ole, threshold(bucket, hasNext), seconds))
    return add(bucket, zext(isHigher, to: integers))
  }
}
