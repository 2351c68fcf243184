import LLVMKit
import TensorIR
import TileIR

// Maps and reductions: rows one after the other, columns sixteen at a time, the last ones under a mask.
extension KernelEmitter {
  /// One step through a row: which columns, and which lanes of them.
  struct Columns {
    var row: IRValue
    var first: IRValue
    var lanes: Int
    /// Lanes in use where not all are.
    var mask: IRValue?
  }

  func emitMap(_ b: inout IRBuilder, into: TileSlice, _ expression: Expression, masked: Bool) {
    if masked, let keys {
      b.ifThenElse(keys.allVisible) { b in
        emitMapLoop(&b, into: into, expression, masked: false)
        return []
      } otherwise: { b in
        emitMapLoop(&b, into: into, expression, masked: true)
        return []
      }
    } else {
      emitMapLoop(&b, into: into, expression, masked: false)
    }
  }

  private func emitMapLoop(_ b: inout IRBuilder, into: TileSlice, _ expression: Expression, masked: Bool) {
    let tile = kernel[into.tile]
    if tile.isGrouped { return emitGroupedMapLoop(&b, into: into, expression, masked: masked) }
    let base = address(b, into)
    let stride = rowStride(of: tile)
    let count = rows(of: tile)
    askForFirstRows(&b, of: expression, count)
    forRows(&b, count) { b, row in
      askForRows(&b, of: expression, after: row, count)
      let rowValues = rowValues(b, of: expression, row: row, width: into.count)
      let rowBase = b.offset(base, bytes: b.mul(row, stride))
      forColumns(&b, row: row, count: into.count, limit: columnLimit(tile)) { b, columns in
        let value = emitMasked(&b, expression, columns, rowValues, masked: masked, roundedTo: tile.element)
        store(b, value, rowBase, columns, storage(of: tile))
      }
    }
  }

  private func emitMasked(
    _ b: inout IRBuilder, _ expression: Expression, _ columns: Columns, _ rowValues: RowValues, masked: Bool,
    roundedTo element: ElementType
  ) -> IRValue {
    let value = emit(&b, expression, columns, rowValues, roundedTo: element)
    return masked ? b.select(visible(b, columns), value, value.type.null()) : value
  }

  /// Two rows at a time, which lie together; a last one without a partner gets zeros.
  private func emitGroupedMapLoop(_ b: inout IRBuilder, into: TileSlice, _ expression: Expression, masked: Bool) {
    let tile = kernel[into.tile]
    let base = address(b, into)
    let stride = rowStride(of: tile)
    func emitGroup(_ b: inout IRBuilder, _ group: IRValue, hasSecond: Bool) {
      let rows = (0..<(hasSecond ? 2 : 1)).map { b.add(b.mul(group, 2), $0) }
      let values = rows.map { rowValues(b, of: expression, row: $0, width: into.count) }
      let groupBase = b.offset(base, bytes: b.mul(group, stride))
      forColumns(&b, row: rows[0], count: into.count, limit: columnLimit(tile)) { b, columns in
        let elements = zip(rows, values).map { row, values in
          var columns = columns
          columns.row = row
          return emitMasked(&b, expression, columns, values, masked: masked, roundedTo: tile.element)
        }
        let words = emitter.pairs(b, elements[0], hasSecond ? elements[1] : elements[0].type.null())
        store(b, b.bitcast(words, to: elements[0].type), groupBase, columns, .f32)
      }
    }
    let count = rows(of: tile)
    let groups = b.lshr(count, 1)
    b.loop(from: context.i64.constant(0), to: groups, name: "group", hint: .asWritten) { b, group in
      emitGroup(&b, group, hasSecond: true)
    }
    b.ifThen(b.icmp(.ne, b.and(count, 1), 0)) { b in emitGroup(&b, groups, hasSecond: false) }
  }

