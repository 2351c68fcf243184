import LLVMKit
import TensorIR
import TileIR

/// A contraction's static shape: strides in bytes, columns in lanes. What varies comes as arguments.
///
/// Both sides are words of 32 bits, one of fp32, two of bf16 or four of i8 that are contracted together. Panels of f8e4m3 are
/// decoded to bf16, each once.
struct ContractionShape: Hashable {
  /// Of both sides.
  var element: ElementType
  /// From row to row, and from step to step of the contracted index, of the left side.
  var leftRowStride: Int
  var leftStepStride: Int
  /// Elements of the left side after its last whole word.
  var leftRest: Int
  /// From step to step of the right side; its columns are contiguous within a panel.
  var rightStepStride: Int
  /// Columns of a panel of the right side.
  var panelColumns: Int
  /// From row to row of the result, half of that from pair to pair where rows lie in pairs, and from column to column.
  var resultRowStride: Int
  var resultColumnStride: Int
  /// Columns past the last whole panel.
  var remainder: Int
  var accumulate: Bool
  var visibility: Visibility?
  var finish: FinishShape?
  /// The form of the right side's rows where its panels are decoded to fp32, each once.
  var coded: TableFormat?
  /// What memory is asked for while the rows, which are keys, are multiplied.
  var ahead: [RowsAhead] = []
}

/// A register tile: `height` rows of `vectors` vectors, the last of which has `lastLanes` columns.
struct RegisterTile: Hashable {
  var element: ElementType
  var height: Int
  var vectors: Int
  var lastLanes: Int
  var leftRowStride: Int
  var leftStepStride: Int
  var leftRest: Int
  var rightStepStride: Int
  var resultRowStride: Int
  var resultColumnStride: Int
  var accumulate: Bool
  var finish: FinishShape?
}

extension LevelEmitter {
  /// `void (left, right, result, rows, steps, panels, panelStride, decoded, environment)`: all rows against all panels and
  /// the remainder; `decoded` is room for a panel of bf16, `environment` what finishes the products.
  ///
  /// A panel stays in the first-level cache while the rows stream by.
  func emitContraction(_ shape: ContractionShape, name: String) -> IRFunction {
    let p = context.pointer
    let i64 = context.i64
    let function = addFunction(name, [p, p, p, i64, i64, i64, i64, p, p], returns: context.void, noInline: true)
    let parameters = function.parameters
    let (left, right) = (parameters[0], parameters[1])
    let (rows, steps, panels, panelStride) = (parameters[3], parameters[4], parameters[5], parameters[6])
    var b = IRBuilder(at: function.appendBlock("entry"))
    func panel(_ b: IRBuilder, _ number: IRValue) -> IRValue {
      let stored = b.offset(right, bytes: b.mul(number, panelStride))
      if let format = shape.coded {
        let groups = format == .int4 ? b.lshr(b.add(steps, 1), 1) : steps
        b.call(rowPanelDecoding(format), [stored, parameters[7], groups])
        return parameters[7]
      }
      guard shape.element == .f8e4m3 else { return stored }
      let groups = shape.leftRest > 0 ? b.add(steps, 1) : steps
      b.call(panelDecoding(), [stored, parameters[7], b.mul(groups, shape.panelColumns)])
      return parameters[7]
    }
    b.loop(from: i64.constant(0), to: panels, name: "panel", hint: .asWritten) { b, number in
      let rightPanel = panel(b, number)
      emitColumns(&b, shape, shape.panelColumns, number, left: left, right: rightPanel, function, rows, steps)
    }
    if shape.remainder > 0 {
      let rightPanel = panel(b, panels)
      emitColumns(&b, shape, shape.remainder, panels, left: left, right: rightPanel, function, rows, steps)
    }
    b.ret()
    return function
  }

  /// `columns` columns of a panel, cut into register tiles.
  private func emitColumns(
    _ b: inout IRBuilder, _ shape: ContractionShape, _ columns: Int, _ panel: IRValue, left: IRValue, right: IRValue,
    _ function: IRFunction, _ rows: IRValue, _ steps: IRValue
  ) {
    let width = level.floatLanes * level.microKernel.columnVectors
    for first in stride(from: 0, to: columns, by: width) {
      let count = min(width, columns - first)
      let column = b.add(b.mul(panel, shape.panelColumns), first)
      let result = b.offset(function.parameters[2], bytes: b.mul(column, shape.resultColumnStride))
      emitRows(
        &b, shape, columns: count, left: left, right: b.offset(right, bytes: first * 4), result: result, rows, steps,
        environment: function.parameters[8], column: column)
    }
  }

