import TensorIR
import TileIR

/// What the blocks of a kernel do on a GPU, stage by stage, and where their tiles are.
struct GPUPlan {
  /// What all threads of a block do before they meet again.
  enum Stage {
    /// Statements that work on rows, each row by one warp, which keeps in registers what only this stage reads.
    case rows([Statement])
    /// A matrix product by all warps.
    case product(Product)
    /// Products of matrices in shared memory, which none of them writes, by groups of four warps, one product after the other.
    case products([Product])
    /// A block of attention of one head.
    case attention(AttentionBlock)
    /// The best columns of a product, the merge of such, or a sort.
    case ranking(Statement)
  }

  /// The sum of products of left sides with packed weights, finished in registers.
  struct Product {
    struct Segment {
      var left: TileSlice
      var right: BufferID
      var firstRow: Int
      var rows: Int
      var firstColumn: Int
    }

    var into: TileSlice
    var segments: [Segment]
    /// What becomes of the sum, `Expression.product` in it.
    var finish: Expression = .product
    /// Whether the sum itself lies in a tile that is still to be finished.
    var isOpen = true

    /// What both sides of it are.
    func element(_ program: Program) -> ElementType { program[segments[0].right].element }

    /// Whether all its weights lie as the lanes of a warp take them.
    func isOfFragments(_ program: Program) -> Bool {
      segments.allSatisfy { segment in
        switch program[segment.right].home {
        case .weight(_, .fragments), .weight(_, .matrices): true
        default: false
        }
      }
    }
  }

  /// Where a tile in scratch lies, in bytes of shared memory.
  struct Place {
    var offset: Int
    var rowStride: Int
    /// Whether 128 bytes of columns each lie together, `rowStride` bytes a row, their pieces of 16 bytes in an order that follows from the row:
    /// what matrix instructions call a swizzle of 128 bytes.
    var isSwizzled = false

    /// Bytes of columns that lie together under a swizzle.
    static let swizzledBytes = 2 * Packing.matrixLeftColumns
  }

  /// The ring in shared memory through which weights come.
  struct Ring {
    var offset: Int
    var slots: Int
    /// Steps in a slot.
    var steps: Int
    var slotBytes: Int { steps * Packing.stepBytes * Packing.matrixColumns }
    /// For each slot a barrier that says it is full, then for each one that says it is empty.
    var barriers: Int { offset + slots * slotBytes }
    var end: Int { barriers + 16 * slots }
  }

  /// The kernel, with tiles of its own for what stages need.
  var kernel: Kernel
  var stages: [Stage] = []
  /// Tiles in shared memory; others in scratch are in registers.
  var places: [TileID: Place] = [:]
  /// Rows that a block takes.
  var rows: Int
  /// How a stage that ranks is divided.
  var ranking = Ranking(rows: 1, places: 0)
  var threads = 256
  /// Blocks of a cluster.
  var cluster = 1
  var sharedBytes = 0
  /// The ring of kernels with products of matrices.
  var ring: Ring?
  /// Where attention by groups of four warps has its sides; nil where single warps multiply.
  var matrixAttention: MatrixAttention?
  /// How attention of fp32 is divided; nil where it is of bf16.
  var scalarAttention: ScalarAttention?
  /// How it is divided for `mma.sync`; nil for all other.
  var warpAttention: WarpAttention?
  /// Parts that columns can be divided into.
  var columnParts = 1

  /// The plan of a kernel for a card with so much shared memory. Throws where a statement has no code for GPUs yet.
  init(_ kernel: Kernel, of program: Program, target: GPUTarget) throws(GPUError) {
    self.kernel = kernel
    rows = kernel.domain.block
    try checkCodes(of: program, target: target)
    if let attention = Self.attention(kernel) {
      try plan(attention, of: program, target: target)
      return
    }
    if try planRanking(target: target) { return }
    try collect(of: program)
    if placeScalarProducts(of: program, on: target) { return }
    bringLeftSides(of: program)
    if target.hasMatrices, placeMatrices(of: program, within: target.sharedBytes) { return }
    try place(of: program, on: target)
  }

