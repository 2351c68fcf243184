import Glibc

/// The program that turns an object file into a shared object: GNU ld, or LLVM's ld.lld where there is no other.
public struct Linker: Hashable, Sendable {
  /// An absolute path, or a path from the working folder.
  public var path: String

  /// The linker at this path; that it is there shows when it runs.
  public init(path: String) { self.path = path }

  /// Names tried for an architecture, best first: a linker that is made for it, then those that know several.
  static func names(for machine: Machine) -> [String] {
    let native = Machine.host == machine ? ["ld.bfd", "ld"] : []
    return ["\(machine.triple)-ld.bfd", "\(machine.triple)-ld"] + native + ["ld.lld", "ld.lld-19"]
  }

  /// The first linker for `machine` on the PATH.
  public static func search(for machine: Machine) throws(ArtifactError) -> Linker {
    if let found = ExternalProgram.search(names(for: machine)) { return Linker(path: found.path) }
    let package = "binutils" + (Machine.host == machine ? "" : "-" + machine.triple.replacing("_", with: "-"))
    throw ArtifactError(
      path: "", kind: .linker,
      message: "no linker for \(machine.name) on the PATH (looked for \(names(for: machine).joined(separator: ", "))); "
        + "on Debian: apt install \(package)")
  }

  /// What decides the bytes of the result: no dependency, nothing bound at run time, nothing writable that need not be.
  static let arguments = [
    "-shared", "-nostdlib", "--no-undefined", "-z", "relro", "-z", "now", "-z", "noexecstack", "--hash-style=gnu",
    "-Bsymbolic", "--build-id=none",
  ]

  /// Links one object file to a shared object, under fixed names, so that no path can reach the result.
  func link(object: [UInt8]) throws(ArtifactError) -> [UInt8] {
    let ended = try ExternalProgram(path: path).run(
      Self.arguments + ["-o", "model.so", "model.o"], files: [("model.o", object)], result: "model.so", kind: .linker)
    guard ended.status == 0, let linked = ended.result else {
      let said = ended.messages.prefix(4000)
      let reason = said.isEmpty ? "it ended with status \(ended.status)" : String(said)
      throw ArtifactError(path: "", kind: .linker, message: "\(path) refused the object: \(reason)")
    }
    return linked
  }
}
