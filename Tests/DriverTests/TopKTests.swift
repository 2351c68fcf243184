import CUltra
import Codegen
import Interpreter
import Passes
import TensorIR
import TestSupport
import Testing
import TileIR
import UltraRuntime

/// The best items of a query from a compiled artifact.
@Suite struct TopKTests {
  /// Queries [sequences, width] against items, with or without seen ids [rows] cut by offsets.
  static func module(
    _ items: Int, width: Int, _ top: TopK, leavesOutSeen: Bool = true, element: ElementType = .f32
  ) throws -> Module {
    var build = FunctionBuilder(module: Module(name: "ranking"), name: "forward")
    let sequences = Dimension.symbol("sequences")
    var queries = build.argument("x", .tensor([sequences, .fixed(width)], .f32))
    var operands = [try build.weight("items", [items, width])]
    if let rows = top.rows {
      operands = [
        build.derivedWeight(
          "items.bytes", [items, rows.byteCount(width: width)], .u8, .quantizedRows("items", rows))
      ]
    } else if element == .bf16 {
      queries = try build.emit(.convert(Convert(to: .bf16)), queries)
      operands = [build.derivedWeight("items.bf16", [items, width], .bf16, .convert("items"))]
    }
    if leavesOutSeen {
      operands.append(build.argument("seen", .tensor([.symbol("rows")], .i64)))
      operands.append(build.argument("offsets", .offsets(sequences: sequences, rows: .symbol("rows"))))
    }
    let results = try build.append(.topK(top), [queries] + operands)
    build.result("scores", results[0])
    build.result("ids", results[1])
    return build.finish()
  }

  /// Small parts and turns, so that few items have several.
  private static var small: TileSchedule {
    var schedule = TileSchedule()
    (schedule.rows, schedule.itemColumns, schedule.itemsOfPart) = (8, 64, 48)
    return schedule
  }

  private func inputs(_ queries: HostTensor, seen: [[Int64]]) -> [String: HostTensor] {
    [
      "x": queries, "seen": HostTensor(seen.flatMap { $0 }),
      "offsets": HostTensor(seen.reduce(into: [0 as Int64]) { $0.append($0[$0.count - 1] + Int64($1.count)) }),
    ]
  }

