import TensorIR

// Whole small models.
extension ProgramMaker {
  mutating func makeProduction() throws {
    let width = random.pick(Self.widths)
    var x = argumentX(width)
    let offsets = argumentOffsets()
    let targets = argumentTargets()
    for index in 0..<random.integer(in: 1...3) {
      x = try build.productionLayer(
        productionLayer(width: width), prefix: "layers.\(index).", x: x, offsets: offsets, targets: targets)
    }
    build.result("y", x)
  }

  mutating func selection() -> RowSelection {
    random.once(in: 5)
      ? .targets : .latest(keep: random.pick([0, 1, 4, 9, 1000]), contextual: random.pick([0, 0, 1, 3]))
  }

  /// A layer on all rows, then one or two on those that a selection keeps.
  mutating func makeTruncation(restores: Bool) throws {
    let width = random.pick(Self.widths)
    let x = argumentX(width)
    let offsets = argumentOffsets()
    let targets = argumentTargets()
    let targetsOperand = targets.map { [$0] } ?? []
    let outer = try build.productionLayer(
      productionLayer(width: width), prefix: "layers.0.", x: x, offsets: offsets, targets: targets)
    let selection = selection()
    let kept = try build.append(
      .selectOffsets(SelectOffsets(selection, into: "kept")), [offsets] + targetsOperand, names: ["kept"])[0]
    var inner = try build.append(.selectRows(SelectRows(selection)), [outer, offsets, kept] + targetsOperand)[0]
    for index in 1...random.integer(in: 1...2) {
      inner = try build.productionLayer(
        productionLayer(width: width), prefix: "layers.\(index).", x: inner, offsets: kept, targets: targets)
    }
    build.result("inner", inner)
    build.result("kept_offsets", kept)
    if restores {
      let restored = try build.append(
        .restoreRows(RestoreRows(selection)), [inner, outer, offsets, kept] + targetsOperand)[0]
      build.result("y", restored)
    }
  }

  mutating func makeResearch() throws {
    let width = random.pick(Self.widths)
    var x = argumentX(width)
    let offsets = argumentOffsets()
    let (times, requests) = argumentTimes()
    let queries = try build.emit(.nextRows(NextRows()), times, requests, offsets)
    for index in 0..<random.integer(in: 1...2) {
      x = try build.researchLayer(
        researchLayer(width: width), prefix: "layers.\(index).", x: x, offsets: offsets, times: (queries, times))
    }
    build.result("y", x)
  }

  mutating func makeEmbedding() throws {
    let width = random.pick(Self.widths)
    let entries = random.integer(in: 2...60)
    let gather = Gather(outOfRange: outOfRange(entries: entries))
    let ids = argumentIds(entries: entries, outside: gather.outOfRange != .error)
    let offsets = argumentOffsets()
    let targets = argumentTargets()
    let items = try build.emit(.gather(gather), build.weight("item_table", [entries, width]), ids)
    let scaled = try build.emit(.scale(Scale(factor: Double(width).squareRoot())), items)
    let limit = random.pick([5, 30, 90])
    let order = Positions(
      order: random.pick(Positions.Order.allCases), contextual: random.integer(in: 0...3), limit: limit)
    let positions = try build.append(.positions(order), [offsets] + (targets.map { [$0] } ?? []))[0]
    let positioned = try build.emit(
      .gather(Gather()), build.weight("position_table", [limit + 1, width]), positions)
    var x = try build.emit(.add(Add()), scaled, positioned)
    x = try build.emit(.zeroRows(ZeroRows(id: 0)), x, ids)
    build.result("input", x)
    x = try build.productionLayer(
      productionLayer(width: width), prefix: "layers.0.", x: x, offsets: offsets, targets: targets)
    let normed = try build.emit(.l2Norm(L2Norm(epsilon: 1e-6)), x)
    build.result("last", try build.emit(.lastRows(LastRows()), normed, offsets))
  }

