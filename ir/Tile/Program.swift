import TensorIR

public struct BufferID: Hashable, Sendable {
  public let index: Int
  public init(index: Int) { self.index = index }
}

public struct TileID: Hashable, Sendable {
  public let index: Int
  public init(index: Int) { self.index = index }
}

public struct IndexVectorID: Hashable, Sendable {
  public let index: Int
  public init(index: Int) { self.index = index }
}

public struct ScalarID: Hashable, Sendable {
  public let index: Int
  public init(index: Int) { self.index = index }
}

/// How a model is computed: buffers in memory, then setup steps, then kernels, one after the other.
///
/// Everything static is a plain number (widths, tile heights, strides); only extents of the batch are symbols. A
/// program knows loops and tiles, nothing of the model it came from.
public struct Program: Sendable {
  public var name: String
  /// Extents that the caller gives, in the order of the ABI.
  public var dimensions: [String]
  /// Extents that setup steps define, each at most another one: enough to size memory before they are known.
  public var derivedDimensions: [DerivedDimension] = []
  public var buffers: [Buffer] = []
  public var scalars: [Scalar] = []
  public var setup: [SetupStep] = []
  public var kernels: [Kernel] = []
  private var globalNames: Set<String> = []

  public init(name: String, dimensions: [String]) {
    self.name = name
    self.dimensions = dimensions
  }

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

public struct DerivedDimension: Hashable, Sendable {
  public var name: String
  public var atMost: Dimension

  public init(name: String, atMost: Dimension) {
    self.name = name
    self.atMost = atMost
  }
}

/// A number of rows: an extent, plus one for offsets.
public struct Extent: Hashable, Sendable {
  public var dimension: Dimension
  public var plus: Int

  public init(_ dimension: Dimension, plus: Int = 0) {
    self.dimension = dimension
    self.plus = plus
  }
}

/// A matrix in memory, rows of `columns` elements without gaps.
public struct Buffer: Hashable, Sendable {
  public enum Home: Hashable, Sendable {
    case input(Int)
    case output(Int)
    /// A weight of the module, stored in the artifact as `packing` says.
    case weight(String, Packing)
    /// Numbers that the compiler computed.
    case table([Float])
    /// Caller's memory that lasts for one call. Buffers of equal slots share memory: they are never alive at once.
    case workspace(slot: Int)
  }

  public var name: String
  public var element: ElementType
  public var rows: Extent
  public var columns: Int
  public var home: Home

  public init(name: String, element: ElementType, rows: Extent, columns: Int, home: Home) {
    self.name = name
    self.element = element
    self.rows = rows
    self.columns = columns
    self.home = home
  }
}

/// How a weight lies in the artifact.
public enum Packing: Hashable, Sendable {
  /// Row-major.
  case plain
  /// A vector back to front.
  case reversed
  /// A matrix [k, n] as [ceil(n / width)][k][width], zeros past n: what a contraction streams through. `transposed`
  /// where the weight is stored [n, k].
  case panels(width: Int, transposed: Bool)

  /// Elements stored for a weight of this shape.
  public func storedCount(rows: Int, columns: Int) -> Int {
    switch self {
    case .plain, .reversed: rows * columns
    case .panels(let width, let transposed):
      (((transposed ? rows : columns) + width - 1) / width) * width * (transposed ? columns : rows)
    }
  }
}

/// A number computed once a call from the batch's shape, in fp32.
public struct Scalar: Hashable, Sendable {
  public enum Formula: Hashable, Sendable {
    /// 1 / the longest sequence (1 where the batch has no rows).
    case reciprocalOfLongestSequence(offsets: BufferID)
    /// 1 / (longest history + most targets), contextual rows counted within the history.
    case reciprocalOfLongestHistoryPlusTargets(offsets: BufferID, targets: BufferID?)
  }

  public var name: String
  public var formula: Formula

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
  /// `table[s]` = row blocks of `block` rows of all sequences before s; `table[sequences]` = all of them.
  case blockTable(offsets: BufferID, block: Int, into: BufferID)
}

/// Code over blocks of rows; blocks run in any order, in parallel.
public struct Kernel: Hashable, Sendable {
  public var name: String
  public var domain: Domain
  public var tiles: [Tile] = []
  public var indexVectors: [String] = []
  public var body: [Statement] = []
  private var localNames: Set<String> = []

  public init(name: String, domain: Domain) {
    self.name = name
    self.domain = domain
  }

  public subscript(id: TileID) -> Tile { tiles[id.index] }

  /// Appends a tile; its name is made unique among the kernel's tiles and vectors of indices.
  public mutating func addTile(_ tile: Tile) -> TileID {
    tiles.append(tile)
    tiles[tiles.count - 1].name = uniqueName(tile.name, among: &localNames)
    return TileID(index: tiles.count - 1)
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

/// What a kernel's blocks cover.
public enum Domain: Hashable, Sendable {
  /// Blocks of `block` rows of an extent, across sequences; the last one is short.
  case rows(Dimension, block: Int)
  /// Blocks of `block` rows that end with their sequence, each `parts` times (heads). `table` is a `blockTable` of the
  /// same offsets and block.
  case sequences(offsets: BufferID, targets: BufferID?, table: BufferID, block: Int, parts: Int)

  public var block: Int {
    switch self {
    case .rows(_, let block), .sequences(_, _, _, let block, _): block
    }
  }
}

/// A matrix of fp32 that a block works on.
public struct Tile: Hashable, Sendable {
  public enum Rows: Hashable, Sendable {
    /// The rows of the block.
    case block
    /// The keys of the current turn of `forKeys`, at most its step.
    case keys
    case fixed(Int)
  }

  public enum Home: Hashable, Sendable {
    /// Memory of the worker, `rowStride` elements a row; its capacity in rows is given.
    case scratch(capacity: Int, rowStride: Int)
    /// Rows of a buffer, from `column + part * columnsPerPart` on.
    case window(BufferID, column: Int, columnsPerPart: Int)
  }

  public var name: String
  public var rows: Rows
  public var columns: Int
  public var home: Home

  public init(name: String, rows: Rows, columns: Int, home: Home) {
    self.name = name
    self.rows = rows
    self.columns = columns
    self.home = home
  }
}

/// Columns `first ..< first + count` of a tile.
public struct TileSlice: Hashable, Sendable {
  public var tile: TileID
  public var first: Int
  public var count: Int

  public init(_ tile: TileID, first: Int, count: Int) {
    self.tile = tile
    self.first = first
    self.count = count
  }
}

extension Program {
  /// The dimension given by the caller that bounds a derived one; its own name for one that is given.
  public func givenBound(of name: String) -> String {
    var bound = name
    while let derived = derivedDimensions.first(where: { $0.name == bound }), case .symbol(let next) = derived.atMost {
      bound = next
    }
    return bound
  }
}
