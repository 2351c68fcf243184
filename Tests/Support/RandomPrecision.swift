import TensorIR

// Programs of one operation of low precision, with what prepares its operands.
extension ProgramMaker {
  mutating func makePrecision() throws {
    switch random.integer(in: 0...3) {
    case 0: try makeNarrowLinear()
    case 1: try makeNarrowTable()
    default: try makeQuantizedLinear()
    }
  }

  private mutating func makeNarrowLinear() throws {
    let (x, weight, orientation, output) = try productOperands()
    let narrow = try build.emit(.convert(Convert(to: .bf16)), x)
    let (w, shape) = weight
    var operands = [narrow, build.derivedWeight("w.bf16", shape, .bf16, .convert(w))]
    if random.once(in: 2) { operands.append(try build.weight("bias", [output])) }
    build.result("r", try build.append(.linear(Linear(orientation)), operands)[0])
    if random.once(in: 2) { build.result("wide", try build.emit(.convert(Convert(to: .f32)), narrow)) }
  }

  private mutating func makeQuantizedLinear() throws {
    let element = random.pick([ElementType.f8e4m3, .i8])
    let (x, weight, orientation, output) = try productOperands()
    let (w, shape) = weight
    let channels: WeightFormula.Axis = orientation == .inOut ? .columns : .rows
    var operands = try build.append(.quantizeRows(QuantizeRows(to: element)), [x])
    for numbers in [ElementType.f32, .bf16] {
      build.result(
        "numbers.\(numbers.rawValue)",
        try build.append(.dequantizeRows(DequantizeRows(to: numbers)), operands)[0])
    }
    operands.append(build.derivedWeight("w.codes", shape, element, .codes(w, channels: channels)))
    operands.append(build.derivedWeight("w.scales", [output], .f32, .scales(w, channels: channels, of: element)))
    switch random.integer(in: 0...2) {
    case 0: break
    case 1: operands.append(try build.weight("bias", [output]))
    default: operands.append(argumentX(output, name: "residual"))
    }
    build.result("r", try build.append(.quantizedLinear(QuantizedLinear(orientation)), operands)[0])
  }

  /// x and a weight to multiply it with.
  private mutating func productOperands() throws -> (
    x: ValueID, weight: (name: String, shape: [Int]), orientation: Linear.Orientation, output: Int
  ) {
    let input = random.pick(Self.widths)
    let output = random.pick(Self.widths + [130])
    let orientation = random.pick(Linear.Orientation.allCases)
    let shape = orientation == .inOut ? [input, output] : [output, input]
    _ = try build.weight("w", shape)
    return (argumentX(input), ("w", shape), orientation, output)
  }

  private mutating func makeNarrowTable() throws {
    let entries = random.integer(in: 1...40)
    let width = random.pick(Self.widths)
    var gather = Gather(outOfRange: outOfRange(entries: entries))
    let ids = argumentIds(entries: entries, outside: gather.outOfRange != .error)
    _ = try build.weight("table", [entries, width])
    let table: ValueID
    if random.once(in: 3) {
      let element = random.pick([ElementType.f16, .bf16])
      table = build.derivedWeight("narrow", [entries, width], element, .convert("table"))
    } else {
      let format = random.pick(TableFormat.allCases)
      (gather.rows, gather.width) = (format, width)
      table = build.derivedWeight(
        "bytes", [entries, format.byteCount(width: width)], .u8, .quantizedRows("table", format))
    }
    build.result("r", try build.emit(.gather(gather), table, ids))
  }
}
