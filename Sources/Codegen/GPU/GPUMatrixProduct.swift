import LLVMKit
import TensorIR
import TileIR

// Products of matrices in shared memory (PTX ISA, "Asynchronous Warpgroup Level Matrix Instructions"). The left side lies there whole; the
// weight comes through a ring of slots, a panel of 256 columns and some contracted rows each, which a warp of its own fills. Two
// groups of four warps multiply: each takes half of the block's rows, or where those are 64 half of the panel's columns.
extension GPUKernelEmitter {
  private var ring: GPUPlan.Ring { plan.ring ?? GPUPlan.Ring(offset: 0, slots: 1, steps: 1) }
  /// Columns that a group of warps takes of a panel.
  private var groupColumns: Int { plan.rows == 128 ? Packing.matrixColumns : Packing.matrixColumns / 2 }

  /// Makes the ring's barriers.
  func emitRing(_ b: inout IRBuilder) {
    b.ifThen(b.icmp(.eq, thread, 0)) { b in
      for slot in 0..<ring.slots {
        let place = b.i32(slot)
        makeBarrier(b, full(b, place), arrivals: 1)
        makeBarrier(b, empty(b, place), arrivals: GPUPlan.multiplyingWarps)
      }
      publishBarriers(b)
    }
    barrier(b)
    ringPlace = (b.i32(0), b.i32(0))
  }

  func emitProducts(_ b: inout IRBuilder, _ products: [GPUPlan.Product], isLast: Bool) {
    let i32 = context.i32
    let (parts, own) = (special(b, "nctaid.y"), special(b, "ctaid.y"))
    /// Runs the body for each product's panels that are this block's.
    func forPanels(
      _ b: inout IRBuilder, carrying: [IRValue],
      _ body: (inout IRBuilder, GPUPlan.Product, IRValue, [IRValue]) -> [IRValue]
    ) -> [IRValue] {
      var carried = carrying
      var before = 0
      for product in products {
        let panels = product.into.count / Packing.matrixColumns
        // The panels of all products are dealt out one after the other.
        let first = firstPiece(b, part: own, of: parts, before: before)
        carried = b.loop(
          from: first, to: i32.constant(panels), step: parts, name: "panel", hint: .asWritten, carrying: carried
        ) { b, panel, carried in body(&b, product, panel, carried) }
        before += panels
      }
      return carried
    }
    let start = [ringPlace.slot, ringPlace.round]
    let end = b.ifThenElse(b.icmp(.sge, warp, GPUPlan.multiplyingWarps), name: "role") { b in
      takeRegisters(b, 56, more: false)
      let end = forPanels(&b, carrying: start) { b, product, panel, carried in bring(&b, product, panel: panel, carried)
      }
      if !isLast { takeRegisters(b, 168, more: true) }
      return end
    } otherwise: { b in
      takeRegisters(b, 224, more: true)
      let end = forPanels(&b, carrying: start) { b, product, panel, carried in
        multiply(&b, product, panel: panel, carried)
      }
      if !isLast { takeRegisters(b, 168, more: false) }
      return end
    }
    ringPlace = (end[0], end[1])
  }

  // MARK: - The ring

  private func barrierAddress(_ b: IRBuilder, _ slot: IRValue, _ offset: Int) -> IRValue {
    b.add(b.ptrtoint(b.offset(emitter.shared, bytes: ring.barriers + offset), to: context.i32), b.mul(slot, 8))
  }
  private func full(_ b: IRBuilder, _ slot: IRValue) -> IRValue { barrierAddress(b, slot, 0) }
  private func empty(_ b: IRBuilder, _ slot: IRValue) -> IRValue { barrierAddress(b, slot, 8 * ring.slots) }

  private func slotAddress(_ b: IRBuilder, _ slot: IRValue) -> IRValue {
    b.add(b.ptrtoint(b.offset(emitter.shared, bytes: ring.offset), to: context.i32), b.mul(slot, ring.slotBytes))
  }

