import ArgumentParser
import Artifact
import Driver
import Glibc
import ModelFormat

struct ImportCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "import",
    abstract: "Write model.json for a trained checkpoint.",
    discussion: """
      A checkpoint is a state_dict saved as safetensors, under the names that training gave them; docs/import.md shows \
      how to save one. Widths, layers and parts follow from names and shapes. What these do not tell is asked for, by \
      flags or as keys of a configuration, in which generative-recommenders' own fields are understood too.

        ultrac import weights.safetensors --family gr-retrieval --heads 2
        ultrac import weights.safetensors --family gr-ranking --config config.json
        ultrac compile model.json

      Every tensor is checked; those that the model does not use are listed. A model.json that is there stays, unless \
      --force is given.
      """)

  @Argument(
    help: ArgumentHelp("The checkpoint's files.", valueName: "checkpoint.safetensors"),
    completion: .file(extensions: ["safetensors"]))
  var checkpoint: [String]

  @Option(help: "What the names are of: \(ImportFamily.allCases.map(\.rawValue).joined(separator: " or ")).")
  var family: ImportFamily

  @Option(
    help: ArgumentHelp(
      "Settings as JSON, under the keys that messages name or generative-recommenders' own.", valueName: "config.json"),
    completion: .file(extensions: ["json"]))
  var config: String?

  @Option(
    name: [.customShort("o"), .long],
    help: ArgumentHelp("Where to write (default: model.json beside the checkpoint).", valueName: "model.json"))
  var output: String?

  @Option(help: ArgumentHelp("The model's name (default: the checkpoint's).", valueName: "name"))
  var name: String?

  @Option(help: ArgumentHelp("Look only at tensors whose names begin so.", valueName: "text"))
  var prefix = ""

  @Flag(help: "Replace a model.json that is there.")
  var force = false

  @Flag(help: "Print the report as JSON.")
  var json = false

  @OptionGroup(title: "Layers")
  var layers: ImportLayerArguments

  @OptionGroup(title: "Retrieval models")
  var retrieval: ImportRetrievalArguments

  @OptionGroup(title: "Ranking models")
  var ranking: ImportRankingArguments

  func validate() throws {
    if checkpoint.isEmpty { throw ValidationError("Missing expected argument '<checkpoint.safetensors> ...'") }
  }

  func run() throws {
    let path = output ?? Self.folder(of: checkpoint[0]) + "model.json"
    if !force && access(path, F_OK) == 0 {
      throw DriverError("\(path): it is there already", hint: "--force replaces it; -o writes elsewhere")
    }
    var options = ImportOptions(
      family: family, name: name ?? Self.stem(checkpoint[0]),
      weights: try checkpoint.map { try Self.relative($0, to: path) })
    options.prefix = prefix
    options.config = try config.map { try JSONDocument(path: $0) }
    options.flags = try layers.flags() + retrieval.flags() + ranking.flags()
    let result = try describeCheckpoint(
      Checkpoint(checkpoint.map { (path) throws(ModelError) in try SafetensorsFile(path: path) }), options)
    try writeFile(Array(result.text.utf8), to: path)
    if json { return print(Self.json(result, path)) }
    for line in Self.lines(result) { print(line) }
    print("wrote \(path)  next: ultrac compile \(path)")
  }

  // MARK: - Report

  private static func lines(_ result: CheckpointImport) -> [String] {
    var table = TextTable([("", .left), ("", .left), ("", .left), ("", .left)])
    for fact in result.facts {
      let origin =
        switch fact.origin {
        case .checkpoint: "found"
        case .told: "told"
        case .family: "family"
        }
      table.add([fact.name, fact.value, origin, fact.source])
    }
    var lines = [result.form] + table.lines.map { "  " + $0 }
    let unused = result.unusedTensors.count
    lines.append(
      unused == 0 ? "every tensor is used" : unused == 1 ? "1 tensor is not used" : "\(unused) tensors are not used")
    lines += result.unusedTensors.prefix(20).map { "  " + $0 }
    if result.unusedTensors.count > 20 { lines.append("  ... --json lists them all") }
    if !result.withoutEffect.isEmpty {
      lines.append("without effect here: \(result.withoutEffect.joined(separator: ", "))")
    }
    return lines
  }

  private static func json(_ result: CheckpointImport, _ path: String) -> String {
    func texts(_ texts: [String]) -> JSONNode { .list(texts.map { .text($0) }) }
    return JSONNode.object([
      ("written", .text(path)), ("form", .text(result.form)),
      (
        "facts",
        .list(
          result.facts.map { fact in
            .object([
              ("name", .text(fact.name)), ("value", .text(fact.value)), ("origin", .text(fact.origin.rawValue)),
              ("source", .text(fact.source)),
            ])
          })
      ), ("unusedTensors", texts(result.unusedTensors)), ("withoutEffect", texts(result.withoutEffect)),
    ]).pretty
  }

  // MARK: - Paths

  /// With the slash; empty for the working folder.
  private static func folder(of path: String) -> String {
    path.lastIndex(of: "/").map { String(path[...$0]) } ?? ""
  }

  /// The last component without its ending.
  private static func stem(_ path: String) -> String {
    let name = path.split(separator: "/").last.map(String.init) ?? "model"
    return name.hasSuffix(".safetensors") ? String(name.dropLast(".safetensors".count)) : name
  }

  /// The path of a file as model.json at `path` names it.
  private static func relative(_ file: String, to path: String) throws -> String {
    let target = folder(of: path)
    if folder(of: file) == target { return String(file.dropFirst(target.count)) }
    if file.hasPrefix("/") && !path.hasPrefix("/") { return file }
    func real(_ path: String) throws -> [Substring] {
      guard let resolved = realpath(path.isEmpty ? "." : path, nil) else {
        throw DriverError("\(path): cannot be found: \(String(cString: strerror(errno)))")
      }
      defer { free(resolved) }
      return String(cString: resolved).split(separator: "/")
    }
    let (from, to) = (try real(target), try real(folder(of: file)))
    let common = zip(from, to).prefix { $0 == $1 }.count
    let up = [Substring](repeating: "..", count: from.count - common)
    let name = file.dropFirst(folder(of: file).count)
    return (up + to[common...] + [name]).joined(separator: "/")
  }
}

extension ImportFamily: ExpressibleByArgument {}
