/// Matrix instructions of a warp of 32 lanes (PTX ISA, "mma.m16n8k16", "mma.m16n8k32" and "ldmatrix").
enum WarpMatrix {
  /// Sums [16, 8] and left [16, k] times right [k, 8], k being 16 numbers of bf16 or 32 of eight bits.
  static func multiply(_ element: MatrixElement) -> ([DeviceOperation.Lane]) -> Void {
    { lanes in multiply(lanes, element) }
  }

  private static func multiply(_ lanes: [DeviceOperation.Lane], _ element: MatrixElement) {
    let together = 4 / element.byteCount
    let depth = 8 * together
    var left = Array(repeating: Float(0), count: 16 * depth)
    var right = Array(repeating: Float(0), count: depth * 8)
    for (number, lane) in lanes.enumerated() {
      let (group, place) = (number / 4, number % 4)
      for word in 0..<4 {
        let at = (group + word % 2 * 8) * depth + together * place + word / 2 * depth / 2
        for (index, number) in element.numbers(lane.word(word)).enumerated() { left[at + index] = number }
      }
      for word in 0..<2 {
        let row = together * place + word * depth / 2
        for (index, number) in element.numbers(lane.word(4 + word)).enumerated() {
          right[(row + index) * 8 + group] = number
        }
      }
    }
    for (number, lane) in lanes.enumerated() {
      let (group, place) = (number / 4, number % 4)
      for field in 0..<4 {
        let (row, column) = (group + field / 2 * 8, 2 * place + field % 2)
        var sum = lane.word(6 + field)
        for index in 0..<depth {
          sum = element.sum(sum, plus: left[row * depth + index] * right[index * 8 + column])
        }
        lane.give(sum, field)
      }
    }
  }

  /// Four tiles of 8 x 8 numbers of 16 bits.
  static func load(_ lanes: [DeviceOperation.Lane], isTransposed: Bool) {
    let rows = lanes.map { $0.pointer(0) }
    for (number, lane) in lanes.enumerated() {
      let (group, place) = (number / 4, number % 4)
      for tile in 0..<4 {
        for half in 0..<2 {
          let (row, column) = isTransposed ? (2 * place + half, group) : (group, 2 * place + half)
          let bits = rows[8 * tile + row].load(fromByteOffset: 2 * column, as: UInt16.self)
          lane.give(bits, 2 * tile + half)
        }
      }
    }
  }
}
