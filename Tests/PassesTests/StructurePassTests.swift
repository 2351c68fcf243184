import Interpreter
import Passes
import TensorIR
import TestSupport
import Testing

/// A random production stack that is built dense, or with a structure from the start: the same layers on the same batch.
private struct Stack {
  /// Layers after which rows are cut, and what is kept.
  struct Cut {
    var after: Int
    var selection: RowSelection
    var restores: Bool
  }

  var layers: [ProductionLayer] = []
  var lengths: [Int] = []
  var targets: [Int]?
  var contextual = 0
  let seed: UInt64

  init(seed: UInt64) {
    self.seed = seed
    var random = Random(seed: seed)
    contextual = random.pick([0, 0, 2])
    let divisor: Attention.Divisor = random.pick([.fixed(40), .longestSequence, .longestHistoryPlusTargets])
    let width = random.pick([5, 8, 16])
    for _ in 0..<random.integer(in: 2...4) {
      var layer = ProductionLayer(
        width: width, heads: random.integer(in: 1...2), queryWidth: random.pick([3, 8]),
        valueWidth: random.pick([4, 7]),
        alpha: 0.5, divisor: divisor, mask: Mask(.causal, contextual: contextual))
      layer.gate = random.pick(ProductionLayer.Gate.allCases)
      layer.concatenatesAttention = random.once(in: 2)
      layers.append(layer)
    }
    lengths = (0..<random.integer(in: 1...4)).map { _ in random.pick([0, 1, random.integer(in: 2...40)]) }
    if !random.once(in: 3) { targets = lengths.map { random.integer(in: 0...min($0, 5)) } }
  }

  var rows: Int { lengths.reduce(0, +) }

  var inputs: [String: HostTensor] {
    var random = Random(seed: seed &+ 1000)
    let offsets = lengths.reduce(into: [Int64(0)]) { $0.append($0[$0.count - 1] + Int64($1)) }
    var inputs = ["x": random.tensor([rows, layers[0].width]), "offsets": HostTensor(offsets)]
    if let targets { inputs["targets"] = HostTensor(targets.map(Int64.init)) }
    return inputs
  }

  /// The stack with `mask` in place of every layer's own, and with a cut.
  func module(mask: Mask? = nil, cut: Cut? = nil) throws -> Module {
    var build = FunctionBuilder(module: Module(name: "stack_\(seed)"), name: "forward")
    var x = build.argument("x", .tensor([.symbol("rows"), .fixed(layers[0].width)], .f32))
    var at = build.argument("offsets", .offsets(sequences: .symbol("sequences"), rows: .symbol("rows")))
    let counts = targets.map { _ in build.argument("targets", .tensor([.symbol("sequences")], .i64)) }
    let operand = counts.map { [$0] } ?? []
    var outer: (x: ValueID, at: ValueID)?
    for (index, layer) in layers.enumerated() {
      if let cut, cut.after == index {
        outer = (x, at)
        let select = SelectOffsets(cut.selection, into: "kept")
        let kept = try build.append(.selectOffsets(select), [at] + operand)[0]
        x = try build.append(.selectRows(SelectRows(cut.selection)), [x, at, kept] + operand)[0]
        at = kept
      }
      var layer = layer
      if let mask { layer.mask = mask }
      x = try build.productionLayer(layer, prefix: "layers.\(index).", x: x, offsets: at, targets: counts)
    }
    var kept: ValueID?
    if let cut, let outer {
      if cut.restores {
        x = try build.append(.restoreRows(RestoreRows(cut.selection)), [x, outer.x, outer.at, at] + operand)[0]
        at = outer.at
      } else {
        kept = at
      }
    }
    build.result("y", x)
    if let kept { build.result("out_offsets", kept) }
    build.result("last", try build.emit(.lastRows(LastRows()), x, at))
    if let counts {
      let select = SelectOffsets(.targets, into: "target_rows")
      let offsets = try build.append(.selectOffsets(select), [at, counts])[0]
      build.result("scored", try build.append(.selectRows(SelectRows(.targets)), [x, at, offsets, counts])[0])
    }
    return build.finish()
  }

  func weights(of module: Module) -> WeightTable {
    var random = Random(seed: seed &+ 2000)
    var table = WeightTable()
    for weight in module.weights {
      table.tensors[weight.name] = random.tensor(weight.type.shape.compactMap(\.extent), spread: 0.5)
    }
    return table
  }

