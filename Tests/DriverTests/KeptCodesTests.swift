import Codegen
import Driver
import Interpreter
import Passes
import TensorIR
import TestSupport
import Testing
import UltraRuntime

/// Keys and values that are kept as codes of f8e4m3.
@Suite struct KeptCodesTests {
  /// A random program that keeps numbers, and the same one that keeps codes of them.
  private struct Pair {
    let program: RandomProgram
    let plain: Module
    let coded: Module
    /// Of the one that keeps codes.
    let batch: CachedBatch
    private let level: CPULevel

    /// nil where nothing goes on from a history of the program.
    init?(_ kind: RandomProgram.Kind, seed: UInt64, precision: String) throws {
      let random = try RandomProgram(kind, seed: seed, options: .init(fixedDivisor: true))
      func rewritten(_ rewrite: String) throws -> Module {
        var module = random.module
        try PassManager(PassPipeline(parsing: precision + rewrite)).run(on: &module)
        try PassManager(PassPipeline(level: Int(seed % 3))).run(on: &module)
        return module
      }
      do {
        (plain, coded) = (try rewritten("cached-scoring"), try rewritten("cached-scoring{cache=fp8}"))
      } catch is PassError {
        return nil
      }
      guard coded.functions.count > 2, let batch = CachedBatch(random, coded, own: { min($0, 1 + $0 % 4) }),
        batch.ownRows > 0
      else { return nil }
      (program, self.batch) = (random, batch)
      level = CPULevel.ofOneOrder[Int(seed) % CPULevel.ofOneOrder.count]
    }

    /// Calls code of one of the two.
    func code(of module: Module) throws -> CachedBatch.Run {
      let compiled = try CompiledProgram(module, weights: program.weights, level: level, optimization: .less)
      return { try compiled.results(of: $0, $1) }
    }
  }

  @Test(
    "codes that are kept give the bits of the numbers that they stand for",
    arguments: zip(CachedScoringCodeTests.kinds, ["", TwoLayers.bf16, "", TwoLayers.bf16, TwoLayers.bf16, ""]))
  func sameBits(kind: RandomProgram.Kind, precision: String) throws {
    var compared = 0
    for seed in 201...230 as ClosedRange<UInt64> where compared < 7 {
      guard let pair = try Pair(kind, seed: seed, precision: precision) else { continue }
      let (plainRun, codedRun) = (try pair.code(of: pair.plain), try pair.code(of: pair.coded))
      var numbers: [String: HostTensor] = [:]
      let found = try pair.batch.continued { name, inputs in
        let results = try codedRun(name, inputs)
        guard name == "prefill" else { return results }
        let expected = try plainRun(name, inputs)
        numbers = try decoded(results, for: pair.plain)
        for (name, tensor) in expected where tensor.element == .f32 && results[name + ".scales"] != nil {
          // The codes are the interpreter's, bit for bit.
          let rows = (0..<tensor.shape[0]).map { row in
            let width = tensor.shape[1]
            return RowQuantization.quantize(Array(tensor.floats[row * width..<(row + 1) * width]), to: .f8e4m3)
          }
          #expect(results[name]?.floats == rows.flatMap(\.codes), "\(pair.program): \(name)")
          #expect(results[name + ".scales"]?.floats == rows.map(\.scale), "\(pair.program): \(name)")
        }
        return results
      }
      guard let plain = CachedBatch(pair.program, pair.plain, own: { min($0, 1 + $0 % 4) }) else { continue }
      let expected = try plain.continued { name, inputs in
        name == "prefill" ? numbers : try plainRun(name, inputs)
      }
      compared += pair.batch.ownRows
      // What extend keeps is coded in one, and not in the other.
      for (name, tensor) in expected where found[name + ".scales"] == nil {
        #expect(found[name] == tensor, "\(pair.program): \(name)")
      }
    }
    #expect(compared > 4)
  }

