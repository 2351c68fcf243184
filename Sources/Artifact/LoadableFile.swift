/// The headers of a shared object, with every offset inside the file, and the checks of what the loader would map.
struct LoadableFile {
  let file: InputFile
  let header: ELF.Header
  let segments: [ELF.ProgramHeader]

  /// More program headers than any linker writes for one object.
  private static let maximumSegments = 64

  init(file: InputFile) throws(ArtifactError) {
    self.file = file
    let path = file.path
    func fail(_ kind: ArtifactError.Kind, _ message: String) -> ArtifactError {
      ArtifactError(path: path, kind: kind, message: message)
    }
    guard file.size >= ELF.headerSize else {
      throw fail(.notAnArtifact, "not an artifact of ultrac: \(file.size) bytes, fewer than an ELF header's")
    }
    header = try ELF.Header(file.read(at: 0, count: ELF.headerSize), path: path)
    guard header.type == ELF.sharedObject else {
      throw fail(.notAnArtifact, "not an artifact of ultrac: an ELF file of type \(header.type), not a shared object")
    }
    let count = header.programHeaderCount
    guard count > 0, count <= Self.maximumSegments else {
      throw fail(.corrupt, "ELF header: \(count) program headers, expected 1 to \(Self.maximumSegments)")
    }
    let table = Bytes(
      bytes: try file.read(at: header.programHeaderOffset, count: count * ELF.programHeaderSize), path: path,
      what: "program headers")
    var segments: [ELF.ProgramHeader] = []
    for index in 0..<count {
      let segment = try ELF.ProgramHeader(table, index: index)
      guard segment.offset + segment.fileSize <= file.size else {
        throw fail(
          .wrongSize,
          "segment \(index): \(segment.fileSize) bytes at \(segment.offset), but the file has \(file.size): it was cut "
            + "short or damaged; copy it again")
      }
      segments.append(segment)
    }
    self.segments = segments
  }

  private func forbidden(_ message: String) -> ArtifactError {
    ArtifactError(path: file.path, kind: .forbidden, message: "not loadable as an artifact: " + message)
  }

  /// Refuses everything that an artifact has no need of; `weightsOffset` is that of the weights segment.
  func checkSegments(weightsOffset: Int?) throws(ArtifactError) {
    var end = 0
    for (index, segment) in segments.enumerated() {
      switch segment.type {
      case ELF.Segment.load:
        guard segment.fileSize <= segment.memorySize, segment.address >= end,
          segment.alignment > 0, segment.alignment & (segment.alignment - 1) == 0,
          segment.address % segment.alignment == segment.offset % segment.alignment
        else {
          throw ArtifactError(
            path: file.path, kind: .corrupt,
            message: "segment \(index): \(segment.fileSize) bytes of the file as \(segment.memorySize) at address "
              + "\(segment.address), which contradicts itself or the segment before it")
        }
        end = segment.address + segment.memorySize
        let writableCode = ELF.Segment.writable | ELF.Segment.executable
        if segment.flags & writableCode == writableCode {
          throw forbidden("segment \(index) is writable and executable")
        }
      case ELF.Segment.stack:
        if segment.flags & ELF.Segment.executable != 0 { throw forbidden("it asks for an executable stack") }
      case ELF.Segment.null, ELF.Segment.dynamic, ELF.Segment.note, ELF.Segment.header, ELF.Segment.exceptionFrames,
        ELF.Segment.readOnlyAfterRelocation, ELF.Segment.property:
        break
      case ELF.Segment.interpreter: throw forbidden("it names a program interpreter")
      case ELF.Segment.threadLocal: throw forbidden("it has thread-local storage")
      default: throw forbidden("segment \(index) is of the unknown type \(segment.type)")
      }
    }
    // What executes must be code that the linker placed, never weights.
    if let weightsOffset {
      for (index, segment) in segments.enumerated()
      where segment.type == ELF.Segment.load && segment.offset + segment.fileSize > weightsOffset
        && segment.offset != weightsOffset
      {
        throw forbidden("segment \(index) overlaps the weights")
      }
    }
  }

  /// The file offset of `count` bytes at an address, where one segment maps them from the file.
  func fileOffset(ofAddress address: Int, count: Int) -> Int? {
    for segment in segments where segment.type == ELF.Segment.load {
      guard address >= segment.address, address - segment.address <= segment.fileSize,
        count <= segment.fileSize - (address - segment.address)
      else { continue }
      return segment.offset + (address - segment.address)
    }
    return nil
  }

  /// Whether `count` bytes at an address are in a writable segment.
  func isWritable(address: Int, count: Int) -> Bool {
    segments.contains { segment in
      segment.type == ELF.Segment.load && segment.flags & ELF.Segment.writable != 0 && address >= segment.address
        && address - segment.address <= segment.memorySize
        && count <= segment.memorySize - (address - segment.address)
    }
  }
}
