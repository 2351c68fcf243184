/// What a warp knows to be over: of each warp of the cluster a moment, all before which it has been told of.
///
/// Matrix instructions and bulk copies see shared memory another way than threads do. What was written before somebody made that visible to
/// them (`fence.proxy.async`), having been told of it, is `published` to who was told of that.
struct Knowledge {
  private(set) var known: [UInt32]
  private(set) var published: [UInt32]

  init(warps: Int) {
    known = Array(repeating: 0, count: warps)
    published = known
  }

  mutating func learn(_ other: Knowledge) {
    for warp in known.indices {
      known[warp] = max(known[warp], other.known[warp])
      published[warp] = max(published[warp], other.published[warp])
    }
  }

  /// The warp's own doings until a moment.
  mutating func note(_ warp: Int, until moment: UInt32) { known[warp] = moment }

  mutating func publish() { published = known }
}

/// What the warps of a cluster know of each other. Lanes of a warp are not told apart.
struct ClusterKnowledge {
  private var warps: [Knowledge]
  /// Goes on whenever somebody tells others something.
  private(set) var moment: UInt32 = 1

  init(warps count: Int) { warps = Array(repeating: Knowledge(warps: count), count: count) }

  subscript(_ warp: Int) -> Knowledge { warps[warp] }

  /// What a warp tells: all that it knows, and what it did until now.
  mutating func tell(_ warp: Int) -> Knowledge {
    warps[warp].note(warp, until: moment)
    moment += 1
    return warps[warp]
  }

  mutating func learn(_ warp: Int, _ what: Knowledge) { warps[warp].learn(what) }

  /// Warps that have waited for each other.
  mutating func meet(_ those: some Collection<Int>) {
    var all = Knowledge(warps: warps.count)
    for warp in those { all.learn(tell(warp)) }
    for warp in those { learn(warp, all) }
  }

  /// Makes what a warp knows of visible to matrix instructions and bulk copies.
  mutating func publish(_ warp: Int) {
    _ = tell(warp)
    warps[warp].publish()
  }

  /// What every one of a group of warps knows; each knows all of its own writes.
  func common(to group: Range<Int>) -> Knowledge.Common {
    let members = group.map { warps[$0] }
    return Knowledge.Common(
      known: warps.indices.map { writer in
        group.lazy.filter { $0 != writer }.map { warps[$0].known[writer] }.min() ?? .max
      },
      published: warps.indices.map { writer in members.lazy.map { $0.published[writer] }.min() ?? 0 })
  }
}

extension Knowledge {
  /// What several warps all know.
  struct Common {
    var known: [UInt32]
    var published: [UInt32]
  }
}

/// Who has written each sixteen bytes of a block's shared memory last, and which groups of four warps read them with matrix instructions.
struct SharedNotes {
  static let pieceBytes = 16

  private struct Write {
    var warp: UInt16 = 0
    var isBulk = false
    /// 0 for nobody.
    var moment: UInt32 = 0
  }

  /// What a group of warps reads.
  private struct Reads {
    /// Products that have begun and were not waited for.
    var pending: [UInt8]
    /// When the latest was waited for; 0 for never.
    var end: [UInt32]
  }

  private var writes: [Write]
  private var reads: [Reads]
  private let warpsBefore: Int

  /// Of a block of so many bytes and warps, before which its cluster has `warpsBefore`.
  init(bytes: Int, warps: Int, warpsBefore: Int) {
    let count = (bytes + Self.pieceBytes - 1) / Self.pieceBytes
    writes = Array(repeating: Write(), count: count)
    let none = Reads(pending: Array(repeating: 0, count: count), end: Array(repeating: 0, count: count))
    reads = Array(repeating: none, count: warps / 4)
    self.warpsBefore = warpsBefore
  }

  /// Notes a write; gives what is wrong with it.
  mutating func write(
    _ offset: Int, _ count: Int, by warp: Int, inBulk isBulk: Bool, at moment: UInt32, _ knowledge: Knowledge
  ) -> String? {
    guard offset >= 0, count > 0, (offset + count - 1) / Self.pieceBytes < writes.count else {
      return "warp \(warp) writes \(count) bytes at \(offset), outside of shared memory"
    }
    var fault: String?
    for piece in offset / Self.pieceBytes...(offset + count - 1) / Self.pieceBytes {
      for (group, reads) in reads.enumerated() {
        let end = reads.end[piece]
        let first = warpsBefore + 4 * group
        let others = (first..<first + 4).filter { $0 != warp }
        if reads.pending[piece] > 0 || end > 0 && others.contains(where: { knowledge.known[$0] < end }) {
          fault =
            "warp \(warp) writes to shared memory at \(piece * Self.pieceBytes), which a product of warps \(first) to \(first + 3) "
            + "may still read"
        }
      }
      let last = writes[piece]
      if isBulk, last.moment > 0, !last.isBulk, knowledge.published[Int(last.warp)] < last.moment {
        fault =
          "a bulk copy to shared memory at \(piece * Self.pieceBytes), where warp \(last.warp) has written, without "
          + "fence.proxy.async"
      }
      writes[piece] = Write(warp: UInt16(warp), isBulk: isBulk, moment: moment)
    }
    return fault
  }

  /// Notes that a product of a group of warps begins to read pieces; gives what is wrong with it.
  mutating func begin(_ pieces: [Int], group: Int, _ common: Knowledge.Common) -> String? {
    var fault: String?
    for piece in pieces where piece < writes.count {
      let last = writes[piece]
      let place = "shared memory at \(piece * Self.pieceBytes), which warp \(last.warp) has written"
      if last.moment > common.known[Int(last.warp)] {
        fault = "a product reads \(place), but was not told so by a barrier"
      } else if !last.isBulk, last.moment > common.published[Int(last.warp)] {
        fault = "a product reads \(place), without fence.proxy.async"
      }
      reads[group].pending[piece] += 1
    }
    return fault
  }

  /// Notes that a group of warps has waited for a product.
  mutating func end(_ pieces: [Int], group: Int, at moment: UInt32) {
    for piece in pieces where piece < writes.count {
      reads[group].pending[piece] -= 1
      reads[group].end[piece] = moment
    }
  }
}
