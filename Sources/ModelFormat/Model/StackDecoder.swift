import TensorIR

/// One stack of model.json, names of weights, input, layers and truncation, or several.
struct StackDecoder {
  let width: Int
  /// What the document says of contextual rows; nil where it says nothing.
  let contextual: Int?
  let hasTargets: Bool

  /// The stack that an object describes, without an output.
  func stack(_ object: JSONObjectReader, _ name: String) throws(ModelError) -> ModelDescription {
    let input = try InputDecoder(width: width, contextual: contextual).input(object.required("input"))
    var slots: Int?
    if case .events(let events) = input { slots = events.slotCount }
    let contextual = slots ?? contextual ?? 0
    let layers = try layers(object, LayerDecoder(contextual: contextual, mustTell: slots ?? 0 > 0))
    var stack = ModelDescription(
      name: name, width: width, names: try names(object, layerCount: layers.count), input: input,
      contextual: contextual, hasTargets: hasTargets, layers: layers, output: ModelDescription.Output(rows: .all))
    if let truncation = object.optional("truncation") { try decodeTruncations(truncation, of: &stack) }
    return stack
  }

  private func names(_ object: JSONObjectReader, layerCount: Int) throws(ModelError) -> WeightNames {
    try NamesDecoder(layerCount: layerCount).names(
      object.required(
        "names", "its \"preset\" is \(alternatives(WeightNames.Preset.allCases.map { quoted($0.rawValue) }))"))
  }

  private func layers(
    _ object: JSONObjectReader, _ decoder: LayerDecoder
  ) throws(ModelError) -> [ModelDescription.Layer] {
    if let list = object.optional("layers") {
      for other in ["layer", "layer_count"] {
        if let value = object.optional(other) {
          throw value.error(
            .unexpectedValue, "stands beside \"layers\"",
            hint: "give either \"layers\", or \"layer\" and \"layer_count\"")
        }
      }
      return try list.elements().map { (element) throws(ModelError) in try decoder.layer(element) }
    }
    let layer = try decoder.layer(
      object.required("layer", "give either \"layers\", or \"layer\" and \"layer_count\""))
    let count = try object.required("layer_count", "how many times \"layer\" is repeated").integer(
      in: 1...4096, expected: "a number of layers from 1 to 4096")
    return Array(repeating: layer, count: count)
  }

  private func decodeTruncations(
    _ reader: JSONReader, of stack: inout ModelDescription
  ) throws(ModelError) {
    let elements = try reader.elements()
    for element in elements {
      let object = try element.object(ModelKeys.truncation)
      let form: ModelDescription.Truncation.Form
      let formReader = try object.required("form", "it is \"drop\" or \"skip\"")
      switch try formReader.choice(TruncationForm.self) {
      case .drop:
        if let until = object.optional("until") {
          throw until.error(.unexpectedValue, "rows that are dropped do not come back", hint: "\"skip\" puts them back")
        }
        form = .drop
      case .skip:
        form = .skip(until: try object.optional("until")?.positiveInteger() ?? stack.layers.count)
      }
      stack.truncations.append(
        ModelDescription.Truncation(
          form, after: try object.required("after", "layers that run on all rows").nonNegativeInteger(),
          keep: try object.required("keep", "history rows kept of each sequence").nonNegativeInteger(),
          contextual: try object.optional("contextual")?.nonNegativeInteger()))
    }
    if let fault = stack.truncationFault {
      throw elements[fault.index].error(.unexpectedValue, fault.message)
    }
  }

  private enum TruncationForm: String, CaseIterable { case drop, skip }

  /// The model of several stacks that `transducers` and `fusion` of the document describe, without an output.
  func mixture(
    _ reader: JSONReader, _ name: String, in document: JSONObjectReader
  ) throws(ModelError) -> ModelDescription {
    for key in ModelKeys.transducer where key != "name" && key != "names" {
      if let value = document.optional(key) {
        throw value.error(.unexpectedValue, "stands beside \"transducers\", each of which has its own")
      }
    }
    var transducers: [ModelDescription] = []
    for element in try reader.elements() {
      let object = try element.object(ModelKeys.transducer)
      let nameReader = try object.required("name", "it precedes the names of the transducer's inputs")
      let name = try nameReader.string()
      guard !name.isEmpty, !name.utf8.contains(0) else { throw nameReader.mismatch(expected: "a name") }
      if transducers.contains(where: { $0.name == name }) {
        throw nameReader.error(.unexpectedValue, "two transducers are called \(quoted(name))")
      }
      transducers.append(try stack(object, name))
    }
    guard let first = transducers.first else {
      throw reader.error(.unexpectedValue, "expected at least one transducer")
    }
    let fusion = try document.required("fusion", "the product that makes one row of the transducers'").object(
      ModelKeys.fusion)
    let layout = try fusion.required("layout", "it is \"in_out\" or \"out_in\"").choice(Linear.Orientation.self)
    let bias = try fusion.required("bias", "whether the product has one").bool()
    var model = ModelDescription(
      name: name, width: width, names: try names(document, layerCount: 0), input: first.input,
      contextual: first.contextual, hasTargets: hasTargets, layers: [], output: ModelDescription.Output(rows: .all))
    model.mixture = .init(transducers: transducers, layout: layout, bias: bias)
    return model
  }
}
