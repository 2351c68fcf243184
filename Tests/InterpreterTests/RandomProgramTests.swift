import Interpreter
import TensorIR
import TestSupport
import Testing

/// Properties that hold for every program, tried on random ones.
@Suite struct RandomProgramTests {
  static let allKinds = RandomProgram.Kind.allCases
  static let seeds: ClosedRange<UInt64> = 1...40

  private func run(
    _ program: RandomProgram, _ precision: Interpreter.Precision = .f32
  ) throws -> [(name: String, tensor: HostTensor)] {
    try Interpreter(module: program.module, weights: program.weights, precision: precision)
      .run("forward", inputs: program.inputs)
  }

  @Test("a seed gives one program")
  func deterministic() throws {
    for kind in Self.allKinds {
      let first = try RandomProgram(kind, seed: 7)
      let second = try RandomProgram(kind, seed: 7)
      #expect(first.inputs == second.inputs)
      #expect(first.weights.tensors == second.weights.tensors)
      #expect(first.module.functions.first?.operations == second.module.functions.first?.operations)
      #expect(try RandomProgram(kind, seed: 8).inputs != first.inputs)
    }
    // The generator itself: the published first outputs of SplitMix64 for seed 1234567.
    var random = Random(seed: 1_234_567)
    #expect(random.next() == 6_457_827_717_110_365_317)
    #expect(random.next() == 3_203_168_211_198_807_973)
  }

  @Test("the programs of a few hundred seeds are valid, and have every operation, mask and kind of sequence")
  func coverage() throws {
    var mnemonics: Set<String> = []
    var forms: Set<String> = []
    var lengths: Set<Int> = []
    var batches: Set<Int> = []
    for kind in Self.allKinds {
      for seed in UInt64(1)...100 {
        let program = try RandomProgram(kind, seed: seed)
        #expect(program.module.verificationErrors().isEmpty, "\(program)")
        let function = try #require(program.module.function(named: "forward"))
        for operation in function.operations {
          mnemonics.insert(operation.payload.mnemonic)
          guard case .attention(let attention) = operation.payload else { continue }
          switch attention.mask.form {
          case .causal: forms.insert("causal")
          case .windowed: forms.insert("windowed")
          case .keyPrefix(_, _, let targets): forms.insert("keyPrefix \(targets)")
          }
        }
        batches.insert(program.sequenceCount)
        lengths.formUnion(zip(program.offsets, program.offsets.dropFirst()).map { $1 - $0 })
      }
    }
    #expect(
      mnemonics.sorted() == [
        "add", "attention", "bucket_times", "calendar_units", "concatenate", "convert", "dequantize_rows", "embed_bits",
        "extend_offsets",
        "extend_rows", "gather", "group_norm", "l2_norm", "last_rows", "layer_norm", "linear", "mark_bits", "multiply",
        "next_rows", "original_rows", "pick_rows", "positions", "quantize_rows", "quantized_linear",
        "replace_targets", "restore_rows", "scale", "select_offsets", "select_rows", "sigmoid",
        "silu", "split", "top_k", "zero_rows",
      ])
    #expect(forms == ["causal", "windowed", "keyPrefix history", "keyPrefix windowed"])
    #expect(batches.isSuperset(of: 0...5))
    #expect(lengths.isSuperset(of: [0, 1, 2, 24]) && (lengths.max() ?? 0) > 60)
  }

  @Test("fp32 agrees with fp64", arguments: RandomProgramTests.allKinds)
  func precisions(kind: RandomProgram.Kind) throws {
    for seed in Self.seeds {
      let program = try RandomProgram(kind, seed: seed)
      let narrow = try run(program, .f32)
      let wide = try run(program, .f64)
      for (narrow, wide) in zip(narrow, wide) {
        expectClose(
          narrow.tensor, wide.tensor, atol: kind.tolerance(of: wide.tensor), rtol: 0, "\(program): \(narrow.name)")
      }
    }
  }

  @Test("a sequence's result does not depend on the others, bit for bit", arguments: RandomProgramTests.allKinds)
  func batchMates(kind: RandomProgram.Kind) throws {
    for seed in Self.seeds {
      let program = try RandomProgram(kind, seed: seed, options: .init(fixedDivisor: true))
      guard program.inputs["offsets"] != nil, program.sequenceCount > 0 else { continue }
      let together = try run(program)
      for sequence in 0..<program.sequenceCount {
        let alone = try run(program.selecting([sequence]))
        for (name, tensor) in alone where name != "kept_offsets" {
          let rows = try rows(of: name, in: program, together)[sequence]
          let expected = try #require(together.first { $0.name == name }).tensor.rows(Array(rows))
          #expect(tensor == expected, "\(program): \(name) of sequence \(sequence)")
        }
      }
    }
  }

  @Test("sequences in another order give results in that order", arguments: RandomProgramTests.allKinds)
  func permutation(kind: RandomProgram.Kind) throws {
    for seed in Self.seeds {
      let program = try RandomProgram(kind, seed: seed)
      guard program.inputs["offsets"] != nil else { continue }
      // Maxima over the batch stay as they are, so run-time divisors take part.
      let order = Array((0..<program.sequenceCount).reversed())
      let straight = try run(program)
      for (name, tensor) in try run(program.selecting(order)) where name != "kept_offsets" {
        let rows = try rows(of: name, in: program, straight)
        let expected = try #require(straight.first { $0.name == name }).tensor.rows(order.flatMap { rows[$0] })
        #expect(tensor == expected, "\(program): \(name)")
      }
    }
  }

  /// The rows of a result that belong to each sequence, by the dimension that its type begins with.
  private func rows(
    of name: String, in program: RandomProgram, _ results: [(name: String, tensor: HostTensor)]
  ) throws -> [Range<Int>] {
    let function = try #require(program.module.function(named: "forward"))
    let result = try #require(function.results.first { $0.name == name })
    let kept = results.first { $0.name == "kept_offsets" }?.tensor.integers.map(Int.init)
    let offsets =
      switch function[result.value].type.tensor?.shape.first {
      case .symbol("rows"): program.offsets
      case .symbol("sequences"): Array(0...program.sequenceCount)
      default: try #require(kept)
      }
    return zip(offsets, offsets.dropFirst()).map { $0..<$1 }
  }
}
