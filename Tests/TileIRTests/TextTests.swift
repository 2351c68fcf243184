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
}

extension TileSchedule {
  /// Small and large blocks, by number.
  static func variant(_ number: Int) -> TileSchedule {
    var schedule = TileSchedule()
    switch number % 4 {
    case 0: break
    case 1: (schedule.rows, schedule.attentionRows, schedule.keys) = (8, 32, 16)
    case 2: (schedule.rows, schedule.attentionRows, schedule.keys) = (64, 32, 128)
    default: (schedule.rows, schedule.keys, schedule.scratchBytes) = (64, 16, 8 << 10)
    }
    return schedule
  }
}
