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
    let rows = try self.rows(of: name)
    return try rows.withRows(0..<rows.count) { try body(.f32, rows.shape, $0) }
  }

  /// A weight in fp32, open for reading some rows at a time. Throws as `withWeight` does.
  public func rows(of name: String) throws -> WeightRows {
    if let derived = derived[name] { return try rows(of: derived) }
    guard let (file, entry) = checkpoint.find(name) else {
      throw ModelError(
        .missingTensor, file: checkpoint.fileNames, place: "tensor \(quoted(name))", "there is no tensor of this name")
    }
    guard let stored = file.rows(of: entry) else { throw file.unusable(entry) }
    let floatBytes = stored.rowBytes / stored.element.byteCount * 4
    return WeightRows(.f32, entry.shape, heldBytes: stored.heldBytes + floatBytes) { rows, body in
      try stored.withRows(rows) { bytes in
        // Readers may load whole fp32 numbers, so a tensor at an odd address is copied.
        if stored.element == .f32, UInt(bitPattern: bytes.baseAddress) % 4 == 0 { return try body(bytes) }
        try Self.floats(bytes, stored.element).withUnsafeBytes { try body($0) }
      }
    }
  }

  /// Numbers of any type as fp32.
  private static func floats(_ bytes: UnsafeRawBufferPointer, _ element: ElementType) throws -> [Float] {
    let count = bytes.count / element.byteCount
    guard element.isFloatingPoint else {
      return try HostTensor(element: element, shape: [count], bytes: [UInt8](bytes)).floats
    }
    return [Float](unsafeUninitializedCapacity: count) { numbers, initialized in
      let target = UnsafeMutableRawBufferPointer(rebasing: UnsafeMutableRawBufferPointer(numbers)[..<(count * 4)])
      NumberConversion.convert(bytes, from: element, to: .f32, into: target)
      initialized = count
    }
  }

  private func rows(of derived: Derived) throws -> WeightRows {
    switch derived.formula {
    case .rows(let source, let first, let epsilon):
      let rows = try self.rows(of: source)
      // Its shape was checked when the model was built.
      let expected = [derived.shape[0] + first, derived.shape[1]]
      guard rows.shape == expected else {
        throw ModelError(
          .unexpectedTensor, file: checkpoint.fileNames, place: "tensor \(quoted(source))",
          "shape \(rows.shape), but \(expected) is needed")
      }
      let copied = epsilon == nil ? 0 : rows.rowBytes
      return WeightRows(.f32, derived.shape, heldBytes: rows.heldBytes + copied) { range, body in
        try rows.withRows(range.lowerBound + first..<range.upperBound + first) { bytes in
          guard let epsilon else { return try body(bytes) }
          let width = derived.shape[1]
          try Self.normalized(bytes, width: width, epsilon: epsilon).withUnsafeBytes { try body($0) }
        }
      }
    case .part(let source, let index):
      let rows = try self.rows(of: source)
      let count = derived.shape.first ?? 1
      let parts = rows.shape.reduce(1, *) / max(derived.shape.reduce(1, *), 1)
      let all = rows.reshaped([parts * count] + derived.shape.dropFirst())
      return WeightRows(.f32, derived.shape, heldBytes: all.heldBytes) { range, body in
        try all.withRows(index * count + range.lowerBound..<index * count + range.upperBound, body)
      }
    case .circle(let pi):
      return WeightRows(HostTensor(CalendarUnits.circle(count: derived.shape[0], pi: pi), shape: derived.shape))
    case .zeros:
      return WeightRows(
        HostTensor([Float](repeating: 0, count: derived.shape.reduce(1, *)), shape: derived.shape))
    }
  }

  /// Rows of fp32 numbers, each divided by its length, `epsilon` at least: in fp64, rounded once.
  private static func normalized(_ bytes: UnsafeRawBufferPointer, width: Int, epsilon: Double) -> [Float] {
    let numbers = bytes.bindMemory(to: Float.self)
    return [Float](unsafeUninitializedCapacity: numbers.count) { result, initialized in
      for first in stride(from: 0, to: numbers.count, by: max(width, 1)) {
        var squares = 0.0
        for index in first..<first + width { squares += Double(numbers[index]) * Double(numbers[index]) }
        let divisor = max(squares.squareRoot(), epsilon)
        for index in first..<first + width { result[index] = Float(Double(numbers[index]) / divisor) }
      }
      initialized = numbers.count
    }
  }
}
