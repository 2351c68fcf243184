import CUltra

/// A weight to be written: its bytes are asked for once, in order, when their turn comes.
public struct WeightSource {
  /// As the manifest lists it.
  public var name: String
  /// Bytes that `write` will give.
  public var byteCount: Int
  /// Gives the bytes to the sink: exactly `byteCount`, in pieces of any size. What it throws ends the writing.
  public var write: (inout WeightSink) throws -> Void

  /// A weight whose bytes `write` produces when their turn comes.
  public init(name: String, byteCount: Int, write: @escaping (inout WeightSink) throws -> Void) {
    self.name = name
    self.byteCount = byteCount
    self.write = write
  }

  /// A weight whose bytes are in memory.
  public init(name: String, bytes: [UInt8]) {
    self.init(name: name, byteCount: bytes.count) { sink in try sink.write(bytes) }
  }
}

/// Where a weight's bytes go; it takes as many as were promised.
public struct WeightSink {
  let file: OutputFile
  let name: String
  let byteCount: Int
  private(set) var written = 0

  init(file: OutputFile, name: String, byteCount: Int) {
    self.file = file
    self.name = name
    self.byteCount = byteCount
  }

  /// Appends bytes of the weight, in pieces of any size.
  public mutating func write(_ bytes: UnsafeRawBufferPointer) throws(ArtifactError) {
    guard bytes.count <= byteCount - written else {
      throw ArtifactError(
        path: "", kind: .invalidInput,
        message: "weight \"\(name)\": at least \(written + bytes.count) bytes were given, \(byteCount) were announced")
    }
    try file.append(bytes)
    written += bytes.count
  }

  /// Appends bytes of the weight, in pieces of any size.
  public mutating func write(_ bytes: [UInt8]) throws(ArtifactError) {
    try bytes.withUnsafeBufferPointer { buffer throws(ArtifactError) in
      try write(UnsafeRawBufferPointer(buffer))
    }
  }
}

/// Writes artifacts: links an object file, reserves a place for the weights in its program headers, and appends them
/// in one streaming pass, so that weights of any size take no memory and meet no limit of relocations.
///
/// Equal objects and weights give equal files, whatever the folder. The file appears under its name only when it is
/// complete; after an error nothing is left.
public struct ArtifactWriter: Sendable {
  /// Nil: searched on the PATH for the object's architecture.
  public var linker: Linker?

  /// A writer that links with `linker`, or with one that it finds.
  public init(linker: Linker? = nil) { self.linker = linker }

  /// What was written.
  public struct Summary: Hashable, Sendable {
    /// Bytes of the file, and of the weights segment in it.
    public var fileSize: Int
    /// Bytes of the weights segment; 0 where there are no weights.
    public var weightsSize: Int
    /// CRC-64/XZ of the file with its checksum field zero.
    public var checksum: UInt64
  }

  /// Memory alignment of the weights segment: that of a huge page, which the kernel then uses for them.
  static let weightsAlignment = 2 << 20
  /// File alignment of the weights segment. The address has the same remainder by `weightsAlignment` as the offset.
  static let pageSize = 4096

  /// Writes an artifact to `path`. The object defines `ultra_model_v1` and both sections of `ArtifactNote`; the
  /// manifest in its note must list the weights as they are given here, at the offsets of `WeightsLayout`.
  @discardableResult
  public func write(
    object: [UInt8], weights: [WeightSource], to path: String
  ) throws(ArtifactError) -> Summary {
    do throws(ArtifactError) {
      return try writeUnnamed(object: object, weights: weights, to: path)
    } catch {
      var named = error
      if named.path.isEmpty { named.path = path }
      throw named
    }
  }

  private func writeUnnamed(
    object: [UInt8], weights: [WeightSource], to path: String
  ) throws(ArtifactError) -> Summary {
    let objectHeader = try ELF.Header(object, path: "")
    guard objectHeader.type == ELF.relocatable else {
      throw ArtifactError(path: "", kind: .invalidInput, message: "the object is not a relocatable ELF file")
    }
    let layout = try WeightsLayout(byteCounts: weights.map(\.byteCount))
    let chosen = if let linker { linker } else { try Linker.search(for: objectHeader.machine) }
    var image = LinkedImage(bytes: try chosen.link(object: object))
    let placement = try image.reserveWeights(byteCount: layout.byteCount)
    try check(image.manifest, against: weights, layout)

    let file = try OutputFile(path: path)
    try file.append(image.bytes)
    for (index, weight) in weights.enumerated() {
      try file.pad(to: placement.weightsOffset + layout.offsets[index])
      var sink = WeightSink(file: file, name: weight.name, byteCount: weight.byteCount)
      do {
        try weight.write(&sink)
      } catch let error as ArtifactError {
        throw error
      } catch {
        throw ArtifactError(path: "", kind: .invalidInput, message: "weight \"\(weight.name)\": \(error)")
      }
      guard sink.written == weight.byteCount else {
        throw ArtifactError(
          path: "", kind: .invalidInput,
          message: "weight \"\(weight.name)\": \(sink.written) bytes were given, \(weight.byteCount) were announced")
      }
    }
    let checksum = file.checksum
    var checksumBytes: [UInt8] = []
    checksumBytes.append(littleEndian: checksum)
    try file.finish(overwriting: checksumBytes, at: placement.noteOffset + ArtifactNote.checksumOffset)
    return Summary(fileSize: placement.fileSize, weightsSize: layout.byteCount, checksum: checksum)
  }

  private func check(
    _ manifest: Manifest, against weights: [WeightSource], _ layout: WeightsLayout
  ) throws(ArtifactError) {
    guard manifest.weights.count == weights.count else {
      throw ArtifactError(
        path: "", kind: .invalidInput,
        message: "the manifest lists \(manifest.weights.count) weights, \(weights.count) were given")
    }
    for (index, listed) in manifest.weights.enumerated() {
      let given = weights[index]
      guard listed.name == given.name, listed.bytes == given.byteCount, listed.offset == layout.offsets[index] else {
        throw ArtifactError(
          path: "", kind: .invalidInput,
          message: "weight \(index): the manifest lists \"\(listed.name)\", \(listed.bytes) bytes at \(listed.offset); "
            + "given were \"\(given.name)\", \(given.byteCount) bytes at \(layout.offsets[index])")
      }
    }
  }
}
