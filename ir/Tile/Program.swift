import TensorIR

/// Names a buffer of a program.
public struct BufferID: Hashable, Sendable {
  /// Counted from 0 in `Program.buffers`.
  public let index: Int

  /// The buffer at this place; whether there is one is for the verifier to check.
  public init(index: Int) { self.index = index }
}

/// Names a tile of a kernel.
public struct TileID: Hashable, Sendable {
  /// Counted from 0 in `Kernel.tiles`.
  public let index: Int

  /// The tile at this place; whether there is one is for the verifier to check.
  public init(index: Int) { self.index = index }
}

/// Names a vector of a kernel that holds one index for each row of the block.
public struct IndexVectorID: Hashable, Sendable {
  /// Counted from 0 in `Kernel.indexVectors`.
  public let index: Int

  /// The vector at this place; whether there is one is for the verifier to check.
  public init(index: Int) { self.index = index }
}

/// Names a scalar of a program.
public struct ScalarID: Hashable, Sendable {
  /// Counted from 0 in `Program.scalars`.
  public let index: Int

  /// The scalar at this place; whether there is one is for the verifier to check.
  public init(index: Int) { self.index = index }
}

/// How a model is computed: buffers in memory, then setup steps, then kernels, one after the other.
///
/// Everything static is a plain number (widths, tile heights, strides); only extents of the batch are symbols. A
/// program knows loops and tiles, nothing of the model it came from.
public struct Program: Sendable {
  /// Its name in the text form: that of the function it was lowered from.
  public var name: String
  /// Extents that the caller gives, in the order of the ABI.
  public var dimensions: [String]
  /// Extents that setup steps define, each bounded by others: enough to size memory before they are known.
  public var derivedDimensions: [DerivedDimension] = []
  /// A `BufferID` counts them.
  public var buffers: [Buffer] = []
  /// A `ScalarID` counts them; computed after setup, before the kernels.
  public var scalars: [Scalar] = []
  /// In the order in which the steps run.
  public var setup: [SetupStep] = []
  /// In the order in which they run, each done before the next begins.
  public var kernels: [Kernel] = []
  private var globalNames: Set<String> = []

  /// A program without buffers and kernels; `dimensions` are the extents that the caller gives.
  public init(name: String, dimensions: [String]) {
    self.name = name
    self.dimensions = dimensions
  }

  /// The buffer of an identifier that this program gave out.
  public subscript(id: BufferID) -> Buffer {
    get { buffers[id.index] }
    set { buffers[id.index] = newValue }
  }

  /// Appends a buffer; its name is made unique among buffers and scalars.
  public mutating func addBuffer(_ buffer: Buffer) -> BufferID {
    buffers.append(buffer)
    buffers[buffers.count - 1].name = uniqueName(buffer.name, among: &globalNames)
    return BufferID(index: buffers.count - 1)
  }

  /// Appends a scalar; its name is made unique among buffers and scalars.
  public mutating func addScalar(_ scalar: Scalar) -> ScalarID {
    scalars.append(scalar)
    scalars[scalars.count - 1].name = uniqueName(scalar.name, among: &globalNames)
    return ScalarID(index: scalars.count - 1)
  }

  /// The buffers of inputs in argument order.
  public var inputs: [BufferID] { ordered { if case .input(let index) = $0 { index } else { nil } } }
  /// The buffers of outputs in result order.
  public var outputs: [BufferID] { ordered { if case .output(let index) = $0 { index } else { nil } } }

  private func ordered(_ position: (Buffer.Home) -> Int?) -> [BufferID] {
    buffers.indices.compactMap { index in position(buffers[index].home).map { ($0, BufferID(index: index)) } }
      .sorted { $0.0 < $1.0 }.map(\.1)
  }
}

/// A number of rows: an extent, plus one for offsets.
public struct Extent: Hashable, Sendable {
  /// The extent, fixed or of the batch.
  public var dimension: Dimension
  /// What is added to it: 1 for offsets, else 0.
  public var plus: Int

  /// The extent of `dimension` and `plus` more.
  public init(_ dimension: Dimension, plus: Int = 0) {
    self.dimension = dimension
    self.plus = plus
  }
}

