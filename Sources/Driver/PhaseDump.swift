import Artifact
import Glibc

/// Writes the program after each phase of a compilation into a folder: `00-import.tir`, `01-canonicalize.tir` and so on.
///
/// A file is there whole as soon as its phase is done, so that a later phase that never ends can be looked into.
public struct PhaseDump {
  private let folder: String
  private var count = 0

  /// Files go into `folder`, which is made where there is none, with the folders above it. Files of the same name are
  /// replaced, others left alone.
  public init(folder: String) throws(DriverError) {
    self.folder = folder
    var path = folder.hasPrefix("/") ? "/" : ""
    for part in folder.split(separator: "/") {
      path += part
      guard mkdir(path, 0o777) == 0 || errno == EEXIST else {
        throw DriverError("\(path): the folder cannot be made: \(String(cString: strerror(errno)))")
      }
      path += "/"
    }
    var status = stat()
    guard !folder.isEmpty, stat(folder, &status) == 0, status.st_mode & S_IFMT == S_IFDIR else {
      throw DriverError("\"\(folder)\": expected a folder for the dumps of phases")
    }
  }

  /// Writes what the program is after `phase`; `ending` is that of the file.
  public mutating func write(_ text: String, after phase: String, ending: String) throws(ArtifactError) {
    let number = (count < 10 ? "0" : "") + "\(count)"
    count += 1
    try writeFile(Array(text.utf8), to: "\(folder)/\(number)-\(phase).\(ending)")
  }
}
