import TensorIR

/// A part of a model's own structure that a pass could give to a model without it: exact here, since the model was trained
/// so. Semi-local masks and truncations, as model.json describes them.
public struct TrainedStructure: Sendable {
  /// The pass that does the same to a model that was trained without it.
  public var pass: String
  /// What that pass would be told, in the order of its options.
  public var options: [(name: String, value: String)]
  /// Which layers it is of, in a few words.
  public var summary: String
  /// The program with this and all parts before it, but none that follow.
  public var program: Module
}

extension ModelDescription {
  /// The description with plain causal masks (contextual rows and targets as they are) and without truncations.
  private var withoutTrainedStructure: ModelDescription {
    var plain = self
    for stack in stacks {
      for index in plain[stack: stack].layers.indices { plain[stack: stack].layers[index].mask.form = .causal }
      plain[stack: stack].truncations = []
    }
    return plain
  }

  /// The numbers of the stacks: the model's own, or its transducers.
  private var stacks: Range<Int> { 0..<(mixture?.transducers.count ?? 1) }

  private subscript(stack index: Int) -> ModelDescription {
    get { mixture?.transducers[index] ?? self }
    set {
      if mixture == nil { self = newValue } else { mixture?.transducers[index] = newValue }
    }
  }

  /// The program of the model without its semi-local masks and truncations, and these one after the other: first masks,
  /// each distinct one with all layers that have it, then truncations.
  func trainedStructure(from checkpoint: Checkpoint) throws(ModelError) -> (plain: Module, parts: [TrainedStructure]) {
    var partial = withoutTrainedStructure
    let plain = try partial.program(from: checkpoint)
    var parts: [TrainedStructure] = []
    for number in stacks {
      let stack = self[stack: number]
      let name = mixture == nil ? "" : "\(stack.name): "
      for (index, layer) in stack.layers.enumerated() where partial[stack: number].layers[index].mask != layer.mask {
        let same = stack.layers.indices.filter { stack.layers[$0].mask == layer.mask }
        for other in same { partial[stack: number].layers[other].mask = layer.mask }
        parts.append(
          TrainedStructure(
            pass: "semi-local-attention", options: layer.mask.semiLocalOptions, summary: name + stack.layerList(same),
            program: try partial.program(from: checkpoint)))
      }
      for truncation in stack.truncations {
        partial[stack: number].truncations.append(truncation)
        parts.append(
          TrainedStructure(
            pass: "attention-truncation", options: truncation.options, summary: name + stack.summary(of: truncation),
            program: try partial.program(from: checkpoint)))
      }
    }
    return (plain, parts)
  }

  private func program(from checkpoint: Checkpoint) throws(ModelError) -> Module {
    var builder = ModelBuilder(self, checkpoint)
    try builder.build()
    return builder.builder.finish()
  }

  private func summary(of truncation: Truncation) -> String {
    let until: Int
    let rest: String
    switch truncation.form {
    case .drop: (until, rest) = (layers.count, "older ones are dropped")
    case .skip(let end): (until, rest) = (end, "older ones skip them")
    }
    return "\(layerList(Array(truncation.after..<until))) on the latest \(truncation.keep) history rows, \(rest)"
  }

  /// "all 8 layers", "layer 3", "layers 2 to 5", "layers 0, 2 and 5"; counted from 0, ascending, at least one.
  private func layerList(_ indices: [Int]) -> String {
    let (first, last) = (indices[0], indices[indices.count - 1])
    if indices.count == 1 { return layers.count == 1 ? "the only layer" : "layer \(first)" }
    if indices.count == layers.count { return "all \(layers.count) layers" }
    if last - first == indices.count - 1 { return "layers \(first) to \(last)" }
    return "layers \(indices.dropLast().map(String.init).joined(separator: ", ")) and \(last)"
  }
}

extension Mask {
  /// What `semi-local-attention` would be told; none of a causal mask.
  fileprivate var semiLocalOptions: [(name: String, value: String)] {
    switch form {
    case .causal: []
    case .windowed(let window, let fullTail):
      [("local", "\(window)"), ("global", "\(fullTail)"), ("form", "tail")]
    case .keyPrefix(let local, let global, let targets):
      [("local", "\(local)"), ("global", "\(global)"), ("form", "prefix"), ("targets", targets.rawValue)]
    }
  }
}

extension ModelDescription.Truncation {
  /// What `attention-truncation` would be told.
  fileprivate var options: [(name: String, value: String)] {
    let word =
      switch form {
      case .drop: "drop"
      case .skip: "skip"
      }
    let options = [("after", "\(after)"), ("keep", "\(keep)"), ("form", word)]
    return options + (contextual.map { [("contextual", "\($0)")] } ?? [])
  }
}
