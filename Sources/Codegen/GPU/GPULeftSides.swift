import TensorIR
import TileIR

extension GPUPlan {
  /// Has left sides that lie in memory copied to shared memory, right before the products that read them, since an earlier stage may have
  /// written them: where matrix instructions take them from there, and where results take their place, which threads write while others
  /// still read.
  mutating func bringLeftSides(of program: Program) {
    var all: [Stage] = []
    for stage in stages {
      guard case .product(var product) = stage else {
        all.append(stage)
        continue
      }
      let isOfFragments = product.isOfFragments(program)
      var copies: [Statement] = []
      for (index, segment) in product.segments.enumerated() {
        guard case .window = kernel[segment.left.tile].home,
          isOfFragments || kernel.areOneMemory(segment.left.tile, product.into.tile, in: program)
        else { continue }
        let own = segment.left.count
        let tile = kernel.addTile(
          Tile(
            name: "left", rows: .block, columns: own, home: .scratch(capacity: kernel.domain.block, rowStride: own),
            element: kernel[segment.left.tile].element))
        let slice = TileSlice(tile, first: 0, count: own)
        copies.append(.map(into: slice, .tile(segment.left)))
        product.segments[index].left = slice
      }
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
