import TensorIR
import Testing

/// Which rows a demand is, and what a mask makes of it, against the definitions by trying all small cases.
@Suite struct RowDemandTests {
  private func rows(_ demand: RowDemand, length: Int, targets: Int) -> [Int] {
    switch demand {
    case .none: []
    case .all: Array(0..<length)
    case .ends(let first, let latest):
      (0..<length).filter { $0 < first || $0 >= length - targets - latest }
    }
  }

  private static let demands: [RowDemand] =
    [.none, .all] + (0...3).flatMap { first in (0...4).map { .ends(first: first, latest: $0) } }

  private static let masks: [Mask] = {
    var forms: [Mask.Form] = [.causal]
    for window in 1...4 { forms += [0, 1, 3].map { .windowed(window: window, fullTail: $0) } }
    for local in [0, 1, 2, 4] {
      for global in [0, 1, 3] {
        forms += Mask.PrefixTargets.allCases.map { .keyPrefix(local: local, global: global, targets: $0) }
      }
    }
    return forms.flatMap { form in (0...3).map { Mask(form, contextual: $0) } }
  }()

  @Test("a demand is what its selection keeps")
  func selections() throws {
    for demand in Self.demands {
      guard let selection = demand.selection else { continue }
      #expect(RowDemand(selection) == demand)
      for length in 0...9 {
        for targets in 0...length {
          let dropped = selection.dropped(length: length, targets: targets)
          #expect(
            (0..<length).filter { !dropped.contains($0) } == rows(demand, length: length, targets: targets),
            "\(demand), \(length) rows, \(targets) targets")
        }
      }
    }
  }

  @Test("a join has the rows of both, and a demand within another has no row that the other lacks")
  func joins() {
    for one in Self.demands {
      for other in Self.demands {
        let joined = one.joined(with: other)
        #expect(joined == other.joined(with: one))
        #expect(one.isWithin(joined) && other.isWithin(joined))
        for length in 0...9 {
          let all = Set(rows(joined, length: length, targets: 2 % (length + 1)))
          let part = Set(rows(one, length: length, targets: 2 % (length + 1)))
          #expect(part.isSubset(of: all))
        }
      }
    }
  }

  @Test("a selection of a selection that keeps more is the selection itself")
  func selectionsOfSelections() {
    for inner in Self.demands {
      for outer in Self.demands {
        guard let first = outer.selection, let second = inner.selection, second.isUnchanged(after: first) else {
          continue
        }
        for length in 0...11 {
          for targets in 0...min(length, 3) {
            let kept = rows(outer, length: length, targets: targets)
            let again = rows(inner, length: kept.count, targets: targets).map { kept[$0] }
            #expect(again == rows(inner, length: length, targets: targets), "\(second) after \(first)")
          }
        }
      }
    }
  }

  @Test("rows that stay in pairs are those of the latest, and one more where that leaves out an even number")
  func pairedRows() {
    for keep in 0...6 {
      for contextual in 0...3 {
        let plain = RowSelection.latest(keep: keep, contextual: contextual)
        let paired = RowSelection.pairedLatest(keep: keep, contextual: contextual)
        for length in 0...15 {
          for targets in 0...min(length, 3) {
            let dropped = paired.dropped(length: length, targets: targets)
            let all = plain.dropped(length: length, targets: targets)
            #expect(dropped.lowerBound == all.lowerBound && dropped.count == all.count & ~1, "\(paired) of \(length)")
            // Again it drops nothing, and fewer of the latest are those of all rows.
            let left = length - dropped.count
            #expect(paired.dropped(length: left, targets: targets).isEmpty)
            for fewer in 0...keep {
              let second = RowSelection.latest(keep: fewer, contextual: contextual)
              #expect(second.isUnchanged(after: paired))
              let rows = (0..<length).filter { !dropped.contains($0) }
              let again = second.dropped(length: left, targets: targets)
              let once = second.dropped(length: length, targets: targets)
              #expect(
                rows.enumerated().filter { !again.contains($0.offset) }.map(\.element)
                  == (0..<length).filter { !once.contains($0) })
            }
          }
        }
        // Which rows are pairs follows from the number of all.
        #expect(!paired.isUnchanged(after: .latest(keep: keep + 1, contextual: contextual)))
        #expect(paired.isUnchanged(after: paired))
      }
    }
  }

  @Test("of the keys alone, demanded rows see the same keys as of all rows")
  func keys() {
    var narrowed = 0
    for mask in Self.masks {
      for demand in Self.demands {
        for hasTargets in [false, true] {
          for keepsDistances in [false, true] {
            let keys = mask.keys(of: demand, hasTargets: hasTargets, keepsDistances: keepsDistances)
            #expect(demand.isWithin(keys))
            if keys != .all { narrowed += 1 }
            for length in 0...14 {
              for targets in 0...(hasTargets ? min(length, 3) : 0) {
                check(mask, demand, keys, length: length, targets: targets, keepsDistances: keepsDistances)
              }
            }
          }
        }
      }
    }
    #expect(narrowed > 1000)
  }

  private func check(
    _ mask: Mask, _ demand: RowDemand, _ keys: RowDemand, length: Int, targets: Int, keepsDistances: Bool
  ) {
    let kept = rows(keys, length: length, targets: targets)
    let moved = Dictionary(uniqueKeysWithValues: kept.enumerated().map { ($1, $0) })
    for row in rows(demand, length: length, targets: targets) {
      let visible = mask.visibleKeys(position: row, length: length, targets: targets).flatMap { Array($0) }
      let context = "\(mask.text), \(demand) -> \(keys), row \(row) of \(length), \(targets) targets"
      guard let place = moved[row] else {
        Issue.record("the row itself is no key: \(context)")
        return
      }
      let found = mask.visibleKeys(position: place, length: kept.count, targets: targets).flatMap { Array($0) }
      guard visible.compactMap({ moved[$0] }) == found, visible.allSatisfy({ moved[$0] != nil }) else {
        Issue.record("sees \(visible), but \(found.map { kept[$0] }) of the keys alone: \(context)")
        return
      }
      if keepsDistances {
        #expect(found.map { kept[$0] - row } == found.map { $0 - place }, "\(context)")
      }
    }
  }
}
