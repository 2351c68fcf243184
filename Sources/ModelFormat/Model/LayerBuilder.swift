import TensorIR

/// One layer of a stack, and the weights that it reads.
extension ModelBuilder {
  /// The rows after layer `index` (SEMANTICS sections 2 and 7).
  mutating func layer(
    _ index: Int, _ layer: ModelDescription.Layer, _ batch: Batch
  ) throws(ModelError) -> ValueID {
    let normed = try norm(
      layer.inputNorm, batch.x, index, (.inputNormWeight, .inputNormBias), width: description.width,
      of: "model width", groups: nil, "normed")
    var slices = try project(index, layer, normed)
    for slice in ModelDescription.Slice.allCases {
      guard let value = slices[slice] else { throw error("layers[\(index)]: the first product has no \(slice)") }
      let activated = try activate(layer.activations[slice], value, slice.rawValue)
      slices[slice] = activated
      record(.layer(index, .init(slice)), activated)
    }
    let attention = try attend(index, layer, slices, batch)
    record(.layer(index, .attn), attention)

    let width = layer.heads * layer.hiddenDim
    let normedAttention = try norm(
      layer.outputNorm, attention, index, (.outputNormWeight, .outputNormBias), width: width,
      of: "\(layer.heads) heads x \(layer.hiddenDim) value", groups: layer.heads, "normed_attention")
    guard let u = slices[.u] else { throw error("layers[\(index)]: the first product has no u") }
    var parts: [ValueID] = []
    for part in layer.concatenate {
      switch part {
      case .u: parts.append(u)
      case .attention: parts.append(attention)
      case .normedAttention: parts.append(normedAttention)
      case .gated:
        let gate = try activate(layer.gate, u, "gate")
        parts.append(try emit(.multiply(Multiply()), [gate, normedAttention], "gated"))
      }
    }
    guard !parts.isEmpty else { throw error("layers[\(index)]: the last product reads nothing") }
    let joined = parts.count == 1 ? parts[0] : try emit(.concatenate(Concatenate()), parts, "joined")

    let layout = try layout(layer.outputLayout ?? description.names.preset.outputLayout, index, "output")
    var operands = [
      joined,
      try weight(
        .outputWeight, index,
        layout == .inOut ? [parts.count * width, description.width] : [description.width, parts.count * width],
        "\(parts.count) parts x \(layer.heads) heads x \(layer.hiddenDim) value, model width \(description.width)"),
    ]
    if layer.outputBias { operands.append(try weight(.outputBias, index, [description.width], "model width")) }
    var out = try emit(.linear(Linear(layout)), operands, "projected")
    if layer.residual { out = try emit(.add(Add()), [batch.x, out], "out") }
    record(.layer(index, .out), out)
    return out
  }

  /// u, v, q and k before their activations.
  private mutating func project(
    _ index: Int, _ layer: ModelDescription.Layer, _ x: ValueID
  ) throws(ModelError) -> [ModelDescription.Slice: ValueID] {
    let value = layer.heads * layer.hiddenDim
    let query = layer.heads * layer.attentionDim
    let width = 2 * (value + query)
    let reason =
      "\(layer.heads) heads x (2 x \(layer.hiddenDim) value + 2 x \(layer.attentionDim) query-key)"
    let layout = try layout(layer.uvqkLayout ?? description.names.preset.uvqkLayout, index, "uvqk")
    var operands = [
      x,
      try weight(
        .uvqkWeight, index, layout == .inOut ? [description.width, width] : [width, description.width], reason),
    ]
    if layer.uvqkBias { operands.append(try weight(.uvqkBias, index, [width], reason)) }
    let product = try emit(.linear(Linear(layout)), operands, "uvqk")
    let widths = layer.uvqkOrder.map { $0 == .u || $0 == .v ? value : query }
    let slices = try append(.split(Split(widths: widths)), [product], layer.uvqkOrder.map(\.rawValue))
    return Dictionary(zip(layer.uvqkOrder, slices)) { first, _ in first }
  }

