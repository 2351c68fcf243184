import Codegen
import Driver
import Testing

@Suite struct MachinePeakTests {
  @Test func peakIsThatOfVectorUnits() throws {
    for level in CPULevel.supportedByHost {
      let peak = try MachinePeak.measureFloat32(level: level.rawValue)
      // One multiply-add of 8 lanes a cycle at 1 GHz, on a core shared with other work, to two of 16 lanes at 6 GHz.
      #expect(peak > 8e9 && peak < 400e9, "\(level): \(peak / 1e9) GFLOP/s")
    }
  }

  @Test func unknownLevelIsNamed() {
    #expect(throws: DriverError.self) { try MachinePeak.measureFloat32(level: "x86-64-v9") }
  }
}
