import Driver
import Foundation
import TestSupport
import Testing
import UltraRuntime

/// The models that histories are kept for in these tests, compiled and loaded.
struct KeptModel {
  let cache: HistoryCache
  let hasCandidates: Bool
  var model: LoadedModel { cache.model }

  /// Two layers on ids; `others` are fields of model.json, `outOfRange` one of the item table.
  init(
    candidates: Bool, ranks: Bool = false, mask: String = "\"form\": \"causal\"", others: String = "",
    precision: String = "", cache settings: String = "", outOfRange: String = "\"error\""
  ) throws {
    hasCandidates = candidates
    cache = try withTemporaryFolder { folder in
      var options = CompileOptions(
        model: try ModelFolder(
          folder, candidates: candidates, ranks: ranks, mask: mask, others: others, outOfRange: outOfRange
        ).model)
      options.rewrites = precision + "cached-scoring" + settings
      var compiler = Compiler(options)
      let path = folder.appendingPathComponent("model.ultra").path
      try compiler.compile(to: path)
      return try HistoryCache(LoadedModel(path: path))
    }
  }

  /// Layers behind the first run on the latest four rows.
  static let truncation = "\"truncation\": [{\"form\": \"drop\", \"after\": 1, \"keep\": 4}],"

  /// Sequences of these ids.
  static func inputs(_ sequences: [[Int64]]) throws -> [String: Tensor] {
    let offsets = sequences.reduce(into: [Int64(0)]) { $0.append($0[$0.count - 1] + Int64($1.count)) }
    return ["item_ids": try Tensor(sequences.flatMap { $0 }), "offsets": try Tensor(offsets)]
  }

  /// What `forward` gives for histories with rows behind them, of which those are candidates where the model has such.
  func forward(_ histories: [[Int64]], _ behind: [[Int64]]) throws -> [String: Tensor] {
    var inputs = try Self.inputs(zip(histories, behind).map(+))
    if hasCandidates { inputs["num_targets"] = try Tensor(behind.map { Int64($0.count) }) }
    return Self.byName(try model.run(inputs: inputs))
  }

  static func byName(_ results: [(name: String, tensor: Tensor)]) -> [String: Tensor] {
    Dictionary(uniqueKeysWithValues: results.map { ($0.name, $0.tensor) })
  }

  /// Kept histories of these rows, each with room for so many.
  func histories(_ sequences: [[Int64]], capacity: Int = 40) throws -> [KeptHistory] {
    let histories = try sequences.map { _ in try cache.history(capacity: capacity) }
    try HistorySession(cache).prefill(histories, Self.inputs(sequences))
    return histories
  }
}

@Suite struct KeptHistoryTests {
  private static func ids(_ count: Int, seed: UInt64) -> [Int64] {
    var random = Random(seed: seed)
    return (0..<count).map { _ in Int64(random.integer(in: 0...19)) }
  }

  @Test(
    "candidates of several users and of each alone are scored as in the whole", arguments: ["", KeptModel.truncation],
    ["", "lower-precision{matmul=bf16,attention=bf16},"])
  func score(others: String, precision: String) throws {
    let model = try KeptModel(candidates: true, others: others, precision: precision)
    let sequences = [7, 0, 23, 1, 40].map { Self.ids($0, seed: UInt64($0)) }
    let candidates = [3, 2, 0, 5, 1].map { Self.ids($0, seed: UInt64(100 + $0)) }
    let whole = try model.forward(sequences, candidates)
    let together = try model.histories(sequences)
    #expect(together.map(\.rows) == [7, 0, 23, 1, 40] && together.allSatisfy { $0.capacity == 40 })
    let session = HistorySession(model.cache, pool: try ThreadPool(workers: 2))
    #expect(try KeptModel.byName(session.score(together, KeptModel.inputs(candidates))) == whole)
    // None at all are users, too.
    #expect(try session.score([], KeptModel.inputs([]))[0].tensor.shape == [0, 8])
    for (index, history) in together.enumerated() {
      let alone = try model.histories([sequences[index]])[0]
      #expect(try alone.bytes == history.bytes)
      let own = try session.score([alone], KeptModel.inputs([candidates[index]]))
      #expect(try KeptModel.byName(own) == model.forward([sequences[index]], [candidates[index]]))
      // The same block may be read by several users of one call.
      let twice = try session.score([alone, alone], KeptModel.inputs([candidates[index], []]))
      #expect(twice[0].tensor == own[0].tensor)
    }
  }

