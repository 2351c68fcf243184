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

/// The trained MovieLens models as recommenders: ids (and ratings or times) in, the ten best films that a user has not seen out,
/// from a compiled artifact, for all users.
///
/// The histories are not ours to keep: these tests run where ../shared lies beside the repository.
@Suite(.enabled(if: FileManager.default.fileExists(atPath: shared.path)))
struct MovieLensRetrievalTests {
  static let models = ["movielens-100k", "movielens-ultra"]

  private func tensors(_ model: String, _ name: String) throws -> [String: HostTensor] {
    let file = try SafetensorsFile(path: shared.appendingPathComponent("\(model)/\(name).safetensors").path)
    var tensors: [String: HostTensor] = [:]
    for name in file.names { tensors[name] = try file.tensor(named: name) }
    return tensors
  }

  /// The results of all users, and what was expected.
  private func run(
    _ name: String, rewrite: String
  ) throws -> (found: [String: HostTensor], expected: [String: HostTensor], inputs: [String: HostTensor]) {
    let model = try importModel(at: root.appendingPathComponent("examples/\(name)/retrieval.json").path)
    var module = model.module
    try PassManager(PassPipeline(parsing: rewrite)).run(on: &module)
    try PassManager(PassPipeline(level: 2)).run(on: &module)
    let compiled = try CompiledProgram(module, weights: model.weights, level: try #require(CPULevel.native))
    let histories = try tensors(name, "histories")
    let forward = try #require(module.function(named: "forward"))
    var inputs: [String: HostTensor] = [:]
    for argument in forward.arguments {
      let tensor = try #require(histories[forward[argument].name])
      inputs[forward[argument].name] = HostTensor(tensor.integers)
    }
    let results = try compiled.run(inputs, pool: ThreadPool(workers: 2))
    return (
      Dictionary(uniqueKeysWithValues: results.map { ($0.name, $0.tensor) }), try tensors(name, "expected"), inputs
    )
  }

  @Test(arguments: models)
  func tenBestFilmsOfEveryUser(name: String) throws {
    let (found, expected, _) = try run(name, rewrite: "")
    let ids = try #require(found["top_ids"])
    let scores = try #require(found["top_scores"])
    #expect(ids.shape == [943, 10])
    try expectClose(scores, #require(expected["top10_scores"]), atol: 1e-6, rtol: 0, name)
    try expectClose(
      #require(found["user_embeddings"]), #require(expected["user_embeddings"]), atol: 1e-6, rtol: 0, name)
    // Films whose scores differ by less than fp32 tells apart may stand in either order.
    let (got, wanted) = (ids.integers, try #require(expected["top10_ids"]).integers)
    let values = try #require(expected["top10_scores"]).doubles
    for place in got.indices where got[place] != wanted[place] {
      let near = (place / 10 * 10..<place / 10 * 10 + 10).filter { wanted[$0] == got[place] }
      #expect(near.contains { abs(values[$0] - values[place]) < 1e-6 } || place % 10 == 9, "\(name), place \(place)")
    }
    #expect(zip(got, wanted).count { $0 != $1 } < 10)
  }

  /// Fewer bits move films among the last places, not the good ones away.
  @Test(arguments: models, ["bf16", "int8", "int4"])
  func itemsOfFewerBits(name: String, items: String) throws {
    let (found, expected, inputs) = try run(name, rewrite: "lower-precision{items=\(items)}")
    let (got, wanted) = (try #require(found["top_ids"]).integers, try #require(expected["top10_ids"]).integers)
    let offsets = try #require(inputs["offsets"]).integers.map(Int.init)
    let seen = try #require(inputs["item_ids"]).integers
    var kept = 0
    for user in 0..<943 {
      let own = Set(got[user * 10..<user * 10 + 10])
      #expect(own.count == 10 && own.allSatisfy { (1...1682).contains($0) })
      #expect(own.isDisjoint(with: seen[offsets[user]..<offsets[user + 1]]), "\(name), user \(user)")
      kept += own.intersection(wanted[user * 10..<user * 10 + 10]).count
    }
    let least: [String: Double] = ["bf16": 0.98, "int8": 0.97, "int4": 0.7]
    let share = Double(kept) / 9430
    #expect(try share > #require(least[items]), "\(name), \(items): \(share) of the films are the same")
  }

  @Test("a recommender is its model but for what it gives back", arguments: models)
  func isTheSameModel(name: String) throws {
    func programs(_ file: String) throws -> ImportedModel {
      try importModel(at: root.appendingPathComponent("examples/\(name)/\(file).json").path)
    }
    func body(_ model: ImportedModel) throws -> [String] {
      let function = try #require(model.module.function(named: "forward"))
      return function.body.map { function[$0].payload.text }
    }
    let (scoring, retrieving) = (try body(programs("model")), try body(programs("retrieval")))
    #expect(scoring.dropLast() == retrieving.dropLast())
    #expect(scoring.last?.hasPrefix("linear") == true && retrieving.last == "top_k {k = 10, first_id = 1}")
  }
}
