import LLVMKit
import TensorIR

// Matrix instructions of a warp: products of 16 x 16 and 16 x 8 numbers of bf16, added to 16 x 8 of fp32.
//
// PTX ISA, "Matrix Fragments for mma.m16n8k16": with `group` = lane / 4 and `place` = lane % 4 a lane holds of the left side the
// pairs of columns `2 * place` and `2 * place + 8` in rows `group` and `group + 8`; of the right side the pairs of rows `2 * place` and
// `2 * place + 8` in column `group`; of the sum columns `2 * place` and the next one in rows `group` and `group + 8`.
extension GPUKernelEmitter {
  /// lane / 4.
  func laneGroup(_ b: IRBuilder) -> IRValue { b.lshr(lane, 2) }
  /// lane % 4.
  func lanePlace(_ b: IRBuilder) -> IRValue { b.and(lane, 3) }

  /// `sum + left * right`: four words, two words, four numbers, which are integers where both sides are.
  func multiply(
    _ b: IRBuilder, _ left: [IRValue], _ right: [IRValue], onto sum: [IRValue], of element: ElementType = .bf16
  ) -> [IRValue] {
    let result =
      element.isCode
      ? multiplyCodes(b, left, right, onto: sum, of: element)
      : b.intrinsic("llvm.nvvm.mma.m16n8k16.row.col.bf16", left + right + sum)
    return (0..<4).map { b.extractField(result, $0) }
  }

  /// Four tiles of 8 x 8 numbers of 16 bits from shared memory, each row of which begins where a lane says: those of lanes 0 to 7
  /// the first tile's, and so on. Every lane gets a pair of neighbours of each tile, or with `transposed` a pair below each
  /// other.
  func fragments(_ b: IRBuilder, _ address: IRValue, transposed: Bool = false) -> [IRValue] {
    let name = "llvm.nvvm.ldmatrix.sync.aligned.m8n8.x4\(transposed ? ".trans" : "").b16"
    let result = b.intrinsic(name, overloads: [address.type], [address])
    return (0..<4).map { b.extractField(result, $0) }
  }

  /// Of a left side in shared memory with rows of `rowStride` bytes, this lane's address for the tiles of its first 16 x 16
  /// numbers.
  func leftAddress(_ b: IRBuilder, _ base: IRValue, rowStride: Int) -> IRValue {
    let row = b.and(lane, 15)
    return b.offset(base, bytes: b.add(b.mul(row, rowStride), b.mul(b.lshr(lane, 4), 16)))
  }
}
