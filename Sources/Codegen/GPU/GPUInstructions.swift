import LLVMKit

// What threads do together, and arithmetic that cards have instructions for: the one place that knows how each vendor's are called.
extension GPUModuleEmitter {
  /// Functions that every module of the vendor begins with, in LLVM's text form: fences have no builder in LLVM's C interface.
  ///
  /// Barriers of AMD's say nothing of memory. A fence before one lets others see what was written, one after it sees what others
  /// wrote (LLVM, "User Guide for AMDGPU Backend", memory model of gfx942).
  static func prelude(for vendor: GPUTarget.Vendor) -> String {
    switch vendor {
    case .nvidia: ""
    case .amd:
      """
      define internal void @\(barrierFunction)() convergent alwaysinline nounwind {
        fence syncscope("workgroup") release
        call void @llvm.amdgcn.s.barrier()
        fence syncscope("workgroup") acquire
        ret void
      }
      define internal void @\(meetFunction)() convergent alwaysinline nounwind {
        fence syncscope("wavefront") release
        call void @llvm.amdgcn.wave.barrier()
        fence syncscope("wavefront") acquire
        ret void
      }
      declare void @llvm.amdgcn.s.barrier() convergent nounwind
      declare void @llvm.amdgcn.wave.barrier() convergent nounwind
      """
    }
  }

  fileprivate static let barrierFunction = "ultra.barrier"
  fileprivate static let meetFunction = "ultra.meet"
}

extension GPUKernelEmitter {
  private var vendor: GPUTarget.Vendor { emitter.target.vendor }

  // MARK: - Threads

  /// The thread's number in its block.
  func threadIndex(_ b: IRBuilder) -> IRValue {
    switch vendor {
    case .nvidia: b.intrinsic("llvm.nvvm.read.ptx.sreg.tid.x", [])
    case .amd: b.intrinsic("llvm.amdgcn.workitem.id.x", [])
    }
  }

  /// The block's number in the grid.
  func blockIndex(_ b: IRBuilder) -> IRValue {
    switch vendor {
    case .nvidia: b.intrinsic("llvm.nvvm.read.ptx.sreg.ctaid.x", [])
    case .amd: b.intrinsic("llvm.amdgcn.workgroup.id.x", [])
    }
  }

  /// A word that all lanes of a warp have alike, as one that is known to be so: branches on it are taken by the warp as a whole.
  func uniform(_ b: IRBuilder, _ value: IRValue) -> IRValue {
    switch vendor {
    case .nvidia: value
    case .amd: b.intrinsic("llvm.amdgcn.readfirstlane", overloads: [context.i32], [value])
    }
  }

  /// All threads of the block have come here, and see what each has written.
  func barrier(_ b: IRBuilder) {
    switch vendor {
    case .nvidia: b.intrinsic("llvm.nvvm.barrier0", [])
    case .amd: callPrelude(b, GPUModuleEmitter.barrierFunction)
    }
  }

  /// All lanes of the warp have come here, and see what each has written.
  func meetLanes(_ b: IRBuilder) {
    switch vendor {
    case .nvidia: b.intrinsic("llvm.nvvm.bar.warp.sync", [context.i32.constant(-1)])
    case .amd: callPrelude(b, GPUModuleEmitter.meetFunction)
    }
  }

  private func callPrelude(_ b: IRBuilder, _ name: String) {
    guard let function = emitter.module.function(named: name) else { preconditionFailure("no \(name) in the module") }
    b.call(function, [])
  }

  /// A bit for each lane of a warp.
  var votes: IRType {
    switch vendor {
    case .nvidia: context.i32
    case .amd: context.i64
    }
  }

  /// The lanes for which a condition holds, as bits.
  func vote(_ b: IRBuilder, _ condition: IRValue) -> IRValue {
    switch vendor {
    case .nvidia: b.intrinsic("llvm.nvvm.vote.ballot.sync", [context.i32.constant(-1), condition])
    case .amd: b.intrinsic("llvm.amdgcn.ballot", overloads: [votes], [condition])
    }
  }

  /// How many lanes bits stand for, i32.
  func countVotes(_ b: IRBuilder, _ bits: IRValue) -> IRValue {
    let count = b.intrinsic("llvm.ctpop", overloads: [votes], [bits])
    return votes == context.i32 ? count : b.trunc(count, to: context.i32)
  }

  /// The bits of all lanes before one.
  func votesBefore(_ b: IRBuilder, _ lane: IRValue) -> IRValue {
    let number = votes == context.i32 ? lane : b.zext(lane, to: votes)
    return b.sub(b.shl(votes.constant(1), number), 1)
  }

  /// The number that the lane `distance` away has, up or down: lanes whose numbers differ in that bit change places.
  func exchanged(_ b: IRBuilder, _ value: IRValue, distance: Int) -> IRValue {
    let i32 = context.i32
    switch vendor {
    case .nvidia:
      return b.intrinsic(
        "llvm.nvvm.shfl.sync.bfly.\(value.type == context.f32 ? "f32" : "i32")",
        [i32.constant(-1), value, i32.constant(distance), i32.constant(31)])
    case .amd:
      // It names lanes by the bytes before them.
      let word = b.intrinsic(
        "llvm.amdgcn.ds.bpermute", [b.shl(b.xor(lane, distance), 2), b.bitcast(value, to: i32)])
      return b.bitcast(word, to: value.type)
    }
  }

