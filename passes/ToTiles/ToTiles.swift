import TensorIR
import TileIR

/// Sizes of blocks, the same for every code level of an artifact.
public struct TileSchedule: Hashable, Sendable {
  /// Rows of a block of row-wise work, at most; fewer where a block's tiles would leave the second-level cache.
  public var rows = 64
  /// How many times as many rows a block has that only adds rows of tables up: its first rows of large tables are not
  /// asked for in time, and it needs no tiles.
  public var tableBlocks = 4
  /// Rows of a block of attention, at most: a multiple of `panel`. Keys and values are read once a block, so the higher
  /// it is, the fewer bytes a long history moves.
  public var attentionRows = 128
  /// Rows of a block of attention where sequences are short, and below how many rows they are: there keys and values
  /// stay in cache, and several threads want more blocks.
  public var shortAttention = BlockHeight.Short(rows: 64, below: 1024)
  /// Keys of a turn of attention.
  public var keys = 128
  /// Whether attention decodes kept keys and values that are codes, a turn at a time; otherwise all are decoded before.
  public var decodesKeysInPlace = true
  /// Whether one block computes all heads of attention with a time bias, which costs more than a head's products; otherwise each head is
  /// a block of its own there too.
  public var sharesTimeBias = true
  /// Columns of a packed weight's panel.
  public var panel = 32
  /// Whether weights of bf16, and codes, lie as the matrix instructions of a GPU take them.
  public var hasFragments = false
  /// Whether they lie as the instructions of four warps take them, where whole panels and steps of such are there.
  public var hasMatrices = false
  /// Whether codes of f8e4m3 in fragments are of half of each number in the form of AMD's matrix instructions.
  public var hasFNUZ = false
  /// Columns of a turn of items that queries are ranked against: whole panels.
  public var itemColumns = 256
  /// Items that one part of a ranking has at least.
  public var itemsOfPart = 16 << 10
  /// Parts that the items of a ranking have at most, so that a few queries keep as many threads busy.
  public var mostItemParts = 16
  /// Groups of integers that one block sorts.
  public var groups = 4
  /// Bytes that the tiles of a block may take.
  public var scratchBytes = 640 << 10
  /// Bytes that the tiles of a higher block of attention may take. Each is read once or twice a block, so it may be
  /// more than stays in the second-level cache.
  public var attentionScratchBytes = 1280 << 10

  /// The defaults given above, for processors.
  public init() {}

  /// Blocks for graphics processors: all of one height, and rows of tables as any others. What of a block is worked on at a time is
  /// for the code generator.
  public static let gpu: TileSchedule = {
    var schedule = TileSchedule()
    schedule.rows = 128
    schedule.tableBlocks = 1
    schedule.attentionRows = 128
    schedule.shortAttention = BlockHeight.Short(rows: 128, below: 0)
    schedule.keys = 64
    schedule.decodesKeysInPlace = false
    schedule.sharesTimeBias = false
    schedule.hasFragments = true
    // Many parts keep a card busy with few queries.
    schedule.itemsOfPart = 512
    schedule.mostItemParts = 256
    schedule.groups = 1
    schedule.scratchBytes = 1 << 40
    schedule.attentionScratchBytes = schedule.scratchBytes
    return schedule
  }()
}

/// Why a function cannot be lowered.
public struct LoweringError: Error, Hashable, Sendable, CustomStringConvertible {
  /// What was found, and the operation or value that it is about.
  public var message: String
  /// The message after `to-tiles: `.
  public var description: String { "to-tiles: \(message)" }
}

/// Lowers a function to a tile program: the pass `to-tiles`.
///
/// Every region becomes one kernel, which works on a block of rows at a time and keeps in tiles what lies between its
/// operations; every operation outside of regions becomes a kernel of its own. Values that cross kernels live in
/// workspace, each in memory of its own: sharing it is for `planMemory`.
public func lowerToTiles(_ module: Module, function name: String, schedule: TileSchedule = TileSchedule())
  throws(LoweringError) -> Program
{
  guard let function = module.function(named: name) else {
    throw LoweringError(message: "no function is called @\(name)")
  }
  var lowering = TileLowering(module: module, function: function, schedule: schedule)
  try lowering.run()
  return lowering.program
}

/// Where a value is.
enum Place: Hashable {
  /// Columns `first ..< first + count` of a buffer's rows.
  case buffer(BufferID, first: Int, count: Int)
  /// A slice of a tile of the kernel at hand.
  case tile(TileSlice)
}

