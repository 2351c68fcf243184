import LLVMKit
import TensorIR
import TileIR

/// What the code of one level of one program shares: the module it goes into, the frame, and functions made on demand.
///
/// A call's frame lies at the start of the workspace: one 8-byte slot for each buffer's address, each extent and each
/// scalar, and the address of the workers' scratch memory.
final class LevelEmitter {
  let context: Context
  let module: IRModule
  let program: Program
  let level: CPULevel
  /// Put before the names of functions, so that levels and programs share a module.
  let prefix: String
  let extents: [String]
  let frameByteCount: Int
  let scratch: WorkerMemory
  /// The tile registers, where the level has them and the program's products take them.
  let tiles: TileUnit?
  private var contractions: [ContractionShape: IRFunction] = [:]
  private var transpositions: [TranspositionShape: IRFunction] = [:]
  private var groupings: [GroupingShape: IRFunction] = [:]
  private var keptDecodings: [DecodingShape: IRFunction] = [:]
  private var decoding: IRFunction?
  private var rowPanelDecodings: [TableFormat: IRFunction] = [:]
  private var lists: (collecting: IRFunction?, insertion: IRFunction?, sorting: IRFunction?)
  private var microKernels: [RegisterTile: IRFunction] = [:]

  init(
    context: Context, module: IRModule, program: Program, level: CPULevel, tiles instructions: any TileInstructions,
    prefix: String? = nil
  ) {
    self.context = context
    self.module = module
    self.program = program
    self.level = level
    self.prefix = prefix ?? "\(program.name).\(level.rawValue)"
    extents = program.dimensions + program.derivedDimensions.map(\.name)
    let slots = program.buffers.count + extents.count + program.scalars.count + 1
    frameByteCount = (slots * 8 + 63) / 64 * 64
    tiles = level.hasTiles ? TileUnit(instructions, program, module) : nil
    scratch = WorkerMemory(program, tileByteCount: tiles?.memory.byteCount ?? 0)
  }

  // MARK: - Frame

  func slot(of buffer: BufferID) -> Int { buffer.index * 8 }

  func slot(ofExtent name: String) -> Int {
    // The verifier has seen every symbol declared; an unknown one would be a slot past the extents, which is never read.
    (program.buffers.count + (extents.firstIndex(of: name) ?? extents.count)) * 8
  }

  func slot(of scalar: ScalarID) -> Int { (program.buffers.count + extents.count + scalar.index) * 8 }

  var scratchSlot: Int { (program.buffers.count + extents.count + program.scalars.count) * 8 }

  /// The rows of an extent, as i64, read from the frame.
  func rows(_ b: IRBuilder, _ extent: Extent, frame: IRValue) -> IRValue {
    let base: IRValue
    switch extent.dimension {
    case .fixed(let count): base = context.i64.constant(count)
    case .symbol(let name): base = b.load(context.i64, b.offset(frame, bytes: slot(ofExtent: name)))
    }
    return extent.plus == 0 ? base : b.add(base, extent.plus)
  }

  func address(_ b: IRBuilder, _ buffer: BufferID, frame: IRValue) -> IRValue {
    b.load(context.pointer, b.offset(frame, bytes: slot(of: buffer)))
  }

  // MARK: - Functions

  func addFunction(_ name: String, _ parameters: [IRType], returns result: IRType, noInline: Bool = false)
    -> IRFunction
  {
    let function = module.addFunction(
      "\(prefix).\(name)", type: context.function(parameters, returns: result), linkage: .internal)
    level.configure(function)
    function.addAttribute("nounwind")
    // Loops that copy or clear must not become calls: nothing is linked in.
    function.addAttribute("no-builtins", "")
    if noInline { function.addAttribute("noinline") }
    return function
  }

  func contraction(_ shape: ContractionShape) -> IRFunction {
    if let known = contractions[shape] { return known }
    let name = "contract.\(contractions.count)"
    let function: IRFunction
    if let tiles, shape.element != .f32 {
      function = emitTileContraction(shape, tiles, name: name)
    } else {
      function = emitContraction(shape, name: name)
    }
    contractions[shape] = function
    return function
  }

  func transposition(_ shape: TranspositionShape) -> IRFunction {
    if let known = transpositions[shape] { return known }
    let function = emitTransposition(shape, name: "transpose.\(transpositions.count)")
    transpositions[shape] = function
    return function
  }

  func grouping(_ shape: GroupingShape) -> IRFunction {
    if let known = groupings[shape] { return known }
    let function = emitGrouping(shape, name: "group.\(groupings.count)")
    groupings[shape] = function
    return function
  }

  /// The function that decodes rows that are kept, made when first asked for.
  func keptDecoding(_ shape: DecodingShape) -> IRFunction {
    if let known = keptDecodings[shape] { return known }
    let function = emitKeptDecoding(shape, name: "decode.kept.\(keptDecodings.count)")
    keptDecodings[shape] = function
    return function
  }

  /// The function that decodes panels of f8e4m3, made when first asked for.
  func panelDecoding() -> IRFunction {
    if let decoding { return decoding }
    let function = emitPanelDecoding(name: "decode")
    decoding = function
    return function
  }

  /// The function that decodes a panel of coded rows, made when first asked for.
  func rowPanelDecoding(_ format: TableFormat) -> IRFunction {
    if let known = rowPanelDecodings[format] { return known }
    let function = emitRowPanelDecoding(format, name: "decode.\(format.rawValue)")
    rowPanelDecodings[format] = function
    return function
  }

  /// The function that looks for the best of a row's products, made when first asked for.
  func collecting() -> IRFunction {
    if let known = lists.collecting { return known }
    let function = emitCollecting(name: "collect")
    lists.collecting = function
    return function
  }

  /// The function that puts an item into a list, made when first asked for.
  func insertion() -> IRFunction {
    if let known = lists.insertion { return known }
    let function = emitInsertion(name: "insert")
    lists.insertion = function
    return function
  }

  /// The function that sorts integers, made when first asked for.
  func sorting() -> IRFunction {
    if let known = lists.sorting { return known }
    let function = emitSorting(name: "sort")
    lists.sorting = function
    return function
  }

  func microKernel(_ shape: RegisterTile) -> IRFunction {
    if let known = microKernels[shape] { return known }
    let function = emitMicroKernel(shape, name: "micro.\(microKernels.count)")
    microKernels[shape] = function
    return function
  }
}

/// Where the tiles of each kernel lie in a worker's scratch memory.
struct WorkerMemory {
  let kernels: [ScratchLayout]
  /// Byte offset of each kernel's room for a right side in panels.
  let panels: [Int]
  /// Byte offset of what products by tiles need, in all kernels.
  let tiles: Int
  /// Byte offset of each kernel's room for the addresses that finish its products.
  let environments: [Int]
  /// Bytes a worker needs.
  let byteCount: Int

  init(_ program: Program, tileByteCount: Int) {
    kernels = program.kernels.map { ScratchLayout($0) }
    panels = kernels.map(\.byteCount)
    environments = zip(panels, program.kernels).map {
      $0 + max($1.panelByteCount(in: program), $1.decodedByteCount(in: program))
    }
    let byteCounts = zip(environments, program.kernels).map { $0 + $1.environmentByteCount }
    // Workers do not share pages' ends, so that their prefetchers do not meet.
    tiles = ((byteCounts.max() ?? 0) + 63) / 64 * 64
    byteCount = (tiles + tileByteCount + 4095) / 4096 * 4096 + 64
  }
}
