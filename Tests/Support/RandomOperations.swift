import TensorIR

// Programs of one operation.
extension ProgramMaker {
  mutating func makeOperation() throws {
    switch random.integer(in: 0...14) {
    case 0: try makeElementwise()
    case 1: try makeNorm()
    case 2: try makeLinear()
    case 3: try makeColumns()
    case 4: try makeGather()
    case 5: try makePositions()
    case 6: try makeSelection()
    case 7: try makeRows()
    case 8: try makeRowsBefore()
    case 9: try makeInterleaving()
    case 10: try makeBits()
    case 11: try makeTimes()
    default: try makeAttention()
    }
  }

  private mutating func makeElementwise() throws {
    let width = random.pick(Self.widths)
    let x = argumentX(width)
    let result =
      switch random.integer(in: 0...4) {
      case 0: try build.emit(.add(Add()), x, argumentX(width, name: "y"))
      case 1: try build.emit(.multiply(Multiply()), x, argumentX(width, name: "y"))
      case 2: try build.emit(.silu(SiLU()), x)
      case 3: try build.emit(.sigmoid(Sigmoid()), x)
      default: try build.emit(.scale(Scale(factor: random.pick([-1, 0, 0.3, 8]))), x)
      }
    build.result("r", result)
  }

  private mutating func makeNorm() throws {
    let width = random.pick(Self.widths)
    let epsilon = random.pick([1e-6, 1e-5, 1e-2])
    switch random.integer(in: 0...3) {
    case 0: build.result("r", try build.emit(.layerNorm(LayerNorm(epsilon: epsilon)), argumentX(width)))
    case 1:
      let x = argumentX(width)
      build.result(
        "r",
        try build.emit(
          .layerNorm(LayerNorm(epsilon: epsilon)), x, build.weight("norm_weight", [width]),
          build.weight("norm_bias", [width])))
    case 2:
      let groups = random.integer(in: 1...4)
      let x = argumentX(groups * width)
      build.result(
        "r",
        try build.emit(
          .groupNorm(GroupNorm(groups: groups, epsilon: epsilon)), x, build.weight("norm_weight", [groups]),
          build.weight("norm_bias", [groups])))
    default: build.result("r", try build.emit(.l2Norm(L2Norm(epsilon: epsilon)), argumentX(width)))
    }
  }

  private mutating func makeLinear() throws {
    let input = random.pick(Self.widths)
    let output = random.pick(Self.widths + [130])
    let orientation = random.pick(Linear.Orientation.allCases)
    let shape = orientation == .inOut ? [input, output] : [output, input]
    var operands = [argumentX(input), try build.weight("w", shape)]
    if random.once(in: 2) { operands.append(try build.weight("bias", [output])) }
    build.result("r", try build.append(.linear(Linear(orientation)), operands)[0])
  }

  private mutating func makeColumns() throws {
    let widths = (0..<random.integer(in: 1...4)).map { _ in random.pick(Self.widths) }
    let parts = try build.append(.split(Split(widths: widths)), [argumentX(widths.reduce(0, +))])
    if random.once(in: 2) {
      for (index, part) in parts.enumerated() { build.result("part\(index)", part) }
    } else {
      build.result("r", try build.append(.concatenate(Concatenate()), parts.reversed())[0])
    }
  }

  private mutating func makeGather() throws {
    let entries = random.integer(in: 1...40)
    let gather = Gather(outOfRange: outOfRange(entries: entries))
    let ids = argumentIds(entries: entries, outside: gather.outOfRange != .error)
    let table = try build.weight("table", [entries, random.pick(Self.widths)])
    var result = try build.emit(.gather(gather), table, ids)
    if random.once(in: 2) { result = try build.emit(.zeroRows(ZeroRows(id: 0)), result, ids) }
    build.result("r", result)
  }

  private mutating func makePositions() throws {
    let offsets = argumentOffsets()
    let targets = argumentTargets()
    let limit = random.pick([0, 5, 30, 90])
    let positions = Positions(
      order: random.pick(Positions.Order.allCases), contextual: min(random.integer(in: 0...3), limit + 1), limit: limit)
    build.result("r", try build.append(.positions(positions), [offsets] + (targets.map { [$0] } ?? []))[0])
  }

