import Foundation

/// Operations of waves of 64 lanes (LLVM, "User Guide for AMDGPU Backend"; AMD, "CDNA3 Instruction Set Architecture").
enum WaveOperation {
  static func action(_ call: DeviceText.Call) -> DeviceOperation.Action? {
    switch call.text {
    case "llvm.amdgcn.workitem.id.x":
      .alone { thread, lane in lane.give(UInt32(thread.number)) }
    case "llvm.amdgcn.workgroup.id.x":
      .alone { thread, lane in lane.give(UInt32(thread.block.x)) }
    case "llvm.amdgcn.s.barrier": .block
    case "llvm.amdgcn.wave.barrier": .warp { _ in }
    case "llvm.amdgcn.readfirstlane.i32":
      .warp { lanes in
        let first = lanes[0].word(0)
        for lane in lanes { lane.give(first) }
      }
    case "llvm.amdgcn.ds.bpermute":
      // The first argument is four times a lane's number, the second what the others may take.
      .warp { lanes in
        let words = lanes.map { $0.word(1) }
        for lane in lanes { lane.give(words[Int(lane.word(0) >> 2) & 63]) }
      }
    case "llvm.amdgcn.exp2.f32": .alone { _, lane in lane.give(exp2f(lane.argument(0, as: Float.self))) }
    case "llvm.amdgcn.rcp.f32": .alone { _, lane in lane.give(1 / lane.argument(0, as: Float.self)) }
    case "llvm.amdgcn.mfma.f32.16x16x16bf16.1k": .warp(multiply)
    default: nil
    }
  }

  /// 16 x 16 numbers of bf16 times as many, added to fp32. Lane `l` has of the left side the columns 4 * (l / 16) and on of row l % 16, of
  /// the right side those rows of column l % 16, of the sum those rows of column l % 16.
  private static func multiply(_ lanes: [DeviceOperation.Lane]) {
    func numbers(_ argument: Int) -> [[Float]] {
      lanes.map { lane in
        (0..<4).map { place in
          bf16(
            lane.arguments.loadUnaligned(
              fromByteOffset: argument * DeviceText.argumentStride + 2 * place, as: UInt16.self))
        }
      }
    }
    let (left, right) = (numbers(0), numbers(1))
    for (number, lane) in lanes.enumerated() {
      let (column, slice) = (number % 16, number / 16)
      for place in 0..<4 {
        let row = 4 * slice + place
        var sum = lane.arguments.loadUnaligned(
          fromByteOffset: 2 * DeviceText.argumentStride + 4 * place, as: Float.self)
        for inner in 0..<16 { sum += left[inner / 4 * 16 + row][inner % 4] * right[inner / 4 * 16 + column][inner % 4] }
        lane.give(sum, place)
      }
    }
  }
}