  func emitReduce(_ b: inout IRBuilder, into: TileSlice, sum: Expression, columns count: Int) {
    let tile = kernel[into.tile]
    let base = address(b, into)
    let stride = rowStride(of: tile)
    let vector = context.vector(context.f32, Self.lanes)
    forRows(&b, rows(of: tile)) { b, row in
      let rowValues = rowValues(b, of: sum, row: row, width: count)
      let whole = count / Self.lanes * Self.lanes
      var total = b.loop(
        from: context.i64.constant(0), to: context.i64.constant(whole), step: Self.lanes, name: "sum",
        carrying: [vector.null()]
      ) { b, first, carried in
        let columns = Columns(row: row, first: first, lanes: Self.lanes, mask: nil)
        return [b.fadd(carried[0], emit(&b, sum, columns, rowValues))]
      }[0]
      if whole < count {
        let columns = lastColumns(b, row: row, whole: whole, count: count)
        let value = emit(&b, sum, columns, rowValues)
        total = b.fadd(total, columns.mask.map { b.select($0, value, value.type.null()) } ?? value)
      }
      let number = b.reduceByHalves(total) { b, low, high in b.fadd(low, high) }
      b.store(number, b.offset(base, bytes: b.mul(row, stride)), alignment: 4)
    }
  }

  func emitMaximum(_ b: inout IRBuilder, into: TileSlice, of expression: Expression, columns count: Int) {
    let tile = kernel[into.tile]
    let base = address(b, into)
    let stride = rowStride(of: tile)
    let least = context.vector(context.f32, Self.lanes).constant(-Double.infinity)
    func larger(_ b: IRBuilder, _ first: IRValue, _ second: IRValue) -> IRValue {
      b.select(b.fcmp(.olt, first, second), second, first)
    }
    forRows(&b, rows(of: tile)) { b, row in
      let rowValues = rowValues(b, of: expression, row: row, width: count)
      let whole = count / Self.lanes * Self.lanes
      var largest = b.loop(
        from: context.i64.constant(0), to: context.i64.constant(whole), step: Self.lanes, name: "maximum",
        carrying: [least]
      ) { b, first, carried in
        let columns = Columns(row: row, first: first, lanes: Self.lanes, mask: nil)
        return [larger(b, carried[0], emit(&b, expression, columns, rowValues))]
      }[0]
      if whole < count {
        let columns = lastColumns(b, row: row, whole: whole, count: count)
        let value = emit(&b, expression, columns, rowValues)
        largest = larger(b, largest, columns.mask.map { b.select($0, value, least) } ?? value)
      }
      let number = b.reduceByHalves(largest, larger)
      b.store(number, b.offset(base, bytes: b.mul(row, stride)), alignment: 4)
    }
  }

  // MARK: - Columns

  /// Tiles of keys have the block's rows as columns: only as many panels of them as hold rows are worked on.
  func columnLimit(_ tile: Tile) -> IRValue? {
    guard case .keys = tile.rows, case .scratch = tile.home else { return nil }
    return rowCount
  }

  func forColumns(
    _ b: inout IRBuilder, row: IRValue, count: Int, limit: IRValue?, _ body: (inout IRBuilder, Columns) -> Void
  ) {
    let i64 = context.i64
    if count == 1 {
      body(&b, Columns(row: row, first: i64.constant(0), lanes: 1, mask: nil))
      return
    }
    let whole = count / Self.lanes * Self.lanes
    let end = limit ?? i64.constant(whole)
    b.loop(from: i64.constant(0), to: end, step: Self.lanes, name: "columns") { b, first in
      body(&b, Columns(row: row, first: first, lanes: Self.lanes, mask: nil))
    }
    if whole < count, limit == nil { body(&b, lastColumns(b, row: row, whole: whole, count: count)) }
  }

  private func lastColumns(_ b: IRBuilder, row: IRValue, whole: Int, count: Int) -> Columns {
    let used = (0..<Self.lanes).map { $0 < count - whole ? 1 : 0 }
    return Columns(
      row: row, first: context.i64.constant(whole), lanes: Self.lanes,
      mask: context.vector(context.i1, Self.lanes).constants(used))
  }

  private func type(_ columns: Columns, of element: IRType) -> IRType {
    columns.lanes == 1 ? element : context.vector(element, columns.lanes)
  }

  /// The fp32 values of a row's elements in these columns, and `offset` further on.
  func load(
    _ b: IRBuilder, _ row: IRValue, _ columns: Columns, _ element: ElementType, offset: Int = 0
  ) -> IRValue {
    let type = emitter.storedType(element, lanes: columns.lanes)
    let pointer = b.element(row, type.elementType, b.add(columns.first, offset))
    let stored =
      columns.mask.map { b.maskedLoad(type, pointer, mask: $0, alignment: element.workingByteCount) }
      ?? b.load(type, pointer, alignment: element.workingByteCount)
    return emitter.widen(b, stored, element)
  }

