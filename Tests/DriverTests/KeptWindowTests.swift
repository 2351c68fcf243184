import TestSupport
import Testing
import UltraRuntime

/// Layers whose rows see a window keep the rows that can still be seen, and give the bits of all rows.
@Suite struct KeptWindowTests {
  /// A mask, and the rows of a sequence that it needs at most: first and latest ones, and one more that keeps pairs together.
  struct Window: Sendable, CustomTestStringConvertible {
    var mask: String
    var others = ""
    var most: Int
    /// Of `most`, those that are not first.
    var latest: Int

    var testDescription: String { mask }
  }

  static let windows = [
    Window(mask: "\"form\": \"windowed\", \"window\": 6", most: 8, latest: 7),
    Window(mask: "\"form\": \"windowed\", \"window\": 11", most: 13, latest: 12),
    Window(
      mask: "\"form\": \"windowed\", \"window\": 1", others: "\"sequence\": {\"contextual\": 3},", most: 6, latest: 5),
    Window(
      mask: "\"form\": \"key_prefix\", \"local\": 5, \"global\": 3, \"targets\": \"windowed\"", most: 9, latest: 5),
    Window(
      mask: "\"form\": \"key_prefix\", \"local\": 8, \"global\": 4, \"targets\": \"windowed\"", most: 13, latest: 8),
  ]

  private static func ids(_ count: Int, seed: UInt64) -> [Int64] {
    var random = Random(seed: seed)
    return (0..<count).map { _ in Int64(random.integer(in: 0...19)) }
  }

  @Test(
    "candidates see the window that is kept, whatever went before", arguments: windows.filter { $0.others.isEmpty },
    ["", "lower-precision{matmul=bf16,attention=bf16},"])
  func score(window: Window, precision: String) throws {
    let model = try KeptModel(candidates: true, mask: window.mask, precision: precision)
    let session = HistorySession(model.cache)
    let lengths = Array(0...41)
    let sequences = lengths.map { Self.ids($0, seed: UInt64($0)) }
    let candidates = lengths.map { Self.ids($0 % 4, seed: UInt64(100 + $0)) }
    let whole = try model.forward(sequences, candidates)
    let histories = try model.histories(sequences, capacity: 1000)
    #expect(try KeptModel.byName(session.score(histories, KeptModel.inputs(candidates))) == whole)
    // One by one, in place; then further history, until the rows that no one sees have made room many times.
    for index in [0, 1, 7, 8, 20, 41] {
      let history = histories[index]
      var ids = sequences[index]
      var random = Random(seed: UInt64(index))
      for round in 0..<30 {
        let events = Self.ids([1, 1, 2, 0, 5, 19][random.integer(in: 0...5)], seed: random.next())
        try session.extend([history], KeptModel.inputs([events]))
        ids += events
        #expect(history.rows == ids.count)
        let own = Self.ids(round % 3, seed: random.next())
        let found = try KeptModel.byName(session.score([history], KeptModel.inputs([own])))
        #expect(try found == model.forward([ids], [own]), "\(index), round \(round): \(ids.count) rows")
      }
      let stored = try model.cache.history(bytes: history.bytes, capacity: ids.count + 50)
      try session.extend([stored, history], KeptModel.inputs([[3, 4, 5], [3, 4, 5]]))
      let found = try session.score([stored, history], KeptModel.inputs([[7], [7]]))
      let expected = try model.forward([ids + [3, 4, 5]], [[7]])
      #expect(found[0].tensor.bytes == (expected[found[0].name]?.bytes).map { $0 + $0 })
    }
  }

  @Test(
    "further history sees the window that is kept", arguments: windows,
    ["", "lower-precision{matmul=bf16,attention=bf16},"])
  func extend(window: Window, precision: String) throws {
    let model: KeptModel
    do {
      model = try KeptModel(candidates: false, mask: window.mask, others: window.others, precision: precision)
    } catch {
      // Contextual rows that see all history change as it grows.
      #expect(
        !window.others.isEmpty && "\(error)".contains("contextual rows of layer 0 see the whole history"), "\(error)")
      return
    }
    #expect(window.others.isEmpty)
    let session = HistorySession(model.cache)
    let ids = Self.ids(120, seed: 77)
    let history = try model.cache.history(capacity: 120)
    try session.prefill([history], KeptModel.inputs([Array(ids.prefix(3))]))
    var count = 3
    var random = Random(seed: 3)
    while count < 120 {
      let next = min(120, count + [1, 1, 1, 2, 7, 23][random.integer(in: 0...5)])
      let found = try KeptModel.byName(session.extend([history], KeptModel.inputs([Array(ids[count..<next])])))
      #expect(try found == model.forward([Array(ids.prefix(next))], [[]]), "\(count) rows and \(next - count)")
      count = next
    }
  }

  @Test("the memory of a window does not grow with the history", arguments: windows.filter { $0.others.isEmpty })
  func memory(window: Window) throws {
    let model = try KeptModel(candidates: true, mask: window.mask)
    // Keys and values of 8 fp32 in two layers; a quarter more room than the window has.
    let rows = window.most + window.latest / 4
    let size = 128 + 4 * ((rows * 32 + 63) / 64 * 64)
    #expect(try model.cache.byteCount(capacity: 1000) == size)
    #expect(try model.cache.byteCount(capacity: 1 << 30) == size)
    #expect(try model.cache.byteCount(capacity: 2) == 128 + 4 * 64)
  }
}
