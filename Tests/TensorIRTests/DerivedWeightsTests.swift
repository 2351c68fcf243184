import TensorIR
import Testing

/// What formulas give, against numbers worked out by hand or by another way.
@Suite struct DerivedWeightsTests {
  @Test(arguments: WeightFormula.mnemonics) func everyFormulaIsDocumented(mnemonic: String) throws {
    #expect(try DocumentationTests().document().contains("`\(mnemonic) @"))
  }

  /// Base weights of the tests: a matrix of 2 x 3, vectors of 2 and 3.
  private static let base = WeightTable([
    "m": HostTensor([1, 2, 3, -4, 5, 0.1] as [Float], shape: [2, 3]), "a": HostTensor([2, 10] as [Float]),
    "b": HostTensor([1, 0, -1] as [Float]), "t": HostTensor([0, 1, 2, 3, 0, 0, 0, 0] as [Float], shape: [2, 4]),
  ])

  private static let header = """
    module m
    weight @m : tensor<2 x 3 x f32>
    weight @a : tensor<2 x f32>
    weight @b : tensor<3 x f32>
    weight @t : tensor<2 x 4 x f32>

    """

  private func derive(
    _ declarations: String, _ precision: DerivedWeights.Precision = .stored, name: String = "w"
  ) throws -> HostTensor {
    let module = try TensorIRParser.parse(Self.header + declarations)
    return try DerivedWeights(module, base: Self.base, precision: precision).withWeight(name) {
      try HostTensor(element: $0, shape: $1, bytes: [UInt8]($2))
    }
  }

  @Test(
    arguments: [
      ("tensor<2 x 3 x bf16> = convert @m", [1, 2, 3, -4, 5, 0.10009765625]),
      ("tensor<2 x 3 x f64> = convert @m", [1, 2, 3, -4, 5, Double(Float(0.1))]),
      ("tensor<1 x 3 x f32> = slice @m {axis = rows, first = 1}", [-4, 5, Double(Float(0.1))]),
      ("tensor<2 x 2 x f32> = slice @m {axis = columns, first = 0}", [1, 2, -4, 5]),
      ("tensor<2 x f32> = slice @b {axis = rows, first = 1}", [0, -1]),
      ("tensor<2 x f32> = scale @a {factor = -0.5}", [-1, -5]),
      ("tensor<2 x 3 x f16> = scale_axis @m, @a {axis = rows}", [2, 4, 6, -40, 50, 1]),
      ("tensor<2 x 3 x f16> = scale_axis @m, @b {axis = columns}", [1, 0, -3, -4, 0, -0.0999755859375]),
      (
        "tensor<2 x 3 x f16> = scale_ranges @m {axis = columns, widths = [1, 2], factors = [1, 10]}",
        [1, 20, 30, -4, 50, 1]
      ),
      ("tensor<2 x 3 x f16> = scale_ranges @m {axis = rows, widths = [1, 1], factors = [2, 0]}", [2, 4, 6, 0, 0, 0]),
      ("tensor<3 x f16> = product @a, @m", [-38, 54, 7]),
      ("tensor<3 x f16> = product @a, @m, @b", [-37, 54, 6]),
      ("tensor<2 x f16> = product @b, @m {orientation = out_in}", [-2, -4.1015625]),
      (
        "tensor<3 x f32> = scales @m {channels = columns, of = i8}",
        [4.0 / 127, 5.0 / 127, 3.0 / 127].map { Double(Float($0)) }
      ),
      ("tensor<2 x f32> = scales @t {channels = rows, of = f8e4m3}", [Double(Float(3) / 448), 1]),
      ("tensor<2 x 3 x i8> = codes @m {channels = rows}", [42, 85, 127, -102, 127, 3]),
      // 0.1 / (5 / 448) is 8.96, between the codes 8 and 9; 4 / (5 / 448) is 358.4, between 352 and 384.
      ("tensor<2 x 3 x f8e4m3> = codes @m {channels = rows}", [144, 288, 448, -352, 448, 9]),
      ("tensor<2 x 6 x u8> = quantized_rows @t {rows = int4}", [0x50, 0xFA, 0x66, 0x32, 0, 0, 0, 0, 0, 0x3C, 0, 0]),
    ] as [(String, [Double])]) func formula(declaration: String, expected: [Double]) throws
  {
    #expect(try derive("weight @w : \(declaration)").doubles == expected)
  }

  @Test func wideTakesNoRoundingOfFp32() throws {
    let chain = """
      weight @x : tensor<2 x 3 x f32> = scale @m {factor = 0.1}
      weight @y : tensor<2 x 3 x f32> = scale_axis @x, @b {axis = columns}
      weight @w : tensor<2 x 3 x f32> = scale @y {factor = 3}
      """
    let exact = [1, 0, -3, -4, 0, -Double(Float(0.1))].map { $0 * 0.1 * 3 }
    let wide = try derive(chain, .wide)
    #expect(wide.element == .f64)
    #expect(zip(wide.doubles, exact).allSatisfy { abs($0 - $1) <= 1e-15 })
    let stored = try derive(chain)
    #expect(stored.element == .f32)
    // Every step rounds its product, which is exact in fp64 up to the last bits, to fp32.
    let first = [1, 2, 3, -4, 5, Double(Float(0.1))].map { Double(Float($0 * 0.1)) }
    let second = zip(first, [1, 0, -1, 1, 0, -1]).map { $0 * $1 }
    #expect(stored.doubles == second.map { Double(Float($0 * 3)) })
    #expect(stored.doubles != wide.doubles)
  }

