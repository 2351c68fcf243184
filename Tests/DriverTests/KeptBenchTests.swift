import Foundation
import TestSupport
import Testing

/// `ultrac bench` of entries that take what is kept of histories.
@Suite struct KeptBenchTests {
  /// The points of a report.
  private func points(_ arguments: String..., in folder: URL) throws -> [[String: Any]] {
    let outcome = try ultrac(
      ["bench", "model.ultra", "--seconds", "0.01", "--runs", "1", "--json"] + arguments, in: folder)
    #expect(outcome.status == 0, "\(outcome.errors)")
    let report = try #require(try JSONSerialization.jsonObject(with: Data(outcome.output.utf8)) as? [String: Any])
    return try #require(report["points"] as? [[String: Any]])
  }

  private func compile(_ folder: URL) throws {
    let compiled = try ultrac("compile", "model.json", "--rewrite", "cached-scoring", in: folder)
    #expect(compiled.status == 0, "\(compiled.errors)")
  }

  /// FLOP of a layer of 8 columns: products of so many rows, and pairs of rows and keys.
  private func flops(rows: Int, pairs: Int) -> Double { Double(2 * rows * (8 * 32 + 24 * 8) + 2 * pairs * 16) }

  @Test("candidates are counted against the history that is kept, of each layer as much as it keeps")
  func score() throws {
    try withTemporaryFolder { folder in
      _ = try ModelFolder(
        folder, candidates: true, others: "\"truncation\": [{\"form\": \"drop\", \"after\": 1, \"keep\": 4}],")
      try compile(folder)
      let found = try points(
        "--entry", "score", "--history", "20,2", "--candidates", "3", "--batch", "2", in: folder)
      #expect(found.map { $0["kept"] as? Int } == [20, 2] && found.map { $0["length"] as? Int } == [3, 3])
      let expected = [20, 2].map { kept in
        2 * (flops(rows: 3, pairs: 3 * (kept + 1)) + flops(rows: 3, pairs: 3 * (min(kept, 4) + 1)))
      }
      #expect(found.map { $0["flops"] as? Double } == expected)
      // Forward does both again.
      let whole = try points("--history", "20", "--candidates", "3", in: folder)
      #expect(whole.map { $0["length"] as? Int } == [23])
      #expect(try #require(whole[0]["flops"] as? Double) > expected[0] / 2)
      #expect(try points("--entry", "prefill", "--history", "20", in: folder)[0]["length"] as? Int == 20)
      let text = try ultrac("bench", "model.ultra", "--entry", "score", "--seconds", "0.01", "--runs", "1", in: folder)
      #expect(text.output.contains("100 rows behind 4096 that are kept in "), "\(text.output)")
    }
  }

  @Test("further history is an event behind what is kept, unless it is said to be more")
  func extend() throws {
    try withTemporaryFolder { folder in
      _ = try ModelFolder(folder)
      try compile(folder)
      let one = try points("--entry", "extend", "--history", "20", in: folder)
      let three = try points("--entry", "extend", "--history", "20", "--events", "3", in: folder)
      #expect(one[0]["length"] as? Int == 1 && three[0]["length"] as? Int == 3)
      #expect(one[0]["flops"] as? Double == 2 * flops(rows: 1, pairs: 21))
    }
  }

  @Test("lengths that mean nothing for an entry are refused")
  func refusals() throws {
    try withTemporaryFolder { folder in
      _ = try ModelFolder(folder)
      try compile(folder)
      for (arguments, message) in [
        (["--entry", "extend", "--lengths", "5"], "--lengths is of whole sequences; extend takes --history"),
        (["--entry", "extend", "--candidates", "5"], "extend has no candidates; further rows are --events"),
        (["--candidates", "5"], "--candidates needs --history"),
        (["--history", "5", "--candidates", "5"], "forward takes no candidates"),
        (["--events", "5"], "--events is for extend"),
        (["--history", "5", "--lengths", "5"], "--lengths and --history exclude each other"),
      ] {
        let outcome = try ultrac(["bench", "model.ultra"] + arguments, in: folder)
        #expect(outcome.status != 0 && outcome.errors.contains(message), "\(outcome.errors)")
      }
    }
  }
}
