import LLVMKit
import TensorIR
import TileIR

/// The items of a ranking, as they lie in panels of 32.
struct RankedItems {
  let right: BufferID
  let left: TileSlice
  /// The form of rows of bytes; nil where items are numbers.
  let coded: TableFormat?
  /// Bytes of a panel.
  let panelBytes: Int
  /// Numbers of an item.
  var contracted: Int { left.count }

  init(_ best: BestColumns, _ packing: Packing, element: ElementType, columns: Int) {
    (right, left) = (best.right, best.left)
    if case .codedPanels(let format, _) = packing {
      coded = format
      panelBytes = format.panelRowBytes(ofRow: columns) * GPUPlan.panelItems
    } else {
      coded = nil
      panelBytes = element.panelColumnBytes(best.left.count) * GPUPlan.panelItems
    }
  }
}

// Products of the rows of a block with the items of a turn, which go to shared memory.
extension GPUKernelEmitter {
  private var ranking: GPUPlan.Ranking { plan.ranking }

  private func panel(_ b: IRBuilder, _ items: RankedItems, _ number: IRValue) -> IRValue {
    b.offset(address(items.right), bytes: b.mul(b.zext(number, to: context.i64), items.panelBytes))
  }

  /// Where a turn's product of a row and an item lies.
  private func product(_ b: IRBuilder, row: IRValue, item: IRValue) -> IRValue {
    b.offset(
      b.offset(emitter.shared, bytes: ranking.products),
      bytes: b.add(b.mul(row, ranking.productStride), b.mul(item, 4)))
  }

  /// Copies the left side's rows into shared memory, as bf16 with zeros up to whole steps where matrix instructions read them, otherwise
  /// as fp32; past the last row the last one again.
  func bringLeft(_ b: inout IRBuilder, _ left: TileSlice) {
    let element = kernel[left.tile].element
    let steps = (left.count + Packing.fragmentRows - 1) / Packing.fragmentRows
    let columns = ranking.hasMatrices ? steps * Packing.fragmentRows : left.count
    let target = b.offset(emitter.shared, bytes: ranking.left)
    b.loop(
      from: thread, to: context.i32.constant(ranking.rows * columns), step: plan.threads, name: "left",
      hint: .asWritten
    ) { b, index in
      let (row, column) = (b.udiv(index, columns), b.urem(index, columns))
      let source = b.offset(
        rowAddress(b, left, row: b.smin(row, b.sub(rowCount, 1))),
        bytes: b.mul(b.smin(column, left.count - 1), element.deviceByteCount))
      let own = b.offset(target, bytes: b.mul(row, ranking.leftStride))
      if ranking.hasMatrices {
        let bits = b.load(context.i16, source, alignment: 2)
        let isThere = b.icmp(.slt, column, left.count)
        b.store(b.select(isThere, bits, context.i16.constant(0)), b.offset(own, bytes: b.mul(column, 2)), alignment: 2)
      } else {
        let number = load(b, source, element, lanes: 1, alignment: element.deviceByteCount)
        b.store(number, b.offset(own, bytes: b.mul(column, 4)), alignment: 4)
      }
    }
  }

  // MARK: - By matrix instructions

  /// Multiplies all rows with `count` panels from `first` on, a warp each. Which item of a panel is which column of the instructions is free: a
  /// lane takes neighbours, so that it reads them at once, and gets products of eight neighbours.
  ///
  /// NVIDIA: column `group` of tile t is the item 4 * group + t; of rows `group` and `group + 8` a lane gets the products with the items
  /// from 8 * place on. AMD: items are the left side, whose row `row` of tile t is the item 2 * row + t; of row `row` of the block a lane gets
  /// the products with the items from 8 * slice on.
  func multiplyMatrices(_ b: inout IRBuilder, _ items: RankedItems, first: IRValue, count: IRValue) {
    let i32 = context.i32
    let tiles = ranking.rows / 16
    let isAMD = emitter.target.vendor == .amd
    let none =
      isAMD
      ? Array(repeating: noSums, count: tiles * 2) : Array(repeating: context.f32.constant(0.0), count: tiles * 16)
    let (whole, rest) = items.contracted.quotientAndRemainder(dividingBy: Packing.fragmentRows)
    b.loop(from: warp, to: count, step: GPUPlan.rankingWarps, name: "panel", hint: .asWritten) { b, number in
      let base = panel(b, items, b.add(first, number))
      var sums = b.loop(
        from: i32.constant(0), to: i32.constant(whole), step: 1, name: "contract", hint: .unroll(4), carrying: none
      ) { b, step, sums in addStep(b, base, step, pairs: nil, to: sums) }
      if rest > 0 { sums = addStep(b, base, i32.constant(whole), pairs: (rest + 1) / 2, to: sums) }
      let slot = isAMD ? waveSlice(b) : lanePlace(b)
      let item = b.add(b.mul(number, GPUPlan.panelItems), b.mul(slot, 8))
      for (row, numbers) in eights(b, sums) {
        let place = product(b, row: row, item: item)
        for half in 0..<2 {
          b.store(
            vector(b, Array(numbers[4 * half..<4 * half + 4])), b.offset(place, bytes: 16 * half), alignment: 16)
        }
      }
    }
  }

