import Artifact
import ArtifactFixture
import Foundation
import Testing
import UltraRuntime

@Suite struct CallingTests {
  /// Calls `body` with the loaded fixture.
  private func withModel(_ body: (LoadedModel) throws -> Void) throws {
    try ModelFixture.withTemporaryFolder { folder in
      let path = folder.appending(path: "model.ultra").path
      try ModelFixture.write(to: path)
      try body(LoadedModel(path: path))
    }
  }

  @Test(arguments: [nil, 1, 2, 5])
  func forwardGivesTheMeansOfEmbeddings(workers: Int?) throws {
    try withModel { model in
      #expect(model.level == "portable")
      let pool = try workers.map { workers throws(RuntimeError) in try ThreadPool(workers: workers) }
      for lengths in [[3, 0, 5, 1], [], [0], [200, 1, 7], [Int](repeating: 2, count: 60)] {
        let batch = Batch(lengths: lengths)
        let results = try model.run(inputs: batch.inputs(), pool: pool)
        #expect(results.map(\.name) == ["user_embeddings", "top_scores", "top_ids"])
        #expect(results[0].tensor.shape == [lengths.count, ModelFixture.width])
        #expect(try results[0].tensor.values(as: Float.self) == batch.expected)
        #expect(results[1].tensor.shape == [lengths.count, ModelFixture.best])
        #expect(results[2].tensor.shape == [lengths.count, ModelFixture.best])
        let scores = try results[1].tensor.values(as: Float.self)
        let ids = try results[2].tensor.values(as: Int64.self)
        for sequence in lengths.indices {
          let embedding = batch.expected[sequence * ModelFixture.width..<(sequence + 1) * ModelFixture.width]
          let place = sequence * ModelFixture.best
          let expected = zip(embedding, 0...).reduce(0.0) { sum, next in
            sum + Double(next.0) * Double(ModelFixture.value(item: Int(ids[place]), column: next.1))
          }
          #expect(scores[place] == Float(expected))
          #expect(scores[place] >= scores[place + ModelFixture.best - 1])
        }
      }
    }
  }

  @Test func aComputedDimensionIsWhatTheCallWrote() throws {
    try withModel { model in
      let some = try model.run(entry: "even", inputs: ["item_ids": Tensor([7, 8, 9, 10] as [Int64])])
      #expect(some[0].tensor.shape == [2, 2])
      #expect(try some[0].tensor.values(as: Int64.self) == [1, 8, 3, 10])
      let none = try model.run(entry: "even", inputs: ["item_ids": Tensor([7] as [Int64])])
      #expect(none[0].tensor.shape == [0, 2])
    }
  }

  @Test func oneSessionServesBatchesOfAllSizes() throws {
    try withModel { model in
      let session = try Session(model, pool: ThreadPool(workers: 2))
      for lengths in [[4], [100, 100], [], [1, 2, 3], [500]] {
        let batch = Batch(lengths: lengths)
        let results = try session.run(batch.inputs())
        #expect(try results[0].tensor.values(as: Float.self) == batch.expected)
        #expect(session.batch.map(\.extent) == [lengths.reduce(0, +), lengths.count])
        // Without a new binding the same comes out again.
        try session.call()
        #expect(try session.results()[0].tensor == results[0].tensor)
      }
      #expect(session.workspaceSize == 2 * ModelFixture.width * 8)
    }
  }

  @Test func aSessionWithoutInputsOrResultsSaysSo() throws {
    try withModel { model in
      let session = try Session(model)
      #expect(throws: RuntimeError.self) { try session.call() }
      #expect(throws: RuntimeError.self) { try session.results() }
      var bad = try Batch(lengths: [2]).inputs()
      try session.bind(bad)
      try session.call()
      bad["item_ids"] = try Tensor([5, -1] as [Int64])
      #expect(throws: RuntimeError.self) { try session.run(bad) }
      #expect(throws: RuntimeError.self, "results of an earlier call") { try session.results() }
    }
  }