  /// Throws where codes are multiplied that the card has no instruction for.
  private func checkCodes(of program: Program, target: GPUTarget) throws(GPUError) {
    let codes = kernel.statements.compactMap { statement -> TileID? in
      guard case .contract(let contraction) = statement, kernel[contraction.left.tile].element == .f8e4m3 else {
        return nil
      }
      return contraction.left.tile
    }
    if !target.multipliesFloat8, !codes.isEmpty {
      throw GPUError(
        message: "kernel \(kernel.name): no code yet for products of f8e4m3 on \(target.rawValue), "
          + "which has no matrix instruction for them",
        hint: "lower-precision{matmul=int8} and {matmul=bf16} have code there; "
          + "\(GPUTarget.allCases.filter(\.multipliesFloat8).map(\.rawValue).joined(separator: " and ")) multiply FP8")
    }
    // Matrix instructions take those of the card's own form alone.
    let areCallers = codes.contains { kernel[$0].buffers.contains { program[$0].holdsCallersCodes } }
    if target.hasFNUZ, areCallers { throw error("products of f8e4m3 codes that a caller gives") }
  }

  // MARK: - Stages

  private mutating func collect(of program: Program) throws(GPUError) {
    var open: [Product] = []
    var rowsStage: [Statement] = []
    func mentions(_ statement: Statement, _ tile: TileID) -> Bool {
      var found = false
      statement.forEachTile { if kernel.areOneMemory($0, tile, in: program) { found = true } }
      return found
    }
    func isFilled(_ tile: TileID, by statement: Statement) -> Bool {
      statement.filledTile.map { kernel.areOneMemory(tile, $0, in: program) } ?? false
    }
    func flush(_ plan: inout GPUPlan) {
      if !rowsStage.isEmpty { plan.stages.append(.rows(rowsStage)) }
      rowsStage = []
    }
    func close(_ plan: inout GPUPlan, _ index: Int) {
      flush(&plan)
      plan.stages.append(.product(open.remove(at: index)))
    }
    for (number, statement) in kernel.body.enumerated() {
      switch statement {
      case .contract(let contraction):
        guard case .panels(let buffer, let firstRow, let count, let firstColumn) = contraction.right,
          !contraction.leftTransposed, !contraction.masked, kernel[contraction.left.tile].rows == .block
        else { throw error("a product of two tiles outside of attention") }
        let segment = Product.Segment(
          left: contraction.left, right: buffer, firstRow: firstRow, rows: count, firstColumn: firstColumn)
        // What an earlier product gives is there before another one reads it.
        while let index = open.firstIndex(where: {
          kernel.areOneMemory($0.into.tile, contraction.left.tile, in: program)
        }) {
          close(&self, index)
        }
        // What an open product still reads is not written before.
        while let index = open.firstIndex(where: { product in
          product.segments.contains { isFilled($0.left.tile, by: statement) }
        }) {
          close(&self, index)
        }
        if let index = open.firstIndex(where: {
          kernel.owner(of: $0.into.tile) == kernel.owner(of: contraction.into.tile)
        }) {
          if contraction.accumulate, open[index].into == contraction.into, contraction.finish == nil {
            open[index].segments.append(segment)
            continue
          }
          close(&self, index)
        }
        if contraction.accumulate { throw error("a product that is added to what a map gave") }
        var product = Product(into: contraction.into, segments: [segment])
        if let finish = contraction.finish {
          product.finish = finish
          product.isOpen = false
          flush(&self)
          stages.append(.product(product))
        } else if isInScratch(contraction.into.tile) || isAddedTo(contraction.into, after: number) {
          open.append(product)
        } else {
          product.isOpen = false
          flush(&self)
          stages.append(.product(product))
        }
      default:
        if let index = open.firstIndex(where: { mentions(statement, $0.into.tile) }) {
          // A map that alone reads the sum finishes it.
          if case .map(let into, let expression, masked: false) = statement,
            expression.reads(onlyWhole: open[index].into), reads(of: open[index].into.tile) == 1,
            !open.indices.contains(where: { $0 != index && mentions(statement, open[$0].into.tile) })
          {
            open[index].finish = expression.finishing(open[index].into)
            open[index].into = into
            open[index].isOpen = false
            close(&self, index)
            continue
          }
          while let index = open.firstIndex(where: { mentions(statement, $0.into.tile) }) { close(&self, index) }
        }
        while let index = open.firstIndex(where: { product in
          product.segments.contains { isFilled($0.left.tile, by: statement) }
        }) {
          close(&self, index)
        }
        switch statement {
        case .map(_, _, masked: false), .reduce, .maximum, .indices, .gather, .gatherIntegers, .nextIntegers,
          .storeIndices,
          .clear:
          rowsStage.append(statement)
        case .map, .transpose, .forKeys: throw error("attention of this form")
        case .best, .merge, .sort: throw error("a ranking of items")
        case .forParts: throw error("a loop over heads")
        case .contract: break
        }
      }
    }
    while !open.isEmpty { close(&self, 0) }
    flush(&self)
    stages = withIndicesWhereRead(stages)
  }