/// A matrix in memory, rows of `columns` elements without gaps.
public struct Buffer: Hashable, Sendable {
  /// Where a buffer's numbers are and who gives them; inputs and outputs are numbered from 0 in the order of the ABI.
  public enum Home: Hashable, Sendable {
    case input(Int)
    case output(Int)
    /// A weight of the module, stored in the artifact as `packing` says.
    case weight(String, Packing)
    /// Numbers that the compiler computed.
    case table([Float])
    /// Caller's memory that lasts for one call. Buffers of equal slots share memory (`Program.canShareMemory`).
    case workspace(slot: Int)

    /// Whether it lasts for one call, and is not the caller's to read or write.
    public var isWorkspace: Bool { if case .workspace = self { true } else { false } }
  }

  /// Unique among buffers and scalars.
  public var name: String
  /// i64, or what tiles may hold: `ElementType.isTileElement`.
  public var element: ElementType
  /// How many rows it has.
  public var rows: Extent
  /// Elements of a row; 1 for integers of the caller.
  public var columns: Int
  /// Where its numbers are.
  public var home: Home

  /// A buffer as given; `Program.addBuffer` makes its name unique.
  public init(name: String, element: ElementType, rows: Extent, columns: Int, home: Home) {
    self.name = name
    self.element = element
    self.rows = rows
    self.columns = columns
    self.home = home
  }
}

extension Buffer {
  /// Whether its elements are codes of f8e4m3 that the caller gives or gets: bytes, not the bf16 numbers that they are elsewhere.
  public var holdsCallersCodes: Bool {
    switch home {
    case .input, .output: element == .f8e4m3
    case .weight, .table, .workspace: false
    }
  }

  /// Bytes of an element.
  public var elementByteCount: Int { holdsCallersCodes ? element.byteCount : element.workingByteCount }
}

/// A number computed once a call from the batch's shape, in fp32.
public struct Scalar: Hashable, Sendable {
  /// How a scalar follows from offsets and target counts.
  public enum Formula: Hashable, Sendable {
    /// 1 / the longest sequence (1 where the batch has no rows).
    case reciprocalOfLongestSequence(offsets: BufferID)
    /// 1 / (longest history + most targets), contextual rows counted within the history.
    case reciprocalOfLongestHistoryPlusTargets(offsets: BufferID, targets: BufferID?)
  }

  /// Unique among buffers and scalars.
  public var name: String
  /// What it is computed from.
  public var formula: Formula

  /// A scalar as given; `Program.addScalar` makes its name unique.
  public init(name: String, formula: Formula) {
    self.name = name
    self.formula = formula
  }
}

/// What happens before the kernels: inputs are checked, derived offsets and tables of blocks are made.
public enum SetupStep: Hashable, Sendable {
  /// Offsets start at 0, do not decrease, and end at the extent of `rows`.
  case checkOffsets(BufferID, rows: Dimension)
  /// Every count lies between 0 and its sequence's length.
  case checkTargets(BufferID, offsets: BufferID)
  /// Every id lies in 0..<`entries`.
  case checkIDs(BufferID, entries: Int)
  /// No sequence has more than `maximum` rows.
  case checkLengths(offsets: BufferID, maximum: Int)
  /// Offsets after a selection; their last entry defines the extent `defines`.
  case selectOffsets(RowSelection, offsets: BufferID, targets: BufferID?, into: BufferID, defines: String)
  /// Offsets after an addition of rows; their last entry defines the extent `defines`.
  case extendOffsets(RowAddition, offsets: BufferID, targets: BufferID?, into: BufferID, defines: String)
  /// How many rows each sequence has.
  case lengths(offsets: BufferID, into: BufferID)
  /// `table[s]` = blocks of all sequences before s; `table[sequences]` = all of them.
  case blockTable(offsets: BufferID, block: BlockHeight, into: BufferID)
}

