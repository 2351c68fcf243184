import TensorIR
import TileIR

// Numbers of fewer bits, and codes with scales.
extension TileLowering {
  /// A part of a concatenation that is not written down, in the elements that its reader takes: a tile of its own, alive
  /// until the next part.
  mutating func converted(_ part: ValueID, to element: ElementType) throws(LoweringError) -> TileSlice {
    let tile = scratch(
      function[part].name, rows: .block, capacity: kernel.domain.block, columns: width(of: part), element: element)
    try map(tile, expression(part))
    return tile
  }

  /// One scale for each row, over all parts where x is a concatenation that is not written down.
  mutating func lowerQuantizeRows(
    _ quantize: QuantizeRows, _ x: ValueID, codes: TileSlice, scales: TileSlice
  ) throws(LoweringError) {
    let parts = virtualConcatenations[x] ?? [x]
    for (index, part) in parts.enumerated() {
      let largest = index == 0 ? scales : rowValue("magnitude")
      kernel.body.append(
        .maximum(into: largest, of: .unary(.absolute, try expression(part)), columns: width(of: part)))
      if index > 0 { try map(scales, .binary(.maximum, .tile(scales), .tile(largest))) }
    }
    let most = Double(quantize.element == .i8 ? Rounding.largestInt8 : Rounding.largestFloat8)
    try map(scales, .binary(.nonzero, .binary(.divide, .tile(scales), .constant(most)), .constant(1)))
    var first = codes.first
    for part in parts {
      let into = TileSlice(codes.tile, first: first, count: width(of: part))
      try map(into, .binary(.divide, expression(part), .rowValue(scales)))
      first += into.count
    }
  }

  mutating func lowerQuantizedLinear(
    _ linear: QuantizedLinear, _ operands: [ValueID], into: TileSlice
  ) throws(LoweringError) {
    let packing = packing(
      ofWeight: operands[2], contracting: [width(of: operands[0])], columns: into.count, linear.orientation)
    let weight = try weightBuffer(operands[2], packing)
    let codes = try leftSide(try tile(operands[0]), of: packing)
    // Sums stay in a tile until they are scaled: memory is written once.
    let sums = scratch("sums", rows: .block, capacity: kernel.domain.block, columns: into.count)
    kernel.body.append(
      .contract(
        Contraction(
          into: sums, left: codes, right: .panels(weight, firstRow: 0, rows: codes.count, firstColumn: 0),
          accumulate: false)))
    let scales = try weightBuffer(operands[3], .plain)
    var result = Expression.binary(
      .multiply, .binary(.multiply, .tile(sums), .rowValue(try tile(operands[1]))), .columnValue(scales, first: 0))
    if operands.count == 5 {
      let isResidual = function[operands[4]].type.tensor?.rank == 2
      let bias: Expression =
        isResidual ? try expression(operands[4]) : .columnValue(try weightBuffer(operands[4], .plain), first: 0)
      result = .binary(.add, result, bias)
    }
    try map(into, result)
  }
}
