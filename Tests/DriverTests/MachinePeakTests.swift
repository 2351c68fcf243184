import Codegen
import Driver
import TensorIR
import Testing

@Suite struct MachinePeakTests {
  @Test func peakIsThatOfVectorUnits() throws {
    for level in CPULevel.supportedByHost {
      let peak = try MachinePeak.measure(level: level.rawValue)
      // One multiply-add of 8 lanes a cycle at 1 GHz, on a core shared with other work, to two of 16 lanes at 6 GHz.
      #expect(peak > 8e9 && peak < 400e9, "\(level): \(peak / 1e9) GFLOP/s")
    }
  }

  @Test func narrowProductsAreCountedWhereThereAreInstructions() throws {
    for level in CPULevel.supportedByHost {
      for (element, most) in [(ElementType.bf16, 2.0), (.i8, 4)] {
        let peak = try MachinePeak.measure(element, level: level.rawValue)
        #expect(peak > 8e9 && peak < most * 400e9, "\(level), \(element): \(peak / 1e9) GFLOP/s")
      }
    }
  }

  @Test func bandwidthIsThatOfMemory() throws {
    let level = try #require(CPULevel.native)
    let bandwidth = try MachineBandwidth.measureRead(level: level.rawValue)
    // What is left of one channel shared with other work, to all channels of a large server for one core.
    #expect(bandwidth > 1e8 && bandwidth < 500e9, "\(bandwidth / 1e9) GB/s")
  }

  @Test func unknownLevelIsNamed() {
    #expect(throws: DriverError.self) { try MachinePeak.measure(level: "x86-64-v9") }
    #expect(throws: DriverError.self) { try MachineBandwidth.measureRead(level: "x86-64-v9") }
  }
}
