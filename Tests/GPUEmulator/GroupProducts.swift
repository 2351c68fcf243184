/// The registers that a piece of assembly with matrix instructions gives, of 128 threads.
private final class Registers {
  let number: Int
  /// Of each thread, by output.
  var words: [[UInt32]]
  /// Products that are still to be added, by output.
  var pending: [Int]
  /// Outputs that were given as marks.
  var marked: Set<Int> = []
  /// Registers that came with products of another piece of assembly still to be added, by output.
  var sources: [Int: (registers: Registers, output: Int)] = [:]

  init(number: Int, threads: Int, outputs: Int) {
    self.number = number
    words = Array(repeating: Array(repeating: Float.nan.bitPattern, count: outputs), count: threads)
    pending = Array(repeating: 0, count: outputs)
  }

  var isFinal: Bool { pending.allSatisfy { $0 == 0 } }

  /// Takes over what registers that others had have become.
  func takeFinal() {
    for (output, source) in sources where source.registers.pending[source.output] == 0 {
      for thread in words.indices { words[thread][output] = source.registers.words[thread][source.output] }
      sources[output] = nil
    }
  }
}

/// A product that has begun and was not waited for.
private struct PendingProduct {
  var instruction: GroupMatrix.Instruction
  var registers: Registers
  /// Words of the left side, of each thread, where it lies in registers.
  var leftWords: [[UInt32]]
  var left: SharedMatrix?
  var right: SharedMatrix
  /// What it reads of shared memory, in pieces.
  var pieces: [Int] = []
  var isDone = false

  mutating func perform() {
    if isDone { return }
    isDone = true
    registers.takeFinal()
    let left = left?.rows(64, instruction.isLeftTransposed) ?? leftRows()
    let right = right.rows(instruction.columns, instruction.isRightTransposed)
    for thread in leftWords.indices {
      let (group, place) = (thread % 32 / 4, thread % 4)
      for (field, output) in instruction.sums.enumerated() {
        let row = thread / 32 * 16 + group + field % 4 / 2 * 8
        let column = field / 4 * 8 + 2 * place + field % 2
        let product = (left[row] * right[column]).sum()
        registers.words[thread][output] = instruction.element.sum(
          instruction.isAdded ? registers.words[thread][output] : 0, plus: product)
      }
    }
  }

  private func leftRows() -> [SIMD32<Float>] {
    var left = Array(repeating: SIMD32<Float>.zero, count: 64)
    for (thread, words) in leftWords.enumerated() {
      let (group, place) = (thread % 32 / 4, thread % 4)
      for (word, bits) in words.enumerated() {
        let (row, index) = (thread / 32 * 16 + group + word % 2 * 8, 2 * place + word / 2 * 8)
        left[row][index] = bf16(UInt16(truncatingIfNeeded: bits))
        left[row][index + 1] = bf16(UInt16(bits >> 16))
      }
    }
    return left
  }
}

/// What a group of four warps has begun to multiply (PTX ISA, "Asynchronous Warpgroup Level Matrix Instructions").
///
/// Where copies arrive late, products are done when they are waited for. Until then each register of their sums is a NaN that tells which one
/// it is, and which a wait that has it as an operand replaces: whoever reads it before has NaN.
final class GroupProducts {
  private let block: EmulatedBlock
  private let group: Int
  private var open: [PendingProduct] = []
  private var closed: [[PendingProduct]] = []
  private var unfinished: [Int: Registers] = [:]
  private var count = 0

  init(_ block: EmulatedBlock, group: Int) { (self.block, self.group) = (block, group) }

  var areOver: Bool { open.isEmpty && closed.isEmpty }

  /// NaN, of which the lower bits tell the register.
  private static let mark: UInt32 = 0x7FE0_0000
  private static let outputBits = 8
  private static let numberMask = 0xFFF

  private static func mark(_ registers: Registers, _ output: Int) -> UInt32 {
    mark | UInt32(registers.number & numberMask) << outputBits | UInt32(output)
  }

  private func registers(markedBy word: UInt32) -> (registers: Registers, output: Int)? {
    guard word >> 20 == Self.mark >> 20, let own = unfinished[Int(word) >> Self.outputBits & Self.numberMask] else {
      return nil
    }
    let output = Int(word) & (1 << Self.outputBits - 1)
    return output < own.pending.count ? (own, output) : nil
  }

  private func fail(_ what: String) { block.cluster.fault = what }

