import Codegen
import Driver
import Foundation
import ModelFormat
import Passes
import TensorIR
import TestSupport
import Testing
import UltraRuntime

private let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
  .deletingLastPathComponent()
private let shared = root.deletingLastPathComponent().appendingPathComponent("shared")

/// The trained MovieLens models with histories that are kept.
@Suite struct MovieLensHistoryTests {
  /// The histories of all users, which are not ours to keep: they are where ../shared lies beside the repository.
  private struct Histories {
    let ids: [Int64]
    let times: [Int64]
    let offsets: [Int]
    let requests: [Int64]

    init() throws {
      let file = try SafetensorsFile(path: shared.appendingPathComponent("movielens-100k/histories.safetensors").path)
      ids = try file.tensor(named: "item_ids").integers
      times = try file.tensor(named: "timestamps").integers
      offsets = try file.tensor(named: "offsets").integers.map { Int($0) }
      requests = try file.tensor(named: "query_timestamps").integers
    }

    func length(_ user: Int) -> Int { offsets[user + 1] - offsets[user] }

    /// Some rows of users, and of each the time of what follows: the next row, or the request.
    func inputs(_ rows: [(user: Int, rows: Range<Int>)]) throws -> [String: Tensor] {
      let places = rows.flatMap { part in part.rows.map { offsets[part.user] + $0 } }
      let next = rows.map { part in
        part.rows.upperBound < length(part.user)
          ? times[offsets[part.user] + part.rows.upperBound] : requests[part.user]
      }
      return [
        "item_ids": try Tensor(places.map { ids[$0] }), "timestamps": try Tensor(places.map { times[$0] }),
        "offsets": try Tensor(rows.reduce(into: [Int64(0)]) { $0.append($0[$0.count - 1] + Int64($1.rows.count)) }),
        "query_timestamps": try Tensor(next),
      ]
    }
  }

  private static func cache(_ model: ImportedModel, rewrite: String = "cached-scoring") throws -> HistoryCache {
    var module = model.module
    try PassManager(PassPipeline(parsing: rewrite)).run(on: &module)
    try PassManager(PassPipeline(level: 2)).run(on: &module)
    return try HistoryCache(
      CompiledProgram(module, weights: model.weights, level: try #require(CPULevel.native)).model)
  }

  private static func recommender(rewrite: String = "cached-scoring") throws -> HistoryCache {
    try cache(
      importModel(at: root.appendingPathComponent("examples/movielens-100k/retrieval.json").path), rewrite: rewrite)
  }

  @Test(
    "the last event of every user, computed alone, gives the list of the whole history",
    .enabled(if: FileManager.default.fileExists(atPath: shared.path)))
  func everyUser() throws {
    let histories = try Histories()
    let cache = try Self.recommender()
    let session = HistorySession(cache, pool: try ThreadPool(workers: 2))
    let users = Array(0..<943)
    let kept = try users.map { try cache.history(capacity: histories.length($0)) }
    try session.prefill(kept, histories.inputs(users.map { ($0, 0..<histories.length($0) - 1) }))
    let last = users.map { (user: $0, rows: histories.length($0) - 1..<histories.length($0)) }
    let found = try KeptModel.byName(session.extend(kept, histories.inputs(last)))
    let whole = try KeptModel.byName(
      cache.model.run(inputs: histories.inputs(users.map { ($0, 0..<histories.length($0)) })))
    #expect(found == whole && found.keys.sorted() == ["top_ids", "top_scores", "user_embeddings"])
    #expect(kept.map(\.rows) == users.map(histories.length))

    let expected = try SafetensorsFile(path: shared.appendingPathComponent("movielens-100k/expected.safetensors").path)
    let ids = try #require(found["top_ids"]).values(as: Int64.self)
    // Films whose scores differ by less than fp32 tells apart may stand in either order.
    #expect(try zip(ids, expected.tensor(named: "top10_ids").integers).count { $0 != $1 } < 10)
  }

  /// Every user's last film is looked for among the ten that the model lists for the time at which it was seen.
  @Test(
    "histories that are kept in fp8 find as many last films, with scores that are a little off",
    .enabled(if: FileManager.default.fileExists(atPath: shared.path)))
  func codes() throws {
    let histories = try Histories()
    let users = Array(0..<943)
    func found(_ rewrite: String) throws -> (bytes: Int, hits: Int, scores: [Float], embeddings: [Float]) {
      let cache = try Self.recommender(rewrite: rewrite)
      let session = HistorySession(cache, pool: try ThreadPool(workers: 2))
      let kept = try users.map { try cache.history(capacity: histories.length($0)) }
      try session.prefill(kept, histories.inputs(users.map { ($0, 0..<histories.length($0) - 2) }))
      let last = users.map { (user: $0, rows: histories.length($0) - 2..<histories.length($0) - 1) }
      let results = try KeptModel.byName(session.extend(kept, histories.inputs(last)))
      let ids = try #require(results["top_ids"]).values(as: Int64.self)
      let hits = users.count { user in
        ids[user * 10..<user * 10 + 10].contains(histories.ids[histories.offsets[user + 1] - 1])
      }
      return (
        try cache.byteCount(capacity: 200), hits, try #require(results["top_scores"]).values(as: Float.self),
        try #require(results["user_embeddings"]).values(as: Float.self)
      )
    }
    let whole = try found("cached-scoring")
    let coded = try found("cached-scoring{cache=fp8}")
    let error = zip(whole.embeddings, coded.embeddings).map { abs($0 - $1) }.max() ?? 0
    let share = error / (whole.embeddings.map(abs).max() ?? 1)
    let line = "fp8: \(coded.bytes) of \(whole.bytes) bytes, \(coded.hits) of \(whole.hits) hits, error \(share)"
    print(line)
    #expect(Double(coded.bytes) < 0.3 * Double(whole.bytes), "\(line)")
    #expect(whole.hits > 90 && abs(whole.hits - coded.hits) <= 5, "\(line)")
    #expect(share > 0 && share < 0.05, "\(line)")
  }

  @Test(
    "a history that begins with nothing gives the list of the whole after every event",
    .enabled(if: FileManager.default.fileExists(atPath: shared.path)))
  func everyEvent() throws {
    let histories = try Histories()
    let cache = try Self.recommender()
    let session = HistorySession(cache)
    // Short and long histories; the longest are those that the model was trained with.
    let users = [0, 1, 2, 8, 26, 99, 404, 942]
    var lists = 0
    for user in users {
      let length = histories.length(user)
      let kept = try cache.history(capacity: length)
      try session.prefill([kept], histories.inputs([(user, 0..<0)]))
      let whole = try KeptModel.byName(
        cache.model.run(inputs: histories.inputs((1...length).map { (user, 0..<$0) })))
      for name in ["user_embeddings", "top_scores", "top_ids"] {
        #expect(whole[name]?.shape.first == length)
      }
      for event in 0..<length {
        let found = try session.extend([kept], histories.inputs([(user, event..<event + 1)]))
        for (name, tensor) in found {
          let all = try #require(whole[name])
          let size = all.bytes.count / length
          #expect(
            tensor.bytes == Array(all.bytes[event * size..<(event + 1) * size]), "\(name), user \(user), \(event)")
        }
        lists += 1
      }
    }
    #expect(lists > 600, "\(lists)")
  }

  @Test("what cannot go on from a history that is kept says why")
  func ultra() throws {
    let model = try importModel(at: root.appendingPathComponent("examples/movielens-ultra/retrieval.json").path)
    var module = model.module
    let error = #expect(throws: PassError.self) {
      try PassManager(PassPipeline(parsing: "cached-scoring")).run(on: &module)
    }
    let message = error.map { "\($0)" } ?? ""
    #expect(message.contains("no @score: the model has no candidates"), "\(message)")
    #expect(message.contains("no @extend: the last 16 history rows of layer 0 see all before them"), "\(message)")
  }

