import Interpreter
import TensorIR
import TestSupport
import Testing

/// Inputs that a compiled model refuses are refused here, with the same position, found and expected.
@Suite struct InputCheckTests {
  /// ids and offsets, targets, a table of four rows, position weights for sequences of up to 3 rows.
  private static func module() throws -> Module {
    var build = FunctionBuilder(module: Module(name: "checks"), name: "forward")
    let (rows, sequences) = (Dimension.symbol("rows"), Dimension.symbol("sequences"))
    let ids = build.argument("ids", .tensor([rows], .i64))
    let x = build.argument("x", .tensor([rows, .fixed(2)], .f32))
    let offsets = build.argument("offsets", .offsets(sequences: sequences, rows: rows))
    let targets = build.argument("targets", .tensor([sequences], .i64))
    let embedded = try build.emit(.gather(Gather()), build.weight("table", [4, 2]), ids)
    let sum = try build.emit(.add(Add()), embedded, x)
    let attention = Attention(heads: 1, alpha: 1, divisor: .fixed(1), bias: .position, hasTargets: true)
    build.result(
      "y",
      try build.append(
        .attention(attention), [sum, sum, sum, offsets, targets, try build.weight("position", [5])])[0])
    return build.finish()
  }

  private static let weights = WeightTable([
    "table": HostTensor([Float](repeating: 1, count: 8), shape: [4, 2]),
    "position": HostTensor([Float](repeating: 0, count: 5)),
  ])

  private static let good: [String: HostTensor] = [
    "ids": HostTensor([0, 1, 2, 3] as [Int64]),
    "x": HostTensor([Float](repeating: 0.5, count: 8), shape: [4, 2]),
    "offsets": HostTensor([0, 3, 3, 4] as [Int64]),
    "targets": HostTensor([1, 0, 1] as [Int64]),
  ]

  private func error(
    _ name: String, _ tensor: HostTensor?, weights: WeightTable = Self.weights, function: String = "forward"
  ) throws -> InterpreterError? {
    let interpreter = Interpreter(module: try Self.module(), weights: weights)
    var inputs = Self.good
    inputs[name] = tensor
    do throws(InterpreterError) {
      _ = try interpreter.run(function, inputs: inputs)
      return nil
    } catch {
      #expect(!error.description.isEmpty)
      return error
    }
  }

  @Test("ids are hashed into a table by the rest of a division that rounds down")
  func modulo() throws {
    let module = try TensorIRParser.parse(
      """
      module m
      weight @table : tensor<5 x 1 x f32>
      func @forward(%ids: tensor<rows x i64>) -> (y: tensor<rows x 1 x f32>) {
        %y = gather @table, %ids {out_of_range = modulo}
        return %y
      }
      """)
    let weights = WeightTable(["table": HostTensor([0, 1, 2, 3, 4] as [Float], shape: [5, 1])])
    let ids: [Int64] = [0, 4, 5, 12, -1, -5, -6, .max, .min]
    let found = try Interpreter(module: module, weights: weights).run("forward", inputs: ["ids": HostTensor(ids)])
    #expect(found[0].tensor.floats == [0, 4, 0, 2, 4, 0, 4, 2, 2])
  }

  @Test func goodInputsRun() throws {
    #expect(try error("ids", Self.good["ids"]) == nil)
  }

