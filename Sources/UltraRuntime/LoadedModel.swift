import Artifact
import CUltra
import Glibc

/// A model that is mapped into this process and ready to be called, by any number of threads at once.
///
/// Its weights are read from disk as they are first touched, and shared with other processes that load the same file.
/// The file may be replaced by renaming another over it, and loaded again, while this one is in use; it must not be
/// overwritten in place.
public final class LoadedModel: Sendable {
  /// The path it was loaded from.
  public let path: String
  /// What the file says about itself: entries, passes, weights.
  public let manifest: Manifest
  /// The code level in use: the best of the file that this machine has.
  public let level: String
  /// Bytes of the file, and of the weights in it.
  public let fileSize: Int
  /// Bytes of the weights in the file.
  public let weightsSize: Int

  private let library: Library
  let functions: [EntryFunctions]

  /// The table of the loaded file, for callers that fill their own `ultra_call`; valid while this object lives.
  public var table: UnsafePointer<ultra_model> { library.table }

  /// Checks the file, then loads it.
  ///
  /// `.full` reads every byte to compare its checksum (about half a second a gigabyte); `.structure` takes a fraction of a millisecond
  /// and trusts the storage with the values of weights and code.
  ///
  /// `memory` is how many bytes of weights this machine can keep in memory; nil: half of what it has. Where the file's are
  /// more, the system is told that rows of its tables are read at random places: what it reads around a row would push
  /// other rows out. Where they are fewer, it reads ahead, so that a table is soon there as a whole.
  public init(
    path: String, verification: ArtifactReader.Verification = .full, memory: Int? = nil
  ) throws(RuntimeError) {
    let reader: ArtifactReader
    do {
      reader = try ArtifactReader.open(path, verify: verification)
    } catch {
      throw RuntimeError(error)
    }
    guard reader.machine == Machine.host else {
      let host = Machine.host?.name ?? "another architecture"
      throw RuntimeError(
        .unsupportedMachine,
        "\(path): this file is for \(reader.machine.name); this machine is \(host); compile with a --target-cpu of it")
    }
    let library = try Library(reader)
    let table = library.table.pointee
    if let refusal = table.refusal {
      throw RuntimeError(.unsupportedMachine, "\(path): \(String(cString: refusal))")
    }
    self.path = path
    self.library = library
    manifest = reader.manifest
    level = table.level.map { String(cString: $0) } ?? "unknown"
    fileSize = reader.fileSize
    weightsSize = reader.weightsSize
    functions = try Self.functions(table, manifest, path)
    if weightsSize > memory ?? sysconf(Int32(_SC_PHYS_PAGES)) / 2 * sysconf(Int32(_SC_PAGESIZE)) {
      library.expectRandomRows(of: manifest)
    }
  }

  /// The table's entries, which must be those of the manifest.
  private static func functions(
    _ table: ultra_model, _ manifest: Manifest, _ path: String
  ) throws(RuntimeError) -> [EntryFunctions] {
    guard Int(exactly: table.entry_count) == manifest.entries.count, let entries = table.entries else {
      throw RuntimeError(
        .loading,
        "\(path): its table has \(table.entry_count) entries, its manifest \(manifest.entries.count); compile it again")
    }
    var functions: [EntryFunctions] = []
    for (index, listed) in manifest.entries.enumerated() {
      let entry = entries[index]
      guard let name = entry.name, String(cString: name) == listed.name,
        Int(entry.dimension_count) == listed.dimensions.count, Int(entry.input_count) == listed.inputs.count,
        Int(entry.output_count) == listed.outputs.count
      else {
        throw RuntimeError(
          .loading, "\(path): entry \(index) of its table is not \"\(listed.name)\" of its manifest; compile it again")
      }
      functions.append(try EntryFunctions(entries + index))
    }
    return functions
  }

