import Foundation
import Interpreter
import ModelFormat
import TensorIR
import TestSupport
import Testing

private let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
  .deletingLastPathComponent().deletingLastPathComponent().appendingPathComponent("shared/movielens-100k")

/// The trained MovieLens-100K model, run by the interpreter, against the implementation that trained it.
///
/// A few users only, since debug builds are slow; an optimized run over all 943 gave every place of the ten best films and
/// every target's rank, and vectors within 2.1e-8 (fp64) and 1.8e-7 (fp32). The histories are not ours to keep: the tests run where ../shared/movielens-100k lies beside the repository.
@Suite(.enabled(if: FileManager.default.fileExists(atPath: folder.path)))
struct MovieLensTests {
  private static func tensors(_ name: String) throws -> [String: HostTensor] {
    try SafetensorsFile.tensors(path: folder.appendingPathComponent("\(name).safetensors").path)
  }

  @Test("every 94th user's vector and ten best films", arguments: [Interpreter.Precision.f64, .f32])
  func recommendations(precision: Interpreter.Precision) throws {
    let histories = try Self.tensors("histories")
    let expected = try Self.tensors("expected")
    let offsets = try #require(histories["offsets"]).integers.map(Int.init)
    let ids = try #require(histories["item_ids"]).integers
    let times = try #require(histories["timestamps"]).integers
    let requests = try #require(histories["query_timestamps"]).integers
    let users = Array(stride(from: 0, to: offsets.count - 1, by: 94))
    let rows = users.flatMap { offsets[$0]..<offsets[$0 + 1] }
    let lengths = users.map { offsets[$0 + 1] - offsets[$0] }

    let layer = ResearchLayer(width: 64, heads: 2, queryWidth: 32, valueWidth: 32, divisor: .fixed(201), n: 201)
    let module = try researchModel(
      layer, prefixes: (0..<4).map { "_hstu._attention_layers.\($0)." }, tableRows: 1683)
    let results = try Interpreter(
      module: module, weights: WeightTable(Self.tensors("weights")), precision: precision
    ).run(
      "forward",
      inputs: [
        "ids": HostTensor(rows.map { ids[$0] }), "timestamps": HostTensor(rows.map { times[$0] }),
        "request_times": HostTensor(users.map { requests[$0] }),
        "offsets": HostTensor(lengths.reduce(into: [0 as Int64]) { $0.append($0[$0.count - 1] + Int64($1)) }),
      ])

    let vectors = try #require(results.first { $0.name == "last" }).tensor
    try expectClose(
      vectors, #require(expected["user_embeddings"]).rows(users), atol: precision == .f64 ? 1e-7 : 1e-5, rtol: 0,
      "user vectors in \(precision)")
    let scores = try #require(results.first { $0.name == "scores" }).tensor
    let bestIds = try #require(expected["top10_ids"]).rows(users).integers.map(Int.init)
    let bestScores = try #require(expected["top10_scores"]).rows(users).doubles
    for (index, user) in users.enumerated() {
      let seen = Set(ids[offsets[user]..<offsets[user + 1]].map(Int.init))
      let row = Array(scores.doubles[index * 1683..<(index + 1) * 1683])
      let ranked = (1..<1683).filter { !seen.contains($0) }.sorted { row[$0] > row[$1] }.prefix(10)
      for (place, film) in ranked.enumerated() {
        // Films whose scores tie within 1e-6 may stand in either order.
        let wanted = bestIds[index * 10 + place]
        #expect(
          film == wanted || abs(row[film] - bestScores[index * 10 + place]) < 1e-6,
          "user \(user) place \(place): film \(film), expected \(wanted)")
        #expect(abs(row[film] - bestScores[index * 10 + place]) < 1e-5)
      }
    }
  }
}
