/// The lengths of a batch's sequences, and how many rows at the end of each are targets.
public struct BatchShape: Hashable, Sendable {
  /// Rows of each sequence: contextual rows, history and targets together.
  public var lengths: [Int]
  /// As many as lengths, each at most its length.
  public var targets: [Int]
  /// Rows that are kept of each sequence, before those of the batch, by the name of the offsets that cut them.
  public var kept: [String: [Int]]

  /// A batch without targets, and with nothing kept, unless they are given.
  public init(lengths: [Int], targets: [Int]? = nil, kept: [String: [Int]] = [:]) {
    self.lengths = lengths
    self.targets = targets ?? [Int](repeating: 0, count: lengths.count)
    self.kept = kept
  }
}

/// What work needs, however it is done.
public struct Cost: Hashable, Sendable {
  /// Additions and multiplications of matrix products and of attention over the keys that its mask shows. Norms,
  /// activations and lookups, which grow with the width only once, are not counted.
  public var flops: Double
  /// Bytes of operands and results, each once; of a table only the rows looked up.
  public var bytes: Double

  /// No work and no bytes.
  public static let zero = Cost(flops: 0, bytes: 0)

  /// Operations and bytes of both, each added up.
  public static func + (left: Cost, right: Cost) -> Cost {
    Cost(flops: left.flops + right.flops, bytes: left.bytes + right.bytes)
  }
}

extension Function {
  /// The cost of every operation, in the order of the body, on a batch of this shape.
  public func costs(on batch: BatchShape) -> [(operation: OperationID, cost: Cost)] {
    var analysis = CostAnalysis(function: self, batch: batch)
    return body.map { ($0, analysis.visit(self[$0]).cost) }
  }

  /// The cost of every unit of the body: the operations of all its own, and of bytes those that it takes from outside, each
  /// value and weight once, and those of its results that others read.
  public func unitCosts(on batch: BatchShape) -> [(unit: Unit, cost: Cost)] {
    var analysis = CostAnalysis(function: self, batch: batch)
    let results = Set(results.map(\.value))
    let joined = joinedRows
    var readers: [ValueID: Set<OperationID>] = [:]
    for id in body { for value in self[id].operands { readers[value, default: []].insert(id) } }
    return units.map { unit in
      let inside = Set(unit.operations)
      var seen = Set(unit.operations.flatMap { self[$0].results })
      var cost = Cost.zero
      for id in unit.operations {
        let work = analysis.visit(self[id])
        cost.flops += work.flops
        for (value, whole) in zip(self[id].operands, work.read) where seen.insert(value).inserted {
          // What lies in two places is read there.
          let bytes = joined[value].map { analysis.bytes($0.kept) + analysis.bytes($0.own) } ?? whole
          cost.bytes += bytes
        }
        for (value, bytes) in zip(self[id].results, work.written) {
          let leaves = results.contains(value) || !readers[value, default: []].isSubset(of: inside)
          if leaves { cost.bytes += bytes }
        }
      }
      return (unit, cost)
    }
  }

  /// The cost of the whole function on a batch of this shape.
  public func cost(on batch: BatchShape) -> Cost {
    costs(on: batch).reduce(.zero) { $0 + $1.cost }
  }
}

extension Mask {
  /// (row, key) pairs that the mask lets through in one sequence, of the rows that `queries` keeps or of all; `last` are its
  /// targets by `queries`, where those are not the mask's.
  public func visiblePairs(length: Int, targets: Int, queries: RowSelection? = nil, last: Int? = nil) -> Int {
    let intervals = intervals
    var count = 0
    let dropped = queries?.dropped(length: length, targets: last ?? targets) ?? 0..<0
    for position in 0..<length where !dropped.contains(position) {
      let lookup = { (variable: IndexVariable) in
        switch variable {
        case .position: position
        case .length: length
        case .targets: targets
        }
      }
      for interval in intervals {
        count += max(interval.end.evaluate(lookup) - interval.start.evaluate(lookup), 0)
      }
    }
    return count
  }
}

extension Function {
  /// Whether offsets cut features of a sequence, a few rows each, of which some are picked: nothing else reads them.
  public func cutsFeatures(_ offsets: ValueID) -> Bool {
    let readers = body.filter { self[$0].operands.contains(offsets) }
    return !readers.isEmpty
      && readers.allSatisfy { id in
        guard case .pickRows = self[id].payload else { return false }
        // The third are lengths that are asked for.
        return !self[id].operands.dropFirst(2).contains(offsets)
      }
  }

  /// Whether offsets cut rows that are kept from one call to the next: a call's own are appended to them.
  public func cutsKeptRows(_ offsets: ValueID) -> Bool {
    body.contains { id in
      guard case .extendOffsets(let extend) = self[id].payload, extend.addition == .appended,
        self[id].operands[0] == offsets
      else { return false }
      // Where nothing but features look at how long sequences will be, the rows to come are not there.
      return body.contains { reader in
        if case .pickRows = self[reader].payload { return false }
        return self[reader].operands.contains(self[id].results[0])
      }
    }
  }
}

/// Follows the extents of a batch through a function.
struct CostAnalysis {
  let function: Function
  let batch: BatchShape
  /// Lengths of the sequences that an offsets value cuts.
  var lengths: [ValueID: [Int]] = [:]
  var extents: [Dimension: Int] = [:]
  /// The lengths that a value holds.
  var counts: [ValueID: [Int]] = [:]
  /// Layers often share a mask and a length.
  var visiblePairs: [PairsKey: Int] = [:]