  /// All lanes' numbers combined, the same in every lane: of the same halves in the same order.
  func combined(_ b: IRBuilder, _ value: IRValue, _ combine: (IRBuilder, IRValue, IRValue) -> IRValue) -> IRValue {
    var (total, distance) = (value, emitter.target.lanes / 2)
    while distance > 0 {
      total = combine(b, total, exchanged(b, total, distance: distance))
      distance /= 2
    }
    return total
  }

  /// The least of all lanes' words, signed.
  func least(_ b: IRBuilder, _ value: IRValue) -> IRValue {
    switch vendor {
    case .nvidia: b.intrinsic("llvm.nvvm.redux.sync.min", [value, context.i32.constant(-1)])
    case .amd: uniform(b, combined(b, value) { $0.smin($1, $2) })
    }
  }

  /// The greatest of all lanes' words, signed.
  func greatest(_ b: IRBuilder, _ value: IRValue) -> IRValue {
    switch vendor {
    case .nvidia: b.intrinsic("llvm.nvvm.redux.sync.max", [value, context.i32.constant(-1)])
    case .amd: uniform(b, combined(b, value) { $0.smax($1, $2) })
    }
  }

  // MARK: - Arithmetic

  /// The same numbers, two or more of fp32, computed by here: nothing that they are made of is moved behind this place, where it would be done
  /// under a condition and keep alive what it reads.
  func settled(_ b: IRBuilder, _ numbers: [IRValue]) -> [IRValue] {
    let register = vendor == .nvidia ? "=f" : "=v"
    let constraints = numbers.map { _ in register } + numbers.indices.map(String.init)
    let settled = b.assembly(
      "", constraints: constraints.joined(separator: ","), returns: context.structure(numbers.map(\.type)), numbers)
    return numbers.indices.map { b.extractField(settled, $0) }
  }

  /// The square root, rounded to nearest.
  func squareRoot(_ b: IRBuilder, _ value: IRValue) -> IRValue {
    switch vendor {
    case .nvidia: b.intrinsic("llvm.nvvm.sqrt.rn.f", [value])
    case .amd: b.sqrt(value)
    }
  }

  /// x / (1 + e^-x). Where the result is rounded to bf16 NVIDIA's one instruction for tanh does, whose error is at most 2^-11 of 1
  /// (PTX ISA, `tanh.approx.f32`): then it is 2^-12 of x.
  func silu(_ b: IRBuilder, _ value: IRValue, isShort: Bool) -> IRValue {
    guard isShort, vendor == .nvidia else { return b.fmul(value, sigmoid(b, value)) }
    // A factor that comes before is taken together with the half, which is exact.
    let half = b.relax(b.fmul(value, context.f32.constant(0.5)), [.contract, .reassociate])
    let tanh = b.assembly(
      "tanh.approx.f32 $0, $1;", constraints: "=f,f", returns: context.f32, sideEffects: false, [half])
    return b.fma(half, tanh, half)
  }

  /// 1 / (1 + e^-x) by the instructions for 2^x and 1/x: each right to 2 units in the last place (PTX ISA, `ex2.approx.f32`
  /// and `rcp.approx.f32`), or to 1 (CDNA3 ISA, `V_EXP_F32` and `V_RCP_F32`).
  func sigmoid(_ b: IRBuilder, _ value: IRValue) -> IRValue {
    let exponent = b.fmul(value, context.f32.constant(-1.4426950408889634))
    let one = context.f32.constant(1.0)
    switch vendor {
    case .nvidia:
      return b.intrinsic("llvm.nvvm.rcp.approx.ftz.f", [b.fadd(b.intrinsic("llvm.nvvm.ex2.approx.f", [exponent]), one)])
    case .amd:
      let power = b.intrinsic("llvm.amdgcn.exp2", overloads: [context.f32], [exponent])
      return b.intrinsic("llvm.amdgcn.rcp", overloads: [context.f32], [b.fadd(power, one)])
    }
  }

  /// Two numbers rounded to bf16 in a word, the first in its lower half.
  func pair(_ b: IRBuilder, _ first: IRValue, _ second: IRValue) -> IRValue {
    switch vendor {
    case .nvidia: b.bitcast(b.intrinsic("llvm.nvvm.ff2bf16x2.rn", [second, first]), to: context.i32)
    case .amd: b.bitcast(vector(b, [bf16Bits(b, first), bf16Bits(b, second)]), to: context.i32)
    }
  }

  /// A number rounded to bf16, as 16 bits.
  func bf16Bits(_ b: IRBuilder, _ value: IRValue) -> IRValue {
    b.bitcast(b.fptrunc(value, to: context.bf16), to: context.i16)
  }

  /// The nearest integer, i32, of a number that is one's.
  func nearestInteger(_ b: IRBuilder, _ value: IRValue) -> IRValue {
    switch vendor {
    case .nvidia: b.intrinsic("llvm.nvvm.f2i.rn", [value])
    case .amd: b.fptosi(b.roundEven(value), to: context.i32)
    }
  }
}
