import TensorIR
import TileIR

/// Where each weight and table of an artifact's programs lies in its weights segment. What several programs read in one
/// form lies there once.
public struct WeightLayout: Hashable, Sendable {
  /// One weight or table in the segment.
  public struct Entry: Hashable, Sendable {
    /// The buffer whose numbers these are, of the first program that has them.
    public var buffer: Buffer
    /// Bytes from the segment's start: a multiple of `alignment`.
    public var offset: Int
    /// Bytes that it takes, padding after it not counted.
    public var byteCount: Int
    /// What it is called: the weight's name, followed by the packing where it is not row-major, and by a number where another
    /// one is called so.
    public var name: String
  }

  /// Every weight begins on a cache line.
  public static let alignment = 64

  /// Ascending by offset, in the order of the programs and their buffers.
  public var entries: [Entry] = []
  /// Bytes of the whole segment.
  public var byteCount = 0
  private var offsets: [Numbers: Int] = [:]

  /// What tells numbers of weights apart: two buffers of the same are one.
  private struct Numbers: Hashable {
    var home: Buffer.Home
    var element: ElementType
    var rows: Extent
    var columns: Int

    init(_ buffer: Buffer) {
      (home, element, rows, columns) = (buffer.home, buffer.element, buffer.rows, buffer.columns)
    }
  }

  /// The layout of the programs' weights and tables, each packed as its buffer says.
  public init(_ programs: [Program]) {
    var names: Set<String> = []
    for buffer in programs.flatMap(\.buffers) where offsets[Numbers(buffer)] == nil {
      let bytes: Int
      switch buffer.home {
      case .weight(_, let packing):
        bytes = packing.byteCount(
          rows: buffer.rows.dimension.extent ?? 0, columns: buffer.columns, buffer.element)
      case .table(let numbers): bytes = numbers.count * buffer.element.byteCount
      case .input, .output, .workspace: continue
      }
      let offset = (byteCount + Self.alignment - 1) / Self.alignment * Self.alignment
      var name = buffer.name
      if case .weight(let weight, let packing) = buffer.home, packing != .plain { name = "\(weight) (\(packing.name))" }
      var unique = name
      var number = 1
      while !names.insert(unique).inserted {
        unique = "\(name) \(number)"
        number += 1
      }
      entries.append(Entry(buffer: buffer, offset: offset, byteCount: bytes, name: unique))
      offsets[Numbers(buffer)] = offset
      byteCount = offset + bytes
    }
  }

  /// Bytes from the segment's start to the buffer's first; nil where it is neither weight nor table.
  public func offset(of buffer: Buffer) -> Int? { offsets[Numbers(buffer)] }
}

extension Packing {
  /// Its name in a manifest.
  public var name: String {
    switch self {
    case .plain: "plain"
    case .coded(let format): "\(format.rawValue) rows"
    case .codedPanels(let format, let width): "panels of \(width) \(format.rawValue) rows"
    case .reversed: "reversed"
    case .fragments(let transposed, let isFNUZ):
      "\(isFNUZ ? "fnuz " : "")fragments\(transposed ? ", transposed" : "")"
    case .matrices(let transposed): "matrices\(transposed ? ", transposed" : "")"
    case .panels(let width, let transposed): "panels of \(width)\(transposed ? ", transposed" : "")"
    }
  }
}
