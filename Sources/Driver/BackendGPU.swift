import Codegen
import LLVMKit
import Passes
import TensorIR
import TileIR

/// What a kernel takes of its card.
public struct KernelResources: Hashable, Sendable {
  /// Registers of a thread.
  public var registers = 0
  /// Bytes of a thread that found no register: those that PTX's assembler says are written and read, or of AMD's a thread's
  /// scratch memory.
  public var spilledBytes = 0
  /// Whether matrix instructions wait for each other where they were to run side by side.
  public var isSerialized = false
}

/// What of an artifact is for GPUs.
public struct GPUPart: Sendable {
  /// The programs for each target and their kernels.
  public var images: [GPUImage] = []
  /// What the kernels of each image take of the card, by name; empty where no assembler told.
  public var resources: [[String: KernelResources]] = []

  /// Nothing.
  public init() {}

  /// All programs, of whose weights the file has room for.
  var programs: [Program] { images.flatMap(\.programs) }

  /// What there is for each target, and what finds no registers, which costs time.
  var summary: String {
    zip(images, resources).map { image, resources in
      let launches = image.launches.flatMap(\.self)
      var text = "\(image.target.rawValue): \(launches.count) kernels"
      if let most = resources.values.map(\.registers).max() {
        text +=
          ", at most \(most) registers and \(Quantity.bytes(Double(launches.map(\.sharedBytes).max() ?? 0))) shared"
      }
      let spilling = launches.filter { (resources[$0.symbol]?.spilledBytes ?? 0) > 0 }.map(\.symbol)
      return spilling.isEmpty ? text : text + ", spilling in " + spilling.joined(separator: ", ")
    }.joined(separator: "; ")
  }
}

// Code for GPUs.
extension Backend {
  /// The tile programs of the module's functions for GPUs, `forward` first: with attention apart from what its rows need before and
  /// after it.
  func lowerForGPU(_ module: Module, target: GPUTarget) throws -> [Program] {
    var module = module
    // What was computed twice, in regions apart, is in one of them here.
    for index in module.functions.indices { module.functions[index].dissolveRegions() }
    let passes = try PassPipeline(parsing: "cse,fuse{attention=apart,project=whole}")
    try PassManager(passes).run(on: &module)
    var schedule = TileSchedule.gpu
    schedule.hasMatrices = target.hasMatrices
    schedule.hasFNUZ = target.hasFNUZ
    return try lower(module, schedule)
  }

  /// The programs for GPUs and their images; nothing where no target is asked for. Throws where an operation has no code for
  /// GPUs.
  public func generateGPU(_ module: Module) throws -> GPUPart {
    var part = GPUPart()
    guard !gpus.isEmpty else { return part }
    for target in gpus {
      // No driver of AMD's translates anything.
      if target.vendor == .amd, codeObjectLinker == nil {
        throw DriverError(
          "code for \(target.rawValue) is linked by ld.lld, and there is none on the PATH",
          hint: "on Debian: apt install lld-19; or name one with --lld")
      }
      let programs = try lowerForGPU(module, target: target)
      let code = GPUCode(programs, target: target)
      var image = GPUImage(target: target, programs: programs, ptx: [], code: nil, launches: [])
      let made: (code: [UInt8], resources: [String: KernelResources])?
      switch target.vendor {
      case .nvidia:
        let (text, launches) = try code.assembly(in: Context())
        (image.ptx, image.launches) = (Array(text.utf8), launches)
        made = try assembler?.assemble(image.ptx, for: target)
      case .amd:
        let (object, launches) = try code.object(in: Context())
        image.launches = launches
        made = try codeObjectLinker?.link(object, for: target)
      }
      image.code = made?.code
      part.images.append(image)
      part.resources.append(made?.resources ?? [:])
    }
    return part
  }
}