  @Test(
    "a history that grows event by event is the one that was there at once, and its list leaves out all that was seen")
  func extend() throws {
    let model = try KeptModel(candidates: false, ranks: true)
    let session = HistorySession(model.cache)
    let sequences = [Self.ids(9, seed: 1), Self.ids(14, seed: 2)]
    let histories = try sequences.map { _ in try model.cache.history(capacity: 14) }
    for count in 1...9 {
      let events = sequences.map { [$0[count - 1]] }
      let expected = try model.forward(sequences.map { Array($0.prefix(count - 1)) }, events)
      // What the model makes of an event is known before it becomes part of the history.
      #expect(try KeptModel.byName(session.extend(histories, KeptModel.inputs(events), keep: false)) == expected)
      #expect(histories.map(\.rows) == [count - 1, count - 1])
      #expect(try KeptModel.byName(session.extend(histories, KeptModel.inputs(events))) == expected)
    }
    // One more than one, and alone: in place.
    let rest = Array(sequences[1].dropFirst(9))
    let last = try KeptModel.byName(session.extend([histories[1]], KeptModel.inputs([rest])))
    #expect(try last == model.forward([Array(sequences[1].prefix(9))], [rest]))
    #expect(try histories.map { try $0.bytes } == model.histories(sequences).map { try $0.bytes })
    let listed = try #require(last["top_ids"]).values(as: Int64.self).filter { $0 >= 0 }
    #expect(Set(listed).isDisjoint(with: sequences[1]) && !listed.isEmpty)

    let full = #expect(throws: RuntimeError.self) { try session.extend([histories[1]], KeptModel.inputs([[3]])) }
    #expect(full?.description == "history 0: there are more rows than there is room for")
    let larger = try histories[1].copy(capacity: 15)
    try session.extend([larger], KeptModel.inputs([[3]]))
    #expect(larger.rows == 15)
  }

  @Test(
    "where ids are hashed, the lists of kept histories leave out the rows that were looked up; where a row stands in, no other",
    arguments: ["\"modulo\"", "{\"fallback\": 3}"])
  func hashedIDs(outOfRange: String) throws {
    let model = try KeptModel(candidates: false, ranks: true, outOfRange: outOfRange)
    let session = HistorySession(model.cache)
    let history = try model.cache.history(capacity: 7)
    var ids: [Int64] = []
    var event: Int64 = .min
    for turn in 0..<7 {
      let found = try KeptModel.byName(session.extend([history], KeptModel.inputs([[event]])))
      let whole = try model.forward([ids], [[event]])
      #expect(found == whole)
      ids.append(event)
      let best = try #require(found["top_ids"]).values(as: Int64.self)
      let seen = outOfRange == "\"modulo\"" ? ids.map { ($0 % 20 + 20) % 20 } : ids
      #expect(Set(seen).isDisjoint(with: best), "\(ids): \(best)")
      #expect(best.allSatisfy { (1..<20).contains($0) })
      // What was the best is seen next: by its row, or by ids far outside that are hashed to it.
      event = best[0] + [0, 20, -20 << 40][turn % 3]
    }
  }

  @Test("stored bytes are the history again, with room for more")
  func bytes() throws {
    let model = try KeptModel(candidates: false)
    let session = HistorySession(model.cache)
    let ids = Self.ids(12, seed: 3)
    let stored = try model.histories([Array(ids.prefix(11))], capacity: 100)[0].bytes
    #expect(stored.count == (try model.cache.byteCount(capacity: 11)) && stored.count % 64 == 0)
    let read = try model.cache.history(bytes: stored, capacity: 12)
    #expect(read.rows == 11 && read.capacity == 12)
    let result = try KeptModel.byName(session.extend([read], KeptModel.inputs([[ids[11]]])))
    #expect(try result == model.forward([ids], [[]]))
    #expect(throws: RuntimeError.self) { try model.cache.history(bytes: stored, capacity: 10) }
    #expect(try model.cache.history(bytes: stored).capacity == 11)
  }

