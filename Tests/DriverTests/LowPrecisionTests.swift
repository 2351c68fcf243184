import Codegen
import Driver
import Interpreter
import LLVMKit
import Passes
import TensorIR
import TestSupport
import Testing
import TileIR
import UltraRuntime

/// Compiled code with products of bf16 against the interpreter of tile programs: every sum has a fixed order there, so
/// that the bits must be the same.
@Suite struct LowPrecisionTests {
  /// A tile program, and a function of the same arguments and results for the manifest.
  struct Subject: CustomStringConvertible {
    var program: Program
    var module: Module
    var weights: WeightTable
    var inputs: [String: HostTensor]
    var description: String

    func run(_ level: CPULevel, optimization: CompileOptions.Optimization = .less, pool: ThreadPool? = nil) throws
      -> HostTensor
    {
      let compiled = try CompiledProgram(
        program, of: module, weights: weights, level: level, optimization: optimization)
      return try compiled.run(inputs, pool: pool)[0].tensor
    }

    func interpreted(_ precision: Interpreter.Precision = .f32) throws -> HostTensor {
      try TileInterpreter(program: program, weights: weights, precision: precision).run(inputs)[0].tensor
    }
  }

  /// x, rounded to bf16, times a weight in panels, in `parts` segments.
  static func product(seed: UInt64, widths: [Int]? = nil, rows: Int? = nil, block: Int? = nil) throws -> Subject {
    var random = Random(seed: seed)
    let rows = rows ?? random.integer(in: 1...40)
    let inner = widths?[0] ?? random.integer(in: 1...90)
    let outer = widths?[1] ?? random.integer(in: 1...80)
    let block = block ?? random.pick([8, 16, 40])
    // The second segment begins with a whole pair.
    let cut = inner > 2 ? random.integer(in: 1...(inner - 1) / 2) * 2 : inner
    let transposed = random.once(in: 2)
    let shape = transposed ? [outer, inner] : [inner, outer]
    var contractions = "%sum = contract(%left[0 : \(cut)], @w[0 : \(cut)] of \(inner))\n"
    if cut < inner { contractions += "%sum += contract(%left[\(cut) : \(inner)], @w[\(cut) : \(inner)] of \(inner))\n" }
    let program = try TileIRParser.parse(
      """
      program forward(rows)
      buffer @x : rows x \(inner) x f32 = input 0
      buffer @y : rows x \(outer) x f32 = output 0
      buffer @w : \(shape[0]) x \(shape[1]) x bf16 = weight \(transposed ? "transposed " : "")panels(32)
      kernel product_0 over rows, \(block) at a time {
        tile %x : block x \(inner) in @x
        tile %y : block x \(outer) in @y
        tile %left : block x \(inner) x bf16 in scratch(\(block) x \(inner + random.integer(in: 0...3)))
        tile %sum : block x \(outer) in scratch(\(block) x \(outer))
        %left = %x
        \(contractions)
        %y = %sum
      }
      """)
    var build = FunctionBuilder(module: Module(name: "product"), name: "forward")
    let x = build.argument("x", .tensor([.symbol("rows"), .fixed(inner)], .f32))
    let w = try build.weight("v", [inner, outer])
    build.result("y", try build.emit(.linear(Linear()), x, w))
    let weight = try random.tensor(shape).asBFloat16()
    return Subject(
      program: program, module: build.finish(), weights: WeightTable(["w": weight]),
      inputs: ["x": random.tensor([rows, inner])],
      description: "product \(seed): \(rows) rows, \(inner) x \(outer), cut at \(cut), blocks of \(block)")
  }

