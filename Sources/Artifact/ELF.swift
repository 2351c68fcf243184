/// The part of the ELF-64 format that an artifact uses, little-endian. Numbers and names are those of the ELF
/// specification and of its processor supplements.
enum ELF {
  static let magic: [UInt8] = [0x7F, 0x45, 0x4C, 0x46]
  static let headerSize = 64
  static let programHeaderSize = 56
  static let sectionHeaderSize = 64

  static let sharedObject: UInt16 = 3
  static let relocatable: UInt16 = 1

  enum Segment {
    static let null: UInt32 = 0
    static let load: UInt32 = 1
    static let dynamic: UInt32 = 2
    static let interpreter: UInt32 = 3
    static let note: UInt32 = 4
    static let header: UInt32 = 6
    static let threadLocal: UInt32 = 7
    static let exceptionFrames: UInt32 = 0x6474_E550
    static let stack: UInt32 = 0x6474_E551
    static let readOnlyAfterRelocation: UInt32 = 0x6474_E552
    static let property: UInt32 = 0x6474_E553

    static let executable: UInt32 = 1
    static let writable: UInt32 = 2
    static let readable: UInt32 = 4
  }

  enum Section {
    static let programBits: UInt32 = 1
    static let allocated: UInt64 = 2
  }

  struct ProgramHeader {
    var type: UInt32
    var flags: UInt32
    var offset: Int
    var address: Int
    var fileSize: Int
    var memorySize: Int
    var alignment: Int

    var fileRange: Range<Int> { offset..<offset + fileSize }
    var memoryRange: Range<Int> { address..<address + memorySize }
  }

  struct Header {
    var type: UInt16
    var machine: Machine
    var programHeaderOffset: Int
    var programHeaderCount: Int
    var sectionHeaderOffset: Int
    var sectionHeaderCount: Int
    var sectionNameIndex: Int
  }
}

/// A processor architecture that artifacts exist for.
public enum Machine: UInt16, Hashable, Sendable, CaseIterable {
  case x8664 = 62
  case aarch64 = 183

  /// As compilers name it.
  public var name: String {
    switch self {
    case .x8664: "x86_64"
    case .aarch64: "aarch64"
    }
  }

  /// What the GNU tools made for it have before their names.
  var triple: String { "\(name)-linux-gnu" }

  /// The architecture that this code runs on; nil where artifacts do not exist for it.
  public static var host: Machine? {
    #if arch(x86_64)
      .x8664
    #elseif arch(arm64)
      .aarch64
    #else
      nil
    #endif
  }

  /// The relocation that adds the load address to a pointer.
  var relativeRelocation: UInt32 {
    switch self {
    case .x8664: 8
    case .aarch64: 1027
    }
  }
}

/// Little-endian numbers at checked places of untrusted bytes.
struct Bytes {
  let bytes: [UInt8]
  let path: String
  /// What these bytes are, for errors: "ELF header".
  let what: String

  func load<Number: FixedWidthInteger & UnsignedInteger>(
    _: Number.Type, at offset: Int
  ) throws(ArtifactError) -> Number {
    let size = MemoryLayout<Number>.size
    guard offset >= 0, offset <= bytes.count, size <= bytes.count - offset else {
      throw ArtifactError(
        path: path, kind: .corrupt, message: "\(what): \(size) bytes at \(offset), beyond its \(bytes.count) bytes")
    }
    return bytes.withUnsafeBytes { Number(littleEndian: $0.loadUnaligned(fromByteOffset: offset, as: Number.self)) }
  }

  /// A 64-bit offset, address or size; those of 2^62 and more exist in no file, and would overflow in sums.
  func size(at offset: Int, _ field: String) throws(ArtifactError) -> Int {
    let value = try load(UInt64.self, at: offset)
    guard value < 1 << 62 else {
      throw ArtifactError(path: path, kind: .corrupt, message: "\(what): \(field) is \(value), which no file can hold")
    }
    return Int(value)
  }
}

extension ELF.Header {
  /// Reads and checks the first 64 bytes of a file of either kind.
  init(_ bytes: [UInt8], path: String) throws(ArtifactError) {
    guard bytes.count >= ELF.headerSize, Array(bytes[..<4]) == ELF.magic else {
      throw ArtifactError(
        path: path, kind: .notAnArtifact, message: "not an artifact of ultrac: it does not begin with an ELF header")
    }
    guard bytes[4] == 2, bytes[5] == 1, bytes[6] == 1, bytes[7] == 0 || bytes[7] == 3 else {
      throw ArtifactError(
        path: path, kind: .notAnArtifact, message: "not an artifact of ultrac: not a 64-bit little-endian ELF file")
    }
    let fields = Bytes(bytes: bytes, path: path, what: "ELF header")
    let machineNumber = try fields.load(UInt16.self, at: 18)
    guard let machine = Machine(rawValue: machineNumber) else {
      throw ArtifactError(
        path: path, kind: .notAnArtifact,
        message: "not an artifact of ultrac: ELF machine \(machineNumber), expected x86_64 (62) or aarch64 (183)")
    }
    type = try fields.load(UInt16.self, at: 16)
    self.machine = machine
    programHeaderOffset = try fields.size(at: 32, "program header offset")
    sectionHeaderOffset = try fields.size(at: 40, "section header offset")
    programHeaderCount = Int(try fields.load(UInt16.self, at: 56))
    sectionHeaderCount = Int(try fields.load(UInt16.self, at: 60))
    sectionNameIndex = Int(try fields.load(UInt16.self, at: 62))
    let programHeaderSize = try fields.load(UInt16.self, at: 54)
    if programHeaderCount > 0, Int(programHeaderSize) != ELF.programHeaderSize {
      throw ArtifactError(
        path: path, kind: .corrupt,
        message: "ELF header: program headers of \(programHeaderSize) bytes, expected \(ELF.programHeaderSize)")
    }
  }
}

extension ELF.ProgramHeader {
  /// Reads the header at `index` of a table of program headers.
  init(_ table: Bytes, index: Int) throws(ArtifactError) {
    let start = index * ELF.programHeaderSize
    type = try table.load(UInt32.self, at: start)
    flags = try table.load(UInt32.self, at: start + 4)
    offset = try table.size(at: start + 8, "offset of segment \(index)")
    address = try table.size(at: start + 16, "address of segment \(index)")
    fileSize = try table.size(at: start + 32, "file size of segment \(index)")
    memorySize = try table.size(at: start + 40, "memory size of segment \(index)")
    alignment = try table.size(at: start + 48, "alignment of segment \(index)")
  }
}
