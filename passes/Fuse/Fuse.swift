import TensorIR

/// Makes regions: operations that share rows, producers with their consumers, run together a block of rows at a time.
///
/// Exact: every row is computed by the same operations in the same order, norms before a product perhaps twice. What a region
/// computes and only it reads never crosses memory. Regions that were there are made anew.
public let fuse = ModulePass(
  name: "fuse", summary: "let operations that share rows run together, a block of rows at a time",
  options: FuseOptions.self, exactness: .exact
) { (module, options, context) throws(PassError) in
  var (kernels, products) = (0, 0)
  for index in module.functions.indices {
    module.functions[index].dissolveRegions()
    if let narrowest = options.narrowestLateProduct {
      let late = LateProducts(module.functions[index], narrowest: narrowest)
      products += ColumnCut(module.functions[index], by: late.isLate).cut(&module, index)
      module.functions[index] = LateProducts(module.functions[index], narrowest: narrowest).preparedApart()
    }
    var fusion = Fusion(module.functions[index], options)
    module.functions[index] = fusion.run()
    kernels += module.functions[index].units.count { module.functions[index].isKernel($0) }
  }
  context.note("\(kernels) kernel\(kernels == 1 ? "" : "s")")
  context.note(products, "product", "cut where other rows read some columns only")
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

  /// Where the columns of a projection are computed that only a row itself looks at, such as u and q.
  public enum Projection: String, CaseIterable, Sendable {
    /// In the region that looks at them, with the norm before them computed again.
    case own
    /// With the others, before attention.
    case whole
    /// As `own` where so many numbers are contracted that a norm is next to nothing beside the product, else as `whole`.
    case wide
  }

  /// Where attention stands.
  public enum AttentionPlace: String, CaseIterable, Sendable {
    /// In a region with what its rows need before and after it.
    case fused
    /// Alone, and regions have one product after the other no more: for machines whose blocks are small and many, where the
    /// heads of a block run side by side.
    case apart
  }

  /// Where a region with attention ends.
  public var reach = Reach.layer
  /// Where the columns of a projection are computed that only a row itself looks at.
  public var project = Projection.wide
  /// Where attention stands.
  public var attention = AttentionPlace.fused

  /// Regions of one layer, with u and q of wide ones in that of its attention.
  public init() {}

  /// How many numbers a product contracts at least that is computed late; nil where none is.
  fileprivate var narrowestLateProduct: Int? {
    switch project {
    case .own: 1
    case .whole: nil
    // Of 64 the norm takes 1 to 2 % of a layer, of 256 less than what is saved.
    case .wide: 256
    }
  }

  /// `reach`, `project` and `attention`.
  public static var list: [PassOption<FuseOptions>] {
    [
      .word("reach", \.reach, summary: "whether a layer's region ends with it, or takes the next one's projection too"),
      .word(
        "project", \.project,
        summary: "whether columns that only their own row reads, u and q, are computed where they are read"),
      .word(
        "attention", \.attention,
        summary: "whether attention runs with what its rows need before and after it, or as a kernel of its own"),
    ]
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
  /// Operations that wait for the region which reads what they give.
  let late: Set<OperationID>

  init(_ function: Function, _ options: FuseOptions) {
    self.function = function
    self.options = options
    remaining = function.body
    readers = function.readersOfValues
    late = options.narrowestLateProduct.map { LateProducts(function, narrowest: $0).operations } ?? []
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
    let working = ready.filter { !function[$0].isSplit }
    return (working.first { !late.contains($0) } ?? working.first ?? ready.first).map { .some($0) }
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
    let isApart = options.attention == .apart
    if rules.add(first) != nil || isApart && function[first].isAttention { return [first] }
    /// What follows from a product of the group.
    var products: Set<ValueID> = []
    for id in remaining {
      let operation = function[id]
      let follows = operation.operands.contains(where: products.contains)
      if isApart, operation.isAttention || follows && operation.payload.readsWholeRows { continue }
      guard id == first || (isReady(id, with: defined) && rules.add(id) == nil) else { continue }
      members.append(id)
      defined.formUnion(operation.results)
      if follows || operation.payload.isProduct { products.formUnion(operation.results) }
    }
    members = withoutWaiting(connected(members, with: first), first)
    return options.reach == .layer ? withoutWaiting(cutWhereLeastCrosses(members), first) : members
  }

  /// The members without late ones that none of the others reads: they wait for those that do.
  private func withoutWaiting(_ members: [OperationID], _ first: OperationID) -> [OperationID] {
    let inside = Set(members)
    var read: Set<OperationID> = []
    for id in members.reversed() where late.contains(id) {
      let readers = function[id].results.reduce(into: Set<OperationID>()) { $0.formUnion(self.readers[$1] ?? []) }
      if readers.contains(where: { inside.contains($0) && (!late.contains($0) || read.contains($0)) }) {
        read.insert(id)
      }
    }
    // Where even the first one's readers cannot run with it, it waits no longer.
    if late.contains(first), !read.contains(first) { return members }
    return members.filter { !late.contains($0) || read.contains($0) }
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
