import LLVMKit
import TensorIR
import TileIR

// The keys that a block of rows sees.
extension KernelEmitter {
  private var intervalBase: Int { emitter.scratch.kernels[number].intervals }
  private var block: Int { kernel.domain.block }

  /// The address of the starts, or ends, of an interval for all rows of the block, 4 bytes each.
  func intervalBound(_ b: IRBuilder, _ interval: Int, end: Bool) -> IRValue {
    b.offset(scratch, bytes: intervalBase + (interval * 2 + (end ? 1 : 0)) * block * 4)
  }

  /// Writes each row's intervals down, an empty one from the greatest number to 0, also for rows past the block's end, and
  /// keeps the hull of
  /// each interval over the rows, and what all rows share of it.
  func emitIntervals(_ b: inout IRBuilder, _ mask: Mask) {
    let i32 = context.i32
    let intervals = mask.intervals
    let greatest = i32.constant(Int(Int32.max))
    let zero = i32.constant(0)
    for interval in intervals.indices {
      for end in [false, true] {
        let bounds = intervalBound(b, interval, end: end)
        b.loop(from: rowCount, to: context.i64.constant(block)) { b, row in
          b.store(end ? zero : greatest, b.element(bounds, i32, row))
        }
      }
    }
    let start = intervals.flatMap { _ in [greatest, zero, zero, greatest] }
    // Where what the kernel's targets count is further history, the mask knows no targets.
    let maskTargets = kernel.keys?.continuesHistory == true ? context.i64.constant(0) : targets
    let found = b.loop(
      from: context.i64.constant(0), to: rowCount, step: 1, name: "interval", hint: .asWritten, carrying: start
    ) { b, row, carried in
      let position = keyPosition(b, b.add(firstPosition, row))
      return intervals.enumerated().flatMap { index, interval in
        func bound(_ expression: IndexExpression) -> IRValue {
          b.trunc(
            emitter.emit(b, expression, position: position, length: keyLength, targets: maskTargets), to: i32)
        }
        let (start, end) = (bound(interval.start), bound(interval.end))
        let isEmpty = b.icmp(.sle, end, start)
        b.store(b.select(isEmpty, greatest, start), b.element(intervalBound(b, index, end: false), i32, row))
        b.store(b.select(isEmpty, zero, end), b.element(intervalBound(b, index, end: true), i32, row))
        let hull = Array(carried[index * 4..<index * 4 + 4])
        return [
          b.select(isEmpty, hull[0], b.smin(hull[0], start)), b.select(isEmpty, hull[1], b.smax(hull[1], end)),
          b.select(isEmpty, greatest, b.smax(hull[2], start)), b.select(isEmpty, zero, b.smin(hull[3], end)),
        ]
      }
    }
    // Turns begin with whole pairs of keys, the first keys of the history and of the targets apart: so that which keys are
    // multiplied as a pair follows from the sequence alone, not from the block that a row is in.
    let history = b.sub(keyLength, maskTargets)
    hulls = intervals.indices.map { index in
      let wide = found[index * 4..<index * 4 + 4].map { b.sext($0, to: context.i64) }
      let start = b.smax(
        b.and(wide[0], -2), b.select(b.icmp(.sge, wide[0], history), history, context.i64.constant(0)))
      let end = b.smin(
        b.and(b.add(wide[1], 1), -2), b.select(b.icmp(.sle, wide[1], history), history, keyLength))
      return Hull(start: start, end: end, sharedStart: wide[2], sharedEnd: wide[3])
    }
    // Here and not at the loop, which may stand in another: stack taken in a loop is taken in every turn.
    let bounds = b.alloca(context.i64, count: hulls.count * 2)
    for (index, hull) in hulls.enumerated() {
      b.store(hull.start, b.element(bounds, context.i64, index * 2))
      b.store(hull.end, b.element(bounds, context.i64, index * 2 + 1))
    }
    hullBounds = bounds
  }

  /// An index expression as code, for the row at `position`.
  func emit(_ b: IRBuilder, _ expression: IndexExpression, position: IRValue) -> IRValue {
    emitter.emit(b, expression, position: position, length: length, targets: targets)
  }

  /// Visits the hulls of the intervals one after the other, without what was visited before.
  func emitForKeys(_ b: inout IRBuilder, step: Int, _ body: [Statement]) {
    guard let bounds = hullBounds else { return }
    let i64 = context.i64
    let zero = i64.constant(0)
    let count = i64.constant(hulls.count)
    _ = b.loop(from: zero, to: count, step: 1, name: "hull", hint: .asWritten, carrying: [zero]) { b, index, carried in
      let bound = b.element(bounds, i64, b.mul(index, 2))
      let start = b.smax(carried[0], b.load(i64, bound))
      let end = b.load(i64, b.element(bound, i64, 1))
      if kernel.joinedTiles.isEmpty {
        emitTurns(&b, from: start, to: end, step: step, .apart, body)
      } else {
        emitJoinedTurns(&b, from: start, to: end, step: step, body)
      }
      return [b.smax(carried[0], end)]
    }
  }

  func emitTurns(
    _ b: inout IRBuilder, from start: IRValue, to end: IRValue, step: Int, _ place: KeyPlace, _ body: [Statement]
  ) {
    b.loop(from: start, to: end, step: step, name: "keys", hint: .asWritten) { b, first in
      let count = b.smin(b.sub(end, first), step)
      if place == .kept { emitDecoded(&b, first: first, count: count) }
      emitTurn(&b, first: first, count: count, place, body)
    }
  }

  func emitTurn(
    _ b: inout IRBuilder, first: IRValue, count: IRValue, _ place: KeyPlace, _ body: [Statement]
  ) {
    let last = b.add(first, count)
    var allVisible = context.boolean(false)
    for shared in hulls {
      let covers = b.and(b.icmp(.sle, shared.sharedStart, first), b.icmp(.sge, shared.sharedEnd, last))
      allVisible = b.or(allVisible, covers)
    }
    keys = KeyRange(first: first, count: count, allVisible: allVisible, place: place)
    emit(&b, body)
    keys = nil
  }
}

/// Of one interval over a block's rows: the smallest range of whole pairs that holds it for every row, and the range in which every
/// row's interval lies over the keys (empty where some row has none).
struct Hull {
  var start: IRValue
  var end: IRValue
  var sharedStart: IRValue
  var sharedEnd: IRValue
}

extension LevelEmitter {
  /// An index expression as code.
  func emit(_ b: IRBuilder, _ expression: IndexExpression, position: IRValue, length: IRValue, targets: IRValue)
    -> IRValue
  {
    b.value(of: expression, position: position, length: length, targets: targets)
  }
}
