import Glibc

/// A program of the machine that turns bytes into other bytes: a linker, an assembler.
public struct ExternalProgram: Hashable, Sendable {
  /// An absolute path, or a path from the working folder.
  public var path: String

  /// The program at this path; that it is there shows when it runs.
  public init(path: String) { self.path = path }

  /// The first program on the PATH that has one of these names, best first; nil where there is none.
  public static func search(_ names: [String]) -> ExternalProgram? {
    let folders = (getenv("PATH").map { String(cString: $0) } ?? "/usr/bin:/bin").split(separator: ":")
    for name in names {
      for folder in folders {
        let candidate = "\(folder)/\(name)"
        if access(candidate, X_OK) == 0 { return ExternalProgram(path: candidate) }
      }
    }
    return nil
  }

  /// Runs the program in a temporary folder with these files in it.
  ///
  /// - Returns: its exit status, or 128 and the signal that ended it; what it printed, 64 KiB at most; and the file `result`, nil
  ///   where it wrote none.
  /// - Throws: an error of this kind where it cannot be started.
  public func run(
    _ arguments: [String], files: [(name: String, bytes: [UInt8])], result: String, kind: ArtifactError.Kind
  ) throws(ArtifactError) -> (status: Int32, messages: String, result: [UInt8]?) {
    let program = try absolutePath(kind)
    let folder = try TemporaryFolder(files.map(\.name) + [result, "messages"])
    for file in files { try folder.write(file.bytes, to: file.name) }
    let status = try Self.run([program] + arguments, in: folder, kind)
    let written = try? InputFile(path: "\(folder.path)/\(result)")
    let bytes = written.flatMap { try? $0.read(at: 0, count: $0.size) }
    return (status, folder.text(of: "messages"), bytes)
  }

  /// The program runs in another folder: a relative path must not change its meaning there.
  private func absolutePath(_ kind: ArtifactError.Kind) throws(ArtifactError) -> String {
    guard let resolved = realpath(path, nil) else {
      throw ArtifactError(path: "", kind: kind, message: "\(kind.rawValue) \(path): \(systemErrorText())")
    }
    defer { free(resolved) }
    // lld acts by the name it is called by, so links to it are left alone.
    if path.hasPrefix("/") { return path }
    return String(cString: resolved)
  }

  /// Runs a program in a folder, its output going to the file `messages` there. Returns its exit status, or 128 and
  /// the signal that ended it.
  private static func run(
    _ arguments: [String], in folder: TemporaryFolder, _ kind: ArtifactError.Kind
  ) throws(ArtifactError) -> Int32 {
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
    posix_spawn_file_actions_addopen(&actions, 1, folder.path + "/messages", O_WRONLY | O_CREAT | O_TRUNC, 0o600)
    posix_spawn_file_actions_adddup2(&actions, 1, 2)

    // The shell is here only to change the folder, for which posix_spawn has no portable way.
    let shell = ["/bin/sh", "-c", "cd \"$0\" && exec \"$@\"", folder.path]
    var argumentPointers = (shell + arguments).map { strdup($0) } + [nil]
    // The message language is fixed, and nothing of the caller's environment can reach the program's options.
    let variables = ["LC_ALL=C", "PATH=/usr/bin:/bin"]
    var environment = variables.map { strdup($0) } + [nil]
    defer { for pointer in argumentPointers + environment { free(pointer) } }

    var child = pid_t()
    let failure = posix_spawn(&child, shell[0], &actions, nil, &argumentPointers, &environment)
    guard failure == 0 else {
      throw ArtifactError(
        path: "", kind: kind,
        message: "\(kind.rawValue) \(arguments[0]): cannot be started: \(systemErrorText(failure))")
    }
    var status: Int32 = 0
    while waitpid(child, &status, 0) < 0 {
      guard errno == EINTR else {
        throw ArtifactError(path: "", kind: kind, message: "\(kind.rawValue) \(arguments[0]): \(systemErrorText())")
      }
    }
    let signal = status & 0x7F
    return signal == 0 ? (status >> 8) & 0xFF : 128 + signal
  }
}

/// A folder that disappears, with the files named for it, when it is no longer used.
private final class TemporaryFolder {
  let path: String
  /// Files that may be there in the end.
  private var names: Set<String>

  init(_ names: [String]) throws(ArtifactError) {
    self.names = Set(names)
    let base = getenv("TMPDIR").map { String(cString: $0) } ?? "/tmp"
    var template = Array((base + "/ultrac-XXXXXX").utf8CString)
    guard mkdtemp(&template) != nil else {
      throw ArtifactError(
        path: base, kind: .system, message: "cannot hold a temporary folder: \(systemErrorText())")
    }
    path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }

  deinit {
    for name in names { unlink("\(path)/\(name)") }
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