  /// Items of one number each: the score of a query 1 is the item.
  private func ranked(
    _ items: [Float], _ top: TopK, queries: [Float] = [1], seen: [[Int64]]? = nil, _ schedule: TileSchedule = small
  ) throws -> (scores: [[Float]], ids: [[Int64]]) {
    let module = try Self.module(items.count, width: 1, top)
    let weights = WeightTable(["items": HostTensor(items, shape: [items.count, 1])])
    let compiled = try CompiledProgram(
      module, weights: weights, level: try #require(CPULevel.native), schedule: schedule, optimization: .less)
    let found = try compiled.run(
      inputs(HostTensor(queries, shape: [queries.count, 1]), seen: seen ?? queries.map { _ in [] }))
    func rows<T>(_ all: [T]) -> [[T]] {
      (0..<queries.count).map { Array(all[$0 * top.count..<($0 + 1) * top.count]) }
    }
    return (rows(found[0].tensor.floats), rows(found[1].tensor.integers))
  }

  @Test func equalScoresAreOrderedById() throws {
    // The same number everywhere: whatever turn and part an item is in, the smaller id goes before.
    let found = try ranked(Array(repeating: 2, count: 300), TopK(count: 70, firstID: 5))
    #expect(found.ids == [Array(5..<75)])
    #expect(found.scores == [Array(repeating: 2, count: 70)])
    let zeros = try ranked((0..<200).map { $0 % 2 == 0 ? -0.0 : 0 }, TopK(count: 9))
    #expect(zeros.ids == [Array(0..<9)], "zeros of both signs are equal")
  }

  @Test func ascendingAndDescendingItems() throws {
    // In ascending order every item goes into the list, in descending order none after the first.
    for k in [1, 2, 33, 200] {
      let up = try ranked((0..<200).map { Float($0) }, TopK(count: k))
      #expect(up.ids == [Array((0..<200).map { Int64($0) }.reversed().prefix(k))])
      let down = try ranked((0..<200).map { Float(-$0) }, TopK(count: k))
      #expect(down.ids == [Array((0..<200).map { Int64($0) }.prefix(k))])
    }
  }

  @Test func numbersThatAreNoneComeLast() throws {
    var items = (0..<150).map { Float($0) }
    for index in [0, 3, 100, 149] { items[index] = .nan }
    (items[7], items[120]) = (-.infinity, .infinity)
    let found = try ranked(items, TopK(count: 150))
    #expect(found.ids[0].first == 120)
    #expect(found.ids[0].suffix(5) == [7, 0, 3, 100, 149])
    #expect(found.scores[0].suffix(4).allSatisfy { $0.isNaN })
    // A query that is NaN has no better and no worse items.
    let none = try ranked(items, TopK(count: 4, firstID: 1), queries: [.nan, 1])
    #expect(none.ids == [[1, 2, 3, 4], [121, 149, 148, 147]])
    // All have the same bits.
    #expect(Set(none.scores[0].map(\.bitPattern)) == [Float.nan.bitPattern])
  }

  @Test func seenItemsAreLeftOut() throws {
    let items = (0..<200).map { Float($0) }
    let all = (0..<200).map { Int64($0) }
    let lies: [Int64] = [.min, -1, 200, .max, 199, 199, 197, 199, 1 << 40]
    let found = try ranked(
      items, TopK(count: 3), queries: [1, 1, -1, 1, 1],
      seen: [[], lies, Array(0..<198), all.reversed(), all.filter { $0 != 50 } + all.filter { $0 != 50 }])
    let ids: [[Int64]] = [[199, 198, 197], [198, 196, 195], [198, 199, -1], [-1, -1, -1], [50, -1, -1]]
    #expect(found.ids == ids)
    let none = -Float.infinity
    let rest: [[Float]] = [[-198, -199, none], [none, none, none], [50, none, none]]
    #expect(Array(found.scores[2...]) == rest)
    // Ids count from the first one.
    let later = try ranked(items, TopK(count: 2, firstID: 7), queries: [1], seen: [[199, 206, 6]])
    #expect(later.ids == [[205, 204]])
  }

  /// Ids of any sign and size, and the rows of a table of 201 that they are hashed into.
  static let hashed: [(id: Int64, row: Int64)] = [
    (.min, 25), (.max, 175), (-1, 200), (206, 5), (-402, 0), (1 << 40, 73), (201 << 40, 0), (7, 7),
  ]

  @Test func idsThatAreHashedLeaveTheirRowsOut() throws {
    // Rows 1...200 of the table are items; row 0 is none.
    let items = (1...200).map { Float($0) }
    let top = TopK(count: 200, firstID: 1, seenModulo: 201)
    let seen = [Self.hashed.map(\.id), [], Self.hashed.map(\.row)]
    let found = try ranked(items, top, queries: [1, 1, 1], seen: seen)
    let all = (1...200 as ClosedRange<Int64>).reversed()
    let rest = all.filter { id in !Self.hashed.contains { $0.row == id } }
    let filled = rest + Array(repeating: -1, count: 200 - rest.count)
    #expect(rest.count == 194 && found.ids == [filled, Array(all), filled])
    // Without a table that they are hashed into, they are no items' but for one.
    let raw = try ranked(items, TopK(count: 200, firstID: 1), seen: [Self.hashed.map(\.id)])
    #expect(raw.ids == [all.filter { $0 != 7 } + [-1]])
  }

  @Test func longHistoriesInAnyOrder() throws {
    var random = Random(seed: 5)
    let items = (0..<3000).map { _ in Float(random.integer(in: 0...500)) }
    let seen = [0, 1, 2, 3, 50, 4000].map { count in (0..<count).map { _ in Int64(random.integer(in: 0...3100)) } }
    let ordered = seen + [Array(0..<2990), (0..<2990).reversed().map { $0 }]
    let found = try ranked(
      items, TopK(count: 20), queries: ordered.map { _ in 1 }, seen: ordered, TileSchedule())
    let all = items.enumerated().map { (score: $1, id: Int64($0)) }.sorted(by: TopK.isBefore)
    for (ids, own) in zip(found.ids, ordered.map { Set($0) }) {
      let expected = all.map(\.id).filter { !own.contains($0) }.prefix(20)
      #expect(ids == expected + Array(repeating: -1, count: 20 - expected.count))
    }
  }

  /// What fp32 gives is said to the last bit by the tile program, whatever the numbers are.
  @Test(arguments: ["f32", "bf16", "int8", "int4"], [1, 25, 50, 64])
  func everyBit(form: String, width: Int) throws {
    var random = Random(seed: UInt64(width))
    let items = 333
    let top = TopK(count: 40, firstID: 1, rows: TableFormat(rawValue: form))
    let module = try Self.module(items, width: width, top, element: ElementType(rawValue: form) ?? .f32)
    let weights = WeightTable(["items": random.tensor([items, width])])
    let seen = (0..<21).map { _ in (0..<random.integer(in: 0...9)).map { _ in Int64(random.integer(in: 0...340)) } }
    let inputs = inputs(random.tensor([21, width]), seen: seen)
    let program = try lowerToTiles(module, function: "forward", schedule: Self.small)
    let expected = try TileInterpreter(
      program: program, weights: DerivedWeights(module, base: weights), precision: .f32
    ).run(inputs)
    let pool = try ThreadPool(workers: 3)
    for level in CPULevel.ofOneOrder {
      for schedule in [Self.small, TileSchedule()] {
        let compiled = try CompiledProgram(
          module, weights: weights, level: level, schedule: schedule, optimization: .less)
        for found in [try compiled.run(inputs), try compiled.run(inputs, pool: pool)] {
          #expect(found.map(\.tensor) == expected.map(\.tensor), "\(form), \(width) wide, for \(level)")
        }
      }
    }
  }

  @Test func emptyBatchesAndBatchMates() throws {
    var random = Random(seed: 11)
    let top = TopK(count: 10)
    let module = try Self.module(500, width: 16, top)
    let compiled = try CompiledProgram(
      module, weights: WeightTable(["items": random.tensor([500, 16])]), level: try #require(CPULevel.native),
      schedule: Self.small, optimization: .less)
    let none = try compiled.run(inputs(HostTensor([Float](), shape: [0, 16]), seen: []))
    #expect(none.map(\.tensor.shape) == [[0, 10], [0, 10]])
    let queries = random.tensor([77, 16])
    let seen = (0..<77).map { count in (0..<count).map { _ in Int64(random.integer(in: 0...499)) } }
    let together = try compiled.run(inputs(queries, seen: seen))
    for index in [0, 1, 7, 8, 76] {
      let alone = try compiled.run(inputs(try queries.rows([index]), seen: [seen[index]]))
      for (alone, together) in zip(alone, together) { #expect(try alone.tensor == together.tensor.rows([index])) }
    }
  }

  @Test func seenIdsThatAreNotCut() throws {
    let top = TopK(count: 10)
    let module = try Self.module(300, width: 4, top)
    var random = Random(seed: 2)
    let compiled = try CompiledProgram(
      module, weights: WeightTable(["items": random.tensor([300, 4])]), level: try #require(CPULevel.native),
      optimization: .less)
    let good = inputs(random.tensor([3, 4]), seen: [[1, 2], [], [3]])
    let call = try RawCall(compiled.model, good)
    #expect(call.run() == .ok)
    for offsets: [Int64] in [
      [0, 2, 1, 3], [1, 2, 2, 3], [0, 2, 2, 4], [0, .max, 2, 3], [0, -1, 2, 3], [0, 2, 2, 2],
    ] {
      var lie = good
      lie["offsets"] = HostTensor(offsets)
      let call = try RawCall(compiled.model, lie)
      #expect(call.run().status == ULTRA_BAD_OFFSETS.rawValue, "\(offsets)")
    }
    // Any bytes are seen ids.
    for id: Int64 in [.min, .max, -1, 300, 1 << 62] {
      var lie = good
      lie["seen"] = HostTensor([id, id, id])
      let call = try RawCall(compiled.model, lie)
      #expect(call.run() == .ok)
    }
    // The largest numbers of queries and seen ids still have a size.
    call.dimensions = [Int64(Int32.max), Int64(Int32.max)]
    let size = call.entry.workspace_size(call.dimensions, .max)
    #expect(size > Int(Int32.max) && size < Int.max)
  }
}
