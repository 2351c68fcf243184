/// A value that stands in no text yet: what is written, not what was read.
extension JSONNode {
  init(_ value: Value) { self.init(value: value, line: 0) }

  /// The text of a string.
  public static func text(_ text: some StringProtocol) -> JSONNode { JSONNode(.string(String(text))) }

  /// A whole number.
  public static func integer(_ value: Int) -> JSONNode { JSONNode(.number(JSONNumber(text: "\(value)"))) }

  /// A number as it is to stand in the text, by the grammar of RFC 8259.
  static func number(_ text: String) -> JSONNode { JSONNode(.number(JSONNumber(text: text))) }

  static func bool(_ value: Bool) -> JSONNode { JSONNode(.bool(value)) }

  /// An array.
  public static func list(_ elements: [JSONNode]) -> JSONNode { JSONNode(.array(elements)) }

  /// An object without the members that are nil, in the order given; keys must differ.
  public static func object(_ members: [(key: String, value: JSONNode?)]) -> JSONNode {
    JSONNode(.object(members.compactMap { key, value in value.map { JSONMember(key: key, line: 0, value: $0) } }))
  }

  /// The value as text that a person can read: what fits a line of 110 columns stands on one, other arrays and objects have an
  /// element a line. Reading it back gives the same value.
  public var pretty: String {
    var text = ""
    write(to: &text, indent: 0, room: 110)
    return text
  }

  /// `room` is what is left of the line.
  private func write(to text: inout String, indent: Int, room: Int) {
    let line = compact
    let parts: [(prefix: String, node: JSONNode)]
    let brackets: (open: String, close: String)
    switch value {
    case .array(let elements): (parts, brackets) = (elements.map { ("", $0) }, ("[", "]"))
    case .object(let members):
      (parts, brackets) = (members.map { ("\(jsonLiteral($0.key)): ", $0.value) }, ("{", "}"))
    default: (parts, brackets) = ([], ("", ""))
    }
    // The document itself is never one line.
    guard !parts.isEmpty, indent == 0 || line.count > room else {
      text += line
      return
    }
    let inner = String(repeating: " ", count: indent + 2)
    text += brackets.open + "\n"
    for (index, part) in parts.enumerated() {
      text += inner + part.prefix
      part.node.write(to: &text, indent: indent + 2, room: 110 - indent - 3 - part.prefix.count)
      text += index + 1 < parts.count ? ",\n" : "\n"
    }
    text += String(repeating: " ", count: indent) + brackets.close
  }

  /// On one line.
  var compact: String {
    switch value {
    case .null: "null"
    case .bool(let value): "\(value)"
    case .number(let number): number.text
    case .string(let text): jsonLiteral(text)
    case .array(let elements): "[" + elements.map(\.compact).joined(separator: ", ") + "]"
    case .object(let members):
      "{" + members.map { "\(jsonLiteral($0.key)): \($0.value.compact)" }.joined(separator: ", ") + "}"
    }
  }
}

/// A string as JSON writes it.
func jsonLiteral(_ text: String) -> String {
  var result = "\""
  for scalar in text.unicodeScalars {
    switch scalar {
    case "\"", "\\": result += "\\\(scalar)"
    case _ where scalar.value < 0x20:
      let digits = String(scalar.value, radix: 16)
      result += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
    default: result.unicodeScalars.append(scalar)
    }
  }
  return result + "\""
}
