/// Rows that are kept of each sequence, and others that were put behind them.
public struct JoinedRows: Hashable, Sendable {
  /// The kept rows, or the codes that stand for them.
  public var kept: ValueID
  /// Where the kept rows are codes, the scale of each.
  public var scales: ValueID?
  /// The rows that were put behind them.
  public var own: ValueID
  /// What cuts the kept rows.
  public var offsets: ValueID
}

// Keys and values of a call behind those that are kept: attention can read both where they lie, so that a call moves no row of a long
// history but those that it multiplies.
extension Function {
  /// The matrices that only attention reads, as keys or values, by the rows that were put behind others.
  public var joinedRows: [ValueID: JoinedRows] { joinedRows(decoding: true) }

  /// The same; the kept rows are codes where they were decoded from such, and attention is to be `decoding`, else numbers.
  public func joinedRows(decoding: Bool) -> [ValueID: JoinedRows] {
    var readers: [ValueID: [OperationID]] = [:]
    for id in body { for value in self[id].operands { readers[value, default: []].append(id) } }
    var found: [ValueID: JoinedRows] = [:]
    for id in body {
      let operation = self[id]
      guard case .extendRows(let extend) = operation.payload, extend.addition == .appended,
        let type = self[operation.results[0]].type.tensor, type.rank == 2
      else { continue }
      let result = operation.results[0]
      let places = extend.places(among: operation.operands.count)
      guard !results.contains(where: { $0.value == result }),
        readers[result, default: []].allSatisfy({ joins(result, self[$0], operation.operands, places) })
      else { continue }
      let x = operation.operands[places.x]
      var rows = JoinedRows(
        kept: x, own: operation.operands[places.added.lowerBound], offsets: operation.operands[places.offsets])
      if decoding, let codes = codes(of: x) { (rows.kept, rows.scales) = (codes.codes, codes.scales) }
      found[result] = rows
    }
    return found
  }

  /// Whether the operation is attention of the rows that were put behind others, over all of them.
  private func joins(
    _ result: ValueID, _ operation: Operation, _ extended: [ValueID], _ places: ExtendRows.Places
  ) -> Bool {
    guard case .attention(let attention) = operation.payload, attention.queries == .targets,
      let targets = places.targets, operation.operands[3] == extended[places.extended],
      operation.operands[4] == extended[targets]
    else { return false }
    return operation.operands.enumerated().allSatisfy { $1 != result || (1...2).contains($0) }
  }

  /// Of numbers that f8e4m3 codes of the caller stand for, the codes and their scales; nil for others.
  private func codes(of numbers: ValueID) -> (codes: ValueID, scales: ValueID)? {
    guard case .result(let id, _) = self[numbers].definition, case .dequantizeRows = self[id].payload,
      self[self[id].operands[0]].type.tensor?.element == .f8e4m3,
      self[id].operands.allSatisfy({ if case .argument = self[$0].definition { true } else { false } })
    else { return nil }
    return (self[id].operands[0], self[id].operands[1])
  }

  /// The operations that make nothing which must lie in memory where attention reads what they join, or decode, where that lies.
  public var operationsReadInPlace: Set<OperationID> { operationsReadInPlace(decoding: true) }

  /// The same, of attention that decodes or does not.
  public func operationsReadInPlace(decoding: Bool) -> Set<OperationID> {
    let joined = joinedRows(decoding: decoding)
    var found: Set<OperationID> = []
    for id in body {
      let result = self[id].results[0]
      if joined[result] != nil { found.insert(id) }
      guard decoding, codes(of: result) != nil, !results.contains(where: { $0.value == result }) else { continue }
      let readers = body.filter { self[$0].operands.contains(result) }
      if readers.allSatisfy({ joined[self[$0].results[0]] != nil }) { found.insert(id) }
    }
    return found
  }
}
