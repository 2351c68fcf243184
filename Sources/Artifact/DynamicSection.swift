/// What the dynamic section asks of the loader. An artifact needs its symbol table and the adjustment of its own
/// pointers, and nothing else.
struct DynamicSection {
  private let loadable: LoadableFile
  private let entries: [(tag: UInt64, value: UInt64)]

  private enum Tag {
    static let null: UInt64 = 0
    static let needed: UInt64 = 1
    static let rela: UInt64 = 7
    static let relaSize: UInt64 = 8
    static let relaEntrySize: UInt64 = 9
    static let flags: UInt64 = 30
    static let flags1: UInt64 = 0x6FFF_FFFB
  }

  /// Tags that only describe: hash tables, string and symbol tables, counts.
  private static let allowed: Set<UInt64> = [
    4, 5, 6, Tag.rela, Tag.relaSize, Tag.relaEntrySize, 10, 11, 14, 16, Tag.flags, 0x6FFF_FEF5, 0x6FFF_FFF9, Tag.flags1,
  ]

  private static let names: [UInt64: String] = [
    1: "NEEDED (another library)", 2: "PLTRELSZ (a procedure linkage table)", 3: "PLTGOT (a global offset table)",
    12: "INIT (code that runs on loading)", 13: "FINI (code that runs on unloading)", 15: "RPATH", 17: "REL",
    20: "PLTREL (a procedure linkage table)", 22: "TEXTREL (changes to code)",
    23: "JMPREL (a procedure linkage table)", 25: "INIT_ARRAY (code that runs on loading)",
    26: "FINI_ARRAY (code that runs on unloading)", 29: "RUNPATH", 32: "PREINIT_ARRAY (code that runs on loading)",
  ]

  init(_ loadable: LoadableFile) throws(ArtifactError) {
    self.loadable = loadable
    let path = loadable.file.path
    let sections = loadable.segments.filter { $0.type == ELF.Segment.dynamic }
    guard sections.count == 1, let section = sections.first else {
      throw ArtifactError(
        path: path, kind: .corrupt, message: "\(sections.count) dynamic sections, expected one")
    }
    // The loader reads this table by address: what is checked here must be what it will see.
    guard section.fileSize <= 1 << 16, section.fileSize == section.memorySize,
      loadable.fileOffset(ofAddress: section.address, count: section.fileSize) == section.offset
    else {
      throw ArtifactError(
        path: path, kind: .corrupt, message: "dynamic section: not where the segments map its bytes")
    }
    let table = Bytes(
      bytes: try loadable.file.read(at: section.offset, count: section.fileSize), path: path, what: "dynamic section")
    var entries: [(tag: UInt64, value: UInt64)] = []
    var ended = false
    for start in stride(from: 0, to: section.fileSize - 15, by: 16) {
      let tag = try table.load(UInt64.self, at: start)
      if tag == Tag.null {
        ended = true
        break
      }
      entries.append((tag, try table.load(UInt64.self, at: start + 8)))
    }
    guard ended else {
      throw ArtifactError(path: path, kind: .corrupt, message: "dynamic section: its last entry is missing")
    }
    self.entries = entries
  }

  private func forbidden(_ message: String) -> ArtifactError {
    ArtifactError(path: loadable.file.path, kind: .forbidden, message: "not loadable as an artifact: " + message)
  }

  /// Refuses dependencies, initializers, code changed at load, and relocations other than of its own pointers.
  func check() throws(ArtifactError) {
    for (index, entry) in entries.enumerated() {
      guard Self.allowed.contains(entry.tag) else {
        let name = Self.names[entry.tag] ?? "tag \(hexadecimal(entry.tag))"
        throw forbidden("its dynamic section has \(name)")
      }
      if entries[..<index].contains(where: { $0.tag == entry.tag }) {
        throw forbidden("its dynamic section has tag \(hexadecimal(entry.tag)) twice")
      }
      // DF_TEXTREL and DF_STATIC_TLS; of the second set, everything but NOW, NODELETE and PIE would change loading.
      if entry.tag == Tag.flags, entry.value & 0x14 != 0 {
        throw forbidden("its dynamic flags ask for changes to code")
      }
      if entry.tag == Tag.flags1, entry.value & ~0x0800_0009 != 0 {
        throw forbidden("its dynamic flags are \(hexadecimal(entry.value))")
      }
    }
    try checkRelocations()
  }

  private func value(of tag: UInt64) -> UInt64? { entries.first { $0.tag == tag }?.value }

  private func checkRelocations() throws(ArtifactError) {
    guard let address = value(of: Tag.rela), let size = value(of: Tag.relaSize) else {
      if value(of: Tag.rela) == nil && value(of: Tag.relaSize) == nil { return }
      throw forbidden("its relocations have an address or a size, but not both")
    }
    guard value(of: Tag.relaEntrySize) == 24, size % 24 == 0, let byteCount = Int(exactly: size),
      let start = Int(exactly: address), let offset = loadable.fileOffset(ofAddress: start, count: byteCount)
    else { throw forbidden("its relocations do not lie in the file as they should") }
    let table = Bytes(
      bytes: try loadable.file.read(at: offset, count: byteCount), path: loadable.file.path, what: "relocations")
    let end = loadable.segments.lazy.filter { $0.type == ELF.Segment.load }.map { $0.memoryRange.upperBound }.max() ?? 0
    for (index, entry) in stride(from: 0, to: byteCount, by: 24).enumerated() {
      let information = try table.load(UInt64.self, at: entry + 8)
      guard information == UInt64(loadable.header.machine.relativeRelocation) else {
        throw forbidden(
          "relocation \(index) is of type \(information & 0xFFFF_FFFF) and symbol \(information >> 32); only relative "
            + "ones are needed")
      }
      let target = try table.size(at: entry, "target of relocation \(index)")
      let pointer = try table.size(at: entry + 16, "value of relocation \(index)")
      guard loadable.isWritable(address: target, count: 8), pointer <= end else {
        throw forbidden("relocation \(index) changes what is not writable, or points outside the file")
      }
    }
  }
}
