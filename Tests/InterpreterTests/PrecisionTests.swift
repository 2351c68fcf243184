import Interpreter
import TensorIR
import TestSupport
import Testing

/// Operations of low precision against definitions of their own, on numbers that make every rounding matter.
@Suite struct PrecisionTests {
  private func run(
    _ text: String, _ inputs: [String: HostTensor], weights: [String: HostTensor] = [:],
    _ precision: Interpreter.Precision = .f32
  ) throws -> [HostTensor] {
    let module = try TensorIRParser.parse(text)
    return try Interpreter(module: module, weights: WeightTable(weights), precision: precision)
      .run("forward", inputs: inputs).map(\.tensor)
  }

  private func bfloat16(_ value: Float) -> Float { Float(bfloat16Bits: Rounding.bfloat16Bits(value)) }

  @Test(arguments: [Interpreter.Precision.f32, .f64]) func valuesOfNarrowTypesAreRounded(
    precision: Interpreter.Precision
  ) throws {
    var random = Random(seed: 1)
    let x = random.tensor([5, 7], spread: 3)
    let text = """
      module m
      func @forward(%x: tensor<rows x 7 x f32>) -> (narrow: tensor<rows x 7 x bf16>, sum: tensor<rows x 7 x bf16>, wide: tensor<rows x 7 x f32>) {
        %n = convert %x {to = bf16}
        %s = add %n, %n
        %t = multiply %s, %n
        %w = convert %t {to = f32}
        return %n, %s, %w
      }
      """
    let results = try run(text, ["x": x], precision)
    let narrow = x.floats.map(bfloat16)
    #expect(results[0].floats == narrow)
    #expect(results[1].floats == narrow.map { 2 * $0 })
    // A product of two bf16 numbers is exact in fp32, so it is rounded once.
    #expect(results[2].floats == narrow.map { bfloat16(2 * $0 * $0) })
  }

  @Test func linearOfBFloat16HasExactProductsAndFp32Sums() throws {
    var random = Random(seed: 2)
    let (x, w, bias) = (random.tensor([4, 9]), random.tensor([9, 5]), random.tensor([5]))
    let text = """
      module m
      weight @w : tensor<9 x 5 x f32>
      weight @bias : tensor<5 x f32>
      weight @w.bf16 : tensor<9 x 5 x bf16> = convert @w
      func @forward(%x: tensor<rows x 9 x f32>) -> (out: tensor<rows x 5 x f32>) {
        %n = convert %x {to = bf16}
        %p = linear %n, @w.bf16, @bias : tensor<rows x 5 x f32>
        return %p
      }
      """
    let found = try run(text, ["x": x], weights: ["w": w, "bias": bias])[0]
    for row in 0..<4 {
      for column in 0..<5 {
        var sum: Float = 0
        for index in 0..<9 { sum += bfloat16(x.floats[row * 9 + index]) * bfloat16(w.floats[index * 5 + column]) }
        #expect(found.floats[row * 5 + column] == sum + bias.floats[column])
      }
    }
  }

  @Test func attentionOfBFloat16RoundsActivatedScores() throws {
    var random = Random(seed: 3)
    let tensors = (0..<3).map { _ in random.tensor([6, 4], spread: 2) }
    let text = """
      module m
      func @forward(%q: tensor<rows x 4 x f32>, %k: tensor<rows x 4 x f32>, %v: tensor<rows x 4 x f32>, %at: offsets<sequences x rows>) -> (out: tensor<rows x 4 x f32>) {
        %qn = convert %q {to = bf16}
        %kn = convert %k {to = bf16}
        %vn = convert %v {to = bf16}
        %a = attention %qn, %kn, %vn, %at {heads = 2, alpha = 0.3, divisor = fixed(7), activation = none, mask = causal}
        return %a
      }
      """
    let inputs = [
      "q": tensors[0], "k": tensors[1], "v": tensors[2], "at": HostTensor([0, 4, 6] as [Int64]),
    ]
    let found = try run(text, inputs)[0].floats
    let (q, k, v) = (tensors[0].floats.map(bfloat16), tensors[1].floats.map(bfloat16), tensors[2].floats.map(bfloat16))
    for row in 0..<6 {
      for column in 0..<4 {
        let head = column / 2 * 2
        var sum: Float = 0
        for key in (row < 4 ? 0 : 4)...row {
          var score: Float = 0
          for index in head..<head + 2 { score += q[row * 4 + index] * k[key * 4 + index] }
          sum += bfloat16(0.3 * score) * v[key * 4 + column]
        }
        #expect(found[row * 4 + column] == sum / 7)
      }
    }
  }

  private static let quantizing = """
    module m
    weight @w : tensor<3 x 2 x f32>
    weight @codes : tensor<3 x 2 x ELEMENT> = codes @w {channels = columns}
    weight @scales : tensor<2 x f32> = scales @w {channels = columns, of = ELEMENT}
    weight @bias : tensor<2 x f32>
    func @forward(%x: tensor<rows x 3 x f32>, %r: tensor<rows x 2 x f32>) -> (codes: tensor<rows x 3 x ELEMENT>, scales: tensor<rows x f32>, plain: tensor<rows x 2 x f32>, biased: tensor<rows x 2 x f32>, residual: tensor<rows x 2 x f32>) {
      %c, %s = quantize_rows %x {to = ELEMENT}
      %p = quantized_linear %c, %s, @codes, @scales : tensor<rows x 2 x f32>
      %b = quantized_linear %c, %s, @codes, @scales, @bias : tensor<rows x 2 x f32>
      %q = quantized_linear %c, %s, @codes, @scales, %r : tensor<rows x 2 x f32>
      return %c, %s, %p, %b, %q
    }
    """

