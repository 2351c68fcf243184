import Artifact
import Foundation

/// An artifact of a toy model, written in C and compiled by the system's `cc`.
public enum ModelFixture {
  /// Columns of the item table.
  public static let width = 64
  /// Rows of the item table, padding's row 0 included.
  public static let items = 1683
  /// Items that are given back for each sequence, those of the greatest scores.
  public static let best = 10

  /// Something that the fixture needs went wrong.
  public struct Failure: Error, CustomStringConvertible {
    /// What went wrong, with what the program printed.
    public let description: String
  }

  private static let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent()

  /// The repository's root.
  public static let root = folder.deletingLastPathComponent().deletingLastPathComponent()

  /// The weights by name: four bytes, so that the next is not at 0, the item table, and one of no bytes.
  public static let weights: [(name: String, shape: [Int], bytes: [UInt8])] = {
    let table = (0..<items * width).flatMap { index in withUnsafeBytes(of: tableValue(index).littleEndian) { Array($0) }
    }
    return [("first", [4], [1, 2, 3, 4]), ("items", [items, width], table), ("empty", [0, width], [])]
  }()

  /// Bits of element `index` of the item table: fractions that differ between rows and columns.
  private static func tableValue(_ index: Int) -> UInt32 {
    value(item: index / width, column: index % width).bitPattern
  }

  /// An element of the item table.
  public static func value(item: Int, column: Int) -> Float {
    Float((item * 37 + column * 101) % 2039) / 2048 - 0.5
  }

  /// The manifest of the model, without weights where `withWeights` is false.
  public static func manifest(withWeights: Bool = true) throws -> Manifest {
    let rows = Manifest.Extent.symbol("rows")
    let sequences = Manifest.Extent.symbol("sequences")
    let items = Manifest.Port(
      name: "item_ids", type: .tensor(element: .i64, shape: [rows]), role: .ids(below: Self.items))
    var manifest = Manifest(
      compiler: .init(name: "hand-written", version: "1", flags: ["-O2"]),
      model: .init(name: "fixture", sourceChecksum: "crc64:0"),
      dimensions: [.init(name: "rows"), .init(name: "sequences"), .init(name: "kept_rows", atMost: "rows")],
      entries: [
        .init(
          name: "forward", dimensions: ["rows", "sequences"],
          inputs: [
            items, .init(name: "offsets", type: .offsets(sequences: sequences, rows: rows)),
            .init(name: "timestamps", type: .tensor(element: .i64, shape: [rows]), role: .timestamps),
            .init(name: "query_timestamps", type: .tensor(element: .i64, shape: [sequences]), role: .timestamps),
          ],
          outputs: [
            .init(name: "user_embeddings", type: .tensor(element: .f32, shape: [sequences, .fixed(width)])),
            .init(name: "top_scores", type: .tensor(element: .f32, shape: [sequences, .fixed(best)])),
            .init(name: "top_ids", type: .tensor(element: .i64, shape: [sequences, .fixed(best)])),
          ]),
        .init(
          name: "even", dimensions: ["rows"], inputs: [items],
          outputs: [.init(name: "pairs", type: .tensor(element: .i64, shape: ["kept_rows", 2]))]),
      ])
    manifest.passes = [.init(name: "to-tiles", exactness: .exact)]
    manifest.levels = [.init(name: "portable", needs: "nothing")]
    manifest.kernels = ["linear_0", "attention_1"].map {
      .init(name: $0, entry: "forward", computes: "linear", domain: "rows, 64 at a time")
    }
    if withWeights {
      let layout = try WeightsLayout(byteCounts: weights.map(\.bytes.count))
      manifest.weights = zip(weights, layout.offsets).map { weight, offset in
        .init(
          name: weight.name, element: weight.name == "first" ? .u8 : .f32, shape: weight.shape, offset: offset,
          bytes: weight.bytes.count)
      }
    }
    return manifest
  }

  /// Compiles the model with `manifest` in its note. `defines` are preprocessor definitions.
  public static func object(manifest: Manifest, defines: [String] = []) throws -> [UInt8] {
    let encoded = try manifest.encoded()
    return try withTemporaryFolder { scratch in
      try Data(try ArtifactNote.makeNote(manifest: encoded)).write(to: scratch.appending(path: "note.bin"))
      let flags = [
        "-c", "-O2", "-fPIC", "-ffreestanding", "-fvisibility=hidden", "-fcf-protection=none", "-ffp-contract=off",
        "-Wall", "-Wextra",
      ]
      let include = "-I" + root.appending(path: "include").path
      try run(
        "/usr/bin/cc",
        flags + [include, "-DMANIFEST_SIZE=\(encoded.count)"] + defines.map { "-D" + $0 }
          + [folder.appending(path: "model.c").path, "-o", "model.o"], in: scratch)
      return [UInt8](try Data(contentsOf: scratch.appending(path: "model.o")))
    }
  }

  private static let plainObject = Result { try object(manifest: manifest()) }

  /// Writes the artifact.
  @discardableResult
  public static func write(to path: String, defines: [String] = []) throws -> ArtifactWriter.Summary {
    let object = defines.isEmpty ? try plainObject.get() : try object(manifest: manifest(), defines: defines)
    return try ArtifactWriter().write(object: object, weights: sources(), to: path)
  }

  /// The weights as the writer takes them.
  public static func sources() -> [WeightSource] {
    weights.map { WeightSource(name: $0.name, bytes: $0.bytes) }
  }

  /// Runs a program and returns what it printed; an exit status other than 0 is an error.
  @discardableResult
  public static func run(_ program: String, _ arguments: [String], in folder: URL? = nil) throws -> String {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: program)
    process.arguments = arguments
    process.currentDirectoryURL = folder
    let pipe = Pipe()
    process.standardOutput = pipe
    process.standardError = pipe
    try process.run()
    let text = String(decoding: pipe.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    process.waitUntilExit()
    guard process.terminationStatus == 0 else { throw Failure(description: "\(program): \(text)") }
    return text
  }

  /// Calls `body` with a folder that is removed afterwards.
  public static func withTemporaryFolder<Value>(_ body: (URL) throws -> Value) throws -> Value {
    let scratch = FileManager.default.temporaryDirectory.appending(path: "fixture-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: scratch, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: scratch) }
    return try body(scratch)
  }
}
