import LLVMKit
import TensorIR
import TileIR

// Matrix instructions of AMD's warps of 64 lanes, waves, and products by them: 16 x 16 and 16 x 16 numbers of bf16, added to 16 x 16
// of fp32.
//
// `v_mfma_f32_16x16x16_bf16` (CDNA3 ISA, "Matrix fused multiply-add"; AMD's matrix instruction calculator prints it): with `row` =
// lane % 16 and `slice` = lane / 16 a lane holds of the left side the columns `4 * slice` and on of row `row`, of the right side the
// rows `4 * slice` and on of column `row`, of the sum rows `4 * slice` and on of column `row`: four numbers each.
//
// The weight is the left side, transposed, and rows of the block are the right side's columns: so a lane's four sums are neighbours
// in a row. Which contracted numbers meet is for both sides to agree on: slice `slice` takes those that fragments have together, the
// pairs `2 * slice` and `2 * slice + 8` of a step.
extension GPUKernelEmitter {
  /// lane % 16.
  func waveRow(_ b: IRBuilder) -> IRValue { b.and(lane, 15) }
  /// lane / 16.
  func waveSlice(_ b: IRBuilder) -> IRValue { b.lshr(lane, 4) }

  /// A lane's four sums, of nothing yet.
  var noSums: IRValue { context.vector(context.f32, 4).null() }

  /// `sum + left * right`: four numbers of bf16 as words of 16 bits each, or eight codes, and four of fp32, or integers.
  func multiplyByWave(
    _ b: IRBuilder, _ left: IRValue, _ right: IRValue, onto sum: IRValue, of element: ElementType = .bf16
  ) -> IRValue {
    let zero = context.i32.constant(0)
    guard element.isCode else {
      return b.intrinsic("llvm.amdgcn.mfma.f32.16x16x16bf16.1k", [left, right, sum, zero, zero, zero])
    }
    let sides = [left, right].map { b.bitcast($0, to: context.i64) }
    let name = element == .i8 ? "i32.16x16x32.i8" : "f32.16x16x32.fp8.fp8"
    return b.intrinsic("llvm.amdgcn.mfma.\(name)", sides + [sum, zero, zero, zero])
  }

  /// Where in a panel's step a lane's numbers of the first 16 columns lie; those of the other 16 lie 256 bytes further. Column `row` of
  /// the 16 is the column `row / 4` of tile `row % 4`, and two tiles make a half.
  private func weightOffset(_ b: IRBuilder) -> IRValue {
    let row = waveRow(b)
    let group = b.add(b.mul(b.lshr(row, 2), 4), waveSlice(b))
    let half = b.and(b.lshr(row, 1), 1)
    return b.add(b.add(b.mul(half, Self.stepBytes / 2), b.mul(group, 16)), b.mul(b.and(row, 1), 8))
  }

  /// The sums with those of a segment: of each tile of 16 rows, of each panel, of its two halves of 16 columns.
  func addByWave(
    _ b: inout IRBuilder, _ segment: GPUPlan.Product.Segment, panels: [IRValue], rowTiles: Int, to sums: [IRValue]
  ) -> [IRValue] {
    let (i64, four) = (context.i64, context.vector(context.i16, 4))
    let addresses = fragmentAddresses(b, segment, panels: panels, laneBytes: weightOffset(b))
    let left = activations(b, segment.left)
    // What is on its way would be moved from register to register if it were for the step after next: two steps are one where they can.
    let element = emitter.program[segment.right].element
    let steps = Packing.steps(segment.left.count, of: element)
    let together = steps % 2 == 0 ? 2 : 1
    return contract(&b, steps: steps / together, ahead: 1, onto: sums) { b, turn in
      (0..<together).flatMap { number in
        let step = b.zext(b.add(b.mul(turn, together), number), to: i64)
        return addresses.flatMap { address in
          let start = b.offset(address, bytes: b.mul(step, Self.stepBytes))
          // Others whose results wait for the next turn are moved there.
          return (0..<2).map {
            b.bitcast(
              b.load(i64, b.offset(start, bytes: $0 * 256), alignment: 8, invariant: true, unordered: true), to: four)
          }
        }
      }
    } multiply: { b, turn, weights, sums in
      var sums = sums
      let count = weights.count / together
      for number in 0..<together {
        let step = b.add(b.mul(turn, together), number)
        for rowTile in 0..<rowTiles {
          let rows = left(b, step, rowTile)
          for (half, weight) in weights[number * count..<(number + 1) * count].enumerated() {
            let place = rowTile * count + half
            sums[place] = self.multiplyByWave(b, weight, rows, onto: sums[place], of: element)
          }
        }
      }
      return sums
    }
  }

  /// Reads a lane's four numbers of a step from a left side in shared memory: of row `row` of a tile of 16 rows the pairs of columns
  /// `2 * slice` and `2 * slice + 8`.
  private func activations(_ b: IRBuilder, _ slice: TileSlice) -> (IRBuilder, IRValue, Int) -> IRValue {
    let (i32, row) = (context.i32, waveRow(b))
    func numbers(_ b: IRBuilder, _ first: IRValue, _ second: IRValue) -> IRValue {
      let words = [first, second].map { b.load(i32, $0, alignment: 4) }
      return b.bitcast(vector(b, words), to: context.vector(context.i16, 4))
    }
    guard let place = plan.places[slice.tile], place.isSwizzled else {
      let stride = rowStride(of: slice.tile)
      let base = b.offset(rowAddress(b, slice, row: row), bytes: b.mul(waveSlice(b), 4))
      return { b, step, rowTile in
        let start = b.offset(b.offset(base, bytes: b.mul(step, Packing.stepBytes)), bytes: rowTile * 16 * stride)
        return numbers(b, start, b.offset(start, bytes: 16))
      }
    }
    // A step is two pieces of 16 bytes, which lie in the order that the row's number within its eight gives.
    let base = b.offset(
      b.offset(emitter.shared, bytes: b.add(b.mul(row, place.rowStride), b.mul(waveSlice(b), 4))), bytes: place.offset)
    let order = b.mul(b.and(row, 7), 16)
    let atomSteps = place.rowStride / Packing.stepBytes
    return { b, step, rowTile in
      let atom = b.mul(b.udiv(step, atomSteps), self.plan.rows * place.rowStride)
      let piece = b.xor(b.mul(b.urem(step, atomSteps), Packing.stepBytes), order)
      let starts = [piece, b.xor(piece, 16)].map {
        b.offset(b.offset(base, bytes: b.add(atom, $0)), bytes: rowTile * 16 * place.rowStride)
      }
      return numbers(b, starts[0], starts[1])
    }
  }

  /// Writes what becomes of the sums of a panel.
  func finishByWave(
    _ b: inout IRBuilder, _ product: GPUPlan.Product, panel: IRValue, _ sums: [IRValue], number: Int, together: Int,
    rowTiles: Int
  ) {
    let firstColumn = b.add(b.mul(panel, Packing.fragmentColumns), b.mul(waveSlice(b), 4))
    let canFinish = canFinish(product.into, product.finish, together: 4)
    for rowTile in 0..<rowTiles {
      for half in 0..<2 {
        write(
          &b, product.into, product.finish, row: b.add(waveRow(b), rowTile * 16), column: b.add(firstColumn, half * 16),
          numbers(b, scalars(b, sums[(rowTile * together + number) * 2 + half]), of: product), together: canFinish)
      }
    }
  }
}
