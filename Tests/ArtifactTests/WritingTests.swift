import Artifact
import ArtifactFixture
import Foundation
import Testing

@Suite struct WritingTests {
  @Test func aWrittenArtifactReadsBack() throws {
    try ModelFixture.withTemporaryFolder { folder in
      let path = folder.appending(path: "model.ultra").path
      let summary = try ModelFixture.write(to: path)
      let reader = try ArtifactReader.open(path, verify: .full)
      #expect(reader.manifest == (try ModelFixture.manifest()))
      #expect(reader.manifestBytes == (try ModelFixture.manifest().encoded()))
      #expect(reader.machine == Machine.host)
      #expect(reader.checksum == summary.checksum)
      #expect(reader.fileSize == summary.fileSize)
      #expect(reader.weightsSize == summary.weightsSize)
      for weight in ModelFixture.weights {
        #expect(try reader.weightBytes(named: weight.name) == weight.bytes)
      }
      #expect(try reader.weightBytes(named: "absent") == nil)
      #expect(try FileManager.default.contentsOfDirectory(atPath: folder.path) == ["model.ultra"])
    }
  }

  @Test func otherToolsUnderstandTheFile() throws {
    try ModelFixture.withTemporaryFolder { folder in
      let path = folder.appending(path: "model.ultra").path
      try ModelFixture.write(to: path)
      let headers = try ModelFixture.run("/usr/bin/readelf", ["-aW", path])
      #expect(!headers.contains("Warning"))
      #expect(!headers.contains("Error"))
      #expect(!headers.contains("NEEDED"))
      let alignments = headers.split(separator: "\n").filter { $0.contains("LOAD ") && $0.hasSuffix("0x200000") }
      #expect(alignments.count == 1)
      let libraries = try ModelFixture.run("/usr/bin/ldd", [path])
      #expect(libraries.contains("statically linked"))
    }
  }

  @Test func equalInputGivesEqualBytesInAnyFolder() throws {
    let files = try (0..<2).map { _ in
      try ModelFixture.withTemporaryFolder { folder in
        let object = try ModelFixture.object(manifest: ModelFixture.manifest())
        let path = folder.appending(path: "model.ultra").path
        try ArtifactWriter().write(object: object, weights: ModelFixture.sources(), to: path)
        return try Data(contentsOf: URL(fileURLWithPath: path))
      }
    }
    #expect(files[0] == files[1])
  }

  @Test func aModelWithoutWeightsHasNoWeightsSegment() throws {
    try ModelFixture.withTemporaryFolder { folder in
      let path = folder.appending(path: "model.ultra").path
      let object = try ModelFixture.object(manifest: ModelFixture.manifest(withWeights: false))
      try ArtifactWriter().write(object: object, weights: [], to: path)
      let reader = try ArtifactReader.open(path, verify: .full)
      #expect(reader.weightsSize == 0)
      #expect(reader.manifest.weights.isEmpty)
      let handle = try #require(dlopen(path, RTLD_NOW | RTLD_LOCAL))
      dlclose(handle)
    }
  }

  @Test func weightsAreMappedWhereTheNoteSays() throws {
    try ModelFixture.withTemporaryFolder { folder in
      let path = folder.appending(path: "model.ultra").path
      try ModelFixture.write(to: path)
      let handle = try #require(dlopen(path, RTLD_NOW | RTLD_LOCAL))
      defer { dlclose(handle) }
      let symbol = try #require(dlsym(handle, "ultra_model_v1"))
      typealias Function = @convention(c) () -> UnsafePointer<UInt8>
      // The manifest's address is the third field of ultra_model, at 8.
      let table = unsafeBitCast(symbol, to: Function.self)()
      let manifest = UnsafeRawPointer(table).load(fromByteOffset: 8, as: UnsafeRawPointer.self)
      let field = manifest - ArtifactNote.manifestOffset + ArtifactNote.deltaOffset
      let weights = field + Int(field.loadUnaligned(as: Int64.self))
      #expect(Int(bitPattern: weights) % WeightsLayout.alignment == 0)
      let layout = try WeightsLayout(byteCounts: ModelFixture.weights.map(\.bytes.count))
      for (weight, offset) in zip(ModelFixture.weights, layout.offsets) {
        let mapped = UnsafeRawBufferPointer(start: weights + offset, count: weight.bytes.count)
        #expect(mapped.elementsEqual(weight.bytes))
      }
    }
  }

