import LLVMKit
import TensorIR
import TileIR

// Products by fused multiply-adds, of what matrix instructions have no numbers for: they would round those of fp32. One code for all
// vendors. A thread keeps the sums of its rows and columns in registers. Of a row it reads four contracted numbers at once, of its columns'
// weights, packed in panels, 16 bytes, so many ahead of their use that they are there by then.
//
// Each sum is in the order of the contracted columns, segment after segment.
extension GPUKernelEmitter {
  private typealias Shape = GPUPlan.ScalarProduct
  private static let quadColumns = GPUPlan.ScalarProduct.quadColumns
  /// Contracted numbers of a row that are read together.
  private static let leftTogether = 4
  /// Rows whose results are computed before the first of them is written, so that what they read is waited for together.
  private static let rowsFinishedTogether = 4

  func emitScalarProduct(_ b: inout IRBuilder, _ product: GPUPlan.Product) throws(GPUError) {
    for segment in product.segments {
      switch (emitter.program[segment.right].element, emitter.program[segment.right].home) {
      case (.f32, .weight(_, .panels)), (.bf16, .weight(_, .panels)): break
      default: throw error("products of \(emitter.program[segment.right].element.rawValue)")
      }
    }
    let shape = plan.scalarProduct(product, on: emitter.target)
    let own = ownPieces(b, of: shape.bunches)
    // Rows that there are none of take no lanes.
    let rowGroups = b.udiv(b.add(rowCount, shape.rowsEach - 1), shape.rowsEach)
    let items = b.mul(b.mul(rowGroups, own.count), shape.across)
    b.loop(from: thread, to: items, step: plan.threads, name: "tile", hint: .asWritten) { b, item in
      let rest = b.udiv(item, shape.across)
      let rowGroup = b.urem(rest, rowGroups)
      let bunch = own.piece(b, b.udiv(rest, rowGroups))
      // Neighbours have neighbouring rows, so that these lie in different banks.
      let rows = (0..<shape.rowsEach).map { b.add(rowGroup, b.mul(rowGroups, $0)) }
      let firstQuad = b.add(b.mul(bunch, shape.across * shape.quadsEach), b.urem(item, shape.across))
      let quads = (0..<shape.quadsEach).map { b.add(firstQuad, $0 * shape.across) }
      var sums = Array(repeating: context.f32.constant(0.0), count: shape.sums)
      for segment in product.segments { sums = add(&b, segment, shape, product, rows: rows, quads: quads, to: sums) }
      finish(&b, product, shape, rows: rows, quads: quads, sums)
    }
  }

  // MARK: - Sides

  /// A thread's rows of a segment's left side.
  private struct Lefts {
    var rows: [IRValue]
    var element: ElementType
    var alignment: Int
  }

  /// Rows past the last are the last one again: memory may end there.
  private func lefts(_ b: IRBuilder, _ slice: TileSlice, rows: [IRValue]) -> Lefts {
    let last = b.sub(rowCount, 1)
    return Lefts(
      rows: rows.map { rowAddress(b, slice, row: b.smin($0, last)) }, element: kernel[slice.tile].element,
      alignment: alignment(of: slice))
  }

  /// Of each row so many contracted numbers from the one at `index` on, which is a multiple of as many.
  private func numbers(_ b: IRBuilder, _ lefts: Lefts, at index: IRValue, count: Int) -> [[IRValue]] {
    let size = lefts.element.deviceByteCount
    let areWords = lefts.element == .f32 || lefts.element == .bf16 && lefts.alignment >= 4
    return lefts.rows.map { row in
      let place = b.offset(row, bytes: b.mul(index, size))
      if areWords, count > 1 {
        return scalars(
          b, load(b, place, lefts.element, lanes: count, alignment: min(lefts.alignment, size * count)))
      }
      return (0..<count).map {
        load(b, b.offset(place, bytes: $0 * size), lefts.element, lanes: 1, alignment: size)
      }
    }
  }