  /// The place after one.
  private func next(_ b: IRBuilder, _ carried: [IRValue]) -> [IRValue] {
    let slot = b.add(carried[0], 1)
    let isLast = b.icmp(.eq, slot, ring.slots)
    return [b.select(isLast, b.i32(0), slot), b.xor(carried[1], b.zext(isLast, to: context.i32))]
  }

  /// Brings a panel's weights, slot by slot.
  private func bring(
    _ b: inout IRBuilder, _ product: GPUPlan.Product, panel: IRValue, _ carried: [IRValue]
  ) -> [IRValue] {
    let (i32, i64) = (context.i32, context.i64)
    var carried = carried
    let stepBytes = Packing.matrixColumns * Packing.stepBytes
    let element = product.element(emitter.program)
    for segment in product.segments {
      let panelBytes = Packing.steps(segment.rows, of: element) * stepBytes
      let start = b.mul(b.zext(b.add(panel, segment.firstColumn / Packing.matrixColumns), to: i64), panelBytes)
      let source = b.offset(
        b.offset(address(segment.right), bytes: start),
        bytes: segment.firstRow / Packing.stepRows(of: element) * stepBytes)
      carried = b.loop(
        from: i32.constant(0), to: i32.constant(stages(segment)), step: 1, name: "bring", hint: .asWritten,
        carrying: carried
      ) { b, stage, carried in
        wait(b, empty(b, carried[0]), parity: b.xor(carried[1], 1))
        b.ifThen(b.icmp(.eq, thread, GPUPlan.multiplyingWarps * emitter.target.lanes)) { b in
          let place = b.offset(source, bytes: b.zext(b.mul(stage, ring.slotBytes), to: i64))
          arrive(b, full(b, carried[0]), expecting: ring.slotBytes)
          b.assembly(
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [$0], [$1], \(ring.slotBytes), [$2];",
            constraints: "r,l,r,~{memory}", returns: context.void,
            [slotAddress(b, carried[0]), place, full(b, carried[0])])
        }
        return next(b, carried)
      }
    }
    return carried
  }

  private func stages(_ segment: GPUPlan.Product.Segment) -> Int {
    Packing.steps(segment.left.count, of: emitter.program[segment.right].element) / ring.steps
  }

  // MARK: - Multiplying

  private func multiply(
    _ b: inout IRBuilder, _ product: GPUPlan.Product, panel: IRValue, _ carried: [IRValue]
  ) -> [IRValue] {
    let i32 = context.i32
    let group = b.lshr(warp, 2)
    let count = groupColumns / 2
    let stepBytes = Packing.matrixColumns * Packing.stepBytes
    var sums = Array(repeating: noSum(product), count: count)
    var place = carried
    for segment in product.segments {
      let owner = plan.places[segment.left.tile] ?? GPUPlan.Place(offset: 0, rowStride: 0)
      var left = b.ptrtoint(b.offset(emitter.shared, bytes: owner.offset), to: i32)
      if plan.rows == 128 { left = b.add(left, b.mul(group, 64 * owner.rowStride)) }
      let atomBytes = plan.rows * owner.rowStride
      let atomSteps = owner.rowStride / Packing.stepBytes
      let result = b.loop(
        from: i32.constant(0), to: i32.constant(stages(segment)), step: 1, name: "contract", hint: .asWritten,
        carrying: sums + place
      ) { b, stage, carried in
        let place = Array(carried[count...])
        let first = b.mul(stage, ring.steps)
        let leftStep = b.add(
          left,
          b.add(b.mul(b.udiv(first, atomSteps), atomBytes), b.mul(b.urem(first, atomSteps), Packing.stepBytes)))
        var right = slotAddress(b, place[0])
        if plan.rows == 64 { right = b.add(right, b.mul(group, groupColumns * Packing.stepBytes)) }
        var descriptions: [IRValue] = []
        for step in 0..<ring.steps {
          descriptions.append(
            description(
              b, b.add(leftStep, step * Packing.stepBytes), leading: 16, stride: 8 * owner.rowStride,
              isSwizzled: true))
          descriptions.append(
            description(b, b.add(right, step * stepBytes), leading: 128, stride: 256, isSwizzled: false))
        }
        wait(b, full(b, place[0]), parity: place[1])
        let sums = matrixMultiply(b, descriptions, onto: Array(carried[..<count]), of: product.element(emitter.program))
        b.ifThen(b.icmp(.eq, lane, 0)) { b in arrive(b, empty(b, place[0])) }
        return sums + next(b, place)
      }
      sums = Array(result[..<count])
      place = Array(result[count...])
    }
    finish(&b, product, panel: panel, group: group, sums)
    return place
  }