  /// Runs a piece of assembly; false where others have not come to a barrier yet.
  func run(_ matrix: GroupMatrix, _ lanes: [DeviceOperation.Lane]) -> Bool {
    let call = matrix.call
    if case .meet(let operand, let threads)? = matrix.steps.first {
      let number = Int(lanes[0].word(matrix.argument(operand)))
      guard block.takeArrivals(at: number, threads - lanes.count, for: block.warps(ofGroup: group)) else {
        return false
      }
    }
    let own = Registers(number: count, threads: lanes.count, outputs: call.outputs)
    count += 1
    var handedOn: Set<UInt32> = []
    for tie in call.ties {
      let word = lanes[0].word(tie.argument)
      if let source = registers(markedBy: word) {
        own.sources[tie.output] = source
        handedOn.insert(word)
      }
      for thread in lanes.indices { own.words[thread][tie.output] = lanes[thread].word(tie.argument) }
    }
    var locals: [String: UInt64] = [:]
    func value(_ operand: GroupMatrix.Operand) -> UInt64 {
      switch operand {
      case .number(let number): lanes[0].argument(matrix.argument(number), as: UInt64.self)
      case .local(let name): locals[name] ?? 0
      }
    }
    var isFenced = false
    for (index, step) in matrix.steps.enumerated() {
      switch step {
      case .meet: if index > 0 { fail("a barrier among products that others have begun before") }
      case .arrive(let operand, _):
        block.arrive(atNumber: Int(lanes[0].word(matrix.argument(operand))), block.warps(ofGroup: group), lanes.count)
      case .add(let name, let source, let number): locals[name] = value(source) &+ UInt64(number)
      case .fence: isFenced = true
      case .multiply(let instruction):
        // Sums that go from product to product need none.
        if isLate, !isFenced, !instruction.sums.allSatisfy({ own.sources[$0] != nil || own.pending[$0] > 0 }) {
          fail("a product begins without wgmma.fence")
        }
        begin(instruction, own, lanes, matrix, left: instruction.left.map(value), right: value(instruction.right))
      case .commit:
        closed.append(open)
        open = []
      case .wait(let count):
        while closed.count > count { end(closed.removeFirst(), own, lanes, matrix) }
      }
    }
    for (number, registers) in unfinished where registers.isFinal {
      if !handedOn.isSuperset(of: registers.marked.map { Self.mark(registers, $0) }) {
        fail("a wait for products does not have their sums as operands")
      }
      unfinished[number] = nil
    }
    own.takeFinal()
    if isLate { own.marked = Set(own.pending.indices.filter { own.pending[$0] > 0 }) }
    if !own.marked.isEmpty { unfinished[own.number & Self.numberMask] = own }
    for (lane, words) in zip(lanes, own.words) {
      for (output, word) in words.enumerated() {
        lane.give(own.marked.contains(output) ? Self.mark(own, output) : word, output)
      }
    }
    return true
  }

  private var isLate: Bool { block.emulator.arrival == .late }

  private func begin(
    _ instruction: GroupMatrix.Instruction, _ registers: Registers, _ lanes: [DeviceOperation.Lane],
    _ matrix: GroupMatrix,
    left: UInt64?, right: UInt64
  ) {
    var product = PendingProduct(
      instruction: instruction, registers: registers,
      leftWords: lanes.map { lane in instruction.leftRegisters.map { lane.word(matrix.argument($0)) } },
      left: left.map { SharedMatrix($0, instruction.element) }, right: SharedMatrix(right, instruction.element))
    product.pieces = product.right.pieces(instruction.columns, instruction.isRightTransposed)
    if let left = product.left { product.pieces += left.pieces(64, instruction.isLeftTransposed) }
    block.beginReading(product.pieces, group: group)
    for output in instruction.sums {
      registers.pending[output] += 1
      if let source = registers.sources[output] { source.registers.marked.remove(source.output) }
    }
    if !isLate { product.perform() }
    open.append(product)
  }

  private func end(
    _ products: [PendingProduct], _ own: Registers, _ lanes: [DeviceOperation.Lane], _ matrix: GroupMatrix
  ) {
    for var product in products {
      product.perform()
      for output in product.instruction.sums { product.registers.pending[output] -= 1 }
      block.endReading(product.pieces, group: group)
      guard product.registers !== own, let count = product.leftWords.first?.count, count > 0 else { continue }
      // What is no operand here was free to be something else meanwhile.
      let areHeld = zip(lanes, product.leftWords).allSatisfy { lane, words in
        (0..<max(0, matrix.call.arguments.count - count + 1)).contains { first in
          (0..<count).allSatisfy { lane.word(first + $0) == words[$0] }
        }
      }
      if !areHeld { fail("a wait for products does not have the registers of their left side as operands") }
    }
  }
}