  @Test(arguments: [ElementType.f8e4m3, .i8], [Interpreter.Precision.f32, .f64])
  func quantizedLinear(element: ElementType, precision: Interpreter.Precision) throws {
    // Rows: a plain one, one of zeros, one whose scale is subnormal over the largest code.
    let x = HostTensor([0.99, -2, 0.3, 0, 0, 0, 1e-45, 0, -1e-45] as [Float], shape: [3, 3])
    let residual = HostTensor([10, 20, 30, 40, 50, 60] as [Float], shape: [3, 2])
    let weights = [
      "w": HostTensor([1, 0.5, -0.25, 4, 3, 0.7] as [Float], shape: [3, 2]),
      "bias": HostTensor([0.5, -0.5] as [Float]),
    ]
    let text = Self.quantizing.replacing("ELEMENT", with: element.rawValue)
    let results = try run(text, ["x": x, "r": residual], weights: weights, precision)
    let largest: Float = element == .i8 ? 127 : 448
    #expect(results[0].element == element)
    // 0.3 / (2 / 448) is 67.2, between 64 and 72.
    let codes: [Double] = element == .i8 ? [63, -127, 19] : [224, -448, 64]
    #expect(Array(results[0].doubles[..<3]) == codes)
    #expect(Array(results[0].doubles[3..<6]) == [0, 0, 0])
    #expect(results[1].floats == [2 / largest, 1, 1])
    // Columns: 1, -0.25, 3 and 0.5, 4, 0.7.
    let weightCodes: [[Double]] =
      element == .i8 ? [[42, -11, 127], [16, 127, 22]] : [[144, -36, 448], [56, 448, 80]]
    let scales = [2 / largest, 3 / largest, 4 / largest].map(Double.init)
    for column in 0..<2 {
      let sum = zip(codes, weightCodes[column]).map { $0 * $1 }.reduce(0, +)
      let expected = sum * scales[0] * scales[1 + column]
      #expect(abs(results[2].doubles[column] - expected) <= 1e-6 * abs(expected))
      #expect(abs(results[3].doubles[column] - (expected + (column == 0 ? 0.5 : -0.5))) <= 1e-6 * 10)
      #expect(abs(results[4].doubles[column] - (expected + residual.doubles[column])) <= 1e-5)
    }
    #expect(results[2].doubles[2...].allSatisfy { $0 == 0 })
    #expect(Array(results[4].doubles[2...]) == [30, 40, 50, 60])
  }

  /// 127 * 127 * 4096 is beyond 2^24: fp32 sums would have lost the last product.
  @Test func sumsOfInt8AreExact() throws {
    let width = 4096
    let text = """
      module m
      weight @codes : tensor<4096 x 1 x i8>
      weight @scales : tensor<1 x f32>
      func @forward(%x: tensor<rows x 4096 x i8>, %s: tensor<rows x f32>) -> (out: tensor<rows x 1 x f32>) {
        %p = quantized_linear %x, %s, @codes, @scales : tensor<rows x 1 x f32>
        return %p
      }
      """
    var bytes = [UInt8](repeating: 127, count: width)
    let weights = try HostTensor(element: .i8, shape: [width, 1], bytes: bytes)
    bytes[width - 1] = 1
    let x = try HostTensor(element: .i8, shape: [1, width], bytes: bytes)
    let found = try run(
      text, ["x": x, "s": HostTensor([1] as [Float])],
      weights: ["codes": weights, "scales": HostTensor([1] as [Float])])
    #expect(found[0].floats == [Float(127 * 127 * (width - 1) + 127)])
  }

  @Test func tablesAreDecoded() throws {
    let table = HostTensor((0..<20).map { Float($0 * $0 % 37) / 3 - 4 }, shape: [4, 5])
    let text = """
      module m
      weight @t : tensor<4 x 5 x f32>
      weight @half : tensor<4 x 5 x f16> = convert @t
      weight @int8 : tensor<4 x 13 x u8> = quantized_rows @t {rows = int8}
      weight @int4 : tensor<4 x 7 x u8> = quantized_rows @t {rows = int4}
      func @forward(%ids: tensor<rows x i64>) -> (half: tensor<rows x 5 x f32>, int8: tensor<rows x 5 x f32>, int4: tensor<rows x 5 x f32>) {
        %h = gather @half, %ids {out_of_range = error} : tensor<rows x 5 x f32>
        %a = gather @int8, %ids {out_of_range = error, rows = int8, width = 5} : tensor<rows x 5 x f32>
        %b = gather @int4, %ids {out_of_range = fallback(2), rows = int4, width = 5} : tensor<rows x 5 x f32>
        return %h, %a, %b
      }
      """
    let ids = [3, 0, 3, 1] as [Int64]
    let results = try run(text, ["ids": HostTensor(ids)], weights: ["t": table])
    let rows = ids.flatMap { Array(table.floats[Int($0) * 5..<Int($0) * 5 + 5]) }
    #expect(results[0].floats == rows.map { Float(halfBits: Rounding.halfBits($0)) })
    #expect(zip(results[1].floats, rows).allSatisfy { abs($0 - $1) <= 12.5 / 255 })
    #expect(zip(results[2].floats, rows).allSatisfy { abs($0 - $1) <= 12.5 / 15 })
    #expect(results[2].floats != rows)
  }
}
