import Artifact
import ArtifactFixture
import Foundation
import Testing

@Suite struct ReadingTests {
  /// Calls `body` with the bytes of a good artifact, and a function that writes other bytes and opens them.
  private func withArtifact(
    defines: [String] = [],
    _ body: ([UInt8], _ open: ([UInt8], ArtifactReader.Verification) throws -> ArtifactReader) throws -> Void
  ) throws {
    try ModelFixture.withTemporaryFolder { folder in
      let good = folder.appending(path: "model.ultra")
      try ModelFixture.write(to: good.path, defines: defines)
      let changed = folder.appending(path: "changed.ultra")
      try body([UInt8](try Data(contentsOf: good))) { bytes, verification in
        try Data(bytes).write(to: changed)
        return try ArtifactReader.open(changed.path, verify: verification)
      }
    }
  }

  @Test func everyFlippedByteIsFound() throws {
    try withArtifact { good, open in
      _ = try open(good, .full)
      let noteOffset = try #require(good.firstRange(of: [UInt8]("ULTRAMDL".utf8))).lowerBound - 20
      // The note's header, and a sample of the ELF headers and of the rest.
      var places = Array(stride(from: 0, to: 640, by: 3)) + Array(noteOffset..<noteOffset + 80)
      var generator = SystemRandomNumberGenerator()
      places += (0..<200).map { _ in Int.random(in: 0..<good.count, using: &generator) }
      for place in places {
        var bad = good
        bad[place] ^= UInt8.random(in: 1...255)
        #expect(throws: ArtifactError.self, "byte \(place)") { try open(bad, .full) }
      }
    }
  }

  @Test func everyTruncationIsFoundWithoutTheChecksum() throws {
    try withArtifact { good, open in
      var lengths = Array(0..<200) + [good.count - 1, good.count - 64, good.count / 2, 4096, 8192]
      lengths += (0..<100).map { _ in Int.random(in: 0..<good.count) }
      for length in lengths {
        #expect(throws: ArtifactError.self, "length \(length)") { try open(Array(good[..<length]), .structure) }
      }
      let error = #expect(throws: ArtifactError.self) { try open(good + [0], .structure) }
      #expect(
        error?.message
          == "the file has \(good.count + 1) bytes, but records \(good.count): something was added, or another tool "
          + "rewrote it; copy it again")
    }
  }

  @Test func aFlippedWeightIsAChecksumError() throws {
    try withArtifact { good, open in
      var bad = good
      bad[good.count - 1] ^= 1
      _ = try open(bad, .structure)
      let error = #expect(throws: ArtifactError.self) { try open(bad, .full) }
      #expect(error?.kind == .corrupt)
      #expect(error?.message.hasPrefix("checksum 0x") == true)
    }
  }

  /// Headers whose bytes are random never crash the reader, whatever they make of the rest.
  @Test func randomHeadersNeverTrap() throws {
    try withArtifact { good, open in
      for _ in 0..<200 {
        var bad = good
        for _ in 0..<Int.random(in: 1...4) {
          let place = Int.random(in: 16..<620) & ~7
          let value: UInt64 =
            [0, 1, 0xFF, .max, 1 << 62, 1 << 63, UInt64(good.count), .random(in: 0...UInt64.max)]
            .randomElement() ?? 0
          withUnsafeBytes(of: value) { for (index, byte) in $0.enumerated() { bad[place + index] = byte } }
        }
        if bad != good { #expect(throws: ArtifactError.self) { try open(bad, .full) } }
      }
    }
  }

  /// Without the checksum, damage to the linked part and to the note may or may not be seen, but never traps.
  @Test func damageWithoutTheChecksumNeverTraps() throws {
    try withArtifact { good, open in
      let linkedPart = good.count - ModelFixture.weights.reduce(0) { $0 + $1.bytes.count }
      var refused = 0
      for _ in 0..<200 {
        var bad = good
        for _ in 0..<Int.random(in: 1...8) { bad[Int.random(in: 0..<linkedPart)] = .random(in: 0...255) }
        do { _ = try open(bad, .structure) } catch is ArtifactError { refused += 1 }
      }
      #expect(refused > 0)
    }
  }

  @Test func otherFilesAreNamedForWhatTheyAre() throws {
    try withArtifact { _, open in
      let empty = #expect(throws: ArtifactError.self) { try open([], .structure) }
      #expect(empty?.message == "not an artifact of ultrac: 0 bytes, fewer than an ELF header's")
      let text = #expect(throws: ArtifactError.self) { try open([UInt8](repeating: 65, count: 500), .structure) }
      #expect(text?.message == "not an artifact of ultrac: it does not begin with an ELF header")
    }
    try ModelFixture.withTemporaryFolder { folder in
      let directory = #expect(throws: ArtifactError.self) { try ArtifactReader.open(folder.path) }
      #expect(directory?.message == "not a regular file")
      let missing = #expect(throws: ArtifactError.self) { try ArtifactReader.open("/nowhere/model.ultra") }
      #expect(missing?.description == "/nowhere/model.ultra: cannot be opened: No such file or directory")
      let source = folder.appending(path: "a.c")
      try Data("int f(void) { return 1; }".utf8).write(to: source)
      let library = folder.appending(path: "a.so").path
      try ModelFixture.run("/usr/bin/cc", ["-shared", "-fPIC", source.path, "-o", library])
      let other = #expect(throws: ArtifactError.self) { try ArtifactReader.open(library) }
      #expect(other?.message == "not an artifact of ultrac: a shared object without ultrac's note")
    }
  }

  @Test(arguments: [
    (
      "FAULT=__attribute__((constructor)) static void start(void) { __asm__ volatile(\"\"); }",
      "INIT_ARRAY (code that runs on loading)"
    ),
    (
      "FAULT=__attribute__((destructor)) static void stop(void) { __asm__ volatile(\"\"); }",
      "FINI_ARRAY (code that runs on unloading)"
    ),
    ("FAULT=__attribute__((visibility(\"default\"))) __thread int local;", "thread-local storage"),
    (
      "FAULT=static void *pick(void) { return 0; } __attribute__((ifunc(\"pick\"),visibility(\"default\"))) void go(void); "
        + "void *const kept = (void *)go;", "relocation"
    ),
  ])
  func whatRunsOnLoadingIsRefused(define: String, message: String) throws {
    try ModelFixture.withTemporaryFolder { folder in
      let path = folder.appending(path: "model.ultra").path
      try ModelFixture.write(to: path, defines: [define])
      let error = #expect(throws: ArtifactError.self) { try ArtifactReader.open(path) }
      #expect(error?.kind == .forbidden)
      #expect(error?.message.contains(message) == true, "\(String(describing: error))")
    }
  }
}
