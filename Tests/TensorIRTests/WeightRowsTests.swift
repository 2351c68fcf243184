import TensorIR
import TestSupport
import Testing

/// Weights that are read some rows at a time are those that are read whole.
@Suite struct WeightRowsTests {
  private static let header = """
    module m
    weight @f32 : tensor<37 x 10 x f32>
    weight @f16 : tensor<37 x 10 x f16>
    weight @bf16 : tensor<37 x 10 x bf16>
    weight @f64 : tensor<37 x 10 x f64>
    weight @rows : tensor<37 x f32>
    weight @columns : tensor<10 x f32>

    """

  private static func base() throws -> WeightTable {
    var random = Random(seed: 3)
    let numbers = random.tensor([37, 10], spread: 8)
    var halves = [UInt8](repeating: 0, count: 37 * 10 * 2)
    numbers.bytes.withUnsafeBytes { source in
      halves.withUnsafeMutableBytes { NumberConversion.convert(source, from: .f32, to: .f16, into: $0) }
    }
    return WeightTable([
      "f32": numbers, "f16": try HostTensor(element: .f16, shape: [37, 10], bytes: halves),
      "bf16": try numbers.asBFloat16(),
      "f64": HostTensor(numbers.floats.map { Double($0) + 0x1p-40 }, shape: [37, 10]),
      "rows": random.tensor([37]), "columns": random.tensor([10]),
    ])
  }

  @Test(arguments: [
    "tensor<37 x 10 x bf16> = convert @f32", "tensor<37 x 10 x f16> = convert @f32",
    "tensor<37 x 10 x f32> = convert @f16", "tensor<37 x 10 x f32> = convert @bf16",
    "tensor<37 x 10 x f32> = convert @f64", "tensor<37 x 10 x bf16> = convert @f64",
    "tensor<37 x 10 x f16> = convert @bf16", "tensor<37 x 10 x f64> = convert @f32",
    "tensor<30 x 10 x f32> = slice @f32 {axis = rows, first = 5}",
    "tensor<37 x 4 x bf16> = slice @f32 {axis = columns, first = 3}",
    "tensor<37 x 10 x f32> = scale @f16 {factor = 0.3}",
    "tensor<37 x 10 x f32> = scale_axis @f32, @rows {axis = rows}",
    "tensor<37 x 10 x bf16> = scale_axis @f64, @columns {axis = columns}",
    "tensor<37 x 10 x f32> = scale_ranges @f32 {axis = rows, widths = [3, 20, 14], factors = [2, 0.1, -3]}",
    "tensor<37 x 10 x f32> = scale_ranges @f32 {axis = columns, widths = [1, 9], factors = [0.7, 5]}",
    "tensor<10 x f32> = product @rows, @f32, @columns",
    "tensor<37 x f32> = product @columns, @bf16, @rows {orientation = out_in}",
    "tensor<37 x 10 x i8> = codes @f32 {channels = rows}", "tensor<37 x 10 x i8> = codes @f32 {channels = columns}",
    "tensor<37 x 10 x f8e4m3> = codes @f16 {channels = rows}",
    "tensor<37 x 10 x f8e4m3> = codes @f32 {channels = columns}",
    "tensor<37 x f32> = scales @f32 {channels = rows, of = i8}",
    "tensor<10 x f32> = scales @f32 {channels = columns, of = f8e4m3}",
    "tensor<37 x 9 x u8> = quantized_rows @f32 {rows = int4}",
    "tensor<37 x 18 x u8> = quantized_rows @bf16 {rows = int8}",
  ])
  func anyRowsAreThoseOfTheWhole(declaration: String) throws {
    let module = try TensorIRParser.parse(Self.header + "weight @w : \(declaration)")
    for precision in [DerivedWeights.Precision.stored, .wide] {
      let weights = DerivedWeights(module, base: try Self.base(), precision: precision)
      let whole = try weights.withWeight("w") { [UInt8]($2) }
      let rows = try weights.rows(of: "w")
      #expect(rows.count * rows.rowBytes == whole.count)
      for window in [1, 4, 36, 37] {
        var joined: [UInt8] = []
        for part in rows.windows(ofBytes: window * rows.rowBytes) { try rows.withRows(part) { joined += $0 } }
        #expect(joined == whole, "\(window) rows at a time, \(precision)")
      }
      #expect(throws: OperationError.self) { try rows.withRows(0..<rows.count + 1) { _ in } }
    }
  }

