/// A parser with one token of lookahead: what the text forms share.
package protocol TokenParser {
  var lexer: Lexer { get set }
  /// The next token, not consumed yet.
  var token: Token { get set }
}

extension TokenParser {
  /// Consumes the token.
  package mutating func advance() throws(TensorIRError) { token = try lexer.next() }

  /// An error at the next token, which is not what was expected.
  package func unexpected(_ expected: String) -> TensorIRError {
    TensorIRError("expected \(expected), found \(token.description)", at: token.location)
  }

  /// Consumes the punctuation where it is next.
  package mutating func take(_ symbol: String) throws(TensorIRError) -> Bool {
    guard token.kind == .symbol(symbol) else { return false }
    try advance()
    return true
  }

  /// Consumes the punctuation, which must be next.
  package mutating func expect(_ symbol: String) throws(TensorIRError) {
    if try !take(symbol) { throw unexpected("\"\(symbol)\"") }
  }

  /// Consumes the word where it is next.
  package mutating func takeWord(_ word: String) throws(TensorIRError) -> Bool {
    guard token.kind == .word(word) else { return false }
    try advance()
    return true
  }

  /// A word or a string in quotes.
  package mutating func name(_ what: String) throws(TensorIRError) -> String {
    switch token.kind {
    case .word(let text), .string(let text):
      try advance()
      return text
    default: throw unexpected(what)
    }
  }

  /// The name of an `@name`; `what` says whose in errors.
  package mutating func globalName(_ what: String) throws(TensorIRError) -> String {
    guard case .global(let name) = token.kind else { throw unexpected("\(what), @name") }
    try advance()
    return name
  }

  // MARK: Phrases

  /// Terms up to the first token that begins none; `what` says in errors what they should be.
  package mutating func phrase(_ what: String, until ends: String...) throws(TensorIRError) -> AttributePhrase {
    var phrase = AttributePhrase(terms: [], location: token.location)
    while !ends.contains(where: { token.kind == .word($0) }), let term = try term() { phrase.terms.append(term) }
    if phrase.terms.isEmpty { throw unexpected(what) }
    return phrase
  }

  /// The next term, or nil where none begins here.
  private mutating func term() throws(TensorIRError) -> AttributePhrase.Term? {
    if try take("[") {
      var elements: [AttributePhrase.Scalar] = []
      if try take("]") { return .list([]) }
      repeat { elements.append(try scalar()) } while try take(",")
      try expect("]")
      return .list(elements)
    }
    switch token.kind {
    case .number, .string: return .scalar(try scalar())
    case .word(let word):
      try advance()
      guard try take("(") else { return .scalar(.word(word)) }
      var arguments: [AttributePhrase.Argument] = []
      if try take(")") { return .call(word, []) }
      repeat { arguments.append(try argument()) } while try take(",")
      try expect(")")
      return .call(word, arguments)
    default: return nil
    }
  }

  /// `value` or `label = value`.
  private mutating func argument() throws(TensorIRError) -> AttributePhrase.Argument {
    let first = try scalar()
    guard case .word(let label) = first, try take("=") else {
      return AttributePhrase.Argument(label: nil, value: first)
    }
    return AttributePhrase.Argument(label: label, value: try scalar())
  }

  private mutating func scalar() throws(TensorIRError) -> AttributePhrase.Scalar {
    let scalar: AttributePhrase.Scalar
    switch token.kind {
    case .number(let text): scalar = .number(text)
    case .word(let text): scalar = .word(text)
    case .string(let text): scalar = .string(text)
    default: throw unexpected("a number, a word or a string")
    }
    try advance()
    return scalar
  }
}
