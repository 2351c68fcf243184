import TensorIR
import TileIR

// How both sides of a product lie.
extension TileLowering {
  /// How a weight lies whose rows are contracted with left sides of these widths, one after the other, to so many columns.
  func packing(
    ofWeight weight: ValueID, contracting widths: [Int], columns: Int, _ orientation: Linear.Orientation
  ) -> Packing {
    let transposed = orientation == .outIn
    let element = function[weight].type.tensor?.element ?? .f32
    guard schedule.hasFragments, element == .bf16 || element.isCode,
      widths.dropLast().allSatisfy({ $0 % Packing.stepRows(of: element) == 0 })
    else { return .panels(width: schedule.panel, transposed: transposed) }
    let leftColumns = 2 * Packing.matrixLeftColumns / element.byteCount
    if schedule.hasMatrices, widths.allSatisfy({ $0 % leftColumns == 0 }), columns % Packing.matrixColumns == 0 {
      return .matrices(transposed: transposed)
    }
    return .fragments(transposed: transposed, isFNUZ: schedule.hasFNUZ && element == .f8e4m3)
  }

  /// The left side of a product with a weight that lies so: a GPU's matrix instructions take none from memory.
  mutating func leftSide(_ slice: TileSlice, of packing: Packing) throws(LoweringError) -> TileSlice {
    let tile = kernel[slice.tile]
    switch (packing, tile.home) {
    case (.fragments, .window), (.matrices, .window): break
    default: return slice
    }
    let copy = scratch(
      tile.name, rows: .block, capacity: kernel.domain.block, columns: slice.count, element: tile.element)
    try map(copy, .tile(slice))
    return copy
  }
}
