/// Which keys a row of attention sees: the only place where masks are defined.
///
/// A sequence of `n` rows is contextual rows, history, then targets; `h = n - targets`. Sources: SEMANTICS section 3;
/// GR ops/pytorch/pt_hstu_attention.py (`causal`, `windowed`), TER tzrec/ops/hstu_attention_utils.py (`keyPrefix`).
public struct Mask: Hashable, Sendable {
  /// The families of masks in use, with their widths in rows.
  public enum Form: Hashable, Sendable {
    /// Every earlier row, and itself; target rows see history and themselves, never each other.
    case causal
    /// At most `window` (> 0) earlier rows, and itself. The last `fullTail` history rows and all targets are exempt
    /// where `fullTail` > 0: semi-local attention in its query-tail form.
    case windowed(window: Int, fullTail: Int)
    /// The first max(`global`, contextual) rows and the latest `local` rows, which count the row itself: semi-local
    /// attention in its key-prefix form.
    case keyPrefix(local: Int, global: Int, targets: PrefixTargets)
  }

  /// What target rows see under the key-prefix form.
  public enum PrefixTargets: String, Hashable, Sendable, CaseIterable {
    /// All history, and not themselves (TER).
    case history
    /// The prefix, the latest `local` history rows, and themselves.
    case windowed
  }

  /// The family and its widths.
  public var form: Form
  /// Rows at the start of every sequence that see the whole history and that all others see: GR's rule for `causal`
  /// and `windowed`. Under `keyPrefix` they only lengthen the prefix (TER).
  public var contextual: Int

  /// Causal and without contextual rows unless told otherwise. The numbers are checked where an operation uses the
  /// mask.
  public init(_ form: Form = .causal, contextual: Int = 0) {
    self.form = form
    self.contextual = contextual
  }

  /// Every earlier row and the row itself, without contextual rows.
  public static let causal = Mask()
}

/// The half-open range of key positions `[start, end)`; empty where `end <= start`.
public struct KeyInterval: Hashable, Sendable {
  /// The first position, counted from the sequence's first row.
  public var start: IndexExpression
  /// One more than the last position.
  public var end: IndexExpression
}

extension Mask {
  /// The keys that the row at `position` sees in a sequence of `length` rows of which `targets` are targets: at most
  /// three intervals, disjoint and ascending wherever they are not empty.
  public var intervals: [KeyInterval] {
    let history = IndexExpression.length - .targets
    switch form {
    case .causal:
      return earlierAndSelf(from: 0, history: history)
    case .windowed(let window, let fullTail):
      // A row's identity: 0 for contextual rows, then counting, `lastIdentity` for targets.
      let skip = Swift.max(contextual - 1, 0)
      let lastIdentity = history - .constant(skip)
      let identity = IndexExpression.min(.max(.position - .constant(skip), 0), lastIdentity)
      let low = identity - .constant(window)
      // Where the window reaches identity 0, the contextual rows are inside it too.
      let windowStart = IndexExpression.ifLess(0, low, then: low + .constant(skip), otherwise: 0)
      let start =
        fullTail == 0
        ? windowStart
        : .ifLess(identity, lastIdentity - .constant(fullTail), then: windowStart, otherwise: 0)
      return earlierAndSelf(from: start, history: history)
    case .keyPrefix(let local, let global, let targets):
      let prefix = IndexExpression.constant(Swift.max(global, contextual))
      let next = IndexExpression.position + 1
      let isHistory = { (then: IndexExpression, otherwise: IndexExpression) in
        IndexExpression.ifLess(.position, history, then: then, otherwise: otherwise)
      }
      switch targets {
      case .history:
        return [
          KeyInterval(start: 0, end: isHistory(.min(prefix, next), history)),
          KeyInterval(
            start: .max(prefix, next - .constant(local)), end: isHistory(next, 0)),
        ]
      case .windowed:
        let newest = IndexExpression.min(next, history)
        return [
          KeyInterval(start: 0, end: .min(prefix, newest)),
          KeyInterval(start: .max(prefix, newest - .constant(local)), end: newest),
          KeyInterval(start: isHistory(next, .position), end: next),
        ]
      }
    }
  }

  /// GR's rule for `causal` and `windowed`: keys from `start` up to the row (up to the history's end for a target),
  /// the row itself, and everything in the history for a contextual row.
  private func earlierAndSelf(from start: IndexExpression, history: IndexExpression) -> [KeyInterval] {
    let own = KeyInterval(start: .max(.position, history), end: .position + 1)
    let earlier = IndexExpression.min(.position + 1, history)
    guard contextual > 0 else { return [KeyInterval(start: start, end: earlier), own] }
    let context = IndexExpression.constant(contextual)
    // A history shorter than the contextual rows leaves one identity for all: every row sees only itself.
    let complete = { (interval: IndexExpression, otherwise: IndexExpression) in
      IndexExpression.ifLess(history, context, then: otherwise, otherwise: interval)
    }
    let isContextual = { (then: IndexExpression, otherwise: IndexExpression) in
      IndexExpression.ifLess(.position, context, then: then, otherwise: otherwise)
    }
    return [
      KeyInterval(start: complete(isContextual(0, start), 0), end: complete(isContextual(history, earlier), 0)),
      KeyInterval(start: complete(own.start, .position), end: own.end),
    ]
  }

