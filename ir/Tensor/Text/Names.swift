/// How names and numbers are spelled in the text form.
package enum TextName {
  /// The name as it is where it is plain (letters, digits, `_` and `.`, not starting with a digit or `.`), else in quotes.
  package static func quoted(_ name: String) -> String {
    isPlain(name) ? name : literal(name)
  }

  /// The text in double quotes; quotes, backslashes and control characters escaped.
  package static func literal(_ text: String) -> String {
    var result = "\""
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\"": result += "\\\""
      case "\\": result += "\\\\"
      case "\n": result += "\\n"
      case "\t": result += "\\t"
      default:
        if scalar.value < 0x20 || scalar.value == 0x7F {
          result += "\\u{\(String(scalar.value, radix: 16))}"
        } else {
          result.unicodeScalars.append(scalar)
        }
      }
    }
    return result + "\""
  }

  /// The shortest decimal that reads back as the same number; whole numbers without a fraction.
  package static func number<Number: BinaryFloatingPoint & LosslessStringConvertible>(_ value: Number) -> String {
    let text = value.description
    return text.hasSuffix(".0") ? String(text.dropLast(2)) : text
  }

  static func isPlain(_ name: String) -> Bool {
    guard let first = name.utf8.first, startsWord(first) else { return false }
    return name.utf8.allSatisfy(continuesWord)
  }

  static func startsWord(_ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "_"): true
    default: false
    }
  }

  static func isDigit(_ byte: UInt8) -> Bool { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) }

  static func continuesWord(_ byte: UInt8) -> Bool {
    startsWord(byte) || isDigit(byte) || byte == UInt8(ascii: ".")
  }
}
