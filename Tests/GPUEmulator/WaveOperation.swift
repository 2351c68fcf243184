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
    case "llvm.amdgcn.ballot.i64":
      .warp { lanes in
        let bits = lanes.enumerated().reduce(UInt64(0)) { bits, lane in
          bits | UInt64(lane.element.argument(0, as: UInt8.self) & 1) << UInt64(lane.offset)
        }
        for lane in lanes { lane.give(bits) }
      }
    case "llvm.amdgcn.exp2.f32": .alone { _, lane in lane.give(exp2f(lane.argument(0, as: Float.self))) }
    case "llvm.amdgcn.rcp.f32": .alone { _, lane in lane.give(1 / lane.argument(0, as: Float.self)) }
    case "llvm.amdgcn.mfma.f32.16x16x16bf16.1k": .warp { multiply($0, .bf16) }
    case "llvm.amdgcn.mfma.f32.16x16x32.fp8.fp8": .warp { multiply($0, .fnuz) }
    case "llvm.amdgcn.mfma.i32.16x16x32.i8": .warp { multiply($0, .s8) }
    case "llvm.amdgcn.cvt.pk.fp8.f32":
      // Two numbers become the upper half of a word, or its lower one; the other half is the third argument's.
      .alone { _, lane in
        let isUpper = lane.argument(3, as: UInt8.self) & 1 == 1
        lane.give(lane.word(2))
        for half in 0..<2 {
          lane.give(EightBits.fnuz.code(of: lane.argument(half, as: Float.self)), isUpper ? 2 + half : half)
        }
      }
    default: nil
    }
  }

  /// 16 x k numbers times k x 16, added to 16 x 16, k being 16 of bf16 or 32 of eight bits. Of these lane `l` has a slice of 8 bytes, the
  /// slice number l / 16 of row l % 16 of the left side and of column l % 16 of the right one, and of the sum the rows
  /// 4 * (l / 16) and on of column l % 16.
  private static func multiply(_ lanes: [DeviceOperation.Lane], _ element: MatrixElement) {
    let together = 8 / element.byteCount
    func numbers(_ argument: Int) -> [[Float]] {
      lanes.map { lane in
        (0..<together).map { place in
          element.number(
            at: lane.arguments + argument * DeviceText.argumentStride + element.byteCount * place)
        }
      }
    }
    let (left, right) = (numbers(0), numbers(1))
    for (number, lane) in lanes.enumerated() {
      let (column, slice) = (number % 16, number / 16)
      for place in 0..<4 {
        let row = 4 * slice + place
        var sum = lane.arguments.loadUnaligned(
          fromByteOffset: 2 * DeviceText.argumentStride + 4 * place, as: UInt32.self)
        for slice in 0..<4 {
          for (one, other) in zip(left[slice * 16 + row], right[slice * 16 + column]) {
            sum = element.sum(sum, plus: one * other)
          }
        }
        lane.give(sum, place)
      }
    }
  }
}
