/// A word of the text form.
package struct Token: Equatable {
  package enum Kind: Equatable {
    case word(String)
    /// `%name`: a value of a function.
    case value(String)
    /// `@name`: a weight or a function.
    case global(String)
    /// Digits, with a sign, a fraction or an exponent where there is one; as written.
    case number(String)
    case string(String)
    /// Punctuation: `{`, `->` and the like.
    case symbol(String)
    case end
  }

  package var kind: Kind
  package var location: SourceLocation

  /// The token as an error shows it; long ones cut short.
  package var description: String {
    let text =
      switch kind {
      case .word(let text), .number(let text), .symbol(let text): text
      case .value(let name): "%" + TextName.quoted(name)
      case .global(let name): "@" + TextName.quoted(name)
      case .string(let text): TextName.literal(text)
      case .end: "the end of the text"
      }
    if kind == .end { return text }
    let shown = text.unicodeScalars.count > 60 ? String(text.prefix(57)) + "..." : text
    if case .string = kind { return shown }
    return "\"\(shown)\""
  }
}

/// Cuts the text form into tokens. Reads one byte after the other, never past the end, and takes any bytes.
package struct Lexer {
  private let bytes: [UInt8]
  private let operators: [UInt8]
  private var position = 0
  private var line = 1
  private var column = 1
  private let file: String

  /// `operators` are ASCII characters that are punctuation too.
  package init(_ source: String, file: String, operators: String = "") {
    bytes = Array(source.utf8)
    self.operators = Array(operators.utf8)
    self.file = file
  }

  private var location: SourceLocation { SourceLocation(file: file, line: line, column: column) }

  private func peek(_ ahead: Int = 0) -> UInt8? {
    position + ahead < bytes.count ? bytes[position + ahead] : nil
  }

  private mutating func advance() {
    let byte = bytes[position]
    position += 1
    if byte == UInt8(ascii: "\n") {
      line += 1
      column = 1
    } else if byte & 0xC0 != 0x80 {
      // Continuation bytes of UTF-8 belong to the scalar that was counted already.
      column += 1
    }
  }

  private mutating func skipBlanks() {
    while let byte = peek() {
      switch byte {
      case UInt8(ascii: " "), UInt8(ascii: "\t"), UInt8(ascii: "\r"), UInt8(ascii: "\n"): advance()
      case UInt8(ascii: "/") where peek(1) == UInt8(ascii: "/"):
        while let next = peek(), next != UInt8(ascii: "\n") { advance() }
      default: return
      }
    }
  }

  /// The next token; `.end` at the end, however often one asks.
  package mutating func next() throws(TensorIRError) -> Token {
    skipBlanks()
    let start = location
    guard let byte = peek() else { return Token(kind: .end, location: start) }
    switch byte {
    case UInt8(ascii: "%"):
      advance()
      return Token(kind: .value(try name(after: "%")), location: start)
    case UInt8(ascii: "@"):
      advance()
      return Token(kind: .global(try name(after: "@")), location: start)
    case UInt8(ascii: "\""):
      return Token(kind: .string(try string()), location: start)
    case UInt8(ascii: "-") where peek(1) == UInt8(ascii: ">"):
      advance()
      advance()
      return Token(kind: .symbol("->"), location: start)
    case UInt8(ascii: "-") where peek(1).map(TextName.isDigit) == true || !operators.contains(byte):
      return Token(kind: .number(try number()), location: start)
    case UInt8(ascii: "{"), UInt8(ascii: "}"), UInt8(ascii: "("), UInt8(ascii: ")"), UInt8(ascii: "["),
      UInt8(ascii: "]"), UInt8(ascii: "<"), UInt8(ascii: ">"), UInt8(ascii: ","), UInt8(ascii: ":"),
      UInt8(ascii: "="):
      advance()
      return Token(kind: .symbol(String(UnicodeScalar(byte))), location: start)
    default:
      if TextName.startsWord(byte) { return Token(kind: .word(word()), location: start) }
      if operators.contains(byte) {
        advance()
        return Token(kind: .symbol(String(UnicodeScalar(byte))), location: start)
      }
      if TextName.isDigit(byte) { return Token(kind: .number(try number()), location: start) }
      throw TensorIRError("unexpected character \(TextName.literal(scalar()))", at: start)
    }
  }

  /// The Unicode scalar at the current byte.
  private func scalar() -> String {
    var end = position + 1
    while end < bytes.count, bytes[end] & 0xC0 == 0x80 { end += 1 }
    return String(decoding: bytes[position..<end], as: UTF8.self)
  }

  private mutating func word() -> String {
    let start = position
    while let byte = peek(), TextName.continuesWord(byte) { advance() }
    return String(decoding: bytes[start..<position], as: UTF8.self)
  }

  private mutating func name(after sigil: String) throws(TensorIRError) -> String {
    if peek() == UInt8(ascii: "\"") { return try string() }
    guard let byte = peek(), TextName.startsWord(byte) else {
      throw TensorIRError("expected a name after \"\(sigil)\": letters, digits, \"_\", \".\", or quotes", at: location)
    }
    return word()
  }

  private mutating func digits() throws(TensorIRError) {
    guard let byte = peek(), TextName.isDigit(byte) else { throw TensorIRError("expected a digit", at: location) }
    while let byte = peek(), TextName.isDigit(byte) { advance() }
  }

  private mutating func number() throws(TensorIRError) -> String {
    let start = position
    if peek() == UInt8(ascii: "-") { advance() }
    try digits()
    if peek() == UInt8(ascii: ".") {
      advance()
      try digits()
    }
    if peek() == UInt8(ascii: "e") || peek() == UInt8(ascii: "E") {
      advance()
      if peek() == UInt8(ascii: "+") || peek() == UInt8(ascii: "-") { advance() }
      try digits()
    }
    if let byte = peek(), TextName.continuesWord(byte) {
      throw TensorIRError("unexpected character \(TextName.literal(scalar())) in a number", at: location)
    }
    return String(decoding: bytes[start..<position], as: UTF8.self)
  }

  /// A string in double quotes on one line, with the escapes `\"`, `\\`, `\n`, `\t` and `\u{hex}`.
  private mutating func string() throws(TensorIRError) -> String {
    let opening = location
    advance()
    var text: [UInt8] = []
    while let byte = peek(), byte != UInt8(ascii: "\n") {
      switch byte {
      case UInt8(ascii: "\""):
        advance()
        return String(decoding: text, as: UTF8.self)
      case UInt8(ascii: "\\"):
        text += try escape()
      default:
        text.append(byte)
        advance()
      }
    }
    throw TensorIRError("this string is not closed by \" on its line", at: opening)
  }

  private mutating func escape() throws(TensorIRError) -> [UInt8] {
    let start = location
    advance()
    guard let kind = peek() else { throw TensorIRError("the text ends inside an escape", at: start) }
    switch kind {
    case UInt8(ascii: "\""), UInt8(ascii: "\\"):
      advance()
      return [kind]
    case UInt8(ascii: "n"):
      advance()
      return [UInt8(ascii: "\n")]
    case UInt8(ascii: "t"):
      advance()
      return [UInt8(ascii: "\t")]
    case UInt8(ascii: "u") where peek(1) == UInt8(ascii: "{"):
      advance()
      advance()
      let digits = word()
      // At most six digits, so that the value needs no overflow check.
      guard peek() == UInt8(ascii: "}"), (1...6).contains(digits.utf8.count), let value = UInt32(digits, radix: 16),
        let scalar = UnicodeScalar(value)
      else { throw TensorIRError("expected \\u{...} with the hexadecimal number of a Unicode scalar", at: start) }
      advance()
      return Array(String(scalar).utf8)
    default:
      throw TensorIRError("unknown escape; known are \\\", \\\\, \\n, \\t and \\u{...}", at: start)
    }
  }
}
