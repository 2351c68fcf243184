import Passes
import TensorIR
import Testing
import TileIR

/// Results of a function and the outputs of its tile program are the same, one for one.
@Suite struct ToTilesResultTests {
  /// One value under two names is written once and copied.
  @Test func aValueReturnedTwiceHasTwoOutputs() throws {
    var builder = FunctionBuilder(module: Module(name: "twice"), name: "forward")
    let x = builder.argument("x", .tensor([.symbol("rows"), .fixed(3)], .f32))
    let y = try builder.emit(.silu(SiLU()), x, name: "y")
    builder.result("first", y)
    builder.result("second", y)
    let module = builder.finish()
    let program = try lowerToTiles(module, function: "forward")
    try program.verify()
    let outputs = program.buffers.compactMap { buffer in
      if case .output(let index) = buffer.home { (index, buffer.name) } else { nil }
    }
    #expect(outputs.map(\.0).sorted() == [0, 1])
    #expect(outputs.sorted { $0.0 < $1.0 }.map(\.1) == ["first", "second"])
  }
}
