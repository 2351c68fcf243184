import Foundation
import Passes
import TensorIR
import TestSupport
import TileIR
import Testing

@Suite("Text form of tile programs")
struct TextTests {
  @Test("what the lowering makes is printed and read back byte for byte", arguments: RandomProgram.Kind.allCases)
  func roundTrip(kind: RandomProgram.Kind) throws {
    for seed in 1...40 as ClosedRange<UInt64> {
      let random = try RandomProgram(kind, seed: seed)
      let program = try lowerToTiles(random.module, function: "forward", schedule: .variant(Int(seed)))
      try program.verify()
      let text = program.text
      let read = try TileIRParser.parse(text, file: "\(random)")
      #expect(read.text == text, "\(random)")
      #expect(read.kernels == program.kernels, "\(random)")
      #expect(read.buffers == program.buffers, "\(random)")
      #expect(read.scalars == program.scalars, "\(random)")
      #expect(read.setup == program.setup, "\(random)")
      #expect(read.derivedDimensions == program.derivedDimensions, "\(random)")
    }
  }

  @Test("the document shows a layer as it is printed")
  func document() throws {
    let file = URL(filePath: #filePath).appending(path: "../../../docs/tile-ir.md").standardized
    let document = try String(contentsOf: file, encoding: .utf8)
    let start = try #require(document.firstRange(of: "```tile\n")).upperBound
    let end = try #require(document[start...].firstRange(of: "```")).lowerBound
    var build = FunctionBuilder(module: Module(name: "layer"), name: "forward")
    let x = build.argument("x", .tensor([.symbol("rows"), .fixed(512)], .f32))
    let offsets = build.argument("offsets", .offsets(sequences: .symbol("sequences"), rows: .symbol("rows")))
    let targets = build.argument("targets", .tensor([.symbol("sequences")], .i64))
    let layer = ProductionLayer(
      width: 512, heads: 4, queryWidth: 128, valueWidth: 128, alpha: 1 / 128, divisor: .fixed(16384),
      mask: Mask(.windowed(window: 256, fullTail: 256)))
    let y = try build.productionLayer(layer, prefix: "", x: x, offsets: offsets, targets: targets)
    build.result("y", y)
    var module = build.finish()
    try PassManager(PassPipeline([fuse])).run(on: &module)
    var program = try lowerToTiles(module, function: "forward")
    planMemory(&program)
    #expect(program.text == document[start..<end])
  }
}

extension TileSchedule {
  /// Small and large blocks, by number.
  static func variant(_ number: Int) -> TileSchedule {
    var schedule = TileSchedule()
    if number % 2 == 1 { (schedule.itemColumns, schedule.itemsOfPart, schedule.groups) = (64, 48, 1) }
    switch number % 4 {
    case 0: break
    case 1:
      (schedule.rows, schedule.attentionRows, schedule.keys) = (8, 64, 16)
      schedule.shortAttention = .init(rows: 32, below: 12)
    case 2: (schedule.rows, schedule.attentionRows, schedule.keys) = (64, 32, 128)
    default: (schedule.rows, schedule.keys, schedule.scratchBytes) = (64, 16, 8 << 10)
    }
    return schedule
  }
}
