import LLVMKit
import TensorIR
import TileIR

// What happens before the kernels: checks of inputs, derived offsets, tables of blocks, scalars.
extension EntryEmitter {
  func emit(_ b: inout IRBuilder, _ step: SetupStep) {
    let i64 = context.i64
    let zero = i64.constant(0)
    func number(_ b: IRBuilder, _ buffer: BufferID, _ index: IRValue) -> IRValue {
      b.load(i64, b.element(emitter.address(b, buffer, frame: frame), i64, index))
    }
    func argument(_ buffer: BufferID) -> IRValue {
      if case .input(let index) = program[buffer].home { context.i32.constant(index) } else { context.i32.constant(-1) }
    }
    /// The number of sequences that offsets cut.
    func sequences(_ b: IRBuilder, _ offsets: BufferID) -> IRValue {
      b.sub(emitter.rows(b, program[offsets].rows, frame: frame), 1)
    }
    func length(_ b: IRBuilder, _ offsets: BufferID, _ sequence: IRValue) -> IRValue {
      b.sub(number(b, offsets, b.add(sequence, 1)), number(b, offsets, sequence))
    }

    /// Offsets of sequences whose lengths `rows` gives by those that they had and their targets.
    func derive(
      _ b: inout IRBuilder, _ offsets: BufferID, _ targets: BufferID?, _ into: BufferID, _ extent: String,
      _ rows: (IRBuilder, IRValue, IRValue) -> IRValue
    ) {
      let target = emitter.address(b, into, frame: frame)
      b.store(zero, target)
      let count = sequences(b, offsets)
      let total = b.loop(from: zero, to: count, step: 1, name: "derive", hint: .asWritten, carrying: [zero]) {
        b, sequence, carried in
        let own = rows(b, length(b, offsets, sequence), targets.map { number(b, $0, sequence) } ?? zero)
        let next = b.add(carried[0], own)
        b.store(next, b.element(target, i64, b.add(sequence, 1)))
        return [next]
      }[0]
      b.store(total, b.offset(frame, bytes: emitter.slot(ofExtent: extent)))
    }

    switch step {
    case .checkOffsets(let offsets, let rows):
      let count = sequences(b, offsets)
      let first = number(b, offsets, zero)
      check(
        &b, b.icmp(.eq, first, 0), .badOffsets, argument: argument(offsets), position: zero, found: first,
        expected: zero)
      func checkOrder(_ b: inout IRBuilder, at position: IRValue) {
        let (before, own) = (number(b, offsets, b.sub(position, 1)), number(b, offsets, position))
        check(
          &b, b.icmp(.sge, own, before), .badOffsets, argument: argument(offsets), position: position, found: own,
          expected: before)
      }
      b.loop(from: i64.constant(1), to: count, name: "offset", hint: .asWritten) { b, position in
        checkOrder(&b, at: position)
      }
      // What is expected of the last entry is the number of rows, even where it is below the entry before it, too.
      let (last, total) = (number(b, offsets, count), emitter.rows(b, Extent(rows), frame: frame))
      check(
        &b, b.icmp(.eq, last, total), .badOffsets, argument: argument(offsets), position: count, found: last,
        expected: total)
      b.ifThen(b.icmp(.sgt, count, 0)) { b in checkOrder(&b, at: count) }
    case .checkTargets(let targets, let offsets):
      b.loop(from: zero, to: sequences(b, offsets), name: "target", hint: .asWritten) { b, sequence in
        let (count, most) = (number(b, targets, sequence), length(b, offsets, sequence))
        check(
          &b, b.icmp(.ule, count, most), .badTargets, argument: argument(targets), position: sequence, found: count,
          expected: most)
      }
    case .checkIDs(let ids, let entries):
      b.loop(from: zero, to: emitter.rows(b, program[ids].rows, frame: frame), name: "id", hint: .asWritten) { b, row in
        let id = number(b, ids, row)
        check(
          &b, b.icmp(.ult, id, entries), .idOutOfRange, argument: argument(ids), position: row, found: id,
          expected: i64.constant(entries))
      }
    case .checkLengths(let offsets, let maximum):
      b.loop(from: zero, to: sequences(b, offsets), name: "length", hint: .asWritten) { b, sequence in
        let rows = length(b, offsets, sequence)
        check(
          &b, b.icmp(.sle, rows, maximum), .sequenceTooLong, argument: argument(offsets), position: sequence,
          found: rows, expected: i64.constant(maximum))
      }
    case .selectOffsets(let selection, let offsets, let targets, let into, let extent):
      let dropped = selection.dropped
      derive(&b, offsets, targets, into, extent) { b, rows, targets in
        let start = emitter.emit(b, dropped.start, position: zero, length: rows, targets: targets)
        let end = emitter.emit(b, dropped.end, position: zero, length: rows, targets: targets)
        return b.sub(rows, b.sub(end, start))
      }
    case .extendOffsets(let addition, let offsets, let targets, let into, let extent):
      derive(&b, offsets, targets, into, extent) { b, rows, targets in
        emitter.emit(b, addition.extendedLength, position: zero, length: rows, targets: targets)
      }
    case .lengths(let offsets, let into):
      let target = emitter.address(b, into, frame: frame)
      b.loop(from: zero, to: sequences(b, offsets), name: "length", hint: .asWritten) { b, sequence in
        b.store(length(b, offsets, sequence), b.element(target, i64, sequence))
      }
    case .blockTable(let offsets, let block, let into):
      let count = sequences(b, offsets)
      let target = emitter.address(b, into, frame: frame)
      b.store(zero, target)
      _ = b.loop(from: zero, to: count, step: 1, name: "blocks", hint: .asWritten, carrying: [zero]) {
        b, sequence, carried in
        let rows = length(b, offsets, sequence)
        let blocks = block.blocks(b, ofSequence: rows)
        let next = b.add(carried[0], blocks)
        b.store(next, b.element(target, i64, b.add(sequence, 1)))
        return [next]
      }
    }
  }

