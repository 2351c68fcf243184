import LLVMKit
import TensorIR
import TileIR

// Values of expressions, some neighbours in a row at once.
extension GPUKernelEmitter {
  /// What an expression may read beside memory.
  struct Reading {
    /// The product that a contraction finishes.
    var product: IRValue?
    /// Whether nothing is read before what was written earlier, though it does not change: it would take registers.
    var isInOrder = false
    /// Tiles in registers, by the slice that reads them.
    var tile: (TileSlice) -> IRValue? = { _ in nil }
    /// The row's index.
    var index: (IndexVectorID) -> IRValue? = { _ in nil }
    /// The key, counted from the first of its sequence, i32, where the element is a score.
    var key: IRValue?
    /// The weight of the times of the query and the key.
    var timeWeight: IRValue?
  }

  /// The values of an expression, of which only so much counts as an element of this type keeps.
  func value(
    _ b: IRBuilder, _ expression: Expression, _ at: Elements, _ reading: Reading, roundedTo element: ElementType = .f32
  ) -> IRValue {
    let type = at.lanes == 1 ? context.f32 : context.vector(context.f32, at.lanes)
    func value(_ expression: Expression) -> IRValue { self.value(b, expression, at, reading) }
    func splat(_ number: IRValue) -> IRValue { b.splat(number, at.lanes) }
    switch expression {
    case .product: return reading.product ?? type.null()
    case .tile(let slice):
      if let known = reading.tile(slice) { return known }
      let tile = kernel[slice.tile]
      let size = tile.element.deviceByteCount
      let pointer = elementAddress(b, slice, row: at.row, column: at.column)
      return load(
        b, pointer, tile.element, lanes: at.lanes, alignment: min(alignment(of: slice), size * at.lanes),
        areCallers: holdsCallersCodes(slice.tile))
    case .rowValue(let slice):
      if let known = reading.tile(slice) { return splat(known) }
      return splat(load(b, rowAddress(b, slice, row: at.row), kernel[slice.tile].element, lanes: 1, alignment: 4))
    case .columnValue(let buffer, let first):
      let pointer = b.offset(address(buffer), bytes: b.mul(b.add(at.column, first), 4))
      return load(
        b, pointer, .f32, lanes: at.lanes, alignment: Self.alignment(4 * at.lanes, 4 * first),
        invariant: !reading.isInOrder)
    case .gathered(let buffer, let vector):
      return tableRow(b, buffer, reading.index(vector) ?? context.i64.constant(0), at)
    case .element(let buffer, let index):
      return splat(b.load(context.f32, b.element(address(buffer), context.f32, index), alignment: 4, invariant: true))
    case .constant(let number): return type.constant(number)
    case .scalar(let id): return splat(scalar(id))
    case .unary(let function, let operand): return apply(b, function, value(operand), roundedTo: element)
    case .binary(let function, let left, let right): return apply(b, function, value(left), value(right))
    case .unlessIndex(let vector, let id, let operand):
      let index = reading.index(vector) ?? context.i64.constant(0)
      return b.select(b.icmp(.ne, index, id), value(operand), type.null())
    case .whereBits(let vector, let mask, let operand):
      let index = reading.index(vector) ?? context.i64.constant(0)
      return b.select(b.icmp(.sgt, b.and(index, mask), 0), value(operand), type.null())
    case .positionBias(let weights, let reference):
      guard let key = reading.key else { return type.null() }
      // Back to front: the weight number `reference + key - row` is as far from the last one.
      let last = emitter.program[weights].columns - 1
      let row = b.trunc(keyPosition(b, b.add(firstPosition, b.zext(at.row, to: context.i64))), to: context.i32)
      let index = b.smax(b.add(b.sub(row, key), last - reference), 0)
      return b.load(
        context.f32, b.element(address(weights), context.f32, b.zext(b.smin(index, last), to: context.i64)),
        alignment: 4,
        invariant: true)
    case .timeBias: return reading.timeWeight ?? type.null()
    }
  }

  private func apply(_ b: IRBuilder, _ function: BinaryFunction, _ left: IRValue, _ right: IRValue) -> IRValue {
    switch function {
    case .add: b.relax(b.fadd(left, right), .contract)
    case .subtract: b.relax(b.fsub(left, right), .contract)
    case .multiply: b.relax(b.fmul(left, right), .contract)
    case .divide: b.fdiv(left, right)
    case .maximum: b.select(b.fcmp(.olt, left, right), right, left)
    case .nonzero: b.select(b.fcmp(.oeq, left, left.type.null()), right, left)
    }
  }

  private func apply(_ b: IRBuilder, _ function: UnaryFunction, _ value: IRValue, roundedTo element: ElementType)
    -> IRValue
  {
    vector(
      b,
      scalars(b, value).map { number in
        switch function {
        case .silu: silu(b, number, isShort: element == .bf16)
        case .sigmoid: sigmoid(b, number)
        case .absolute: b.fabs(number)
        case .squareRoot: squareRoot(b, number)
        }
      })
  }

  // MARK: - Rows of tables

  /// Numbers of the buffer's row `index`; a quantized one decoded to code * scale + bias with two roundings.
  private func tableRow(_ b: IRBuilder, _ buffer: BufferID, _ index: IRValue, _ at: Elements) -> IRValue {
    let declared = emitter.program[buffer]
    let stride = declared.columns * declared.element.byteCount
    let row = b.offset(address(buffer), bytes: b.mul(index, stride))
    guard case .weight(_, .coded(let format)) = declared.home else {
      let size = declared.element.byteCount
      return load(
        b, b.offset(row, bytes: b.mul(at.column, size)), declared.element, lanes: at.lanes,
        alignment: Self.alignment(stride, size * at.lanes))
    }
    let codes = format.codeByteCount(ofRow: declared.columns)
    let size = format == .int8 ? 4 : 2
    let numbers = [codes, codes + size].map { offset -> IRValue in
      // Rows begin at any byte, the second number at any even one of them.
      let place = b.offset(row, bytes: offset)
      let bits = (0..<size).reduce(context.i32.constant(0)) { bits, byte in
        let next = b.load(context.i8, b.offset(place, bytes: byte), alignment: 1, invariant: true)
        return b.or(bits, b.shl(b.zext(next, to: context.i32), 8 * byte))
      }
      return format == .int8
        ? b.bitcast(bits, to: context.f32)
        : b.fpext(b.bitcast(b.trunc(bits, to: context.i16), to: context.f16), to: context.f32)
    }
    return vector(
      b,
      (0..<at.lanes).map { lane in
        let column = b.add(at.column, lane)
        let byte = format == .int8 ? column : b.lshr(column, 1)
        var code = b.zext(
          b.load(context.i8, b.offset(row, bytes: b.zext(byte, to: context.i64)), alignment: 1, invariant: true),
          to: context.i32)
        if format == .int4 { code = b.and(b.lshr(code, b.mul(b.and(column, 1), 4)), 15) }
        return b.fadd(b.fmul(b.uitofp(code, to: context.f32), numbers[0]), numbers[1])
      })
  }
}