  private func isInScratch(_ tile: TileID) -> Bool { if case .scratch = kernel[tile].home { true } else { false } }

  /// Whether a later product of the body is added to what the statement of a number gives.
  private func isAddedTo(_ slice: TileSlice, after number: Int) -> Bool {
    kernel.body[(number + 1)...].contains { statement in
      if case .contract(let contraction) = statement {
        contraction.accumulate && contraction.into == slice
      } else {
        false
      }
    }
  }

  /// The statements that read a tile, counted.
  private func reads(of tile: TileID) -> Int {
    kernel.statements.count { statement in
      switch statement {
      case .contract(let contraction): return contraction.left.tile == tile
      case .map(_, let expression, _), .reduce(_, let expression, _), .maximum(_, let expression, _):
        var found = false
        expression.forEachTile { if $0 == tile { found = true } }
        return found
      default: return false
      }
    }
  }

  /// Indices are computed again in each stage that reads them: they follow from the row.
  private func withIndicesWhereRead(_ stages: [Stage]) -> [Stage] {
    var sources: [IndexVectorID: Statement] = [:]
    return stages.map { stage in
      guard case .rows(let statements) = stage else { return stage }
      var known: Set<IndexVectorID> = []
      var result: [Statement] = []
      func demand(_ vector: IndexVectorID) {
        guard !known.contains(vector), let source = sources[vector] else { return }
        if case .indices(_, .marked(let inner, _, _, _)) = source { demand(inner) }
        known.insert(vector)
        result.append(source)
      }
      for statement in statements {
        if case .indices(let vector, _) = statement {
          known.insert(vector)
          sources[vector] = statement
        } else {
          statement.forEachIndexVector(demand)
        }
        result.append(statement)
      }
      return .rows(result)
    }
  }

  // MARK: - Places

  /// Tiles that several stages share, which of all tiles products have as left sides, and of which products read or write only some
  /// columns, or other tiles are columns.
  func sharedTiles() -> (shared: [TileID], isLeft: Set<TileID>, isCut: Set<TileID>) {
    var stagesOfTile: [TileID: Set<Int>] = [:]
    var isLeft: Set<TileID> = []
    var isCut: Set<TileID> = []
    var hasParts: Set<TileID> = []
    func note(_ slice: TileSlice, _ stage: Int, byProduct: Bool = false) {
      let owner = kernel.owner(of: slice.tile)
      guard case .scratch = kernel[owner].home else { return }
      stagesOfTile[owner, default: []].insert(stage)
      if owner != slice.tile {
        isCut.insert(owner)
      } else if slice.first != 0 || slice.count != kernel[owner].columns {
        hasParts.insert(owner)
        if byProduct { isCut.insert(owner) }
      }
    }
    for (index, stage) in stages.enumerated() {
      switch stage {
      case .rows(let statements):
        for statement in statements { statement.forEachSlice { note($0, index) } }
      case .product(let product):
        for segment in product.segments {
          note(segment.left, index, byProduct: true)
          isLeft.insert(kernel.owner(of: segment.left.tile))
        }
        note(product.into, index, byProduct: true)
        product.finish.forEachSlice { note($0, index, byProduct: true) }
        // What a product gives is other threads' to read.
        stagesOfTile[kernel.owner(of: product.into.tile)]?.insert(-1)
      case .products, .attention, .ranking: break
      }
    }
    let shared = stagesOfTile.keys.sorted { $0.index < $1.index }
      .filter {
        (stagesOfTile[$0]?.count ?? 0) > 1 || isCut.contains($0) || hasParts.contains($0) || isLeft.contains($0)
      }
    return (shared, isLeft, isCut)
  }

