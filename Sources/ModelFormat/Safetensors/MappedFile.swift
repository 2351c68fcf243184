import Glibc

/// A file mapped into memory for reading, unmapped with the last reference to it.
///
/// Another process that cuts the file short while it is mapped ends this one when the lost part is touched; replacing
/// it by rename, as every writer here does, is safe.
public final class MappedFile: @unchecked Sendable {
  // Sendable: nothing is written after init, and the mapping is read-only.

  /// The path it was opened by.
  public let path: String
  /// The whole file; valid as long as this object.
  public let bytes: UnsafeRawBufferPointer

  /// Maps a file. Throws `inaccessible` where it cannot be opened or mapped, or is no regular file.
  public init(path: String) throws(ModelError) {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { throw Self.failure(path, "cannot be opened") }
    defer { close(descriptor) }
    var status = stat()
    guard fstat(descriptor, &status) == 0 else { throw Self.failure(path, "cannot be examined") }
    guard status.st_mode & S_IFMT == S_IFREG else {
      throw ModelError(.inaccessible, file: path, "is not a regular file")
    }
    self.path = path
    guard status.st_size > 0 else {
      bytes = UnsafeRawBufferPointer(start: nil, count: 0)
      return
    }
    let address = mmap(nil, status.st_size, PROT_READ, MAP_PRIVATE, descriptor, 0)
    guard let address, address != MAP_FAILED else { throw Self.failure(path, "cannot be mapped") }
    bytes = UnsafeRawBufferPointer(start: address, count: status.st_size)
  }

  deinit {
    if let start = bytes.baseAddress { munmap(UnsafeMutableRawPointer(mutating: start), bytes.count) }
  }

  /// Where the system maps pages around one that is touched, it stays within so many bytes, aligned to as many.
  private static let mappedTogether = 2 << 20

  /// Gives the memory of a part back to the system, with everything that it may have mapped around it; pages are mapped
  /// again where they are needed. Small parts are kept: asking costs more than they hold.
  func release(_ part: Range<Int>) {
    guard part.count >= 1 << 20, let start = bytes.baseAddress else { return }
    let mask = UInt(Self.mappedTogether - 1)
    let (address, end) = (UInt(bitPattern: start), UInt(bitPattern: start) + UInt(bytes.count))
    let first = max((address + UInt(part.lowerBound)) & ~mask, address)
    let last = min((address + UInt(part.upperBound) + mask) & ~mask, end)
    // A hint: where it is refused, memory stays as it is.
    _ = madvise(UnsafeMutableRawPointer(bitPattern: first), Int(last - first), MADV_DONTNEED)
  }

  private static func failure(_ path: String, _ what: String) -> ModelError {
    ModelError(.inaccessible, file: path, "\(what): \(String(cString: strerror(errno)))")
  }
}

/// Writes a file whole or not at all: beside its place first, then moved there, so that no reader sees half of it.
///
/// `parts` are written one after the other. Throws `inaccessible` and leaves nothing behind where the system refuses.
func writeAtomically(_ parts: [UnsafeRawBufferPointer], to path: String) throws(ModelError) {
  func failure(_ what: String) -> ModelError {
    ModelError(.inaccessible, file: path, "\(what): \(String(cString: strerror(errno)))")
  }
  // Renaming over a device or pipe would replace it.
  var existing = stat()
  if stat(path, &existing) == 0, existing.st_mode & S_IFMT != S_IFREG {
    throw ModelError(.inaccessible, file: path, "cannot be written: it is there and not a regular file")
  }
  var descriptor: Int32 = -1
  var partial = ""
  repeat {
    partial = "\(path).\(UInt32.random(in: 0...UInt32.max)).partial"
    descriptor = open(partial, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o666)
  } while descriptor < 0 && errno == EEXIST
  guard descriptor >= 0 else { throw failure("cannot be written") }
  do throws(ModelError) {
    for part in parts {
      var rest = part[...]
      while !rest.isEmpty {
        let slice = UnsafeRawBufferPointer(rebasing: rest)
        let count = Glibc.write(descriptor, slice.baseAddress, min(slice.count, 1 << 30))
        if count < 0 && errno == EINTR { continue }
        guard count > 0 else { throw failure("cannot be written") }
        rest = rest.dropFirst(count)
      }
    }
    guard close(descriptor) == 0 else {
      descriptor = -1
      throw failure("cannot be written")
    }
    descriptor = -1
    guard rename(partial, path) == 0 else { throw failure("cannot be put in place") }
  } catch {
    if descriptor >= 0 { close(descriptor) }
    unlink(partial)
    throw error
  }
}
