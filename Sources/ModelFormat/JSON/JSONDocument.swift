/// A number of a JSON text, kept as it was written.
public struct JSONNumber: Hashable, Sendable {
  /// The digits as they stand in the text, a number by the grammar of RFC 8259.
  public var text: String

  /// The nearest fp64 number; infinite where the text is beyond its range.
  public var double: Double { Double(text) ?? .nan }

  /// The number where it is written as an integer and fits; nil for `16.0` and `1e3`.
  public var integer: Int? { Int(text) }
}

/// A value of a JSON text with the place where it begins.
public struct JSONNode: Hashable, Sendable {
  /// The kinds of value that RFC 8259 has.
  public indirect enum Value: Hashable, Sendable {
    case null
    case bool(Bool)
    case number(JSONNumber)
    case string(String)
    case array([JSONNode])
    /// The members in the order of the text; keys are unique.
    case object([JSONMember])
  }

  /// The value itself, with all that is within it.
  public var value: Value
  /// Counted from 1.
  public var line: Int

  /// The member of an object; nil where there is none, or where this is no object.
  public subscript(key: String) -> JSONNode? {
    guard case .object(let members) = value else { return nil }
    return members.first { $0.key == key }?.value
  }
}

/// A key and its value in an object.
public struct JSONMember: Hashable, Sendable {
  /// The key with its escapes resolved.
  public var key: String
  /// The line of the key, counted from 1.
  public var line: Int
  /// What stands after the colon.
  public var value: JSONNode
}

/// A JSON text read by the letter of RFC 8259, with the line of every key and value.
///
/// Bytes are not trusted: nesting is limited, a key that appears twice in an object is an error, so is a lone
/// surrogate or a byte that is not UTF-8.
public struct JSONDocument: Hashable, Sendable {
  /// Arrays and objects within one another; deeper texts are refused.
  public static let depthLimit = 64

  /// The value that the text is.
  public var root: JSONNode
  /// The name that errors give to this text.
  public var file: String

  /// Throws `malformed` with the line and column of the first fault.
  public init(bytes: UnsafeRawBufferPointer, file: String) throws(ModelError) {
    var parser = JSONParser(bytes: bytes)
    do throws(JSONParser.Fault) {
      self.root = try parser.document()
    } catch {
      throw ModelError(
        .malformed, file: file, line: error.line, place: "column \(error.column)", error.message)
    }
    self.file = file
  }

  /// The text of a file. Throws `inaccessible` where it cannot be read, `malformed` as above.
  public init(path: String) throws(ModelError) {
    let file = try MappedFile(path: path)
    try self.init(bytes: file.bytes, file: path)
  }

  /// The same over text in memory. Throws `malformed` with the line and column of the first fault.
  public init(_ text: String, file: String) throws(ModelError) {
    var text = text
    let parsed = text.withUTF8 { bytes in
      Result { () throws(ModelError) in try JSONDocument(bytes: UnsafeRawBufferPointer(bytes), file: file) }
    }
    self = try parsed.get()
  }
}
