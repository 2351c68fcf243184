/// The shape of a jagged batch: lengths, and how many rows of each sequence are targets.
struct RandomBatch: Sendable {
  var lengths: [Int] = []
  /// In 0...length.
  var targets: [Int] = []

  init(_ random: inout Random, longest: Int) {
    let sequences = random.once(in: 12) ? 0 : random.integer(in: 1...5)
    for _ in 0..<sequences {
      let length =
        switch random.integer(in: 0...7) {
        case 0: 0
        case 1: 1
        case 2: random.integer(in: 0...longest)
        default: random.integer(in: 1...min(longest, 24))
        }
      lengths.append(length)
      let count =
        switch random.integer(in: 0...3) {
        case 0: 0
        case 1: length
        default: random.integer(in: 0...min(length, 6))
        }
      targets.append(count)
    }
  }

  var rows: Int { lengths.reduce(0, +) }
  var offsets: [Int] { lengths.reduce(into: [0]) { $0.append($0[$0.count - 1] + $1) } }
}
