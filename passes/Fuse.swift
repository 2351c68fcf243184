import TensorIR

/// Makes regions: operations that share rows, producers with their consumers, run together a block of rows at a time.
///
/// Exact: every row is computed by the same operations in the same order. What a region computes and only it reads
/// never crosses memory. Regions that were there are made anew.
public let fuse = ModulePass(
  name: "fuse", summary: "let operations that share rows run together, a block of rows at a time",
  options: FuseOptions.self, exactness: .exact
) { (module, options, context) throws(PassError) in
  var kernels = 0
  for index in module.functions.indices {
    var fusion = Fusion(module.functions[index], options)
    module.functions[index] = fusion.run()
    kernels += module.functions[index].units.count { module.functions[index].isKernel($0) }
  }
  context.note("\(kernels) kernel\(kernels == 1 ? "" : "s")")
}

/// What `fuse` takes.
public struct FuseOptions: PassOptions {
  /// Where a region with attention ends.
  public enum Reach: String, CaseIterable, Sendable {
    /// Where what crosses memory is least: as a rule before the projection that the next attention reads.
    case layer
    /// As late as it can: at the next attention, whose projection belongs to the region.
    case next
  }

  /// Where a region with attention ends.
  public var reach = Reach.layer

  /// Regions of one layer.
  public init() {}

  /// `reach`.
  public static var list: [PassOption<FuseOptions>] {
    [.word("reach", \.reach, summary: "whether a layer's region ends with it, or takes the next one's projection too")]
  }
}

/// Groups of operations, one after the other, each as large as rules and cost let it be.
private struct Fusion {
  var function: Function
  let options: FuseOptions
  /// Operations that stand in no group yet, in the order of the body.
  var remaining: [OperationID]
  /// Results of the groups so far.
  var available: Set<ValueID> = []
  let readers: [ValueID: Set<OperationID>]

  init(_ function: Function, _ options: FuseOptions) {
    self.function = function
    self.options = options
    self.function.dissolveRegions()
    remaining = function.body
    readers = function.body.reduce(into: [:]) { readers, id in
      for value in function[id].operands { readers[value, default: []].insert(id) }
    }
  }

  mutating func run() -> Function {
    var body: [OperationID] = []
    while let first = nextOperation() {
      let group = first.map(self.group) ?? remaining.filter { isReady($0, with: []) && function[$0].rowDomain == nil }
      if first != nil, group.count(where: { !function[$0].isSplit }) > 1 {
        let region = function.newRegion()
        for id in group { function[id].region = region }
      }
      body += group
      let taken = Set(group)
      remaining.removeAll(where: taken.contains)
      for id in group { available.formUnion(function[id].results) }
    }
    function.body = body
    return function
  }

  /// The operation that the next group begins with; `.some(nil)` where offsets can be made, which need no group and let
  /// more be ready.
  private func nextOperation() -> OperationID?? {
    let ready = remaining.filter { isReady($0, with: []) }
    if ready.contains(where: { function[$0].rowDomain == nil }) { return .some(nil) }
    return (ready.first { !function[$0].isSplit } ?? ready.first).map { .some($0) }
  }

  private func isReady(_ id: OperationID, with pending: Set<ValueID>) -> Bool {
    function[id].operands.allSatisfy { value in
      guard case .result = function[value].definition else { return true }
      return available.contains(value) || pending.contains(value)
    }
  }

  /// Everything that can run with `first`, as far as it has to do with it.
  private func group(from first: OperationID) -> [OperationID] {
    var rules = RegionRules(function)
    var members: [OperationID] = []
    var defined: Set<ValueID> = []
    if rules.add(first) != nil { return [first] }
    for id in remaining {
      guard id == first || (isReady(id, with: defined) && rules.add(id) == nil) else { continue }
      members.append(id)
      defined.formUnion(function[id].results)
    }
    members = connected(members, with: first)
    return options.reach == .layer ? cutWhereLeastCrosses(members) : members
  }

  /// The members that read or make what `first` reads or makes, or what such members do; weights do not count.
  private func connected(_ members: [OperationID], with first: OperationID) -> [OperationID] {
    var values = Set(self.values(of: first))
    var chosen: Set<OperationID> = [first]
    var grows = true
    while grows {
      grows = false
      for id in members where !chosen.contains(id) && self.values(of: id).contains(where: values.contains) {
        chosen.insert(id)
        values.formUnion(self.values(of: id))
        grows = true
      }
    }
    // What was left out takes its readers with it: they are not connected either.
    return members.filter(chosen.contains)
  }

  private func values(of id: OperationID) -> [ValueID] {
    function[id].results
      + function[id].operands.filter { if case .weight = function[$0].definition { false } else { true } }
  }

  /// A group with attention, cut where the columns that leave it are fewest, if a later attention reads what it computes:
  /// the keys and values that this one reads must stay until it is done, so those of the next would lie beside them.
  private func cutWhereLeastCrosses(_ members: [OperationID]) -> [OperationID] {
    guard let attention = members.firstIndex(where: { function[$0].isAttention }) else { return members }
    let inside = Set(members)
    let feedsAttention = members.contains { id in
      function[id].results.contains { value in
        readers[value, default: []].contains { !inside.contains($0) && function[$0].isAttention }
      }
    }
    guard feedsAttention else { return members }
    var best = (columns: Int.max, count: members.count)
    for count in attention + 1...members.count {
      let columns = leavingColumns(members[..<count])
      if columns <= best.columns { best = (columns, count) }
    }
    return Array(members[..<best.count])
  }

  /// Columns of what the operations give and others read.
  private func leavingColumns(_ operations: ArraySlice<OperationID>) -> Int {
    let inside = Set(operations)
    return operations.reduce(0) { sum, id in
      function[id].results.reduce(sum) { sum, value in
        let leaves =
          function.results.contains { $0.value == value }
          || readers[value, default: []].contains { !inside.contains($0) }
        return sum + (leaves ? function[value].type.tensor?.shape.last?.extent ?? 1 : 0)
      }
    }
  }
}
