import Foundation
import LLVMKit
import TensorIR
import TileIR

/// Code of programs for one GPU.
public struct GPUCode {
  /// What is computed, an entry each: verified, and lowered with the schedule of GPUs.
  public var programs: [Program]
  /// The card.
  public var target: GPUTarget

  /// Code of these programs for `target`.
  public init(_ programs: [Program], target: GPUTarget) {
    self.programs = programs
    self.target = target
  }

  /// The module with a function for each kernel, not yet optimized, and how the kernels of each program are launched. Throws where
  /// a kernel has no code for GPUs yet.
  public func emit(into context: Context) throws -> (IRModule, [[GPULaunch]]) {
    let module = try IRModule(parsing: GPUModuleEmitter.prelude(for: target.vendor), in: context)
    let shared = module.declareGlobal(
      "ultra_shared", type: context.array(context.i8, 0), addressSpace: GPUModuleEmitter.shared, alignment: 1024)
    let launches = try programs.map { program in
      let emitter = GPUModuleEmitter(context: context, module: module, program: program, target: target, shared: shared)
      return try program.kernels.indices.map { try GPUKernelEmitter(emitter, number: $0).emit() }
    }
    try module.verify()
    return (module, launches)
  }

  /// The machine that the module is optimized and emitted for.
  public func machine() throws(LLVMError) -> TargetMachine {
    let hasFloat8 = programs.contains { $0.buffers.contains { $0.element == .f8e4m3 } }
    return try TargetMachine(
      triple: target.triple, cpu: target.rawValue, features: target.features(withFloat8: hasFloat8),
      optimization: .aggressive, positionIndependent: false)
  }

  /// The optimized module, the machine to emit it for, and how each kernel is launched.
  public func optimized(in context: Context) throws -> (IRModule, TargetMachine, [[GPULaunch]]) {
    let (module, launches) = try emit(into: context)
    let machine = try machine()
    machine.describe(module)
    try module.optimize("default<O2>", for: machine, autoVectorize: false)
    return (module, machine, launches)
  }

  /// The kernels as an object file, of AMD's cards, which a linker makes a code object of, and how each is launched.
  public func object(in context: Context) throws -> (object: [UInt8], launches: [[GPULaunch]]) {
    let (module, machine, launches) = try optimized(in: context)
    return (try machine.emitObject(module), launches)
  }

  /// The kernels as PTX, or as AMD's assembly, and how each is launched.
  public func assembly(in context: Context) throws -> (text: String, launches: [[GPULaunch]]) {
    let (module, machine, launches) = try optimized(in: context)
    var text = try machine.emitAssembly(module)
    for launch in launches.joined() where launch.cluster > 1 { text = try Self.clustered(text, launch) }
    return (text, launches)
  }

  /// The text with the size of a kernel's clusters before its body: LLVM 19 has no annotation for it.
  private static func clustered(_ text: String, _ launch: GPULaunch) throws(GPUError) -> String {
    guard let entry = text.range(of: ".entry \(launch.symbol)("),
      let body = text.range(of: "\n{", range: entry.upperBound..<text.endIndex)
    else { throw GPUError(message: "no entry \(launch.symbol) in the assembly") }
    return text.replacingCharacters(
      in: body.lowerBound..<body.lowerBound, with: "\n.reqnctapercluster \(launch.cluster), 1, 1")
  }
}

/// What the kernels of one program for one GPU share.
struct GPUModuleEmitter {
  let context: Context
  let module: IRModule
  let program: Program
  let target: GPUTarget
  /// The block's shared memory.
  let shared: IRValue

  /// LLVM's numbers of address spaces.
  static let global = 1
  static let shared = 3
}