  private mutating func makeSelection() throws {
    let x = argumentX(random.pick(Self.widths))
    let offsets = argumentOffsets()
    let targets = argumentTargets().map { [$0] } ?? []
    let selection = selection()
    let kept = try build.append(.selectOffsets(SelectOffsets(selection, into: "kept")), [offsets] + targets)[0]
    let inner = try build.append(.selectRows(SelectRows(selection)), [x, offsets, kept] + targets)[0]
    let changed = try build.emit(.scale(Scale(factor: -3)), inner)
    build.result("inner", inner)
    build.result("kept_offsets", kept)
    build.result("r", try build.append(.restoreRows(RestoreRows(selection)), [changed, x, offsets, kept] + targets)[0])
  }

  private mutating func makeRowsBefore() throws {
    let width = random.pick(Self.widths)
    let count = random.integer(in: 0...3)
    var heads: [ValueID] = []
    var brought = 0
    while brought < count {
      let rows = random.integer(in: 1...count - brought)
      heads.append(argumentOfSequences("head\(brought)", width: rows * width))
      brought += rows
    }
    let x = argumentX(width)
    let ids = argumentIds(entries: 40)
    let offsets = argumentOffsets()
    let addition = RowAddition.before(count)
    let extended = try build.emit(.extendOffsets(ExtendOffsets(addition, into: "kept")), offsets)
    let rows = try build.append(.extendRows(ExtendRows(addition)), heads + [x, offsets, extended])[0]
    build.result("kept_offsets", extended)
    build.result("r", rows)
    let value = random.pick([0, 7, Int.min])
    build.result("integers", try build.emit(.extendRows(ExtendRows(addition, value: value)), ids, offsets, extended))
    build.result("back", try build.emit(.originalRows(OriginalRows(addition)), rows, offsets, extended))
  }

  private mutating func makeInterleaving() throws {
    let width = random.pick(Self.widths)
    let (x, y) = (argumentX(width), argumentX(width, name: "y"))
    let ids = argumentIds(entries: 40)
    let (times, _) = argumentTimes()
    let batch = [argumentOffsets()] + (argumentTargets().map { [$0] } ?? [])
    let extended = try build.append(.extendOffsets(ExtendOffsets(.interleaved, into: "kept")), batch)[0]
    let operands = selectOperands(x, batch, extended)[1...]
    build.result("kept_offsets", extended)
    let rows = try build.append(.extendRows(ExtendRows(.interleaved)), [y, x] + operands)[0]
    build.result("r", rows)
    let integers = try build.append(.extendRows(ExtendRows(.interleaved)), [times, ids] + operands)[0]
    build.result("integers", integers)
    build.result("back", try build.append(.originalRows(OriginalRows(.interleaved)), [rows] + operands)[0])
    build.result("ids_back", try build.append(.originalRows(OriginalRows(.interleaved)), [integers] + operands)[0])
  }

  private mutating func makeRows() throws {
    if random.once(in: 3) {
      let feature = argumentFeature("feature", entries: 30)
      let x = try build.emit(.gather(Gather()), build.weight("table", [30, random.pick(Self.widths)]), feature.ids)
      let minimum = random.pick([0, 1, 5])
      let pick = PickRows(row: random.integer(in: 0...2), minimum: minimum)
      let lengths = minimum > 0 ? [argumentOffsets()] : []
      build.result("r", try build.append(.pickRows(pick), [x, feature.offsets] + lengths)[0])
    } else if random.once(in: 2) {
      let x = argumentX(random.pick(Self.widths))
      build.result("r", try build.emit(.lastRows(LastRows()), x, argumentOffsets()))
    } else {
      let offsets = argumentOffsets()
      let (times, requests) = argumentTimes()
      build.result("r", try build.emit(.nextRows(NextRows()), times, requests, offsets))
    }
  }

  /// What an id outside of a table of so many rows means.
  mutating func outOfRange(entries: Int) -> Gather.OutOfRange {
    switch random.integer(in: 0...2) {
    case 0: .error
    case 1: .modulo
    default: .fallback(row: random.integer(in: 0...entries - 1))
    }
  }