  /// All rows against one register tile's columns: the tallest tiles first, then what is left by smaller ones.
  private func emitRows(
    _ b: inout IRBuilder, _ shape: ContractionShape, columns: Int, left: IRValue, right: IRValue, result: IRValue,
    _ rows: IRValue, _ steps: IRValue, environment: IRValue, column: IRValue
  ) {
    let vectors = (columns + level.floatLanes - 1) / level.floatLanes
    var seenByColumns: VisibleKeys?
    if let visibility = shape.visibility, visibility.side == .scores {
      seenByColumns = visibleKeys(
        b, visibility, environment: environment, first: column, count: vectors * level.floatLanes)
    }
    func tile(_ b: inout IRBuilder, height: Int, _ row: IRValue) {
      if height == level.microKernel.rows {
        for rows in shape.ahead { ask(b, for: rows, environment: environment, row: row, column: column) }
      }
      guard let visibility = shape.visibility else {
        return wholeTile(b, height: height, row, left: left, right: right, steps)
      }
      if let seenByColumns {
        let key = b.add(firstKey(b, environment: environment), b.trunc(row, to: context.i32))
        b.ifThenElse(sees(b, seenByColumns, key: key, count: height)) { b in
          wholeTile(b, height: height, row, left: left, right: right, steps)
          return []
        } otherwise: { b in
          clearTile(b, height: height, row)
          return []
        }
        return
      }
      let seen = visibleKeys(b, visibility, environment: environment, first: row, count: height)
      let own = visibleSteps(
        b, seen, environment: environment, steps: steps, together: shape.element.contractedTogether)
      b.ifThen(b.icmp(.sgt, own.count, 0)) { b in
        wholeTile(
          b, height: height, row, left: b.offset(left, bytes: b.mul(own.first, shape.leftStepStride)),
          right: b.offset(right, bytes: b.mul(own.first, shape.rightStepStride)), own.count)
      }
    }
    func clearTile(_ b: IRBuilder, height: Int, _ row: IRValue) {
      // Rows in pairs are cleared a pair at a time.
      let isGrouped = shape.finish?.isGrouped == true
      let type = context.vector(shape.resultColumnStride == 2 ? context.i16 : context.i32, level.floatLanes)
      for offset in stride(from: 0, to: height, by: isGrouped ? 2 : 1) {
        let first = b.offset(result, bytes: b.mul(b.add(row, offset), shape.resultRowStride))
        for vector in 0..<vectors {
          let place = b.offset(first, bytes: vector * level.floatLanes * shape.resultColumnStride)
          b.store(type.null(), place, alignment: shape.resultColumnStride)
        }
      }
    }
    func wholeTile(
      _ b: IRBuilder, height: Int, _ row: IRValue, left: IRValue, right: IRValue, _ steps: IRValue
    ) {
      let micro = microKernel(
        RegisterTile(
          element: shape.element == .f8e4m3 ? .bf16 : shape.element, height: height, vectors: vectors,
          lastLanes: columns - (vectors - 1) * level.floatLanes,
          leftRowStride: shape.leftRowStride, leftStepStride: shape.leftStepStride, leftRest: shape.leftRest,
          rightStepStride: shape.rightStepStride, resultRowStride: shape.resultRowStride,
          resultColumnStride: shape.resultColumnStride, accumulate: shape.accumulate, finish: shape.finish))
      b.call(
        micro,
        [
          b.offset(left, bytes: b.mul(row, shape.leftRowStride)), right,
          b.offset(result, bytes: b.mul(row, shape.resultRowStride)), steps,
        ] + (shape.finish == nil ? [] : [environment, row, column]))
    }
    let heights = level.rowHeights(for: shape.element)
    let tallest = heights[0]
    let zero = context.i64.constant(0)
    let bound = b.sub(rows, tallest - 1)
    var row = b.loop(from: zero, to: bound, step: tallest, name: "rows", hint: .asWritten, carrying: [zero]) {
      b, row, _ in
      tile(&b, height: tallest, row)
      return [b.add(row, tallest)]
    }[0]
    for height in heights.dropFirst() {
      row =
        b.ifThenElse(b.icmp(.sge, b.sub(rows, row), height)) { b in
          tile(&b, height: height, row)
          return [b.add(row, height)]
        } otherwise: { _ in
          [row]
        }[0]
    }
  }

