import TensorIR
import TileIR

extension GPUPlan {
  /// Has left sides that lie in memory copied to shared memory, right before the products that read them, since an earlier stage may have
  /// written them: where matrix instructions take them from there, and where results take their place, which threads write while others
  /// still read; or all of them.
  mutating func bringLeftSides(of program: Program, all areAll: Bool = false) {
    var all: [Stage] = []
    // What was brought and lies in memory as it did then.
    var brought: [(from: TileSlice, to: TileSlice)] = []
    func forget(_ tile: TileID?) {
      guard let tile else { return }
      brought.removeAll { kernel.areOneMemory($0.from.tile, tile, in: program) }
    }
    for stage in stages {
      guard case .product(var product) = stage else {
        if case .rows(let statements) = stage { for statement in statements { forget(statement.filledTile) } }
        all.append(stage)
        continue
      }
      let isOfFragments = product.isOfFragments(program)
      var copies: [Statement] = []
      for (index, segment) in product.segments.enumerated() {
        guard case .window = kernel[segment.left.tile].home,
          areAll || isOfFragments || kernel.areOneMemory(segment.left.tile, product.into.tile, in: program)
        else { continue }
        if areAll, let known = brought.first(where: { $0.from == segment.left }) {
          product.segments[index].left = known.to
          continue
        }
        let own = segment.left.count
        let tile = kernel.addTile(
          Tile(
            name: "left", rows: .block, columns: own, home: .scratch(capacity: kernel.domain.block, rowStride: own),
            element: kernel[segment.left.tile].element))
        let slice = TileSlice(tile, first: 0, count: own)
        copies.append(.map(into: slice, .tile(segment.left)))
        brought.append((segment.left, slice))
        product.segments[index].left = slice
      }
      forget(product.into.tile)
      if !copies.isEmpty { all.append(.rows(copies)) }
      all.append(.product(product))
    }
    stages = all
  }
}

extension Kernel {
  /// Whether tiles lie in the same memory: in one tile, one buffer, or buffers of which one takes the other's place.
  func areOneMemory(_ one: TileID, _ other: TileID, in program: Program) -> Bool {
    if owner(of: one) == owner(of: other) { return true }
    guard case .window(let first, _, _) = self[one].home, case .window(let second, _, _) = self[other].home else {
      return false
    }
    return program.memory(of: first) == program.memory(of: second)
  }
}

extension Program {
  /// The buffer, or the first one with the same memory.
  func memory(of buffer: BufferID) -> BufferID {
    guard case .workspace = self[buffer].home else { return buffer }
    let home = self[buffer].home
    return buffers.firstIndex { $0.home == home }.map { BufferID(index: $0) } ?? buffer
  }
}
