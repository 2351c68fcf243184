import LLVMKit
import TensorIR
import TileIR

// The lists of rankings in shared memory: what a warp puts into them, and the merge of what parts have found.
extension GPUKernelEmitter {
  var places: Int { plan.ranking.places }

  // MARK: - Lists

  /// Places of a row, best first, those that are not taken last: they have id -1. Behind them wait as many candidates as the warp has lanes:
  /// to put them in one by one would move the list for each.
  struct List {
    var scores: IRValue
    var ids: IRValue
  }

  func list(_ b: IRBuilder, _ number: IRValue) -> List {
    let first = b.mul(number, places + plan.ranking.waiting)
    return List(
      scores: b.offset(b.offset(emitter.shared, bytes: plan.ranking.scores), bytes: b.mul(first, 4)),
      ids: b.offset(emitter.shared, bytes: b.mul(first, 8)))
  }

  /// Empties a list.
  func clear(_ b: inout IRBuilder, _ list: List) {
    forLanes(&b, count: places) { b, index in
      b.store(context.f32.constant(-Double.infinity), b.element(list.scores, context.f32, index), alignment: 4)
      b.store(context.i64.constant(-1), b.element(list.ids, context.i64, index), alignment: 8)
    }
  }

  private func forLanes(_ b: inout IRBuilder, count: Int, _ body: (inout IRBuilder, IRValue) -> Void) {
    b.loop(
      from: lane, to: context.i32.constant(count), step: emitter.target.lanes, name: "place", hint: .asWritten, body)
  }

  func place(_ b: IRBuilder, _ list: List, _ index: IRValue) -> (score: IRValue, id: IRValue) {
    (
      b.load(context.f32, b.element(list.scores, context.f32, index), alignment: 4),
      b.load(context.i64, b.element(list.ids, context.i64, index), alignment: 8)
    )
  }

  /// Whether one goes before another, as `TopK` orders them; who is nobody goes before no one.
  private func goesBefore(
    _ b: IRBuilder, _ one: (score: IRValue, id: IRValue), _ other: (score: IRValue, id: IRValue)
  ) -> IRValue {
    let isNaN = b.fcmp(.uno, one.score, one.score)
    let otherIsNaN = b.fcmp(.uno, other.score, other.score)
    let isGreater = b.or(b.fcmp(.ogt, one.score, other.score), b.and(otherIsNaN, b.not(isNaN)))
    let isEqual = b.or(b.fcmp(.oeq, one.score, other.score), b.and(otherIsNaN, isNaN))
    let isFirst = b.or(isGreater, b.and(isEqual, b.icmp(.slt, one.id, other.id)))
    return b.and(b.icmp(.sge, one.id, 0), b.or(b.icmp(.slt, other.id, 0), isFirst))
  }

  /// Functions that all lanes of a warp call together.
  struct Offering {
    /// `{ i32, votes } (score, id, is there, scores, ids, waiting, seen, seen count)`: lets each lane's item wait for the list, unless it is
    /// worse than all that are there, or seen. Gives how many wait then, and a vote of each lane whose item does now.
    var offer: IRFunction
    /// `void (scores, ids, waiting)`: puts those that wait where they belong in the list.
    var merge: IRFunction
  }

  private func addListFunction(_ name: String, _ parameters: [IRType], returns result: IRType) -> IRFunction {
    let added = emitter.module.addFunction(
      "\(function.name)_\(name)", type: context.function(parameters, returns: result), linkage: .internal)
    // AMD's calls keep what is alive in scratch memory.
    let inlining = emitter.target.vendor == .amd ? "alwaysinline" : "noinline"
    for attribute in ["nounwind", inlining, "convergent"] { added.addAttribute(attribute) }
    return added
  }

