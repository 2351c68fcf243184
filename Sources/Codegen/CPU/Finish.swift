import LLVMKit
import TensorIR
import TileIR

/// What products become as they leave the registers, without the addresses: those come in an environment, so that layers
/// share code.
struct FinishShape: Hashable {
  indirect enum Value: Hashable {
    case product
    case constant(Double)
    /// A number of memory at a place that moves with the row and the column.
    case operand(Operand)
    case unary(UnaryFunction, Value)
    case binary(BinaryFunction, Value, Value)
  }

  struct Operand: Hashable {
    /// Which address of the environment is that of row 0 and column 0.
    var slot: Int
    /// In bytes; 0 where all rows, or columns, share a number.
    var rowStride: Int
    var columnStride: Int
    var element: ElementType
  }

  var value: Value
  /// Of the result, with rows in groups or one by one.
  var element: ElementType
  var isGrouped: Bool
  /// What hides elements; nil where nothing does.
  var mask: Visibility?
  /// Addresses in the environment, those of the mask included.
  var slots: Int
}

/// Where a register tile's elements stand in the whole result, and the environment of what finishes them.
struct FinishPlace {
  var environment: IRValue
  var row: IRValue
  var column: IRValue
}

extension LevelEmitter {
  func apply(
    _ b: IRBuilder, _ function: UnaryFunction, _ value: IRValue, roundedTo element: ElementType = .f32
  ) -> IRValue {
    switch function {
    case .silu: element == .bf16 ? level.siluOfFewBits(b, context, value) : VectorMath.silu(b, value)
    case .sigmoid: VectorMath.sigmoid(b, value)
    case .squareRoot: b.sqrt(value)
    case .absolute: b.fabs(value)
    }
  }

  func apply(_ b: IRBuilder, _ function: BinaryFunction, _ first: IRValue, _ second: IRValue) -> IRValue {
    switch function {
    case .add: b.fadd(first, second)
    case .subtract: b.fsub(first, second)
    case .multiply: b.fmul(first, second)
    case .divide: b.fdiv(first, second)
    case .maximum: b.select(b.fcmp(.olt, first, second), second, first)
    case .nonzero: b.select(b.fcmp(.oeq, first, first.type.null()), second, first)
    }
  }

  /// Finishes a register tile's products, row by row, and stores them. `lastLanes` is the mask of the last vector's columns
  /// where not all are in use.
  func emitFinish(
    _ b: IRBuilder, _ finish: FinishShape, products: [IRValue], vectors: Int, lastLanes: IRValue?, result: IRValue,
    rowStride: Int, columnStride: Int, at place: FinishPlace
  ) {
    let lanes = level.floatLanes
    func mask(_ column: Int) -> IRValue? { column == vectors - 1 ? lastLanes : nil }
    func environment(_ slot: Int, _ type: IRType) -> IRValue {
      b.load(type, b.offset(place.environment, bytes: slot * 8))
    }
    // What rows, or columns, share is read once.
    var known: [[Int]: IRValue] = [:]
    func once(_ key: [Int], _ value: () -> IRValue) -> IRValue {
      if let value = known[key] { return value }
      let value = value()
      known[key] = value
      return value
    }
    func load(_ operand: FinishShape.Operand, _ row: Int, _ column: Int) -> IRValue {
      let (rowKey, columnKey) = (operand.rowStride == 0 ? -1 : row, operand.columnStride == 0 ? -1 : column)
      return once([operand.slot, rowKey, columnKey]) {
        let base = once([operand.slot]) {
          let first = environment(operand.slot, context.pointer)
          let bytes = b.add(b.mul(place.row, operand.rowStride), b.mul(place.column, operand.columnStride))
          return b.offset(first, bytes: bytes)
        }
        let pointer = b.offset(base, bytes: row * operand.rowStride + column * lanes * operand.columnStride)
        if operand.columnStride == 0 {
          let stored = b.load(
            storedType(operand.element, lanes: 1), pointer, alignment: operand.element.workingByteCount)
          return b.splat(widen(b, stored, operand.element), lanes)
        }
        let type = storedType(operand.element, lanes: lanes)
        let alignment = operand.element.workingByteCount
        let stored =
          mask(column).map { b.maskedLoad(type, pointer, mask: $0, alignment: alignment) }
          ?? b.load(type, pointer, alignment: alignment)
        return widen(b, stored, operand.element)
      }
    }
    func evaluate(_ value: FinishShape.Value, _ row: Int, _ column: Int, roundedTo element: ElementType) -> IRValue {
      switch value {
      case .product: return products[row * vectors + column]
      case .constant(let number): return products[0].type.constant(number)
      case .operand(let operand): return load(operand, row, column)
      case .unary(let function, let operand):
        return apply(b, function, evaluate(operand, row, column, roundedTo: .f32), roundedTo: element)
      case .binary(let function, let left, let right):
        let first = evaluate(left, row, column, roundedTo: .f32)
        return apply(b, function, first, evaluate(right, row, column, roundedTo: .f32))
      }
    }
    /// The lanes whose query sees the key of this row.
    func visible(_ mask: Visibility, _ row: Int, _ column: Int) -> IRValue {
      let i32 = context.vector(context.i32, lanes)
      let key = once([-1, row]) {
        let key = b.add(firstKey(b, environment: place.environment), b.trunc(b.add(place.row, row), to: context.i32))
        return b.splat(key, lanes)
      }
      func bound(_ number: Int) -> IRValue {
        once([-2, number, column]) {
          let bounds = environment(1 + number, context.pointer)
          return b.load(i32, b.element(bounds, context.i32, b.add(place.column, column * lanes)), alignment: 4)
        }
      }
      return (0..<mask.intervals).reduce(context.vector(context.i1, lanes).null()) { seen, interval in
        b.or(seen, b.and(b.icmp(.sle, bound(2 * interval), key), b.icmp(.slt, key, bound(2 * interval + 1))))
      }
    }
    func finished(_ row: Int, _ column: Int) -> IRValue {
      let value = evaluate(finish.value, row, column, roundedTo: finish.element)
      return finish.mask.map { b.select(visible($0, row, column), value, value.type.null()) } ?? value
    }
    let height = products.count / vectors
    for row in stride(from: 0, to: height, by: finish.isGrouped ? 2 : 1) {
      for column in 0..<vectors {
        let pointer = b.offset(result, bytes: row * rowStride + column * lanes * columnStride)
        let first = finished(row, column)
        let stored: IRValue
        if finish.isGrouped {
          // A last row without a partner gets zeros.
          stored = pairs(b, first, row + 1 < height ? finished(row + 1, column) : first.type.null())
        } else {
          stored = narrow(b, first, finish.element)
        }
        let alignment = finish.isGrouped ? 4 : finish.element.workingByteCount
        if let mask = mask(column) {
          b.maskedStore(stored, pointer, mask: mask, alignment: alignment)
        } else {
          b.store(stored, pointer, alignment: alignment)
        }
      }
    }
  }
}

