import Artifact
import Codegen

/// LLVM's linker as AMD's GPUs need it: a code object, which their driver loads, from an object file.
public struct CodeObjectLinker: Hashable, Sendable {
  /// The program.
  public var program: ExternalProgram

  /// The linker at this path.
  public init(path: String) { program = ExternalProgram(path: path) }

  /// The one on the PATH; nil where there is none.
  public static func search() -> CodeObjectLinker? {
    ExternalProgram.search(["ld.lld", "ld.lld-19"]).map { CodeObjectLinker(path: $0.path) }
  }

  /// The code object of this object file, and what its kernels take, by name. Throws where the linker refuses them, with its
  /// first complaint, or where what it made cannot be read.
  public func link(_ object: [UInt8], for target: GPUTarget) throws
    -> (code: [UInt8], resources: [String: KernelResources])
  {
    let ended = try program.run(
      ["-shared", "--no-undefined", "--build-id=none", "-o", "kernels.co", "kernels.o"],
      files: [(name: "kernels.o", bytes: object)], result: "kernels.co", kind: .linker)
    guard ended.status == 0, let code = ended.result else {
      let complaint = ended.messages.split(separator: "\n").first.map(String.init)
      throw DriverError(
        "\(program.path) refused the code for \(target.rawValue): \(complaint ?? "status \(ended.status)")",
        hint: "it has to be LLVM's ld.lld, called by that name: name another one with --lld")
    }
    return (code, try CodeObjectMetadata(code).resources)
  }
}
