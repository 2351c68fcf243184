import Artifact
import ArtifactFixture
import Foundation
import Testing
import UltraRuntime

@Suite struct LoadingTests {
  @Test func aDamagedFileIsNotLoaded() throws {
    try ModelFixture.withTemporaryFolder { folder in
      let path = folder.appending(path: "model.ultra").path
      try ModelFixture.write(to: path)
      var bytes = [UInt8](try Data(contentsOf: URL(fileURLWithPath: path)))
      try Data(bytes.dropLast(10)).write(to: folder.appending(path: "short.ultra"))
      let short = #expect(throws: RuntimeError.self) {
        try LoadedModel(path: folder.appending(path: "short.ultra").path, verification: .structure)
      }
      #expect(short?.kind == .artifact(.wrongSize))
      bytes[bytes.count - 100] ^= 8
      try Data(bytes).write(to: folder.appending(path: "flipped.ultra"))
      let flipped = #expect(throws: RuntimeError.self) {
        try LoadedModel(path: folder.appending(path: "flipped.ultra").path)
      }
      #expect(flipped?.kind == .artifact(.corrupt))
      #expect(flipped?.description.hasPrefix(folder.path + "/flipped.ultra: checksum 0x") == true)
    }
  }

  @Test func aRefusalIsOneSentenceWithAWayOut() throws {
    try ModelFixture.withTemporaryFolder { folder in
      let path = folder.appending(path: "model.ultra").path
      try ModelFixture.write(to: path, defines: ["REFUSE"])
      let error = #expect(throws: RuntimeError.self) { try LoadedModel(path: path) }
      #expect(error?.kind == .unsupportedMachine)
      #expect(
        error?.description
          == "\(path): this file needs AVX-512 BF16; compile with --target-cpu x86-64-v3")
    }
  }

  @Test func aFileRenamedOverALoadedOneIsLoadedAnew() throws {
    try ModelFixture.withTemporaryFolder { folder in
      let path = folder.appending(path: "model.ultra").path
      try ModelFixture.write(to: path)
      let old = try LoadedModel(path: path)
      var manifest = try ModelFixture.manifest()
      manifest.model.name = "another"
      let object = try ModelFixture.object(manifest: manifest)
      try ArtifactWriter().write(object: object, weights: ModelFixture.sources(), to: path)
      let new = try LoadedModel(path: path)
      let third = try LoadedModel(path: path)
      #expect(old.manifest.model.name == "fixture")
      #expect(new.manifest.model.name == "another")
      #expect(old.table != new.table)
      #expect(new.table == third.table)
      let batch = Batch(lengths: [3, 4])
      for model in [old, new, third] {
        #expect(try model.run(inputs: batch.inputs())[0].tensor.values(as: Float.self) == batch.expected)
      }
    }
  }

  @Test func aManifestThatIsNotTheTablesIsRefused() throws {
    try ModelFixture.withTemporaryFolder { folder in
      let path = folder.appending(path: "model.ultra").path
      var manifest = try ModelFixture.manifest()
      manifest.entries[1].name = "odd"
      let object = try ModelFixture.object(manifest: manifest)
      try ArtifactWriter().write(object: object, weights: ModelFixture.sources(), to: path)
      let error = #expect(throws: RuntimeError.self) { try LoadedModel(path: path) }
      #expect(
        error?.description == "\(path): entry 1 of its table is not \"odd\" of its manifest; compile it again")
    }
  }

  @Test func aPathWithoutASlashIsInTheWorkingFolder() throws {
    let name = "fixture-\(UUID().uuidString).ultra"
    try ModelFixture.write(to: name)
    defer { try? FileManager.default.removeItem(atPath: name) }
    #expect(try LoadedModel(path: name).manifest.model.name == "fixture")
  }
}