extension Kernel {
  /// Bytes of the addresses that finish the products of the contraction that has most.
  var environmentByteCount: Int {
    let most = statements.map { statement in
      guard case .contract(let contraction) = statement, let finish = contraction.finish else { return 0 }
      var count = 0
      _ = finish.replacing { _ in
        count += 1
        return nil
      }
      return count
    }.max()
    // Behind them are the addresses of rows that are asked for ahead, of keys and of values.
    return ((most ?? 0) + (mask.map { 1 + 2 * $0.intervals.count + 2 } ?? 0)) * 8
  }
}

extension KernelEmitter {
  /// The shape of what finishes a contraction, its addresses written into the worker's room for them, behind those of the
  /// mask.
  func emitFinish(_ b: IRBuilder, _ finish: Expression, into: TileSlice, mask: Visibility?) -> FinishShape {
    let environment = b.offset(scratch, bytes: emitter.scratch.environments[number])
    var slots: [Expression: Int] = [:]
    func slot(_ expression: Expression, _ address: () -> IRValue) -> Int {
      if let known = slots[expression] { return known }
      let slot = slots.count + (mask?.slots ?? 0)
      slots[expression] = slot
      b.store(address(), b.offset(environment, bytes: slot * 8))
      return slot
    }
    func operand(
      _ expression: Expression, rowStride: Int = 0, columnStride: Int = 0, _ element: ElementType = .f32,
      _ address: () -> IRValue
    ) -> FinishShape.Value {
      .operand(
        FinishShape.Operand(
          slot: slot(expression, address), rowStride: rowStride, columnStride: columnStride, element: element))
    }
    func value(_ expression: Expression) -> FinishShape.Value {
      switch expression {
      case .product: return .product
      case .constant(let number): return .constant(number)
      case .tile(let slice):
        let tile = kernel[slice.tile]
        return operand(
          expression, rowStride: rowStride(of: tile), columnStride: columnStride(of: tile), tile.element
        ) { address(b, slice) }
      case .rowValue(let slice):
        let tile = kernel[slice.tile]
        return operand(expression, rowStride: rowStride(of: tile), tile.element) { address(b, slice) }
      case .columnValue(let buffer, let first):
        return operand(expression, columnStride: 4) { b.offset(address(b, buffer), bytes: first * 4) }
      case .element(let buffer, let index):
        return operand(expression) { b.offset(address(b, buffer), bytes: index * 4) }
      case .scalar(let scalar): return operand(expression) { b.offset(frame, bytes: emitter.slot(of: scalar)) }
      case .unary(let function, let operand): return .unary(function, value(operand))
      case .binary(let function, let left, let right): return .binary(function, value(left), value(right))
      // The verifier lets none of these finish a product.
      case .gathered, .unlessIndex, .whereBits, .positionBias, .timeBias: return .product
      }
    }
    let tile = kernel[into.tile]
    return FinishShape(
      value: value(finish), element: tile.element, isGrouped: tile.isGrouped, mask: mask,
      slots: slots.count + (mask?.slots ?? 0))
  }
}