  /// The sums with the products of sixteen contracted numbers; where there are only so many pairs of them, nothing is read behind those.
  private func addStep(
    _ b: IRBuilder, _ base: IRValue, _ step: IRValue, pairs: Int?, to sums: [IRValue]
  ) -> [IRValue] {
    let (i32, i64) = (context.i32, context.i64)
    /// Words of a pair of the step: those of so many items from a byte on.
    func words(_ pair: IRValue, from byte: IRValue, count: Int) -> [IRValue] {
      let known = pairs.map { b.smin(pair, $0 - 1) } ?? pair
      let row = b.mul(b.zext(b.add(b.mul(step, 8), known), to: i64), GPUPlan.panelItems * 4)
      let words = b.load(
        context.vector(i32, count), b.offset(b.offset(base, bytes: row), bytes: byte), alignment: 4 * count,
        invariant: true)
      return scalars(b, words).map { word in
        pairs.map { b.select(b.icmp(.slt, pair, $0), word, i32.constant(0)) } ?? word
      }
    }
    let left = b.offset(
      b.offset(emitter.shared, bytes: ranking.left), bytes: b.mul(step, Packing.stepBytes))
    var sums = sums
    switch emitter.target.vendor {
    case .nvidia:
      let byte = b.mul(laneGroup(b), 16)
      let right = [0, 4].map { words(b.add(lanePlace(b), $0), from: byte, count: 4) }
      let own = leftAddress(b, left, rowStride: ranking.leftStride)
      for tile in 0..<ranking.rows / 16 {
        let rows = fragments(b, b.offset(own, bytes: tile * 16 * ranking.leftStride))
        for column in 0..<4 {
          let place = (tile * 4 + column) * 4
          sums.replaceSubrange(
            place..<place + 4,
            with: multiply(b, rows, right.map { $0[column] }, onto: Array(sums[place..<place + 4])))
        }
      }
    case .amd:
      let four = context.vector(context.i16, 4)
      let byte = b.mul(waveRow(b), 8)
      let pair = b.mul(waveSlice(b), 2)
      let right = [0, 1].map { words(b.add(pair, $0), from: byte, count: 2) }
      let own = b.offset(left, bytes: b.add(b.mul(waveRow(b), ranking.leftStride), b.mul(waveSlice(b), 8)))
      for tile in 0..<ranking.rows / 16 {
        let rows = b.load(four, b.offset(own, bytes: tile * 16 * ranking.leftStride), alignment: 8)
        for half in 0..<2 {
          let items = b.bitcast(vector(b, right.map { $0[half] }), to: four)
          sums[tile * 2 + half] = multiplyByWave(b, items, rows, onto: sums[tile * 2 + half])
        }
      }
    }
    return sums
  }

  /// Rows of which a lane has sums, and those of eight neighbouring items.
  private func eights(_ b: IRBuilder, _ sums: [IRValue]) -> [(row: IRValue, numbers: [IRValue])] {
    (0..<ranking.rows / 16).flatMap { tile -> [(row: IRValue, numbers: [IRValue])] in
      switch emitter.target.vendor {
      case .nvidia:
        return (0..<2).map { half in
          (
            b.add(laneGroup(b), tile * 16 + half * 8),
            (0..<8).map { sums[(tile * 4 + $0 % 4) * 4 + 2 * half + $0 / 4] }
          )
        }
      case .amd:
        let own = (0..<2).map { scalars(b, sums[tile * 2 + $0]) }
        return [(b.add(waveRow(b), tile * 16), (0..<8).map { own[$0 % 2][$0 / 2] })]
      }
    }
  }

  // MARK: - By fused multiply-adds

