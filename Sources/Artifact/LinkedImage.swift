/// A shared object as the linker wrote it, made ready for weights after its end.
struct LinkedImage {
  private(set) var bytes: [UInt8]
  /// That of its note; read by `reserveWeights`.
  private(set) var manifest = Manifest(
    compiler: .init(name: "", version: "", flags: []), model: .init(name: "", sourceChecksum: ""), dimensions: [],
    entries: [])

  init(bytes: [UInt8]) { self.bytes = bytes }

  /// Where things lie in the finished file.
  struct Placement {
    var noteOffset: Int
    var weightsOffset: Int
    var fileSize: Int
  }

  private struct Section {
    var headerOffset: Int
    var address: Int
    var offset: Int
    var size: Int
  }

  /// Turns the placeholder's program header into one that maps `byteCount` bytes after the end of the file, and fills
  /// the fields of the note, except the checksum.
  mutating func reserveWeights(byteCount: Int) throws(ArtifactError) -> Placement {
    let fields = Bytes(bytes: bytes, path: "", what: "linked object")
    let header = try ELF.Header(bytes, path: "")
    let note = try section(named: ArtifactNote.sectionName, header, fields)
    let placeholder = try section(named: ArtifactNote.weightsSectionName, header, fields)
    manifest = try readManifest(note, fields)

    let pageMask = ArtifactWriter.pageSize - 1
    let weightsOffset = byteCount == 0 ? bytes.count : (bytes.count + pageMask) & ~pageMask
    let (fileSize, overflow) = weightsOffset.addingReportingOverflow(byteCount)
    if overflow { throw invalid("weights of \(byteCount) bytes are too many") }

    var delta = 0
    if byteCount > 0 {
      let (index, last) = try placeholderSegment(placeholder, header, fields)
      let alignment = ArtifactWriter.weightsAlignment
      let address = (last + alignment - 1) / alignment * alignment + weightsOffset % alignment
      delta = address - (note.address + ArtifactNote.deltaOffset)
      let programHeader = header.programHeaderOffset + index * ELF.programHeaderSize
      bytes.store(ELF.Segment.load, at: programHeader)
      bytes.store(ELF.Segment.readable, at: programHeader + 4)
      bytes.store(UInt64(weightsOffset), at: programHeader + 8)
      bytes.store(UInt64(address), at: programHeader + 16)
      bytes.store(UInt64(address), at: programHeader + 24)
      bytes.store(UInt64(byteCount), at: programHeader + 32)
      bytes.store(UInt64(byteCount), at: programHeader + 40)
      bytes.store(UInt64(alignment), at: programHeader + 48)
      // Tools that copy sections would drop bytes that belong to none.
      bytes.store(ELF.Section.programBits, at: placeholder.headerOffset + 4)
      bytes.store(ELF.Section.allocated, at: placeholder.headerOffset + 8)
      bytes.store(UInt64(address), at: placeholder.headerOffset + 16)
      bytes.store(UInt64(weightsOffset), at: placeholder.headerOffset + 24)
      bytes.store(UInt64(byteCount), at: placeholder.headerOffset + 32)
      bytes.store(UInt64(ArtifactWriter.pageSize), at: placeholder.headerOffset + 48)
    }
    bytes.store(UInt64(fileSize), at: note.offset + ArtifactNote.fileSizeOffset)
    bytes.store(Int64(delta), at: note.offset + ArtifactNote.deltaOffset)
    bytes.store(UInt64(byteCount), at: note.offset + ArtifactNote.weightsSizeOffset)
    if byteCount > 0 { bytes += [UInt8](repeating: 0, count: weightsOffset - bytes.count) }
    return Placement(noteOffset: note.offset, weightsOffset: weightsOffset, fileSize: fileSize)
  }

  private func readManifest(_ note: Section, _ fields: Bytes) throws(ArtifactError) -> Manifest {
    let magicOffset = note.offset + ArtifactNote.descriptorOffset
    guard note.size >= ArtifactNote.manifestOffset,
      Array(bytes[magicOffset..<magicOffset + ArtifactNote.magic.count]) == ArtifactNote.magic
    else { throw invalid("section \(ArtifactNote.sectionName) does not hold the bytes of makeNote") }
    let size = try fields.size(at: note.offset + ArtifactNote.manifestSizeOffset, "manifest size")
    guard size <= note.size - ArtifactNote.manifestOffset else {
      throw invalid("section \(ArtifactNote.sectionName) has \(note.size) bytes, too few for its manifest of \(size)")
    }
    let start = note.offset + ArtifactNote.manifestOffset
    return try Manifest(json: Array(bytes[start..<start + size]))
  }

  /// The only section of that name, inside the file.
  private func section(named name: String, _ header: ELF.Header, _ fields: Bytes) throws(ArtifactError) -> Section {
    func load(_ index: Int) throws(ArtifactError) -> (name: Int, section: Section) {
      let start = header.sectionHeaderOffset + index * ELF.sectionHeaderSize
      let name = Int(try fields.load(UInt32.self, at: start))
      let section = Section(
        headerOffset: start, address: try fields.size(at: start + 16, "section address"),
        offset: try fields.size(at: start + 24, "section offset"),
        size: try fields.size(at: start + 32, "section size"))
      return (name, section)
    }
    let names = try load(header.sectionNameIndex).section
    let wanted = [UInt8](name.utf8) + [0]
    var found: Section?
    for index in 0..<header.sectionHeaderCount {
      let (nameOffset, candidate) = try load(index)
      let start = names.offset + nameOffset
      guard start <= bytes.count - wanted.count, Array(bytes[start..<start + wanted.count]) == wanted else { continue }
      guard candidate.offset + candidate.size <= bytes.count, found == nil else {
        throw invalid("section \(name) is there twice, or beyond the end of the file")
      }
      found = candidate
    }
    guard let found else { throw invalid("the object has no section \(name)") }
    return found
  }

  /// The index of the placeholder's own program header, and the first address after all mapped segments.
  private func placeholderSegment(
    _ placeholder: Section, _ header: ELF.Header, _ fields: Bytes
  ) throws(ArtifactError) -> (index: Int, end: Int) {
    let start = header.programHeaderOffset
    let size = header.programHeaderCount * ELF.programHeaderSize
    guard start <= bytes.count, size <= bytes.count - start else { throw invalid("program headers beyond its end") }
    let table = Bytes(bytes: Array(bytes[start..<start + size]), path: "", what: "program headers")
    var index: Int?
    var lastLoad = 0
    var end = 0
    for candidate in 0..<header.programHeaderCount {
      let segment = try ELF.ProgramHeader(table, index: candidate)
      if segment.type == ELF.Segment.load {
        lastLoad = candidate
        end = max(end, segment.address + segment.memorySize)
      }
      if segment.type == ELF.Segment.note, segment.offset == placeholder.offset, segment.fileSize == placeholder.size {
        index = candidate
      }
    }
    // The loader wants mapped segments in ascending order of address.
    guard let index, index > lastLoad else {
      throw invalid("the linker gave section \(ArtifactNote.weightsSectionName) no program header of its own")
    }
    return (index, end)
  }

  private func invalid(_ message: String) -> ArtifactError {
    ArtifactError(path: "", kind: .invalidInput, message: message)
  }
}
