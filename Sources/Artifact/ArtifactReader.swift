import CUltra

/// An artifact, read and checked without loading it: nothing of it is executed, and nothing in it is believed.
public struct ArtifactReader: Sendable {
  /// How much is checked before the file is accepted.
  public enum Verification: String, Sendable, CaseIterable {
    /// Sizes, headers, what the loader would do, and the manifest: a fraction of a millisecond, whatever the size.
    case structure
    /// That, and the checksum of every byte: about half a second a gigabyte, and the whole file is read.
    case full
  }

  /// The path it was opened by.
  public let path: String
  /// The architecture that the code is for.
  public let machine: Machine
  /// What the file says about itself, checked.
  public let manifest: Manifest
  /// The manifest as it stands in the file: JSON, UTF-8.
  public let manifestBytes: [UInt8]
  /// Bytes of the whole file.
  public let fileSize: Int
  /// Where the weights segment begins in the file, and its bytes.
  public let weightsOffset: Int
  /// Bytes of the weights segment, padding between weights included; 0 where there are none.
  public let weightsSize: Int
  /// CRC-64/XZ of the file with its checksum field zero, as recorded; compared with the bytes by `.full`.
  public let checksum: UInt64

  private let file: InputFile

  /// Opens and checks an artifact.
  public static func open(
    _ path: String, verify: Verification = .structure
  ) throws(ArtifactError) -> ArtifactReader {
    let reader = try ArtifactReader(file: InputFile(path: path))
    if verify == .full { try reader.verifyChecksum() }
    return reader
  }

  private init(file: InputFile) throws(ArtifactError) {
    self.file = file
    path = file.path
    let loadable = try LoadableFile(file: file)
    machine = loadable.header.machine
    let note = try NoteContents(loadable)
    fileSize = file.size
    checksum = note.checksum
    weightsSize = note.weightsSize
    weightsOffset = try note.findWeights(loadable)
    try loadable.checkSegments(weightsOffset: weightsSize > 0 ? weightsOffset : nil)
    try DynamicSection(loadable).check()
    manifestBytes = try file.read(at: note.manifestOffset, count: note.manifestSize)
    noteOffset = note.offset
    manifest = try Manifest(json: manifestBytes, path: path)
    for (index, weight) in manifest.weights.enumerated() where weight.offset + weight.bytes > weightsSize {
      throw ArtifactError(
        path: path, kind: .manifest,
        message:
          "manifest: weights[\(index)] \"\(weight.name)\": \(weight.bytes) bytes at \(weight.offset), beyond the "
          + "\(weightsSize) bytes of the weights")
    }
  }

  private let noteOffset: Int

  /// Compares the checksum of the whole file with the recorded one.
  public func verifyChecksum() throws(ArtifactError) {
    let field = noteOffset + ArtifactNote.checksumOffset
    var buffer = [UInt8](repeating: 0, count: min(1 << 20, fileSize))
    var running: UInt64 = 0
    var offset = 0
    while offset < fileSize {
      let count = min(buffer.count, fileSize - offset)
      try file.read(at: offset, into: &buffer, count: count)
      for place in field..<field + 8 where place >= offset && place < offset + count { buffer[place - offset] = 0 }
      running = ultra_crc64(running, buffer, count)
      offset += count
    }
    guard running == checksum else {
      throw ArtifactError(
        path: path, kind: .corrupt,
        message: "checksum \(hexadecimal(running)), but \(hexadecimal(checksum)) is recorded: the file was damaged or "
          + "changed; compile or copy it again")
    }
  }

  /// The bytes of a weight as they are packed in the file; nil where there is none of that name.
  public func weightBytes(named name: String) throws(ArtifactError) -> [UInt8]? {
    guard let weight = manifest.weights.first(where: { $0.name == name }) else { return nil }
    return try file.read(at: weightsOffset + weight.offset, count: weight.bytes)
  }

  /// Whether `header`, the bytes of a note from its start to its manifest, is this file's: it tells files that were
  /// loaded under one name apart.
  public func hasSameNote(_ header: [UInt8]) throws(ArtifactError) -> Bool {
    try file.read(at: noteOffset, count: ArtifactNote.manifestOffset) == header
  }
}

/// A number as `0x` and sixteen digits.
func hexadecimal(_ value: UInt64) -> String {
  let digits = String(value, radix: 16)
  return "0x" + String(repeating: "0", count: 16 - digits.count) + digits
}

/// The fixed header of the note.
struct NoteContents {
  /// Of the note in the file, and in memory relative to the load address.
  let offset: Int
  let address: Int
  let manifestOffset: Int
  let manifestSize: Int
  let weightsSize: Int
  let checksum: UInt64
  private let delta: Int64

