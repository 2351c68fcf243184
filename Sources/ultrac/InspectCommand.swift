import ArgumentParser
import Artifact
import Driver

struct InspectCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "inspect",
    abstract: "Show what an artifact takes and gives, and how it was made.",
    discussion: """
      The file is read, not loaded: nothing in it runs. Sizes and structure are always checked, the checksum of every \
      byte with --verify.

        ultrac inspect model.ultra
        ultrac inspect model.ultra --json | python3 -m json.tool
      """)

  @Argument(help: "The artifact.", completion: .file(extensions: ["ultra"]))
  var artifact: String

  @Flag(help: "Print the manifest, with sizes and checksum, as JSON.")
  var json = false

  @Flag(help: "Print the program that was compiled, as TensorIR.")
  var program = false

  @Flag(help: "Compare every byte with the checksum.")
  var verify = false

  func validate() throws {
    if json && program { throw ValidationError("--json and --program exclude each other") }
  }

  func run() throws {
    let reader = try ArtifactReader.open(artifact, verify: verify ? .full : .structure)
    if json {
      print(Self.json(reader))
    } else if program {
      guard let text = reader.manifest.program else { throw DriverError("\(artifact): it holds no program text") }
      print(text, terminator: "")
    } else {
      for line in Self.lines(reader, isVerified: verify) { print(line) }
    }
  }

  /// One object: what only the file knows, and the manifest as it stands in the file.
  private static func json(_ reader: ArtifactReader) -> String {
    let manifest = String(decoding: reader.manifestBytes, as: UTF8.self)
    return """
      {
        "file": {
          "bytes": \(reader.fileSize),
          "checksum": "\(checksum(reader))",
          "machine": "\(reader.machine.name)",
          "weightBytes": \(reader.weightsSize)
        },
        "manifest": \(manifest.replacing("\n", with: "\n  "))
      }
      """
  }

  private static func checksum(_ reader: ArtifactReader) -> String {
    let digits = String(reader.checksum, radix: 16)
    return "crc64:" + String(repeating: "0", count: 16 - digits.count) + digits
  }

  private static func lines(_ reader: ArtifactReader, isVerified: Bool) -> [String] {
    let manifest = reader.manifest
    var facts = TextTable([("", .left), ("", .left)])
    facts.add(["model", "\(manifest.model.name), from sources of checksum \(manifest.model.sourceChecksum)"])
    facts.add(["compiler", "\(manifest.compiler.name) \(manifest.compiler.version)"])
    facts.add(["flags", manifest.compiler.flags.joined(separator: " ")])
    for (index, level) in manifest.levels.enumerated() {
      facts.add([index == 0 ? "levels" : "", "\(level.name): \(level.needs)"])
    }
    facts.add([
      "weights", "\(Quantity.bytes(Double(reader.weightsSize))) in \(manifest.weights.count) tensors",
    ])
    facts.add([
      "file",
      "\(Quantity.bytes(Double(reader.fileSize))) for \(reader.machine.name), checksum \(checksum(reader)) "
        + (isVerified ? "verified" : "not verified"),
    ])
    var lines = [reader.path] + facts.lines.map { "  " + $0 }
    for entry in manifest.entries { lines += [""] + signature(entry) }
    return lines + [""] + passes(manifest) + kernels(manifest) + gpuKernels(manifest)
  }

  private static func gpuKernels(_ manifest: Manifest) -> [String] {
    (manifest.gpus ?? []).flatMap { gpu in
      var table = TextTable([
        ("\(gpu.target) kernels", .left), ("computes", .left), ("rows", .right), ("threads", .right),
        ("shared", .right),
        ("registers", .right), ("spilled", .right),
      ])
      for kernel in gpu.kernels {
        table.add([
          "  \(kernel.name)", kernel.computes, "\(kernel.rows)", "\(kernel.threads)",
          Quantity.bytes(Double(kernel.sharedBytes)), kernel.registers.map(String.init) ?? "-",
          kernel.spilledBytes.map { Quantity.bytes(Double($0)) } ?? "-",
        ])
      }
      return [""] + table.lines
    }
  }

  private static func kernels(_ manifest: Manifest) -> [String] {
    guard !manifest.kernels.isEmpty else { return [] }
    var table = TextTable([("kernels", .left), ("computes", .left), ("blocks", .left)])
    for kernel in manifest.kernels {
      let entry = manifest.entries.count > 1 ? "\(kernel.entry): " : ""
      table.add(["  \(entry)\(kernel.name)", kernel.computes, kernel.domain])
    }
    return [""] + table.lines
  }

  private static func signature(_ entry: Manifest.Entry) -> [String] {
    var table = TextTable([("", .left), ("", .left), ("", .left), ("", .left)])
    for port in entry.inputs { table.add(["in", port.name, port.type.description, port.description ?? ""]) }
    for port in entry.outputs { table.add(["out", port.name, port.type.description, port.description ?? ""]) }
    return ["\(entry.name), for a batch of \(entry.dimensions.joined(separator: " and "))"]
      + table.lines.map { "  " + $0 }
  }

  private static func passes(_ manifest: Manifest) -> [String] {
    guard !manifest.passes.isEmpty else { return ["no passes changed the program"] }
    var table = TextTable([("passes", .left), ("", .left), ("", .left)])
    for pass in manifest.passes {
      let options = pass.options.isEmpty ? "" : "{\(pass.options)}"
      table.add(["  \(pass.name)\(options)", pass.exactness.words, pass.note ?? ""])
    }
    return table.lines
  }
}
