import Artifact
import Foundation
import TensorIR
import TestSupport
import Testing
import UltraRuntime

/// A compiled file that was cut short or changed is refused with a sentence that names it, and never loaded.
@Suite struct DamagedArtifactTests {
  private static let artifact = Shared {
    try withTemporaryFolder { folder in
      let model = try RobustModel.everyCheck()
      let path = folder.appendingPathComponent("model.ultra").path
      try model.backend.compile(model.module, weights: model.weights, to: path)
      return [UInt8](try Data(contentsOf: URL(fileURLWithPath: path)))
    }
  }

  /// Calls `body` with the bytes of a good file, and a function that tries to load others.
  private func withArtifact(
    _ body: ([UInt8], _ expectRefusal: ([UInt8], String) throws -> Void) throws -> Void
  ) throws {
    let good = try Self.artifact.get()
    try withTemporaryFolder { folder in
      let path = folder.appendingPathComponent("damaged.ultra").path
      try body(good) { bytes, what in
        try Data(bytes).write(to: URL(fileURLWithPath: path))
        for verification in [ArtifactReader.Verification.full, .structure] {
          do {
            // Without the checksum some damage passes; what passes is not loaded here, since it may do anything.
            if verification == .full { _ = try LoadedModel(path: path) } else { _ = try ArtifactReader.open(path) }
            if verification == .full { Issue.record("loaded with \(what)") }
          } catch {
            let sentence = "\(error)"
            #expect(sentence.hasPrefix("\(path): ") && sentence.count > path.count + 20, "\(what): \(sentence)")
            #expect(!sentence.contains("\n"), "\(what): \(sentence)")
          }
        }
      }
      // The same bytes, unharmed.
      try Data(good).write(to: URL(fileURLWithPath: path))
      let call = try RawCall(try LoadedModel(path: path), RobustModel.batch([3, 1]))
      #expect(call.run() == .ok)
    }
  }

  /// Where sections begin and end, by the section headers.
  private func boundaries(_ bytes: [UInt8]) -> [Int] {
    func number(_ offset: Int, _ count: Int) -> Int {
      (0..<count).reduce(0) { $0 | Int(bytes[offset + $1]) << (8 * $1) }
    }
    let (start, size, count) = (number(0x28, 8), number(0x3A, 2), number(0x3C, 2))
    let sections = (0..<count).flatMap { index in
      let header = start + index * size
      let offset = number(header + 24, 8)
      return [offset, offset + number(header + 32, 8)]
    }
    let (programHeaders, programHeaderCount) = (number(0x20, 8), number(0x38, 2))
    return sections + [start, start + count * size, 64, programHeaders + programHeaderCount * 56]
  }

  @Test func truncations() throws {
    try withArtifact { good, expectRefusal in
      let places = boundaries(good)
      #expect(places.count > 20 && places.contains(good.count), "the last section is the weights")
      var random = Random(seed: 1)
      var lengths = Set((places + [4096, good.count]).flatMap { [$0 - 1, $0, $0 + 1] })
      lengths.formUnion((0..<60).map { _ in random.integer(in: 0...good.count - 1) })
      for length in lengths.sorted() where length >= 0 && length < good.count {
        try expectRefusal(Array(good[..<length]), "\(length) of \(good.count) bytes")
      }
    }
  }

  @Test func additions() throws {
    try withArtifact { good, expectRefusal in
      for count in [1, 64, 4096] {
        try expectRefusal(good + [UInt8](repeating: 0, count: count), "\(count) bytes more")
      }
    }
  }

  @Test func flippedBytes() throws {
    try withArtifact { good, expectRefusal in
      var random = Random(seed: 2)
      // Each of the ELF and program headers, and places all over the file.
      let places = Array(0..<64) + (0..<340).map { _ in random.integer(in: 64...good.count - 1) }
      for place in places {
        var bad = good
        bad[place] ^= UInt8(1 << random.integer(in: 0...7))
        try expectRefusal(bad, "byte \(place) \(good[place]) -> \(bad[place])")
      }
    }
  }

  @Test func pagesThatWereNeverWritten() throws {
    try withArtifact { good, expectRefusal in
      for start in stride(from: 0, to: good.count, by: 4096) {
        var bad = good
        for place in start..<min(start + 4096, good.count) { bad[place] = 0 }
        if bad != good { try expectRefusal(bad, "zeros from \(start)") }
      }
    }
  }
}
