/// Matrix instructions of four warps (PTX ISA, "wgmma.mma_async"), all of those in one piece of assembly: sums [64, n] in registers, a
/// left side [64, 16] in registers or shared memory, a right side [16, n] in shared memory, of bf16.
struct GroupMatrix {
  private struct Instruction {
    var columns: Int
    /// Operands' numbers.
    var sums: [Int]
    var leftRegisters: [Int]
    var left: Int?
    var right: Int
    var isLeftTransposed = false
    var isRightTransposed = false
  }

  private var instructions: [Instruction] = []
  private let outputs: Int

  /// Nil where the text has other instructions.
  init?(_ text: String) {
    var outputs = 0
    for statement in text.split(separator: ";") {
      let line = String(statement).trimmed
      guard let start = line.range(of: "wgmma.mma_async.sync.aligned.m64n") else { continue }
      let rest = line[start.upperBound...]
      guard let columns = Int(rest.prefix { $0.isNumber }), rest.contains("k16.f32.bf16.bf16"),
        let open = rest.firstIndex(of: "{"), let close = rest.firstIndex(of: "}")
      else { return nil }
      func operands(_ text: Substring) -> [Int] {
        text.split(separator: ",").compactMap { Int(String($0).trimmed.dropFirst()) }
      }
      let sums = operands(rest[rest.index(after: open)..<close])
      outputs = max(outputs, sums.count)
      var tail = rest[rest.index(after: close)...].drop { ", ".contains($0) }
      var leftRegisters: [Int] = []
      if tail.first == "{", let end = tail.firstIndex(of: "}") {
        leftRegisters = operands(tail[tail.index(after: tail.startIndex)..<end])
        tail = tail[tail.index(after: end)...].drop { ", ".contains($0) }
      }
      var words = tail.split(separator: ",").map { String($0).trimmed }
      func take() -> String? { words.isEmpty ? nil : words.removeFirst() }
      let left = leftRegisters.isEmpty ? take().flatMap { Int($0.dropFirst()) } : nil
      guard let right = take().flatMap({ Int($0.dropFirst()) }), sums.count == columns / 2, take() != nil,
        take() == "1", take() == "1"
      else { return nil }
      var instruction = Instruction(
        columns: columns, sums: sums, leftRegisters: leftRegisters, left: left, right: right)
      if left != nil { instruction.isLeftTransposed = take() == "1" }
      instruction.isRightTransposed = take() == "1"
      instructions.append(instruction)
    }
    guard !instructions.isEmpty else { return nil }
    self.outputs = outputs
  }

  func run(_ lanes: [DeviceOperation.Lane]) {
    /// The index among arguments of an operand: outputs have numbers, but are no arguments.
    func argument(_ operand: Int) -> Int { operand - outputs }
    // Sums are tied to the first arguments.
    var sums = lanes.map { lane in (0..<outputs).map { lane.argument($0, as: Float.self) } }
    for instruction in instructions {
      let columns = instruction.columns
      var left = Array(repeating: SIMD16<Float>.zero, count: 64)
      if let operand = instruction.left {
        let side = SharedMatrix(lanes[0].argument(argument(operand), as: UInt64.self))
        for row in 0..<64 {
          for index in 0..<16 { left[row][index] = side.number(row, index, instruction.isLeftTransposed) }
        }
      } else {
        for (number, lane) in lanes.enumerated() {
          let (group, place) = (number % 32 / 4, number % 4)
          for (word, operand) in instruction.leftRegisters.enumerated() {
            let bits = lane.word(argument(operand))
            let (row, index) = (number / 32 * 16 + group + word % 2 * 8, 2 * place + word / 2 * 8)
            left[row][index] = bf16(UInt16(truncatingIfNeeded: bits))
            left[row][index + 1] = bf16(UInt16(bits >> 16))
          }
        }
      }
      let side = SharedMatrix(lanes[0].argument(argument(instruction.right), as: UInt64.self))
      var right = Array(repeating: SIMD16<Float>.zero, count: columns)
      for column in 0..<columns {
        for index in 0..<16 { right[column][index] = side.number(column, index, instruction.isRightTransposed) }
      }
      for number in lanes.indices {
        let (group, place) = (number % 32 / 4, number % 4)
        for (field, operand) in instruction.sums.enumerated() {
          let row = number / 32 * 16 + group + field % 4 / 2 * 8
          let column = field / 4 * 8 + 2 * place + field % 2
          sums[number][operand] += (left[row] * right[column]).sum()
        }
      }
    }
    for (lane, sums) in zip(lanes, sums) { for (field, sum) in sums.enumerated() { lane.give(sum, field) } }
  }
}

/// A side of a product in shared memory, as its descriptor tells (PTX ISA, "Matrix Descriptor" and "Canonical layouts").
private struct SharedMatrix {
  private let start, leading, stride: Int
  private let isSwizzled: Bool

  init(_ bits: UInt64) {
    start = Int(bits & 0x3FFF) << 4
    leading = Int(bits >> 16 & 0x3FFF) << 4
    stride = Int(bits >> 32 & 0x3FFF) << 4
    isSwizzled = bits >> 62 == 1
  }

  /// The number in a row (of the right side a column) at a contracted index.
  func number(_ row: Int, _ index: Int, _ isTransposed: Bool) -> Float {
    var place = start
    switch (isSwizzled, isTransposed) {
    case (false, false): place += row / 8 * stride + index / 8 * leading + row % 8 * 16 + index % 8 * 2
    case (false, true): place += row / 8 * stride + index / 8 * leading + index % 8 * 16 + row % 8 * 2
    case (true, false): place += row / 8 * stride + row % 8 * 128 + index * 2
    case (true, true): place += row / 64 * leading + index / 8 * stride + index % 8 * 128 + row % 64 * 2
    }
    // Sixteen bytes each lie in the order that the row's number within its eight gives.
    if isSwizzled { place ^= place >> 3 & 0x70 }
    // All addresses of the window have the same bits above those that descriptors tell.
    guard place + 2 <= GPUEmulator.windowSize else { return .nan }
    return bf16(GPUEmulator.window.load(fromByteOffset: place, as: UInt16.self))
  }
}
