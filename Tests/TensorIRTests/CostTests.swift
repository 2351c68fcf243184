import TensorIR
import Testing

@Suite struct CostTests {
  /// A layer's two products and its attention, then the same attention on the latest `keep` rows.
  private func function(mask: Mask, keep: Int) throws -> Function {
    var build = FunctionBuilder(module: Module(name: "m"), name: "forward")
    let sequences = Dimension.symbol("sequences")
    let rows = Dimension.symbol("rows")
    let offsets = build.argument("at", .offsets(sequences: sequences, rows: rows))
    let ids = build.argument("ids", .tensor([rows], .i64))
    let x = try build.emit(.gather(Gather()), build.weight("table", [1000, 6]), ids)
    let p = try build.emit(.linear(Linear(.outIn)), x, build.weight("w", [10, 6]), build.weight("b", [10]))
    let parts = try build.append(.split(Split(widths: [4, 4, 2])), [p])
    let attention = Payload.attention(Attention(heads: 2, alpha: 1, divisor: .fixed(8), mask: mask))
    let all = try build.emit(attention, parts[0], parts[1], parts[2], offsets)
    let selection = RowSelection.latest(keep: keep, contextual: 0)
    let kept = try build.emit(.selectOffsets(SelectOffsets(selection, into: "kept")), offsets)
    let few = try parts.map { try build.emit(.selectRows(SelectRows(selection)), $0, offsets, kept) }
    let last = try build.emit(attention, few[0], few[1], few[2], kept)
    build.result("all", all)
    build.result("last", last)
    return try #require(build.finish().function(named: "forward"))
  }

  @Test func countsProductsAndTheKeysThatAreSeen() throws {
    let function = try function(mask: .causal, keep: 3)
    let costs = function.costs(on: BatchShape(lengths: [5, 0, 2]))
    let byName: [String: Cost] = Dictionary(
      uniqueKeysWithValues: costs.map { (function[function[$0.operation].results[0]].name, $0.cost) })
    // 7 rows; 15 + 3 pairs, of which 6 + 3 remain after keeping 3 rows and 2.
    #expect(byName["linear"]?.flops == 840)
    #expect(byName["attention"]?.flops == 216)
    #expect(byName["attention.1"]?.flops == 108)
    #expect(function.cost(on: BatchShape(lengths: [5, 0, 2])).flops == 840 + 216 + 108)
    // Seven rows of a table of 1000: what is read, their ids, what is written.
    #expect(byName["gather"]?.bytes == 392)
  }

