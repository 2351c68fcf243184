import TensorIR
import TileIR

/// Where each weight and table of a program lies in the artifact's weights segment.
public struct WeightLayout: Hashable, Sendable {
  /// One weight or table in the segment.
  public struct Entry: Hashable, Sendable {
    /// The buffer whose numbers these are.
    public var buffer: BufferID
    /// Bytes from the segment's start: a multiple of `alignment`.
    public var offset: Int
    /// Bytes that it takes, padding after it not counted.
    public var byteCount: Int
  }

  /// Every weight begins on a cache line.
  public static let alignment = 64

  /// Ascending by offset, in the order of the program's buffers.
  public var entries: [Entry] = []
  /// Bytes of the whole segment.
  public var byteCount = 0

  /// The layout of the program's weights and tables, each packed as its buffer says.
  public init(_ program: Program) {
    for index in program.buffers.indices {
      let id = BufferID(index: index)
      let buffer = program[id]
      let bytes: Int
      switch buffer.home {
      case .weight(_, let packing):
        bytes = packing.byteCount(
          rows: buffer.rows.dimension.extent ?? 0, columns: buffer.columns, buffer.element)
      case .table(let numbers): bytes = numbers.count * buffer.element.byteCount
      case .input, .output, .workspace: continue
      }
      let offset = (byteCount + Self.alignment - 1) / Self.alignment * Self.alignment
      entries.append(Entry(buffer: id, offset: offset, byteCount: bytes))
      byteCount = offset + bytes
    }
  }

  /// Bytes from the segment's start to the buffer's first; nil where it is neither weight nor table.
  public func offset(of buffer: BufferID) -> Int? { entries.first { $0.buffer == buffer }?.offset }
}