  /// The sums with products of pairs of sides added, in this order.
  private func matrixMultiply(
    _ b: IRBuilder, _ descriptions: [IRValue], onto sums: [IRValue], of element: ElementType
  ) -> [IRValue] {
    let count = sums.count
    let registers = (0..<count).map { "$\($0)" }.joined(separator: ", ")
    var text = "{\n\t.reg .pred isAdded;\n\tsetp.ne.b32 isAdded, 1, 0;\n\twgmma.fence.sync.aligned;\n"
    for pair in 0..<descriptions.count / 2 {
      let operands = "{\(registers)}, $\(2 * count + 2 * pair), $\(2 * count + 2 * pair + 1), isAdded"
      text += "\twgmma.mma_async.sync.aligned.m64n\(groupColumns)" + Self.matrixInstruction(element, operands)
    }
    text += "\twgmma.commit_group.sync.aligned;\n\twgmma.wait_group.sync.aligned 0;\n\t}"
    let type = sums[0].type
    let outputs = Array(repeating: type == context.f32 ? "=f" : "=r", count: count)
    let inputs = (0..<count).map(String.init) + Array(repeating: "l", count: descriptions.count)
    let result = b.assembly(
      text, constraints: (outputs + inputs + ["~{memory}"]).joined(separator: ","),
      returns: context.structure(Array(repeating: type, count: count)), sums + descriptions)
    return (0..<count).map { b.extractField(result, $0) }
  }

  /// Writes what becomes of a panel's sums. Of each 32 columns a lane has eight neighbours.
  private func finish(
    _ b: inout IRBuilder, _ product: GPUPlan.Product, panel: IRValue, group: IRValue, _ sums: [IRValue]
  ) {
    var firstRow = b.add(b.mul(b.and(warp, 3), 16), laneGroup(b))
    var firstColumn = b.add(b.mul(panel, Packing.matrixColumns), b.mul(lanePlace(b), 8))
    if plan.rows == 128 { firstRow = b.add(firstRow, b.mul(group, 64)) }
    if plan.rows == 64 { firstColumn = b.add(firstColumn, b.mul(group, groupColumns)) }
    let isWide = canFinishEight(product)
    for half in 0..<2 {
      let row = b.add(firstRow, half * 8)
      b.ifThen(b.icmp(.slt, row, rowCount)) { b in
        var pieces: [(at: Elements, sum: IRValue)] = []
        for columns in 0..<groupColumns / 32 {
          let column = b.add(firstColumn, columns * 32)
          let numbers = numbers(
            b, (0..<8).map { sums[(columns * 4 + $0 / 2) * 4 + 2 * half + $0 % 2] }, of: product)
          if isWide {
            pieces.append((Elements(row: row, column: column, lanes: 8), vector(b, numbers)))
          } else {
            for (place, sum) in numbers.enumerated() {
              pieces.append((Elements(row: row, column: b.add(column, place), lanes: 1), sum))
            }
          }
        }
        // What belongs to all of them is read before one is written, so that memory is waited for once; or twice, and so on, where as many
        // registers hold two numbers for each sum, or more.
        let together = max(pieces.count / max(product.finish.elementReads, 1), 1)
        for first in stride(from: 0, to: pieces.count, by: together) {
          let part = pieces[first..<min(first + together, pieces.count)]
          let values = part.map {
            finished(b, product.into, $0.at, $0.sum, product.finish, isInOrder: together < pieces.count)
          }
          for (piece, value) in zip(part, values) { put(b, value, product.into, piece.at) }
        }
      }
    }
  }
}