  /// `void (left, right, result, steps)`: the register tile, one word of the contracted index after the other. Products
  /// that are finished take `environment, row, column` as well, the tile's place in the result.
  func emitMicroKernel(_ shape: RegisterTile, name: String) -> IRFunction {
    let p = context.pointer
    let i64 = context.i64
    let function = addFunction(
      name, [p, p, p, i64] + (shape.finish == nil ? [] : [p, i64, i64]), returns: context.void, noInline: true)
    let parameters = function.parameters
    for index in 0..<2 { function.addParameterAttributes(index, [.noAlias, .readOnly]) }
    // What finishes a product may read the result's old value.
    if shape.finish == nil { function.addParameterAttributes(2, [.noAlias]) }
    var b = IRBuilder(at: function.appendBlock("entry"))
    let vector = context.vector(context.f32, level.floatLanes)
    let vectorBytes = level.floatLanes * 4
    let mask: IRValue? =
      shape.lastLanes == level.floatLanes
      ? nil
      : context.vector(context.i1, level.floatLanes).constants(
        (0..<level.floatLanes).map { $0 < shape.lastLanes ? 1 : 0 })

    func isLast(_ column: Int) -> Bool { column == shape.vectors - 1 && mask != nil }
    func load(_ b: IRBuilder, _ type: IRType, _ pointer: IRValue, _ column: Int) -> IRValue {
      if let mask, isLast(column) { return b.maskedLoad(type, pointer, mask: mask, alignment: 4) }
      return b.load(type, pointer, alignment: 4)
    }

    var accumulators: [IRValue] = []
    for row in 0..<shape.height {
      for column in 0..<shape.vectors {
        let pointer = b.offset(parameters[2], bytes: row * shape.resultRowStride + column * vectorBytes)
        let zero = shape.element == .i8 ? vector.asIntegers.null() : vector.null()
        accumulators.append(shape.accumulate ? load(b, vector, pointer, column) : zero)
      }
    }
    let words = vector.asIntegers
    let word = shape.element == .f32 ? context.f32 : context.i32
    /// The sums after one more step; `leftWord` gives a row's word in every lane.
    func step(_ b: IRBuilder, _ carried: [IRValue], _ leftWord: (Int) -> IRValue) -> [IRValue] {
      var sums: [IRValue] = []
      let rights = (0..<shape.vectors).map { column in
        load(b, shape.element == .f32 ? vector : words, b.offset(carried[1], bytes: column * vectorBytes), column)
      }
      for row in 0..<shape.height {
        let left = leftWord(row)
        for column in 0..<shape.vectors {
          let sum = carried[2 + row * shape.vectors + column]
          sums.append(level.multiplyAdd(b, context, left, rights[column], sum, shape.element))
        }
      }
      return sums
    }
    let zero = context.i64.constant(0)
    var sums = [parameters[0], parameters[1]] + accumulators
    var stepsDone = zero
    if let together = shape.leftWordsTogether(at: level) {
      stepsDone = b.and(parameters[3], -together)
      sums = b.loop(from: zero, to: stepsDone, step: together, name: "groups", hint: .asWritten, carrying: sums) {
        b, _, carried in
        let lefts = (0..<shape.height).map { leftLanes(b, shape, carried[0], row: $0, count: together) }
        var carried = carried
        for place in 0..<together {
          let sums = step(b, carried) { splatLane(b, lefts[$0], place) }
          carried = [carried[0], b.offset(carried[1], bytes: shape.rightStepStride)] + sums
        }
        carried[0] = b.offset(carried[0], bytes: together * shape.leftStepStride)
        return carried
      }
    }
    sums = b.loop(from: stepsDone, to: parameters[3], step: 1, name: "steps", hint: .asWritten, carrying: sums) {
      b, _, carried in
      let sums = step(b, carried, leftWords(b, shape, carried[0], word))
      return [
        b.offset(carried[0], bytes: shape.leftStepStride), b.offset(carried[1], bytes: shape.rightStepStride),
      ] + sums
    }
    if shape.leftRest > 0 {
      // What lies behind a row's last element is not of it.
      let bytes = shape.element.byteCount
      let last = step(b, sums) { row in
        let start = row * shape.leftRowStride
        let rest = (0..<shape.leftRest).reduce(word.null()) { bits, index in
          let element = b.load(
            context.integer(bits: 8 * bytes), b.offset(sums[0], bytes: start + bytes * index), alignment: bytes)
          return b.or(bits, b.shl(b.zext(element, to: word), 8 * bytes * index))
        }
        return b.splat(rest, level.floatLanes)
      }
      sums = [sums[0], b.offset(sums[1], bytes: shape.rightStepStride)] + last
    }
    if shape.element == .i8 {
      // Behind the panel lies what the codes of the left side, stored 128 too high, added too much.
      let corrections = (0..<shape.vectors).map { load(b, words, b.offset(sums[1], bytes: $0 * vectorBytes), $0) }
      for index in sums.indices.dropFirst(2) {
        let correction = level.multipliesUnsignedCodes ? corrections[(index - 2) % shape.vectors] : words.null()
        sums[index] = b.sitofp(b.add(sums[index], correction), to: vector)
      }
    }
    if let finish = shape.finish {
      emitFinish(
        b, finish, products: Array(sums.dropFirst(2)), vectors: shape.vectors, lastLanes: mask, result: parameters[2],
        rowStride: shape.resultRowStride, columnStride: shape.resultColumnStride,
        at: FinishPlace(environment: parameters[4], row: parameters[5], column: parameters[6]))
      b.ret()
      return function
    }
    for row in 0..<shape.height {
      for column in 0..<shape.vectors {
        let pointer = b.offset(parameters[2], bytes: row * shape.resultRowStride + column * vectorBytes)
        let value = sums[2 + row * shape.vectors + column]
        if let mask, isLast(column) {
          b.maskedStore(value, pointer, mask: mask, alignment: 4)
        } else {
          b.store(value, pointer, alignment: 4)
        }
      }
    }
    b.ret()
    return function
  }
}
