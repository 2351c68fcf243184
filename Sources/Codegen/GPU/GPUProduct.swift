import LLVMKit
import TensorIR
import TileIR

// Products with packed weights. The left side lies in shared memory, all of its columns; each warp takes panels of the weight, which
// go from memory straight into registers, and all rows of the block.
//
// The columns number `4 * group` and on of a panel are the columns number `group` of four tiles of 8 columns. So of the sum a lane has
// columns `8 * place` up to `8 * place + 7` of the panel, neighbours, and finishes them together.
extension GPUKernelEmitter {
  private static let panelColumns = 32
  func emitProduct(_ b: inout IRBuilder, _ product: GPUPlan.Product) throws(GPUError) {
    let areFragments =
      product.isOfFragments(emitter.program)
      && product.segments.allSatisfy { plan.places[$0.left.tile] != nil }
    guard areFragments else { return try emitScalarProduct(&b, product) }
    let rowTiles = plan.rows / 16
    // What is finished number by number takes registers of its own.
    let together = rowTiles > 4 || !canFinishEight(product) ? 1 : 2
    let warps = plan.threads / emitter.target.lanes
    let panels = (product.into.count + Self.panelColumns - 1) / Self.panelColumns
    b.loop(
      from: b.mul(warp, together), to: context.i32.constant(panels), step: warps * together, name: "panel",
      hint: .asWritten
    ) { b, panel in
      // A last panel without a partner is taken twice, and finished once.
      let own = (0..<together).map { b.smin(b.add(panel, $0), panels - 1) }
      func finishPanels(_ b: inout IRBuilder, _ finish: (inout IRBuilder, Int) -> Void) {
        for number in own.indices {
          if number == 0 {
            finish(&b, number)
          } else {
            b.ifThen(b.icmp(.slt, b.add(panel, number), panels)) { b in finish(&b, number) }
          }
        }
      }
      switch emitter.target.vendor {
      case .nvidia:
        var sums = Array(repeating: noSum(product), count: rowTiles * 4 * together * 4)
        for segment in product.segments { sums = add(&b, segment, panels: own, rowTiles: rowTiles, to: sums) }
        finishPanels(&b) { b, number in
          finish(&b, product, panel: own[number], sums, number: number, together: together, rowTiles: rowTiles)
        }
      case .amd:
        var sums = Array(repeating: context.vector(noSum(product).type, 4).null(), count: rowTiles * together * 2)
        for segment in product.segments { sums = addByWave(&b, segment, panels: own, rowTiles: rowTiles, to: sums) }
        finishPanels(&b) { b, number in
          finishByWave(&b, product, panel: own[number], sums, number: number, together: together, rowTiles: rowTiles)
        }
      }
    }
  }

  /// Of each panel, where its weights of a segment begin: those of a step of 16 rows, as fragments, lie together.
  func fragmentAddresses(
    _ b: IRBuilder, _ segment: GPUPlan.Product.Segment, panels: [IRValue], laneBytes: IRValue
  ) -> [IRValue] {
    let element = emitter.program[segment.right].element
    let panelBytes = Packing.steps(segment.rows, of: element) * Self.stepBytes
    return panels.map { panel in
      let start = b.mul(
        b.zext(b.add(panel, segment.firstColumn / Packing.fragmentColumns), to: context.i64), panelBytes)
      return b.offset(
        b.offset(address(segment.right), bytes: b.add(start, b.zext(laneBytes, to: context.i64))),
        bytes: segment.firstRow / Packing.stepRows(of: element) * Self.stepBytes)
    }
  }

  /// Four words of memory that does not change, by NVIDIA's cards. Nothing but an instruction of its own stays where it is: loads whose
  /// results wait are moved to their use.
  func loadAhead(_ b: IRBuilder, _ place: IRValue) -> [IRValue] {
    let i32 = context.i32
    let words = b.assembly(
      "ld.global.nc.v4.b32 {$0, $1, $2, $3}, [$4];", constraints: "=r,=r,=r,=r,l",
      returns: context.structure([i32, i32, i32, i32]), [place])
    return (0..<4).map { b.extractField(words, $0) }
  }

  /// Bytes of a panel's fragments of a step.
  static let stepBytes = Packing.fragmentColumns * Packing.stepBytes

