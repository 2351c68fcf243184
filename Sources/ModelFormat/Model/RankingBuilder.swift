import TensorIR

// The end of a whole ranking model: norms of the user's rows, the item tower, the tasks (SEMANTICS section 6).
extension ModelBuilder {
  /// Rows as they are given back.
  mutating func norm(
    _ norm: ModelDescription.Output.Norm, _ x: ValueID, timestamps: ValueID?, _ name: String
  ) throws(ModelError) -> ValueID {
    switch norm {
    case .none: return x
    case .l2(let epsilon): return try emit(.l2Norm(L2Norm(epsilon: epsilon)), [x], name)
    case .layer(let epsilon): return try outputLayerNorm(epsilon, x, name)
    case .timestampLayer(let epsilon, let periods, let pi):
      guard let timestamps else { throw error("the output's norm reads timestamps, but the model has none") }
      try check(.periodUnits, is: periods.map(\.unit), "output.norm.periods")
      try check(.periodCounts, is: periods.map(\.count), "output.norm.periods")
      var parts = [x]
      for period in periods {
        let units = CalendarUnits(unit: period.unit, count: period.count)
        let indices = try emit(.calendarUnits(units), [timestamps], "\(name).units_\(period.unit)")
        let circle = try derive("circle.\(period.count)", .circle(pi: pi), [period.count, 2])
        parts.append(try emit(.gather(Gather()), [circle, indices], "\(name).time_\(period.unit)"))
      }
      let joined = try emit(.concatenate(Concatenate()), parts, "\(name).with_time")
      let (inner, outer) = (description.width + 2 * periods.count, description.width)
      let weight = try modelWeight(
        .timeCombinerWeight, [outer, inner], user: "the output's norm", "model width, model width + 2 a period")
      let bias = try modelWeight(.timeCombinerBias, [outer], user: "the output's norm", "model width")
      let combined = try emit(.linear(Linear(.outIn)), [joined, weight, bias], "\(name).combined")
      return try outputLayerNorm(epsilon, combined, name)
    }
  }

  private mutating func outputLayerNorm(
    _ epsilon: Double, _ x: ValueID, _ name: String
  ) throws(ModelError) -> ValueID {
    let width = [description.width]
    let weight = try modelWeight(.rowNormWeight, width, user: "the output's norm", "model width")
    let bias = try modelWeight(.rowNormBias, width, user: "the output's norm", "model width")
    return try emit(.layerNorm(LayerNorm(epsilon: epsilon)), [x, weight, bias], name)
  }

  /// One score a task of every candidate. `ids` are those of the candidates' features.
  mutating func rank(
    _ ranking: ModelDescription.Ranking, _ events: ModelDescription.Events, users: ValueID, _ ids: (String) -> ValueID?
  ) throws(ModelError) -> ValueID {
    let items = try encode(ranking.items, .item, events, width: description.width, ids)
    record(.itemEmbeddings, items)
    let both = try emit(.multiply(Multiply()), [users, items], "user_item")
    let logits = try perceptron(
      ranking.perceptron, .task, both, from: description.width, to: ranking.tasks.count, isNormed: false)
    record(.taskLogits, logits)
    // Neighbours of one kind together.
    var runs: [(count: Int, kind: ModelDescription.Ranking.Task)] = []
    for (_, kind) in ranking.tasks {
      if runs.last?.kind == kind {
        runs[runs.count - 1].count += 1
      } else {
        runs.append((1, kind))
      }
    }
    func score(_ x: ValueID, _ kind: ModelDescription.Ranking.Task) throws(ModelError) -> ValueID {
      kind == .binary ? try emit(.sigmoid(Sigmoid()), [x], "probabilities") : x
    }
    if runs.count == 1 { return try score(logits, runs[0].kind) }
    let slices = try append(
      .split(Split(widths: runs.map(\.count))), [logits], runs.map { "\($0.kind.rawValue)_logits" })
    var scores: [ValueID] = []
    for (slice, run) in zip(slices, runs) { scores.append(try score(slice, run.kind)) }
    return try emit(.concatenate(Concatenate()), scores, "scores")
  }
}
