/// Operations of waves of 64 lanes (LLVM, "User Guide for AMDGPU Backend"; AMD, "CDNA3 Instruction Set Architecture").
enum WaveOperation {
  static func action(_ call: DeviceText.Call) -> DeviceOperation.Action? {
    switch call.text {
    case "llvm.amdgcn.workitem.id.x":
      .alone { thread, lane in lane.give(UInt32(thread.number)) }
    case "llvm.amdgcn.workgroup.id.x":
      .alone { thread, lane in lane.give(UInt32(thread.block.x)) }
    case "llvm.amdgcn.workgroup.id.y":
      .alone { thread, lane in lane.give(UInt32(thread.block.y)) }
    case "llvm.amdgcn.s.barrier": .block
    case "llvm.amdgcn.wave.barrier": .warp { _ in }
    default: nil
    }
  }
}