  func results(of module: Module, passes: String = "") throws -> [String: HostTensor] {
    let module = try rewritten(module, passes)
    let results = try Interpreter(module: module, weights: weights(of: module), precision: .f32)
      .run("forward", inputs: inputs)
    return Dictionary(uniqueKeysWithValues: results.map { ($0.name, $0.tensor) })
  }

  func rewritten(_ module: Module, _ passes: String) throws -> Module {
    var module = module
    try PassManager(PassPipeline(parsing: passes)).run(on: &module)
    return module
  }
}

@Suite("Passes that change the structure of a model")
struct StructurePassTests {
  static let seeds = 1...40 as ClosedRange<UInt64>

  /// Masks that the pass makes of causal ones, as the builder is told them.
  private static func structures(_ random: inout Random, contextual: Int) -> [(String, Mask)] {
    let (local, global) = (random.integer(in: 1...8), random.integer(in: 0...6))
    let targets = random.pick(Mask.PrefixTargets.allCases)
    return [
      (
        "semi-local-attention{local=\(local),global=\(global)}",
        Mask(.windowed(window: local, fullTail: global), contextual: contextual)
      ),
      (
        "semi-local-attention{local=\(local),global=\(global),form=prefix,targets=\(targets.rawValue)}",
        Mask(.keyPrefix(local: local, global: global, targets: targets), contextual: contextual)
      ),
    ]
  }

  @Test("semi-local attention makes the model that is built so", arguments: seeds)
  func semiLocal(seed: UInt64) throws {
    let stack = Stack(seed: seed)
    var random = Random(seed: seed)
    for (pass, mask) in Self.structures(&random, contextual: stack.contextual) {
      let built = try stack.module(mask: mask)
      #expect(try stack.rewritten(stack.module(), pass).text == built.text)
    }
  }

  @Test("a window longer than every sequence changes no bit", arguments: seeds)
  func wideWindow(seed: UInt64) throws {
    let stack = Stack(seed: seed)
    let dense = try stack.results(of: stack.module())
    #expect(try stack.results(of: stack.module(), passes: "semi-local-attention{local=41,global=0}") == dense)
    #expect(try stack.results(of: stack.module(), passes: "semi-local-attention{local=1,global=41}") == dense)
    // Under the prefix form contextual rows do not see the history after them.
    guard stack.contextual == 0 else { return }
    let prefix = "semi-local-attention{local=41,global=0,form=prefix,targets="
    #expect(try stack.results(of: stack.module(), passes: prefix + "windowed}") == dense)
    let hasTargets = stack.targets?.contains { $0 > 0 } == true
    #expect((try stack.results(of: stack.module(), passes: prefix + "history}") == dense) == !hasTargets)
  }

  @Test("truncation makes the model that is built so", arguments: seeds, [false, true])
  func truncation(seed: UInt64, restores: Bool) throws {
    let stack = Stack(seed: seed)
    var random = Random(seed: seed)
    for after in stack.layers.indices {
      let keep = random.integer(in: 1...12)
      let contextual = stack.contextual + random.integer(in: 0...1)
      let cut = Stack.Cut(
        after: after, selection: .latest(keep: keep, contextual: contextual), restores: restores)
      let form = restores ? "skip" : "drop"
      let pass = "attention-truncation{after=\(after),keep=\(keep),form=\(form),contextual=\(contextual)}"
      let built = try stack.results(of: stack.module(cut: cut))
      #expect(try stack.results(of: stack.module(), passes: pass) == built, "\(pass)")
      #expect(try stack.results(of: stack.module(), passes: "canonicalize,cse,\(pass),canonicalize,dce") == built)
    }
  }

  @Test("keeping more rows than there are changes no bit", arguments: seeds, ["drop", "skip"])
  func keepsAll(seed: UInt64, form: String) throws {
    let stack = Stack(seed: seed)
    let dense = try stack.results(of: stack.module())
    for after in stack.layers.indices {
      var kept = try stack.results(
        of: stack.module(), passes: "attention-truncation{after=\(after),keep=40,form=\(form)}")
      #expect(kept.removeValue(forKey: "out_offsets") == (form == "drop" ? stack.inputs["offsets"] : nil))
      #expect(kept == dense)
    }
  }

