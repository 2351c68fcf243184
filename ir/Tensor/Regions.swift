/// Names a region of a function: operations that run together, a block of their rows at a time.
public struct RegionID: Hashable, Sendable {
  /// Counted from 0 in the order in which the function gave them out; the text form does not show it.
  public let index: UInt32
}

/// Rows that a region's blocks are cut from.
public enum RowDomain: Hashable, Sendable {
  /// Rows, wherever they lie in their sequences.
  case any
  /// Blocks go on from one sequence to the next: what asks for a row's sequence reads the offsets itself.
  case acrossSequences
  /// Blocks end with their sequence, as these offsets cut it, whichever rows are targets.
  case anyTargets(offsets: ValueID)
  /// Blocks end with their sequence, as these offsets cut it.
  case sequences(offsets: ValueID, targets: ValueID?)

  /// What both can run in; nil where there is no such thing.
  public func joined(with other: RowDomain) -> RowDomain? {
    switch (self, other) {
    case (.any, let domain), (let domain, .any): domain
    case (.anyTargets(let one), .sequences(let another, _)) where one == another: other
    case (.sequences(let one, _), .anyTargets(let another)) where one == another: self
    default: self == other ? self : nil
    }
  }
}

extension Operation {
  /// The operands of which a row of the results reads the same row only. All others (keys and values, rows that are
  /// chosen from, offsets, weights) must be there before the first block begins.
  public var operandsReadByRow: [ValueID] {
    switch payload {
    case .add, .concatenate, .multiply: operands
    case .attention, .convert, .groupNorm, .l2Norm, .layerNorm, .linear, .quantizeRows, .scale, .sigmoid, .silu, .split,
      .topK:
      [operands[0]]
    // Codes, their scales, and a bias, which may be one number for each element.
    case .quantizedLinear: [operands[0], operands[1]] + operands.dropFirst(4)
    case .bucketTimes, .calendarUnits, .replaceTargets: [operands[0]]
    case .embedBits, .gather: [operands[1]]
    case .restoreRows: [operands[1]]
    case .dequantizeRows, .markBits, .zeroRows: [operands[0], operands[1]]
    case .extendOffsets, .extendRows, .lastRows, .lengths, .nextRows, .originalRows, .pickRows, .positions,
      .selectOffsets,
      .selectRows:
      []
    }
  }

  /// The blocks that the operation can be computed in; nil where it gives no rows.
  public var rowDomain: RowDomain? {
    func sequences(_ offsets: Int, _ targets: Int) -> RowDomain {
      .sequences(offsets: operands[offsets], targets: targets < operands.count ? operands[targets] : nil)
    }
    switch payload {
    case .add, .calendarUnits, .concatenate, .convert, .dequantizeRows, .embedBits, .gather, .groupNorm, .l2Norm,
      .layerNorm, .linear,
      .markBits, .multiply, .quantizedLinear, .quantizeRows, .scale, .sigmoid, .silu, .split, .topK, .zeroRows:
      return .any
    case .lastRows, .pickRows: return .acrossSequences
    case .extendRows(let extend):
      let places = extend.places(among: operands.count)
      return extend.addition.readsTargets
        ? sequences(places.extended, places.targets ?? .max) : .anyTargets(offsets: operands[places.extended])
    case .originalRows(let original):
      return original.addition.readsTargets ? sequences(1, 3) : .anyTargets(offsets: operands[1])
    case .attention(let attention):
      return sequences(
        attention.queries == nil ? 3 : attention.selectedOffsetsOperand, attention.hasTargets ? 4 : .max)
    case .positions: return sequences(0, 1)
    case .bucketTimes, .nextRows: return .anyTargets(offsets: operands[2])
    case .replaceTargets: return sequences(2, 3)
    case .selectRows: return sequences(2, 3)
    case .restoreRows: return sequences(2, 4)
    case .extendOffsets, .lengths, .selectOffsets: return nil
    }
  }