  struct PairsKey: Hashable {
    var mask: Mask
    var length: Int
    var targets: Int
    var queries: RowSelection?
    var last: Int
  }

  init(function: Function, batch: BatchShape) {
    self.function = function
    self.batch = batch
    for argument in function.arguments {
      let lengths =
        if function.cutsFeatures(argument) {
          batch.lengths.map { _ in 1 }
        } else if function.cutsKeptRows(argument) {
          batch.kept[function[argument].name] ?? batch.lengths.map { _ in 0 }
        } else {
          batch.lengths
        }
      define(argument, lengths: lengths)
    }
  }

  /// Notes the lengths of an offsets value, and the extents of its dimensions.
  private mutating func define(_ value: ValueID, lengths: [Int]) {
    guard case .offsets(let sequences, let rows) = function[value].type else { return }
    self.lengths[value] = lengths
    extents[sequences] = lengths.count
    extents[rows] = lengths.reduce(0, +)
  }

  /// What an operation computes, and the bytes of its operands and results.
  struct Work {
    var flops = 0.0
    var read: [Double]
    var written: [Double]

    var cost: Cost { Cost(flops: flops, bytes: (read + written).reduce(0, +)) }
  }

  mutating func visit(_ operation: Operation) -> Work {
    var flops = 0.0
    var traffic = operation.operands.map(bytes)
    switch operation.payload {
    case .linear:
      let weight = function[operation.operands[1]].type
      flops = 2 * rows(operation.operands[0]) * (weight.tensor?.fixedElementCount).map(Double.init, default: 0)
    case .quantizedLinear:
      let weight = function[operation.operands[2]].type
      flops = 2 * rows(operation.operands[0]) * (weight.tensor?.fixedElementCount).map(Double.init, default: 0)
    case .attention(let attention):
      let widths = width(operation.operands[0]) + width(operation.operands[2])
      flops = 2 * pairs(attention, operation) * widths
    case .gather:
      let row = function[operation.operands[0]].type.tensor.map { extent($0.shape[1]) * Double($0.element.byteCount) }
      traffic[0] = rows(operation.results[0]) * (row ?? 0)
    case .extendOffsets(let extend):
      let before = lengths[operation.operands[0]] ?? []
      define(
        operation.results[0],
        lengths: zip(before, targets(of: operation, before)).map { extended($0, $1, by: extend.addition) })
    case .lengths: counts[operation.results[0]] = lengths[operation.operands[0]]
    case .topK:
      // Of rows of bytes as many numbers are multiplied as a query has.
      let items = function[operation.operands[1]].type.tensor.map { extent($0.shape[0]) } ?? 0
      flops = 2 * rows(operation.operands[0]) * items * width(operation.operands[0])
    case .selectOffsets(let select):
      let before = lengths[operation.operands[0]] ?? []
      define(
        operation.results[0],
        lengths: zip(before, targets(of: operation, before)).map { kept($0, $1, by: select.selection) })
    default: break
    }
    return Work(flops: flops, read: traffic, written: operation.results.map(bytes))
  }

  /// Targets of sequences of these lengths, as an operation counts them: selections keep them all.
  private func targets(of operation: Operation, _ lengths: [Int]) -> [Int] {
    if let targets = operation.batch?.targets, let counts = counts[targets] { return counts }
    return zip(batch.targets, lengths).map { min($0, $1) }
  }

  private func extended(_ length: Int, _ targets: Int, by addition: RowAddition) -> Int {
    addition.extendedLength.evaluate { variable in
      switch variable {
      case .position: 0
      case .length: length
      case .targets: targets
      }
    }
  }

  private func kept(_ length: Int, _ targets: Int, by selection: RowSelection) -> Int {
    length - selection.dropped(length: length, targets: targets).count
  }

  private mutating func pairs(_ attention: Attention, _ operation: Operation) -> Double {
    let lengths = lengths[operation.operands[3]] ?? []
    var sum = 0.0
    for (length, targets) in zip(lengths, targets(of: operation, lengths)) {
      let last = attention.hasTargets ? targets : 0
      let key = PairsKey(
        mask: attention.mask, length: length, targets: attention.continuesHistory ? 0 : last,
        queries: attention.queries, last: last)
      let count =
        visiblePairs[key]
        ?? key.mask.visiblePairs(length: key.length, targets: key.targets, queries: key.queries, last: key.last)
      visiblePairs[key] = count
      sum += Double(count)
    }
    return sum
  }

  /// Rows of a value, of the whole batch.
  func rowCount(_ value: ValueID) -> Int { Int(rows(value)) }

  private func extent(_ dimension: Dimension) -> Double { Double(dimension.extent ?? extents[dimension] ?? 0) }

  private func rows(_ value: ValueID) -> Double { function[value].type.tensor.map { extent($0.shape[0]) } ?? 0 }

  private func width(_ value: ValueID) -> Double { function[value].type.tensor.map { extent($0.shape[1]) } ?? 0 }

  func bytes(_ value: ValueID) -> Double {
    switch function[value].type {
    case .tensor(let type): type.shape.reduce(Double(type.element.byteCount)) { $0 * extent($1) }
    case .offsets(let sequences, _): (extent(sequences) + 1) * 8
    }
  }
}

extension Optional {
  fileprivate func map<T>(_ transform: (Wrapped) -> T, default value: T) -> T { map(transform) ?? value }
}
