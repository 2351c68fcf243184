import Interpreter
import Passes
import TensorIR
import TestSupport
import Testing

/// What `lower-precision` makes of random programs: sound, done at once, near what it was, and what it says.
@Suite struct LowerPrecisionTests {
  private static let pipelines = [
    "lower-precision{matmul=bf16,attention=bf16,tables=fp16}", "lower-precision{matmul=int8,tables=int8,items=bf16}",
    "lower-precision{matmul=fp8,attention=bf16,tables=int4,items=int4}",
  ]

  private func run(
    _ module: Module, of program: RandomProgram, _ precision: Interpreter.Precision = .f32
  ) throws -> [(name: String, tensor: HostTensor)] {
    try Interpreter(module: module, weights: program.weights, precision: precision)
      .run("forward", inputs: program.inputs)
  }

  /// Norms of attention that is nearly constant enlarge errors without bound, so single operations are held to a bound,
  /// stacks to being numbers.
  @Test(arguments: RandomProgram.Kind.allCases, pipelines) func lowered(kind: RandomProgram.Kind, passes: String) throws
  {
    let pipeline = try PassPipeline(parsing: passes)
    for seed in 1...12 as ClosedRange<UInt64> {
      let program = try RandomProgram(kind, seed: seed)
      var lowered = program.module
      try PassManager(pipeline).run(on: &lowered)
      #expect(lowered.verificationErrors().isEmpty)
      #expect(try TensorIRParser.parse(lowered.text).text == lowered.text)
      var again = lowered
      try PassManager(pipeline).run(on: &again)
      #expect(again.text == lowered.text, "\(passes) is not done with \(program)")
      for (found, expected) in zip(try run(lowered, of: program), try run(program.module, of: program)) {
        #expect(found.name == expected.name && found.tensor.shape == expected.tensor.shape)
        // Some of what is ranked is no number.
        #expect(kind == .ranking || found.tensor.doubles.allSatisfy { $0.isFinite }, "\(passes) of \(program)")
        guard kind == .operation else { continue }
        // Codes of 4 bits and of f8e4m3 have errors of up to 1/16 of what they stand for.
        let largest = expected.tensor.doubles.reduce(1) { max($0, abs($1)) }
        expectClose(
          found.tensor, expected.tensor, atol: 0.1 * largest, rtol: 0, "\(passes) of \(program): \(found.name)")
      }
    }
  }

  /// Selections, norms and the rest are as they were: only candidates change.
  @Test func whatIsNotAskedForStays() throws {
    for kind in RandomProgram.Kind.allCases {
      for seed in 1...6 as ClosedRange<UInt64> {
        let program = try RandomProgram(kind, seed: seed)
        let candidates = PrecisionCandidates(program.module.functions[0]).all
        guard !candidates.isEmpty else { continue }
        var lowered = program.module
        let keep = candidates.map(\.name).joined(separator: "+")
        try PassManager(
          PassPipeline(parsing: "lower-precision{matmul=fp8,attention=bf16,tables=int4,keep=\(keep)}")
        ).run(on: &lowered)
        #expect(lowered.text == program.module.text)
      }
    }
  }

  @Test func theReportCounts() throws {
    let text = """
      module m
      weight @t : tensor<10 x 4 x f32>
      weight @w : tensor<4 x 4 x f32>
      func @forward(%ids: tensor<rows x i64>, %at: offsets<sequences x rows>) -> (out: tensor<rows x 4 x f32>) {
        %x = gather @t, %ids {out_of_range = error}
        %p = linear %x, @w
        %q = linear %p, @w
        %a = attention %q, %q, %q, %at {heads = 2, alpha = 1, divisor = fixed(8), activation = silu, mask = causal}
        return %a
      }
      """
    var module = try TensorIRParser.parse(text)
    let reports = try PassManager(
      PassPipeline(parsing: "lower-precision{matmul=fp8,attention=bf16,tables=int4,keep=p}")
    ).run(on: &module)
    #expect(reports[0].exactness == .approximate)
    #expect(
      reports[0].notes == [
        "1 operation left in fp32", "1 product in fp8", "1 attention in bf16", "1 lookup of int4 rows",
      ])
  }

  /// One pair for every candidate that is lowered, each from the values of the program as it was.
  @Test func probesComputeEveryCandidateFromExactOperands() throws {
    let program = try RandomProgram(.production, seed: 3)
    var options = LowerPrecisionOptions()
    options.matmul = .fp8
    options.attention = .bf16
    let probe = try #require(PrecisionProbe(program.module, function: "forward", options))
    #expect(probe.module.verificationErrors().isEmpty)
    #expect(
      probe.pairs.count == PrecisionCandidates(program.module.functions[0]).all.filter { $0.kind != .table }.count)
    let values = Dictionary(uniqueKeysWithValues: try run(probe.module, of: program).map { ($0.name, $0.tensor) })
    for pair in probe.pairs {
      let (full, lowered) = (try #require(values[pair.results.full]), try #require(values[pair.results.lowered]))
      #expect(full.shape == lowered.shape)
      if full.count > 0 { #expect(full != lowered, "\(pair.candidate.name) shows no error") }
      let largest = full.doubles.reduce(0) { max($0, abs($1)) }
      expectClose(lowered, full, atol: 0.1 * largest, rtol: 0, pair.candidate.name)
    }
    #expect(PrecisionProbe(program.module, function: "other", options) == nil)
  }
}
