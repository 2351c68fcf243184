/// Values of settings as a command line writes them.
extension ImportOptions.Flag {
  /// A number where it is one, else a word: `0.5`, `1/attention_dim`.
  public static func value(_ name: String, _ key: String, _ text: String) -> Self {
    Self(name, key, Self.scalar(text))
  }

  /// Words with commas between: `item_id,category_id`.
  public static func words(_ name: String, _ key: String, _ text: String) -> Self {
    Self(name, key, .list(Self.split(text).map { .text($0) }))
  }

  /// Numbers with commas between: `1,2,4`.
  public static func numbers(_ name: String, _ key: String, _ text: String) -> Self {
    Self(name, key, .list(Self.split(text).map(Self.scalar)))
  }

  /// A word, or a word with options in braces: `causal`, `windowed{window=32,full_tail=16}`. With braces it is an object, in which the
  /// word stands under `wordKey`. Throws `malformed` where the text is neither.
  public static func braced(_ name: String, _ key: String, _ text: String, word wordKey: String) throws(ModelError)
    -> Self
  {
    Self(name, key, try Self.object(name, text, wordKey))
  }

  /// Several of those, in order.
  public static func bracedList(
    _ name: String, _ key: String, _ texts: [String], word wordKey: String
  ) throws(ModelError) -> Self {
    var nodes: [JSONNode] = []
    for text in texts {
      let node = try Self.object(name, text, wordKey)
      if case .string = node.value {
        nodes.append(.object([(wordKey, node)]))
      } else {
        nodes.append(node)
      }
    }
    return Self(name, key, .list(nodes))
  }

  /// Pairs `left=right`, as a list of objects. Throws `malformed` where a text is none.
  public static func pairs(
    _ name: String, _ key: String, _ texts: [String], _ leftKey: String, _ rightKey: String
  ) throws(ModelError) -> Self {
    var nodes: [JSONNode] = []
    for text in texts {
      let (left, right) = try Self.pair(name, text)
      nodes.append(.object([(leftKey, .text(left)), (rightKey, .text(right))]))
    }
    return Self(name, key, .list(nodes))
  }

  /// Pairs `key=value`, as one object. Throws `malformed` where a text is none, or where two have the same key.
  public static func mapping(_ name: String, _ key: String, _ texts: [String]) throws(ModelError) -> Self {
    var members: [(key: String, value: JSONNode?)] = []
    for text in texts {
      let (left, right) = try Self.pair(name, text)
      guard !members.contains(where: { $0.key == left }) else {
        throw ModelError(.malformed, file: name, "\(quoted(left)) is given twice")
      }
      members.append((left, .text(right)))
    }
    return Self(name, key, .object(members))
  }

  private static func split(_ text: String) -> [String] {
    text.split(separator: ",").map { String($0.trimmed) }.filter { !$0.isEmpty }
  }

  private static func pair(_ name: String, _ text: String) throws(ModelError) -> (String, String) {
    let parts = text.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map { String($0.trimmed) }
    guard parts.count == 2, !parts[0].isEmpty, !parts[1].isEmpty else {
      throw ModelError(.malformed, file: name, "expected a name, = and a value, found \(quoted(text))")
    }
    return (parts[0], parts[1])
  }

  private static func object(_ name: String, _ text: String, _ wordKey: String) throws(ModelError) -> JSONNode {
    guard let brace = text.firstIndex(of: "{") else { return .text(text) }
    guard text.last == "}" else {
      throw ModelError(.malformed, file: name, "expected } at the end of \(quoted(text))")
    }
    var members: [(key: String, value: JSONNode?)] = [(wordKey, .text(text[..<brace].trimmed))]
    for option in split(String(text[text.index(after: brace)...].dropLast())) {
      let (key, value) = try pair(name, option)
      guard !members.contains(where: { $0.key == key }) else {
        throw ModelError(.malformed, file: name, "\(quoted(key)) is given twice in \(quoted(text))")
      }
      members.append((key, scalar(value)))
    }
    return .object(members)
  }

  /// A number, true or false where the text is one by the grammar of JSON, else a string.
  private static func scalar(_ text: String) -> JSONNode {
    if let root = try? JSONDocument(text, file: "").root {
      switch root.value {
      case .number, .bool: return JSONNode(root.value)
      default: break
      }
    }
    return .text(text)
  }
}

extension StringProtocol {
  /// Without spaces at either end.
  fileprivate var trimmed: SubSequence {
    let start = firstIndex { $0 != " " } ?? endIndex
    let end = self[start...].lastIndex { $0 != " " }.map { index(after: $0) } ?? start
    return self[start..<end]
  }
}
