import Foundation
import Interpreter
import TensorIR
import TestSupport
import Testing
import TileIR

@Suite("Tile programs from any text")
struct RobustnessTests {
  @Test("no bytes trap the parser", arguments: TileFixture.all(in: "valid"))
  func bytes(fixture: TileFixture) {
    var random = Random(seed: 7)
    let source = Array(fixture.source.utf8)
    for _ in 0..<400 {
      var bytes = source
      for _ in 0..<random.integer(in: 1...4) {
        let at = random.integer(in: 0...bytes.count - 1)
        switch random.integer(in: 0...3) {
        case 0: bytes[at] = UInt8(truncatingIfNeeded: random.next())
        case 1: bytes.removeSubrange(at..<min(at + random.integer(in: 1...20), bytes.count))
        case 2: bytes.insert(contentsOf: bytes[at..<min(at + random.integer(in: 1...20), bytes.count)], at: at)
        default: bytes.insert(random.pick(Array("(){}[]%@\"-+*/?<:=,0129x.\n".utf8)), at: at)
        }
        if bytes.isEmpty { break }
      }
      do throws(TileIRError) {
        let text = try TileIRParser.parse(String(decoding: bytes, as: UTF8.self), file: "mutant").text
        #expect(try TileIRParser.parse(text).text == text)
      } catch {
        #expect(error.location?.file == "mutant")
      }
    }
  }

  /// Wherever the verifier lets a changed number or name pass, the interpreter finds every place that it reads and writes:
  /// an index out of bounds would trap.
  @Test("sound programs stay within their memory", arguments: TileFixture.all(in: "valid"))
  func sound(fixture: TileFixture) throws {
    var random = Random(seed: 11)
    var accepted = 0
    for _ in 0..<RobustnessTests.mutants {
      let mutant = Self.mutate(fixture.source, &random)
      guard let program = try? TileIRParser.parse(mutant) else { continue }
      accepted += 1
      try Self.run(program, &random)
    }
    #expect(accepted > RobustnessTests.mutants / 100)
  }

  static let mutants = ProcessInfo.processInfo.environment["ULTRAC_MUTANTS"].flatMap(Int.init) ?? 600

  /// One to three numbers replaced by small ones, or names by others of the text.
  private static func mutate(_ source: String, _ random: inout Random) -> String {
    var words: [Substring] = []
    var rest = source[...]
    while let first = rest.first {
      let isWord = isWordCharacter(first)
      let end = rest.firstIndex { isWordCharacter($0) != isWord } ?? rest.endIndex
      words.append(rest[..<end])
      rest = rest[end...]
    }
    let numbers = words.indices.filter { Int(words[$0]) != nil }
    let names = words.indices.filter { $0 > 0 && (words[$0 - 1].hasSuffix("@") || words[$0 - 1].hasSuffix("%")) }
    for _ in 0..<random.integer(in: 1...3) {
      if random.once(in: 3) {
        words[random.pick(names)] = words[random.pick(names)]
      } else {
        let at = random.pick(numbers)
        let number = Int(words[at]) ?? 0
        words[at] = "\(random.pick([number - 1, number + 1, number * 2, number / 2, random.integer(in: 0...70)]))"[...]
      }
    }
    return words.joined()
  }

  private static func isWordCharacter(_ character: Character) -> Bool {
    character.isLetter || character.isNumber || character == "_"
  }

  /// Runs the program on a batch of three sequences; inputs that it refuses are as good as those that it takes.
  private static func run(_ program: Program, _ random: inout Random) throws {
    let offsets: [Int64] = [0, 9, 9, 23]
    var inputs: [String: HostTensor] = [:]
    for id in program.inputs {
      let buffer = program[id]
      let rows =
        switch buffer.rows.dimension {
        case .fixed(let count): count + buffer.rows.plus
        case .symbol(let name): (name == "rows" ? 23 : 3) + buffer.rows.plus
        }
      if buffer.element == .f32 {
        inputs[buffer.name] = random.tensor([rows, buffer.columns])
      } else if buffer.rows.plus == 1 {
        inputs[buffer.name] = HostTensor(Array((offsets + Array(repeating: 23, count: rows)).prefix(rows)))
      } else {
        inputs[buffer.name] = HostTensor((0..<rows).map { _ in Int64(random.integer(in: 0...3)) })
      }
    }
    var weights = WeightTable()
    for buffer in program.buffers {
      guard case .weight(let name, _) = buffer.home, let rows = buffer.rows.dimension.extent else { continue }
      let tensor = random.tensor([rows, buffer.columns])
      weights.tensors[name] =
        switch buffer.element {
        case .bf16: try tensor.asBFloat16()
        case .f32: tensor
        default:
          // Any bytes are numbers of the others, and of tables some scale and bias.
          try HostTensor(
            element: buffer.element, shape: tensor.shape,
            bytes: (0..<tensor.count * buffer.element.byteCount).map { _ in UInt8(truncatingIfNeeded: random.next()) })
        }
    }
    _ = try? TileInterpreter(program: program, weights: weights, precision: .f32).run(inputs)
  }
}
