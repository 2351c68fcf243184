import ModelFormat

/// The part of JSON Schema 2020-12 that docs/model.schema.json uses; a keyword that it does not know is a fault.
struct SchemaValidator {
  let root: JSONNode

  /// Why a value does not follow the schema, the first fault of each place; none where it does.
  func faults(_ value: JSONNode) -> [String] { faults(value, root, "$") }

  private func faults(_ value: JSONNode, _ schema: JSONNode, _ path: String) -> [String] {
    if case .bool(let allowed) = schema.value { return allowed ? [] : ["\(path): not allowed here"] }
    guard case .object(let keywords) = schema.value else { return ["\(path): the schema is no object"] }
    return keywords.flatMap { self.faults(value, $0.key, $0.value, schema, path) }
  }

  private func faults(
    _ value: JSONNode, _ keyword: String, _ argument: JSONNode, _ schema: JSONNode, _ path: String
  ) -> [String] {
    func fault(_ isFault: Bool, _ message: String) -> [String] { isFault ? ["\(path): \(message)"] : [] }
    let number = if case .number(let number) = value.value { number.double } else { Double.nan }
    let limit = if case .number(let number) = argument.value { number.double } else { Double.nan }
    switch keyword {
    case "$schema", "title", "description", "default", "$defs", "then": return []
    case "$ref":
      guard let name = text(argument)?.split(separator: "/").last, let target = root["$defs"]?[String(name)] else {
        return ["\(path): unknown reference"]
      }
      return faults(value, target, path)
    case "type": return fault(!hasType(value, text(argument) ?? ""), "no \(text(argument) ?? "")")
    case "const": return fault(!equal(value, argument), "not the constant")
    case "enum": return fault(!elements(argument).contains { equal($0, value) }, "not one of the choices")
    case "minimum": return fault(number < limit, "below \(limit)")
    case "maximum": return fault(number > limit, "above \(limit)")
    case "exclusiveMinimum": return fault(number <= limit, "not above \(limit)")
    case "minLength": return fault(text(value).map { Double($0.count) < limit } ?? false, "too short")
    case "pattern",
      "propertyNames" where text(argument) != nil:
      guard let text = text(value), let pattern = self.text(argument), let regex = try? Regex(pattern) else {
        return []
      }
      return fault(!text.contains(regex), "not of the pattern")
    case "propertyNames":
      return members(value).flatMap { faults(.text($0.key), argument, "\(path).\($0.key)") }
    case "minItems": return fault(isArray(value) && Double(elements(value).count) < limit, "too few elements")
    case "maxItems": return fault(isArray(value) && Double(elements(value).count) > limit, "too many elements")
    case "uniqueItems":
      let texts = elements(value).map(\.pretty)
      return fault(Set(texts).count != texts.count, "an element twice")
    case "items": return elements(value).enumerated().flatMap { faults($1, argument, "\(path)[\($0)]") }
    case "properties":
      return members(value).flatMap { member in
        argument[member.key].map { faults(member.value, $0, "\(path).\(member.key)") } ?? []
      }
    case "additionalProperties":
      return members(value).filter { schema["properties"]?[$0.key] == nil }
        .flatMap { faults($0.value, argument, "\(path).\($0.key)") }
    case "maxProperties": return fault(Double(members(value).count) > limit, "too many keys")
    case "required":
      guard isObject(value) else { return [] }
      return elements(argument).compactMap(text).filter { value[$0] == nil }.map { "\(path): no \($0)" }
    case "dependentRequired":
      return members(argument).filter { value[$0.key] != nil }.flatMap { member in
        elements(member.value).compactMap(text).filter { value[$0] == nil }.map { "\(path): no \($0)" }
      }
    case "not": return fault(faults(value, argument, path).isEmpty, "of a form that is not allowed")
    case "oneOf":
      let count = elements(argument).count { faults(value, $0, path).isEmpty }
      return fault(count != 1, "follows \(count) of several forms")
    case "if":
      guard faults(value, argument, path).isEmpty, let then = schema["then"] else { return [] }
      return faults(value, then, path)
    default: return ["\(path): the keyword \(keyword) is not known here"]
    }
  }

  private func text(_ node: JSONNode) -> String? { if case .string(let text) = node.value { text } else { nil } }
  private func isArray(_ node: JSONNode) -> Bool { if case .array = node.value { true } else { false } }
  private func isObject(_ node: JSONNode) -> Bool { if case .object = node.value { true } else { false } }
  private func elements(_ node: JSONNode) -> [JSONNode] { if case .array(let nodes) = node.value { nodes } else { [] } }
  private func members(_ node: JSONNode) -> [JSONMember] {
    if case .object(let members) = node.value { members } else { [] }
  }

  private func equal(_ left: JSONNode, _ right: JSONNode) -> Bool { left.pretty == right.pretty }

  private func hasType(_ node: JSONNode, _ type: String) -> Bool {
    switch node.value {
    case .null: type == "null"
    case .bool: type == "boolean"
    case .number(let number): type == "number" || (type == "integer" && number.integer != nil)
    case .string: type == "string"
    case .array: type == "array"
    case .object: type == "object"
    }
  }
}