  @Test("code agrees with the interpreter about codes that are kept", arguments: CachedScoringCodeTests.kinds)
  func agrees(kind: RandomProgram.Kind) throws {
    var compared = 0
    for seed in 241...270 as ClosedRange<UInt64> where compared < 7 {
      guard let pair = try Pair(kind, seed: seed, precision: "") else { continue }
      let run = try pair.code(of: pair.coded)
      compared += pair.batch.ownRows
      let interpreter = Interpreter(module: pair.coded, weights: pair.program.weights, precision: .f64)
      let found = try pair.batch.continued(run)
      // Both go on from the same codes: what decides one is the last bit of a sum.
      let expected = try pair.batch.continued { name, inputs in
        if name == "prefill" { return try run(name, inputs) }
        return Dictionary(
          uniqueKeysWithValues: try interpreter.run(name, inputs: inputs).map { result in
            let tensor = result.tensor
            return (
              result.name,
              tensor.element == .f64 ? HostTensor(tensor.doubles.map { Float($0) }, shape: tensor.shape) : tensor
            )
          })
      }
      for (name, tensor) in expected where !name.hasPrefix("cache.") {
        expectClose(
          try #require(found[name]), tensor, atol: kind.tolerance(of: tensor), rtol: 0, "\(pair.program): \(name)")
      }
    }
    #expect(compared > 4)
  }

  /// Whole vectors of codes, and what is left of them.
  @Test("wide heads of codes are decoded at every level", arguments: [72, 128], ["", TwoLayers.bf16])
  func wide(head: Int, precision: String) throws {
    let (width, histories, candidates) = (32, [65, 0, 131], [40, 2, 5])
    let plain = try TwoLayers(.causal, width: width, head: head, passes: precision + "cached-scoring")
    let coded = try TwoLayers(.causal, width: width, head: head, passes: precision + "cached-scoring{cache=fp8}")
    var random = Random(seed: 10)
    let old = random.tensor([histories.reduce(0, +), width], spread: 2)
    let new = random.tensor([candidates.reduce(0, +), width], spread: 2)
    for level in CPULevel.ofOneOrder {
      func run(_ layers: TwoLayers) throws -> CachedBatch.Run {
        let compiled = try CompiledProgram(
          layers.module, weights: layers.weights, level: level, optimization: .less)
        return { name, inputs in
          let names = layers.module.function(named: name)?.argumentNames ?? []
          return try compiled.results(of: name, inputs.filter { names.contains($0.key) })
        }
      }
      let (code, numbers) = (try run(coded), try run(plain))
      let kept = try code("prefill", ["x": old, "offsets": TwoLayers.cut(histories)])
      let own = [
        "x": new, "offsets": TwoLayers.cut(candidates), "cached_offsets": TwoLayers.cut(histories),
      ]
      let found = try code("score", own.merging(kept) { own, _ in own })
      let expected = try numbers("score", own.merging(decoded(kept, for: plain.module)) { own, _ in own })
      #expect(found["y"] == expected["y"] && found["y"]?.shape == [47, width], "\(level)")
    }
  }

  private static func ids(_ count: Int, seed: UInt64) -> [Int64] {
    var random = Random(seed: seed)
    return (0..<count).map { _ in Int64(random.integer(in: 0...19)) }
  }

  @Test(
    "a block of codes has the same bytes and scores alone and among others, and fewer bytes than one of bf16",
    arguments: ["\"form\": \"causal\"", "\"form\": \"windowed\", \"window\": 5"])
  func blocks(mask: String) throws {
    let precision = "lower-precision{matmul=bf16,attention=bf16},"
    let model = try KeptModel(candidates: true, mask: mask, precision: precision, cache: "{cache=fp8}")
    let plain = try KeptModel(candidates: true, mask: mask, precision: precision)
    let sequences = [7, 0, 23, 1, 40].map { Self.ids($0, seed: UInt64($0)) }
    let candidates = [3, 2, 0, 5, 1].map { Self.ids($0, seed: UInt64(100 + $0)) }
    let together = try model.histories(sequences)
    let session = HistorySession(model.cache, pool: try ThreadPool(workers: 2))
    let found = try #require(session.score(together, KeptModel.inputs(candidates)).first?.tensor)
    let width = found.shape[1] * 4
    var first = 0
    for (index, history) in together.enumerated() {
      let alone = try model.histories([sequences[index]])[0]
      #expect(try alone.bytes == history.bytes)
      let own = try #require(session.score([alone], KeptModel.inputs([candidates[index]])).first?.tensor)
      #expect(own.bytes == Array(found.bytes[first..<first + candidates[index].count * width]))
      first += candidates[index].count * width
    }
    // Of 8 numbers a row, codes and a scale take 12 bytes in place of 16; a window has too few rows to tell.
    if mask.contains("causal") {
      #expect(try model.cache.byteCount(capacity: 400) * 5 < plain.cache.byteCount(capacity: 400) * 4)
    }
    let whole = try #require(model.forward(sequences, candidates).values.first).values(as: Float.self)
    let scored = try found.values(as: Float.self)
    let error = zip(whole, scored).map { abs($0 - $1) }.max() ?? 0
    #expect(error > 0 && error < 0.05 * (whole.map(abs).max() ?? 0), "\(error)")

    let other = #expect(throws: RuntimeError.self) { try plain.cache.history(bytes: together[0].bytes, capacity: 40) }
    #expect(other?.description.contains("another compiled model") == true, "\(String(describing: other))")
  }
}

/// What `prefill` gives of codes, as the numbers that they stand for, of the elements that entries of `module` take.
private func decoded(_ results: [String: HostTensor], for module: Module) throws -> [String: HostTensor] {
  var numbers: [String: HostTensor] = [:]
  for (name, tensor) in results where !name.hasSuffix(".scales") {
    numbers[name] = tensor
    guard let scales = results[name + ".scales"]?.floats, let element = module.kept(name) else { continue }
    let floats = tensor.floats.enumerated().map { $1 * scales[$0 / tensor.shape[1]] }
    numbers[name] =
      element == .f32
      ? HostTensor(floats, shape: tensor.shape)
      : try HostTensor(
        element: .bf16, shape: tensor.shape,
        bytes: floats.map { Rounding.bfloat16Bits($0) }.flatMap { [UInt8($0 & 0xFF), UInt8($0 >> 8)] })
  }
  return numbers
}

extension Module {
  /// The element type of what score or extend takes under a name; nil where neither takes it.
  fileprivate func kept(_ name: String) -> ElementType? {
    for function in functions where function.name != "prefill" {
      for argument in function.arguments where function[argument].name == name {
        return function[argument].type.tensor?.element
      }
    }
    return nil
  }
}
