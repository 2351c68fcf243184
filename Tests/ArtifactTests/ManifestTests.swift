import Artifact
import ArtifactFixture
import Foundation
import Testing

@Suite struct ManifestTests {
  @Test func aManifestSurvivesItsText() throws {
    var manifest = try ModelFixture.manifest()
    manifest.entries[0].description = "embeddings of users: \"L2\", é"
    manifest.entries[0].inputs[1].description = "cuts"
    manifest.passes = [
      .init(name: "semi-local-attention", options: "local=256,global=256", exactness: .asTrained, note: "as trained")
    ]
    manifest.kernels = [
      .init(name: "attention_1", entry: "forward", computes: "attention + linear", domain: "rows, 64 at a time")
    ]
    manifest.dimensions.append(
      .init(name: "longer", atMost: .init([.init("rows"), .init("sequences", times: 3)], constant: 7)))
    let encoded = try manifest.encoded()
    #expect(try Manifest(json: encoded) == manifest)
    #expect(try Manifest(json: encoded).encoded() == encoded)
  }

  @Test(arguments: [
    ("\"rows\"", "\"lines\"", "manifest: "),
    ("\"version\" : 1,\n", "", "manifest: version: missing"),
    ("\"atMost\" : \"rows\"", "\"atMost\" : \"rose\"", "\"rose\" is no dimension that a caller gives"),
    (
      "\"atMost\" : \"rows\"", "\"atMost\" : {\"terms\" : [{\"dimension\" : \"rows\", \"times\" : 0}]}",
      "manifest: dimensions[2].atMost: 0 times \"rows\""
    ), ("\"atMost\" : \"rows\"", "\"atMost\" : {\"terms\" : []}", "manifest: dimensions[2].atMost: no terms"),
    ("\"i64\"", "\"i63\"", "manifest: entries[0].inputs[0].element"),
    ("\"exact\"", "\"nearly\"", "manifest: passes[0].exactness"),
    ("\"below\" : 1683", "\"below\" : 0", "manifest: entries[0].inputs[0].below: 0"),
    ("\"below\" : 1683,", "", "manifest: entries[0].inputs[0].below: missing"),
    ("\"offset\" : 64", "\"offset\" : 65", "manifest: weights[1]: offset 65"),
    ("\"offset\" : 64", "\"offset\" : -64", "manifest: weights[1]: offset -64"),
    ("\"offset\" : 64", "\"offset\" : 9223372036854775744", "overflow"),
    ("\"name\" : \"even\"", "\"name\" : \"forward\"", "manifest: entries[1].name: \"forward\" is there twice"),
    ("\"kept_rows\",\n            2", "\"kept_rows\",\n            -2", "extent -2 is negative"),
    ("\"kept_rows\",\n            2", "\"kept_rows\",\n            4611686018427387904", "negative or too large"),
    ("\"name\" : \"first\"", "\"name\" : 7", "manifest: weights[0].name: expected a string"),
    ("\"entry\" : \"forward\"", "\"entry\" : \"backward\"", "manifest: kernels[0].entry: there is no entry"),
    ("\"name\" : \"attention_1\"", "\"name\" : \"linear_0\"", "manifest: kernels[1].name: \"linear_0\" is there twice"),
    ("{\n", "[\n", "manifest: "),
  ])
  func contradictionsAreNamed(old: String, new: String, message: String) throws {
    let text = String(decoding: try ModelFixture.manifest().encoded(), as: UTF8.self)
    let range = try #require(text.range(of: old), "\(text)")
    let error = #expect(throws: ArtifactError.self) {
      try Manifest(json: Array(text.replacingCharacters(in: range, with: new).utf8))
    }
    #expect(error?.message.contains(message) == true, "\(String(describing: error))")
  }

  @Test func whatIsKeptIsOfPrefill() throws {
    var manifest = try ModelFixture.manifest()
    var prefill = manifest.entries[0]
    prefill.name = "prefill"
    var score = manifest.entries[0]
    score.name = "score"
    score.inputs[0].keeps = prefill.inputs[0].name
    score.inputs[1].keeps = prefill.outputs[0].name
    manifest.entries += [prefill, score]
    let kept = try #require(manifest.dimensions.firstIndex { $0.atMost != nil })
    manifest.dimensions[kept].atMostOfSequence = 512
    #expect(try Manifest(json: manifest.encoded()) == manifest)
    manifest.entries[manifest.entries.count - 1].inputs[1].keeps = "nothing"
    let error = #expect(throws: ArtifactError.self) { try manifest.encoded() }
    #expect(error?.message.contains("inputs[1].keeps: \"nothing\" is no input or output of \"prefill\"") == true)
    manifest.entries[manifest.entries.count - 1].inputs[1].keeps = nil
    manifest.dimensions[kept].atMostOfSequence = -1
    #expect(throws: ArtifactError.self) { try manifest.encoded() }
  }

  @Test func anotherVersionIsRefused() throws {
    let text = String(decoding: try ModelFixture.manifest().encoded(), as: UTF8.self)
    let error = #expect(throws: ArtifactError.self) {
      try Manifest(json: Array(text.replacingOccurrences(of: "\"version\" : 1,", with: "\"version\" : 2,").utf8))
    }
    #expect(error?.kind == .unsupportedVersion)
  }

  @Test func deepNestingIsAnError() {
    let text = String(repeating: "[", count: 100_000)
    #expect(throws: ArtifactError.self) { try Manifest(json: Array(text.utf8)) }
  }

  @Test func layoutsAreAlignedAndChecked() throws {
    let layout = try WeightsLayout(byteCounts: [0, 1, 64, 65, 0, 3])
    #expect(layout.offsets == [0, 0, 64, 128, 256, 256])
    #expect(layout.byteCount == 259)
    #expect(try WeightsLayout(byteCounts: []).byteCount == 0)
    #expect(throws: ArtifactError.self) { try WeightsLayout(byteCounts: [Int.max, 1]) }
    #expect(throws: ArtifactError.self) { try WeightsLayout(byteCounts: [-1]) }
  }
}