  /// Rows behind those that are kept see these too: as candidates each beside them itself alone, as history the earlier ones.
  @Test(arguments: [("", 16), (", continued", 17)])
  func countsKeysThatAreKept(flag: String, pairs: Int) throws {
    let text = """
      module m
      func @score(%k: tensor<cached x 4 x f32>, %kept: offsets<sequences x cached>, %x: tensor<rows x 4 x f32>, %at: offsets<sequences x rows>) -> (y: tensor<rows x 4 x f32>) {
        %own = lengths %at : tensor<sequences x i64>
        %ends = extend_offsets %kept, %own {add = appended, into = all} : offsets<sequences x all>
        %keys = extend_rows %x, %k, %kept, %ends, %own {add = appended} : tensor<all x 4 x f32>
        %y = attention %x, %keys, %keys, %ends, %own, %at {heads = 1, alpha = 1, divisor = fixed(8), activation = silu, mask = causal, targets\(flag), queries = targets} : tensor<rows x 4 x f32>
        return %y
      }
      """
    let function = try #require(TensorIRParser.parse(text, file: "m.tir").function(named: "score"))
    #expect(function.arguments.map { function.cutsKeptRows($0) } == [false, true, false, false])
    // Two rows behind 5, one behind 3, none behind 2: 6 + 6 keys, or 6 + 7, and 4.
    let batch = BatchShape(lengths: [2, 1, 0], kept: ["kept": [5, 3, 2]])
    #expect(function.cost(on: batch).flops == Double(2 * pairs * 8))
    let joined = try #require(
      function.costs(on: batch).first { function[function[$0.operation].results[0]].name == "keys" })
    // Rows that are there, those that come, and all of them; three offsets of four numbers, three counts.
    let bytes = (10 + 3 + 13) * 4 * 4 + 2 * 4 * 8 + 3 * 8
    #expect(joined.cost.bytes == Double(bytes))
  }

  /// What stays inside a region moves nothing; what several of its operations read comes in once.
  @Test func aRegionMovesWhatCrossesItsEdge() throws {
    let text = """
      module m
      weight @w : tensor<4 x 8 x f32>
      func @forward(%x: tensor<rows x 4 x f32>, %at: offsets<sequences x rows>) -> (y: tensor<rows x 8 x f32>) {
        region over rows {
          %a = silu %x : tensor<rows x 4 x f32>
          %b = multiply %a, %x : tensor<rows x 4 x f32>
          %y = linear %b, @w : tensor<rows x 8 x f32>
        }
        return %y
      }
      """
    let region = try #require(TensorIRParser.parse(text, file: "m.tir").function(named: "forward"))
    let cost = region.unitCosts(on: BatchShape(lengths: [7, 3]))
    #expect(cost.map(\.unit.operations.count) == [3])
    // 10 rows: x, the weight and y, in fp32.
    let numbers = 10 * 4 + 4 * 8 + 10 * 8
    #expect(cost[0].cost.flops == 640)
    #expect(cost[0].cost.bytes == Double(numbers * 4))

    // Outside of regions units are operations.
    let apart = try function(mask: .causal, keep: 3)
    let batch = BatchShape(lengths: [5, 0, 2])
    #expect(apart.unitCosts(on: batch).map(\.cost.flops) == apart.costs(on: batch).map(\.cost.flops))
  }

  @Test func windowGrowsLinearly() throws {
    let mask = Mask(.windowed(window: 2, fullTail: 0))
    // 1, 2, then eight rows of 3: the window and the row itself.
    #expect(mask.visiblePairs(length: 10, targets: 0) == 27)
    #expect(mask.visiblePairs(length: 0, targets: 0) == 0)
    // Three targets see the last 2 of 7 history rows and themselves.
    #expect(mask.visiblePairs(length: 10, targets: 3) == 27)
    #expect(Mask.causal.visiblePairs(length: 10, targets: 3) == 52)
  }

  /// Work is the same in fewer bits; bytes are those that are stored.
  @Test func bytesFollowTheElementType() throws {
    let module = try TensorIRParser.parse(
      """
      module m
      weight @t : tensor<100 x 6 x f32>
      weight @t.int4 : tensor<100 x 7 x u8> = quantized_rows @t {rows = int4}
      weight @w : tensor<6 x 10 x f32>
      weight @w.codes : tensor<6 x 10 x f8e4m3> = codes @w {channels = columns}
      weight @w.scales : tensor<10 x f32> = scales @w {channels = columns, of = f8e4m3}
      func @forward(%ids: tensor<rows x i64>, %at: offsets<sequences x rows>) -> (out: tensor<rows x 10 x f32>) {
        %x = gather @t.int4, %ids {out_of_range = error, rows = int4, width = 6}
        %c, %s = quantize_rows %x {to = f8e4m3}
        %p = quantized_linear %c, %s, @w.codes, @w.scales
        return %p
      }
      """)
    let costs = module.functions[0].costs(on: BatchShape(lengths: [5, 2])).map(\.cost)
    // Seven rows of 7 bytes, their ids, and six numbers of fp32 for each.
    #expect(costs[0].bytes == 273)
    #expect(costs[1].bytes == 238)
    #expect(costs[2].flops == 840)
    #expect(costs[2].bytes == 450)
  }

  /// Every query is multiplied with every item, whatever their rows are stored as; the items are read.
  @Test func rankingGoesThroughAllItems() throws {
    let module = try TensorIRParser.parse(
      """
      module m
      weight @w : tensor<100 x 6 x f32>
      weight @w.int8 : tensor<100 x 14 x u8> = quantized_rows @w {rows = int8}
      func @forward(%q: tensor<rows x 6 x f32>, %at: offsets<sequences x rows>) -> (ids: tensor<rows x 3 x i64>) {
        %s, %ids = top_k %q, @w {k = 3}
        %t, %others = top_k %q, @w.int8 {k = 3, rows = int8}
        return %ids
      }
      """)
    let costs = module.functions[0].costs(on: BatchShape(lengths: [5, 2])).map(\.cost)
    #expect(costs.map(\.flops) == [8400, 8400])
    // 100 rows of 24 bytes or of 14, seven queries, and three scores and ids for each.
    #expect(costs.map(\.bytes) == [2820, 1820])
  }

  @Test func emptyBatchCostsNothingButWeights() throws {
    let cost = try function(mask: .causal, keep: 3).cost(on: BatchShape(lengths: []))
    #expect(cost.flops == 0)
  }
}
