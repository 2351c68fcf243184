import Artifact

/// A made-up batch that an entry accepts: sequences of given lengths, ids within their tables, ascending times. It is
/// the same for the same seed. Offsets of features of a sequence cut one row each.
public struct SyntheticBatch: Sendable {
  /// Rows of each sequence.
  public var lengths: [Int]
  /// Targets at the end of each sequence, where an entry asks for their counts; at most its length.
  public var targets: Int
  /// What the made-up numbers follow from.
  public var seed: UInt64

  /// Sequences of these lengths, each with the last `targets` rows as targets.
  public init(lengths: [Int], targets: Int = 1, seed: UInt64 = 1) {
    self.lengths = lengths
    self.targets = targets
    self.seed = seed
  }

  /// Values for all inputs of an entry. A dimension is the number of rows or of sequences by the entry's offsets; any
  /// other is told in `dimensions`. What the entry takes of histories that are kept is no made-up number: `kept` holds what
  /// `prefill` took and gave for as many sequences, by name, and times of new rows follow theirs.
  public func inputs(
    for entry: Manifest.Entry, dimensions: [String: Int] = [:], kept: [String: Tensor] = [:]
  ) throws(RuntimeError) -> [String: Tensor] {
    guard lengths.allSatisfy({ $0 >= 0 && $0 <= 1 << 40 }), lengths.count <= 1 << 40 else {
      throw RuntimeError(.invalidInput, "lengths \(lengths.prefix(8)): expected 0 to \(1 << 40)")
    }
    var inputs: [String: Tensor] = [:]
    for port in entry.inputs {
      guard let name = port.keeps else { continue }
      guard let tensor = kept[name] else {
        throw RuntimeError(
          .invalidInput, "\(port.name): \"\(entry.name)\" takes rows that are kept, but \"\(name)\" is not given")
      }
      inputs[port.name] = tensor
    }
    var extents = dimensions
    for port in entry.inputs where port.keeps == nil {
      guard case .offsets(let sequences, let rows) = port.type else { continue }
      if case .symbol(let name) = sequences { extents[name] = lengths.count }
      if case .symbol(let name) = rows { extents[name] = rowCounts(of: port).reduce(0, +) }
    }
    let earlier = kept["offsets"].flatMap { try? $0.values(as: Int64.self).last } ?? 0
    var generator = Generator(state: seed)
    for port in entry.inputs where port.keeps == nil {
      inputs[port.name] = try tensor(for: port, extents, after: Int(clamping: earlier), &generator)
    }
    return inputs
  }

  /// The rows of each sequence, as an offsets input cuts them.
  private func rowCounts(of port: Manifest.Port) -> [Int] {
    port.role == .featureOffsets ? lengths.map { _ in 1 } : lengths
  }

  private func tensor(
    for port: Manifest.Port, _ extents: [String: Int], after earlier: Int, _ generator: inout Generator
  ) throws(RuntimeError) -> Tensor {
    guard case .tensor(let element, let declared) = port.type else {
      var offsets: [Int64] = [0]
      for length in rowCounts(of: port) { offsets.append((offsets.last ?? 0) + Int64(length)) }
      return try Tensor(offsets)
    }
    var shape: [Int] = []
    for dimension in declared {
      switch dimension {
      case .fixed(let extent): shape.append(extent)
      case .symbol(let name):
        guard let extent = extents[name] else {
          throw RuntimeError(.invalidInput, "\(port.name): the extent of \(name) is not known; it must be given")
        }
        shape.append(extent)
      }
    }
    guard let byteCount = Tensor.byteCount(element, shape) else {
      throw RuntimeError(.invalidInput, "\(port.name): a batch of shape \(shape) is too large")
    }
    let count = byteCount / element.byteCount
    switch element {
    case .f32: return try Tensor((0..<count).map { _ in Float(generator.symmetric()) }, shape: shape)
    case .f64: return try Tensor((0..<count).map { _ in generator.symmetric() }, shape: shape)
    case .i64:
      return try Tensor(integers(port.role, count, after: earlier, &generator).map { Int64($0) }, shape: shape)
    case .i32:
      return try Tensor(
        integers(port.role, count, after: earlier, &generator).map { Int32(clamping: $0) }, shape: shape)
    case .bf16:
      let values = (0..<count).map { _ in UInt16(truncatingIfNeeded: Float(generator.symmetric()).bitPattern >> 16) }
      return try Tensor(element: element, shape: shape, bytes: values.withUnsafeBytes { Array($0) })
    case .f16, .f8e4m3, .i8, .u8, .bool:
      // Zero is a value of each of these, and no benchmark depends on more.
      return try Tensor(element: element, shape: shape, bytes: [UInt8](repeating: 0, count: byteCount))
    }
  }

  private func integers(
    _ role: Manifest.Role?, _ count: Int, after earlier: Int, _ generator: inout Generator
  ) -> [Int] {
    switch role {
    case .ids(let below): (0..<count).map { _ in Int(generator.next() % UInt64(max(1, below))) }
    case .targetCounts: (0..<count).map { $0 < lengths.count ? min(targets, lengths[$0]) : 0 }
    case .timestamps: (0..<count).map { 1_700_000_000 &+ 600 &* ($0 &+ earlier) }
    case .featureOffsets, nil: [Int](repeating: 0, count: count)
    }
  }

  /// SplitMix64, a published generator: a few lines, and equal everywhere.
  private struct Generator {
    var state: UInt64

    mutating func next() -> UInt64 {
      state &+= 0x9E37_79B9_7F4A_7C15
      var value = state
      value = (value ^ (value >> 30)) &* 0xBF58_476D_1CE4_E5B9
      value = (value ^ (value >> 27)) &* 0x94D0_49BB_1331_11EB
      return value ^ (value >> 31)
    }

    /// Between -1 and 1.
    mutating func symmetric() -> Double { Double(next() >> 11) * 0x1p-52 - 1 }
  }
}