  /// The sums after all steps. Right sides of `ahead` steps are on their way while one is multiplied.
  func contract(
    _ b: inout IRBuilder, steps: Int, ahead: Int, onto sums: [IRValue], load: (IRBuilder, IRValue) -> [IRValue],
    multiply: @escaping (IRBuilder, IRValue, [IRValue], [IRValue]) -> [IRValue]
  ) -> [IRValue] {
    let i32 = context.i32
    let ahead = min(ahead, steps)
    let waiting = (0..<ahead).map { load(b, i32.constant($0)) }
    let width = waiting[0].count
    let carried = b.loop(
      from: i32.constant(0), to: i32.constant(steps), step: 1, name: "contract", hint: .asWritten,
      carrying: sums + waiting.flatMap(\.self)
    ) { b, step, carried in
      let waiting = Array(carried[sums.count...])
      let next = load(b, b.smin(b.add(step, ahead), steps - 1))
      return multiply(b, step, Array(waiting[..<width]), Array(carried[..<sums.count])) + waiting[width...] + next
    }
    return Array(carried[..<sums.count])
  }

  /// The sums with those of a segment.
  private func add(
    _ b: inout IRBuilder, _ segment: GPUPlan.Product.Segment, panels: [IRValue], rowTiles: Int, to sums: [IRValue]
  ) -> [IRValue] {
    let (i32, i64) = (context.i32, context.i64)
    let rowStride = rowStride(of: segment.left.tile)
    let left = leftAddress(b, rowAddress(b, segment.left, row: i32.constant(0)), rowStride: rowStride)
    let element = emitter.program[segment.right].element
    let steps = Packing.steps(segment.left.count, of: element)
    let addresses = fragmentAddresses(b, segment, panels: panels, laneBytes: b.mul(lane, 16))
    /// The right sides of a step: of each panel four tiles of 8 columns, two words each.
    func load(_ b: IRBuilder, _ step: IRValue) -> [IRValue] {
      addresses.flatMap { address in
        [0, 1].flatMap { half in
          let place = b.offset(
            b.offset(address, bytes: b.mul(b.zext(step, to: i64), Self.stepBytes)), bytes: half * Self.stepBytes / 2)
          return loadAhead(b, place)
        }
      }
    }
    func multiply(_ b: IRBuilder, _ step: IRValue, _ right: [IRValue], _ sums: [IRValue]) -> [IRValue] {
      var sums = sums
      for rowTile in 0..<rowTiles {
        let place = b.offset(
          b.offset(left, bytes: b.mul(step, Packing.stepBytes)), bytes: rowTile * 16 * rowStride)
        let fragment = fragments(b, place)
        for panel in panels.indices {
          for column in 0..<4 {
            let sum = ((rowTile * panels.count + panel) * 4 + column) * 4
            let words = Array(right[panel * 8 + 2 * column..<panel * 8 + 2 * column + 2])
            sums.replaceSubrange(
              sum..<sum + 4, with: self.multiply(b, fragment, words, onto: Array(sums[sum..<sum + 4]), of: element))
          }
        }
      }
      return sums
    }
    if isMatrices(segment) {
      // No column of it is this lane's only: four bytes each.
      let stepBytes = Packing.matrixColumns * Packing.stepBytes
      let panelBytes = Packing.steps(segment.rows, of: element) * stepBytes
      let addresses = panels.map { panel in
        let column = b.add(b.mul(panel, Self.panelColumns), segment.firstColumn)
        let (whole, rest) = (b.udiv(column, Packing.matrixColumns), b.urem(column, Packing.matrixColumns))
        let start = b.add(
          b.mul(b.zext(whole, to: i64), panelBytes), b.zext(b.mul(rest, Packing.stepBytes), to: i64))
        return b.offset(
          b.offset(address(segment.right), bytes: b.add(start, b.zext(b.mul(lane, 4), to: i64))),
          bytes: segment.firstRow / Packing.stepRows(of: element) * stepBytes)
      }
      return b.loop(
        from: i32.constant(0), to: i32.constant(steps), step: 1, name: "contract", hint: .asWritten, carrying: sums
      ) { b, step, sums in
        let right = addresses.flatMap { address in
          (0..<8).map { number in
            b.load(
              i32, b.offset(b.offset(address, bytes: b.mul(b.zext(step, to: i64), stepBytes)), bytes: number * 128),
              alignment: 4, invariant: true)
          }
        }
        return multiply(b, step, right, sums)
      }
    }
    // Right sides are on their way for as many steps as memory takes to answer, where there are registers for them: FP8 takes some to become
    // numbers of 16 bits.
    let ahead = rowTiles > 4 || element == .f8e4m3 ? 1 : 2
    return contract(&b, steps: steps, ahead: ahead, onto: sums, load: load, multiply: multiply)
  }