  /// Whether this only names columns of a value.
  public var isSplit: Bool { if case .split = payload { true } else { false } }

  /// Whether this looks at all items: their blocks are no other operation's.
  public var isTopK: Bool { if case .topK = payload { true } else { false } }

  /// Whether this is attention.
  public var isAttention: Bool { if case .attention = payload { true } else { false } }
}

extension Function {
  /// A stretch of the body: a region, or one operation outside of regions.
  public struct Unit: Hashable, Sendable {
    /// The region; nil for an operation outside.
    public var region: RegionID?
    /// In the order of the body.
    public var operations: [OperationID]
  }

  /// The body in its order.
  public var units: [Unit] {
    var units: [Unit] = []
    for id in body {
      if let region = self[id].region, units.last?.region == region {
        units[units.count - 1].operations.append(id)
      } else {
        units.append(Unit(region: self[id].region, operations: [id]))
      }
    }
    return units
  }

  /// Whether a unit becomes code: offsets are made before all kernels, slices of columns are only named, and keys in two places are
  /// read there.
  public func isKernel(_ unit: Unit) -> Bool {
    let readInPlace = operationsReadInPlace
    return unit.operations.contains {
      !self[$0].isSplit && self[$0].rowDomain != nil && !readInPlace.contains($0)
    }
  }

  /// The number of rows that the operation gives, its results' first extent; nil for offsets.
  public func rows(of id: OperationID) -> Dimension? {
    self[id].results.first.flatMap { self[$0].type.tensor?.shape.first }
  }

  /// Takes every operation out of its region, for a pass that moves operations about. Gives the number of regions.
  @discardableResult
  public mutating func dissolveRegions() -> Int {
    let count = units.count { $0.region != nil }
    for id in body { self[id].region = nil }
    return count
  }
}

/// Whether operations can be one region.
///
/// A region stands together in the body, so no path between values leaves it and comes back. Its operations give the
/// same rows, in blocks that suit all of them, and read each other's results row by row.
public struct RegionRules {
  private let function: Function
  private var rows: Dimension?
  private var domain: RowDomain?
  private var defined: Set<ValueID> = []
  private var hasAttention = false

  /// The rules for operations of this function, before the first.
  public init(_ function: Function) { self.function = function }

  /// Adds the next operation; gives why it cannot be added, nil where it can.
  public mutating func add(_ id: OperationID) -> String? {
    let operation = function[id]
    guard let own = operation.rowDomain, let ownRows = function.rows(of: id) else {
      return "gives no rows, so it cannot stand in a region"
    }
    if operation.isTopK { return "goes through all items, so it cannot stand in a region" }
    if let rows, rows != ownRows { return "gives \(ownRows), but its region is over \(rows)" }
    let byRow = operation.operandsReadByRow
    if let value = operation.operands.first(where: { defined.contains($0) && !byRow.contains($0) }) {
      return "reads other rows of \(name(value)) than its own, but the region computes them block by block"
    }
    guard let joined = (domain ?? .any).joined(with: own) else {
      return "needs \(description(of: own)), but its region has \(description(of: domain ?? .any))"
    }
    if operation.isAttention, hasAttention { return "is the second attention of its region" }
    (rows, domain) = (ownRows, joined)
    hasAttention = hasAttention || operation.isAttention
    defined.formUnion(operation.results)
    return nil
  }

  private func name(_ value: ValueID) -> String { "%\(TextName.quoted(function[value].name))" }

  private func description(of domain: RowDomain) -> String {
    switch domain {
    case .any: return "blocks of any rows"
    case .acrossSequences: return "blocks across sequences"
    case .anyTargets(let offsets): return "blocks of the sequences of \(name(offsets))"
    case .sequences(let offsets, let targets):
      return "blocks of the sequences of \(name(offsets))"
        + (targets.map { " with targets \(name($0))" } ?? " without targets")
    }
  }
}