  /// Finds the note among the note segments, and checks its header and the recorded size of the file.
  init(_ loadable: LoadableFile) throws(ArtifactError) {
    let file = loadable.file
    func fail(_ kind: ArtifactError.Kind, _ message: String) -> ArtifactError {
      ArtifactError(path: file.path, kind: kind, message: message)
    }
    var found: (offset: Int, address: Int, size: Int)?
    for segment in loadable.segments where segment.type == ELF.Segment.note {
      guard segment.fileSize >= ArtifactNote.manifestOffset else { continue }
      // Linkers put notes of one alignment into one segment; ultrac's own is searched in it.
      var start = segment.offset
      while start <= segment.offset + segment.fileSize - ArtifactNote.manifestOffset {
        let head = try file.read(at: start, count: ArtifactNote.manifestOffset)
        let fields = Bytes(bytes: head, path: file.path, what: "note")
        let nameSize = Int(try fields.load(UInt32.self, at: 0))
        let descriptorSize = Int(try fields.load(UInt32.self, at: 4))
        let noteSize = 12 + (nameSize + 3) / 4 * 4 + (descriptorSize + 3) / 4 * 4
        if Array(head[12..<18]) == ArtifactNote.name, nameSize == ArtifactNote.name.count,
          try fields.load(UInt32.self, at: 8) == ArtifactNote.type
        {
          guard found == nil else { throw fail(.corrupt, "it holds two notes of ultrac") }
          guard noteSize <= segment.offset + segment.fileSize - start else {
            throw fail(.corrupt, "note: \(noteSize) bytes, more than its segment holds")
          }
          found = (start, segment.address + (start - segment.offset), 20 + descriptorSize)
        }
        start += noteSize
      }
    }
    guard let found else {
      throw fail(.notAnArtifact, "not an artifact of ultrac: a shared object without ultrac's note")
    }
    let head = try file.read(at: found.offset, count: ArtifactNote.manifestOffset)
    let fields = Bytes(bytes: head, path: file.path, what: "note")
    guard Array(head[20..<28]) == ArtifactNote.magic else {
      throw fail(.corrupt, "note: wrong magic number")
    }
    let version = try fields.load(UInt32.self, at: ArtifactNote.versionOffset)
    guard version == ArtifactNote.formatVersion else {
      throw fail(
        .unsupportedVersion, "format version \(version); this reader knows version \(ArtifactNote.formatVersion)")
    }
    let headerSize = Int(try fields.load(UInt32.self, at: ArtifactNote.headerSizeOffset))
    guard headerSize == ArtifactNote.manifestOffset - ArtifactNote.descriptorOffset else {
      throw fail(.corrupt, "note: header of \(headerSize) bytes, expected 60")
    }
    let fileSize = try fields.size(at: ArtifactNote.fileSizeOffset, "file size")
    guard fileSize == file.size else {
      let hint = file.size < fileSize ? "it was cut short" : "something was added, or another tool rewrote it"
      throw fail(.wrongSize, "the file has \(file.size) bytes, but records \(fileSize): \(hint); copy it again")
    }
    manifestSize = try fields.size(at: ArtifactNote.manifestSizeOffset, "manifest size")
    guard manifestSize <= ArtifactNote.maximumManifestSize,
      manifestSize <= found.size - ArtifactNote.manifestOffset
    else { throw fail(.corrupt, "note: a manifest of \(manifestSize) bytes in a note of \(found.size)") }
    offset = found.offset
    address = found.address
    manifestOffset = found.offset + ArtifactNote.manifestOffset
    weightsSize = try fields.size(at: ArtifactNote.weightsSizeOffset, "weights size")
    checksum = try fields.load(UInt64.self, at: ArtifactNote.checksumOffset)
    delta = Int64(bitPattern: try fields.load(UInt64.self, at: ArtifactNote.deltaOffset))
  }

  /// The file offset of the weights: the segment that the delta leads to must hold exactly them, and end the file.
  func findWeights(_ loadable: LoadableFile) throws(ArtifactError) -> Int {
    func fail(_ message: String) -> ArtifactError {
      ArtifactError(path: loadable.file.path, kind: .corrupt, message: message)
    }
    if weightsSize == 0 {
      guard delta == 0 else { throw fail("note: a delta of \(delta) to weights of 0 bytes") }
      return loadable.file.size
    }
    let (start, overflow) = Int64(address + ArtifactNote.deltaOffset).addingReportingOverflow(delta)
    guard !overflow,
      let segment = loadable.segments.first(where: { $0.type == ELF.Segment.load && Int64($0.address) == start })
    else { throw fail("note: the delta to the weights leads to no segment") }
    guard segment.flags == ELF.Segment.readable, segment.fileSize == weightsSize, segment.memorySize == weightsSize,
      segment.offset + segment.fileSize == loadable.file.size,
      segment.address % WeightsLayout.alignment == 0
    else {
      throw fail(
        "the weights segment (\(segment.fileSize) bytes at \(segment.offset)) is not the last \(weightsSize) bytes of "
          + "the file, read only and aligned to \(WeightsLayout.alignment)")
    }
    return segment.offset
  }
}