  /// The intervals of `intervals` with numbers in place of expressions; empty ones are left out.
  public func visibleKeys(position: Int, length: Int, targets: Int) -> [Range<Int>] {
    let lookup = { (variable: IndexVariable) in
      switch variable {
      case .position: position
      case .length: length
      case .targets: targets
      }
    }
    return intervals.compactMap { interval in
      let start = interval.start.evaluate(lookup)
      let end = interval.end.evaluate(lookup)
      return start < end ? start..<end : nil
    }
  }

  /// The smallest range of whole pairs of keys that holds a range of a sequence of `length` rows, the first of them history;
  /// history and targets are paired apart. Keys that are multiplied in pairs go by these: which two make a pair follows from the
  /// sequence alone.
  public static func pairs(of keys: Range<Int>, history: Int, length: Int) -> Range<Int> {
    let start = max(keys.lowerBound & ~1, keys.lowerBound >= history ? history : 0)
    let end = min((keys.upperBound + 1) & ~1, keys.upperBound <= history ? history : length)
    return start..<max(start, end)
  }

  /// How much of a tile of rows and keys is visible.
  public enum Coverage: Hashable, Sendable { case empty, full, mixed }

  /// Whether no, every or some key of `keys` is visible to the rows at the positions `rows`.
  public func coverage(rows: Range<Int>, keys: Range<Int>, length: Int, targets: Int) -> Coverage {
    var visible = 0
    for row in rows {
      for interval in visibleKeys(position: row, length: length, targets: targets) {
        visible += interval.clamped(to: keys).count
      }
    }
    if visible == 0 { return .empty }
    return visible == rows.count * keys.count ? .full : .mixed
  }
}

extension Mask {
  /// Throws where a number of rows makes no sense.
  package func verify() throws(OperationError) {
    try requireExtent(contextual, "contextual")
    switch form {
    case .causal: break
    case .windowed(let window, let fullTail):
      try requireExtent(window, "window", least: 1)
      try requireExtent(fullTail, "tail")
    case .keyPrefix(let local, let global, _):
      try requireExtent(local, "local")
      try requireExtent(global, "global")
    }
  }

  /// As an attribute: `causal window(256) tail(256) contextual(3)`.
  package var text: String {
    var text = "causal"
    switch form {
    case .causal: break
    case .windowed(let window, let fullTail):
      text += " window(\(window))"
      if fullTail != 0 { text += " tail(\(fullTail))" }
    case .keyPrefix(let local, let global, let targets):
      text += " prefix(local = \(local), global = \(global), targets = \(targets.rawValue))"
    }
    return contextual == 0 ? text : text + " contextual(\(contextual))"
  }

  /// What a mask's text must be, in words.
  package static let expectedText =
    "causal, then window(rows) [tail(rows)] or prefix(local = rows, global = rows, targets = history or windowed) "
    + "where it is narrower, then contextual(rows) where there are such rows"

  /// The mask that the phrase spells out; nil where it spells none.
  package init?(from phrase: inout PhraseReader) {
    guard phrase.takeWord("causal") else { return nil }
    self = .causal
    if let window = phrase.takeInteger("window") {
      form = .windowed(window: window, fullTail: phrase.takeInteger("tail") ?? 0)
    } else if let (rows, word) = phrase.takeCall("prefix", integers: ["local", "global"], word: "targets") {
      guard let targets = PrefixTargets(rawValue: word) else { return nil }
      form = .keyPrefix(local: rows[0], global: rows[1], targets: targets)
    }
    contextual = phrase.takeInteger("contextual") ?? 0
  }

  init(from reader: inout AttributeReader) {
    self = reader.phrase("mask", expected: Self.expectedText, placeholder: .causal) { Mask(from: &$0) }
  }
}

extension Mask {
  /// What is known of every sequence of a batch before it is there.
  public struct Bounds: Hashable, Sendable {
    /// The most rows before the targets.
    public var history: Int
    /// Whether there may be targets.
    public var hasTargets: Bool

    /// Sequences with at most `history` rows before their targets.
    public init(history: Int, hasTargets: Bool) {
      self.history = history
      self.hasTargets = hasTargets
    }
  }

  /// The simplest mask that shows the same keys to every row of sequences within `bounds`.
  public func simplified(_ bounds: Bounds) -> Mask {
    switch form {
    case .causal:
      return self
    case .windowed(let window, let fullTail):
      // Identities run from 0 to history - 1, that of targets to history. A full tail exempts targets from the window,
      // and of history all but the first rows.
      let reachesAll =
        fullTail > 0
        ? window + fullTail >= bounds.history - 1
        : window >= (bounds.hasTargets ? bounds.history : bounds.history - 1)
      return reachesAll ? Mask(.causal, contextual: contextual) : self
    case .keyPrefix(let local, let global, let targets):
      // TER's targets see no target, not even themselves: no causal row does that.
      if bounds.hasTargets && targets == .history { return self }
      let reachesAll = Swift.max(global, contextual) + local >= bounds.history
      return reachesAll ? .causal : self
    }
  }
}
