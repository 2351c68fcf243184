import TensorIR
import TileIR

// Plans of kernels whose products are of matrices in shared memory.
extension GPUPlan {
  /// Warps that multiply, in groups of four, and all, those that bring weights too: a group of four as well, which gives its
  /// registers to the others.
  static let multiplyingWarps = 8
  static let allWarps = 12
  /// Slots of a ring at least: with fewer, weights are not on their way for long enough.
  private static let leastSlots = 3

  /// Places tiles as groups of four warps read them. False, and nothing done, where a product is not of such matrices or room is left
  /// for fewer than 64 rows.
  mutating func placeMatrices(of program: Program, within bytes: Int) -> Bool {
    let (shared, isLeft, isCut) = sharedTiles()
    let products = stages.compactMap { stage -> Product? in
      if case .product(let product) = stage { product } else { nil }
    }
    guard !products.isEmpty, isLeft.isDisjoint(with: isCut), products.allSatisfy({ isOfMatrices($0, program) }) else {
      return false
    }
    for candidate in [128, 64] where candidate <= kernel.domain.block {
      var places: [TileID: Place] = [:]
      // Tiles of matrices first: they begin at multiples of 1024 bytes.
      var end = 0
      for tile in shared.filter(isLeft.contains) + shared.filter({ !isLeft.contains($0) }) {
        let isSwizzled = isLeft.contains(tile)
        (places[tile], end) = place(tile, at: end, rows: candidate, isLeft: isSwizzled, isSwizzled: isSwizzled)
      }
      let steps = bytes - end >= 64 << 10 ? 2 : 1
      var ring = Ring(offset: end, slots: 0, steps: steps)
      ring.slots = min(8, (bytes - end) / (ring.slotBytes + 16))
      guard ring.slots >= Self.leastSlots else { continue }
      rows = candidate
      self.places = places
      self.ring = ring
      sharedBytes = ring.end
      threads = Self.allWarps * 32
      gather()
      columnParts = columnParts(in: program) { $0.into.count / Packing.matrixColumns }
      return true
    }
    return false
  }

  private func isOfMatrices(_ product: Product, _ program: Program) -> Bool {
    product.into.count % Packing.matrixColumns == 0
      && product.segments.allSatisfy { segment in
        guard case .weight(_, .matrices) = program[segment.right].home else { return false }
        guard case .scratch = kernel[segment.left.tile].home else { return false }
        return Self.hasWholeSwizzles(kernel[segment.left.tile]) && segment.firstColumn % Packing.matrixColumns == 0
      }
  }

  /// Makes one stage of products that follow each other and whose results no other one reads.
  private mutating func gather() {
    var gathered: [Stage] = []
    for stage in stages {
      guard case .product(let product) = stage else {
        gathered.append(stage)
        continue
      }
      if case .products(let before)? = gathered.last, before.allSatisfy({ isWindow($0.into.tile) }),
        isWindow(product.into.tile)
      {
        gathered[gathered.count - 1] = .products(before + [product])
      } else {
        gathered.append(.products([product]))
      }
    }
    stages = gathered
  }

  private func isWindow(_ tile: TileID) -> Bool {
    if case .window = kernel[tile].home { return true }
    return false
  }
}