/// Code over blocks of rows; blocks run in any order, in parallel.
public struct Kernel: Hashable, Sendable {
  /// Its name in the text form and, after its number, in compiled code.
  public var name: String
  /// What it computes, for people: "attention + layer_norm + linear".
  public var summary = ""
  /// What its blocks cover.
  public var domain: Domain
  /// In a kernel over sequences whose rows are a selection: all rows of the same sequences. Keys are then rows of them, and
  /// a row's place among keys (for mask and bias) is the one that it has there.
  public var keys: KeyRows?
  /// A `TileID` counts them.
  public var tiles: [Tile] = []
  /// Names of the vectors of indices; an `IndexVectorID` counts them.
  public var indexVectors: [String] = []
  /// What each block does, in order.
  public var body: [Statement] = []
  private var localNames: Set<String> = []

  /// A kernel without tiles and statements.
  public init(name: String, domain: Domain) {
    self.name = name
    self.domain = domain
  }

  /// The tile of an identifier that this kernel gave out.
  public subscript(id: TileID) -> Tile { tiles[id.index] }

  /// Appends a tile; its name is made unique among the kernel's tiles and vectors of indices.
  public mutating func addTile(_ tile: Tile) -> TileID {
    tiles.append(tile)
    tiles[tiles.count - 1].name = uniqueName(tile.name, among: &localNames)
    return TileID(index: tiles.count - 1)
  }

  /// Drops the tiles that no statement names, nor a tile that one names; the others get new identifiers.
  public mutating func removeUnusedTiles() {
    var used = Set<TileID>()
    for statement in statements { statement.forEachTile { used.formUnion([$0, owner(of: $0)]) } }
    var renamed: [TileID: TileID] = [:]
    let old = tiles
    tiles = []
    for (index, tile) in old.enumerated() where used.contains(TileID(index: index)) {
      renamed[TileID(index: index)] = TileID(index: tiles.count)
      tiles.append(tile)
    }
    for index in tiles.indices {
      guard case .columns(let base, let column, let columnsPerPart) = tiles[index].home else { continue }
      tiles[index].home = .columns(renamed[base] ?? base, column: column, columnsPerPart: columnsPerPart)
    }
    body = body.map { $0.renaming { renamed[$0] ?? $0 } }
    localNames = Set(tiles.map(\.name) + indexVectors)
  }

  /// The tile whose memory a tile has: itself, or the one that it is columns of.
  public func owner(of tile: TileID) -> TileID {
    if case .columns(let base, _, _) = self[tile].home { base } else { tile }
  }

  /// Appends a vector of one index for each row of the block; its name is made unique as a tile's is.
  public mutating func addIndexVector(_ name: String) -> IndexVectorID {
    indexVectors.append(uniqueName(name, among: &localNames))
    return IndexVectorID(index: indexVectors.count - 1)
  }
}

/// The name, or where it is taken already the name with the first number after a dot that makes it new.
private func uniqueName(_ name: String, among names: inout Set<String>) -> String {
  var unique = name
  var suffix = 1
  while !names.insert(unique).inserted {
    unique = "\(name).\(suffix)"
    suffix += 1
  }
  return unique
}

/// The rows that the keys of a kernel are chosen from, and which of them the kernel's own rows are.
public struct KeyRows: Hashable, Sendable {
  /// Which rows the kernel's own are: the selection that made its offsets.
  public var selection: RowSelection
  /// Offsets of all rows; the kernel's own offsets are their `selectOffsets`, with the kernel's targets, or those of the
  /// rows that were appended to others to make them.
  public var offsets: BufferID
  /// Whether the kernel's targets are further history: the mask then knows no targets.
  public var continuesHistory: Bool
  /// Where the kernel's own rows are those that were put behind others: the offsets of these, so that tiles of keys can be read where
  /// either lie (`Tile.Home.joined`). Nil where no tile is.
  public var kept: BufferID?

  /// The rows that `offsets` cut, of which the kernel's own are chosen by `selection`.
  public init(
    _ selection: RowSelection, of offsets: BufferID, continuesHistory: Bool = false, kept: BufferID? = nil
  ) {
    self.selection = selection
    self.offsets = offsets
    self.continuesHistory = continuesHistory
    self.kept = kept
  }
}