  private mutating func makeBits() throws {
    let masks = (0..<random.integer(in: 1...6)).map { _ in random.pick([1, 2, 4, 8, 6, 1 << 40, Int.max]) }
    let width = random.pick(Self.widths)
    var actions = argumentNumbers("actions")
    if random.once(in: 2) {
      let count = random.integer(in: 1...3)
      let mark = MarkBits(
        thresholds: (0..<count).map { _ in random.pick([Int.min, -3, 0, 30, Int.max]) },
        bits: (0..<count).map { _ in random.pick([1, 8, 1 << 40, -1]) })
      actions = try build.emit(.markBits(mark), actions, argumentNumbers("watched"))
      build.result("marked", actions)
    }
    var result = try build.emit(
      .embedBits(EmbedBits(masks: masks)), build.weight("bits_table", [masks.count, width]), actions)
    if random.once(in: 2) {
      let offsets = argumentOffsets()
      if let targets = argumentTargets() {
        let row = try build.weight("target_row", [masks.count * width])
        result = try build.emit(.replaceTargets(ReplaceTargets()), result, row, offsets, targets)
      }
    }
    build.result("r", result)
  }

  private mutating func makeTimes() throws {
    let offsets = argumentOffsets()
    var (times, queries) = random.once(in: 3) ? (argumentNumbers("times"), nil) : argumentTimes()
    let units = random.pick([(3600, 24), (86_400, 7), (1, 1), (1 << 20, 1 << 20)])
    build.result("units", try build.emit(.calendarUnits(CalendarUnits(unit: units.0, count: units.1)), times))
    let last = try build.emit(.lastRows(LastRows()), times, offsets)
    if queries == nil || random.once(in: 2) { queries = last }
    build.result("last", last)
    let buckets = BucketTimes(
      random.pick(BucketTimes.Scale.allCases), unit: random.pick([1, 60, 0.1 + 60]),
      limit: random.pick([0, 1, 7, 95, 2048]))
    let numbers = try build.append(.bucketTimes(buckets), [times, queries ?? last, offsets])[0]
    build.result("buckets", numbers)
    let table = try build.weight("time_table", [buckets.limit + 1, random.pick(Self.widths)])
    build.result("r", try build.emit(.gather(Gather()), table, numbers))
  }

  mutating func makeAttention(of element: ElementType = .f32) throws {
    let heads = random.integer(in: 1...4)
    let queryWidth = heads * random.pick(Self.headWidths)
    // Now and then only some rows are queries.
    let queries = random.once(in: 2) ? selection() : nil
    var operands = [
      argumentX(queryWidth, name: "q"), argumentX(queryWidth, name: "k"),
      argumentX(heads * random.pick(Self.headWidths), name: "v"), argumentOffsets(),
    ]
    if element != .f32 {
      for index in 0..<3 { operands[index] = try build.emit(.convert(Convert(to: element)), operands[index]) }
    }
    let targets = argumentTargets()
    let research = researchLayer(width: 1)
    if let targets { operands.append(targets) }
    let batch = Array(operands[3...])
    var selected: ValueID?
    if let queries {
      let kept = try build.append(.selectOffsets(SelectOffsets(queries, into: "kept")), batch)[0]
      operands[0] = try build.append(.selectRows(SelectRows(queries)), selectOperands(operands[0], batch, kept))[0]
      operands.append(kept)
      build.result("kept_offsets", kept)
      selected = kept
    }
    if research.bias != .none { operands.append(try build.weight("position_weights", [2 * research.n - 1])) }
    if research.bias == .positionAndTime {
      let (times, requests) = argumentTimes()
      operands.append(try build.weight("time_weights", [research.buckets]))
      var next = try build.emit(.nextRows(NextRows()), times, requests, operands[3])
      if let queries, let selected {
        next = try build.append(.selectRows(SelectRows(queries)), selectOperands(next, batch, selected))[0]
      }
      operands += [next, times]
    }
    let attention = Attention(
      heads: heads, alpha: random.pick([1, 0.25, 1 / Double(queryWidth)]), divisor: divisor(),
      activation: random.pick(Attention.Activation.allCases), bias: research.bias, mask: mask(),
      hasTargets: targets != nil, queries: queries)
    build.result("r", try build.append(.attention(attention), operands)[0])
  }

  /// The operands of a `select_rows`; `batch` is the offsets, and the targets where there are some.
  func selectOperands(_ x: ValueID, _ batch: [ValueID], _ selected: ValueID) -> [ValueID] {
    [x, batch[0], selected] + batch.dropFirst()
  }
}
