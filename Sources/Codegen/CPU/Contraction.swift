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
  /// From row to row of the result.
  var resultRowStride: Int
  /// Columns past the last whole panel.
  var remainder: Int
  var accumulate: Bool
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
  var accumulate: Bool
}

extension LevelEmitter {
  /// `void (left, right, result, rows, steps, panels, panelStride, decoded)`: all rows against all panels and the
  /// remainder; `decoded` is room for a panel of bf16.
  ///
  /// A panel stays in the first-level cache while the rows stream by.
  func emitContraction(_ shape: ContractionShape, name: String) -> IRFunction {
    let p = context.pointer
    let i64 = context.i64
    let function = addFunction(name, [p, p, p, i64, i64, i64, i64, p], returns: context.void, noInline: true)
    let parameters = function.parameters
    let (left, right, result) = (parameters[0], parameters[1], parameters[2])
    let (rows, steps, panels, panelStride) = (parameters[3], parameters[4], parameters[5], parameters[6])
    var b = IRBuilder(at: function.appendBlock("entry"))
    func panel(_ b: IRBuilder, _ number: IRValue) -> IRValue {
      let stored = b.offset(right, bytes: b.mul(number, panelStride))
      guard shape.element == .f8e4m3 else { return stored }
      let groups = shape.leftRest > 0 ? b.add(steps, 1) : steps
      b.call(panelDecoding(), [stored, parameters[7], b.mul(groups, shape.panelColumns)])
      return parameters[7]
    }
    b.loop(from: i64.constant(0), to: panels, name: "panel", hint: .asWritten) { b, number in
      let rightPanel = panel(b, number)
      let resultPanel = b.offset(result, bytes: b.mul(number, shape.panelColumns * 4))
      emitColumns(&b, shape, shape.panelColumns, left: left, right: rightPanel, result: resultPanel, rows, steps)
    }
    if shape.remainder > 0 {
      let rightPanel = panel(b, panels)
      let resultPanel = b.offset(result, bytes: b.mul(panels, shape.panelColumns * 4))
      emitColumns(&b, shape, shape.remainder, left: left, right: rightPanel, result: resultPanel, rows, steps)
    }
    b.ret()
    return function
  }

  /// `columns` columns of a panel, cut into register tiles.
  private func emitColumns(
    _ b: inout IRBuilder, _ shape: ContractionShape, _ columns: Int, left: IRValue, right: IRValue, result: IRValue,
    _ rows: IRValue, _ steps: IRValue
  ) {
    let width = level.floatLanes * level.microKernel.columnVectors
    for first in stride(from: 0, to: columns, by: width) {
      let count = min(width, columns - first)
      emitRows(
        &b, shape, columns: count, left: left, right: b.offset(right, bytes: first * 4),
        result: b.offset(result, bytes: first * 4), rows, steps)
    }
  }

  /// All rows against one register tile's columns: the tallest tiles first, then what is left by smaller ones.
  private func emitRows(
    _ b: inout IRBuilder, _ shape: ContractionShape, columns: Int, left: IRValue, right: IRValue, result: IRValue,
    _ rows: IRValue, _ steps: IRValue
  ) {
    let vectors = (columns + level.floatLanes - 1) / level.floatLanes
    func tile(_ b: IRBuilder, height: Int, _ row: IRValue) {
      let micro = microKernel(
        RegisterTile(
          element: shape.element == .f8e4m3 ? .bf16 : shape.element, height: height, vectors: vectors,
          lastLanes: columns - (vectors - 1) * level.floatLanes,
          leftRowStride: shape.leftRowStride, leftStepStride: shape.leftStepStride, leftRest: shape.leftRest,
          rightStepStride: shape.rightStepStride, resultRowStride: shape.resultRowStride,
          accumulate: shape.accumulate))
      b.call(
        micro,
        [
          b.offset(left, bytes: b.mul(row, shape.leftRowStride)), right,
          b.offset(result, bytes: b.mul(row, shape.resultRowStride)), steps,
        ])
    }
    let heights = level.microKernel.rowHeights(for: shape.element)
    let tallest = heights[0]
    let zero = context.i64.constant(0)
    let bound = b.sub(rows, tallest - 1)
    var row = b.loop(from: zero, to: bound, step: tallest, name: "rows", hint: .asWritten, carrying: [zero]) {
      b, row, _ in
      tile(b, height: tallest, row)
      return [b.add(row, tallest)]
    }[0]
    for height in heights.dropFirst() {
      row =
        b.ifThenElse(b.icmp(.sge, b.sub(rows, row), height)) { b in
          tile(b, height: height, row)
          return [b.add(row, height)]
        } otherwise: { _ in
          [row]
        }[0]
    }
  }

  /// `void (left, right, result, steps)`: the register tile, one word of the contracted index after the other.
  func emitMicroKernel(_ shape: RegisterTile, name: String) -> IRFunction {
    let p = context.pointer
    let function = addFunction(name, [p, p, p, context.i64], returns: context.void, noInline: true)
    let parameters = function.parameters
    for index in 0..<3 { function.addParameterAttributes(index, index == 2 ? [.noAlias] : [.noAlias, .readOnly]) }
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
    func step(_ b: IRBuilder, _ carried: [IRValue], _ leftWord: (IRValue) -> IRValue) -> [IRValue] {
      var sums: [IRValue] = []
      let rights = (0..<shape.vectors).map { column in
        load(b, shape.element == .f32 ? vector : words, b.offset(carried[1], bytes: column * vectorBytes), column)
      }
      for row in 0..<shape.height {
        let left = b.splat(leftWord(b.offset(carried[0], bytes: row * shape.leftRowStride)), level.floatLanes)
        for column in 0..<shape.vectors {
          let sum = carried[2 + row * shape.vectors + column]
          sums.append(level.multiplyAdd(b, context, left, rights[column], sum, shape.element))
        }
      }
      return sums
    }
    var sums = b.loop(
      from: context.i64.constant(0), to: parameters[3], step: 1, name: "steps", hint: .asWritten,
      carrying: [parameters[0], parameters[1]] + accumulators
    ) { b, _, carried in
      let sums = step(b, carried) { b.load(word, $0, alignment: shape.element.workingByteCount) }
      return [
        b.offset(carried[0], bytes: shape.leftStepStride), b.offset(carried[1], bytes: shape.rightStepStride),
      ] + sums
    }
    if shape.leftRest > 0 {
      // What lies behind a row's last element is not of it.
      let bytes = shape.element.byteCount
      let last = step(b, sums) { pointer in
        (0..<shape.leftRest).reduce(word.null()) { bits, index in
          let element = b.load(
            context.integer(bits: 8 * bytes), b.offset(pointer, bytes: bytes * index), alignment: bytes)
          return b.or(bits, b.shl(b.zext(element, to: word), 8 * bytes * index))
        }
      }
      sums = [sums[0], b.offset(sums[1], bytes: shape.rightStepStride)] + last
    }
    if shape.element == .i8 {
      // Behind the panel lies what the codes of the left side, stored 128 too high, added too much.
      let corrections = (0..<shape.vectors).map { load(b, words, b.offset(sums[1], bytes: $0 * vectorBytes), $0) }
      for index in sums.indices.dropFirst(2) {
        sums[index] = b.sitofp(b.add(sums[index], corrections[(index - 2) % shape.vectors]), to: vector)
      }
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
