import Interpreter
import TensorIR
import TestSupport
import Testing

/// What must hold between attentions with different attributes.
@Suite struct AttentionPropertyTests {
  private static let lengths = [13, 0, 1, 30, 6]
  private static let targets: [Int64] = [3, 0, 1, 4, 6]

  /// Attention on a batch of random rows; `edit` may change q, k and v.
  private func attention(
    _ mask: Mask, divisor: Attention.Divisor = .fixed(8), hasTargets: Bool = true,
    edit: (inout [String: [Float]]) -> Void = { _ in }
  ) throws -> [Double] {
    var random = Random(seed: 11)
    let offsets = Self.lengths.reduce(into: [0]) { $0.append($0[$0.count - 1] + $1) }
    let rows = Self.lengths.reduce(0, +)
    var build = FunctionBuilder(module: Module(name: "attention"), name: "forward")
    let type = ValueType.tensor([.symbol("rows"), .fixed(6)], .f32)
    var operands = ["q", "k", "v"].map { build.argument($0, type) }
    operands.append(build.argument("offsets", .offsets(sequences: .symbol("sequences"), rows: .symbol("rows"))))
    if hasTargets { operands.append(build.argument("targets", .tensor([.symbol("sequences")], .i64))) }
    let payload = Attention(heads: 2, alpha: 0.5, divisor: divisor, mask: mask, hasTargets: hasTargets)
    build.result("a", try build.append(.attention(payload), operands)[0])
    var data: [String: [Float]] = [:]
    for name in ["q", "k", "v"] { data[name] = random.tensor([rows, 6], spread: 2).floats }
    edit(&data)
    var inputs = data.mapValues { HostTensor($0, shape: [rows, 6]) }
    inputs["offsets"] = HostTensor(offsets.map(Int64.init))
    if hasTargets { inputs["targets"] = HostTensor(Self.targets) }
    return try Interpreter(module: build.finish(), weights: WeightTable())
      .run("forward", inputs: inputs)[0].tensor.doubles
  }

  @Test("a window that is wider than every sequence changes nothing", arguments: [0, 3])
  func wideWindow(contextual: Int) throws {
    let causal = try attention(Mask(.causal, contextual: contextual))
    #expect(try attention(Mask(.windowed(window: 30, fullTail: 0), contextual: contextual)) == causal)
    #expect(try attention(Mask(.windowed(window: 1, fullTail: 30), contextual: contextual)) == causal)
    #expect(try attention(Mask(.windowed(window: 2, fullTail: 0), contextual: contextual)) != causal)
  }

  @Test("a key prefix or a local part that covers every sequence is causal, up to the targets' rule")
  func widePrefix() throws {
    let causal = try attention(.causal)
    // Summing a row's keys in two intervals does not change their order.
    #expect(try attention(Mask(.keyPrefix(local: 30, global: 0, targets: .windowed))) == causal)
    #expect(try attention(Mask(.keyPrefix(local: 0, global: 30, targets: .windowed))) == causal)
    #expect(try attention(Mask(.keyPrefix(local: 30, global: 4, targets: .windowed))) == causal)
    // Targets that do not see themselves differ, history rows do not; without targets both are causal.
    let ter = try attention(Mask(.keyPrefix(local: 30, global: 0, targets: .history)))
    #expect(Array(ter[..<60]) == Array(causal[..<60]))
    #expect(Array(ter[60..<78]) != Array(causal[60..<78]))
    #expect(
      try attention(Mask(.keyPrefix(local: 30, global: 0, targets: .history)), hasTargets: false)
        == attention(.causal, hasTargets: false))
  }

  @Test("a row without keys gives zeros")
  func rowWithoutKeys() throws {
    // The last sequence is all targets, which under TER's rule see history and not themselves.
    let result = try attention(Mask(.keyPrefix(local: 3, global: 1, targets: .history)))
    #expect(result.suffix(36).allSatisfy { $0 == 0 })
    #expect(result.prefix(60).contains { $0 != 0 })
  }

  @Test("rows that a mask hides are not read: their NaN does not spread")
  func hiddenNaN() throws {
    let mask = Mask(.windowed(window: 2, fullTail: 0))
    let clean = try attention(mask)
    // Row 0 of the first sequence: its window ends at row 2, and the targets' reaches the last two history rows.
    let poisoned = try attention(mask) { data in
      for name in ["k", "v"] {
        for column in 0..<6 { data[name]?[column] = .nan }
      }
    }
    #expect(poisoned[..<18].allSatisfy { $0.isNaN })
    #expect(Array(poisoned[18...]) == Array(clean[18...]))
  }

  @Test("run-time divisors are the batch's maxima")
  func divisors() throws {
    let causal = try attention(.causal, divisor: .fixed(30))
    #expect(try attention(.causal, divisor: .longestSequence) == causal)
    // The longest history is 26 of the fourth sequence, the most targets 6 of the last.
    #expect(try attention(.causal, divisor: .longestHistoryPlusTargets) == attention(.causal, divisor: .fixed(32)))
  }
}

