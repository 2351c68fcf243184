import ArtifactFixture
import Foundation
import Testing
import UltraRuntime

/// The loaders of examples/, on the fixture; `make test` runs examples/run-examples on a real model.
@Suite struct ExampleTests {
  private static let examples = ModelFixture.root.appending(path: "examples")

  private static let python: String? = {
    let candidates = [ModelFixture.root.appending(path: ".venv/bin/python").path, "/usr/bin/python3"]
    let path = (ProcessInfo.processInfo.environment["PATH"] ?? "").split(separator: ":").map { "\($0)/python3" }
    return (candidates + path).first { program in
      FileManager.default.isExecutableFile(atPath: program)
        && (try? ModelFixture.run(program, ["-c", "import numpy"])) != nil
    }
  }()

  /// Writes a safetensors file of the batch's inputs, ids as int32, as checkpoints often have them.
  private func writeHistories(_ batch: Batch, to url: URL) throws {
    var offsets: [Int64] = [0]
    for length in batch.lengths { offsets.append((offsets.last ?? 0) + Int64(length)) }
    var data = Data()
    var entries: [String] = []
    func add<Scalar>(_ name: String, _ type: String, _ values: [Scalar]) {
      let start = data.count
      values.withUnsafeBytes { data.append(contentsOf: $0) }
      let described = "\"dtype\":\"\(type)\",\"shape\":[\(values.count)],\"data_offsets\":[\(start),\(data.count)]"
      entries.append("\"\(name)\":{\(described)}")
    }
    add("item_ids", "I32", batch.ids.map { Int32($0) })
    add("offsets", "I64", offsets)
    add("timestamps", "I64", batch.ids)
    add("query_timestamps", "I64", batch.lengths.map { Int64($0) })
    add("expected", "F32", batch.expected)
    let header = Data("{\(entries.joined(separator: ","))}".utf8)
    let size = withUnsafeBytes(of: UInt64(header.count).littleEndian) { Data($0) }
    try (size + header + data).write(to: url)
  }

  @Test func theProgramInCRunsOnMadeUpUsers() throws {
    try ModelFixture.withTemporaryFolder { folder in
      try ModelFixture.write(to: folder.appending(path: "model.ultra").path)
      try ModelFixture.run(
        "/usr/bin/make", ["-s", "-C", Self.examples.appending(path: "c").path, "OUT=\(folder.path)"])
      let program = folder.appending(path: "recommend").path
      let printed = try ModelFixture.run(program, ["model.ultra", "-", "2"], in: folder)
      #expect(printed.contains("8 users, 700 films seen"))
      #expect(printed.contains("on 2 thread(s)"))
      let missing = #expect(throws: ModelFixture.Failure.self) { try ModelFixture.run(program, ["/nowhere.ultra"]) }
      #expect(missing?.description.contains("dlopen: ") == true)
    }
  }

  @Test(.enabled(if: ExampleTests.python != nil, "needs Python with numpy"))
  func pythonCallsAModel() throws {
    let python = try #require(Self.python)
    try ModelFixture.withTemporaryFolder { folder in
      let model = folder.appending(path: "model.ultra").path
      try ModelFixture.write(to: model)
      let histories = folder.appending(path: "histories.safetensors")
      try writeHistories(Batch(lengths: [4, 0, 9]), to: histories)
      let module = Self.examples.appending(path: "python").path
      func run(_ program: String) throws -> String {
        let lines =
          ["import sys, numpy", "sys.path.insert(0, '\(module)')", "from ultra import Model, read_safetensors"]
          + ["model, t = Model('\(model)'), read_safetensors('\(histories.path)')", program]
        return try ModelFixture.run(python, ["-B", "-c", lines.joined(separator: "\n")])
      }
      let comparison = "print((model.run(t)['user_embeddings'].ravel() == t['expected']).all())"
      #expect(try run(comparison) == "True\n")
      // The model decides how many rows come out.
      let even = "print(model.run({'item_ids': [7, 8, 9, 10]}, 'even')['pairs'].tolist())"
      #expect(try run(even) == "[[1, 8], [3, 10]]\n")
      let refused = #expect(throws: ModelFixture.Failure.self) { try run("model.run({'item_ids': [7, -8]}, 'even')") }
      #expect(
        refused?.description.contains("item_ids[1]: an id is outside its table (found -8, expected 1683)") == true)
    }
  }
}