  /// Writes what becomes of the sums of a panel.
  private func finish(
    _ b: inout IRBuilder, _ product: GPUPlan.Product, panel: IRValue, _ sums: [IRValue], number: Int, together: Int,
    rowTiles: Int
  ) {
    let column = b.add(b.mul(panel, Self.panelColumns), b.mul(lanePlace(b), 8))
    let isWide = canFinishEight(product)
    for rowTile in 0..<rowTiles {
      for half in 0..<2 {
        let row = b.add(laneGroup(b), rowTile * 16 + half * 8)
        let areMatrices = isMatrices(product.segments[0])
        let numbers = (0..<8).map { place in
          let (tile, column) = areMatrices ? (place / 2, place % 2) : (place % 4, place / 4)
          return sums[((rowTile * together + number) * 4 + tile) * 4 + 2 * half + column]
        }
        write(
          &b, product.into, product.finish, row: row, column: column, self.numbers(b, numbers, of: product),
          together: isWide)
      }
    }
  }

  /// Writes what becomes of sums of neighbours in a row, together where they can be, as far as there are such elements.
  func write(
    _ b: inout IRBuilder, _ into: TileSlice, _ finish: Expression, row: IRValue, column: IRValue, _ sums: [IRValue],
    together: Bool
  ) {
    b.ifThen(b.and(b.icmp(.slt, row, rowCount), b.icmp(.slt, column, into.count))) { b in
      if together {
        let at = Elements(row: row, column: column, lanes: sums.count)
        return write(b, into, at, vector(b, sums), finish)
      }
      for (place, sum) in sums.enumerated() {
        let at = Elements(row: row, column: b.add(column, place), lanes: 1)
        b.ifThen(b.icmp(.slt, at.column, into.count)) { b in write(b, into, at, sum, finish) }
      }
    }
  }

  private func isMatrices(_ segment: GPUPlan.Product.Segment) -> Bool {
    guard case .weight(_, .matrices) = emitter.program[segment.right].home else { return false }
    return true
  }

  private func write(_ b: IRBuilder, _ into: TileSlice, _ at: Elements, _ sum: IRValue, _ finish: Expression) {
    put(b, finished(b, into, at, sum, finish), into, at)
  }

  /// What becomes of sums.
  func finished(
    _ b: IRBuilder, _ into: TileSlice, _ at: Elements, _ sum: IRValue, _ finish: Expression, isInOrder: Bool = false
  ) -> IRValue {
    value(b, finish, at, Reading(product: sum, isInOrder: isInOrder), roundedTo: kernel[into.tile].element)
  }

  /// Writes elements of a product.
  func put(_ b: IRBuilder, _ value: IRValue, _ into: TileSlice, _ at: Elements) {
    let element = kernel[into.tile].element
    let place = elementAddress(b, into, row: at.row, column: at.column)
    store(
      b, value, place, element, alignment: min(16, alignment(of: into), element.deviceByteCount * at.lanes),
      areCallers: holdsCallersCodes(into.tile))
  }

  /// Whether eight neighbours can be read and written together.
  func canFinishEight(_ product: GPUPlan.Product) -> Bool { canFinish(product.into, product.finish, together: 8) }

  /// Whether so many neighbours can be read and written together.
  func canFinish(_ into: TileSlice, _ finish: Expression, together: Int) -> Bool {
    let size = kernel[into.tile].element.deviceByteCount
    var fits = into.count % together == 0 && alignment(of: into) >= 2 * min(8, size)
    // Numbers are read and written in words.
    func areWords(_ size: Int) -> Bool { together == 1 || size * together >= 4 }
    if !areWords(size) { fits = false }
    finish.forEachSlice { slice in
      let tile = kernel[slice.tile]
      if tile.columns > 1, !areWords(tile.element.deviceByteCount) { fits = false }
      if tile.columns > 1, alignment(of: slice) < 2 * min(8, tile.element.deviceByteCount) { fits = false }
    }
    return fits
  }
}