  @Test(arguments: [
    (3, "weight \"first\": 3 bytes were given, 4 were announced"),
    (5, "weight \"first\": at least 5 bytes were given, 4 were announced"),
  ])
  func wrongAmountsOfWeightBytesLeaveNoFile(count: Int, message: String) throws {
    try ModelFixture.withTemporaryFolder { folder in
      let path = folder.appending(path: "model.ultra").path
      let object = try ModelFixture.object(manifest: ModelFixture.manifest())
      var sources = ModelFixture.sources()
      sources[0] = WeightSource(name: "first", byteCount: 4) { sink in
        try sink.write([UInt8](repeating: 0, count: count))
      }
      let error = #expect(throws: ArtifactError.self) {
        try ArtifactWriter().write(object: object, weights: sources, to: path)
      }
      #expect(error?.description == "\(path): \(message)")
      #expect(try FileManager.default.contentsOfDirectory(atPath: folder.path).isEmpty)
    }
  }

  @Test func aFailingWeightKeepsTheOldFile() throws {
    try ModelFixture.withTemporaryFolder { folder in
      let path = folder.appending(path: "model.ultra").path
      try ModelFixture.write(to: path)
      let before = try Data(contentsOf: URL(fileURLWithPath: path))
      struct Broken: Error {}
      let object = try ModelFixture.object(manifest: ModelFixture.manifest())
      var sources = ModelFixture.sources()
      sources[1] = WeightSource(name: "items", byteCount: sources[1].byteCount) { _ in throw Broken() }
      #expect(throws: ArtifactError.self) {
        try ArtifactWriter().write(object: object, weights: sources, to: path)
      }
      #expect(try Data(contentsOf: URL(fileURLWithPath: path)) == before)
      #expect(try FileManager.default.contentsOfDirectory(atPath: folder.path) == ["model.ultra"])
    }
  }

  @Test func theManifestMustListTheWeightsThatAreWritten() throws {
    try ModelFixture.withTemporaryFolder { folder in
      let path = folder.appending(path: "model.ultra").path
      let object = try ModelFixture.object(manifest: ModelFixture.manifest())
      let error = #expect(throws: ArtifactError.self) {
        try ArtifactWriter().write(object: object, weights: ModelFixture.sources().dropLast(), to: path)
      }
      #expect(error?.message == "the manifest lists 3 weights, 2 were given")
    }
  }

  @Test func linkerTroubleIsReported() throws {
    try ModelFixture.withTemporaryFolder { folder in
      let path = folder.appending(path: "model.ultra").path
      // A call of a function that nobody defines.
      let fault =
        "FAULT=extern int absent(void); __attribute__((visibility(\"default\"))) int use(void) { return absent(); }"
      let object = try ModelFixture.object(manifest: ModelFixture.manifest(), defines: [fault])
      let undefined = #expect(throws: ArtifactError.self) {
        try ArtifactWriter().write(object: object, weights: ModelFixture.sources(), to: path)
      }
      #expect(undefined?.kind == .linker)
      #expect(undefined?.message.contains("absent") == true)
      let missing = #expect(throws: ArtifactError.self) {
        try ArtifactWriter(linker: Linker(path: "/nowhere/ld")).write(
          object: object, weights: ModelFixture.sources(), to: path)
      }
      #expect(missing?.message == "linker /nowhere/ld: No such file or directory")
      #expect(try FileManager.default.contentsOfDirectory(atPath: folder.path).isEmpty)
    }
  }

  @Test func aFolderThatDoesNotExistIsNamed() throws {
    let error = #expect(throws: ArtifactError.self) { try ModelFixture.write(to: "/nowhere/model.ultra") }
    #expect(error?.description == "/nowhere/model.ultra: cannot be written: No such file or directory")
  }
}