  /// A thread's columns of a segment's weight. Words of 32 bits hold a number of fp32, or two of bf16 that are contracted one after the
  /// other; 32 columns' words lie together, a line.
  private struct Rights {
    /// Of each quad the address of its first word in the first line.
    var quads: [IRValue]
    /// Contracted numbers of a word.
    var wordRows: Int

    static let lineBytes = 4 * 32

    /// Lines that so many contracted numbers lie in.
    func lines(_ count: Int) -> Int { (count + wordRows - 1) / wordRows }
  }

  /// Segments begin where panels and words of their weights do.
  private func rights(
    _ b: IRBuilder, _ segment: GPUPlan.Product.Segment, _ shape: Shape, _ product: GPUPlan.Product, quads: [IRValue]
  ) -> Rights {
    let i64 = context.i64
    let element = emitter.program[segment.right].element
    let wordRows = element.contractedTogether
    let panelBytes = (segment.rows + wordRows - 1) / wordRows * Rights.lineBytes
    // Past the last quad it is read again.
    let last = (segment.firstColumn + product.into.count - 1) / Self.quadColumns
    return Rights(
      quads: quads.map { quad in
        let place = b.smin(b.add(quad, segment.firstColumn / Self.quadColumns), last)
        let start = b.add(
          b.mul(b.zext(b.udiv(place, Shape.panelQuads), to: i64), panelBytes),
          b.zext(b.mul(b.urem(place, Shape.panelQuads), Rights.lineBytes / Shape.panelQuads), to: i64))
        return b.offset(
          b.offset(address(segment.right), bytes: start), bytes: segment.firstRow / wordRows * Rights.lineBytes)
      }, wordRows: wordRows)
  }

  /// The words of a quad's columns in a line, this many bytes and lines from the first.
  private func words(_ b: IRBuilder, _ quad: IRValue, bytes: IRValue, line: Int) -> [IRValue] {
    let place = b.offset(b.offset(quad, bytes: bytes), bytes: line * Rights.lineBytes)
    switch emitter.target.vendor {
    case .nvidia: return loadAhead(b, place)
    case .amd:
      let words = b.load(context.vector(context.i32, Self.quadColumns), place, alignment: 16, invariant: true)
      return (0..<Self.quadColumns).map { b.extract(words, $0) }
    }
  }

  /// A number of a word: of two the first is in its lower half.
  private func number(_ b: IRBuilder, _ word: IRValue, _ rights: Rights, place: Int) -> IRValue {
    if rights.wordRows == 1 { return b.bitcast(word, to: context.f32) }
    return b.bitcast(place == 0 ? b.shl(word, 16) : b.and(word, -65536), to: context.f32)
  }

  // MARK: - Multiplying