  @Test func formulasOfFormulasReadOnlyTheirRows() throws {
    let module = try TensorIRParser.parse(
      Self.header + """
        weight @x : tensor<37 x 10 x f32> = scale_axis @f32, @rows {axis = rows}
        weight @y : tensor<30 x 10 x f32> = slice @x {axis = rows, first = 7}
        weight @w : tensor<30 x 9 x u8> = quantized_rows @y {rows = int4}
        """)
    let read = Recorder()
    let weights = DerivedWeights(module, base: RecordingWeights(base: try Self.base(), recorder: read))
    let whole = try weights.withWeight("w") { [UInt8]($2) }
    read.rows = []
    #expect(try weights.rows(of: "w").withRows(3..<5) { [UInt8]($0) } == Array(whole[3 * 9..<5 * 9]))
    #expect(Set(read.rows) == [10..<12])
  }

  @Test func windowsCoverAllRowsInWholeUnits() {
    let rows = WeightRows(.f32, [103, 5]) { _, _ in }
    for unit in [1, 8, 16, 200] {
      for bytes in [1, 100, 1000, 1 << 20] {
        let windows = rows.windows(ofBytes: bytes, unit: unit)
        #expect(windows.flatMap { Array($0) } == Array(0..<103))
        #expect(windows.dropLast().allSatisfy { $0.count % unit == 0 })
        #expect(windows.allSatisfy { $0.count * 20 <= max(bytes, unit * 20) })
      }
    }
    #expect(WeightRows(.f32, [0, 5]) { _, _ in }.windows().isEmpty)
  }

  @Test func otherExtentsAreTheSameBytes() throws {
    let tensor = HostTensor((0..<24).map { Float($0) }, shape: [2, 3, 4])
    let rows = WeightRows(tensor).reshaped([8, 3])
    #expect(try rows.withRows(0..<8) { [UInt8]($0) } == tensor.bytes)
    #expect(try rows.withRows(3..<6) { [UInt8]($0) } == Array(tensor.bytes[36..<72]))
    #expect(try rows.reshaped([24]).withRows(11..<13) { [UInt8]($0) } == Array(tensor.bytes[44..<52]))
  }
}

/// Which rows were asked for.
private final class Recorder: @unchecked Sendable {
  // Sendable: one test uses it, by one thread.
  var rows: [Range<Int>] = []
}

private struct RecordingWeights: WeightProvider {
  let base: WeightTable
  let recorder: Recorder

  func withWeight<R>(
    _ name: String, _ body: (ElementType, [Int], UnsafeRawBufferPointer) throws -> R
  ) throws -> R { try base.withWeight(name, body) }

  func rows(of name: String) throws -> WeightRows {
    let rows = try base.rows(of: name)
    return WeightRows(rows.element, rows.shape) { range, body in
      recorder.rows.append(range)
      try rows.withRows(range, body)
    }
  }
}

/// Loops over rows against what they stand for, number by number.
@Suite struct RowLoopTests {
  /// FBGEMM's quantization, number by number.
  private func encoded(_ row: [Float], _ format: TableFormat) -> [UInt8] {
    let (least, most) = (row.min() ?? 0, row.max() ?? 0)
    func little(_ bits: some FixedWidthInteger) -> [UInt8] { withUnsafeBytes(of: bits.littleEndian) { Array($0) } }
    func code(_ value: Float, _ largest: Float) -> UInt8 {
      UInt8(max(0, min(value.rounded(.toNearestOrEven), largest)))
    }
    switch format {
    case .int8:
      let range = most - least
      let inverse = 255 / (range + 1e-8)
      return row.map { code(($0 - least) * inverse, 255) } + little((range / 255).bitPattern) + little(least.bitPattern)
    case .int4:
      let biasBits = Rounding.halfBits(least)
      let bias = Float(halfBits: biasBits)
      var scaleBits = most - bias == 0 ? 0x3C00 : Rounding.halfBits((most - bias) / 15)
      if Float(halfBits: scaleBits) == 0 || !(1 / Float(halfBits: scaleBits)).isFinite { scaleBits = 0x3C00 }
      let inverse = 1 / Float(halfBits: scaleBits)
      var codes = row.map { code(($0 - bias) * inverse, 15) }
      if codes.count % 2 == 1 { codes.append(0) }
      let pairs = stride(from: 0, to: codes.count, by: 2).map { codes[$0] | codes[$0 + 1] << 4 }
      return pairs + little(scaleBits) + little(biasBits)
    }
  }

