import CUltra
import Glibc

/// What the operating system says about the last error.
func systemErrorText(_ number: Int32 = errno) -> String { String(cString: strerror(number)) }

/// A regular file opened for reading at given places; every read is complete or an error.
final class InputFile: Sendable {
  let path: String
  /// Its size when it was opened.
  let size: Int
  private let descriptor: Int32

  init(path: String) throws(ArtifactError) {
    self.path = path
    let descriptor = Glibc.open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
    guard descriptor >= 0 else {
      throw ArtifactError(path: path, kind: .system, message: "cannot be opened: \(systemErrorText())")
    }
    var status = stat()
    guard fstat(descriptor, &status) == 0 else {
      let text = systemErrorText()
      Glibc.close(descriptor)
      throw ArtifactError(path: path, kind: .system, message: "cannot be examined: \(text)")
    }
    guard status.st_mode & S_IFMT == S_IFREG else {
      Glibc.close(descriptor)
      throw ArtifactError(path: path, kind: .notAnArtifact, message: "not a regular file")
    }
    self.descriptor = descriptor
    size = Int(status.st_size)
  }

  deinit { Glibc.close(descriptor) }

  /// Exactly `count` bytes from `offset` on. The range is checked against the size before anything is allocated.
  func read(at offset: Int, count: Int) throws(ArtifactError) -> [UInt8] {
    guard offset >= 0, count >= 0, count <= size, offset <= size - count else {
      throw ArtifactError(
        path: path, kind: .wrongSize,
        message: "bytes \(offset) to \(offset)+\(count) are needed, but the file has \(size)")
    }
    var bytes = [UInt8](repeating: 0, count: count)
    try read(at: offset, into: &bytes, count: count)
    return bytes
  }

  /// Fills the first `count` bytes of `bytes`.
  func read(at offset: Int, into bytes: inout [UInt8], count: Int) throws(ArtifactError) {
    var filled = 0
    while filled < count {
      let got = bytes.withUnsafeMutableBytes { buffer in
        pread(descriptor, buffer.baseAddress.map { $0 + filled }, count - filled, off_t(offset + filled))
      }
      if got < 0 && errno == EINTR { continue }
      if got < 0 {
        throw ArtifactError(path: path, kind: .system, message: "cannot be read: \(systemErrorText())")
      }
      if got == 0 {
        throw ArtifactError(path: path, kind: .wrongSize, message: "became shorter while it was read")
      }
      filled += got
    }
  }
}

/// Writes a file whole or not at all; one that is there is replaced only by the complete new one. A device or pipe is
/// refused: replacing it would take it from the whole system.
public func writeFile(_ bytes: [UInt8], to path: String) throws(ArtifactError) {
  let file = try OutputFile(path: path)
  try file.append(bytes)
  try file.finish()
}

/// A file that appears under its name only when it is complete: bytes go to a temporary file beside it, which is
/// renamed at the end, or removed if that is never reached.
final class OutputFile {
  private let path: String
  private let temporaryPath: String
  private var descriptor: Int32
  private var buffer: [UInt8] = []
  private(set) var checksum: UInt64 = 0
  private(set) var count = 0
  private static let bufferSize = 1 << 20

  init(path: String) throws(ArtifactError) {
    self.path = path
    let (directory, name) = splitPath(path)
    guard !name.isEmpty else {
      throw ArtifactError(path: path, kind: .system, message: "cannot be written: not the name of a file")
    }
    // Renaming over a device or pipe would replace it.
    var existing = stat()
    if stat(path, &existing) == 0, existing.st_mode & S_IFMT != S_IFREG {
      throw ArtifactError(path: path, kind: .system, message: "cannot be written: it is there and not a regular file")
    }
    var attempt = 0
    while true {
      let suffix = String(UInt64.random(in: 0...UInt64.max), radix: 36)
      let candidate = directory + ".\(name.prefix(180)).\(suffix).part"
      let opened = Glibc.open(candidate, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o644)
      if opened >= 0 {
        temporaryPath = candidate
        descriptor = opened
        break
      }
      attempt += 1
      if errno != EEXIST || attempt > 16 {
        throw ArtifactError(path: path, kind: .system, message: "cannot be written: \(systemErrorText())")
      }
    }
    buffer.reserveCapacity(Self.bufferSize)
  }

  deinit {
    if descriptor >= 0 {
      Glibc.close(descriptor)
      unlink(temporaryPath)
    }
  }

  /// Appends bytes; their order decides the running checksum.
  func append(_ bytes: UnsafeRawBufferPointer) throws(ArtifactError) {
    checksum = ultra_crc64(checksum, bytes.baseAddress, bytes.count)
    count += bytes.count
    if buffer.count + bytes.count > Self.bufferSize { try flush() }
    if bytes.count >= Self.bufferSize {
      try writeAll(bytes)
    } else {
      buffer.append(contentsOf: bytes)
    }
  }

  func append(_ bytes: [UInt8]) throws(ArtifactError) {
    try bytes.withUnsafeBufferPointer { buffer throws(ArtifactError) in
      try append(UnsafeRawBufferPointer(buffer))
    }
  }

  /// Appends zeros until `end` bytes are written.
  func pad(to end: Int) throws(ArtifactError) {
    let zeros = [UInt8](repeating: 0, count: 4096)
    while count < end {
      let piece = min(zeros.count, end - count)
      try zeros.withUnsafeBufferPointer { buffer throws(ArtifactError) in
        try append(UnsafeRawBufferPointer(UnsafeBufferPointer(rebasing: buffer[..<piece])))
      }
    }
  }

  /// Overwrites `bytes` at `offset`, outside the checksum, and puts the finished file in its place.
  func finish(overwriting bytes: [UInt8] = [], at offset: Int = 0) throws(ArtifactError) {
    try flush()
    let written = bytes.withUnsafeBytes { pwrite(descriptor, $0.baseAddress, $0.count, off_t(offset)) }
    guard written == bytes.count, fsync(descriptor) == 0 else { throw failure() }
    guard rename(temporaryPath, path) == 0 else { throw failure() }
    Glibc.close(descriptor)
    descriptor = -1
    // The new name itself survives a power cut only once the folder is written too; a folder that cannot be opened for
    // this is no reason to fail, since the file is complete.
    let (directory, _) = splitPath(path)
    let folder = Glibc.open(directory.isEmpty ? "." : directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    if folder >= 0 {
      fsync(folder)
      Glibc.close(folder)
    }
  }

  private func flush() throws(ArtifactError) {
    try buffer.withUnsafeBufferPointer { bytes throws(ArtifactError) in
      try writeAll(UnsafeRawBufferPointer(bytes))
    }
    buffer.removeAll(keepingCapacity: true)
  }

  private func writeAll(_ bytes: UnsafeRawBufferPointer) throws(ArtifactError) {
    var done = 0
    while done < bytes.count {
      let written = Glibc.write(descriptor, bytes.baseAddress.map { $0 + done }, bytes.count - done)
      if written < 0 && errno == EINTR { continue }
      if written <= 0 { throw failure() }
      done += written
    }
  }

  private func failure() -> ArtifactError {
    ArtifactError(path: path, kind: .system, message: "cannot be written: \(systemErrorText())")
  }
}

/// The folder of a path with its slash (empty for the working folder), and the last component.
func splitPath(_ path: String) -> (directory: String, name: String) {
  guard let slash = path.lastIndex(of: "/") else { return ("", path) }
  let after = path.index(after: slash)
  return (String(path[..<after]), String(path[after...]))
}
