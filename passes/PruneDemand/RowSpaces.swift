import TensorIR

/// The rows of a function: spaces of rows that an argument cuts into sequences, or an addition of rows, and selections of
/// them.
///
/// Every selection is told as rows of the sequences of its space, also where it selects from another: `RowDemand` then says
/// for all of them alike which rows a value holds, or needs.
struct RowSpaces {
  /// Rows of one space, all of them.
  struct Space {
    /// What cuts all rows into sequences: an argument, or the result of an `extend_offsets`.
    let offsets: ValueID
    /// The number of targets of each sequence: one value, an argument, or none.
    let targets: [ValueID]
    /// The operation that makes the offsets; nil for an argument.
    let maker: OperationID?
  }

  /// In the order in which the function defines them.
  let spaces: [Space]
  /// The space and the rows of it that a number of rows stands for; none where several spaces have targets of one number.
  private var told: [Dimension: (space: Int, rows: RowDemand)] = [:]
  /// What offsets cut.
  private var cut: [ValueID: (space: Int, rows: RowDemand)] = [:]
  /// The `select_offsets` that are told, the space that they select from, and the rows of it, in order.
  private(set) var selections: [(operation: OperationID, space: Int, whole: RowDemand)] = []

  /// Throws where rows or targets cannot be told apart.
  init(_ function: Function) throws(PassError) {
    var roots: [Root] = []
    for argument in function.arguments {
      guard case .offsets(let sequences, let rows) = function[argument].type, rows.extent == nil, rows != sequences
      else { continue }
      roots.append(Root(offsets: argument, rows: [rows]))
    }
    for id in function.body { Self.follow(id, in: function, &roots) }
    if roots.isEmpty { throw PassError("no argument cuts rows into sequences") }
    Self.shareTargets(&roots)
    for root in roots {
      for value in root.targets {
        guard root.targets.count == 1, case .argument = function[value].definition else {
          let names = root.targets.map { "%" + function[$0].name }.joined(separator: ", ")
          throw PassError("targets are counted by \(names)")
        }
      }
    }
    spaces = roots.map { Space(offsets: $0.offsets, targets: $0.targets, maker: $0.maker) }
    for (index, root) in roots.enumerated() {
      cut[root.offsets] = (index, .all)
      if case .offsets(_, let rows) = function[root.offsets].type { told[rows] = (index, .all) }
    }
    var shared: Set<String> = []
    for id in function.body { note(id, in: function, &shared) }
    for name in shared { told[.symbol(name)] = nil }
  }

  // MARK: - Spaces

  /// A space while it is found.
  private struct Root {
    var offsets: ValueID
    var maker: OperationID?
    /// The space that rows were added to.
    var inner: Int?
    /// The numbers of its rows, and of selections of them.
    var rows: Set<Dimension>
    var targets: [ValueID] = []
  }

  /// Learns what an operation says of spaces.
  private static func follow(_ id: OperationID, in function: Function, _ roots: inout [Root]) {
    let operation = function[id]
    func space(_ value: ValueID) -> Int? {
      guard case .offsets(_, let rows) = function[value].type else { return nil }
      return roots.firstIndex { $0.rows.contains(rows) }
    }
    if let batch = operation.batch, let targets = batch.targets, let index = space(batch.offsets),
      !roots[index].targets.contains(targets)
    {
      roots[index].targets.append(targets)
    }
    switch operation.payload {
    case .selectOffsets(let select):
      if let index = space(operation.operands[0]) { roots[index].rows.insert(.symbol(select.into)) }
    case .extendOffsets(let extend):
      roots.append(
        Root(
          offsets: operation.results[0], maker: id, inner: space(operation.operands[0]), rows: [.symbol(extend.into)]))
    default: break
    }
  }

  /// Rows that are added are no targets: both spaces have the same ones.
  private static func shareTargets(_ roots: inout [Root]) {
    for index in roots.indices.reversed() {
      guard let inner = roots[index].inner else { continue }
      roots[inner].targets += roots[index].targets.filter { !roots[inner].targets.contains($0) }
    }
    for index in roots.indices {
      if let inner = roots[index].inner { roots[index].targets = roots[inner].targets }
    }
  }

  /// Learns what a `select_offsets` keeps, where that can be told as rows of its space.
  private mutating func note(_ id: OperationID, in function: Function, _ shared: inout Set<String>) {
    guard case .selectOffsets(let select) = function[id].payload, !select.selection.isPaired,
      let space = space(of: function[id].operands[0], in: function),
      Array(function[id].operands.dropFirst()) == spaces[space].targets,
      let whole = whole(of: function[id].operands[0], in: function)
    else { return }
    var kept = RowDemand(select.selection)
    if whole != .all, !kept.isWithin(whole) {
      // What keeps as much at both ends drops nothing; anything else has no name among all rows.
      guard whole.isWithin(kept) else { return }
      kept = whole
    }
    if told[.symbol(select.into)] != nil { shared.insert(select.into) }
    told[.symbol(select.into)] = (space, kept)
    cut[function[id].results[0]] = (space, kept)
    selections.append((id, space, kept))
  }

  // MARK: - Values

  /// The rows that a value with rows can hold, or that offsets cut; nil for values without rows, and for rows that are not
  /// told as those of a space.
  func whole(of value: ValueID, in function: Function) -> RowDemand? { told(value, in: function)?.rows }

  /// The space of a value's rows; nil where they are not told.
  func space(of value: ValueID, in function: Function) -> Int? { told(value, in: function)?.space }

  private func told(_ value: ValueID, in function: Function) -> (space: Int, rows: RowDemand)? {
    switch function[value].type {
    case .tensor(let type): type.shape.first.flatMap { told[$0] }
    case .offsets: cut[value]
    }
  }

  /// The number of targets of the sequences that a value's rows belong to.
  func targets(of value: ValueID, in function: Function) -> [ValueID] {
    space(of: value, in: function).map { spaces[$0].targets } ?? []
  }

  /// The selection that keeps these rows, as the function has it; nil where it has none.
  func selection(of rows: RowDemand, in space: Int) -> OperationID? {
    selections.first { $0.space == space && $0.whole == rows }?.operation
  }
}