  /// Emits both.
  func emitOffering() -> Offering {
    let (i32, i64, f32) = (context.i32, context.i64, context.f32)
    let (own, memory) = (
      context.pointer(addressSpace: GPUModuleEmitter.shared), context.pointer(addressSpace: GPUModuleEmitter.global)
    )
    let merge = emitMergingWaiting()
    let offer = addListFunction(
      "offer", [f32, i64, context.i1, own, own, i32, memory, i64], returns: context.structure([i32, votes]))
    let parameters = offer.parameters
    let list = List(scores: parameters[3], ids: parameters[4])
    var b = IRBuilder(at: offer.appendBlock("entry"))
    // One NaN for all, so that bits do not depend on how a product came to it.
    let isNumber = b.fcmp(.ord, parameters[0], parameters[0])
    let item = (score: b.select(isNumber, parameters[0], f32.constant(Double.nan)), id: parameters[1])
    let isPossible = b.and(parameters[2], goesBefore(b, item, place(b, list, i32.constant(places - 1))))
    let isNew = b.ifThenElse(isPossible) { b in
      // The first seen id that is not smaller.
      let found = count(&b, parameters[7]) { b, index in
        b.icmp(.slt, b.load(i64, b.element(parameters[6], i64, index), alignment: 8), item.id)
      }
      return b.ifThenElse(b.icmp(.slt, found, parameters[7])) { b in
        [b.icmp(.ne, b.load(i64, b.element(parameters[6], i64, found), alignment: 8), item.id)]
      } otherwise: { _ in
        [context.boolean(true)]
      }
    } otherwise: { _ in
      [context.boolean(false)]
    }[0]
    let wanted = vote(b, isNew)
    let number = countVotes(b, wanted)
    let isFull = b.icmp(.sgt, b.add(parameters[5], number), plan.ranking.waiting)
    let waiting = b.ifThenElse(isFull, name: "full") { b in
      b.call(merge, [list.scores, list.ids, parameters[5]])
      return [i32.constant(0)]
    } otherwise: { _ in
      [parameters[5]]
    }[0]
    let index = b.add(b.add(waiting, countVotes(b, b.and(wanted, votesBefore(b, ownLane(b))))), places)
    b.ifThen(isNew) { b in put(b, item, into: list, index) }
    meetLanes(b)
    b.ret(b.insertField(b.insertField(context.structure([i32, votes]).poison(), b.add(waiting, number), 0), wanted, 1))
    return Offering(offer: offer, merge: merge)
  }

  /// The lane, in a function of its own.
  private func ownLane(_ b: IRBuilder) -> IRValue { b.urem(threadIndex(b), emitter.target.lanes) }

  private func put(_ b: IRBuilder, _ item: (score: IRValue, id: IRValue), into list: List, _ index: IRValue) {
    b.store(item.score, b.element(list.scores, context.f32, index), alignment: 4)
    b.store(item.id, b.element(list.ids, context.i64, index), alignment: 8)
  }

  /// Of so many things, those before the first that a condition does not hold for: it holds for none behind it.
  private func count(
    _ b: inout IRBuilder, _ count: IRValue, _ isBefore: (IRBuilder, IRValue) -> IRValue
  ) -> IRValue {
    b.whileLoop(carrying: [count.type.constant(0), count]) { b, bounds in
      b.icmp(.slt, bounds[0], bounds[1])
    } _: { b, bounds in
      let middle = b.lshr(b.add(bounds[0], bounds[1]), 1)
      let isBefore = isBefore(b, middle)
      return [b.select(isBefore, b.add(middle, 1), bounds[0]), b.select(isBefore, bounds[1], middle)]
    }[0]
  }

  /// Those that wait are put in order; each place of the list moves on by as many as go before it; each of those goes where its order and
  /// the places before it say. What moves past the last place is gone.
  private func emitMergingWaiting() -> IRFunction {
    let i32 = context.i32
    let own = context.pointer(addressSpace: GPUModuleEmitter.shared)
    let merge = addListFunction("merge", [own, own, i32], returns: context.void)
    let (list, waiting) = (List(scores: merge.parameters[0], ids: merge.parameters[1]), merge.parameters[2])
    var b = IRBuilder(at: merge.appendBlock("entry"))
    let lane = ownLane(b)
    let isOwn = b.icmp(.slt, lane, waiting)
    let item = place(b, list, b.add(b.select(isOwn, lane, i32.constant(0)), places))
    let order = b.loop(
      from: i32.constant(0), to: waiting, step: 1, name: "order", hint: .asWritten, carrying: [i32.constant(0)]
    ) { b, index, carried in
      [b.add(carried[0], b.zext(goesBefore(b, place(b, list, b.add(index, places)), item), to: i32))]
    }[0]
    let before = count(&b, i32.constant(places)) { b, index in goesBefore(b, place(b, list, index), item) }
    meetLanes(b)
    b.ifThen(isOwn) { b in put(b, item, into: list, b.add(order, places)) }
    meetLanes(b)
    // From behind, so that nothing is overwritten that has not moved.
    let lanes = emitter.target.lanes
    let last = (places - 1) / lanes * lanes
    b.loop(from: i32.constant(0), to: i32.constant(last + 1), step: lanes, name: "move", hint: .asWritten) {
      b, number in
      let index = b.add(b.sub(i32.constant(last), number), lane)
      let there = place(b, list, b.smin(index, places - 1))
      let others = count(&b, waiting) { b, other in
        goesBefore(b, place(b, list, b.add(other, places)), there)
      }
      let target = b.add(index, others)
      meetLanes(b)
      b.ifThen(b.icmp(.slt, target, places)) { b in put(b, there, into: list, target) }
      meetLanes(b)
    }
    let target = b.add(order, before)
    b.ifThen(b.and(isOwn, b.icmp(.slt, target, places))) { b in put(b, item, into: list, target) }
    meetLanes(b)
    b.ret()
    return merge
  }

