import LLVMKit
import TensorIR
import TileIR

/// Rows of a head's keys or values that are soon read, `bytes` of each. A head's rows lie far apart, so processors do not
/// foresee them; asked for all at once, where they are read, they come one after the other.
struct RowsAhead: Hashable {
  /// Which address of the environment is that of the row that belongs to the first key of the turn.
  var slot: Int
  var rowStride: Int
  var bytes: Int
}

extension LevelEmitter {
  /// Asks for the rows that belong to those of a register tile of scores; two neighbouring panels share them.
  func ask(_ b: IRBuilder, for rows: RowsAhead, environment: IRValue, row: IRValue, column: IRValue) {
    let half = level.microKernel.rows / 2
    let panel = b.and(b.udiv(column, level.microKernel.columns), 1)
    let base = b.load(context.pointer, b.offset(environment, bytes: rows.slot * 8))
    let first = b.offset(base, bytes: b.mul(b.add(row, b.mul(panel, half)), rows.rowStride))
    for index in 0..<half {
      for byte in stride(from: 0, to: rows.bytes, by: 64) {
        b.prefetch(b.offset(first, bytes: index * rows.rowStride + byte), locality: 2)
      }
    }
  }
}

extension KernelEmitter {
  /// What the scores of a turn ask for: the values of this turn, and the keys of the next one. The addresses are written into
  /// the environment, from `slot` on.
  func emitRowsAhead(_ b: IRBuilder, _ contraction: Contraction, slot: Int) -> [RowsAhead] {
    guard let keys, isInMemory(contraction.left), contraction.finish != nil else { return [] }
    let values = kernel.statements.compactMap { statement -> TileSlice? in
      guard case .contract(let weighted) = statement, weighted.leftTransposed, case .tile(let right) = weighted.right,
        isInMemory(right)
      else { return nil }
      return right
    }
    let environment = b.offset(scratch, bytes: emitter.scratch.environments[number])
    func rows(_ slice: TileSlice, _ address: IRValue, _ place: Int) -> RowsAhead {
      b.store(address, b.offset(environment, bytes: (slot + place) * 8))
      let tile = kernel[slice.tile]
      return RowsAhead(
        slot: slot + place, rowStride: rowStride(of: tile), bytes: slice.count * tile.element.workingByteCount)
    }
    let left = kernel[contraction.left.tile]
    let next = b.offset(address(b, contraction.left), bytes: b.mul(keys.count, rowStride(of: left)))
    return [rows(contraction.left, next, 0)]
      + values.prefix(1).enumerated().map { rows($1, address(b, $1), 1 + $0) }
  }

  /// Whether a slice is of rows of keys in memory.
  private func isInMemory(_ slice: TileSlice) -> Bool {
    kernel[slice.tile].rows == .keys && !kernel[slice.tile].buffers.isEmpty && !isDecoded(kernel[slice.tile])
  }
}