  /// Writes fp32 values into a row's elements.
  func store(_ b: IRBuilder, _ value: IRValue, _ row: IRValue, _ columns: Columns, _ element: ElementType) {
    let stored = emitter.narrow(b, value, element)
    let pointer = b.element(row, stored.type.elementType, columns.first)
    if let mask = columns.mask {
      b.maskedStore(stored, pointer, mask: mask, alignment: element.workingByteCount)
    } else {
      b.store(stored, pointer, alignment: element.workingByteCount)
    }
  }

  private func splat(_ b: IRBuilder, _ scalar: IRValue, _ columns: Columns) -> IRValue {
    columns.lanes == 1 ? scalar : b.splat(scalar, columns.lanes)
  }

  // MARK: - Expressions

  /// What an expression reads once a row, read before the loop over its columns.
  struct RowValues {
    fileprivate var numbers: [Expression: IRValue] = [:]
    /// What gives the columns of rows by index.
    fileprivate var rows: [Expression: (IRBuilder, Columns) -> IRValue] = [:]
  }

  private func rowValues(_ b: IRBuilder, of expression: Expression, row: IRValue, width: Int) -> RowValues {
    var values = RowValues()
    func visit(_ expression: Expression) {
      switch expression {
      case .rowValue(let slice):
        let pointer = b.offset(address(b, slice), bytes: b.mul(row, rowStride(of: kernel[slice.tile])))
        let column = Columns(row: row, first: context.i64.constant(0), lanes: 1, mask: nil)
        values.numbers[expression] = load(b, pointer, column, storage(of: kernel[slice.tile]))
      case .element(let buffer, let index):
        values.numbers[expression] = b.load(
          context.f32, b.element(address(b, buffer), context.f32, index), alignment: 4)
      case .scalar(let scalar):
        values.numbers[expression] = b.load(context.f32, b.offset(frame, bytes: emitter.slot(of: scalar)))
      case .unlessIndex(let vector, let id, let operand):
        let index = b.load(context.i64, b.element(indexVector(b, vector), context.i64, row))
        values.numbers[expression] = b.icmp(.ne, index, id)
        visit(operand)
      case .whereBits(let vector, let mask, let operand):
        let index = b.load(context.i64, b.element(indexVector(b, vector), context.i64, row))
        values.numbers[expression] = b.icmp(.sgt, b.and(index, mask), 0)
        visit(operand)
      case .unary(_, let operand): visit(operand)
      case .binary(_, let left, let right):
        visit(left)
        visit(right)
      case .timeBias(let bias):
        let keyRow = b.add(b.add(keySequenceStart, keys?.first ?? firstPosition), row)
        values.numbers[expression] = b.load(context.i64, b.element(address(b, bias.keyTimes), context.i64, keyRow))
      case .gathered(let buffer, let vector):
        let index = b.load(context.i64, b.element(indexVector(b, vector), context.i64, row))
        values.rows[expression] = rowReader(b, buffer, index, width: width)
      case .tile, .product, .columnValue, .constant, .positionBias: break
      }
    }
    visit(expression)
    return values
  }

  /// The values of an expression, of which only so much counts as an element of this type keeps.
  private func emit(
    _ b: inout IRBuilder, _ expression: Expression, _ columns: Columns, _ rowValues: RowValues,
    roundedTo element: ElementType = .f32
  ) -> IRValue {
    let type = type(columns, of: context.f32)
    switch expression {
    // The verifier lets it stand in contractions only.
    case .product: return type.null()
    case .tile(let slice):
      let row = b.offset(address(b, slice), bytes: b.mul(columns.row, rowStride(of: kernel[slice.tile])))
      return load(b, row, columns, storage(of: kernel[slice.tile]))
    case .rowValue, .element, .scalar:
      return splat(b, rowValues.numbers[expression] ?? context.f32.constant(0.0), columns)
    case .gathered: return rowValues.rows[expression].map { $0(b, columns) } ?? type.null()
    case .columnValue(let buffer, let first):
      return load(b, address(b, buffer), columns, .f32, offset: first)
    case .constant(let number): return type.constant(number)
    case .unary(let function, let operand):
      let value = emit(&b, operand, columns, rowValues)
      return emitter.apply(b, function, value, roundedTo: element)
    case .binary(let function, let left, let right):
      let first = emit(&b, left, columns, rowValues)
      return emitter.apply(b, function, first, emit(&b, right, columns, rowValues))
    case .unlessIndex(_, _, let operand), .whereBits(_, _, let operand):
      let keep = rowValues.numbers[expression] ?? context.boolean(true)
      return b.select(keep, emit(&b, operand, columns, rowValues), type.null())
    case .positionBias(let weights, let reference): return positionBias(b, weights, reference, columns)
    case .timeBias(let bias):
      return timeBias(b, bias, columns, keyTime: rowValues.numbers[expression] ?? context.i64.constant(0))
    }
  }