  @discardableResult
  func offer(
    _ b: IRBuilder, _ offering: Offering, _ item: (score: IRValue, id: IRValue), isThere: IRValue, to list: List,
    waiting: IRValue, seen: (ids: IRValue, count: IRValue)? = nil
  ) -> (waiting: IRValue, wanted: IRValue) {
    let none = context.pointer(addressSpace: GPUModuleEmitter.global).null()
    let result = b.call(
      offering.offer,
      [
        item.score, item.id, isThere, list.scores, list.ids, waiting, seen?.ids ?? none,
        seen?.count ?? context.i64.constant(0),
      ])
    return (b.extractField(result, 0), b.extractField(result, 1))
  }

  /// Writes a list where a row's results go; ids from a column on.
  func write(
    _ b: inout IRBuilder, _ list: List, row: IRValue, _ scores: TileSlice, _ ids: BufferID, firstColumn: IRValue
  ) {
    let i64 = context.i64
    let target = rowAddress(b, scores, row: row)
    let index = b.add(b.mul(b.add(firstRow, b.zext(row, to: i64)), emitter.program[ids].columns), firstColumn)
    let idTarget = b.element(address(ids), i64, index)
    forLanes(&b, count: places) { b, index in
      let there = place(b, list, index)
      b.store(there.score, b.element(target, context.f32, index), alignment: 4)
      b.store(there.id, b.element(idTarget, i64, index), alignment: 8)
    }
  }

  // MARK: - What parts have found, and what was seen

  func emitMerge(_ b: inout IRBuilder, _ merged: MergedParts) {
    let (i32, i64) = (context.i32, context.i64)
    let offering = emitOffering()
    b.ifThen(b.icmp(.slt, warp, rowCount)) { b in
      let own = list(b, warp)
      clear(&b, own)
      meetLanes(b)
      let first = b.mul(b.add(firstRow, b.zext(warp, to: i64)), merged.parts * places)
      // The best of all parts, then the second of all: where none of them is wanted, none of the next is.
      _ = b.whileLoop(name: "rank", carrying: [i32.constant(0), votes.constant(1)]) { b, carried in
        b.and(b.icmp(.slt, carried[0], places), b.icmp(.ne, carried[1], 0))
      } _: { b, carried in
        let end = b.loop(
          from: i32.constant(0), to: i32.constant(merged.parts), step: emitter.target.lanes, name: "part",
          hint: .asWritten, carrying: [i32.constant(0), votes.constant(0)]
        ) { b, chunk, known in
          let part = b.add(chunk, lane)
          let index = b.add(b.mul(b.smin(part, merged.parts - 1), places), carried[0])
          let place = b.add(first, b.zext(index, to: i64))
          let score = b.load(context.f32, b.element(address(merged.partScores), context.f32, place), alignment: 4)
          let id = b.load(i64, b.element(address(merged.partIDs), i64, place), alignment: 8)
          let isThere = b.icmp(.slt, part, merged.parts)
          let offered = offer(b, offering, (score, id), isThere: isThere, to: own, waiting: known[0])
          return [offered.waiting, b.or(known[1], offered.wanted)]
        }
        b.call(offering.merge, [own.scores, own.ids, end[0]])
        return [b.add(carried[0], 1), end[1]]
      }
      write(&b, own, row: warp, merged.scores, merged.ids, firstColumn: i64.constant(0))
    }
  }
}
