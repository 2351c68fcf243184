import Artifact
import Codegen

/// NVIDIA's assembler, `ptxas`: machine code of a card from PTX, and what each kernel takes of it.
public struct PTXAssembler: Hashable, Sendable {
  /// The program.
  public var program: ExternalProgram

  /// The assembler at this path.
  public init(path: String) { program = ExternalProgram(path: path) }

  /// The one on the PATH; nil where there is none.
  public static func search() -> PTXAssembler? { ExternalProgram.search(["ptxas"]).map { PTXAssembler(path: $0.path) } }

  /// The machine code of PTX, and what its kernels take, by name. Throws where the assembler refuses the text, with its first
  /// complaint.
  public func assemble(_ text: [UInt8], for target: GPUTarget) throws -> (
    code: [UInt8], resources: [String: KernelResources]
  ) {
    let ended = try program.run(
      ["-arch=\(target.rawValue)", "-v", "-o", "kernels.cubin", "kernels.ptx"], files: [("kernels.ptx", text)],
      result: "kernels.cubin", kind: .assembler)
    guard ended.status == 0, let code = ended.result else {
      let complaint = ended.messages.split(separator: "\n").first { $0.contains("error") || $0.contains("fatal") }
      throw DriverError(
        "\(program.path) refused the code for \(target.rawValue): \(complaint.map(String.init) ?? "status \(ended.status)")",
        hint: "name another assembler with --ptxas, or none with --ptxas none")
    }
    return (code, Self.resources(in: ended.messages))
  }

  /// What `-v` prints of each kernel.
  static func resources(in messages: String) -> [String: KernelResources] {
    var found: [String: KernelResources] = [:]
    var name = ""
    var serialized: Set<String> = []
    for line in messages.split(separator: "\n") {
      let words = line.split { " ,'".contains($0) }
      func number(before word: String) -> Int? {
        words.firstIndex { $0 == word }.flatMap { $0 > 0 ? Int(words[$0 - 1]) : nil }
      }
      if line.contains("instructions are serialized") {
        // Said before the kernel's own lines, its name last.
        words.last.map { _ = serialized.insert(String($0)) }
      } else if line.contains("Compiling entry function"), let place = words.firstIndex(of: "function") {
        name = String(words[place + 1])
        found[name] = KernelResources(isSerialized: serialized.contains(name))
      } else if line.contains("spill stores") {
        let counts = words.indices.filter { words[$0] == "spill" }.compactMap { $0 >= 2 ? Int(words[$0 - 2]) : nil }
        found[name]?.spilledBytes = counts.reduce(0, +)
      } else if let registers = number(before: "registers") {
        found[name]?.registers = registers
      }
    }
    return found
  }
}
