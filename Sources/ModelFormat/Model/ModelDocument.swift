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
    let stack = StackDecoder(width: width, contextual: told, hasTargets: hasTargets)
    if let transducers = object.optional("transducers") {
      description = try stack.mixture(transducers, modelName, in: object)
    } else {
      if let fusion = object.optional("fusion") {
        throw fusion.error(.unexpectedValue, "only a model of several \"transducers\" has this key")
      }
      description = try stack.stack(object, modelName)
    }
    let output = try object.required("output")
    description.output = try OutputDecoder(description: description).output(output)
    if description.mixture != nil, description.output.rows == .all {
      throw output.error(
        .unexpectedValue, "transducers have only targets and last rows in common",
        hint: "\"rows\" is \"targets\" or \"last\"")
    }
    if let stages = object.optional("stages") {
      if description.mixture != nil {
        throw stages.error(.unexpectedValue, "a model of several transducers has no stages")
      }
      try decodeStages(stages)
    }
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
