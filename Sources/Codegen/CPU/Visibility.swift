import LLVMKit
import TensorIR
import TileIR

/// What a contraction over keys leaves out since no row sees it: whole register tiles of scores, or the keys before the
/// first and behind the last that a register tile's rows see. All that is left out is 0, so nothing depends on how
/// tiles are cut.
///
/// The environment begins with the first key of the turn, then the addresses of each interval's starts and ends.
struct Visibility: Hashable {
  enum Side: Hashable {
    /// Rows are keys, columns the block's rows.
    case scores
    /// Rows are the block's, keys are contracted.
    case weighted
  }

  var side: Side
  var intervals: Int

  /// Addresses in the environment.
  var slots: Int { 1 + 2 * intervals }
}

/// Of each interval of the mask, the first key and the end of the keys that some of a few rows see, as i32; an interval
/// that none has begins at the greatest number.
struct VisibleKeys {
  var intervals: [(start: IRValue, end: IRValue)]
}

extension LevelEmitter {
  /// What `count` rows of the block from `first` on see.
  func visibleKeys(
    _ b: IRBuilder, _ visibility: Visibility, environment: IRValue, first: IRValue, count: Int
  ) -> VisibleKeys {
    // Rows of a power of two are compared in halves, others one after the other.
    func reduce(_ slot: Int, _ combine: (IRBuilder, IRValue, IRValue) -> IRValue) -> IRValue {
      let bounds = b.load(context.pointer, b.offset(environment, bytes: slot * 8))
      let place = b.element(bounds, context.i32, first)
      if count > 1, count & (count - 1) == 0 {
        return b.reduceByHalves(b.load(context.vector(context.i32, count), place, alignment: 4), combine)
      }
      let rows = (0..<count).map { b.load(context.i32, b.element(place, context.i32, $0), alignment: 4) }
      return rows.dropFirst().reduce(rows[0]) { combine(b, $0, $1) }
    }
    return VisibleKeys(
      intervals: (0..<visibility.intervals).map { interval in
        (reduce(1 + 2 * interval) { $0.smin($1, $2) }, reduce(2 + 2 * interval) { $0.smax($1, $2) })
      })
  }

  func firstKey(_ b: IRBuilder, environment: IRValue) -> IRValue {
    b.trunc(b.load(context.i64, environment), to: context.i32)
  }

  /// Whether some of the rows see one of `count` keys from `key` on.
  func sees(_ b: IRBuilder, _ visible: VisibleKeys, key: IRValue, count: Int) -> IRValue {
    visible.intervals.reduce(context.boolean(false)) { seen, interval in
      b.or(seen, b.and(b.icmp(.slt, interval.start, b.add(key, count)), b.icmp(.sgt, interval.end, key)))
    }
  }

  /// Of a turn's steps, groups of `together` keys each, the first that some of the rows see a key of, and how many there
  /// are up to the last; none or less where they see no key of the turn.
  func visibleSteps(
    _ b: IRBuilder, _ visible: VisibleKeys, environment: IRValue, steps: IRValue, together: Int
  ) -> (first: IRValue, count: IRValue) {
    let start = visible.intervals.dropFirst().reduce(visible.intervals[0].start) { b.smin($0, $1.start) }
    let end = visible.intervals.dropFirst().reduce(visible.intervals[0].end) { b.smax($0, $1.end) }
    let first = b.load(context.i64, environment)
    let zero = context.i64.constant(0)
    func keys(_ bound: IRValue) -> IRValue { b.smax(b.sub(b.sext(bound, to: context.i64), first), zero) }
    let from = b.sdiv(keys(start), together)
    let to = b.smin(b.sdiv(b.add(keys(end), together - 1), together), steps)
    return (from, b.sub(to, from))
  }
}

extension KernelEmitter {
  /// What a contraction that leaves out keys may leave out in a turn that not every row sees whole, written into the
  /// environment.
  func emitVisibility(_ b: IRBuilder, _ contraction: Contraction) -> Visibility? {
    guard let keys, !hulls.isEmpty else { return nil }
    let environment = b.offset(scratch, bytes: emitter.scratch.environments[number])
    b.store(keys.first, environment)
    for interval in hulls.indices {
      for (place, end) in [false, true].enumerated() {
        b.store(
          intervalBound(b, interval, end: end), b.offset(environment, bytes: (1 + 2 * interval + place) * 8))
      }
    }
    return Visibility(side: contraction.masked ? .scores : .weighted, intervals: hulls.count)
  }
}

extension Kernel {
  /// Whether what no row sees can be left out: of scores, and of the sum of values that they weigh.
  func leavesOutKeys(_ contraction: Contraction) -> Bool {
    contraction.masked
      || contraction.accumulate && contraction.leftTransposed && isMasked(contraction.left.tile)
  }

  /// Whether all that is written into a tile of keys is 0 where a row does not see the key.
  fileprivate func isMasked(_ tile: TileID) -> Bool {
    guard self[tile].rows == .keys, case .scratch = self[tile].home else { return false }
    return statements.allSatisfy { statement in
      switch statement {
      case .map(let into, _, let masked): into.tile != tile || masked
      case .contract(let contraction): contraction.into.tile != tile || contraction.masked
      case .gather(let into, _, _, _, _), .transpose(let into, _, _), .reduce(let into, _, _),
        .maximum(let into, _, _):
        into.tile != tile
      case .best, .clear, .indices, .gatherIntegers, .merge, .nextIntegers, .sort, .storeIndices, .forKeys, .forParts:
        true
      }
    }
  }
}
