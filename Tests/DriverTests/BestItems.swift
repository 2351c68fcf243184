import Interpreter
import ModelFormat
import TensorIR
import TestSupport
import Testing

/// The items that ids of a feature stand for: where they are hashed into its table, the rows that are looked up.
func seenItems(_ ids: some Sequence<Int64>, _ outOfRange: Gather.OutOfRange, rows: Int) -> [Int64] {
  let rows = Int64(rows)
  return ids.map { outOfRange == .modulo ? ($0 % rows + rows) % rows : $0 }
}

/// Holds what a compiled recommender gave, `top_scores` and `top_ids`, to the scores of all items that the interpreter computes in f64.
/// `seen` says which ids a sequence has seen.
func expectBest(
  _ found: [(name: String, tensor: HostTensor)], of model: ImportedModel, _ inputs: [String: HostTensor], firstRow: Int,
  seen: (Int) -> some Sequence<Int64>
) throws {
  let expected = try Interpreter(module: model.module, weights: model.weights, precision: .f64)
    .run("forward", inputs: inputs)
  func result(_ name: String, _ results: [(name: String, tensor: HostTensor)]) throws -> HostTensor {
    try #require(results.first { $0.name == name }?.tensor, "no \(name)")
  }
  let all = try result("scores", expected.map { ($0.name, $0.tensor) })
  let (scores, ids) = (try result("top_scores", found), try result("top_ids", found))
  let (users, items, count) = (all.shape[0], all.shape[1], scores.shape[1])
  #expect(ids.shape == [users, count] && scores.shape == ids.shape)
  let close = all.doubles.reduce(1) { max($0, abs($1)) } * 2e-5
  for user in 0..<users {
    let left = Set(seen(user))
    func score(_ id: Int64) -> Double { all.doubles[user * items + Int(id) - firstRow] }
    let kept = (firstRow..<firstRow + items).map(Int64.init).filter { !left.contains($0) }
    let best = kept.map(score).sorted(by: >)
    var given: Set<Int64> = []
    for place in 0..<count {
      let (id, value) = (ids.integers[user * count + place], scores.doubles[user * count + place])
      guard place < kept.count else {
        #expect(id == -1 && value == -.infinity, "\(model.module.name): user \(user), place \(place) of \(kept.count)")
        continue
      }
      #expect(kept.contains(id) && given.insert(id).inserted, "\(model.module.name): user \(user) gets \(id)")
      guard kept.contains(id) else { continue }
      #expect(
        abs(value - best[place]) <= close && abs(value - score(id)) <= close, "\(model.module.name): user \(user)")
    }
  }
}
