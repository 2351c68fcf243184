import TensorIR
import TileIR

// What treats each row alone, in the kernel at hand.
extension TileLowering {
  func width(of value: ValueID) -> Int { function[value].type.tensor?.shape.last?.extent ?? 1 }

  /// What a value's elements are in a tile.
  func element(of value: ValueID) throws(LoweringError) -> ElementType {
    guard let element = function[value].type.tensor?.element, element.isTileElement else {
      throw LoweringError(
        message: "%\(function[value].name) is \(function[value].type); code computes f32, bf16 and codes")
    }
    return element
  }

  mutating func lowerRowOperation(_ operation: Operation, into: TileSlice) throws(LoweringError) {
    let operands = operation.operands
    switch operation.payload {
    case .add, .convert, .dequantizeRows, .gather, .multiply, .scale, .sigmoid, .silu, .zeroRows:
      try map(into, elementwise(operation))
    case .concatenate:
      var first = into.first
      for operand in operands {
        let part = TileSlice(into.tile, first: first, count: width(of: operand))
        try map(part, expression(operand))
        first += part.count
      }
    case .layerNorm(let norm):
      let x = try tile(operands[0])
      var affine: (weight: BufferID, bias: BufferID)?
      if operands.count == 3 { affine = (try weightBuffer(operands[1], .plain), try weightBuffer(operands[2], .plain)) }
      normalize(into, x, epsilon: norm.epsilon) { value in
        guard let affine else { return value }
        return .binary(
          .add, .binary(.multiply, value, .columnValue(affine.weight, first: 0)), .columnValue(affine.bias, first: 0))
      }
    case .groupNorm(let norm):
      let x = try tile(operands[0])
      let weight = try weightBuffer(operands[1], .plain)
      let bias = try weightBuffer(operands[2], .plain)
      let count = x.count / norm.groups
      for group in 0..<norm.groups {
        normalize(
          TileSlice(into.tile, first: into.first + group * count, count: count),
          TileSlice(x.tile, first: x.first + group * count, count: count), epsilon: norm.epsilon
        ) { .binary(.add, .binary(.multiply, $0, .element(weight, group)), .element(bias, group)) }
      }
    case .l2Norm(let norm):
      let x = try tile(operands[0])
      let length = rowValue("length")
      kernel.body.append(.reduce(into: length, sum: .binary(.multiply, .tile(x), .tile(x)), columns: x.count))
      let longest = Expression.binary(.maximum, .unary(.squareRoot, .tile(length)), .constant(norm.epsilon))
      try map(length, longest)
      try map(into, .binary(.divide, .tile(x), .rowValue(length)))
    case .linear(let linear): try lowerLinear(linear, operands, into: into)
    case .quantizedLinear(let linear): try lowerQuantizedLinear(linear, operands, into: into)
    case .embedBits(let embed): try lowerEmbedBits(embed, operands, into: into)
    case .attention, .bucketTimes, .calendarUnits, .extendOffsets, .extendRows, .lastRows, .lengths, .markBits,
      .nextRows,
      .originalRows, .pickRows, .positions, .quantizeRows, .replaceTargets, .restoreRows, .selectOffsets, .selectRows,
      .split, .topK:
      throw LoweringError(message: "\(operation.payload.mnemonic) does not treat rows alone")
    }
  }

  /// What an operation gives that computes each element from those at the same place of its operands, or reads a table.
  mutating func elementwise(_ operation: Operation) throws(LoweringError) -> Expression {
    let operands = operation.operands
    switch operation.payload {
    case .add: return .binary(.add, try expression(operands[0]), try expression(operands[1]))
    case .multiply: return .binary(.multiply, try expression(operands[0]), try expression(operands[1]))
    case .scale(let scale): return .binary(.multiply, try expression(operands[0]), .constant(scale.factor))
    case .silu: return .unary(.silu, try expression(operands[0]))
    case .sigmoid: return .unary(.sigmoid, try expression(operands[0]))
    case .convert: return try expression(operands[0])
    case .dequantizeRows: return .binary(.multiply, try expression(operands[0]), .rowValue(try tile(operands[1])))
    case .gather(let gather): return try gathered(gather, operands)
    case .zeroRows(let zero):
      let indices = kernel.addIndexVector("id")
      kernel.body.append(.indices(indices, .loaded(try buffer(of: operands[1]), entries: Int.max)))
      return .unlessIndex(indices, is: zero.id, try expression(operands[0]))
    default: throw LoweringError(message: "\(operation.payload.mnemonic) does not treat elements alone")
    }
  }

  /// The rows of the table one after the other, each in its columns.
  private mutating func lowerEmbedBits(
    _ embed: EmbedBits, _ operands: [ValueID], into: TileSlice
  ) throws(LoweringError) {
    let table = try weightBuffer(operands[0], .plain, asVector: true)
    let values = kernel.addIndexVector("bits")
    kernel.body.append(.indices(values, .loaded(try buffer(of: operands[1]), entries: Int.max)))
    let width = into.count / embed.masks.count
    for (row, mask) in embed.masks.enumerated() {
      let columns = TileSlice(into.tile, first: into.first + row * width, count: width)
      try map(columns, .whereBits(values, mask: mask, .columnValue(table, first: row * width)))
    }
  }

