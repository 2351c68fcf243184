import TensorIR

/// One tensor of a safetensors file.
public struct SafetensorsEntry: Hashable, Sendable {
  /// Unique in its file.
  public var name: String
  /// The type of its elements.
  public var dtype: SafetensorsType
  /// Extents, outermost first; none for a single number.
  public var shape: [Int]
  /// Where its bytes are, counted from the start of the file.
  public var range: Range<Int>
}

/// The element types of the format. A file may hold any of them; only those with an `element` can be used.
public enum SafetensorsType: String, Hashable, Sendable, CaseIterable {
  case f64 = "F64"
  case f32 = "F32"
  case f16 = "F16"
  case bf16 = "BF16"
  case i64 = "I64"
  case i32 = "I32"
  case u8 = "U8"
  case bool = "BOOL"
  case i16 = "I16"
  case i8 = "I8"
  case u16 = "U16"
  case u32 = "U32"
  case u64 = "U64"
  case f8e4m3 = "F8_E4M3"
  case f8e5m2 = "F8_E5M2"
  case f8e8m0 = "F8_E8M0"
  case f6e2m3 = "F6_E2M3"
  case f6e3m2 = "F6_E3M2"
  case f4 = "F4"
  case c64 = "C64"

  /// Bits of one element, 4 to 64.
  public var bitCount: Int {
    switch self {
    case .f64, .i64, .u64, .c64: 64
    case .f32, .i32, .u32: 32
    case .f16, .bf16, .i16, .u16: 16
    case .u8, .bool, .i8, .f8e4m3, .f8e5m2, .f8e8m0: 8
    case .f6e2m3, .f6e3m2: 6
    case .f4: 4
    }
  }

  /// The element type of tensors of this type; nil where they have no use here.
  public var element: ElementType? {
    switch self {
    case .f64: .f64
    case .f32: .f32
    case .f16: .f16
    case .bf16: .bf16
    case .f8e4m3: .f8e4m3
    case .i64: .i64
    case .i32: .i32
    case .i8: .i8
    case .u8: .u8
    case .bool: .bool
    default: nil
    }
  }

  /// What a file calls this element type.
  public init(_ element: ElementType) {
    switch element {
    case .f64: self = .f64
    case .f32: self = .f32
    case .f16: self = .f16
    case .bf16: self = .bf16
    case .f8e4m3: self = .f8e4m3
    case .i64: self = .i64
    case .i32: self = .i32
    case .i8: self = .i8
    case .u8: self = .u8
    case .bool: self = .bool
    }
  }
}

/// A safetensors file, its header checked as a whole when it is opened: types known, shapes without overflow, byte
/// ranges that follow one another without gap or overlap to the end of the file.
public struct SafetensorsFile: Sendable {
  /// The name that errors give to this file: its path.
  public let path: String
  /// In the order of their bytes.
  public let entries: [SafetensorsEntry]
  /// The pairs of `__metadata__`, in the order of the file.
  public let metadata: [(key: String, value: String)]
  private let storage: Storage
  private let indexByName: [String: Int]

  private enum Storage: Sendable {
    case mapped(MappedFile)
    case memory([UInt8])
  }

  /// Maps the file; its tensors' bytes are read when they are asked for.
  public init(path: String) throws(ModelError) {
    let file = try MappedFile(path: path)
    try self.init(header: SafetensorsHeader(bytes: file.bytes, file: path), path: path, storage: .mapped(file))
  }

  /// The same over bytes in memory. `name` stands for a path in errors.
  public init(bytes: [UInt8], name: String) throws(ModelError) {
    let header = bytes.withUnsafeBytes { bytes in
      Result { () throws(ModelError) in try SafetensorsHeader(bytes: bytes, file: name) }
    }
    try self.init(header: header.get(), path: name, storage: .memory(bytes))
  }

  private init(header: SafetensorsHeader, path: String, storage: Storage) {
    self.path = path
    self.entries = header.entries
    self.metadata = header.metadata
    self.storage = storage
    self.indexByName = Dictionary(uniqueKeysWithValues: header.entries.enumerated().map { ($1.name, $0) })
  }

  /// The names of all tensors, sorted.
  public var names: [String] { entries.map(\.name).sorted() }

  /// The tensor of this name; nil where the file has none.
  public func entry(named name: String) -> SafetensorsEntry? {
    indexByName[name].map { entries[$0] }
  }

  /// Bytes of the whole file, header included.
  public var byteCount: Int {
    switch storage {
    case .mapped(let file): file.bytes.count
    case .memory(let bytes): bytes.count
    }
  }

  /// Some bytes of the file, which it must have, valid during `body` only.
  public func withFileBytes<R>(_ range: Range<Int>, _ body: (UnsafeRawBufferPointer) throws -> R) rethrows -> R {
    try withBytes(in: range, body)
  }

  /// The bytes of a tensor, valid during `body` only; their address has no alignment to rely on.
  /// Throws `missingTensor` where there is none of this name.
  public func withBytes<R>(
    of name: String, _ body: (SafetensorsEntry, UnsafeRawBufferPointer) throws -> R
  ) throws -> R {
    let entry = try requireEntry(name)
    return try withBytes(in: entry.range) { try body(entry, $0) }
  }

  /// The rows of a tensor as the file has them; nil where its type has no use here.
  func rows(of entry: SafetensorsEntry) -> WeightRows? {
    guard let element = entry.dtype.element else { return nil }
    let rowBytes = entry.shape.dropFirst().reduce(element.byteCount, *)
    return WeightRows(element, entry.shape) { rows, body in
      let start = entry.range.lowerBound
      try withBytes(in: start + rows.lowerBound * rowBytes..<start + rows.upperBound * rowBytes, body)
    }
  }

  private func withBytes<R>(in range: Range<Int>, _ body: (UnsafeRawBufferPointer) throws -> R) rethrows -> R {
    switch storage {
    case .mapped(let file):
      // Weights are read once or twice: what was read need not stay in memory beside what is read next.
      defer { file.release(range) }
      return try body(UnsafeRawBufferPointer(rebasing: file.bytes[range]))
    case .memory(let bytes):
      return try bytes.withUnsafeBytes { try body(UnsafeRawBufferPointer(rebasing: $0[range])) }
    }
  }

  /// A copy of a tensor. Throws `missingTensor`, or `unexpectedTensor` where its type has no use here.
  public func tensor(named name: String) throws(ModelError) -> HostTensor {
    let entry = try requireEntry(name)
    guard let element = entry.dtype.element else { throw unusable(entry) }
    let bytes = withBytes(in: entry.range) { [UInt8]($0) }
    do throws(OperationError) {
      return try HostTensor(element: element, shape: entry.shape, bytes: bytes)
    } catch {
      throw ModelError(.unexpectedTensor, file: path, place: "tensor \(quoted(name))", error.message)
    }
  }

  private func requireEntry(_ name: String) throws(ModelError) -> SafetensorsEntry {
    if let entry = entry(named: name) { return entry }
    throw ModelError(
      .missingTensor, file: path, place: "tensor \(quoted(name))", "there is no tensor of this name",
      hint: nearest(to: name, in: names).map { "did you mean \(quoted($0))?" })
  }

  func unusable(_ entry: SafetensorsEntry) -> ModelError {
    let usable = SafetensorsType.allCases.filter { $0.element != nil }.map(\.rawValue)
    return ModelError(
      .unexpectedTensor, file: path, place: "tensor \(quoted(entry.name))",
      "elements of type \(entry.dtype.rawValue) cannot be used, expected \(alternatives(usable))")
  }
}