  func emitScalar(_ b: inout IRBuilder, _ scalar: ScalarID) {
    let i64 = context.i64
    let zero = i64.constant(0)
    let offsets: BufferID
    let targets: BufferID?
    switch program.scalars[scalar.index].formula {
    case .reciprocalOfLongestSequence(let of): (offsets, targets) = (of, nil)
    case .reciprocalOfLongestHistoryPlusTargets(let of, let counts): (offsets, targets) = (of, counts)
    }
    let offsetsAddress = emitter.address(b, offsets, frame: frame)
    let targetsAddress = targets.map { emitter.address(b, $0, frame: frame) }
    let count = b.sub(emitter.rows(b, program[offsets].rows, frame: frame), 1)
    let longest = b.loop(from: zero, to: count, step: 1, name: "longest", hint: .asWritten, carrying: [zero, zero]) {
      b, sequence, carried in
      let start = b.load(i64, b.element(offsetsAddress, i64, sequence))
      let rows = b.sub(b.load(i64, b.element(offsetsAddress, i64, b.add(sequence, 1))), start)
      let own = targetsAddress.map { b.load(i64, b.element($0, i64, sequence)) } ?? zero
      return [b.smax(carried[0], b.sub(rows, own)), b.smax(carried[1], own)]
    }
    let divisor = b.smax(b.add(longest[0], longest[1]), 1)
    let reciprocal = b.fdiv(context.f32.constant(1.0), b.sitofp(divisor, to: context.f32))
    b.store(reciprocal, b.offset(frame, bytes: emitter.slot(of: scalar)))
  }
}

extension BlockHeight {
  /// How many rows the blocks of a sequence have.
  func rows(_ b: IRBuilder, ofSequence length: IRValue) -> IRValue {
    let i64 = length.type
    guard let short else { return i64.constant(most) }
    return b.select(b.icmp(.slt, length, short.below), i64.constant(short.rows), i64.constant(most))
  }

  /// How many blocks a sequence has. Heights are constants here, so that no division is left.
  func blocks(_ b: IRBuilder, ofSequence length: IRValue) -> IRValue {
    func blocks(of rows: Int) -> IRValue { b.sdiv(b.add(length, rows - 1), rows) }
    guard let short else { return blocks(of: most) }
    return b.select(b.icmp(.slt, length, short.below), blocks(of: short.rows), blocks(of: most))
  }
}
