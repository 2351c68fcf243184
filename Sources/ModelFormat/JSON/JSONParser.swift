/// Recursive descent over bytes, never reading past the end.
struct JSONParser {
  struct Fault: Error {
    var line: Int
    var column: Int
    var message: String
  }

  let bytes: UnsafeRawBufferPointer
  private var index = 0
  private var line = 1
  private var lineStart = 0

  init(bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

  mutating func document() throws(Fault) -> JSONNode {
    let root = try value(depth: 0)
    skipSpace()
    if index < bytes.count { throw fault("expected the end of the text, found \(found)") }
    return root
  }

  // MARK: - Bytes

  private var byte: UInt8? { index < bytes.count ? bytes[index] : nil }

  private func fault(_ message: String) -> Fault {
    Fault(line: line, column: index - lineStart + 1, message: message)
  }

  /// The next byte as messages show it.
  private var found: String {
    guard let byte else { return "the end of the text" }
    guard (0x20..<0x7F).contains(byte) else { return "byte 0x" + String(byte, radix: 16, uppercase: true) }
    return "'" + String(UnicodeScalar(byte)) + "'"
  }

  private mutating func skipSpace() {
    while let byte {
      switch byte {
      case UInt8(ascii: " "), UInt8(ascii: "\t"), UInt8(ascii: "\r"): index += 1
      case UInt8(ascii: "\n"):
        index += 1
        line += 1
        lineStart = index
      default: return
      }
    }
  }

  private mutating func take(_ expected: UInt8) -> Bool {
    guard byte == expected else { return false }
    index += 1
    return true
  }

  // MARK: - Values

  private mutating func value(depth: Int) throws(Fault) -> JSONNode {
    skipSpace()
    let line = line
    let value: JSONNode.Value
    switch byte ?? 0 {
    case UInt8(ascii: "{"):
      value = .object(try members(depth: depth))
    case UInt8(ascii: "["):
      value = .array(try elements(depth: depth))
    case UInt8(ascii: "\""): value = .string(try string())
    case UInt8(ascii: "-"), UInt8(ascii: "0")...UInt8(ascii: "9"): value = .number(JSONNumber(text: try number()))
    case UInt8(ascii: "t") where takeWord("true"): value = .bool(true)
    case UInt8(ascii: "f") where takeWord("false"): value = .bool(false)
    case UInt8(ascii: "n") where takeWord("null"): value = .null
    default: throw fault("expected a value, found \(found)")
    }
    return JSONNode(value: value, line: line)
  }

  private mutating func takeWord(_ word: StaticString) -> Bool {
    word.withUTF8Buffer { letters in
      guard bytes.count - index >= letters.count else { return false }
      for offset in 0..<letters.count where bytes[index + offset] != letters[offset] { return false }
      index += letters.count
      return true
    }
  }

  private func checkDepth(_ depth: Int) throws(Fault) {
    if depth >= JSONDocument.depthLimit {
      throw fault("arrays and objects are nested more than \(JSONDocument.depthLimit) deep")
    }
  }

  private mutating func members(depth: Int) throws(Fault) -> [JSONMember] {
    try checkDepth(depth)
    index += 1
    var members: [JSONMember] = []
    var lines: [String: Int] = [:]
    skipSpace()
    if take(UInt8(ascii: "}")) { return members }
    while true {
      skipSpace()
      guard byte == UInt8(ascii: "\"") else { throw fault("expected a key in quotes, found \(found)") }
      let start = self
      let key = try string()
      if let earlier = lines.updateValue(line, forKey: key) {
        throw start.fault("the key \(quoted(key)) appears twice in one object, first on line \(earlier)")
      }
      skipSpace()
      if !take(UInt8(ascii: ":")) { throw fault("expected ':' after the key \(quoted(key)), found \(found)") }
      members.append(JSONMember(key: key, line: start.line, value: try value(depth: depth + 1)))
      skipSpace()
      if take(UInt8(ascii: "}")) { return members }
      if !take(UInt8(ascii: ",")) { throw fault("expected ',' or '}', found \(found)") }
    }
  }

  private mutating func elements(depth: Int) throws(Fault) -> [JSONNode] {
    try checkDepth(depth)
    index += 1
    var elements: [JSONNode] = []
    skipSpace()
    if take(UInt8(ascii: "]")) { return elements }
    while true {
      elements.append(try value(depth: depth + 1))
      skipSpace()
      if take(UInt8(ascii: "]")) { return elements }
      if !take(UInt8(ascii: ",")) { throw fault("expected ',' or ']', found \(found)") }
    }
  }

  private mutating func digits() throws(Fault) {
    guard let first = byte, isDigit(first) else { throw fault("expected a digit, found \(found)") }
    while let byte, isDigit(byte) { index += 1 }
  }

  private func isDigit(_ byte: UInt8) -> Bool { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) }