struct TileLowering {
  let module: Module
  let function: Function
  let schedule: TileSchedule
  var program: Program
  var places: [ValueID: Place] = [:]
  /// Concatenations that are never written down: their parts feed a contraction one after the other.
  var virtualConcatenations: [ValueID: [ValueID]] = [:]
  /// Rows that were put behind others, and are never brought together: attention reads both where they lie.
  var joinedRows: [ValueID: JoinedRows] = [:]
  /// The operations of which nothing is made for that.
  var operationsReadInPlace: Set<OperationID> = []
  /// What the parts of such a concatenation are converted to, one after the other too.
  var conversions: [ValueID: ElementType] = [:]
  /// Sums and the like of rows of tables, which the statement that reads them computes itself: no tile holds them.
  var inlined: [ValueID: Expression] = [:]
  var weightBuffers: [WeightKey: BufferID] = [:]
  var blockTables: [BlockTableKey: BufferID] = [:]
  var timeTables: [TimeTableKey: BufferID] = [:]
  var sortedGroups: [SortKey: BufferID] = [:]
  var kernel: Kernel
  /// Results that are written straight into an output buffer.
  var outputs: [ValueID: Place] = [:]
  /// Windows of the kernel at hand, so that equal ones are one tile.
  var windows: [Tile: TileID] = [:]
  var workspaceCount = 0
  /// The operations that read a value, in the order of the body.
  let readers: [ValueID: [OperationID]]

  struct WeightKey: Hashable {
    var weight: WeightID
    var packing: Packing
    var isVector: Bool
  }

  struct TimeTableKey: Hashable {
    var formula: TimeBuckets.Formula
    var last: Int
  }

  struct SortKey: Hashable {
    var ids: ValueID
    var offsets: ValueID
    var modulo: Int?
  }

  struct BlockTableKey: Hashable {
    var offsets: BufferID
    var block: BlockHeight
  }

  init(module: Module, function: Function, schedule: TileSchedule) {
    self.module = module
    self.function = function
    self.schedule = schedule
    var readers: [ValueID: [OperationID]] = [:]
    for id in function.body {
      for value in function[id].operands where readers[value]?.last != id { readers[value, default: []].append(id) }
    }
    self.readers = readers
    kernel = Kernel(name: "", domain: .rows(.fixed(0), block: schedule.rows))
    program = Program(name: function.name, dimensions: Self.dimensions(of: function))
  }

  /// The symbols of the arguments in order of appearance, `rows` before `sequences` where an `offsets` brings both.
  private static func dimensions(of function: Function) -> [String] {
    var names: [String] = []
    for argument in function.arguments {
      let dimensions: [Dimension]
      switch function[argument].type {
      case .tensor(let type): dimensions = type.shape
      case .offsets(let sequences, let rows): dimensions = [rows, sequences]
      }
      for case .symbol(let name) in dimensions where !names.contains(name) { names.append(name) }
    }
    return names
  }

  mutating func run() throws(LoweringError) {
    try placeArguments()
    try placeResults()
    try addChecks()
    joinedRows = function.joinedRows(decoding: schedule.decodesKeysInPlace)
    operationsReadInPlace = function.operationsReadInPlace(decoding: schedule.decodesKeysInPlace)
    for unit in function.units { try lower(unit.operations) }
    try copyResults()
  }

  // MARK: - Checks

  /// Checks of inputs that later code relies on, so that no input makes it read or write out of bounds.
  private mutating func addChecks() throws(LoweringError) {
    for argument in function.arguments {
      if case .offsets(_, let rows) = function[argument].type {
        program.setup.append(.checkOffsets(try buffer(of: argument), rows: rows))
      }
    }
    for argument in function.arguments { try checkTargets(ofSequencesOf: argument, except: nil) }
  }

  /// Checks the counts of targets that operations read with these offsets. Counts that the offsets were made by, `except`,
  /// were checked before.
  mutating func checkTargets(ofSequencesOf offsets: ValueID, except known: ValueID?) throws(LoweringError) {
    for id in function.body {
      guard let batch = function[id].batch, let targets = batch.targets, batch.offsets == offsets, targets != known,
        case .argument = function[targets].definition
      else { continue }
      let step = SetupStep.checkTargets(try buffer(of: targets), offsets: try buffer(of: offsets))
      if !program.setup.contains(step) { program.setup.append(step) }
    }
  }
}
