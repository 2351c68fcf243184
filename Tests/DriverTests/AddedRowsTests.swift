import CUltra
import TensorIR
import TestSupport
import Testing
import UltraRuntime

/// What callers may get wrong where a model adds rows to their sequences.
@Suite struct AddedRowsTests {
  private static let model = Shared { try RobustModel(program()).load() }

  /// Two contextual rows of a feature's ids before each sequence, then a layer.
  private static func program() throws -> Module {
    var build = FunctionBuilder(module: Module(name: "added_rows"), name: "forward")
    let (rows, sequences, slots) = (RobustModel.rows, RobustModel.sequences, Dimension.symbol("slots"))
    let x = build.argument("x", .tensor([rows, .fixed(4)], .f32))
    let offsets = build.argument("offsets", .offsets(sequences: sequences, rows: rows))
    let targets = build.argument("targets", .tensor([sequences], .i64))
    let ids = build.argument("feature_ids", .tensor([slots], .i64))
    let own = build.argument("feature_offsets", .offsets(sequences: sequences, rows: slots))
    let feature = try build.emit(.gather(Gather()), build.weight("table", [9, 4]), ids)
    let heads = [
      try build.emit(.pickRows(PickRows(row: 0)), feature, own),
      try build.emit(.pickRows(PickRows(row: 1, minimum: 3)), feature, own, offsets),
    ]
    let addition = RowAddition.before(2)
    let longer = try build.emit(.extendOffsets(ExtendOffsets(addition, into: "longer")), offsets)
    let joined = try build.append(.extendRows(ExtendRows(addition)), heads + [x, offsets, longer])[0]
    let layer = ProductionLayer(
      width: 4, heads: 1, queryWidth: 3, valueWidth: 3, alpha: 0.5, divisor: .fixed(8),
      mask: Mask(.causal, contextual: 2))
    build.result(
      "y", try build.productionLayer(layer, prefix: "", x: joined, offsets: longer, targets: targets))
    build.result("longer", longer)
    return build.finish()
  }

  private static func batch(_ lengths: [Int], slots: [Int]) -> [String: HostTensor] {
    var random = Random(seed: 5)
    return [
      "x": random.tensor([lengths.reduce(0, +), 4]), "offsets": HostTensor(RobustModel.offsets(lengths)),
      "targets": HostTensor(lengths.map { Int64($0 / 2) }),
      "feature_ids": HostTensor((0..<slots.reduce(0, +)).map { Int64($0 % 9) }),
      "feature_offsets": HostTensor(RobustModel.offsets(slots)),
    ]
  }

  @Test("the extents that only the call knows are bounded by a sum")
  func bounds() throws {
    let model = try Self.model.get()
    let call = try RawCall(model, Self.batch([5, 0, 3], slots: [2, 1, 0]))
    #expect(call.port.dimensions == ["rows", "sequences", "slots"])
    #expect(call.outputs.map(\.count) == [(8 + 2 * 3) * 4, 4])
    #expect(call.run() == .ok)
    #expect(call.written == [(8 + 2 * 3) * 4, 4])
  }

  @Test("rows that are too many with the added ones are refused before anything is read")
  func tooMany() throws {
    let call = try RawCall(try Self.model.get(), Self.batch([5, 0, 3], slots: [2, 1, 0]))
    let most = Int64(Int32.max)
    #expect(call.entry.workspace_size([most - 4, 2, 0], 1) != -1)
    #expect(call.entry.workspace_size([most - 4, 3, 0], 1) == -1)
    #expect(call.entry.workspace_size([most, most, most], 1) == -1)
    call.dimensions = [most - 4, 3, 3]
    #expect(
      call.run()
        == RawCall.Outcome(
          status: ULTRA_BAD_DIMENSION.rawValue, argument: 0, position: 0, found: most + 2, expected: most))
  }

  @Test("targets are rows of the longer sequence")
  func targets() throws {
    var inputs = Self.batch([5, 0, 3], slots: [2, 1, 0])
    inputs["targets"] = HostTensor([7, 2, 6] as [Int64])
    let refused = try RawCall(try Self.model.get(), inputs).run()
    #expect(
      refused
        == RawCall.Outcome(status: ULTRA_BAD_TARGETS.rawValue, argument: 2, position: 2, found: 6, expected: 5))
    inputs["targets"] = HostTensor([7, 2, 5] as [Int64])
    #expect(try RawCall(try Self.model.get(), inputs).run() == .ok)
  }

  @Test("a feature's offsets are checked like others")
  func features() throws {
    var inputs = Self.batch([5, 0, 3], slots: [2, 1, 0])
    inputs["feature_offsets"] = HostTensor([0, 2, 1, 3] as [Int64])
    let refused = try RawCall(try Self.model.get(), inputs).run()
    #expect(
      refused
        == RawCall.Outcome(status: ULTRA_BAD_OFFSETS.rawValue, argument: 4, position: 2, found: 1, expected: 2))
  }
}
