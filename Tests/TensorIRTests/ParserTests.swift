import TensorIR
import TestSupport
import Testing

@Suite("Parser")
struct ParserTests {
  @Test(
    "random programs are sound, printed and read back byte for byte",
    arguments: RandomProgram.Kind.allCases)
  func randomPrograms(kind: RandomProgram.Kind) throws {
    for seed in 1...60 as ClosedRange<UInt64> {
      let module = try RandomProgram(kind, seed: seed).module
      #expect(module.verificationErrors().isEmpty)
      let text = module.text
      let read = try TensorIRParser.parse(text, file: "\(kind.rawValue) of seed \(seed)")
      #expect(read.text == text)
      #expect(read.weights == module.weights)
      let (got, wanted) = (try #require(read.functions.first), try #require(module.functions.first))
      #expect(got.body.map { got[$0].payload } == wanted.body.map { wanted[$0].payload })
    }
  }

  /// Reads the text, which must give a module or an error with a place in it; a module must print and read back alike.
  private func read(_ source: String) throws {
    do throws(TensorIRError) {
      let text = try TensorIRParser.parse(source).text
      #expect(try TensorIRParser.parse(text).text == text)
    } catch {
      let lines = source.utf8.count { $0 == UInt8(ascii: "\n") } + 1
      let location = try #require(error.location, "\(error)")
      #expect((1...lines).contains(location.line) && location.column >= 1, "\(error)")
      #expect(!error.message.isEmpty)
    }
  }

  @Test("a text cut short anywhere is refused with a place", arguments: Fixture.all(in: "valid"))
  func truncated(fixture: Fixture) throws {
    let bytes = Array(fixture.source.utf8)
    for end in 0..<bytes.count { try read(String(decoding: bytes[..<end], as: UTF8.self)) }
  }

  @Test("no bytes make the parser trap", arguments: Fixture.all(in: "valid"))
  func mutated(fixture: Fixture) throws {
    let original = Array(fixture.source.utf8)
    let pieces = [
      "{", "}", "(", ")", "[", "]", "<", ">", ",", ":", "=", "->", "%", "@", "\"", "\\", "//", "-", "x", "\n", "\0",
      "\u{7f}",
      "9223372036854775807", "-9223372036854775808", "99999999999999999999", "1e999", "-0", "0", "0.0", "tensor<", "é",
      "\u{301}",
      "weight @w : tensor<1 x f32>", "latest(1)", "contextual(9223372036854775807)", "%x", "@\"\"", "targets",
      "{a, b = c}",
    ].map { Array($0.utf8) }
    var random = Random(seed: UInt64(original.count))
    for _ in 0..<1500 {
      var bytes = original
      for _ in 0..<random.integer(in: 1...4) {
        let position = random.integer(in: 0...bytes.count - 1)
        switch random.integer(in: 0...4) {
        case 0: bytes[position] = UInt8(random.integer(in: 0...255))
        case 1: bytes.remove(at: position)
        case 2: bytes.insert(contentsOf: random.pick(pieces), at: position)
        case 3:
          let end = min(bytes.count, position + random.integer(in: 1...40))
          bytes.replaceSubrange(position..<end, with: random.pick(pieces))
        default:
          let start = random.integer(in: 0...bytes.count - 1)
          bytes.insert(contentsOf: bytes[start..<min(bytes.count, start + 60)], at: position)
        }
        if bytes.isEmpty { bytes = [0] }
      }
      try read(String(decoding: bytes, as: UTF8.self))
    }
  }

  @Test("long and deep texts are read in a flat stack")
  func deep() throws {
    for piece in ["(", "[", "{", "<", "a(", "\"", "%\"\\", "- ", "x ", "//", "module ", "1"] {
      let deep = String(repeating: piece, count: 100_000)
      try read(deep)
      try read("module m\nweight @w : tensor<" + deep)
      try read("module m\nfunc @f(%x: tensor<a x 4 x f32>) -> () {\n  %y = scale %x {factor = " + deep)
    }
  }

  @Test("a long function is read in time that grows with its length")
  func long() throws {
    var lines = ["module m", "func @forward(%v0: tensor<rows x 4 x f32>) -> (out: tensor<rows x 4 x f32>) {"]
    for index in 1...20_000 { lines.append("  %v\(index) = silu %v\(index - 1)") }
    lines += ["  return %v20000", "}"]
    let module = try TensorIRParser.parse(lines.joined(separator: "\n"))
    #expect(module.functions[0].body.count == 20_000)
  }

  @Test("errors say where in words a person can follow")
  func described() {
    let source = """
      module m
      func @forward(%x: tensor<rows x 8 x f32>) -> (out: tensor<rows x 8 x f32>) {
        %"a b" = scale %x {factor = "2"}
        return %x
      }
      """
    let error = #expect(throws: TensorIRError.self) { try TensorIRParser.parse(source, file: "dir/m.tir") }
    #expect(
      error?.description
        == "dir/m.tir:3:31: in @forward: %\"a b\" = scale: factor: expected a finite number, found \"\"2\"\"")
  }

  @Test("columns count characters, not bytes")
  func columns() {
    let error = #expect(throws: TensorIRError.self) { try TensorIRParser.parse("module \"größe\" ;") }
    #expect(error?.location == TensorIR.SourceLocation(file: "<text>", line: 1, column: 16))
  }
}