/// What must hold between a truncated stack and one that is not.
@Suite struct TruncationPropertyTests {
  private func stack(_ selection: RowSelection?, contextual: Int, restores: Bool) throws -> [HostTensor] {
    var random = Random(seed: 5)
    var build = FunctionBuilder(module: Module(name: "stack"), name: "forward")
    let (rows, sequences) = (Dimension.symbol("rows"), Dimension.symbol("sequences"))
    let x = build.argument("x", .tensor([rows, .fixed(5)], .f32))
    let offsets = build.argument("offsets", .offsets(sequences: sequences, rows: rows))
    let targets = build.argument("targets", .tensor([sequences], .i64))
    let layer = ProductionLayer(
      width: 5, heads: 2, queryWidth: 3, valueWidth: 4, alpha: 0.5, divisor: .longestSequence,
      mask: Mask(.windowed(window: 4, fullTail: 2), contextual: contextual))
    let outer = try build.productionLayer(layer, prefix: "0.", x: x, offsets: offsets, targets: targets)
    var inner = outer
    var kept = offsets
    if let selection {
      kept = try build.emit(.selectOffsets(SelectOffsets(selection, into: "kept")), offsets, targets)
      inner = try build.emit(.selectRows(SelectRows(selection)), outer, offsets, kept, targets)
    }
    inner = try build.productionLayer(layer, prefix: "1.", x: inner, offsets: kept, targets: targets)
    if let selection, restores {
      inner = try build.emit(.restoreRows(RestoreRows(selection)), inner, outer, offsets, kept, targets)
    }
    build.result("outer", outer)
    build.result("y", inner)
    var table = WeightTable()
    for weight in build.module.weights {
      table.tensors[weight.name] = random.tensor(weight.type.shape.compactMap(\.extent))
    }
    let inputs = [
      "x": random.tensor([30, 5]), "offsets": HostTensor([0, 12, 12, 15, 30] as [Int64]),
      "targets": HostTensor([2, 0, 3, 4] as [Int64]),
    ]
    return try Interpreter(module: build.finish(), weights: table).run("forward", inputs: inputs).map(\.tensor)
  }

  @Test("keeping everything is no truncation", arguments: [0, 2], [false, true])
  func keepEverything(contextual: Int, restores: Bool) throws {
    let whole = try stack(nil, contextual: contextual, restores: false)
    for keep in [11, 1000] {
      let selection = RowSelection.latest(keep: keep, contextual: contextual)
      #expect(try stack(selection, contextual: contextual, restores: restores) == whole)
    }
  }

  @Test("skipped rows bypass the inner layer, dropped ones are gone")
  func formsAgree() throws {
    let selection = RowSelection.latest(keep: 3, contextual: 1)
    let dropped = try stack(selection, contextual: 1, restores: false)
    let skipped = try stack(selection, contextual: 1, restores: true)
    // One contextual row, three of history, and the targets, of every sequence.
    let kept = [0, 7, 8, 9, 10, 11] + [12, 13, 14] + [15, 23, 24, 25, 26, 27, 28, 29]
    let bypassed = (0..<30).filter { !kept.contains($0) }
    #expect(try skipped[1].rows(kept) == dropped[1])
    #expect(try skipped[1].rows(bypassed) == skipped[0].rows(bypassed))
    #expect(try skipped[1].rows(kept) != skipped[0].rows(kept))
  }
}