  @Test("truncation changes results where it drops what is read")
  func drops() throws {
    var changed = 0
    for seed in Self.seeds {
      let stack = Stack(seed: seed)
      let dense = try stack.results(of: stack.module())["last"]
      let pass = "attention-truncation{after=1,keep=2}"
      if try stack.results(of: stack.module(), passes: pass)["last"] != dense { changed += 1 }
    }
    #expect(changed > 20)
  }

  /// Two research layers with position and time bias, the second on the latest `keep` rows where that is given.
  private func research(keep: Int?) throws -> Module {
    var build = FunctionBuilder(module: Module(name: "research"), name: "forward")
    let rows = Dimension.symbol("rows")
    let sequences = Dimension.symbol("sequences")
    var x = build.argument("x", .tensor([rows, .fixed(6)], .f32))
    var at = build.argument("offsets", .offsets(sequences: sequences, rows: rows))
    var keys = build.argument("times", .tensor([rows], .i64))
    let now = build.argument("now", .tensor([sequences], .i64))
    var queries = try build.emit(.nextRows(NextRows()), keys, now, at)
    let layer = ResearchLayer(width: 6, heads: 2, queryWidth: 3, valueWidth: 4, divisor: .fixed(30), n: 30)
    x = try build.researchLayer(layer, prefix: "layers.0.", x: x, offsets: at, times: (queries, keys))
    if let keep {
      let selection = RowSelection.latest(keep: keep, contextual: 0)
      let kept = try build.emit(.selectOffsets(SelectOffsets(selection, into: "kept")), at)
      x = try build.emit(.selectRows(SelectRows(selection)), x, at, kept)
      keys = try build.emit(.selectRows(SelectRows(selection)), keys, at, kept)
      queries = try build.emit(.selectRows(SelectRows(selection)), queries, at, kept)
      at = kept
    }
    x = try build.researchLayer(layer, prefix: "layers.1.", x: x, offsets: at, times: (queries, keys))
    build.result("last", try build.emit(.lastRows(LastRows()), x, at))
    return build.finish()
  }

  @Test("later layers keep the times and the distances of their rows", arguments: seeds)
  func times(seed: UInt64) throws {
    var random = Random(seed: seed)
    let lengths = (0..<3).map { _ in random.integer(in: 0...30) }
    let rows = lengths.reduce(0, +)
    let offsets = lengths.reduce(into: [Int64(0)]) { $0.append($0[$0.count - 1] + Int64($1)) }
    let inputs = [
      "x": random.tensor([rows, 6]), "offsets": HostTensor(offsets),
      "times": HostTensor((0..<rows).map { _ in Int64(random.integer(in: 0...1_000_000)) }),
      "now": HostTensor([Int64(2_000_000), 2_000_000, 3_000_000]),
    ]
    let keep = random.integer(in: 1...12)
    var module = try research(keep: nil)
    var weights = WeightTable()
    for weight in module.weights {
      weights.tensors[weight.name] = random.tensor(weight.type.shape.compactMap(\.extent))
    }
    let built = try research(keep: keep)
    try PassManager(PassPipeline(parsing: "attention-truncation{after=1,keep=\(keep)}")).run(on: &module)
    let results = try [module, built].map { module in
      try Interpreter(module: module, weights: weights, precision: .f32).run("forward", inputs: inputs).map(\.tensor)
    }
    #expect(results[0] == results[1])
  }

  @Test("the rewritten program means the same as tiles", arguments: seeds)
  func tiles(seed: UInt64) throws {
    let stack = Stack(seed: seed)
    let passes = [
      "semi-local-attention{local=3,global=2}",
      "semi-local-attention{local=3,global=2,form=prefix,targets=windowed},attention-truncation{after=1,keep=7}",
      "attention-truncation{after=1,keep=5,form=skip},canonicalize,cse,dce",
    ]
    for pipeline in passes {
      let module = try stack.rewritten(stack.module(), pipeline)
      let weights = stack.weights(of: module)
      let expected = try Interpreter(module: module, weights: weights).run("forward", inputs: stack.inputs)
      let program = try lowerToTiles(module, function: "forward")
      let got = try TileInterpreter(program: program, weights: weights).run(stack.inputs)
      try #require(got.map(\.name) == expected.map(\.name))
      for (got, expected) in zip(got, expected) {
        let tolerance = RandomProgram.Kind.production.tolerance(of: expected.tensor) * 0x1p-29
        expectClose(got.tensor, expected.tensor, atol: tolerance, rtol: 0, "\(pipeline), \(expected.name)")
      }
    }
  }
}
