import TensorIR

/// The trained tensors that a model is built from: one or several safetensors files, no name in two of them.
public struct Checkpoint: Sendable {
  /// In the order in which they were given.
  public let files: [SafetensorsFile]
  private let fileByName: [String: Int]

  /// The tensors of all files. Throws `unexpectedTensor` where a name is in two of them.
  public init(_ files: [SafetensorsFile]) throws(ModelError) {
    var fileByName: [String: Int] = [:]
    for (index, file) in files.enumerated() {
      for entry in file.entries {
        if let earlier = fileByName.updateValue(index, forKey: entry.name) {
          throw ModelError(
            .unexpectedTensor, file: file.path, place: "tensor \(quoted(entry.name))",
            "it is in \(files[earlier].path) too", hint: "name each weights file once, and each tensor in one file")
        }
      }
    }
    self.files = files
    self.fileByName = fileByName
  }

  /// The tensor of this name, with the file that holds it.
  public func find(_ name: String) -> (file: SafetensorsFile, entry: SafetensorsEntry)? {
    guard let file = fileByName[name].map({ files[$0] }), let entry = file.entry(named: name) else { return nil }
    return (file, entry)
  }

  /// The names of all tensors, sorted.
  public var names: [String] { fileByName.keys.sorted() }

  /// How errors name the files together.
  var fileNames: String { files.map(\.path).joined(separator: ", ") }
}

/// The weights of an imported model: always fp32, read from the checkpoint's files when they are asked for.
///
/// fp16 and bf16 tensors are widened, which is exact; fp64 tensors are rounded to nearest even.
public struct CheckpointWeights: WeightProvider {
  /// A weight computed from one of the checkpoint.
  struct Derived: Hashable, Sendable {
    var source: String
    /// The first row taken; the weight holds this row and all that follow.
    var firstRow: Int
    /// The epsilon of an L2 norm of each row; nil where rows stay as they are.
    var normEpsilon: Double?
  }

  let checkpoint: Checkpoint
  var derived: [String: Derived] = [:]

  init(checkpoint: Checkpoint) { self.checkpoint = checkpoint }

  /// The bytes of a weight in fp32, valid during `body` only: the file's own where they are fp32 and aligned, else a
  /// copy. Throws `missingTensor` where there is no such tensor, `unexpectedTensor` where its type has no use here.
  public func withWeight<R>(
    _ name: String, _ body: (ElementType, [Int], UnsafeRawBufferPointer) throws -> R
  ) throws -> R {
    if let derived = derived[name] {
      let tensor = try compute(derived)
      return try tensor.bytes.withUnsafeBytes { try body(.f32, tensor.shape, $0) }
    }
    guard let (file, entry) = checkpoint.find(name) else {
      throw ModelError(
        .missingTensor, file: checkpoint.fileNames, place: "tensor \(quoted(name))", "there is no tensor of this name")
    }
    if entry.dtype == .f32 {
      // Readers may load whole fp32 numbers, so a tensor at an odd address is copied.
      let inPlace: R? = try file.withBytes(of: name) { _, bytes in
        UInt(bitPattern: bytes.baseAddress) % 4 == 0 ? try body(.f32, entry.shape, bytes) : nil
      }
      if let inPlace { return inPlace }
    }
    let floats = try file.tensor(named: name).floats
    return try floats.withUnsafeBytes { try body(.f32, entry.shape, $0) }
  }

  private func compute(_ derived: Derived) throws -> HostTensor {
    try withWeight(derived.source) { _, shape, bytes in
      guard shape.count == 2, derived.firstRow <= shape[0] else {
        throw ModelError(
          .unexpectedTensor, file: checkpoint.fileNames, place: "tensor \(quoted(derived.source))",
          "shape \(shape), but a table of at least \(derived.firstRow) rows is needed")
      }
      let width = shape[1]
      var values: [Float] = []
      values.reserveCapacity((shape[0] - derived.firstRow) * width)
      for row in derived.firstRow..<shape[0] {
        let elements = (0..<width).map {
          Double(bytes.loadUnaligned(fromByteOffset: (row * width + $0) * 4, as: Float.self))
        }
        let divisor = derived.normEpsilon.map { max(elements.reduce(0) { $0 + $1 * $1 }.squareRoot(), $0) } ?? 1
        values.append(contentsOf: elements.map { Float($0 / divisor) })
      }
      return HostTensor(values, shape: [shape[0] - derived.firstRow, width])
    }
  }
}
