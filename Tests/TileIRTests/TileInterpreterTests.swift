import Foundation
import Interpreter
import Passes
import TensorIR
import TestSupport
import Testing
import TileIR

@Suite("The interpreter of tile programs")
struct TileInterpreterTests {
  /// Two blocks of 4 and 1 rows, small enough to know the numbers.
  static let source = """
    program scale(rows)

    buffer @x : rows x 3 x f32 = input 0
    buffer @y : rows x 3 x f32 = output 0
    buffer @w : 1 x 3 x f32 = weight

    kernel scale_0 over rows, 4 at a time {
      tile %x : block x 3 in @x
      tile %y : block x 3 in @y
      tile %t : block x 3 in scratch(4 x 16)
      tile %mean : block x 1 in scratch(4 x 1)

      %t = %x * column(@w)
      %mean = sum over 3 columns of %t
      %y = %t - row(%mean)
    }

    """
  static let weights = WeightTable(["w": HostTensor([1, 2, 3] as [Float])])
  static let x = HostTensor((0..<15).map(Float.init), shape: [5, 3])

  private func run(_ source: String) throws -> [Double] {
    let program = try TileIRParser.parse(source)
    return try TileInterpreter(program: program, weights: Self.weights, precision: .f32).run(["x": Self.x])[0].tensor
      .doubles
  }

  @Test("computes what the text says")
  func numbers() throws {
    let expected = (0..<5).flatMap { row in
      let products = (0..<3).map { Double(($0 + 1) * (3 * row + $0)) }
      return products.map { $0 - products.reduce(0, +) }
    }
    #expect(try run(Self.source) == expected)
  }

  @Test("what nothing wrote is NaN, in a tile and in an output")
  func poison() throws {
    let tile = Self.source.replacing("%t = %x * column(@w)", with: "%t[0 : 2] = %x[0 : 2]")
    #expect(try run(tile).allSatisfy(\.isNaN))
    let output = Self.source.replacing("%y = %t - row(%mean)", with: "%y[0 : 2] = %t[0 : 2]")
    #expect(try run(output).enumerated().allSatisfy { $1.isNaN == ($0 % 3 == 2) })
  }

  @Test("a program that is not sound is not run")
  func unsound() throws {
    var program = try TileIRParser.parse(Self.source)
    program.kernels[0].tiles[2].home = .scratch(capacity: 3, rowStride: 16)
    #expect {
      _ = try TileInterpreter(program: program, weights: Self.weights).run(["x": Self.x])
    } throws: { error in
      error as? InterpreterError
        == .invalidFunction(
          operation: "scale", reason: "in kernel scale_0: tile %t: has up to 4 rows, but room for 3")
    }
  }

  @Test("inputs are refused as the interpreter of TensorIR refuses them")
  func refusals() throws {
    let random = try #require(
      try (1...40).map { try RandomProgram(.embedding, seed: $0) }.first { program in
        program.sequenceCount > 1 && program.module.text.contains("%ids {out_of_range = error}")
      })
    let changes: [(String, (inout HostTensor) -> Void)] = [
      ("ids", { $0 = HostTensor([60] + $0.integers.dropFirst()) }),
      ("ids", { $0 = HostTensor($0.integers.dropLast() + [-1]) }),
      ("ids", { $0 = HostTensor($0.floats) }),
      ("ids", { $0 = HostTensor($0.integers, shape: [1, $0.count]) }),
      ("offsets", { $0 = HostTensor([1] + $0.integers.dropFirst()) }),
      ("offsets", { $0 = HostTensor($0.integers.dropLast() + [24_000]) }),
      ("offsets", { $0 = HostTensor([0, -1] + $0.integers.dropFirst(2)) }),
    ]
    for (index, (name, change)) in changes.enumerated() {
      var inputs = random.inputs
      let input = try #require(inputs[name])
      var changed = input
      change(&changed)
      inputs[name] = changed
      let expected = error {
        _ = try Interpreter(module: random.module, weights: random.weights).run("forward", inputs: inputs)
      }
      let program = try lowerToTiles(random.module, function: "forward")
      let got = error { _ = try TileInterpreter(program: program, weights: random.weights).run(inputs) }
      #expect(got == expected && got != nil, "change \(index)")
    }
  }

  private func error(_ body: () throws -> Void) -> InterpreterError? {
    do {
      try body()
      return nil
    } catch {
      return error as? InterpreterError
    }
  }
}
