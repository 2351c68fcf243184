import Driver
import LLVMKit
import Testing

@Suite struct MachinePeakTests {
  @Test func peakIsThatOfVectorUnits() throws {
    let target = MachinePeak.Target(cpu: TargetMachine.hostCPU, features: TargetMachine.hostFeatures, vectorBits: 256)
    let peak = try MachinePeak.measureFloat32(on: target)
    // Two 8-lane multiply-adds a cycle are 32 FLOP: at 1 to 6 GHz, and half where other work shares the core.
    #expect(peak > 10e9 && peak < 400e9, "measured \(peak / 1e9) GFLOP/s")
  }
}
