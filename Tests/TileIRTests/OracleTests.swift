import Interpreter
import Passes
import TensorIR
import TestSupport
import TileIR
import Testing

/// What the lowering makes must mean what the function meant: both interpreters run the same programs.
@Suite("Tile programs and the functions that they were lowered from")
struct OracleTests {
  static let seeds = 1...60 as ClosedRange<UInt64>

  /// fp64 against fp64: what the tolerance of fp32 becomes with 29 bits more. Codes are not among them: what decides them
  /// is fp32 arithmetic, and a tile program says nothing of that.
  @Test("agree in fp64", arguments: RandomProgram.Kind.allCases.filter { $0 != .precision })
  func fp64(kind: RandomProgram.Kind) throws {
    for seed in Self.seeds {
      try check(RandomProgram(kind, seed: seed), schedule: .variant(Int(seed)), .f64, scale: 0x1p-29)
    }
  }

  @Test("agree in fp32", arguments: RandomProgram.Kind.allCases)
  func fp32(kind: RandomProgram.Kind) throws {
    for seed in Self.seeds.prefix(20) {
      try check(RandomProgram(kind, seed: seed), schedule: .variant(Int(seed)), .f32, scale: 1)
    }
  }

  @Test("agree on sequences longer than a turn of keys", arguments: [RandomProgram.Kind.production, .research])
  func longSequences(kind: RandomProgram.Kind) throws {
    for seed in 1...8 as ClosedRange<UInt64> {
      let program = try RandomProgram(kind, seed: seed, options: .init(longest: 300))
      try check(program, schedule: .variant(Int(seed)), .f64, scale: 0x1p-29)
    }
  }

  @Test(
    "a program that computes something else is noticed",
    arguments: [
      (" where visible", ""), (" += contract(transposed", " = contract(transposed"), ("parts = 2", "parts = 1"),
      ("1 / square_root", "2 / square_root"),
    ])
  func notices(text: String, other: String) throws {
    var noticed = 0
    for seed in Self.seeds {
      let random = try RandomProgram(.production, seed: seed)
      let program = try lowerToTiles(random.module, function: "forward", schedule: .variant(1))
      guard program.text.contains(text), random.offsets.last != 0 else { continue }
      let changed = try TileIRParser.parse(program.text.replacing(text, with: other))
      let results = try [program, changed].map {
        try TileInterpreter(program: $0, weights: random.weights).run(random.inputs)
      }
      let y = results.map { $0[0].tensor }
      if !compare(y[1], y[0], atol: random.kind.tolerance(of: y[0]), rtol: 0).isClose { noticed += 1 }
    }
    #expect(noticed >= 5)
  }

  private func check(
    _ random: RandomProgram, schedule: TileSchedule, _ precision: Interpreter.Precision, scale: Double
  ) throws {
    let program = try lowerToTiles(random.module, function: "forward", schedule: schedule)
    let expected = try Interpreter(module: random.module, weights: random.weights)
      .run("forward", inputs: random.inputs)
    let weights = DerivedWeights(random.module, base: random.weights)
    let got = try TileInterpreter(program: program, weights: weights, precision: precision).run(random.inputs)
    try #require(got.map(\.name) == expected.map(\.name), "\(random)")
    for (var got, expected) in zip(got, expected) {
      // Integers of one column are a vector or a matrix: a tile program does not tell.
      if got.tensor.element == .i64, got.tensor.shape + [1] == expected.tensor.shape { got.tensor.shape.append(1) }
      expectClose(
        got.tensor, expected.tensor, atol: random.kind.tolerance(of: expected.tensor) * scale, rtol: 0,
        "\(random), \(expected.name)")
    }
  }
}
