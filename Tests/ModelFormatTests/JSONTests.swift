import Testing

@testable import ModelFormat

@Suite struct JSONTests {
  private func fault(_ text: String) -> String? {
    do {
      _ = try JSONDocument(text, file: "a.json")
      return nil
    } catch {
      return "\(error)"
    }
  }

  @Test func keepsPlacesOrderAndNumbers() throws {
    let document = try JSONDocument("{\n \"b\": [1, -0.5e3,\n  true, null],\n \"a\": \"x\"\n}", file: "a.json")
    guard case .object(let members) = document.root.value else {
      Issue.record("not an object")
      return
    }
    #expect(members.map(\.key) == ["b", "a"])
    #expect(members.map(\.line) == [2, 4])
    guard case .array(let elements)? = document.root["b"]?.value else {
      Issue.record("not an array")
      return
    }
    #expect(elements.map(\.line) == [2, 2, 3, 3])
    #expect(elements.map(\.value) == [.number(.init(text: "1")), .number(.init(text: "-0.5e3")), .bool(true), .null])
    #expect(JSONNumber(text: "-0.5e3").double == -500)
    #expect(JSONNumber(text: "1e3").integer == nil)
    #expect(JSONNumber(text: "16.0").integer == nil)
    #expect(JSONNumber(text: "9223372036854775807").integer == .max)
    #expect(JSONNumber(text: "9223372036854775808").integer == nil)
    #expect(JSONNumber(text: "1e999").double == .infinity)
  }

  @Test func readsEscapes() throws {
    let document = try JSONDocument(#""\"\\\/\b\f\n\r\t\u0041\u00e9\ud83d\ude00é""#, file: "a.json")
    #expect(document.root.value == .string("\"\\/\u{8}\u{C}\n\r\tAé😀é"))
  }

  static let faults: [(text: String, message: String)] = [
    ("", "a.json:1: column 1: expected a value, found the end of the text"),
    ("{", "a.json:1: column 2: expected a key in quotes, found the end of the text"),
    ("{\"a\" 1}", "a.json:1: column 6: expected ':' after the key \"a\", found '1'"),
    ("{\"a\": 1 \"b\": 2}", "a.json:1: column 9: expected ',' or '}', found '\"'"),
    ("{\"a\": 1,}", "a.json:1: column 9: expected a key in quotes, found '}'"),
    ("{a: 1}", "a.json:1: column 2: expected a key in quotes, found 'a'"),
    ("[1,]", "a.json:1: column 4: expected a value, found ']'"),
    ("[1\n2]", "a.json:2: column 1: expected ',' or ']', found '2'"),
    ("[1] x", "a.json:1: column 5: expected the end of the text, found 'x'"),
    ("01", "a.json:1: column 2: a number must not begin with a zero before other digits"),
    ("-", "a.json:1: column 2: expected a digit, found the end of the text"),
    ("1.", "a.json:1: column 3: expected a digit, found the end of the text"),
    ("1e+", "a.json:1: column 4: expected a digit, found the end of the text"),
    ("+1", "a.json:1: column 1: expected a value, found '+'"),
    (".5", "a.json:1: column 1: expected a value, found '.'"),
    ("NaN", "a.json:1: column 1: expected a value, found 'N'"),
    ("tru", "a.json:1: column 1: expected a value, found 't'"),
    ("\"abc", "a.json:1: column 1: a string has no closing quote"),
    ("\"a\nb\"", "a.json:1: column 3: a string must not contain the control character byte 0xA; write it as an escape"),
    (#""\x""#, "a.json:1: column 3: expected an escape such as \\n after '\\', found 'x'"),
    (#""\u12g4""#, "a.json:1: column 6: expected four hexadecimal digits, found 'g'"),
    (#""\ud800""#, "a.json:1: column 4: half of a surrogate pair stands alone"),
    (#""\udc00""#, "a.json:1: column 4: half of a surrogate pair stands alone"),
    (#""\ud800A""#, "a.json:1: column 4: half of a surrogate pair stands alone"),
    (
      "{\"a\": 1,\n\"b\": 2,\n\"a\": 3}",
      "a.json:3: column 1: the key \"a\" appears twice in one object, first on line 1"
    ),
    ("\u{FEFF}1", "a.json:1: column 1: expected a value, found byte 0xEF"),
  ]

  @Test(arguments: faults) func findsTheFault(_ text: String, _ message: String) {
    #expect(fault(text) == message)
  }

  @Test func limitsDepth() {
    func nested(_ depth: Int) -> String {
      String(repeating: "[", count: depth) + String(repeating: "]", count: depth)
    }
    #expect(fault(nested(JSONDocument.depthLimit)) == nil)
    #expect(
      fault(nested(JSONDocument.depthLimit + 1))
        == "a.json:1: column 65: arrays and objects are nested more than 64 deep")
    #expect(fault(String(repeating: "[{\"a\":", count: 1_000_000)) != nil)
  }

  @Test func refusesWhatIsNotUTF8() {
    let bytes: [UInt8] = [0x22, 0xC3, 0x28, 0x22]
    bytes.withUnsafeBytes { bytes in
      do {
        _ = try JSONDocument(bytes: bytes, file: "a.json")
        Issue.record("accepted")
      } catch {
        #expect("\(error)" == "a.json:1: column 1: a string is not valid UTF-8")
      }
    }
  }
}