  /// The place of an entry in the manifest and in the table.
  public func index(ofEntry name: String) throws(RuntimeError) -> Int {
    guard let index = manifest.entries.firstIndex(where: { $0.name == name }) else {
      let names = manifest.entries.map(\.name).joined(separator: ", ")
      throw RuntimeError(.unknownEntry, "\(path): no entry \"\(name)\"; it has \(names)")
    }
    return index
  }

  /// Runs an entry once. Inputs are checked against the manifest, and extents such as `rows` are found in their shapes;
  /// one that no input's shape has is given in `dimensions`.
  ///
  /// A `Session` does the same without allocating memory each time.
  public func run(
    entry: String = "forward", inputs: [String: Tensor], dimensions: [String: Int] = [:], pool: ThreadPool? = nil
  ) throws(RuntimeError) -> [(name: String, tensor: Tensor)] {
    try Session(self, entry: entry, pool: pool).run(inputs, dimensions: dimensions)
  }
}

/// A file opened by the system's loader, and closed at the end.
private final class Library: Sendable {
  nonisolated(unsafe) private let handle: UnsafeMutableRawPointer
  nonisolated(unsafe) let table: UnsafePointer<ultra_model>

  /// Loads the file that `reader` has checked.
  init(_ reader: ArtifactReader) throws(RuntimeError) {
    // The loader gives an old handle back for a path that it has loaded before, even where another file has that name
    // now. Another spelling makes it look at the file.
    for spelling in 0..<64 {
      let name = Self.spell(reader.path, spelling)
      guard let handle = dlopen(name, RTLD_NOW | RTLD_LOCAL) else {
        let reason = dlerror().map { String(cString: $0) } ?? "no reason was given"
        throw RuntimeError(.loading, "\(reader.path): cannot be loaded: \(reason)")
      }
      guard let table = ultra_open(dlsym(handle, ULTRA_MODEL_SYMBOL)), let manifest = table.pointee.manifest else {
        dlclose(handle)
        throw RuntimeError(
          .loading, "\(reader.path): it has no \(ULTRA_MODEL_SYMBOL) of ABI version \(ULTRA_ABI_VERSION)")
      }
      let note = UnsafeRawBufferPointer(
        start: UnsafeRawPointer(manifest) - ArtifactNote.manifestOffset, count: ArtifactNote.manifestOffset)
      let isSame =
        Int(exactly: table.pointee.manifest_size) == reader.manifestBytes.count
        && ((try? reader.hasSameNote(Array(note))) ?? false)
      if isSame {
        self.handle = handle
        self.table = table
        return
      }
      dlclose(handle)
    }
    throw RuntimeError(
      .loading,
      "\(reader.path): another file of this name is loaded, and this one was written over it in place, or changes now; "
        + "write a new file and rename it")
  }

  deinit { dlclose(handle) }

  /// Tells the system so of all tables that are worth it.
  func expectRandomRows(of manifest: Manifest) {
    guard let text = table.pointee.manifest else { return }
    let distance = UnsafeRawPointer(text) - ArtifactNote.manifestOffset + ArtifactNote.deltaOffset
    let weights = distance + Int(distance.loadUnaligned(as: Int64.self))
    let page = sysconf(Int32(_SC_PAGESIZE))
    for weight in manifest.weights where weight.isRowMajor && weight.bytes >= 16 << 20 {
      let first = (weight.offset + page - 1) / page * page
      // A hint: where it is refused, the system reads as it did.
      _ = madvise(
        UnsafeMutableRawPointer(mutating: weights + first), (weight.offset + weight.bytes - first) / page * page,
        MADV_RANDOM)
    }
  }

  /// The path of the same file, with a slash, so that no search path is used, and so many times "./" before its name.
  private static func spell(_ path: String, _ count: Int) -> String {
    let dots = String(repeating: "./", count: count)
    guard let slash = path.lastIndex(of: "/") else { return "./" + dots + path }
    let after = path.index(after: slash)
    return path[..<after] + dots + path[after...]
  }
}
