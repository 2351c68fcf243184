import TensorIR
import Testing

@Suite("Masks")
struct MaskTests {
  private static let forms: [Mask.Form] = {
    var forms: [Mask.Form] = [.causal]
    for window in 1...8 { for tail in [0, 1, 3, 6, 7, 8] { forms.append(.windowed(window: window, fullTail: tail)) } }
    for local in [0, 1, 3, 6, 7] {
      for global in [0, 2, 6, 7] {
        for targets in Mask.PrefixTargets.allCases {
          forms.append(.keyPrefix(local: local, global: global, targets: targets))
        }
      }
    }
    return forms
  }()

  @Test("a simplified mask shows the same keys to every row of every sequence within the bounds", arguments: 0...7)
  func simplified(history: Int) {
    var changed = 0
    for form in Self.forms {
      for contextual in 0...4 {
        for hasTargets in [false, true] {
          let mask = Mask(form, contextual: contextual)
          let simple = mask.simplified(Mask.Bounds(history: history, hasTargets: hasTargets))
          if simple == mask { continue }
          changed += 1
          for rows in 0...history {
            for targets in 0...(hasTargets ? 3 : 0) {
              let length = rows + targets
              for position in 0..<length {
                let keys = mask.visibleKeys(position: position, length: length, targets: targets)
                let simpleKeys = simple.visibleKeys(position: position, length: length, targets: targets)
                #expect(
                  keys.flatMap { $0 } == simpleKeys.flatMap { $0 },
                  "\(mask) for row \(position) of \(length) with \(targets) targets")
              }
            }
          }
        }
      }
    }
    #expect(changed > 20)
  }

  @Test("a mask one row too narrow is left alone")
  func narrow() {
    let bounds = Mask.Bounds(history: 6, hasTargets: true)
    for form in [
      Mask.Form.windowed(window: 5, fullTail: 0), .windowed(window: 2, fullTail: 2),
      .keyPrefix(local: 2, global: 3, targets: .windowed), .keyPrefix(local: 6, global: 6, targets: .history),
    ] {
      #expect(Mask(form).simplified(bounds) == Mask(form))
      let shows = { (mask: Mask) in
        (0..<8).map { mask.visibleKeys(position: $0, length: 8, targets: 2).flatMap { $0 } }
      }
      #expect(shows(Mask(form)) != shows(.causal), "it could have been simplified")
    }
  }
}