  private mutating func attend(
    _ index: Int, _ layer: ModelDescription.Layer, _ slices: [ModelDescription.Slice: ValueID], _ batch: Batch
  ) throws(ModelError) -> ValueID {
    guard let q = slices[.q], let k = slices[.k], let v = slices[.v] else {
      throw error("layers[\(index)]: the first product lacks one of q, k and v")
    }
    var operands = [q, k, v, batch.offsets]
    var hasTargets = false
    if layer.targetAware, let targets = batch.targets {
      operands.append(targets)
      hasTargets = true
    }
    var bias = Attention.Bias.none
    if let relative = layer.relativeBias {
      let positions = 2 * relative.maxLength - 1
      let withTime = relative.timeBuckets != nil
      operands.append(
        try weight(
          .positionBias, index, [positions], "2 x max_length \(relative.maxLength) - 1", withTime: withTime))
      bias = .position
      if let buckets = relative.timeBuckets {
        guard let times = batch.times else { throw error("layers[\(index)]: a time bias without timestamps") }
        operands.append(try weight(.timeBias, index, [buckets + 1], "time_buckets \(buckets) + 1", withTime: true))
        operands += [times.queries, times.keys]
        bias = .positionAndTime
      }
    }
    let attention = Attention(
      heads: layer.heads, alpha: layer.alpha, divisor: layer.divisor, activation: layer.activations.scores,
      bias: bias, mask: layer.mask, hasTargets: hasTargets)
    return try emit(.attention(attention), operands, "attention")
  }

  private mutating func activate(
    _ activation: ModelDescription.Activation, _ x: ValueID, _ name: String
  ) throws(ModelError) -> ValueID {
    switch activation {
    case .none: x
    case .silu: try emit(.silu(SiLU()), [x], "\(name).silu")
    case .sigmoid: try emit(.sigmoid(Sigmoid()), [x], "\(name).sigmoid")
    }
  }

  private mutating func norm(
    _ norm: ModelDescription.Norm, _ x: ValueID, _ index: Int, _ roles: (weight: LayerRole, bias: LayerRole),
    width: Int, of reason: String, groups: Int?, _ name: String
  ) throws(ModelError) -> ValueID {
    switch norm.kind {
    case .none: return x
    case .layerNorm:
      var operands = [x]
      if norm.affine {
        operands.append(try weight(roles.weight, index, [width], reason))
        operands.append(try weight(roles.bias, index, [width], reason))
      }
      return try emit(.layerNorm(LayerNorm(epsilon: norm.epsilon)), operands, name)
    case .groupNorm:
      guard let groups, norm.affine else {
        throw error("layers[\(index)]: a group norm is an affine norm over heads, of the output norm only")
      }
      let operands = [
        x, try weight(roles.weight, index, [groups], "one number a head"),
        try weight(roles.bias, index, [groups], "one number a head"),
      ]
      return try emit(.groupNorm(GroupNorm(groups: groups, epsilon: norm.epsilon)), operands, name)
    }
  }

  private func layout(
    _ layout: Linear.Orientation?, _ index: Int, _ product: String
  ) throws(ModelError) -> Linear.Orientation {
    if let layout { return layout }
    throw ModelError(
      .missingKey, file: description.name, place: "layers[\(index)].\(product)", "the key \"layout\" is missing",
      hint: "it is \"in_out\" or \"out_in\"; only a preset of names knows it")
  }

  // MARK: - Weights

  private mutating func weight(
    _ role: LayerRole, _ index: Int, _ shape: [Int], _ reason: String, withTime: Bool = false
  ) throws(ModelError) -> ValueID {
    guard let name = description.names.name(of: role, layer: index, withTime: withTime) else {
      throw unnamed("layers.\(index).\(role.rawValue)")
    }
    try check(name, shape, user: "layer \(index)", role: role.rawValue, reason)
    return try declare(name, shape)
  }