  @Test func names() throws {
    #expect(try error("x", nil) == .missingInput("x"))
    #expect(
      try error("extra", HostTensor([1] as [Float]))
        == .unexpectedInput("extra", expected: ["ids", "x", "offsets", "targets"]))
    #expect(
      try error("ids", Self.good["ids"], function: "score") == .unknownFunction(name: "score", known: ["forward"]))
  }

  @Test func types() throws {
    #expect(
      try error("x", HostTensor([Double](repeating: 0, count: 8), shape: [4, 2]))
        == .wrongElementType(argument: "x", found: .f64, expected: .f32))
    #expect(
      try error("x", HostTensor([Float](repeating: 0, count: 8)))
        == .wrongRank(argument: "x", found: [8], expected: 2))
    #expect(
      try error("x", HostTensor([Float](repeating: 0, count: 12), shape: [4, 3]))
        == .wrongExtent(argument: "x", axis: 1, dimension: "2", found: 3, expected: 2))
    #expect(
      try error("x", HostTensor([Float](repeating: 0, count: 6), shape: [3, 2]))
        == .wrongExtent(argument: "x", axis: 0, dimension: "rows", found: 3, expected: 4))
    #expect(
      try error("targets", HostTensor([1, 0] as [Int64]))
        == .wrongExtent(argument: "targets", axis: 0, dimension: "sequences", found: 2, expected: 3))
    #expect(
      try error("offsets", HostTensor([] as [Int64])) == .wrongRank(argument: "offsets", found: [0], expected: 1))
    #expect(
      try error("offsets", HostTensor([0, 3, 3, 4] as [Float]))
        == .wrongElementType(argument: "offsets", found: .f32, expected: .i64))
  }

  @Test(
    "offsets",
    arguments: [
      ([1, 3, 3, 4], 0, 1, 0), ([-1, 3, 3, 4], 0, -1, 0), ([0, 3, 2, 4], 2, 2, 3), ([0, -1, 3, 4], 1, -1, 0),
      ([0, 3, 3, 5], 3, 5, 4), ([0, 3, 3, 3], 3, 3, 4), ([0, 9, 9, 4], 3, 4, 9), ([0, 9, 3, 4], 2, 3, 9),
      ([0, 3, 3, .max], 3, .max, 4), ([0, 3, 3, .min], 3, .min, 4),
    ] as [([Int64], Int, Int64, Int64)])
  func offsets(entries: [Int64], position: Int, found: Int64, expected: Int64) throws {
    #expect(
      try error("offsets", HostTensor(entries))
        == .badOffsets(argument: "offsets", position: position, found: found, expected: expected))
  }

  @Test func targets() throws {
    #expect(
      try error("targets", HostTensor([1, 1, 1] as [Int64]))
        == .badTargets(argument: "targets", position: 1, found: 1, expected: 0))
    #expect(
      try error("targets", HostTensor([-1, 0, 1] as [Int64]))
        == .badTargets(argument: "targets", position: 0, found: -1, expected: 3))
    #expect(
      try error("targets", HostTensor([1, 0, .max] as [Int64]))
        == .badTargets(argument: "targets", position: 2, found: .max, expected: 1))
  }

  @Test func ids() throws {
    for id in [4, -1, .max, .min] as [Int64] {
      #expect(
        try error("ids", HostTensor([0, 1, id, 9]))
          == .idOutOfRange(argument: "ids", position: 2, found: id, expected: 4))
    }
  }

  @Test func longSequence() throws {
    #expect(
      try error("offsets", HostTensor([0, 0, 0, 4] as [Int64]))
        == .badTargets(argument: "targets", position: 0, found: 1, expected: 0))
    var inputs = Self.good
    inputs["offsets"] = HostTensor([0, 0, 4, 4] as [Int64])
    inputs["targets"] = HostTensor([0, 0, 0] as [Int64])
    #expect(throws: InterpreterError.sequenceTooLong(argument: "offsets", position: 1, found: 4, expected: 3)) {
      try Interpreter(module: Self.module(), weights: Self.weights).run("forward", inputs: inputs)
    }
  }

  @Test func weights() throws {
    var missing = Self.weights
    missing.tensors["table"] = nil
    guard case .badWeight("table", _) = try error("ids", Self.good["ids"], weights: missing) else {
      Issue.record("a missing weight must be refused")
      return
    }
    var reshaped = Self.weights
    reshaped.tensors["table"] = HostTensor([Float](repeating: 1, count: 8), shape: [2, 4])
    guard case .badWeight("table", let reason) = try error("ids", Self.good["ids"], weights: reshaped) else {
      Issue.record("a weight of another shape must be refused")
      return
    }
    #expect(reason.contains("[2, 4]") && reason.contains("tensor<4 x 2 x f32>"))
  }

  @Test("rows that no tensor has: absurd offsets allocate nothing")
  func offsetsAlone() throws {
    var build = FunctionBuilder(module: Module(name: "offsets"), name: "forward")
    let offsets = build.argument("offsets", .offsets(sequences: .symbol("sequences"), rows: .symbol("rows")))
    build.result("p", try build.emit(.positions(Positions(order: .ascending, limit: 3)), offsets))
    let interpreter = Interpreter(module: build.finish(), weights: WeightTable())
    #expect(throws: InterpreterError.badOffsets(argument: "offsets", position: 1, found: .max, expected: 1 << 32)) {
      try interpreter.run("forward", inputs: ["offsets": HostTensor([0, .max] as [Int64])])
    }
    let positions = try interpreter.run("forward", inputs: ["offsets": HostTensor([0, 5, 6] as [Int64])])[0].tensor
    #expect(positions == HostTensor([0, 1, 2, 3, 3, 0] as [Int64]))
  }

  @Test("selected offsets that are not the selection's")
  func foreignSelection() throws {
    var build = FunctionBuilder(module: Module(name: "selection"), name: "forward")
    let (rows, sequences, kept) = (Dimension.symbol("rows"), Dimension.symbol("sequences"), Dimension.symbol("kept"))
    let x = build.argument("x", .tensor([rows, .fixed(1)], .f32))
    let inner = build.argument("inner", .tensor([kept, .fixed(1)], .f32))
    let offsets = build.argument("offsets", .offsets(sequences: sequences, rows: rows))
    let selected = build.argument("selected", .offsets(sequences: sequences, rows: kept))
    let selection = RowSelection.latest(keep: 1, contextual: 0)
    build.result("y", try build.emit(.restoreRows(RestoreRows(selection)), inner, x, offsets, selected))
    let interpreter = Interpreter(module: build.finish(), weights: WeightTable())
    let inputs = [
      "x": HostTensor([1, 2, 3] as [Float], shape: [3, 1]), "inner": HostTensor([9, 8] as [Float], shape: [2, 1]),
      "offsets": HostTensor([0, 2, 3] as [Int64]), "selected": HostTensor([0, 1, 2] as [Int64]),
    ]
    #expect(try interpreter.run("forward", inputs: inputs)[0].tensor.doubles == [1, 9, 8])
    var foreign = inputs
    foreign["selected"] = HostTensor([0, 2, 2] as [Int64])
    #expect(throws: InterpreterError.badOffsets(argument: "selected", position: 1, found: 2, expected: 1)) {
      try interpreter.run("forward", inputs: foreign)
    }
  }
}