  mutating func makeRecommendation() throws {
    let width = random.pick(Self.widths)
    let offsets = argumentOffsets()
    let isResearch = random.once(in: 3)
    let targets = isResearch ? nil : argumentTargets()
    let batch = [offsets] + (targets.map { [$0] } ?? [])
    var times: (queries: ValueID, keys: ValueID)?
    if isResearch {
      let (keys, requests) = argumentTimes()
      times = (try build.emit(.nextRows(NextRows()), keys, requests, offsets), keys)
    }
    func layer(_ index: Int, _ x: ValueID, _ offsets: ValueID, maker: inout ProgramMaker) throws -> ValueID {
      if isResearch {
        var layer = maker.researchLayer(width: width)
        layer.mask = maker.mask()
        return try maker.build.researchLayer(layer, prefix: "layers.\(index).", x: x, offsets: offsets, times: times)
      }
      return try maker.build.productionLayer(
        maker.productionLayer(width: width), prefix: "layers.\(index).", x: x, offsets: offsets, targets: targets)
    }

    var x = random.once(in: 2) ? argumentX(width) : try embeddedRows(width, batch)
    for index in 0..<random.integer(in: 1...3) { x = try layer(index, x, offsets, maker: &self) }
    if !isResearch, random.once(in: 3) {
      let selection = selection()
      let kept = try build.append(.selectOffsets(SelectOffsets(selection, into: "kept")), batch)[0]
      var inner = try build.append(.selectRows(SelectRows(selection)), selectOperands(x, batch, kept))[0]
      for index in 3...4 { inner = try layer(index, inner, kept, maker: &self) }
      x = try build.append(.restoreRows(RestoreRows(selection)), [inner, x] + selectOperands(x, batch, kept)[1...])[0]
      if random.once(in: 2) { x = try layer(5, x, offsets, maker: &self) }
    }
    if random.once(in: 3) {
      let normed = try build.emit(.l2Norm(L2Norm(epsilon: 1e-6)), x)
      build.result("y", try build.emit(.lastRows(LastRows()), normed, offsets))
      return
    }
    let selection = targets == nil || random.once(in: 3) ? selection() : .targets
    let out = try build.append(.selectOffsets(SelectOffsets(selection, into: "out")), batch)[0]
    x = try build.append(.selectRows(SelectRows(selection)), selectOperands(x, batch, out))[0]
    build.result("y", try build.emit(.l2Norm(L2Norm(epsilon: 1e-6)), x))
    build.result("kept_offsets", out)
  }

  /// Contextual rows before each sequence, from features that it has or lacks, and perhaps an action row behind each history
  /// row; positions over all of them, layers, and some of the rows again.
  mutating func makeContextual() throws {
    let width = random.pick(Self.widths)
    let outer = argumentOffsets()
    let targets = argumentTargets().map { [$0] } ?? []
    var x = random.once(in: 2) ? argumentX(width) : try embeddedRows(width, [outer] + targets)
    var offsets = outer
    if random.once(in: 3) {
      let actions = argumentX(width, name: "actions")
      let batch = [offsets] + targets
      let extended = try build.append(.extendOffsets(ExtendOffsets(.interleaved, into: "interleaved")), batch)[0]
      x = try build.append(
        .extendRows(ExtendRows(.interleaved)), [actions] + selectOperands(x, batch, extended))[0]
      offsets = extended
    }
    let count = random.integer(in: 0...3)
    let addition = RowAddition.before(count)
    let heads = try (0..<count).map { try contextualRow($0, width, lengths: outer) }
    let extended = try build.emit(.extendOffsets(ExtendOffsets(addition, into: "kept")), offsets)
    x = try build.append(.extendRows(ExtendRows(addition)), heads + [x, offsets, extended])[0]
    let positions = Positions(order: random.pick(Positions.Order.allCases), contextual: count, limit: 30)
    let places = try build.append(.positions(positions), [extended] + targets)[0]
    x = try build.emit(
      .add(Add()), x, build.emit(.gather(Gather()), build.weight("place_table", [31, width]), places))
    for index in 0..<random.integer(in: 1...2) {
      var layer = productionLayer(width: width)
      if random.once(in: 2) { layer.mask.contextual = count }
      x = try build.productionLayer(
        layer, prefix: "layers.\(index).", x: x, offsets: extended, targets: targets.first)
    }
    switch random.integer(in: 0...3) {
    case 0:
      build.result("y", x)
      build.result("kept_offsets", extended)
    case 1: build.result("y", try build.emit(.lastRows(LastRows()), x, extended))
    case 2: build.result("y", try build.emit(.pickRows(PickRows(row: random.integer(in: 0...3))), x, extended))
    default:
      let selection = targets.isEmpty ? selection() : .targets
      let batch = [extended] + targets
      let out = try build.append(.selectOffsets(SelectOffsets(selection, into: "out")), batch)[0]
      build.result("y", try build.append(.selectRows(SelectRows(selection)), selectOperands(x, batch, out))[0])
      build.result("kept_offsets", out)
    }
  }