  private mutating func number() throws(Fault) -> String {
    let start = index
    _ = take(UInt8(ascii: "-"))
    if take(UInt8(ascii: "0")) {
      if let byte, isDigit(byte) { throw fault("a number must not begin with a zero before other digits") }
    } else {
      try digits()
    }
    if take(UInt8(ascii: ".")) { try digits() }
    if take(UInt8(ascii: "e")) || take(UInt8(ascii: "E")) {
      if !take(UInt8(ascii: "+")) { _ = take(UInt8(ascii: "-")) }
      try digits()
    }
    return String(decoding: bytes[start..<index], as: UTF8.self)
  }

  // MARK: - Strings

  private mutating func string() throws(Fault) -> String {
    let opening = self
    index += 1
    var text: [UInt8] = []
    while true {
      guard let byte else { throw opening.fault("a string has no closing quote") }
      switch byte {
      case UInt8(ascii: "\""):
        index += 1
        guard let string = String(validating: text, as: UTF8.self) else {
          throw opening.fault("a string is not valid UTF-8")
        }
        return string
      case UInt8(ascii: "\\"):
        index += 1
        try escape(into: &text)
      case 0..<0x20:
        throw fault("a string must not contain the control character \(found); write it as an escape")
      default:
        text.append(byte)
        index += 1
      }
    }
  }

  private mutating func escape(into text: inout [UInt8]) throws(Fault) {
    let simple: UInt8
    switch byte {
    case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): simple = bytes[index]
    case UInt8(ascii: "b"): simple = 0x08
    case UInt8(ascii: "f"): simple = 0x0C
    case UInt8(ascii: "n"): simple = 0x0A
    case UInt8(ascii: "r"): simple = 0x0D
    case UInt8(ascii: "t"): simple = 0x09
    case UInt8(ascii: "u"):
      index += 1
      text.append(contentsOf: String(Character(try escapedScalar())).utf8)
      return
    default: throw fault("expected an escape such as \\n after '\\', found \(found)")
    }
    text.append(simple)
    index += 1
  }

  /// What stands after `\u`: four hexadecimal digits, and another `\u` with four where the first is a high surrogate.
  private mutating func escapedScalar() throws(Fault) -> UnicodeScalar {
    let start = self
    let first = try hexadecimal()
    if let scalar = UnicodeScalar(first) { return scalar }
    guard (0xD800..<0xDC00).contains(first), take(UInt8(ascii: "\\")), take(UInt8(ascii: "u")) else {
      throw start.fault("half of a surrogate pair stands alone")
    }
    let second = try hexadecimal()
    guard (0xDC00..<0xE000).contains(second),
      let scalar = UnicodeScalar(0x10000 + (first - 0xD800) << 10 + (second - 0xDC00))
    else { throw start.fault("half of a surrogate pair stands alone") }
    return scalar
  }

  private mutating func hexadecimal() throws(Fault) -> UInt32 {
    var value: UInt32 = 0
    for _ in 0..<4 {
      guard let digit = byte.flatMap({ Character(UnicodeScalar($0)).hexDigitValue }) else {
        throw fault("expected four hexadecimal digits, found \(found)")
      }
      value = value << 4 | UInt32(digit)
      index += 1
    }
    return value
  }
}