  // MARK: - Keys and queries

  /// The lanes whose query sees the key of this row.
  private func visible(_ b: IRBuilder, _ columns: Columns) -> IRValue {
    let i32 = context.vector(context.i32, columns.lanes)
    let key = b.add(keys?.first ?? firstPosition, columns.row)
    let position = b.splat(b.trunc(key, to: context.i32), columns.lanes)
    var result = context.vector(context.i1, columns.lanes).null()
    for interval in hulls.indices {
      let starts = b.load(
        i32, b.element(intervalBound(b, interval, end: false), context.i32, columns.first), alignment: 4)
      let ends = b.load(
        i32, b.element(intervalBound(b, interval, end: true), context.i32, columns.first), alignment: 4)
      result = b.or(result, b.and(b.icmp(.sle, starts, position), b.icmp(.slt, position, ends)))
    }
    return result
  }

  /// The lanes that are rows of the block: what lies at other lanes must not be read.
  private func queryMask(_ b: IRBuilder, _ columns: Columns) -> IRValue {
    b.laneMask(below: b.sub(rowCount, columns.first), lanes: columns.lanes)
  }

  private func positionBias(_ b: IRBuilder, _ weights: BufferID, _ reference: Int, _ columns: Columns) -> IRValue {
    // Back to front, the weights of ascending rows ascend in memory.
    let last = emitter.program[weights].columns - 1
    let key = b.add(keys?.first ?? firstPosition, columns.row)
    let query = b.add(firstPosition, columns.first)
    let index = b.add(b.sub(query, key), last - reference)
    let pointer = b.element(address(b, weights), context.f32, index)
    let type = context.vector(context.f32, columns.lanes)
    let mask = queryMask(b, columns)
    guard let dropped else { return b.maskedLoad(type, pointer, mask: mask, alignment: 4) }
    // Rows before and after those that the selection leaves out have their weights in two places.
    let isBefore = b.laneMask(below: b.sub(dropped.start, query), lanes: columns.lanes)
    let isAfter = b.select(isBefore, isBefore.type.null(), mask)
    let before = b.maskedLoad(type, pointer, mask: b.and(mask, isBefore), alignment: 4)
    let moved = b.element(pointer, context.f32, dropped.count)
    return b.select(isBefore, before, b.maskedLoad(type, moved, mask: isAfter, alignment: 4))
  }

  private func timeBias(_ b: IRBuilder, _ bias: TimeBias, _ columns: Columns, keyTime: IRValue) -> IRValue {
    let lanes = columns.lanes
    let (f32, i32, i64) = (
      context.vector(context.f32, lanes), context.vector(context.i32, lanes), context.vector(context.i64, lanes)
    )
    let mask = queryMask(b, columns)
    let query = b.add(firstRow, columns.first)
    let queryTimes = b.maskedLoad(
      i64, b.element(address(b, bias.queryTimes), context.i64, query), mask: mask, alignment: 8)
    let keyTimes = b.splat(keyTime, lanes)
    // The difference wraps, but its magnitude as an unsigned number is exact.
    let magnitude = b.select(
      b.icmp(.sgt, queryTimes, keyTimes), b.sub(queryTimes, keyTimes), b.sub(keyTimes, queryTimes))
    let rounded = emitter.level.floats(b, ofUnsigned: magnitude, f32)
    let x = b.select(b.fcmp(.olt, rounded, f32.constant(1.0)), f32.constant(1.0), rounded)

    let thresholds = address(b, bias.thresholds)
    let count = emitter.program[bias.thresholds].columns
    let bucket = b.timeBucket(of: x, count: count, integers: i32) { bucket, hasNext in
      b.gather(f32, b.element(thresholds, context.f32, b.sext(bucket, to: i64)), mask: hasNext, alignment: 4)
    }
    let weights = address(b, bias.weights)
    return b.gather(f32, b.element(weights, context.f32, b.sext(bucket, to: i64)), mask: mask, alignment: 4)
  }
}