  @Test("a call that is refused leaves a history as it was, or empty where it was to be filled anew")
  func refusals() throws {
    let model = try KeptModel(candidates: false)
    let session = HistorySession(model.cache)
    let histories = try model.histories([[1, 2, 3], [4]])
    let before = try histories.map { try $0.bytes }
    let bad = #expect(throws: RuntimeError.self) { try session.extend(histories, KeptModel.inputs([[5], [20]])) }
    #expect(bad?.description == "item_ids[1]: 20 is outside 0..<20")
    for (inputs, message) in [
      (try KeptModel.inputs([[5]]), "history 0: offsets do not begin with 0, or decrease"),
      (["item_ids": try Tensor([5] as [Int64]), "offsets": try Tensor([0, 1, 0] as [Int64])], "or decrease"),
      (["item_ids": try Tensor([5] as [Int64]), "offsets": try Tensor([0, 2, 3] as [Int64])], "offsets[2]: 3"),
      (["item_ids": try Tensor([5] as [Int64]), "offsets": try Tensor([0, 1, 1] as [Int32])], "offsets: i32"),
      (["offsets": try Tensor([0, 1, 1] as [Int64])], "item_ids: missing"),
    ] {
      let error = #expect(throws: RuntimeError.self) { try session.extend(histories, inputs) }
      #expect(error?.description.contains(message) == true, "\(String(describing: error))")
    }
    var own = try KeptModel.inputs([[5], [6]])
    own["cached_offsets"] = own["offsets"]
    let lent = #expect(throws: RuntimeError.self) { try session.extend(histories, own) }
    #expect(lent?.description == "cached_offsets: the kept history brings it")
    let none = #expect(throws: RuntimeError.self) { try session.score(histories, KeptModel.inputs([[5], [6]])) }
    #expect(none?.description.contains("the model has no such entry") == true)
    #expect(try histories.map { try $0.bytes } == before)
    #expect(throws: RuntimeError.self) { try session.prefill(histories, KeptModel.inputs([[5], [20]])) }
    #expect(histories.map(\.rows) == [0, 0])

    let other = try KeptModel(candidates: false, ranks: true)
    #expect(throws: RuntimeError.self) {
      try HistorySession(other.cache).prefill(histories, KeptModel.inputs([[1], [2]]))
    }
    let foreign = #expect(throws: RuntimeError.self) { try other.cache.history(bytes: before[0]) }
    #expect(foreign?.description == "a kept history: the block is of another compiled model")
    let plain = try withTemporaryFolder { folder in
      _ = try ModelFolder(folder).compile()
      return try LoadedModel(path: folder.appendingPathComponent("model.ultra").path)
    }
    let uncached = #expect(throws: RuntimeError.self) { try HistoryCache(plain) }
    #expect(uncached?.description.contains("compile it with --rewrite cached-scoring") == true)
  }

  @Test("a truncated layer takes room for the rows that it keeps, whatever the capacity")
  func room() throws {
    let short = try KeptModel(candidates: true, others: KeptModel.truncation)
    let long = try KeptModel(candidates: true)
    // Keys and values of 8 numbers of fp32 in two layers, of which the second keeps 4 rows; headers of 128 bytes.
    #expect(try long.cache.byteCount(capacity: 1000) == 128 + 4 * 32 * 1000)
    #expect(try short.cache.byteCount(capacity: 1000) == 128 + 2 * 32 * 1000 + 2 * 32 * 4)
    for capacity in [-1, 1 << 57, .max] {
      #expect(throws: RuntimeError.self) { try long.cache.byteCount(capacity: capacity) }
    }
  }

  @Test("calls about different histories, and scores against one, run at once")
  func threads() async throws {
    let model = try KeptModel(candidates: true)
    let shared = try model.histories([Self.ids(30, seed: 50)])[0]
    let expected = try model.forward([Self.ids(30, seed: 50)], [[1, 2]])
    nonisolated(unsafe) let history = shared
    try await withThrowingTaskGroup(of: Void.self) { group in
      for thread in 0..<8 {
        group.addTask {
          let session = HistorySession(model.cache)
          for round in 0..<40 {
            let ids = Self.ids(round % 13, seed: UInt64(thread * 100 + round))
            let own = try model.cache.history(capacity: 20)
            try session.prefill([own], KeptModel.inputs([ids]))
            try session.extend([own], KeptModel.inputs([[7]]))
            let found = try KeptModel.byName(session.score([own], KeptModel.inputs([[3, 4]])))
            #expect(try found == model.forward([ids + [7]], [[3, 4]]))
            #expect(try KeptModel.byName(session.score([history], KeptModel.inputs([[1, 2]]))) == expected)
          }
        }
      }
      try await group.waitForAll()
    }
  }
}
