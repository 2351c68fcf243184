/// Where the tiles of a kernel lie in a worker's memory, beside vectors of indices and the key intervals of rows.
///
/// Tiles whose statements lie apart share memory. All that is named in a loop is alive throughout the loop: one turn may
/// read what the turn before wrote.
public struct ScratchLayout: Hashable, Sendable {
  /// Byte offsets of the kernel's tiles; windows have none, nor have columns of other tiles. Of a tile whose keys lie in two
  /// places, room for keys that one instruction takes together and that lie in both, or for a turn of decoded ones.
  public private(set) var tiles: [Int?] = []
  /// Byte offsets of the vectors of indices, 8 bytes a row.
  public private(set) var indexVectors: [Int] = []
  /// Byte offset of the key intervals: starts, then ends, of each interval, 4 bytes a row.
  public private(set) var intervals = 0
  /// Bytes that a worker needs.
  public private(set) var byteCount = 0

  /// Tiles, vectors and intervals begin on cache lines.
  public static let alignment = 64

  /// The layout of the kernel, which is verified.
  public init(_ kernel: Kernel) {
    func rounded(_ bytes: Int) -> Int { (bytes + Self.alignment - 1) / Self.alignment * Self.alignment }
    var fixed = 0
    for _ in kernel.indexVectors {
      indexVectors.append(fixed)
      fixed += rounded(kernel.domain.block * 8)
    }
    intervals = fixed
    fixed += rounded((kernel.mask?.intervals.count ?? 0) * 2 * kernel.domain.block * 4)

    let lifetimes = kernel.scratchLifetimes
    var requests: [MemoryRequest] = []
    var owners: [Int] = []
    for (index, tile) in kernel.tiles.enumerated() {
      guard let lifetime = lifetimes[index] else { continue }
      let (rows, rowStride): (Int, Int)
      switch tile.home {
      case .scratch(let capacity, let stride):
        (rows, rowStride) = (tile.isGrouped ? tile.element.paddedContraction(capacity) : capacity, stride)
      case .joined(let kept, _):
        rows = kept.scales == nil ? tile.element.contractedTogether : kernel.keyStep
        rowStride = kernel.joinedColumns(of: tile)
      case .window, .columns: continue
      }
      let size = rounded(rows * rowStride * tile.element.workingByteCount)
      requests.append(MemoryRequest(size: size, lifetime: lifetime))
      owners.append(index)
    }
    let packed = MemoryRequest.pack(requests)
    tiles = Array(repeating: nil, count: kernel.tiles.count)
    for (owner, offset) in zip(owners, packed.offsets) { tiles[owner] = fixed + offset }
    byteCount = fixed + packed.size
  }
}

extension Kernel {
  /// For each tile the first and the last statement of the body, loops counted as one, that names it or columns of it;
  /// nil where none does.
  fileprivate var scratchLifetimes: [ClosedRange<Int>?] {
    var lifetimes: [ClosedRange<Int>?] = Array(repeating: nil, count: tiles.count)
    for (index, statement) in body.enumerated() {
      for inner in statement.flattened {
        inner.forEachTile { tile in
          let owner = owner(of: tile).index
          lifetimes[owner] = (lifetimes[owner]?.lowerBound ?? index)...index
        }
      }
    }
    return lifetimes
  }
}

/// Memory that something needs for a while, counted in steps.
public struct MemoryRequest: Hashable, Sendable {
  /// How much, in any unit.
  public var size: Int
  /// The first and the last step at which it is in use.
  public var lifetime: ClosedRange<Int>

  /// A request of this size for these steps.
  public init(size: Int, lifetime: ClosedRange<Int>) {
    self.size = size
    self.lifetime = lifetime
  }

  /// Offsets at which no two requests that are alive at once overlap, and where the last one ends.
  ///
  /// The largest go first, each as low as it can: deterministic, and at most a little above the least possible.
  public static func pack(_ requests: [MemoryRequest]) -> (offsets: [Int], size: Int) {
    var offsets = Array(repeating: 0, count: requests.count)
    var placed: [Int] = []
    let order = requests.indices.sorted { (requests[$1].size, $0) < (requests[$0].size, $1) }
    for index in order {
      let request = requests[index]
      let others = placed.filter { requests[$0].lifetime.overlaps(request.lifetime) }
        .sorted { (offsets[$0], $0) < (offsets[$1], $1) }
      var offset = 0
      for other in others where offsets[other] < offset + request.size {
        offset = max(offset, offsets[other] + requests[other].size)
      }
      offsets[index] = offset
      placed.append(index)
    }
    return (offsets, requests.indices.map { offsets[$0] + requests[$0].size }.max() ?? 0)
  }
}