  @Test func manyThreadsShareOneModelAndOnePool() async throws {
    let folder = FileManager.default.temporaryDirectory.appending(path: "fixture-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: folder) }
    let path = folder.appending(path: "model.ultra").path
    try ModelFixture.write(to: path)
    let model = try LoadedModel(path: path)
    let pool = try ThreadPool(workers: 3)
    try await withThrowingTaskGroup(of: Void.self) { group in
      for thread in 0..<8 {
        group.addTask {
          let session = try Session(model, pool: thread % 2 == 0 ? pool : nil)
          for round in 0..<60 {
            let batch = Batch(
              lengths: (0..<round % 11).map { ($0 * 7 + thread + round) % 23 }, seed: thread * 100 + round)
            let result = try session.run(batch.inputs())
            #expect(try result[0].tensor.values(as: Float.self) == batch.expected)
          }
        }
      }
      try await group.waitForAll()
    }
  }

  @Test(arguments: [
    ("item_ids", [5, 99999, 3], "item_ids[1]: 99999 is outside 0..<1683"),
    ("item_ids", [5, 6, -1], "item_ids[2]: -1 is outside 0..<1683"),
    ("offsets", [1, 2, 3], "offsets[0]: 1, but offsets begin with 0"),
    (
      "offsets", [0, 2, 1],
      "offsets[2]: 1, expected at least 2: offsets do not decrease and end with the number of rows"
    ),
    ("offsets", [0, 2, 4], "offsets[2]: 4, but the last offset is the number of rows, 3"),
    ("offsets", [], "offsets: shape [0], expected one more number than sequences, at least one"),
    ("offsets", [0, 1, 2, 3], "query_timestamps: shape [2] makes sequences 2, but it is 3 in offsets"),
    ("timestamps", [1, 2], "timestamps: shape [2] makes rows 2, but it is 3 in item_ids"),
    ("surprise", [1], "surprise: no input of \"forward\", which takes item_ids, offsets, timestamps, query_timestamps"),
  ])
  func badInputsAreNamed(name: String, values: [Int64], message: String) throws {
    try withModel { model in
      var inputs = try Batch(lengths: [1, 2]).inputs()
      inputs[name] = try Tensor(values)
      let error = #expect(throws: RuntimeError.self) { try model.run(inputs: inputs) }
      #expect(error?.description == message)
    }
  }

  @Test func missingInputsWrongTypesAndEntriesAreNamed() throws {
    try withModel { model in
      var inputs = try Batch(lengths: [1, 2]).inputs()
      inputs["timestamps"] = nil
      let missing = #expect(throws: RuntimeError.self) { try model.run(inputs: inputs) }
      #expect(missing?.description == "timestamps: missing; \"forward\" needs it as rows x i64")
      inputs["timestamps"] = try Tensor([1, 2, 3] as [Float])
      let type = #expect(throws: RuntimeError.self) { try model.run(inputs: inputs) }
      #expect(type?.description == "timestamps: f32, expected rows x i64")
      inputs["timestamps"] = try Tensor([1, 2, 3] as [Int64], shape: [3, 1])
      let rank = #expect(throws: RuntimeError.self) { try model.run(inputs: inputs) }
      #expect(rank?.description == "timestamps: shape [3, 1], expected rows x i64")
      let entry = #expect(throws: RuntimeError.self) { try model.run(entry: "score", inputs: [:]) }
      #expect(entry?.description == "\(model.path): no entry \"score\"; it has forward, even")
    }
  }

  @Test func tensorsMustHoldTheirShape() throws {
    #expect(throws: RuntimeError.self) { try Tensor(element: .f32, shape: [2, 2], bytes: [0, 0, 0, 0]) }
    #expect(throws: RuntimeError.self) { try Tensor(element: .f32, shape: [-1, -1], bytes: [0, 0, 0, 0]) }
    #expect(throws: RuntimeError.self) { try Tensor(element: .u8, shape: [1 << 40, 1 << 40], bytes: []) }
    #expect(throws: RuntimeError.self) { try Tensor([1, 2] as [Float]).values(as: Int32.self) }
    #expect(try Tensor([1.5, 2] as [Float]).values(as: Float.self) == [1.5, 2])
  }

  @Test func syntheticBatchesAreAccepted() throws {
    try withModel { model in
      let batch = SyntheticBatch(lengths: [3, 0, 17], seed: 7)
      let inputs = try batch.inputs(for: model.manifest.entries[0])
      #expect(try model.run(inputs: inputs)[0].tensor.shape == [3, ModelFixture.width])
      #expect(try batch.inputs(for: model.manifest.entries[0]) == inputs)
      #expect(try SyntheticBatch(lengths: [3, 0, 17], seed: 8).inputs(for: model.manifest.entries[0]) != inputs)
      #expect(throws: RuntimeError.self) { try batch.inputs(for: model.manifest.entries[1]) }
      #expect(throws: Never.self) { try batch.inputs(for: model.manifest.entries[1], dimensions: ["rows": 4]) }
    }
  }

  @Test func measurementsAreOrderStatistics() throws {
    var count = 0
    let measured = MeasurementPlan(warmups: 2, minimumRuns: 5, maximumRuns: 7, seconds: 100).measure { count += 1 }
    #expect(count == 9)
    #expect(measured.runs == 7)
    #expect(measured.minimum <= measured.median && measured.median <= measured.p99)
    #expect(measured.maximum == measured.seconds.last)
    #expect(measured.percentile(50) == measured.seconds[3])
    count = 0
    #expect(MeasurementPlan(warmups: 0, minimumRuns: 5, maximumRuns: 7, seconds: 0).measure { count += 1 }.runs == 5)
  }
}

/// A batch of the fixture, with what its `forward` must give.
struct Batch {
  let lengths: [Int]
  let ids: [Int64]

  init(lengths: [Int], seed: Int = 1) {
    self.lengths = lengths
    ids = (0..<lengths.reduce(0, +)).map { Int64(($0 * 7919 + seed * 104_729) % ModelFixture.items) }
  }

  func inputs() throws -> [String: Tensor] {
    var offsets: [Int64] = [0]
    for length in lengths { offsets.append((offsets.last ?? 0) + Int64(length)) }
    return [
      "item_ids": try Tensor(ids), "offsets": try Tensor(offsets), "timestamps": try Tensor(ids),
      "query_timestamps": try Tensor(lengths.map { Int64($0) }),
    ]
  }

  var expected: [Float] {
    var means: [Float] = []
    var row = 0
    for length in lengths {
      for column in 0..<ModelFixture.width {
        let sum = ids[row..<row + length].reduce(0.0) { $0 + Double(ModelFixture.value(item: Int($1), column: column)) }
        means.append(length > 0 ? Float(sum / Double(length)) : 0)
      }
      row += length
    }
    return means
  }
}