  /// Puts what several stages share into shared memory, and takes as many rows as leave room for it.
  mutating func place(of program: Program, on target: GPUTarget) throws(GPUError) {
    let (shared, isLeft, isCut) = sharedTiles()
    let bytes = target.sharedBytes
    let swizzled = target.vendor == .amd ? swizzledTiles(isLeft.subtracting(isCut), of: program) : []
    // With more products than one, what lies ready for them and the sums of 128 rows find no registers together; nor do these and what
    // Hopper's instruction for FP8 makes of its sides, which are multiplied as numbers of 16 bits.
    let products = stages.compactMap { if case .product(let product) = $0 { product } else { nil } }
    let isWide = target.vendor == .nvidia && products.contains { $0.element(program) == .f8e4m3 }
    // Matrix instructions take sixteen rows. Without them as many blocks as can be are worth more than reading weights half as often.
    let hasFragments = products.contains { $0.isOfFragments(program) }
    let areScalar = !products.isEmpty && !hasFragments
    let most = min(max(kernel.domain.block, 16), products.count > 1 || isWide || areScalar ? 64 : 128)
    for candidate in [128, 64, 32, 16] + (hasFragments ? [] : [8]) where candidate <= most {
      rows = candidate
      places = [:]
      sharedBytes = 0
      for tile in shared {
        (places[tile], sharedBytes) = place(
          tile, at: sharedBytes, rows: candidate, isLeft: isLeft.contains(tile), isSwizzled: swizzled.contains(tile))
      }
      if sharedBytes <= bytes { return }
    }
    throw error("tiles of \(sharedBytes) bytes for \(rows) rows, more than the \(bytes) of shared memory")
  }

  /// Where a tile of so many rows lies that begins at `offset`, and where the next one begins.
  func place(
    _ tile: TileID, at offset: Int, rows: Int, isLeft: Bool, isSwizzled: Bool
  ) -> (place: Place, end: Int) {
    let stride = isSwizzled ? Place.swizzledBytes : Self.rowStride(kernel[tile], isLeft: isLeft)
    let size = isSwizzled ? kernel[tile].columns * kernel[tile].element.deviceByteCount : stride
    return (
      Place(offset: offset, rowStride: stride, isSwizzled: isSwizzled), offset + (size * rows + 127) / 128 * 128
    )
  }

  /// Bytes from row to row. Left sides are read a step at a time, eight rows side by side: an odd number of 16 bytes keeps those in
  /// different banks.
  static func rowStride(_ tile: Tile, isLeft: Bool) -> Int {
    let size = tile.element.deviceByteCount
    if tile.columns == 1, !isLeft { return size }
    let whole = isLeft ? Packing.stepBytes : 16
    let bytes = (tile.columns * size + whole - 1) / whole * whole
    return bytes / 16 % 2 == 0 ? bytes + 16 : bytes
  }

  func error(_ what: String) -> GPUError { GPUError(message: "kernel \(kernel.name): no code yet for \(what)") }
}

extension GPUPlan {
  /// Blocks that a multiprocessor should run at once, which bounds the registers of a thread.
  var blocksAtOnce: Int {
    for case .attention in stages { return matrixAttention == nil && scalarAttention == nil ? 2 : 1 }
    return ranking.blocksAtOnce
  }

  /// Whether a tile's rows are whole pieces of columns as matrix instructions take them.
  static func hasWholeSwizzles(_ tile: Tile) -> Bool {
    (tile.element == .bf16 || tile.element.isCode)
      && tile.columns * tile.element.deviceByteCount % Place.swizzledBytes == 0
  }

  /// Of left sides that are read whole, those that can lie without a gap between rows: of fragments' products alone, and in whole
  /// pieces of columns.
  private func swizzledTiles(_ tiles: Set<TileID>, of program: Program) -> Set<TileID> {
    var result = tiles.filter { Self.hasWholeSwizzles(kernel[$0]) }
    for case .product(let product) in stages where !product.isOfFragments(program) {
      for segment in product.segments { result.remove(kernel.owner(of: segment.left.tile)) }
    }
    return result
  }
}
