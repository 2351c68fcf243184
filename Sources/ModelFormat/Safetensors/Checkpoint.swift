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
  /// How a weight is computed.
  enum Formula: Hashable, Sendable {
    /// The rows of a matrix from one on, each divided by its length, epsilon at least, where an epsilon is given.
    case rows(of: String, from: Int, normEpsilon: Double?)
    /// Number i along the first axis of a tensor.
    case part(of: String, Int)
    /// The cosine and sine of each of n angles, which make a full turn of `2 * pi`, in fp32.
    case circle(pi: Double)
    case zeros
  }

  /// A weight that is computed, with its shape.
  struct Derived: Hashable, Sendable {
    var formula: Formula
    var shape: [Int]
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
    switch derived.formula {
    case .rows(let source, let first, let epsilon):
      return try elements(of: source, [derived.shape[0] + first, derived.shape[1]]) { element in
        let width = derived.shape[1]
        var values: [Float] = []
        values.reserveCapacity(derived.shape[0] * width)
        for row in first..<first + derived.shape[0] {
          let elements = (0..<width).map { Double(element(row * width + $0)) }
          let divisor = epsilon.map { max(elements.reduce(0) { $0 + $1 * $1 }.squareRoot(), $0) } ?? 1
          values.append(contentsOf: elements.map { Float($0 / divisor) })
        }
        return HostTensor(values, shape: derived.shape)
      }
    case .part(let source, let index):
      let count = derived.shape.reduce(1, *)
      return try elements(of: source, nil) { element in
        HostTensor((0..<count).map { element(index * count + $0) }, shape: derived.shape)
      }
    case .circle(let pi):
      return HostTensor(CalendarUnits.circle(count: derived.shape[0], pi: pi), shape: derived.shape)
    case .zeros: return HostTensor([Float](repeating: 0, count: derived.shape.reduce(1, *)), shape: derived.shape)
    }
  }

  /// What `make` makes of a tensor's elements. Its shape was checked when the model was built.
  private func elements(
    of source: String, _ expected: [Int]?, _ make: ((Int) -> Float) throws -> HostTensor
  ) throws -> HostTensor {
    try withWeight(source) { _, shape, bytes in
      guard expected == nil || shape == expected else {
        throw ModelError(
          .unexpectedTensor, file: checkpoint.fileNames, place: "tensor \(quoted(source))",
          "shape \(shape), but \(expected ?? []) is needed")
      }
      return try make { bytes.loadUnaligned(fromByteOffset: $0 * 4, as: Float.self) }
    }
  }
}
