/// Matrix instructions of four warps (PTX ISA, "wgmma.mma_async"), all of those in one piece of assembly, and what stands between them: sums
/// [64, n] in registers, a left side [64, k] in registers or shared memory, a right side [k, n] in shared memory, k being 16 of bf16 or 32 of
/// eight bits. A piece of assembly may have waits and fences alone.
struct GroupMatrix {
  /// An operand of the assembly by its number, or a register that the text declares.
  enum Operand {
    case number(Int)
    case local(String)
  }

  struct Instruction {
    var element: MatrixElement
    var columns: Int
    /// Operands' numbers.
    var sums: [Int]
    var leftRegisters: [Int]
    var left: Operand?
    var right: Operand
    var isAdded: Bool
    var isLeftTransposed = false
    var isRightTransposed = false
  }

  enum Step {
    case add(to: String, Operand, Int)
    case multiply(Instruction)
    /// Barriers of some warps: the operand that has the number, and the threads.
    case meet(Int, Int)
    case arrive(Int, Int)
    /// What was done to registers before is done.
    case fence
    /// Closes a group of products; waits for the end of all but the latest groups.
    case commit
    case wait(butLatest: Int)
  }

  private(set) var steps: [Step] = []
  let call: DeviceText.Call

  /// Nil where the text has other instructions.
  init?(_ text: String, _ call: DeviceText.Call) {
    self.call = call
    var predicates: [String: Bool] = [:]
    for statement in text.split(separator: ";") {
      let line = String(statement).trimmed
      let words = line.split { " ,\n\t".contains($0) }.map(String.init)
      guard let mnemonic = words.first(where: { $0 != "{" && $0 != "}" }) else { continue }
      let operands = Array(words.drop { $0 != mnemonic }.dropFirst())
      switch mnemonic {
      case ".reg": break
      case "wgmma.fence.sync.aligned": steps.append(.fence)
      case "wgmma.commit_group.sync.aligned": steps.append(.commit)
      case "wgmma.wait_group.sync.aligned":
        guard let count = operands.first.flatMap({ Int($0) }) else { return nil }
        steps.append(.wait(butLatest: count))
      case "setp.ne.b32":
        guard operands.count == 3, let one = Int(operands[1]), let other = Int(operands[2]) else { return nil }
        predicates[operands[0]] = one != other
      case "add.s64":
        guard operands.count == 3, let source = Self.operand(operands[1]), let number = Int(operands[2]) else {
          return nil
        }
        steps.append(.add(to: operands[0], source, number))
      case "bar.sync", "bar.arrive":
        guard operands.count == 2, case .number(let number)? = Self.operand(operands[0]), let threads = Int(operands[1])
        else { return nil }
        steps.append(mnemonic == "bar.sync" ? .meet(number, threads) : .arrive(number, threads))
      default:
        guard let instruction = Self.instruction(line, predicates) else { return nil }
        steps.append(.multiply(instruction))
      }
    }
  }

  private static func operand(_ text: String) -> Operand? {
    if text.hasPrefix("$") { return Int(text.dropFirst()).map { .number($0) } }
    return text.first?.isLetter == true ? .local(text) : nil
  }

