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
    let areFragments = product.segments.allSatisfy { segment in
      switch emitter.program[segment.right].home {
      case .weight(_, .fragments), .weight(_, .matrices): break
      default: return false
      }
      return plan.places[segment.left.tile] != nil
    }
    guard areFragments else { return try emitPlainProduct(&b, product) }
    let rowTiles = plan.rows / 16
    // What is finished number by number takes registers of its own.
    let together = rowTiles > 4 || !canFinishEight(product) ? 1 : 2
    let warps = plan.threads / emitter.target.lanes
    let panels = (product.into.count + Self.panelColumns - 1) / Self.panelColumns
    b.loop(
      from: b.mul(warp, together), to: context.i32.constant(panels), step: warps * together, name: "panel",
      hint: .asWritten
    ) { b, panel in
      let zero = context.f32.constant(0.0)
      var sums = Array(repeating: zero, count: rowTiles * 4 * together * 4)
      // A last panel without a partner is taken twice, and finished once.
      let own = (0..<together).map { b.smin(b.add(panel, $0), panels - 1) }
      for segment in product.segments { sums = add(&b, segment, panels: own, rowTiles: rowTiles, to: sums) }
      for (number, _) in own.enumerated() {
        let isThere = b.icmp(.slt, b.add(panel, number), panels)
        if together == 1 || number == 0 {
          finish(&b, product, panel: own[number], sums, number: number, together: together, rowTiles: rowTiles)
        } else {
          b.ifThen(isThere) { b in
            finish(&b, product, panel: own[number], sums, number: number, together: together, rowTiles: rowTiles)
          }
        }
      }
    }
  }

  /// The sums with those of a segment.
  private func add(
    _ b: inout IRBuilder, _ segment: GPUPlan.Product.Segment, panels: [IRValue], rowTiles: Int, to sums: [IRValue]
  ) -> [IRValue] {
    let (i32, i64) = (context.i32, context.i64)
    let rowStride = rowStride(of: segment.left.tile)
    let left = leftAddress(b, rowAddress(b, segment.left, row: i32.constant(0)), rowStride: rowStride)
    let stepBytes = Packing.fragmentColumns * Packing.fragmentRows * 2
    let panelBytes = Packing.paddedFragmentRows(segment.rows) / Packing.fragmentRows * stepBytes
    let steps = Packing.paddedFragmentRows(segment.left.count) / Packing.fragmentRows
    let addresses = panels.map { panel in
      let start = b.mul(b.zext(b.add(panel, segment.firstColumn / Packing.fragmentColumns), to: i64), panelBytes)
      return b.offset(
        b.offset(address(segment.right), bytes: b.add(start, b.zext(b.mul(lane, 16), to: i64))),
        bytes: segment.firstRow / Packing.fragmentRows * stepBytes)
    }
    /// The right sides of a step: of each panel four tiles of 8 columns, two words each.
    func load(_ b: IRBuilder, _ step: IRValue) -> [IRValue] {
      addresses.flatMap { address in
        [0, 1].flatMap { half in
          let place = b.offset(
            b.offset(address, bytes: b.mul(b.zext(step, to: i64), stepBytes)), bytes: half * stepBytes / 2)
          // Nothing but an instruction of its own stays where it is: loads whose results wait are moved to their use.
          let words = b.assembly(
            "ld.global.nc.v4.b32 {$0, $1, $2, $3}, [$4];", constraints: "=r,=r,=r,=r,l",
            returns: context.structure([i32, i32, i32, i32]), [place])
          return (0..<4).map { b.extractField(words, $0) }
        }
      }
    }
    func multiply(_ b: IRBuilder, _ step: IRValue, _ right: [IRValue], _ sums: [IRValue]) -> [IRValue] {
      var sums = sums
      for rowTile in 0..<rowTiles {
        let place = b.offset(
          b.offset(left, bytes: b.mul(step, 2 * Packing.fragmentRows)), bytes: rowTile * 16 * rowStride)
        let fragment = fragments(b, place)
        for panel in panels.indices {
          for column in 0..<4 {
            let sum = ((rowTile * panels.count + panel) * 4 + column) * 4
            let words = Array(right[panel * 8 + 2 * column..<panel * 8 + 2 * column + 2])
            sums.replaceSubrange(
              sum..<sum + 4, with: self.multiply(b, fragment, words, onto: Array(sums[sum..<sum + 4])))
          }
        }
      }
      return sums
    }
    if isMatrices(segment) {
      // No column of it is this lane's only: four bytes each.
      let stepBytes = Packing.matrixColumns * Packing.fragmentRows * 2
      let panelBytes = Packing.paddedFragmentRows(segment.rows) / Packing.fragmentRows * stepBytes
      let addresses = panels.map { panel in
        let column = b.add(b.mul(panel, Self.panelColumns), segment.firstColumn)
        let (whole, rest) = (b.udiv(column, Packing.matrixColumns), b.urem(column, Packing.matrixColumns))
        let start = b.add(
          b.mul(b.zext(whole, to: i64), panelBytes), b.zext(b.mul(rest, 2 * Packing.fragmentRows), to: i64))
        return b.offset(
          b.offset(address(segment.right), bytes: b.add(start, b.zext(b.mul(lane, 4), to: i64))),
          bytes: segment.firstRow / Packing.fragmentRows * stepBytes)
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
    // Right sides are on their way for as many steps as memory takes to answer.
    let ahead = min(rowTiles > 4 ? 1 : 2, steps)
    let waiting = (0..<ahead).flatMap { load(b, i32.constant($0)) }
    let width = panels.count * 8
    let carried = b.loop(
      from: i32.constant(0), to: i32.constant(steps), step: 1, name: "contract", hint: .asWritten,
      carrying: sums + waiting
    ) { b, step, carried in
      let waiting = Array(carried[sums.count...])
      let next = load(b, b.smin(b.add(step, ahead), steps - 1))
      return multiply(b, step, Array(waiting[..<width]), Array(carried[..<sums.count])) + waiting[width...] + next
    }
    return Array(carried[..<sums.count])
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
        b.ifThen(b.and(b.icmp(.slt, row, rowCount), b.icmp(.slt, column, product.into.count))) { b in
          if isWide {
            let at = Elements(row: row, column: column, lanes: 8)
            write(b, product.into, at, vector(b, numbers), product.finish)
          } else {
            for (place, sum) in numbers.enumerated() {
              let at = Elements(row: row, column: b.add(column, place), lanes: 1)
              b.ifThen(b.icmp(.slt, at.column, product.into.count)) { b in
                write(b, product.into, at, sum, product.finish)
              }
            }
          }
        }
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
  func finished(_ b: IRBuilder, _ into: TileSlice, _ at: Elements, _ sum: IRValue, _ finish: Expression) -> IRValue {
    value(b, finish, at, Reading(product: sum), roundedTo: kernel[into.tile].element)
  }

  /// Writes elements of a product.
  func put(_ b: IRBuilder, _ value: IRValue, _ into: TileSlice, _ at: Elements) {
    let element = kernel[into.tile].element
    let place = elementAddress(b, into, row: at.row, column: at.column)
    store(b, value, place, element, alignment: min(16, alignment(of: into), element.workingByteCount * at.lanes))
  }

  /// Whether eight neighbours can be read and written together.
  func canFinishEight(_ product: GPUPlan.Product) -> Bool {
    var fits =
      product.into.count % 8 == 0
      && alignment(of: product.into) >= 2 * min(8, kernel[product.into.tile].element.workingByteCount)
    product.finish.forEachSlice { slice in
      let tile = kernel[slice.tile]
      if tile.columns > 1, alignment(of: slice) < 2 * min(8, tile.element.workingByteCount) { fits = false }
    }
    return fits
  }

  // MARK: - Elements without matrix instructions

  /// A product one element at a time: what matrix instructions have no numbers for.
  private func emitPlainProduct(_ b: inout IRBuilder, _ product: GPUPlan.Product) throws(GPUError) {
    let (i32, i64, f32) = (context.i32, context.i64, context.f32)
    for segment in product.segments {
      switch (emitter.program[segment.right].element, emitter.program[segment.right].home) {
      case (.f32, .weight(_, .panels)), (.bf16, .weight(_, .panels)): break
      default: throw error("products of \(emitter.program[segment.right].element.rawValue)")
      }
    }
    let rowsTogether = 8
    let columns = product.into.count
    let groups = (plan.rows + rowsTogether - 1) / rowsTogether
    let items = i32.constant(groups * columns)
    b.loop(from: thread, to: items, step: plan.threads, name: "element", hint: .asWritten) { b, item in
      let (column, group) = (b.urem(item, columns), b.udiv(item, columns))
      let first = b.mul(group, rowsTogether)
      b.ifThen(b.icmp(.slt, first, rowCount)) { b in
        // Rows past the last are the last one again: what lies past it may be no number.
        let rows = (0..<rowsTogether).map { b.smin(b.add(first, $0), b.sub(rowCount, 1)) }
        var sums = Array(repeating: f32.constant(0.0), count: rowsTogether)
        for segment in product.segments {
          let element = emitter.program[segment.right].element
          let size = element.byteCount
          let together = element.contractedTogether
          let groupBytes = Self.panelColumns * together * size
          let panelBytes = (segment.rows + together - 1) / together * groupBytes
          let place = b.add(column, segment.firstColumn)
          let right = b.offset(
            address(segment.right),
            bytes: b.zext(
              b.add(
                b.mul(b.udiv(place, Self.panelColumns), panelBytes),
                b.mul(b.urem(place, Self.panelColumns), together * size)), to: i64))
          let lefts = rows.map { rowAddress(b, segment.left, row: $0) }
          let leftElement = kernel[segment.left.tile].element
          sums = b.loop(
            from: i32.constant(0), to: i32.constant(segment.left.count), step: 1, name: "contract", hint: .unroll(4),
            carrying: sums
          ) { b, index, sums in
            let contracted = b.add(index, segment.firstRow)
            let offset = b.add(
              b.mul(b.udiv(contracted, together), groupBytes), b.mul(b.urem(contracted, together), size))
            let weight = load(
              b, b.offset(right, bytes: b.zext(offset, to: i64)), element, lanes: 1, alignment: size, invariant: true)
            return zip(sums, lefts).map { sum, left in
              let number = load(
                b, b.offset(left, bytes: b.mul(index, leftElement.workingByteCount)), leftElement, lanes: 1,
                alignment: leftElement.workingByteCount)
              return b.fma(number, weight, sum)
            }
          }
        }
        for (row, sum) in sums.enumerated() {
          let at = Elements(row: b.add(first, row), column: column, lanes: 1)
          b.ifThen(b.icmp(.slt, at.row, rowCount)) { b in write(b, product.into, at, sum, product.finish) }
        }
      }
    }
  }
}