  mutating func map(_ into: TileSlice, _ expression: Expression) throws(LoweringError) {
    kernel.body.append(.map(into: into, expression))
  }

  mutating func tile(_ value: ValueID) throws(LoweringError) -> TileSlice { slice(of: try place(of: value)) }

  mutating func expression(_ value: ValueID) throws(LoweringError) -> Expression {
    if let inlined = inlined[value] { return inlined }
    return .tile(try tile(value))
  }

  mutating func rowValue(_ name: String) -> TileSlice {
    scratch(name, rows: .block, capacity: kernel.domain.block, columns: 1)
  }

  /// (x - mean) / sqrt(variance + epsilon), in two passes over the row, then `affine`.
  private mutating func normalize(
    _ into: TileSlice, _ x: TileSlice, epsilon: Double, affine: (Expression) -> Expression
  ) {
    let mean = rowValue("mean")
    let deviation = rowValue("deviation")
    let share = Expression.constant(1 / Double(x.count))
    let centered = Expression.binary(.subtract, .tile(x), .rowValue(mean))
    let variance = Expression.binary(.add, .binary(.multiply, .tile(deviation), share), .constant(epsilon))
    kernel.body += [
      .reduce(into: mean, sum: .tile(x), columns: x.count),
      .map(into: mean, .binary(.multiply, .tile(mean), share)),
      .reduce(into: deviation, sum: .binary(.multiply, centered, centered), columns: x.count),
      .map(into: deviation, .binary(.divide, .constant(1), .unary(.squareRoot, variance))),
      .map(into: into, affine(.binary(.multiply, centered, .rowValue(deviation)))),
    ]
  }

  private mutating func lowerLinear(_ linear: Linear, _ operands: [ValueID], into: TileSlice) throws(LoweringError) {
    let parts = virtualConcatenations[operands[0]] ?? [operands[0]]
    let inner = parts.reduce(0) { $0 + width(of: $1) }
    let packing = packing(
      ofWeight: operands[1], contracting: parts.map { width(of: $0) }, columns: into.count, linear.orientation)
    let weight = try weightBuffer(operands[1], packing)
    var firstRow = 0
    for part in parts {
      let left: TileSlice
      if let element = conversions[operands[0]] {
        left = try converted(part, to: element)
      } else {
        left = try leftSide(try tile(part), of: packing)
      }
      kernel.body.append(
        .contract(
          Contraction(
            into: into, left: left, right: .panels(weight, firstRow: firstRow, rows: inner, firstColumn: 0),
            accumulate: firstRow > 0)))
      firstRow += left.count
    }
    if operands.count == 3 {
      let bias = try weightBuffer(operands[2], .plain)
      try map(into, .binary(.add, .tile(into), .columnValue(bias, first: 0)))
    }
  }

  private mutating func gathered(_ gather: Gather, _ operands: [ValueID]) throws(LoweringError) -> Expression {
    let table = try weightBuffer(operands[0], gather.rows.map { .coded($0) } ?? .plain)
    let entries = program[table].rows.dimension.extent ?? 0
    let outside: OutsideIndex
    switch gather.outOfRange {
    case .error:
      outside = .unchanged
      try checkIDs(operands[1], entries: entries)
    case .fallback(let row): outside = .fallback(row)
    case .modulo: outside = .modulo
    }
    let indices = kernel.addIndexVector("id")
    kernel.body.append(.indices(indices, .loaded(try buffer(of: operands[1]), entries: entries, outside: outside)))
    return .gathered(table, rows: indices)
  }

  /// Makes sure that ids lie in the table before anything runs: inputs by a check, positions by their limit.
  private mutating func checkIDs(_ ids: ValueID, entries: Int) throws(LoweringError) {
    switch function[ids].definition {
    case .argument:
      let step = SetupStep.checkIDs(try buffer(of: ids), entries: entries)
      if !program.setup.contains(step) { program.setup.append(step) }
    case .weight: throw LoweringError(message: "@\(function[ids].name) is a weight; ids come with the batch")
    case .result(let id, _):
      let operation = function[id]
      switch operation.payload {
      case .extendRows(let extend):
        let places = extend.places(among: operation.operands.count)
        guard extend.addition == .interleaved || (0..<entries).contains(extend.value) else {
          throw LoweringError(message: "ids are extended by \(extend.value), but the table has \(entries) rows")
        }
        try checkIDs(operation.operands[places.x], entries: entries)
        for added in operation.operands[places.added] { try checkIDs(added, entries: entries) }
      case .originalRows, .selectRows: try checkIDs(operation.operands[0], entries: entries)
      case .nextRows:
        try checkIDs(operation.operands[0], entries: entries)
        try checkIDs(operation.operands[1], entries: entries)
      case .bucketTimes(let buckets): try checkLargest(buckets.limit, operation, entries: entries)
      case .calendarUnits(let units): try checkLargest(units.count - 1, operation, entries: entries)
      case .positions(let positions): try checkLargest(positions.limit, operation, entries: entries)
      default: throw LoweringError(message: "ids cannot come from \(operation.payload.mnemonic)")
      }
    }
  }
  private func checkLargest(_ largest: Int, _ operation: Operation, entries: Int) throws(LoweringError) {
    guard largest < entries else {
      throw LoweringError(
        message: "\(operation.payload.mnemonic) gives up to \(largest), but the table has \(entries) rows")
    }
  }
}
