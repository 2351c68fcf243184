import ModelFormat
import TensorIR

/// Stacks of production layers, whole and truncated.
extension GoldenCase {
  func stackProgram() throws -> GoldenProgram {
    let object = try attributes.object(["num_layers", "lengths", "num_targets", "layers"])
    return try stackProgram(object)
  }

  /// L2STU: inner layers run on the latest rows, the others are put back in their places.
  func restoringStackProgram() throws -> GoldenProgram {
    let object = try attributes.object([
      "num_layers", "lengths", "num_targets", "pattern", "max_l2_len", "l2_contextual_seq_len",
      "skipped_prefix_lengths", "layers",
    ])
    let keep = try object.required("max_l2_len").nonNegativeInteger()
    let contextual = try object.count("l2_contextual_seq_len")
    var truncations: [ModelDescription.Truncation] = []
    var layer = 0
    for block in try object.required("pattern").elements() {
      let inner: Int
      switch block.node.value {
      case .string("f"):
        layer += 1
        continue
      case .string("l"): inner = 1
      case .array(let parts) where parts.count == 2 && parts[0].value == .string("L"):
        inner = try block.elements()[1].positiveInteger()
      default: throw block.mismatch(expected: "\"f\", \"l\" or [\"L\", layers]")
      }
      truncations.append(.init(.skip(until: layer + inner), after: layer, keep: keep, contextual: contextual))
      layer += inner
    }
    return try stackProgram(object, truncations: truncations, layerCount: layer)
  }

  /// TorchEasyRec's stack: before one layer the older rows are dropped.
  func truncatingStackProgram() throws -> GoldenProgram {
    let object = try attributes.object([
      "num_layers", "lengths", "num_targets", "max_seq_len", "scaling_seqlen", "truncate_split_layer",
      "truncate_tail_len", "contextual_seq_len", "truncation", "layers",
    ])
    try object.require(
      "truncation",
      "before layer truncate_split_layer: keep contextual + last truncate_tail_len history rows + all targets; the rest is dropped for good"
    )
    let truncation = ModelDescription.Truncation(
      .drop, after: try object.required("truncate_split_layer").nonNegativeInteger(),
      keep: try object.required("truncate_tail_len").nonNegativeInteger(),
      contextual: try object.count("contextual_seq_len"))
    // A positive scaling_seqlen is the divisor of every layer; with -1 each layer has its own.
    if let scaling = object.present("scaling_seqlen"), try scaling.finiteNumber() > 0 {
      let divisor = try scaling.finiteNumber()
      for layer in try object.required("layers").elements() {
        let own = try layer.anyObject().required("divisor_N")
        guard try own.finiteNumber() == divisor else { throw own.mismatch(expected: "scaling_seqlen, \(divisor)") }
      }
    }
    return try stackProgram(object, truncations: [truncation])
  }

  private func stackProgram(
    _ object: JSONObjectReader, truncations: [ModelDescription.Truncation] = [], layerCount: Int? = nil
  ) throws -> GoldenProgram {
    let elements = try object.required("layers").elements()
    let layers = try elements.map { try LayerAttributes($0) }
    let expectedCount = try layerCount ?? object.present("num_layers")?.nonNegativeInteger() ?? layers.count
    guard let width = layers.first?.width, layers.count == expectedCount else {
      throw Unsupported(reason: "\(layers.count) layers are described, expected \(max(expectedCount, 1))")
    }
    guard layers.allSatisfy({ $0.width == width }) else {
      throw Unsupported(reason: "the layers differ in embedding_dim")
    }
    let hasTargets = hasInput("num_targets")
    let description = ModelDescription(
      name: name, width: width, names: try productionNames(layers.map(\.layer)), input: .rows,
      hasTargets: hasTargets, layers: layers.map(\.layer), truncations: truncations, output: .init(rows: .all),
      stages: stages(layerCount: layers.count))
    var inputs = ["x": try input("x"), "offsets": try input("seq_offsets")]
    if hasTargets { inputs["num_targets"] = try input("num_targets") }
    return try program(description, inputs) { ["out", "out_offsets"].contains($0) ? .result($0) : nil }
  }

  /// Where the layers' weights are: their prefixes are those of the case's own list.
  func productionNames(_ layers: [ModelDescription.Layer]) throws -> WeightNames {
    let suffix = "_uvqk_weight"
    let prefixes = weightNames.filter { $0.hasSuffix(suffix) }.map { String($0.dropLast(suffix.count)) }
    guard prefixes.count == layers.count else {
      throw Unsupported(
        reason: "\(prefixes.count) weights end in \(suffix), expected one for each of \(layers.count) layers")
    }
    var names = WeightNames(preset: .production, layerPrefix: .list(prefixes))
    for (index, layer) in layers.enumerated() where layer.outputBias {
      let candidates = weightNames.filter {
        $0.hasPrefix(prefixes[index] + "_output_") && !$0.contains("norm") && !$0.hasSuffix("_weight")
      }
      guard candidates.count == 1 else {
        throw Unsupported(reason: "no single weight of layer \(index) looks like the bias of its output")
      }
      names.singleLayerNames[index, default: [:]][.outputBias] = candidates[0]
    }
    return names
  }
}

extension GoldenCase {
  /// The stages among the case's outputs.
  func stages(layerCount: Int) -> [ModelDescription.Stage] {
    let inner = (0..<layerCount).flatMap { index in
      ModelDescription.Stage.Part.allCases.map { ModelDescription.Stage.layer(index, $0) }
    }
    return ([.inputEmbedding] + inner + [.encoded]).filter { stage in
      outputs.contains { $0.name == stage.description }
    }
  }

  /// The model's program, for all outputs or some; `source` knows those that are no stages.
  func program(
    _ description: ModelDescription, _ inputs: [String: HostTensor], _ some: [Output]? = nil,
    _ source: (String) -> GoldenProgram.Source?
  ) throws -> GoldenProgram {
    let model = try description.build(from: Checkpoint([tensors]))
    let stages = description.stages.map(\.description)
    return GoldenProgram(
      module: model.module, weights: model.weights, inputs: inputs,
      sources: try sources(of: some) { source($0) ?? (stages.contains($0) ? .result($0) : nil) })
  }
}
