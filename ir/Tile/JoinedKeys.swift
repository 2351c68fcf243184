// Keys that lie in two places: rows that are kept, and those that were put behind them.

/// Columns of a buffer, from `column + part * columnsPerPart` on.
public struct BufferColumns: Hashable, Sendable {
  /// The buffer that they are columns of.
  public var buffer: BufferID
  /// The first one for part 0.
  public var column: Int
  /// How far they move from one part to the next.
  public var columnsPerPart: Int
  /// Of codes, the scale of each row: what the numbers are that `code * scale` gives, rounded to the tile's element. Nil where the buffer
  /// holds the numbers.
  public var scales: BufferID?

  /// Columns of `buffer` from `column + part * columnsPerPart` on.
  public init(_ buffer: BufferID, column: Int, columnsPerPart: Int, scales: BufferID? = nil) {
    self.buffer = buffer
    self.column = column
    self.columnsPerPart = columnsPerPart
    self.scales = scales
  }
}

extension Tile {
  /// The buffers whose rows the tile is; none where it lies in scratch.
  public var buffers: [BufferID] {
    switch home {
    case .window(let buffer, _, _): [buffer]
    case .joined(let kept, let own): [kept.buffer, own.buffer] + [kept.scales, own.scales].compactMap(\.self)
    case .scratch, .columns: []
    }
  }
}

extension Kernel {
  /// The tiles whose keys lie in two places.
  public var joinedTiles: [TileID] {
    tiles.indices.filter { if case .joined = tiles[$0].home { true } else { false } }.map { TileID(index: $0) }
  }

  /// Whether a turn of keys loops over parts: keys that are brought together are then those of all parts, else of the part at hand.
  public var turnsHaveAllParts: Bool {
    statements.contains { statement in
      guard case .forKeys(_, _, let body) = statement else { return false }
      return body.contains { if case .forParts = $0 { true } else { false } }
    }
  }

  /// Of a tile whose keys lie in two places, how many columns a turn's keys have where they are brought together; 0 for others.
  public func joinedColumns(of tile: Tile) -> Int {
    guard case .joined(_, let own) = tile.home else { return 0 }
    return turnsHaveAllParts ? own.columnsPerPart * (parts - 1) + tile.columns : tile.columns
  }
}
