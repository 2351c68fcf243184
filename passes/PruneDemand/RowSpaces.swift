import TensorIR

/// The rows of a function: those that an argument cuts into sequences, and selections of them.
///
/// Every selection is told as rows of the argument's sequences, also where it selects from another: `RowDemand` then says
/// for all of them alike which rows a value holds, or needs.
struct RowSpaces {
  /// What cuts all rows into sequences, an argument, and their number.
  let offsets: ValueID
  let rows: Dimension
  /// The number of targets of each sequence: one value, an argument, or none.
  let targets: [ValueID]
  /// The rows that a number of rows stands for.
  private var wholes: [Dimension: RowDemand]
  /// The `select_offsets` whose rows those are, in order.
  private(set) var selections: [(operation: OperationID, whole: RowDemand)] = []

  /// Throws where rows or targets cannot be told apart.
  init(_ function: Function) throws(PassError) {
    var cuts: [(ValueID, Dimension)] = []
    for argument in function.arguments {
      guard case .offsets(let sequences, let rows) = function[argument].type, rows.extent == nil, rows != sequences
      else { continue }
      cuts.append((argument, rows))
    }
    guard cuts.count == 1 else {
      throw PassError("\(cuts.count) arguments cut rows into sequences, expected one")
    }
    (offsets, rows) = cuts[0]
    var targets: [ValueID] = []
    for id in function.body {
      for value in function[id].targets where !targets.contains(value) { targets.append(value) }
    }
    for value in targets {
      guard targets.count == 1, case .argument = function[value].definition else {
        throw PassError("targets are counted by \(targets.map { "%" + function[$0].name }.joined(separator: ", "))")
      }
    }
    self.targets = targets
    wholes = [rows: .all]
    for id in function.body { note(id, in: function) }
  }

  /// Learns what a `select_offsets` keeps, where that can be told as rows of the argument's sequences.
  private mutating func note(_ id: OperationID, in function: Function) {
    guard case .selectOffsets(let select) = function[id].payload,
      Array(function[id].operands.dropFirst()) == targets,
      let whole = whole(of: function[id].operands[0], in: function)
    else { return }
    var kept = RowDemand(select.selection)
    if whole != .all, !kept.isWithin(whole) {
      // What keeps as much at both ends drops nothing; anything else has no name among all rows.
      guard whole.isWithin(kept) else { return }
      kept = whole
    }
    wholes[.symbol(select.into)] = kept
    selections.append((id, kept))
  }

  /// The rows that a value with rows can hold, or that offsets cut; nil for values without rows, and for rows that are not
  /// told as those of the argument.
  func whole(of value: ValueID, in function: Function) -> RowDemand? {
    switch function[value].type {
    case .tensor(let type): type.shape.first.flatMap { wholes[$0] }
    case .offsets(_, let rows): wholes[rows]
    }
  }
}
