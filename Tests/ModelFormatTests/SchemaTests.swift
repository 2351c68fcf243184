import Testing

@testable import ModelFormat

/// docs/model.schema.json, the importer and the example in docs/model-json.md know the same keys.
@Suite struct SchemaTests {
  private func schema() throws -> JSONDocument {
    try JSONDocument(repositoryText("docs/model.schema.json"), file: "model.schema.json")
  }

  private func members(_ node: JSONNode?) -> [JSONMember] {
    guard case .object(let members)? = node?.value else { return [] }
    return members
  }

  @Test func schemaAndImporterKnowTheSameKeys() throws {
    let definitions = try #require(schema().root["$defs"])
    var objects: [String] = []
    for member in members(definitions) where member.value["type"]?.value == .string("object") {
      objects.append(member.key)
      let keys = try #require(
        ModelKeys.byDefinition.first { $0.definition == member.key }?.keys, "\(member.key) is only in the schema")
      #expect(members(member.value["properties"]).map(\.key) == keys, "\(member.key)")
      #expect(member.value["additionalProperties"]?.value == .bool(false), "\(member.key) takes any key")
    }
    #expect(objects.sorted() == ModelKeys.byDefinition.map(\.definition).sorted())
  }

  @Test func schemaAndImporterKnowTheSameChoices() throws {
    let definitions = try #require(schema().root["$defs"])
    func choices(_ definition: String, _ property: String?) -> [String] {
      let node = property.map { definitions[definition]?["properties"]?[$0] } ?? definitions[definition]
      guard case .array(let nodes)? = node?["enum"]?.value else { return [] }
      return nodes.compactMap { if case .string(let text) = $0.value { text } else { nil } }
    }
    #expect(choices("activation", nil) == ModelDescription.Activation.allCases.map(\.rawValue))
    #expect(choices("norm", "kind") == ModelDescription.Norm.Kind.allCases.map(\.rawValue))
    #expect(choices("names", "preset") == WeightNames.Preset.allCases.map(\.rawValue))
    #expect(choices("output", "rows") == ModelDescription.Output.Rows.allCases.map(\.rawValue))
  }

  @Test func documentationExplainsEveryKey() throws {
    let text = try repositoryText("docs/model-json.md")
    for (definition, keys) in ModelKeys.byDefinition {
      for key in keys { #expect(text.contains("`\(key)`") || text.contains("\"\(key)\""), "\(definition).\(key)") }
    }
    let parts = PerceptronPart.allCases.map(\.rawValue) + PerceptronRole.allCases.map { "\($0.rawValue)." }
    for role in LayerRole.allCases.map(\.rawValue) + ModelRole.plain.map(\.key) + parts {
      #expect(text.contains("`\(role)`"), "\(role)")
    }
    for preset in [WeightNames.Preset.production, .research] {
      for role in LayerRole.allCases {
        for withTime in [false, true] {
          if let name = preset.name(of: role, withTime: withTime) { #expect(text.contains("`\(name)`"), "\(name)") }
        }
      }
      for role in ModelRole.plain.map(\.role) + [.table("{name}")] {
        if let name = preset.name(of: role) { #expect(text.contains("`\(name)`"), "\(name)") }
      }
    }
  }

  @Test func exampleInTheDocumentationIsAModel() throws {
    let text = try repositoryText("docs/model-json.md")
    let start = try #require(text.firstRange(of: "```json\n")).upperBound
    let end = try #require(text[start...].firstRange(of: "```")).lowerBound
    let model = try ModelDocument(JSONDocument(String(text[start..<end]), file: "model-json.md"))
    #expect(model.description.layers.count == 4)
  }
}
