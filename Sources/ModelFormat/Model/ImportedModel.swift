import TensorIR

/// A model ready to compile: its program, its weights, and what there is to say about both.
public struct ImportedModel: Sendable {
  /// One function, `forward`. Its weights carry the checkpoint's names.
  public var module: Module
  /// The bytes of the module's weights, in fp32.
  public var weights: any WeightProvider
  /// The program as it would be without the semi-local masks and truncations that the model was trained with; the same
  /// where it has none.
  public var plainProgram: Module
  /// Those, in the order in which passes would do them; the last one's program is `module`.
  public var trainedStructure: [TrainedStructure]
  /// The name in its description.
  public var name: String
  /// Tensors of the checkpoint that the model does not use, sorted by name.
  public var unusedTensors: [String]
  /// What a user should know: settings that were accepted and have no effect.
  public var notes: [String]
  /// The files that the model was read from, in order: model.json first, where there is one.
  public var sources: [Source]

  /// A file that the model was read from.
  public struct Source: Sendable {
    /// The path as the caller or model.json gave it.
    public var name: String
    fileprivate var content: Content

    fileprivate enum Content: Sendable {
      case bytes([UInt8])
      case tensors(SafetensorsFile)
    }

    /// How many bytes the file has.
    public var byteCount: Int {
      switch content {
      case .bytes(let bytes): bytes.count
      case .tensors(let file): file.byteCount
      }
    }

    /// Some bytes of the file, which it must have, valid during `body` only: for checksums.
    public func withBytes<R>(_ range: Range<Int>, _ body: (UnsafeRawBufferPointer) throws -> R) rethrows -> R {
      switch content {
      case .bytes(let bytes): try bytes.withUnsafeBytes { try body(UnsafeRawBufferPointer(rebasing: $0[range])) }
      case .tensors(let file): try file.withFileBytes(range, body)
      }
    }
  }
}

/// Reads model.json at `path` and the weights it names, and checks the one against the other.
///
/// Throws with the file, the line and key or the tensor at fault, what was found and what was expected.
public func importModel(at path: String) throws(ModelError) -> ImportedModel {
  let file = try MappedFile(path: path)
  let document = try JSONDocument(bytes: file.bytes, file: path)
  let decoded = try ModelDocument(document)
  let directory = path.lastIndex(of: "/").map { String(path[...$0]) } ?? ""
  var files: [SafetensorsFile] = []
  for weights in decoded.weights {
    files.append(try SafetensorsFile(path: weights.hasPrefix("/") ? weights : directory + weights))
  }
  var model = try decoded.description.build(from: Checkpoint(files))
  model.notes = decoded.notes + model.notes
  model.sources.insert(.init(name: path, content: .bytes([UInt8](file.bytes))), at: 0)
  return model
}

extension ModelDescription {
  /// The program of this model over the weights of `checkpoint`.
  ///
  /// Throws where a weight is missing or of another shape or type than the model needs, or where the description
  /// contradicts itself.
  public func build(from checkpoint: Checkpoint) throws(ModelError) -> ImportedModel {
    var builder = ModelBuilder(self, checkpoint)
    try builder.build()
    let used = builder.usedTensors
    let structure = try trainedStructure(from: checkpoint)
    return ImportedModel(
      module: builder.builder.finish(), weights: builder.weights, plainProgram: structure.plain,
      trainedStructure: structure.parts, name: name,
      unusedTensors: checkpoint.names.filter { !used.contains($0) }, notes: [],
      sources: checkpoint.files.map { ImportedModel.Source(name: $0.path, content: .tensors($0)) })
  }
}