  mutating func table(_ role: ModelRole, rows: Int) throws(ModelError) -> ValueID {
    try modelWeight(role, [rows, description.width], user: "the input", "rows, model width")
  }

  /// A weight beside the layers; `user` needs it, and `reason` says where its shape comes from.
  mutating func modelWeight(
    _ role: ModelRole, _ shape: [Int], user: String, _ reason: String
  ) throws(ModelError) -> ValueID {
    try declare(try modelWeightName(role, shape, user: user, reason), shape)
  }

  /// The name of such a weight, whose shape was checked.
  mutating func modelWeightName(
    _ role: ModelRole, _ shape: [Int], user: String, _ reason: String
  ) throws(ModelError) -> String {
    guard let name = description.names.name(of: role) else { throw unnamed(role.key) }
    try check(name, shape, user: user, role: role.key, reason)
    return name
  }

  /// Checks what the checkpoint keeps of a setting, where it does; `key` is where model.json says it.
  mutating func check(_ setting: StoredSetting, is expected: [Int], _ key: String) throws(ModelError) {
    guard let stored = description.names.preset.name(of: setting) else { return }
    let name = description.names.prefix + stored
    guard let (file, _) = checkpoint.find(name) else { return }
    let found = try file.tensor(named: name)
    guard found.doubles == expected.map(Double.init) else {
      throw ModelError(
        .unexpectedTensor, file: file.path, place: "tensor \(quoted(name))",
        "holds \(found.integers), but \(key) says \(expected)")
    }
    usedTensors.insert(name)
  }

  /// A weight that is computed when it is read, of this shape.
  mutating func derive(
    _ name: String, _ formula: CheckpointWeights.Formula, _ shape: [Int]
  ) throws(ModelError) -> ValueID {
    if let value = derivedWeights[name] { return value }
    weights.derived[name] = .init(formula: formula, shape: shape)
    let value = try declare(name, shape)
    derivedWeights[name] = value
    return value
  }

  private func unnamed(_ role: String) -> ModelError {
    ModelError(
      .missingKey, file: description.name, place: "names",
      "the preset \(quoted(description.names.preset.rawValue)) has no name for \(role)",
      hint: "give one in names.map")
  }

  mutating func declare(_ name: String, _ shape: [Int]) throws(ModelError) -> ValueID {
    do throws(OperationError) {
      return try builder.weight(name, shape)
    } catch {
      throw self.error(error.message)
    }
  }

  /// Checks that the checkpoint has this tensor, with numbers in it and the shape that the model needs.
  private mutating func check(
    _ name: String, _ shape: [Int], user: String, role: String, _ reason: String
  ) throws(ModelError) {
    guard let (file, entry) = checkpoint.find(name) else {
      let near = nearest(to: name, in: checkpoint.names)
      throw ModelError(
        .missingTensor, file: checkpoint.fileNames, place: "tensor \(quoted(name))",
        "not found, but \(user) needs it as its \(role)",
        hint: near.map { "the nearest name is \(quoted($0))" } ?? "names in model.json says where to look")
    }
    let place = "tensor \(quoted(name))"
    guard let element = entry.dtype.element, element.isFloatingPoint else {
      throw ModelError(
        .unexpectedTensor, file: file.path, place: place,
        "elements of type \(entry.dtype.rawValue), but \(user) needs F32, F64, F16 or BF16")
    }
    guard entry.shape == shape else {
      throw ModelError(
        .unexpectedTensor, file: file.path, place: place,
        "shape \(entry.shape), but \(user) needs \(shape) (\(reason))")
    }
    usedTensors.insert(name)
  }
}

extension ModelDescription.Activations {
  subscript(slice: ModelDescription.Slice) -> ModelDescription.Activation {
    switch slice {
    case .u: u
    case .v: v
    case .q: q
    case .k: k
    }
  }
}

extension ModelDescription.Stage.Part {
  init(_ slice: ModelDescription.Slice) {
    switch slice {
    case .u: self = .u
    case .v: self = .v
    case .q: self = .q
    case .k: self = .k
    }
  }
}
