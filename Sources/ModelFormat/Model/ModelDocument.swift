import TensorIR

/// model.json, decoded: the description, and what stands around it.
public struct ModelDocument: Sendable {
  /// What `format` must say.
  public static let format = "ultrac-model/1"

  /// What the model computes and what its weights are called.
  public var description: ModelDescription
  /// Paths of safetensors files, relative to the folder of model.json.
  public var weights: [String]
  /// Settings that were accepted and have no effect.
  public var notes: [String]

  /// Throws at the line and key of the first fault.
  public init(_ document: JSONDocument) throws(ModelError) {
    let root = JSONReader(document)
    let object = try root.object(ModelKeys.model)
    let format = try object.required("format", "it is \(quoted(Self.format))")
    guard case .string(Self.format) = format.node.value else { throw format.mismatch(expected: quoted(Self.format)) }
    let name = try object.required("name")
    guard case .string(let modelName) = name.node.value, !modelName.isEmpty else {
      throw name.mismatch(expected: "a name")
    }
    weights = try Self.paths(object.required("weights", "a list of safetensors files"))
    notes = try object.optional("training").map(Self.trainingNotes) ?? []
    let width = try object.required("width", "the width of a row, D").positiveInteger()

    let sequence = try object.optional("sequence")?.object(ModelKeys.sequence)
    let hasTargets = try sequence?.optional("targets")?.bool() ?? false
    let told = try sequence?.optional("contextual")?.nonNegativeInteger()
    let input = try InputDecoder(width: width, contextual: told).input(object.required("input"))
    var slots: Int?
    if case .events(let events) = input { slots = events.slotCount }
    let contextual = slots ?? told ?? 0

    let layerDecoder = LayerDecoder(contextual: contextual, mustTell: slots ?? 0 > 0)
    let layers = try Self.layers(object, layerDecoder)
    let names = try NamesDecoder(layerCount: layers.count).names(
      object.required(
        "names", "its \"preset\" is \(alternatives(WeightNames.Preset.allCases.map { quoted($0.rawValue) }))"))
    description = ModelDescription(
      name: modelName, width: width, names: names, input: input, contextual: contextual, hasTargets: hasTargets,
      layers: layers, output: ModelDescription.Output(rows: .all))
    if let truncation = object.optional("truncation") { try decodeTruncations(truncation) }
    description.output = try OutputDecoder(description: description).output(object.required("output"))
    if let stages = object.optional("stages") { try decodeStages(stages) }
  }

  private static func paths(_ reader: JSONReader) throws(ModelError) -> [String] {
    let elements = try reader.elements()
    guard !elements.isEmpty else { throw reader.error(.unexpectedValue, "expected at least one file") }
    return try elements.map { (element) throws(ModelError) in
      let path = try element.string()
      guard !path.isEmpty, !path.utf8.contains(0) else { throw element.mismatch(expected: "the path of a file") }
      return path
    }
  }

  private static func layers(
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

  private mutating func decodeTruncations(_ reader: JSONReader) throws(ModelError) {
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
        form = .skip(until: try object.optional("until")?.positiveInteger() ?? description.layers.count)
      }
      description.truncations.append(
        ModelDescription.Truncation(
          form, after: try object.required("after", "layers that run on all rows").nonNegativeInteger(),
          keep: try object.required("keep", "history rows kept of each sequence").nonNegativeInteger(),
          contextual: try object.optional("contextual")?.nonNegativeInteger()))
    }
    if let fault = description.truncationFault {
      throw elements[fault.index].error(.unexpectedValue, fault.message)
    }
  }

  private enum TruncationForm: String, CaseIterable { case drop, skip }

  private mutating func decodeStages(_ reader: JSONReader) throws(ModelError) {
    let known = description.knownStages
    for element in try reader.elements() {
      let name = try element.string()
      guard let stage = known.first(where: { $0.description == name }) else {
        let near = nearest(to: name, in: known.map(\.description))
        throw element.error(
          .unexpectedValue, "there is no stage \(quoted(name))",
          hint: near.map { "did you mean \(quoted($0))?" }
            ?? "the stages are \(known.map(\.description).joined(separator: ", "))")
      }
      guard !description.stages.contains(stage) else {
        throw element.error(.unexpectedValue, "the stage \(quoted(name)) is listed twice")
      }
      guard stage.description != description.output.resultName else {
        throw element.error(.unexpectedValue, "the output is called \(quoted(name)) too")
      }
      description.stages.append(stage)
    }
  }

  /// Load-balanced stochastic length, dropout and their like are the identity at inference (SEMANTICS section 11).
  private static func trainingNotes(_ reader: JSONReader) throws(ModelError) -> [String] {
    try reader.anyObject().members.map { "training.\($0.key) has no effect at inference" }
  }
}