/// What a kernel's blocks cover.
public enum Domain: Hashable, Sendable {
  /// Blocks of `block` rows of an extent, across sequences, the last one short; each `parts` times.
  case rows(Dimension, block: Int, parts: Int = 1)
  /// Blocks of rows that end with their sequence, each `parts` times (heads). `table` is a `blockTable` of the same
  /// offsets and block.
  case sequences(offsets: BufferID, targets: BufferID?, table: BufferID, block: BlockHeight, parts: Int)

  /// Rows of a block, at most.
  public var block: Int {
    switch self {
    case .rows(_, let block, _): block
    case .sequences(_, _, _, let block, _): block.most
    }
  }

  /// How often each block runs.
  public var parts: Int {
    switch self {
    case .rows(_, _, let parts), .sequences(_, _, _, _, let parts): parts
    }
  }
}

/// How many rows a block of a sequence has. It follows from the sequence's own length alone, so that a result does not
/// depend on who shares the batch.
public struct BlockHeight: Hashable, Sendable {
  /// Lower blocks of short sequences, which then have enough of them for several threads.
  public struct Short: Hashable, Sendable {
    /// Rows of such a block: fewer than of the others.
    public var rows: Int
    /// Sequences of fewer rows than this have such blocks.
    public var below: Int

    /// Blocks of `rows` rows in sequences of fewer than `below`.
    public init(rows: Int, below: Int) {
      self.rows = rows
      self.below = below
    }
  }

  /// Rows of a block, at most.
  public var most: Int
  /// The blocks of short sequences; nil where all are alike.
  public var short: Short?

  /// Blocks of `most` rows.
  public init(_ most: Int, short: Short? = nil) {
    self.most = most
    self.short = short
  }

  /// Rows of the blocks of a sequence of `length` rows, but for its last one.
  public func rows(ofSequence length: Int) -> Int {
    guard let short, length < short.below else { return most }
    return short.rows
  }
}

/// A matrix that a block works on. Reading an element gives its fp32 value exactly, writing rounds to the nearest that
/// the element can be, halves to the even one.
public struct Tile: Hashable, Sendable {
  /// How many rows a tile has.
  public enum Rows: Hashable, Sendable {
    /// The rows of the block.
    case block
    /// The keys of the current turn of `forKeys`, at most its step.
    case keys
    case fixed(Int)
  }

  /// Where a tile's numbers are.
  public enum Home: Hashable, Sendable {
    /// Memory of the worker, `rowStride` elements a row; its capacity in rows is given.
    case scratch(capacity: Int, rowStride: Int)
    /// Rows of a buffer, from `column + part * columnsPerPart` on.
    case window(BufferID, column: Int, columnsPerPart: Int)
    /// Of a tile of keys: the rows that the kernel's own were put behind (`KeyRows.kept`), then these, each where they lie.
    case joined(kept: BufferColumns, own: BufferColumns)
    /// Columns of a tile in scratch with the same rows, from `column + part * columnsPerPart` on.
    case columns(TileID, column: Int, columnsPerPart: Int)
  }

  /// Unique among the kernel's tiles and vectors of indices.
  public var name: String
  /// How many rows it has.
  public var rows: Rows
  /// Elements of a row.
  public var columns: Int
  /// Where its numbers are.
  public var home: Home
  /// What they are stored as: in a window, as in its buffer.
  public var element: ElementType
  /// Whether rows lie in groups, as the contracted rows of products do: row r and column c at
  /// [r / g][c][r % g], `g` the element's `contractedTogether`. In scratch only; zeros fill the last group.
  public var isGrouped: Bool

  /// A tile as given; `Kernel.addTile` makes its name unique.
  public init(
    name: String, rows: Rows, columns: Int, home: Home, element: ElementType = .f32, isGrouped: Bool = false
  ) {
    self.name = name
    self.rows = rows
    self.columns = columns
    self.home = home
    self.element = element
    self.isGrouped = isGrouped
  }
}

/// Columns `first ..< first + count` of a tile.
public struct TileSlice: Hashable, Sendable {
  /// The tile that it is cut from.
  public var tile: TileID
  /// The first column, counted from 0.
  public var first: Int
  /// How many columns.
  public var count: Int

  /// Columns `first ..< first + count` of `tile`.
  public init(_ tile: TileID, first: Int, count: Int) {
    self.tile = tile
    self.first = first
    self.count = count
  }
}
