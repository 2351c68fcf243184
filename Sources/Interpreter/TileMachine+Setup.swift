import TensorIR
import TileIR

// What happens before the kernels.
extension TileMachine {
  private func sequences(_ offsets: BufferID) -> Int { rows(program[offsets].rows) - 1 }

  private func length(_ offsets: BufferID, _ sequence: Int) -> Int64 {
    integer(offsets, sequence + 1) - integer(offsets, sequence)
  }

  /// The checks of compiled code, in its order, with its errors.
  mutating func run(_ step: SetupStep) throws(InterpreterError) {
    switch step {
    case .checkOffsets(let offsets, let dimension):
      let argument = program[offsets].name
      let first = integer(offsets, 0)
      if first != 0 { throw .badOffsets(argument: argument, position: 0, found: first, expected: 0) }
      let (count, total) = (sequences(offsets), Int64(rows(Extent(dimension))))
      for position in 0...count {
        let found = integer(offsets, position)
        if position == count, found != total {
          throw .badOffsets(argument: argument, position: position, found: found, expected: total)
        }
        if position > 0, found < integer(offsets, position - 1) {
          throw .badOffsets(
            argument: argument, position: position, found: found, expected: integer(offsets, position - 1))
        }
      }
    case .checkTargets(let targets, let offsets):
      for sequence in 0..<sequences(offsets) {
        let (found, most) = (integer(targets, sequence), length(offsets, sequence))
        if !(0...most).contains(found) {
          throw .badTargets(argument: program[targets].name, position: sequence, found: found, expected: most)
        }
      }
    case .checkIDs(let ids, let entries):
      for row in 0..<rows(program[ids].rows) where !(0..<Int64(entries)).contains(integer(ids, row)) {
        throw .idOutOfRange(
          argument: program[ids].name, position: row, found: integer(ids, row), expected: Int64(entries))
      }
    case .checkLengths(let offsets, let maximum):
      for sequence in 0..<sequences(offsets) where length(offsets, sequence) > maximum {
        throw .sequenceTooLong(
          argument: program[offsets].name, position: sequence, found: Int(length(offsets, sequence)),
          expected: maximum)
      }
    case .selectOffsets(let selection, let offsets, let targets, let into, let extent):
      store(0, into, 0)
      for sequence in 0..<sequences(offsets) {
        let length = Int(length(offsets, sequence))
        let dropped = selection.dropped(length: length, targets: targets.map { Int(integer($0, sequence)) } ?? 0)
        store(integer(into, sequence) + Int64(length - dropped.count), into, sequence + 1)
      }
      define(extent, Int(integer(into, sequences(offsets))))
    case .extendOffsets(let addition, let offsets, let targets, let into, let extent):
      store(0, into, 0)
      for sequence in 0..<sequences(offsets) {
        let rows = addition.extendedLength.evaluate { variable in
          switch variable {
          case .position: 0
          case .length: Int(length(offsets, sequence))
          case .targets: targets.map { Int(integer($0, sequence)) } ?? 0
          }
        }
        store(integer(into, sequence) + Int64(rows), into, sequence + 1)
      }
      define(extent, Int(integer(into, sequences(offsets))))
    case .lengths(let offsets, let into):
      for sequence in 0..<sequences(offsets) { store(length(offsets, sequence), into, sequence) }
    case .blockTable(let offsets, let block, let into):
      store(0, into, 0)
      for sequence in 0..<sequences(offsets) {
        let rows = Int(length(offsets, sequence))
        let height = block.rows(ofSequence: rows)
        let blocks = (rows + height - 1) / height
        store(integer(into, sequence) + Int64(blocks), into, sequence + 1)
      }
    }
  }

  func value(of formula: Scalar.Formula) -> Number {
    let offsets: BufferID
    var targets: BufferID?
    switch formula {
    case .reciprocalOfLongestSequence(let of): offsets = of
    case .reciprocalOfLongestHistoryPlusTargets(let of, let counts): (offsets, targets) = (of, counts)
    }
    var history: Int64 = 0
    var most: Int64 = 0
    for sequence in 0..<sequences(offsets) {
      let own = targets.map { integer($0, sequence) } ?? 0
      history = max(history, length(offsets, sequence) - own)
      most = max(most, own)
    }
    return 1 / Number(max(history + most, 1))
  }
}