  private static func instruction(_ line: String, _ predicates: [String: Bool]) -> Instruction? {
    guard let start = line.range(of: "wgmma.mma_async.sync.aligned.m64n") else { return nil }
    let rest = line[start.upperBound...]
    let elements: [(String, MatrixElement)] = [
      ("k16.f32.bf16.bf16", .bf16), ("k32.f32.e4m3.e4m3", .e4m3), ("k32.s32.s8.s8", .s8),
    ]
    guard let columns = Int(rest.prefix { $0.isNumber }),
      let element = elements.first(where: { rest.drop { $0.isNumber }.hasPrefix($0.0 + " ") })?.1,
      let open = rest.firstIndex(of: "{"), let close = rest.firstIndex(of: "}")
    else { return nil }
    func numbers(_ text: Substring) -> [Int] {
      text.split(separator: ",").compactMap { Int(String($0).trimmed.dropFirst()) }
    }
    let sums = numbers(rest[rest.index(after: open)..<close])
    var tail = rest[rest.index(after: close)...].drop { ", ".contains($0) }
    var leftRegisters: [Int] = []
    if tail.first == "{", let end = tail.firstIndex(of: "}") {
      leftRegisters = numbers(tail[tail.index(after: tail.startIndex)..<end])
      tail = tail[tail.index(after: end)...].drop { ", ".contains($0) }
    }
    var words = tail.split(separator: ",").map { String($0).trimmed }
    func take() -> String? { words.isEmpty ? nil : words.removeFirst() }
    let left = leftRegisters.isEmpty ? take().flatMap(operand) : nil
    guard let right = take().flatMap(operand), sums.count == columns / 2,
      let isAdded = take().flatMap({ predicates[$0] })
    else { return nil }
    // Neither side of integers is negated, and only bf16 is transposed.
    if !element.isInteger { guard take() == "1", take() == "1" else { return nil } }
    var instruction = Instruction(
      element: element, columns: columns, sums: sums, leftRegisters: leftRegisters, left: left, right: right,
      isAdded: isAdded)
    guard element == .bf16 else { return words.isEmpty && left != nil ? instruction : nil }
    if left != nil { instruction.isLeftTransposed = take() == "1" }
    instruction.isRightTransposed = take() == "1"
    return instruction
  }

  /// Which argument an operand of this number is: outputs have numbers too.
  func argument(_ operand: Int) -> Int { operand - call.outputs }
}

/// A side of a product in shared memory, as its descriptor tells (PTX ISA, "Matrix Descriptor" and "Canonical layouts").
struct SharedMatrix {
  private let start, leading, stride: Int
  private let isSwizzled: Bool
  private let element: MatrixElement

  init(_ bits: UInt64, _ element: MatrixElement) {
    self.element = element
    start = Int(bits & 0x3FFF) << 4
    leading = Int(bits >> 16 & 0x3FFF) << 4
    stride = Int(bits >> 32 & 0x3FFF) << 4
    isSwizzled = bits >> 62 == 1
  }

  /// Rows (of the right side columns), 32 bytes of contracted numbers each, and zeros.
  func rows(_ count: Int, _ isTransposed: Bool) -> [SIMD32<Float>] {
    (0..<count).map { row in
      var numbers = SIMD32<Float>.zero
      for index in 0..<32 / element.byteCount { numbers[index] = number(row, index, isTransposed) }
      return numbers
    }
  }

  /// The numbers of the sixteen bytes each that such a side lies in.
  func pieces(_ count: Int, _ isTransposed: Bool) -> [Int] {
    // Sixteen bytes of neighbours lie together: of a row, or of contracted numbers of the same index.
    let together = 16 / element.byteCount
    let (rows, indices) = isTransposed ? (together, 1) : (1, together)
    return Swift.stride(from: 0, to: count, by: rows).flatMap { row in
      Swift.stride(from: 0, to: 32 / element.byteCount, by: indices).map {
        place(row, $0, isTransposed) / SharedNotes.pieceBytes
      }
    }
  }

  private func number(_ row: Int, _ index: Int, _ isTransposed: Bool) -> Float {
    let place = place(row, index, isTransposed)
    guard place + element.byteCount <= GPUEmulator.windowSize, let window = GPUEmulator.window.baseAddress else {
      return .nan
    }
    return element.number(at: window + place)
  }

  /// Where a number lies. All addresses of the window have the same bits above those that descriptors tell.
  private func place(_ row: Int, _ index: Int, _ isTransposed: Bool) -> Int {
    var place = start
    let byte = index * element.byteCount
    switch (isSwizzled, isTransposed) {
    case (false, false): place += row / 8 * stride + byte / 16 * leading + row % 8 * 16 + byte % 16
    case (false, true): place += row / 8 * stride + index / 8 * leading + index % 8 * 16 + row % 8 * 2
    case (true, false): place += row / 8 * stride + row % 8 * 128 + byte
    case (true, true): place += row / 64 * leading + index / 8 * stride + index % 8 * 128 + row % 64 * 2
    }
    // Sixteen bytes each lie in the order that the row's number within its eight gives.
    if isSwizzled { place ^= place >> 3 & 0x70 }
    return place
  }
}
