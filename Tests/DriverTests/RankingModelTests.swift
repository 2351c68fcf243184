import Codegen
import Driver
import Foundation
import GoldenCases
import Interpreter
import ModelFormat
import Passes
import TensorIR
import TestSupport
import Testing
import UltraRuntime

/// Whole ranking models, from ids to scores, compiled.
@Suite struct RankingModelTests {
  private static let tests = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
  private static let golden = tests.appendingPathComponent("Golden").path

  /// How far fp32 may be from fp64, as a share of the largest number.
  private func expectNear(_ found: HostTensor, _ expected: HostTensor, _ share: Double, _ what: String) {
    let largest = expected.doubles.reduce(1) { max($0, abs($1)) }
    expectClose(found, expected, atol: share * largest, rtol: 0, what)
  }

  @Test(
    "the reference's models give its numbers at every stage, under both clamps",
    arguments: [
      "Golden/dlrm_no_history", "Golden/dlrm_timestamp", "Golden/dlrm_two_contextual_layernorm",
      "RankingCases/logarithm_l2", "RankingCases/masked_contextual", "RankingCases/no_contextual",
    ])
  func golden(path: String) throws {
    let level = try #require(CPULevel.native)
    let file = Self.tests.appendingPathComponent(path)
    let report = try GoldenCase(file.lastPathComponent, in: file.deletingLastPathComponent().path).check { program, _ in
      var module = program.module
      try PassManager(PassPipeline(level: 2)).run(on: &module)
      return try CompiledProgram(module, weights: program.weights, level: level).run(program.inputs)
    }
    #expect(report.status == .passed, "\(report)")
  }

  @Test("compiled models give what the interpreter gives, with and without the usual passes")
  func random() throws {
    let levels = CPULevel.supportedByHost
    for seed in 1...8 as ClosedRange<UInt64> {
      let model = try RandomRankingModel(seed: seed)
      let imported = try model.description.build(from: model.checkpoint)
      try imported.module.verify()
      let expected = try Interpreter(module: imported.module, weights: imported.weights, precision: .f64)
        .run("forward", inputs: model.inputs)
      var module = imported.module
      if seed % 4 != 0 { try PassManager(PassPipeline(level: 2)).run(on: &module) }
      let compiled = try CompiledProgram(
        module, weights: imported.weights, level: levels[Int(seed) % levels.count], optimization: .less)
      for (found, expected) in zip(try compiled.run(model.inputs), expected) {
        expectNear(found.tensor, expected.tensor, 2e-5, "seed \(seed): \(found.name)")
      }
    }
  }

  @Test("of a model of events, the best items are rows of a feature's table, without those that were seen")
  func recommends() throws {
    let level = try #require(CPULevel.native)
    var hashing = 0
    for seed in 61...66 as ClosedRange<UInt64> {
      let model = try RandomRankingModel(seed: seed, itemsFitRows: true)
      guard case .events(let events) = model.description.input, let table = events.table("item") else { continue }
      if table.outOfRange == .modulo { hashing += 1 }
      let scores = ModelDescription.Output.Scores(firstRow: 0, norm: .l2(epsilon: 1e-6), feature: "item_ids")
      var description = model.description
      description.output = .init(
        rows: .last, norm: .l2(epsilon: 1e-6), scores: scores,
        topK: .init(count: 1, scores: scores, leavesOutSeen: true))
      let imported = try description.build(from: model.checkpoint)
      try imported.module.verify()
      var module = imported.module
      try PassManager(PassPipeline(level: 2)).run(on: &module)
      let compiled = try CompiledProgram(module, weights: imported.weights, level: level, optimization: .less)
      var inputs = model.inputs
      let forward = imported.module.functions[0]
      let arguments = Set(forward.arguments.map { forward[$0].name })
      inputs = inputs.filter { arguments.contains($0.key) }
      let offsets = inputs["offsets"]?.integers ?? []
      try expectBest(
        try compiled.run(inputs), of: imported, inputs, firstRow: 0,
        seen: { user in
          seenItems(
            (inputs["item_ids"]?.integers ?? [])[Int(offsets[user])..<Int(offsets[user + 1])], table.outOfRange,
            rows: table.rows)
        })
    }
    #expect(hashing > 0)
  }

  @Test("a call that does not fit is refused, and says which feature, where and why")
  func refusals() throws {
    let level = try #require(CPULevel.native)
    _ = try GoldenCase("dlrm_two_contextual_layernorm", in: Self.golden).check { program, _ in
      let compiled = try CompiledProgram(program.module, weights: program.weights, level: level, optimization: .less)
      // Users 0 and 1 have 2 and 1 tags, of a table of 9; 43 events, of items that are 50.
      for (name, numbers, message) in [
        ("user_tags", [1, 9, 0], "user_tags[1]: 9 is outside 0..<9"),
        ("user_tags_offsets", [0, 2, 2], "user_tags_offsets[2]: 2, expected at least 3"),
        ("user_tags_offsets", [1, 2, 3], "user_tags_offsets[0]: 1, but offsets begin with 0"),
        ("item", [Int64](repeating: -1, count: 43), "item[0]: -1 is outside 0..<50"),
        ("num_targets", [20, 2], "num_targets[0]: 20 is outside 0...19"),
      ] as [(String, [Int64], String)] {
        var inputs = program.inputs
        inputs[name] = HostTensor(numbers)
        let error = #expect(throws: RuntimeError.self) { _ = try compiled.run(inputs) }
        #expect("\(try #require(error))".contains(message))
      }
      return []
    }
  }