  /// Multiplies all rows with `count` panels from `first` on. Each lane takes an item of some panels: what it reads of the rows serves all of
  /// them, and reading that is what bounds a block.
  func multiplyNumbers(_ b: inout IRBuilder, _ items: RankedItems, first: IRValue, count: IRValue) {
    let i32 = context.i32
    let lanes = emitter.target.lanes
    // As many as let each warp take some once.
    let each = ranking.turn / lanes / GPUPlan.rankingWarps
    let together = lanes / GPUPlan.panelItems * each
    let steps = b.udiv(b.add(count, together - 1), together)
    b.loop(from: warp, to: steps, step: GPUPlan.rankingWarps, name: "panel", hint: .asWritten) { b, step in
      let own = b.add(b.mul(step, together * GPUPlan.panelItems), lane)
      let places = (0..<each).map { b.add(own, $0 * lanes) }
      let readers = places.map { place in
        // Past the last panel the last one again: nobody looks at that.
        reader(b, items, panel: b.add(first, b.smin(b.udiv(place, GPUPlan.panelItems), b.sub(count, 1))))
      }
      let left = b.offset(emitter.shared, bytes: ranking.left)
      func add(_ b: IRBuilder, _ column: IRValue, _ count: Int, to sums: [IRValue]) -> [IRValue] {
        let numbers = readers.map { $0(b, column, count) }
        return (0..<ranking.rows).flatMap { row -> [IRValue] in
          let place = b.offset(b.offset(left, bytes: row * ranking.leftStride), bytes: b.mul(column, 4))
          let factors =
            count == 4
            ? scalars(b, b.load(context.vector(context.f32, 4), place, alignment: 16))
            : (0..<count).map { b.load(context.f32, b.offset(place, bytes: 4 * $0), alignment: 4) }
          return numbers.enumerated().map { item, numbers in
            zip(factors, numbers).reduce(sums[row * each + item]) { b.fma($1.0, $1.1, $0) }
          }
        }
      }
      let whole = items.contracted / 4 * 4
      // Unrolled it would have more values than registers of two blocks.
      var sums = b.loop(
        from: i32.constant(0), to: i32.constant(whole), step: 4, name: "contract", hint: .asWritten,
        carrying: Array(repeating: context.f32.constant(0.0), count: ranking.rows * each)
      ) { b, column, sums in add(b, column, 4, to: sums) }
      if items.contracted > whole { sums = add(b, i32.constant(whole), items.contracted - whole, to: sums) }
      for (index, sum) in sums.enumerated() {
        let place = product(b, row: i32.constant(index / each), item: places[index % each])
        b.store(sum, place, alignment: 4)
      }
    }
  }

  /// Reads numbers of the lane's item of a panel, from a column on that is a multiple of 4.
  private func reader(
    _ b: IRBuilder, _ items: RankedItems, panel number: IRValue
  ) -> (IRBuilder, IRValue, Int) -> [IRValue] {
    let (i32, i64, f32) = (context.i32, context.i64, context.f32)
    let base = panel(b, items, number)
    let item = b.zext(b.urem(lane, GPUPlan.panelItems), to: i64)
    let own = b.offset(base, bytes: b.mul(item, 4))
    func row(_ b: IRBuilder, _ pointer: IRValue, _ index: IRValue, _ bytes: Int) -> IRValue {
      b.offset(pointer, bytes: b.mul(b.zext(index, to: i64), bytes))
    }
    guard let coded = items.coded else {
      let isNarrow = kernel[items.left.tile].element == .bf16
      return { b, column, count in
        guard isNarrow else {
          return (0..<count).map { b.load(f32, row(b, own, b.add(column, $0), 128), alignment: 4, invariant: true) }
        }
        return stride(from: 0, to: count, by: 2).flatMap { first -> [IRValue] in
          let pair = b.load(
            i32, row(b, own, b.add(b.lshr(column, 1), first / 2), 128), alignment: 4, invariant: true)
          return [b.shl(pair, 16), b.and(pair, -65536)].map { b.bitcast($0, to: f32) }
        }
      }
    }
    let scaleAndBias = [0, 128].map { b.load(f32, b.offset(own, bytes: $0), alignment: 4, invariant: true) }
    let codes = b.offset(b.offset(base, bytes: 256), bytes: item)
    return { b, column, count in
      func decoded(_ code: IRValue) -> IRValue {
        b.fadd(b.fmul(b.uitofp(code, to: f32), scaleAndBias[0]), scaleAndBias[1])
      }
      func byte(_ index: IRValue) -> IRValue {
        b.zext(b.load(self.context.i8, row(b, codes, index, 32), alignment: 1, invariant: true), to: i32)
      }
      switch coded {
      case .int8: return (0..<count).map { decoded(byte(b.add(column, $0))) }
      case .int4:
        return stride(from: 0, to: count, by: 2).flatMap { first -> [IRValue] in
          let both = byte(b.add(b.lshr(column, 1), first / 2))
          return [b.and(both, 15), b.lshr(both, 4)].map(decoded)
        }
      }
    }
  }
}
