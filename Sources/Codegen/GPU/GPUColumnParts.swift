import LLVMKit
import TensorIR
import TileIR

// Blocks that divide the columns of products among them, where there are fewer blocks of rows than multiprocessors.
extension GPUPlan {
  /// How many blocks can divide the pieces of products' columns among them: all of them do the stages before the products, and none reads
  /// what another one writes. `pieces` counts those of a product.
  func columnParts(in program: Program, pieces: (Product) -> Int) -> Int {
    var before = stages[...]
    var products: [Product] = []
    trailing: while let stage = before.last {
      switch stage {
      case .products(let all) where products.isEmpty: products = all
      case .product(let product): products.insert(product, at: 0)
      default: break trailing
      }
      before.removeLast()
    }
    if products.isEmpty { return 1 }
    var written: Set<BufferID> = []
    for product in products {
      guard case .window(let buffer, _, _) = kernel[product.into.tile].home else { return 1 }
      written.insert(buffer)
    }
    // What they write they have not read: all of them write the same.
    var read: Set<BufferID> = []
    for stage in before {
      guard case .rows(let statements) = stage else { return 1 }
      for statement in statements {
        var own: TileID?
        switch statement {
        case .map(let into, let expression, _), .reduce(let into, let expression, _),
          .maximum(let into, let expression, _):
          own = into.tile
          expression.forEachSlice { slice in
            if case .window(let buffer, _, _) = kernel[slice.tile].home { read.insert(buffer) }
          }
        case .gather(let into, let from, _, _, keepMissing: false):
          own = into.tile
          read.insert(from)
        case .clear(let into): own = into.tile
        case .indices: break
        default: return 1
        }
        if let own, case .window(let buffer, _, _) = kernel[own].home, read.contains(buffer) { return 1 }
      }
    }
    // Memory that something else is read from, or that is written twice.
    var slots: Set<Int> = []
    for buffer in Set(kernel.buffers) {
      guard case .workspace(let slot) = program[buffer].home else { continue }
      if !slots.insert(slot).inserted { return 1 }
    }
    var isRead = false
    func note(_ slice: TileSlice) {
      if case .window(let buffer, _, _) = kernel[slice.tile].home, written.contains(buffer) { isRead = true }
    }
    for product in products {
      product.finish.forEachSlice(note)
      for segment in product.segments { note(segment.left) }
    }
    for case .rows(let statements) in stages {
      for statement in statements { statement.forEachSlice(note) }
    }
    return isRead ? 1 : products.reduce(0) { $0 + pieces($1) }
  }
}

/// The pieces of a product's columns that are a block's own.
struct OwnPieces {
  /// How many.
  var count: IRValue
  fileprivate var first: IRValue
  fileprivate var step: IRValue

  /// One of them, by its number among the own ones.
  func piece(_ b: IRBuilder, _ number: IRValue) -> IRValue { b.add(first, b.mul(number, step)) }
}

extension GPUKernelEmitter {
  /// The first of a product's pieces that is this block's, of so many parts, where the pieces of all products are dealt out one after the
  /// other and products before have had `before`.
  func firstPiece(_ b: IRBuilder, part own: IRValue, of parts: IRValue, before: Int) -> IRValue {
    b.urem(b.add(own, b.mul(b.sub(parts, 1), before)), parts)
  }

  /// This block's pieces of a product that has so many; those of the next product go on where these end.
  func ownPieces(_ b: IRBuilder, of pieces: Int) -> OwnPieces {
    let i32 = context.i32
    guard plan.columnParts > 1 else {
      return OwnPieces(count: i32.constant(pieces), first: i32.constant(0), step: i32.constant(1))
    }
    let (parts, own) = (special(b, "nctaid.y"), special(b, "ctaid.y"))
    let first = firstPiece(b, part: own, of: parts, before: dealtPieces)
    dealtPieces += pieces
    return OwnPieces(count: b.udiv(b.sub(b.add(parts, pieces - 1), first), parts), first: first, step: parts)
  }
}
