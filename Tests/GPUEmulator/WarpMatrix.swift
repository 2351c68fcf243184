/// Matrix instructions of a warp of 32 lanes (PTX ISA, "mma.m16n8k16" and "ldmatrix").
enum WarpMatrix {
  private static func pair(_ word: UInt32) -> (Float, Float) {
    (bf16(UInt16(truncatingIfNeeded: word)), bf16(UInt16(word >> 16)))
  }

  /// Sums [16, 8] and left [16, 16] times right [16, 8].
  static func multiply(_ lanes: [DeviceOperation.Lane]) {
    var left = Array(repeating: Float(0), count: 16 * 16)
    var right = Array(repeating: Float(0), count: 16 * 8)
    for (number, lane) in lanes.enumerated() {
      let (group, place) = (number / 4, number % 4)
      for word in 0..<4 {
        let at = (group + word % 2 * 8) * 16 + 2 * place + word / 2 * 8
        (left[at], left[at + 1]) = pair(lane.word(word))
      }
      for word in 0..<2 {
        let row = 2 * place + word * 8
        (right[row * 8 + group], right[(row + 1) * 8 + group]) = pair(lane.word(4 + word))
      }
    }
    for (number, lane) in lanes.enumerated() {
      let (group, place) = (number / 4, number % 4)
      for field in 0..<4 {
        let (row, column) = (group + field / 2 * 8, 2 * place + field % 2)
        var sum = lane.argument(6 + field, as: Float.self)
        for index in 0..<16 { sum += left[row * 16 + index] * right[index * 8 + column] }
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
