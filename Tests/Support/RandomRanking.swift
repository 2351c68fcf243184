import TensorIR

// Programs that rank items. All numbers are multiples of a power of two, few enough that every order of their sums is exact:
// so ties are ties in every precision, and ids can be compared.
extension ProgramMaker {
  /// Items for a form of their rows, as the name of their weight says it.
  enum GridForm: String, CaseIterable {
    case wide = "grid.wide"
    case bf16 = "grid.bf16"
    case int8 = "grid.int8"
    case int4 = "grid.int4"
  }

  mutating func makeRanking() throws {
    let width = random.pick(Self.widths)
    let form = random.pick(GridForm.allCases)
    let picked = random.pick([1, 5, 31, 32, 33, 64, 100, 257, 300])
    let count = options.items ?? picked
    let most = options.items == nil ? count : min(count, 20)
    var top = TopK(
      count: random.pick([1, min(10, count), random.integer(in: 1...most), most]), firstID: random.pick([0, 1, 7]))
    if let best = options.best { top.count = min(best, count) }
    var queries = argumentX(width)
    inputs["x"] = grid([batch.rows, width], within: 2)
    // Now and then a query that is no number.
    if batch.rows > 0, random.once(in: 3) {
      var numbers = inputs["x"]?.floats ?? []
      numbers[random.integer(in: 0...numbers.count - 1)] = .nan
      inputs["x"] = HostTensor(numbers, shape: [batch.rows, width])
    }
    var seen: [ValueID] = []
    if !random.once(in: 4) {
      let offsets = argumentOffsets()
      queries = try build.emit(.lastRows(LastRows()), queries, offsets)
      if !random.once(in: 4) {
        seen = [argumentIds(entries: count + 8, outside: true), offsets]
        if random.once(in: 2) { top.seenModulo = top.firstID + count + random.pick([0, 3]) }
      }
    }
    _ = try build.weight(form.rawValue, [count, width])
    let items: ValueID
    switch form {
    case .wide: items = try build.weight(form.rawValue, [count, width])
    case .bf16:
      queries = try build.emit(.convert(Convert(to: .bf16)), queries)
      items = build.derivedWeight("items", [count, width], .bf16, .convert(form.rawValue))
    case .int8, .int4:
      let rows: TableFormat = form == .int8 ? .int8 : .int4
      top.rows = rows
      items = build.derivedWeight(
        "items", [count, rows.byteCount(width: width)], .u8, .quantizedRows(form.rawValue, rows))
    }
    let results = try build.append(.topK(top), [queries, items] + seen)
    build.result("best_scores", results[0])
    build.result("best_ids", results[1])
  }

  /// Integers of a magnitude of at most `most`.
  private mutating func grid(_ shape: [Int], within most: Int) -> HostTensor {
    HostTensor((0..<shape.reduce(1, *)).map { _ in Float(random.integer(in: -most...most)) }, shape: shape)
  }
}

extension Random {
  /// Items whose rows a form holds exactly: with as few different numbers as it has codes, the least and the greatest among
  /// them.
  mutating func items(_ form: ProgramMaker.GridForm, _ shape: [Int]) -> HostTensor {
    let (codes, step): (Int, Float) =
      switch form {
      case .wide, .bf16: (6, 1)
      case .int8: (255, 0x1p-6)
      case .int4: (15, 0x1p-2)
      }
    var numbers: [Float] = []
    for _ in 0..<shape[0] {
      let least = Float(integer(in: -3...0))
      var row = (0..<shape[1]).map { _ in least + step * Float(integer(in: 0...codes)) }
      row[0] = least
      if shape[1] > 1 { row[shape[1] - 1] = least + step * Float(codes) }
      numbers += row
    }
    return HostTensor(numbers, shape: shape)
  }
}