  @Test(arguments: [
    "bf16> = convert @x", "i8> = codes @x {channels = rows}", "f8e4m3> = codes @x {channels = columns}",
  ])
  func narrowTypesAreTheSameInBothPrecisions(formula: String) throws {
    let declarations = """
      weight @x : tensor<2 x 3 x f32> = scale @m {factor = 0.1}
      weight @w : tensor<2 x 3 x \(formula)
      """
    #expect(try derive(declarations, .wide) == derive(declarations))
  }

  @Test func unreadSourcesOfReadWeightsStay() throws {
    var module = try TensorIRParser.parse(
      Self.header + """
        weight @x : tensor<2 x 3 x f32> = scale_axis @m, @b {axis = columns}
        weight @w : tensor<2 x 3 x bf16> = convert @x
        weight @other : tensor<2 x 3 x bf16> = convert @m
        func @forward(%x: tensor<rows x 2 x f32>) -> (out: tensor<2 x 3 x bf16>) {
          return @w
        }
        """)
    #expect(module.removeUnreadWeights() == 3)
    #expect(module.weights.map(\.name) == ["m", "b", "x", "w"])
    try module.verify()
  }

  @Test func derivedNamesAreUnique() throws {
    var module = try TensorIRParser.parse(Self.header)
    let type = TensorType([.fixed(2), .fixed(3)], .bf16)
    let first = module.deriveWeight("m", type, .convert("m"))
    #expect(module[first].name == "m.1")
    #expect(module.deriveWeight("m", type, .convert("m")) == first)
    let second = module.deriveWeight("m", type, .scale("m", factor: 2))
    #expect(module[second].name == "m.2")
    try module.verify()
  }

  @Test func baseOfAnotherTypeIsRefused() throws {
    let module = try TensorIRParser.parse(Self.header + "weight @w : tensor<2 x f32> = scale @a {factor = 2}")
    let base = WeightTable(["a": HostTensor([1, 2] as [Double])])
    #expect(throws: OperationError("@w = scale @a {factor = 2}: @a is declared as tensor<2 x f32>, found [2] of f64")) {
      try DerivedWeights(module, base: base).withWeight("w") { _, _, _ in }
    }
  }

  @Test func numbersThatDoNotFitAreRefused() throws {
    let module = try TensorIRParser.parse(
      "module m\nweight @t : tensor<2 x 1 x f32>\nweight @w : tensor<2 x 5 x u8> = quantized_rows @t {rows = int4}")
    let base = WeightTable(["t": HostTensor([1, 1e6] as [Float], shape: [2, 1])])
    #expect(throws: OperationError.self) {
      try DerivedWeights(module, base: base).withWeight("w") { _, _, _ in }
    }
  }

  @Test func formulasAreNotTooDeep() throws {
    let chain = (0..<40).map {
      "weight @w\($0) : tensor<2 x f32> = scale @\($0 == 0 ? "a" : "w\($0 - 1)") {factor = 2}"
    }
    #expect {
      _ = try TensorIRParser.parse(Self.header + chain.joined(separator: "\n"))
    } throws: {
      "\($0)".hasSuffix("weight @w31 = scale @w30 {factor = 2}: follows from others over more than 32 steps")
    }
  }
}

/// Rows of tables in FBGEMM's layouts.
@Suite struct TableFormatTests {
  @Test func int4CodesAreEvenColumnFirst() throws {
    // From 0 to 15 the scale is 1 and the bias 0: codes are the numbers.
    #expect(try encode([0, 15, 7, 1, 9], .int4) == [0xF0, 0x17, 0x09, 0, 0x3C, 0, 0])
  }

  @Test func int8HasScaleAndBiasInFp32() throws {
    // From -1 to 254 the scale is 1.
    let bytes = try encode([-1, 254, 2.4], .int8)
    #expect(bytes == [0, 255, 3, 0, 0, 0x80, 0x3F, 0, 0, 0x80, 0xBF])
    #expect(TableFormat.int8.decode(bytes[...], width: 3) == [-1, 254, 2])
  }

  @Test(arguments: TableFormat.allCases) func aRowOfOneNumberComesBack(format: TableFormat) throws {
    for number: Float in [0, 1, -3.5] {
      let bytes = try encode([number, number, number], format)
      #expect(format.decode(bytes[...], width: 3) == [number, number, number])
    }
  }

  @Test(arguments: TableFormat.allCases) func decodedNumbersAreHalfAStepAway(format: TableFormat) throws {
    for width in [1, 2, 5, 50, 64] {
      let row = (0..<width).map { Float(($0 * 37 + 11) % 64) / 8 - 3 }
      let bytes = try encode(row, format)
      #expect(bytes.count == format.byteCount(width: width))
      let range = (row.max() ?? 0) - (row.min() ?? 0)
      let step = range / (format == .int8 ? 255 : 15)
      for (found, expected) in zip(format.decode(bytes[...], width: width), row) {
        // A half's rounding of the scale moves the last code by up to 15 * 2^-11 of a step.
        #expect(abs(found - expected) <= step * 0.51 + 1e-6)
      }
    }
  }

  @Test func whatTheFormatCannotHoldIsRefused() {
    #expect(throws: OperationError("an element is not finite")) { try encode([1, .nan], .int8) }
    #expect(throws: OperationError.self) { try encode([-3e38, 3e38], .int8) }
    #expect(throws: OperationError.self) { try encode([0, 2e6], .int4) }
  }

  private func encode(_ row: [Float], _ format: TableFormat) throws -> [UInt8] {
    var bytes = [UInt8](repeating: 0xAA, count: format.byteCount(width: row.count))
    try bytes.withUnsafeMutableBytes { try format.encode(row, into: $0) }
    return bytes
  }
}