  /// The sums with those of a segment.
  private func add(
    _ b: inout IRBuilder, _ segment: GPUPlan.Product.Segment, _ shape: Shape, _ product: GPUPlan.Product,
    rows: [IRValue], quads: [IRValue], to sums: [IRValue]
  ) -> [IRValue] {
    let (i32, i64) = (context.i32, context.i64)
    let lefts = lefts(b, segment.left, rows: rows)
    let rights = rights(b, segment, shape, product, quads: quads)
    let lineWords = shape.quadsEach * Self.quadColumns
    /// The words of all quads in some lines, line by line, this many bytes from the first.
    func words(_ b: IRBuilder, bytes: IRValue, lines: Int) -> [IRValue] {
      (0..<lines).flatMap { line in rights.quads.flatMap { self.words(b, $0, bytes: bytes, line: line) } }
    }
    /// Adds the products of some contracted numbers from the one at `index` on, whose words these are.
    func multiply(_ b: IRBuilder, at index: IRValue, count: Int, _ words: [IRValue], onto sums: [IRValue]) -> [IRValue]
    {
      var sums = sums
      var (left, firstLeft) = ([[IRValue]](), 0)
      for number in 0..<count {
        if number == firstLeft + (left.first?.count ?? 0) {
          firstLeft = number
          left = numbers(
            b, lefts, at: b.add(index, number), count: count - number >= Self.leftTogether ? Self.leftTogether : 1)
        }
        let (line, place) = number.quotientAndRemainder(dividingBy: rights.wordRows)
        let right = words[line * lineWords..<(line + 1) * lineWords].map { self.number(b, $0, rights, place: place) }
        sums = sums.indices.map { b.fma(left[$0 / lineWords][number - firstLeft], right[$0 % lineWords], sums[$0]) }
      }
      return sums
    }
    let half = shape.halfRows
    let halfLines = rights.lines(half)
    let halfBytes = halfLines * Rights.lineBytes
    let steps = segment.left.count / (2 * half)
    var sums = sums
    if steps > 0 {
      /// The words of one of a step's halves.
      func halfStep(_ b: IRBuilder, _ step: IRValue, _ number: Int) -> [IRValue] {
        let bytes = b.add(b.mul(b.zext(step, to: i64), 2 * halfBytes), number * halfBytes)
        return words(b, bytes: bytes, lines: halfLines)
      }
      let first = halfStep(b, i32.constant(0), 0)
      let carried = b.loop(
        from: i32.constant(0), to: i32.constant(steps), step: 1, name: "contract", hint: .asWritten,
        carrying: sums + first
      ) { b, step, carried in
        let (start, first) = (b.mul(step, 2 * half), Array(carried[shape.sums...]))
        // The words of a half come while the one before it is multiplied. They are carried for one half only: those of two the assembler
        // would load at the end of a step, right before they are needed.
        let second = halfStep(b, step, 1)
        var sums = multiply(b, at: start, count: half, first, onto: Array(carried[..<shape.sums]))
        // Behind the last step there is nothing: it is read again, for nobody.
        let next = halfStep(b, b.smin(b.add(step, 1), steps - 1), 0)
        sums = multiply(b, at: b.add(start, half), count: half, second, onto: sums)
        return sums + next
      }
      sums = Array(carried[..<shape.sums])
    }
    // What is no whole step.
    let rest = segment.left.count - steps * 2 * half
    if rest > 0 {
      let last = words(b, bytes: i64.constant(steps * 2 * halfBytes), lines: rights.lines(rest))
      sums = multiply(b, at: i32.constant(steps * 2 * half), count: rest, last, onto: sums)
    }
    return settled(b, sums)
  }

  // MARK: - Results

  /// Writes what becomes of a thread's sums.
  private func finish(
    _ b: inout IRBuilder, _ product: GPUPlan.Product, _ shape: Shape, rows: [IRValue], quads: [IRValue],
    _ sums: [IRValue]
  ) {
    let into = product.into
    let together = [Self.quadColumns, 2].first { canFinish(into, product.finish, together: $0) } ?? 1
    let lastRow = b.sub(rowCount, 1)
    let columns = quads.flatMap { quad in
      stride(from: 0, to: Self.quadColumns, by: together).map {
        b.add(b.mul(quad, Self.quadColumns), $0)
      }
    }
    for first in stride(from: 0, to: rows.count, by: Self.rowsFinishedTogether) {
      var pieces: [(at: Elements, isThere: IRValue, value: IRValue)] = []
      for number in first..<min(first + Self.rowsFinishedTogether, rows.count) {
        let isRow = b.icmp(.slt, rows[number], rowCount)
        for (piece, column) in columns.enumerated() {
          // What is no result is computed of the last one's place, and not written.
          let at = Elements(
            row: b.smin(rows[number], lastRow), column: b.smin(column, into.count - together),
            lanes: together)
          let firstSum = number * quads.count * Self.quadColumns + piece * together
          let value = finished(
            b, into, at, vector(b, Array(sums[firstSum..<firstSum + together])), product.finish)
          pieces.append((at, b.and(isRow, b.icmp(.slt, column, into.count)), value))
        }
      }
      for piece in pieces { b.ifThen(piece.isThere) { b in put(b, piece.value, into, piece.at) } }
    }
  }
}
