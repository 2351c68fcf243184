import LLVMKit
import TensorIR

/// The eight tile registers of AMX, each of up to 16 rows x 64 bytes, and what is done with them.
///
/// Tests put memory and plain code in their place, so that kernels made of tiles run on machines without AMX.
public protocol TileInstructions {
  /// The level that a machine must have to run them.
  var level: CPULevel { get }
  /// Bytes of a worker's memory that stand in for registers, a multiple of 64; every call below gets their address as
  /// `state`.
  var stateByteCount: Int { get }

  /// Takes the shapes of the tiles from 64 bytes in memory, and fills the tiles with zeros.
  func configure(_ b: IRBuilder, _ state: IRValue, from configuration: IRValue)
  /// Gives the tiles back.
  func release(_ b: IRBuilder, _ state: IRValue)
  /// Fills a tile with zeros.
  func clear(_ b: IRBuilder, _ state: IRValue, _ tile: Int)
  /// Reads the rows of a tile, `stride` bytes apart.
  func load(_ b: IRBuilder, _ state: IRValue, _ tile: Int, from: IRValue, stride: IRValue)
  /// Writes the rows of a tile, `stride` bytes apart.
  func store(_ b: IRBuilder, _ state: IRValue, _ tile: Int, to: IRValue, stride: IRValue)
  /// Adds to a tile of words, fp32 or int32, the products of a left tile of rows and a right one whose rows are groups of
  /// contracted elements: two of bf16, or four of i8, the left ones unsigned.
  func multiplyAdd(_ b: IRBuilder, _ state: IRValue, into: Int, left: Int, right: Int, _ element: ElementType)
}

/// The instructions themselves.
///
/// Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18, and volume 2.
public struct AMXInstructions: TileInstructions {
  /// AMX.
  public let level = CPULevel.amx
  /// None: there are registers.
  public let stateByteCount = 0

  private let context: Context

  /// The instructions, for a module of this context.
  public init(_ context: Context) { self.context = context }

  /// `ldtilecfg`.
  public func configure(_ b: IRBuilder, _ state: IRValue, from configuration: IRValue) {
    b.intrinsic("llvm.x86.ldtilecfg", [configuration])
  }

  /// `tilerelease`.
  public func release(_ b: IRBuilder, _ state: IRValue) { b.intrinsic("llvm.x86.tilerelease", []) }

  /// `tilezero`.
  public func clear(_ b: IRBuilder, _ state: IRValue, _ tile: Int) {
    b.intrinsic("llvm.x86.tilezero", [number(tile)])
  }

  /// `tileloadd`.
  public func load(_ b: IRBuilder, _ state: IRValue, _ tile: Int, from: IRValue, stride: IRValue) {
    b.intrinsic("llvm.x86.tileloadd64", [number(tile), from, stride])
  }

  /// `tilestored`.
  public func store(_ b: IRBuilder, _ state: IRValue, _ tile: Int, to: IRValue, stride: IRValue) {
    b.intrinsic("llvm.x86.tilestored64", [number(tile), to, stride])
  }

  /// `tdpbf16ps` or `tdpbusd`.
  public func multiplyAdd(
    _ b: IRBuilder, _ state: IRValue, into: Int, left: Int, right: Int, _ element: ElementType
  ) {
    let name = element == .i8 ? "llvm.x86.tdpbusd" : "llvm.x86.tdpbf16ps"
    b.intrinsic(name, [into, left, right].map { number($0) })
  }

  private func number(_ tile: Int) -> IRValue { context.i8.constant(tile) }
}

extension AMXInstructions {
  /// Sums that wait for one another in none of the instructions of `emitProducts`: with a product started every 16 cycles,
  /// and ready after 52, enough to keep the unit busy.
  public static let independentSums = 4
  /// Products in one turn of `emitProducts`.
  public static func productCount(_ element: ElementType) -> Int {
    independentSums * TileConfiguration.rows * TileConfiguration.words * TileConfiguration.rowBytes / element.byteCount
  }

  /// Adds products of whole tiles of zeros, `turns` times; gives whether the process may use tiles: nothing runs otherwise.
  public func emitProducts(_ b: inout IRBuilder, of element: ElementType, turns: IRValue, in module: IRModule)
    -> IRValue
  {
    let shapes = TileConfiguration.shapes(in: module)
    let isPermitted = CPUIDAnswers.emitTilePermission(b, context)
    b.ifThen(isPermitted, name: "permitted") { b in
      let state = context.pointer.null()
      configure(b, state, from: shapes)
      b.loop(from: b.i64(0), to: turns, name: "turn", hint: .asWritten) { b, _ in
        for row in 0..<2 {
          for column in 0..<2 {
            multiplyAdd(
              b, state, into: TileConfiguration.sum(row, column), left: TileConfiguration.left(row),
              right: TileConfiguration.right(column), element)
          }
        }
      }
      release(b, state)
    }
    return isPermitted
  }
}

/// The shapes of the tiles as the instructions read them from memory.
enum TileConfiguration {
  /// Rows and bytes of a row of the largest tile, and its words of 32 bits.
  static let rows = 16, rowBytes = 64, words = 16
  static let byteCount = 64

  /// Where the register tile of two by two tiles keeps its parts: sums [row][column], two tiles of the left side, and two
  /// of the right.
  static func sum(_ row: Int, _ column: Int) -> Int { row * 2 + column }
  static func left(_ row: Int) -> Int { 4 + row }
  static func right(_ column: Int) -> Int { 6 + column }

  /// The address of the shapes of a whole register tile, in a module.
  static func shapes(in module: IRModule) -> IRValue {
    module.addGlobal("tiles", initializer: module.bytes(bytes(columns: 2 * words)), alignment: 64)
  }

  /// Where the number of rows of a tile stands.
  static func rowsOffset(_ tile: Int) -> Int { 48 + tile }

  /// Bytes for so many columns of sums, at most 32, with all tiles 16 rows high.
  static func bytes(columns: Int) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: byteCount)
    // The only palette there is: eight tiles.
    bytes[0] = 1
    for tile in 0..<8 {
      bytes[rowsOffset(tile)] = UInt8(rows)
      bytes[16 + 2 * tile] = UInt8(rowBytes)
    }
    for column in 0..<2 {
      // A second tile without columns is not used.
      let count = min(max(columns - column * words, 1), words)
      for tile in [sum(0, column), sum(1, column), right(column)] { bytes[16 + 2 * tile] = UInt8(count * 4) }
    }
    return bytes
  }
}