  /// The ultra form as a ranking of candidates: semi-local layers with a full tail, then layers on the latest 64 rows.
  @Test(
    "candidates of the trained ultra model have their bits",
    arguments: ["", "lower-precision{matmul=bf16,attention=bf16},"])
  func ultraCandidates(precision: String) throws {
    let folder = root.appendingPathComponent("examples/movielens-ultra")
    let text = try String(contentsOf: folder.appendingPathComponent("model.json"), encoding: .utf8)
    let model = try withTemporaryFolder { own in
      try FileManager.default.createSymbolicLink(
        at: own.appendingPathComponent("weights.safetensors"),
        withDestinationURL: folder.appendingPathComponent("weights.safetensors"))
      let path = own.appendingPathComponent("model.json")
      let start = try #require(text.range(of: "  \"output\": {\n    \"rows\""))
      let head = text[..<start.lowerBound].replacing(
        "\"input\": {", with: "\"sequence\": {\"targets\": true},\n  \"input\": {")
      let output = "\"output\": {\"rows\": \"targets\", \"norm\": {\"kind\": \"l2\", \"epsilon\": 1e-6}}}"
      try (head + output).write(to: path, atomically: true, encoding: .utf8)
      return try importModel(at: path.path)
    }
    let cache = try Self.cache(model, rewrite: precision + "cached-scoring")
    var random = Random(seed: 17)
    func rows(_ count: Int) -> (ids: [Int64], actions: [Int64]) {
      let ids = (0..<count).map { _ in Int64(random.integer(in: 1...1682)) }
      return (ids, ids.map { 1 + $0 % 5 })
    }
    let lengths = [200, 1, 0, 77, 64, 13]
    let counts = [100, 3, 2, 0, 17, 40]
    let parts = zip(lengths, counts).map { (history: rows($0), candidates: rows($1)) }
    func inputs(_ rows: [[(ids: [Int64], actions: [Int64])]]) throws -> [String: Tensor] {
      let flat = rows.map { (ids: $0.flatMap(\.ids), actions: $0.flatMap(\.actions)) }
      var inputs = try KeptModel.inputs(flat.map(\.ids))
      inputs["actions"] = try Tensor(flat.flatMap(\.actions))
      return inputs
    }
    var whole = try inputs(parts.map { [$0.history, $0.candidates] })
    whole["num_targets"] = try Tensor(counts.map { Int64($0) })
    let expected = try cache.model.run(inputs: whole)
    let session = HistorySession(cache)
    let kept = try lengths.map { try cache.history(capacity: $0) }
    try session.prefill(kept, inputs(parts.map { [$0.history] }))
    let found = try session.score(kept, inputs(parts.map { [$0.candidates] }))
    #expect(KeptModel.byName(found) == KeptModel.byName(expected))
    #expect(found[0].tensor.shape == [counts.reduce(0, +), 64])
    // Layers behind the truncation keep 64 rows of 200: 2 layers of 200 rows, 2 of 64, keys and values of 64 numbers.
    let size = precision.isEmpty ? 4 : 2
    #expect(try cache.byteCount(capacity: 200) == 128 + 2 * 2 * 64 * size * (200 + 64))
  }
}