  /// Attention over q, k and v that are columns of one buffer, rounded to bf16.
  static func attention(seed: UInt64, activation: String = "", longest: Int = 90) throws -> Subject {
    var random = Random(seed: seed)
    let heads = random.integer(in: 1...3)
    let (queryWidth, valueWidth) = (
      random.pick([1, 2, 7, 16, 25, 32, 35, 50, 64]), random.pick([1, 3, 8, 16, 25, 32, 50, 70])
    )
    let (block, keys) = (random.pick([32, 64]), random.pick([1, 5, 16, 32, 65, 128]))
    let lengths = (0..<random.integer(in: 1...4)).map { _ in random.integer(in: 0...longest) }
    let rows = lengths.reduce(0, +)
    let width = heads * (2 * queryWidth + valueWidth)
    let stored = width + random.integer(in: 0...2)
    let mask = random.pick(["causal", "causal window(7)", "causal window(20) tail(9)", "causal contextual(3)"])
    let program = try TileIRParser.parse(
      """
      program forward(rows, sequences)
      buffer @x : rows x \(width) x f32 = input 0
      buffer @offsets : (sequences + 1) x 1 x i64 = input 1
      buffer @y : rows x \(heads * valueWidth) x f32 = output 0
      buffer @qkv : rows x \(stored) x bf16 = workspace slot 0
      buffer @blocks : (sequences + 1) x 1 x i64 = workspace slot 1
      setup {
        check_offsets(@offsets, rows = rows)
        @blocks = block_table(@offsets, block = \(block))
      }
      kernel convert_0 over rows, 24 at a time {
        tile %x : block x \(width) in @x
        tile %qkv : block x \(width) in @qkv
        %qkv = %x
      }
      kernel attention_1 over sequences(@offsets, table = @blocks, parts = \(heads)), \(block) at a time {
        tile %q : block x \(queryWidth) in @qkv from column 0 + part * \(queryWidth)
        tile %k : keys x \(queryWidth) in @qkv from column \(heads * queryWidth) + part * \(queryWidth)
        tile %v : keys x \(valueWidth) in @qkv from column \(2 * heads * queryWidth) + part * \(valueWidth)
        tile %y : block x \(valueWidth) in @y from column 0 + part * \(valueWidth)
        tile %queries : \(queryWidth) x \(block) x bf16 in scratch(\(queryWidth) x \(block)) grouped
        tile %scores : keys x \(block) in scratch(\(keys) x \(block))
        tile %activated : keys x \(block) x bf16 in scratch(\(keys) x \(block)) grouped
        tile %sum : block x \(valueWidth) in scratch(\(block) x \(valueWidth))
        %queries = transpose(%q, factor = 1)
        clear %sum
        for keys of \(mask), \(keys) at a time {
          %scores = contract(%k, %queries)
          %activated = \(activation)(%scores * 0.25) where visible
          %sum += contract(transposed %activated, %v)
        }
        %y = %sum * 0.125
      }
      """)
    var build = FunctionBuilder(module: Module(name: "attention"), name: "forward")
    let x = build.argument("x", .tensor([.symbol("rows"), .fixed(width)], .f32))
    _ = build.argument("offsets", .offsets(sequences: .symbol("sequences"), rows: .symbol("rows")))
    let parts = try build.append(
      .split(Split(widths: [heads * valueWidth, 2 * heads * queryWidth])), [x])
    build.result("y", parts[0])
    let offsets = lengths.reduce(into: [0]) { $0.append($0[$0.count - 1] + $1) }
    return Subject(
      program: program, module: build.finish(), weights: WeightTable(),
      inputs: ["x": random.tensor([rows, width]), "offsets": HostTensor(offsets.map { Int64($0) })],
      description: "attention \(seed): lengths \(lengths), \(heads) heads of \(queryWidth) and \(valueWidth), "
        + "\(mask), blocks of \(block) x \(keys)")
  }

  static let seeds: ClosedRange<UInt64> = 1...10

