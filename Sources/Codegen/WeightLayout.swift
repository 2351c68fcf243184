import TensorIR
import TileIR

/// Where each weight and table of a program lies in the artifact's weights segment.
public struct WeightLayout: Hashable, Sendable {
  public struct Entry: Hashable, Sendable {
    public var buffer: BufferID
    /// Bytes from the segment's start: a multiple of `alignment`.
    public var offset: Int
    public var byteCount: Int
  }

  /// Every weight begins on a cache line.
  public static let alignment = 64

  public var entries: [Entry] = []
  public var byteCount = 0

  public init(_ program: Program) {
    for index in program.buffers.indices {
      let id = BufferID(index: index)
      let buffer = program[id]
      let count: Int
      switch buffer.home {
      case .weight(_, let packing):
        count = packing.storedCount(rows: buffer.rows.dimension.extent ?? 0, columns: buffer.columns)
      case .table(let numbers): count = numbers.count
      case .input, .output, .workspace: continue
      }
      let offset = (byteCount + Self.alignment - 1) / Self.alignment * Self.alignment
      let bytes = count * buffer.element.byteCount
      entries.append(Entry(buffer: id, offset: offset, byteCount: bytes))
      byteCount = offset + bytes
    }
  }

  public func offset(of buffer: BufferID) -> Int? { entries.first { $0.buffer == buffer }?.offset }
}
