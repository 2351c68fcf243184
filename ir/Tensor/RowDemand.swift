/// Which rows of every sequence something needs: what a walk backward from the outputs carries.
///
/// Every demand but the extremes is what a `RowSelection` keeps, so that a pass can compute just that; what is dropped is one
/// interval of positions.
public enum RowDemand: Hashable, Sendable {
  /// No row.
  case none
  /// The first `first` rows, the latest `latest` history rows, and all targets.
  case ends(first: Int, latest: Int)
  /// Every row.
  case all

  /// What a selection keeps, but for a row more that `pairedLatest` may keep.
  public init(_ selection: RowSelection) {
    switch selection {
    case .latest(let keep, let contextual), .pairedLatest(let keep, let contextual):
      self = .ends(first: contextual, latest: keep)
    case .targets: self = .ends(first: 0, latest: 0)
    }
  }

  /// The selection that keeps exactly these rows; nil for no row and for all.
  public var selection: RowSelection? {
    switch self {
    case .none, .all: nil
    case .ends(0, 0): .targets
    case .ends(let first, let latest): .latest(keep: latest, contextual: first)
    }
  }

  /// The smallest demand with the rows of both.
  public func joined(with other: RowDemand) -> RowDemand {
    switch (self, other) {
    case (.none, _): other
    case (_, .none): self
    case (.all, _), (_, .all): .all
    case (.ends(let first, let latest), .ends(let otherFirst, let otherLatest)):
      .ends(first: max(first, otherFirst), latest: max(latest, otherLatest))
    }
  }

  /// Whether every row of it is one of the other's, whatever the lengths of sequences are.
  public func isWithin(_ other: RowDemand) -> Bool { joined(with: other) == other }
}

extension RowSelection {
  /// Whether it keeps pairs of rows together, and so no demand has its name.
  public var isPaired: Bool { if case .pairedLatest = self { true } else { false } }

  /// Whether a selection that keeps this one's rows of a sequence leaves this one's result as it is.
  ///
  /// Of the rows that `latest(b') contextual(a')` keeps, `latest(b) contextual(a)` with a <= a' and b <= b' keeps those that
  /// it keeps of all rows: where the first selection drops any, its first a' and latest b' history rows are theirs.
  /// What `pairedLatest` keeps follows from the number of all rows.
  public func isUnchanged(after other: RowSelection) -> Bool {
    if case .pairedLatest = self { return self == other }
    return RowDemand(self).isWithin(RowDemand(other))
  }
}

extension Mask {
  /// The keys that the rows of `demand` need, itself included, such that nothing changes for them where the other rows are
  /// dropped: at their new places the mask shows them the same keys. `hasTargets` is whether sequences may have targets;
  /// under `keepsDistances` no row may be dropped between a row and a key that it sees.
  ///
  /// With h' history rows kept, the first A and the latest B, a row of the tail moves by the number of dropped rows, as do
  /// the keys of its window, which lie in the tail too; rows of the prefix and their keys stay. So what follows asks that
  /// windows end within the tail, and formulas that count from the start of a sequence within the prefix.
  public func keys(of demand: RowDemand, hasTargets: Bool, keepsDistances: Bool = false) -> RowDemand {
    guard case .ends(let first, let latest) = demand else { return demand }
    let hasTail = latest > 0 || hasTargets
    if first == 0 && !hasTail { return demand }
    switch form {
    case .causal: return .all
    case .windowed(let window, let fullTail):
      // A full tail sees everything. Contextual rows see all history.
      if fullTail > 0 || (contextual > 0 && first > 0) { return .all }
      // A row of the tail sees `window` identities back. A short history ends with contextual rows among the latest, which
      // share one identity; with `contextual` rows more, no row is moved to an identity that reaches the first.
      return Self.bounded(first: first, latest: hasTail ? latest + window + contextual : 0)
    case .keyPrefix(let local, let global, let targets):
      let prefix = Swift.max(global, contextual)
      if hasTargets && targets == .history { return .all }
      if keepsDistances && prefix > 0 { return .all }
      let window = latest > 0 ? latest + Swift.max(local, 1) - 1 : 0
      return Self.bounded(
        first: Swift.max(first, prefix), latest: hasTargets ? Swift.max(window, local) : window)
    }
  }

  /// Numbers that no selection may have are as good as all rows.
  private static func bounded(first: Int, latest: Int) -> RowDemand {
    latest <= largestExtent ? .ends(first: first, latest: latest) : .all
  }
}
