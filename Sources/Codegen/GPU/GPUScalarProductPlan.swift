import TensorIR
import TileIR

extension GPUPlan {
  /// How a product without matrix instructions is divided among the threads of a block.
  ///
  /// A thread takes some rows and some quads, four neighbouring columns of the packed weight each, and multiplies every number of either
  /// that it reads with all of the other. Lanes of a warp have up to eight quads side by side, in as many rows as the block has for them: eight
  /// quads are 128 bytes of the weight, which lie together.
  struct ScalarProduct: Equatable {
    /// Columns that are read and summed together: 16 bytes of a weight of fp32.
    static let quadColumns = 4
    /// Quads of a panel of the weight.
    static let panelQuads = 8
    /// Rows and quads that a thread may take. There are no registers for the sums of more, and for the weights that are on their way.
    private static let tiles = [(8, 2), (8, 1), (4, 1), (2, 1), (1, 1)]
    /// Lanes with quads side by side, where there are so many quads: more of them have fewer idle at a row's end.
    private static let across = 4...panelQuads

    /// A thread's rows and quads.
    var rowsEach: Int
    var quadsEach: Int
    /// Lanes with the same rows, side by side.
    var across: Int
    /// Quads of a row.
    var quads: Int

    /// What is dealt out to lanes that stand side by side, and to blocks that divide the columns among them.
    var bunches: Int { Self.pieces(quads, across * quadsEach) }
    /// Contracted numbers of half a step: while one half is multiplied, by up to 256 multiply-adds, the other one's weights are on their way.
    var halfRows: Int { rowsEach * quadsEach >= 16 ? 4 : 8 }
    /// A thread's sums.
    var sums: Int { rowsEach * quadsEach * Self.quadColumns }

    private static func pieces(_ count: Int, _ size: Int) -> Int { (count + size - 1) / size }

    /// The division that takes least time, by what a thread multiplies and reads.
    init(_ product: Product, rows: Int, lanes: Int) {
      quads = Self.pieces(product.into.count, Self.quadColumns)
      (rowsEach, quadsEach, across) = (1, 1, 1)
      // As many threads as a multiprocessor runs at once, one warp on each of its four parts: one has enough to multiply to keep its part busy.
      let atOnce = 4 * lanes
      var least = Int.max
      for (rowsEach, quadsEach) in Self.tiles {
        let groups = Self.pieces(quads, quadsEach)
        func taken(_ across: Int) -> Int { Self.pieces(groups, across) * across }
        let across = Self.across.reversed().map { min($0, groups) }.min { taken($0) < taken($1) } ?? 1
        let columns = quadsEach * Self.quadColumns
        // To read a number takes as long as a multiply-add: each is 4 of the 128 bytes of a cycle, or one of 128 lanes.
        let time =
          Self.pieces(Self.pieces(rows, rowsEach) * taken(across), atOnce) * (rowsEach * columns + rowsEach + columns)
        if time < least {
          (self.rowsEach, self.quadsEach, self.across) = (rowsEach, quadsEach, across)
          least = time
        }
      }
    }
  }

  /// The division of a product by this plan's blocks.
  func scalarProduct(_ product: Product, on target: GPUTarget) -> ScalarProduct {
    ScalarProduct(product, rows: rows, lanes: target.lanes)
  }

  /// Rows at least for which left sides are brought to shared memory from where they lie: with fewer a weight crosses the second-level
  /// cache too often.
  private static let leastRowsInShared = 32

  /// Places tiles where no product is by matrix instructions. False, and nothing done, elsewhere, or where there is no room.
  mutating func placeScalarProducts(of program: Program, on target: GPUTarget) -> Bool {
    let products = stages.compactMap { if case .product(let product) = $0 { product } else { nil } }
    guard !products.isEmpty, !products.contains(where: { $0.isOfFragments(program) }) else { return false }
    for areAll in [true, false] {
      var plan = self
      plan.bringLeftSides(of: program, all: areAll)
      do throws(GPUError) { try plan.place(of: program, on: target) } catch { continue }
      let isEnough = plan.rows >= min(Self.leastRowsInShared, kernel.domain.block)
      guard !areAll || isEnough || plan.stages.count == stages.count else { continue }
      // Only NVIDIA's blocks are told how many parts there are.
      if target.vendor == .nvidia {
        plan.columnParts = plan.columnParts(in: program) { plan.scalarProduct($0, on: target).bunches }
      }
      self = plan
      return true
    }
    return false
  }
}
