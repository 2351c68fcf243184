import Artifact
import Codegen
import Driver
import ModelFormat
import Passes
import TensorIR
import TestSupport
import Testing
import UltraRuntime

/// Whole ranking models with histories that are kept: contextual rows before them, actions between, positions, times, features that
/// ask for so many events, layers that keep fewer rows.
@Suite struct KeptRankingTests {
  @Test("candidates of ranking models have the bits that they have with their history")
  func score() throws {
    var (compared, expecting, windowed) = (0, 0, 0)
    for seed in 1...12 as ClosedRange<UInt64> {
      let model = try RandomRankingModel(seed: seed)
      var description = model.description
      for index in description.layers.indices where seed % 2 == 0 {
        description.layers[index].mask = Mask(.windowed(window: 3, fullTail: 0))
      }
      let imported = try description.build(from: model.checkpoint)
      var module = imported.module
      do {
        try PassManager(PassPipeline(parsing: "cached-scoring")).run(on: &module)
      } catch let error as PassError {
        // Sequences that others were added to, or positions that only candidates can have.
        #expect("\(error)".contains("cached-scoring: "), "seed \(seed): \(error)")
        continue
      }
      guard module.function(named: "score") != nil else { continue }
      try PassManager(PassPipeline(level: 2)).run(on: &module)
      let compiled = try CompiledProgram(
        module, weights: imported.weights, level: CPULevel.ofOneOrder[Int(seed) % CPULevel.ofOneOrder.count],
        optimization: .less)
      let cache = try HistoryCache(compiled.model)
      let batch = KeptRankingBatch(model)
      let whole = try compiled.run(model.inputs)[0].tensor
      let session = HistorySession(cache)
      let kept = try batch.histories.map { try cache.history(capacity: $0.count) }
      func inputs(_ entry: String, _ users: [Int]) throws -> [String: Tensor] {
        let signature = compiled.model.manifest.entries[try compiled.model.index(ofEntry: entry)]
        return try batch.inputs(signature, users, isHistory: entry == "prefill").mapValues { try Tensor($0) }
      }
      let users = Array(kept.indices)
      try session.prefill(kept, inputs("prefill", users))
      let together = try session.score(kept, inputs("score", users))[0].tensor
      #expect(try HostTensor(together) == whole, "seed \(seed)")
      var first = 0
      for user in users {
        // One user alone, whose rows are computed where they stay, and whose block was stored meanwhile.
        let alone = try cache.history(capacity: batch.histories[user].count + 3)
        try session.prefill([alone], inputs("prefill", [user]))
        #expect(try alone.bytes == kept[user].bytes, "seed \(seed), user \(user)")
        let stored = try cache.history(bytes: alone.bytes)
        let own = try session.score([stored], inputs("score", [user]))[0].tensor
        let count = model.candidates[user]
        #expect(try HostTensor(own) == whole.rows(Array(first..<first + count)), "seed \(seed), user \(user)")
        first += count
      }
      compared += first
      let prefill = compiled.model.manifest.entries[try compiled.model.index(ofEntry: "prefill")]
      if prefill.inputs.contains(where: { $0.name == "candidate_offsets" }) { expecting += first }
      if prefill.outputs.contains(where: { $0.name.hasPrefix("cached.") }) { windowed += first }
    }
    #expect(compared > 50 && expecting > 5 && windowed > 25, "\(compared), \(expecting), \(windowed)")
  }
}

/// A ranking model's batch, cut into histories and candidates.
private struct KeptRankingBatch {
  let model: RandomRankingModel
  /// Rows of each user's history, and of the candidates behind it.
  let histories: [Range<Int>]
  let candidates: [Range<Int>]

  init(_ model: RandomRankingModel) {
    self.model = model
    let starts = model.lengths.reduce(into: [0]) { $0.append($0[$0.count - 1] + $1) }
    let ends = zip(starts.dropFirst(), model.candidates).map { $0 - $1 }
    histories = zip(starts, ends).map { $0..<$1 }
    candidates = zip(ends, starts.dropFirst()).map { $0..<$1 }
  }

  private func offsets(_ counts: [Int]) -> HostTensor {
    HostTensor(counts.reduce(into: [Int64(0)]) { $0.append($0[$0.count - 1] + Int64($1)) })
  }

  /// The inputs of an entry that are not kept, for some users.
  func inputs(_ entry: Manifest.Entry, _ users: [Int], isHistory: Bool) throws -> [String: HostTensor] {
    let rows = users.map { isHistory ? histories[$0] : candidates[$0] }
    var inputs: [String: HostTensor] = [:]
    for port in entry.inputs where port.keeps == nil {
      switch port.name {
      case "offsets": inputs[port.name] = offsets(rows.map(\.count))
      case "candidate_offsets": inputs[port.name] = offsets(users.map { candidates[$0].count })
      case "query_timestamps":
        // The request is known before its candidates: it has the time of the last of them.
        let times = model.inputs["timestamps"]?.integers ?? []
        inputs[port.name] = HostTensor(
          users.map { user in
            let end = candidates[user].upperBound
            return end > histories[user].lowerBound ? times[end - 1] : 0
          })
      default:
        guard let input = model.inputs[port.name] else { continue }
        if port.name.hasPrefix("about_") {
          // Of contextual features, the users' own ids and what cuts them.
          let isOffsets = port.name.hasSuffix("_offsets")
          let name = isOffsets ? port.name : port.name + "_offsets"
          let cut = model.inputs[name]?.integers.map { Int($0) } ?? []
          inputs[port.name] =
            isOffsets
            ? offsets(users.map { cut[$0 + 1] - cut[$0] }) : try input.rows(users.flatMap { cut[$0]..<cut[$0 + 1] })
        } else {
          inputs[port.name] = try input.rows(rows.flatMap { $0 })
        }
      }
    }
    return inputs
  }
}
