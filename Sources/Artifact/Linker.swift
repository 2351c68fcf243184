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
    let folders = (getenv("PATH").map { String(cString: $0) } ?? "/usr/bin:/bin").split(separator: ":")
    for name in names(for: machine) {
      for folder in folders {
        let candidate = "\(folder)/\(name)"
        if access(candidate, X_OK) == 0 { return Linker(path: candidate) }
      }
    }
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

  /// Links one object file to a shared object, in a temporary folder and under fixed names, so that no path can reach
  /// the result.
  func link(object: [UInt8]) throws(ArtifactError) -> [UInt8] {
    let program = try absolutePath()
    let folder = try TemporaryFolder()
    try folder.write(object, to: "model.o")
    let arguments = [program] + Self.arguments + ["-o", "model.so", "model.o"]
    let status = try run(arguments, in: folder)
    guard status == 0 else {
      let said = folder.text(of: "messages").prefix(4000)
      let reason = said.isEmpty ? "it ended with status \(status)" : String(said)
      throw ArtifactError(path: "", kind: .linker, message: "\(program) refused the object: \(reason)")
    }
    let file = try InputFile(path: folder.path + "/model.so")
    return try file.read(at: 0, count: file.size)
  }

  /// The linker runs in another folder: a relative path must not change its meaning there.
  private func absolutePath() throws(ArtifactError) -> String {
    guard let resolved = realpath(path, nil) else {
      throw ArtifactError(path: "", kind: .linker, message: "linker \(path): \(systemErrorText())")
    }
    defer { free(resolved) }
    // lld acts by the name it is called by, so links to it are left alone.
    if path.hasPrefix("/") { return path }
    return String(cString: resolved)
  }

  /// Runs a program in a folder, its output going to the file `messages` there. Returns its exit status, or 128 and
  /// the signal that ended it.
  private func run(_ arguments: [String], in folder: TemporaryFolder) throws(ArtifactError) -> Int32 {
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
    posix_spawn_file_actions_addopen(&actions, 1, folder.path + "/messages", O_WRONLY | O_CREAT | O_TRUNC, 0o600)
    posix_spawn_file_actions_adddup2(&actions, 1, 2)

    // The shell is here only to change the folder, for which posix_spawn has no portable way.
    let shell = ["/bin/sh", "-c", "cd \"$0\" && exec \"$@\"", folder.path]
    var argumentPointers = (shell + arguments).map { strdup($0) } + [nil]
    // The message language is fixed, and nothing of the caller's environment can reach the linker's options.
    let variables = ["LC_ALL=C", "PATH=/usr/bin:/bin"]
    var environment = variables.map { strdup($0) } + [nil]
    defer { for pointer in argumentPointers + environment { free(pointer) } }

    var child = pid_t()
    let failure = posix_spawn(&child, shell[0], &actions, nil, &argumentPointers, &environment)
    guard failure == 0 else {
      throw ArtifactError(
        path: "", kind: .linker, message: "linker \(arguments[0]): cannot be started: \(systemErrorText(failure))")
    }
    var status: Int32 = 0
    while waitpid(child, &status, 0) < 0 {
      guard errno == EINTR else {
        throw ArtifactError(path: "", kind: .linker, message: "linker \(arguments[0]): \(systemErrorText())")
      }
    }
    let signal = status & 0x7F
    return signal == 0 ? (status >> 8) & 0xFF : 128 + signal
  }
}

/// A private folder that disappears, with the files written to it, when it is no longer used.
final class TemporaryFolder {
  let path: String

  init() throws(ArtifactError) {
    let base = getenv("TMPDIR").map { String(cString: $0) } ?? "/tmp"
    var template = Array((base + "/ultrac-XXXXXX").utf8CString)
    guard mkdtemp(&template) != nil else {
      throw ArtifactError(
        path: base, kind: .system, message: "cannot hold a temporary folder: \(systemErrorText())")
    }
    path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }

  deinit {
    for name in ["model.o", "model.so", "messages"] { unlink("\(path)/\(name)") }
    rmdir(path)
  }

  func write(_ bytes: [UInt8], to name: String) throws(ArtifactError) {
    let file = "\(path)/\(name)"
    guard let stream = fopen(file, "wb") else {
      throw ArtifactError(path: file, kind: .system, message: "cannot be written: \(systemErrorText())")
    }
    let written = bytes.withUnsafeBytes { fwrite($0.baseAddress, 1, $0.count, stream) }
    guard fclose(stream) == 0, written == bytes.count else {
      throw ArtifactError(path: file, kind: .system, message: "cannot be written: \(systemErrorText())")
    }
  }

  func text(of name: String) -> String {
    guard let file = try? InputFile(path: "\(path)/\(name)"),
      let bytes = try? file.read(at: 0, count: min(file.size, 1 << 16))
    else { return "" }
    return String(decoding: bytes, as: UTF8.self)
  }
}