  @Test(arguments: TableFormat.allCases) func rowsOfEveryWidthAndSize(format: TableFormat) throws {
    var random = Random(seed: 9)
    for width in Array(1...70) + [255, 256, 257, 300, 511, 512, 513, 1000] {
      for scale: Float in [1, 1e-3, 1e-8, 0x1p-140, 3000, 0] {
        var row = random.tensor([width], center: random.pick([0, scale, -scale]), spread: scale).floats
        // Ties, equal numbers, and zeros of both signs.
        if random.once(in: 2) { row = row.map { ($0 * 8).rounded() / 8 } }
        if random.once(in: 2) { row = row.map { random.once(in: 3) ? random.pick([0, -0.0]) : $0 } }
        if random.once(in: 4) { row = row.map { $0 < 0 ? -$0 : $0 } }
        var bytes = [UInt8](repeating: 0xAA, count: format.byteCount(width: width))
        try bytes.withUnsafeMutableBytes { try format.encode(row, into: $0) }
        #expect(bytes == encoded(row, format), "\(row)")
      }
    }
  }

  @Test(arguments: TableFormat.allCases) func zerosKeepTheSignOfTheFirst(format: TableFormat) throws {
    for row: [Float] in [[0, -0.0, 1], [-0.0, 0, 1], [-1, -0.0, 0], [-1, 0, -0.0], [-0.0], [0, -0.0]] {
      var bytes = [UInt8](repeating: 0xAA, count: format.byteCount(width: row.count))
      try bytes.withUnsafeMutableBytes { try format.encode(row, into: $0) }
      #expect(bytes == encoded(row, format), "\(row)")
    }
  }

  @Test(arguments: TableFormat.allCases) func whatIsNotFiniteIsFoundAnywhere(format: TableFormat) {
    for number: Float in [.nan, -.nan, .infinity, -.infinity, .signalingNaN] {
      for place in [0, 1, 7, 100, 299] {
        var row = [Float](repeating: 0.5, count: 300)
        row[place] = number
        var bytes = [UInt8](repeating: 0, count: format.byteCount(width: 300))
        #expect(throws: OperationError("an element is not finite")) {
          try bytes.withUnsafeMutableBytes { try format.encode(row, into: $0) }
        }
      }
    }
  }

  @Test func conversionsAreRoundings() {
    var random = Random(seed: 4)
    // Bits of all kinds, infinities, NaNs and subnormals among them; an odd address.
    var bits = (0..<5000).map { _ in UInt32(truncatingIfNeeded: random.next()) }
    bits += [
      0, 0x8000_0000, 0x7F80_0000, 0xFF80_0000, 0x7FC0_0000, 0x7F80_0001, 1, 0x3300_0001, 0x3880_0000, 0x477F_F000,
    ]
    let bytes: [UInt8] = [0] + bits.flatMap { bits in withUnsafeBytes(of: bits.littleEndian) { Array($0) } }
    for element in [ElementType.bf16, .f16] {
      let target = UnsafeMutableBufferPointer<UInt16>.allocate(capacity: bits.count)
      defer { target.deallocate() }
      bytes.withUnsafeBytes {
        NumberConversion.convert(
          UnsafeRawBufferPointer(rebasing: $0[1...]), from: .f32, to: element,
          into: UnsafeMutableRawBufferPointer(target))
      }
      for (bits, found) in zip(bits, target) {
        let number = Float(bitPattern: bits)
        #expect(found == (element == .bf16 ? Rounding.bfloat16Bits(number) : Rounding.halfBits(number)))
      }
      let halves = (0...UInt16.max).map(\.self)
      let wide = UnsafeMutableBufferPointer<Float>.allocate(capacity: halves.count)
      defer { wide.deallocate() }
      halves.withUnsafeBytes {
        NumberConversion.convert($0, from: element, to: .f32, into: UnsafeMutableRawBufferPointer(wide))
      }
      for (bits, found) in zip(halves, wide) {
        let expected = element == .bf16 ? Float(bfloat16Bits: bits) : Float(halfBits: bits)
        #expect(found.bitPattern == expected.bitPattern)
      }
    }
  }
}