  @Test("products have the interpreter's bits at every level")
  func products() throws {
    for seed in Self.seeds {
      let subject = try Self.product(seed: seed)
      let expected = try subject.interpreted()
      for level in CPULevel.ofOneOrder { #expect(try subject.run(level) == expected, "\(subject), \(level)") }
    }
  }

  @Test("attention without an activation has the interpreter's bits at every level, on threads too")
  func attention() throws {
    let pool = try ThreadPool(workers: 3)
    for seed in Self.seeds {
      let subject = try Self.attention(seed: seed)
      let expected = try subject.interpreted()
      for level in CPULevel.ofOneOrder {
        #expect(try subject.run(level) == expected, "\(subject), \(level)")
        #expect(try subject.run(level, pool: pool) == expected, "\(subject), \(level), threads")
      }
    }
  }

  /// Emitted and platform's SiLU differ by less than 2^-13 of the number, so that an activated score may be rounded to the
  /// other of two neighbours of bf16, 2^-7 apart.
  @Test("attention with SiLU is as near as one rounding of each score, and has the same bits at every level")
  func silu() throws {
    for seed in Self.seeds {
      let subject = try Self.attention(seed: seed, activation: "silu")
      let expected = try subject.interpreted()
      let results = try CPULevel.ofOneOrder.map { try subject.run($0) }
      for result in results {
        #expect(result == results[0], "\(subject)")
        // Scores within 8 (64 products of bf16 below 1, times 0.25, rarely reach 4), values below 1.
        expectClose(result, expected, atol: 0.125 * 0x1p-7, rtol: 0x1p-7, "\(subject)")
      }
      // One score in 32 may become the other neighbour, and few of these err all the same way.
      func rootMeanSquare(_ numbers: [Double]) -> Double {
        (numbers.reduce(0) { $0 + $1 * $1 } / Double(max(numbers.count, 1))).squareRoot()
      }
      let differences = zip(results[0].doubles, expected.doubles).map { $0 - $1 }
      #expect(rootMeanSquare(differences) <= 0x1p-9 * rootMeanSquare(expected.doubles))
    }
  }

  /// Products of codes and of bf16, and lookups in tables of few bits.
  @Test("one operation on narrow numbers has the same bits at every level and in any blocks")
  func operations() throws {
    for seed in 201...240 as ClosedRange<UInt64> {
      let program = try RandomProgram(.precision, seed: seed)
      var results: [[HostTensor]] = []
      for (index, level) in CPULevel.ofOneOrder.enumerated() {
        var schedule = TileSchedule()
        schedule.rows = [64, 8, 24][index % 3]
        let compiled = try CompiledProgram(
          program.module, weights: program.weights, level: level, schedule: schedule, optimization: .less)
        results.append(try compiled.run(program.inputs).map(\.tensor))
      }
      for result in results.dropFirst() { #expect(result == results[0], "\(program)") }
    }
  }

  @Test("quantized rows keep numbers that are none, and zeros")
  func unusualRows() throws {
    for element in [ElementType.f8e4m3, .i8] {
      var build = FunctionBuilder(module: Module(name: "codes"), name: "forward")
      let x = build.argument("x", .tensor([.symbol("rows"), .fixed(19)], .f32))
      _ = try build.weight("w", [19, 19])
      var operands = try build.append(.quantizeRows(QuantizeRows(to: element)), [x])
      operands.append(build.derivedWeight("codes", [19, 19], element, .codes("w", channels: .columns)))
      operands.append(build.derivedWeight("scales", [19], .f32, .scales("w", channels: .columns, of: element)))
      build.result("y", try build.append(.quantizedLinear(QuantizedLinear()), operands)[0])
      build.result("scales", operands[1])
      let module = build.finish()
      var random = Random(seed: 5)
      let identity = HostTensor((0..<361).map { $0 % 20 == 0 ? 1 : 0 } as [Float], shape: [19, 19])
      var rows = random.tensor([7, 19]).floats
      for (row, number) in [Float.nan, 0, 1e-42, .greatestFiniteMagnitude, -0.0].enumerated() {
        for column in 0..<(row == 0 ? 1 : 19) { rows[row * 19 + column] = number }
      }
      let inputs = ["x": HostTensor(rows, shape: [7, 19])]
      let weights = WeightTable(["w": identity])
      let expected = try Interpreter(module: module, weights: weights, precision: .f32).run("forward", inputs: inputs)
      for level in CPULevel.ofOneOrder {
        let found = try CompiledProgram(module, weights: weights, level: level).run(inputs)
        for (found, expected) in zip(found, expected) {
          // A row of the code of NaN is NaN everywhere; of the others, one code is multiplied by one.
          expectClose(found.tensor, expected.tensor, atol: 0, rtol: 0x1p-22, "\(element), \(level), \(found.name)")
        }
      }
    }
  }

  @Test("the highest level multiplies pairs of bf16 by one instruction, the others have none of these")
  func instructions() throws {
    let subject = try Self.attention(seed: 3, activation: "silu")
    for level in CPULevel.ofOneOrder {
      let text = try assembly(of: subject, level)
      #expect(text.contains("vdpbf16ps") == (level >= .avx512BF16))
      #expect(text.contains("vcvtne2ps2bf16") == (level >= .avx512BF16))
      #expect(!text.contains("call\t__"))
    }
    var build = FunctionBuilder(module: Module(name: "bytes"), name: "forward")
    let x = build.argument("x", .tensor([.symbol("rows"), .fixed(64)], .f32))
    _ = try build.weight("w", [64, 64])
    var operands = try build.append(.quantizeRows(QuantizeRows(to: .i8)), [x])
    operands.append(build.derivedWeight("codes", [64, 64], .i8, .codes("w", channels: .columns)))
    operands.append(build.derivedWeight("scales", [64], .f32, .scales("w", channels: .columns, of: .i8)))
    build.result("y", try build.append(.quantizedLinear(QuantizedLinear()), operands)[0])
    let module = build.finish()
    let program = try lowerToTiles(module, function: "forward")
    let bytes = Subject(program: program, module: module, weights: WeightTable(), inputs: [:], description: "bytes")
    for level in CPULevel.ofOneOrder {
      let text = try assembly(of: bytes, level)
      #expect(text.contains("vpdpbusd") == (level >= .avx512BF16))
      #expect(text.contains("vpmaddwd") == (level < .avx512BF16))
    }
  }

  private func assembly(of subject: Subject, _ level: CPULevel) throws -> String {
    let backend = Backend(
      levels: [level], compiler: .init(name: "test", version: "0", flags: []),
      model: .init(name: "test", sourceChecksum: "0"))
    let (module, machine) = try backend.generate([subject.program], of: subject.module, in: Context())
    return try machine.emitAssembly(module)
  }
}