  mutating func makeMixture() throws {
    let width = random.pick(Self.widths)
    let count = random.integer(in: 0...2)
    let addition = RowAddition.before(count)
    let heads = count == 0 ? [] : [argumentOfSequences("contextual", width: count * width)]
    inputs["targets"] = HostTensor(batch.targets.map(Int64.init))
    let targets = build.argument("targets", .tensor([Self.sequences], .i64))
    let takesLast = random.once(in: 4)
    var outputs: [ValueID] = []
    for index in 0..<random.pick([1, 2, 2, 3]) {
      let own =
        index == 0 ? (x: argumentX(width), offsets: argumentOffsets()) : argumentBatch("b\(index)", width: width)
      var (x, offsets) = own
      if count > 0 || random.once(in: 3) {
        offsets = try build.emit(.extendOffsets(ExtendOffsets(addition, into: "longer\(index)")), own.offsets)
        x = try build.append(.extendRows(ExtendRows(addition)), heads + [x, own.offsets, offsets])[0]
      }
      for layer in 0..<random.pick([1, 1, 2]) {
        x = try build.productionLayer(
          productionLayer(width: width), prefix: "stacks.\(index).\(layer).", x: x, offsets: offsets, targets: targets)
      }
      if takesLast {
        outputs.append(try build.emit(.lastRows(LastRows()), x, offsets))
        continue
      }
      let kept = try build.append(.selectOffsets(SelectOffsets(.targets, into: "kept")), [offsets, targets])[0]
      if index == 0 { build.result("kept_offsets", kept) }
      outputs.append(
        try build.append(.selectRows(SelectRows(.targets)), selectOperands(x, [offsets, targets], kept))[0])
    }
    let joined = try build.append(.concatenate(Concatenate()), outputs)[0]
    let matrix = try build.weight("fusion", [outputs.count * width, width])
    build.result("y", try build.emit(.linear(Linear()), joined, matrix, build.weight("fusion_bias", [width])))
  }

  /// A row of each sequence made of a feature's ids.
  private mutating func contextualRow(_ index: Int, _ width: Int, lengths: ValueID) throws -> ValueID {
    let name = "feature\(index)"
    let feature = argumentFeature(name, entries: 12)
    let inner = random.pick([3, 8, 17])
    let x = try build.emit(.gather(Gather()), build.weight("\(name)_table", [12, inner]), feature.ids)
    let minimum = random.pick([0, 0, 4])
    let row = try build.append(
      .pickRows(PickRows(row: random.integer(in: 0...1), minimum: minimum)),
      [x, feature.offsets] + (minimum > 0 ? [lengths] : []))[0]
    return try build.emit(
      .linear(Linear()), row, build.weight("\(name)_matrix", [inner, width]), build.weight("\(name)_bias", [width]))
  }

  /// Rows made of ids and of positions.
  private mutating func embeddedRows(_ width: Int, _ batch: [ValueID]) throws -> ValueID {
    let ids = argumentIds(entries: 20)
    let items = try build.emit(.gather(Gather()), build.weight("item_table", [20, width]), ids)
    let order = Positions(order: random.pick(Positions.Order.allCases), limit: 30)
    let positions = try build.append(.positions(order), batch)[0]
    let positioned = try build.emit(.gather(Gather()), build.weight("position_table", [31, width]), positions)
    return try build.emit(.zeroRows(ZeroRows(id: 0)), build.emit(.add(Add()), items, positioned), ids)
  }
}