  @Test("a user's scores have the same bits alone and with others")
  func alone() throws {
    let level = try #require(CPULevel.native)
    for seed in 31...32 as ClosedRange<UInt64> {
      let model = try RandomRankingModel(seed: seed)
      let imported = try model.description.build(from: model.checkpoint)
      var module = imported.module
      try PassManager(PassPipeline(level: 2)).run(on: &module)
      let compiled = try CompiledProgram(module, weights: imported.weights, level: level, optimization: .less)
      let together = try compiled.run(model.inputs)[0].tensor
      var first = 0
      for user in model.lengths.indices {
        let scores = try compiled.run(model.inputs(of: user))[0].tensor
        let expected = try together.rows(Array(first..<first + model.candidates[user]))
        #expect(scores == expected, "seed \(seed), user \(user)")
        first += model.candidates[user]
      }
    }
  }

  @Test("after the usual passes the last layer is computed for candidates only, and rows come from few kernels")
  func pruned() throws {
    let report = try GoldenCase("dlrm_timestamp", in: Self.golden).check { program, _ in
      var module = program.module
      // Stages would ask for all rows.
      module.functions[0].results = module.functions[0].results.filter { $0.name == "scores" }
      try PassManager(PassPipeline(level: 2)).run(on: &module)
      let function = module.functions[0]
      let last = try #require(function.body.last { function[$0].isAttention })
      guard case .attention(let attention) = function[last].payload else { return [] }
      #expect(attention.queries == .targets)
      // Events, contextual rows and their slots, then the layers.
      let before = function.units.prefix { !$0.operations.contains { function[$0].isAttention } }
      #expect(before.count { function.isKernel($0) } <= 10, "\(module.text)")
      return []
    }
    #expect(report.status != .passed)
  }

  @Test("bf16 products and int8 tables are near, and an action of a candidate is not looked at")
  func precision() throws {
    let level = try #require(CPULevel.native)
    for seed in [41] as [UInt64] {
      let model = try RandomRankingModel(seed: seed)
      let imported = try model.description.build(from: model.checkpoint)
      let expected = try Interpreter(module: imported.module, weights: imported.weights, precision: .f64)
        .run("forward", inputs: model.inputs)[0].tensor
      for pass in ["lower-precision{matmul=bf16,attention=bf16}", "lower-precision{tables=int8}"] {
        var module = imported.module
        try PassManager(PassPipeline(parsing: "canonicalize,prune-demand,\(pass),fold-weights,fuse")).run(on: &module)
        let compiled = try CompiledProgram(module, weights: imported.weights, level: level, optimization: .less)
        expectNear(try compiled.run(model.inputs)[0].tensor, expected, 0.15, "seed \(seed), \(pass)")
      }
    }
  }

  @Test("content and action rows of history stand in turn, candidates alone")
  func interleaved() throws {
    for seed in 51...54 as ClosedRange<UInt64> {
      let model = try RandomRankingModel(seed: seed, interleaved: true)
      var description = model.description
      description.truncations = []
      description.stages = description.knownStages.filter {
        [.content, .additional, .action, .preprocessed].contains($0)
      }
      let imported = try description.build(from: model.checkpoint)
      let results = try Interpreter(module: imported.module, weights: imported.weights, precision: .f64)
        .run("forward", inputs: model.inputs)
      func rows(_ name: String) -> [[Double]]? {
        results.first { $0.name == name }.map { result in
          let numbers = result.tensor.doubles
          return (0..<numbers.count / description.width).map {
            Array(numbers[$0 * description.width..<($0 + 1) * description.width])
          }
        }
      }
      let actions = try #require(rows("action"))
      var content = try #require(rows("content"))
      if let more = rows("additional") { content = zip(content, more).map { zip($0, $1).map { $0 + $1 } } }
      let found = try #require(rows("preprocessed"))
      var next = 0
      var event = 0
      for (length, candidates) in zip(model.lengths, model.candidates) {
        next += description.contextual
        for position in 0..<length {
          #expect(found[next] == content[event])
          if position < length - candidates {
            #expect(found[next + 1] == actions[event])
            next += 1
          }
          next += 1
          event += 1
        }
      }
      #expect(next == found.count)
    }
  }
}

extension RandomRankingModel {
  /// The batch of one user alone.
  func inputs(of user: Int) -> [String: HostTensor] {
    func part(_ numbers: HostTensor, _ lengths: [Int]) -> HostTensor {
      let first = lengths[..<user].reduce(0, +)
      return HostTensor(Array(numbers.integers[first..<first + lengths[user]]))
    }
    var own: [String: HostTensor] = [
      "offsets": HostTensor([0, Int64(lengths[user])]), "num_targets": HostTensor([Int64(candidates[user])]),
    ]
    for (name, tensor) in inputs where own[name] == nil && !name.hasSuffix("_offsets") {
      guard let offsets = inputs["\(name)_offsets"]?.integers else {
        own[name] = part(tensor, lengths)
        continue
      }
      let counts = zip(offsets.dropFirst(), offsets).map { Int($0 - $1) }
      own[name] = part(tensor, counts)
      own["\(name)_offsets"] = HostTensor([0, Int64(counts[user])])
    }
    return own
  }
}
