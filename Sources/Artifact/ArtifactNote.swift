/// The note of an artifact: a fixed header and the manifest, in a section of the file that can be read without loading
/// it, and that the loaded code reads too.
///
///     offset  size  field
///          0    12  note header: name size 6, descriptor size, type 1
///         12     8  name "ULTRA", padded
///         20     8  magic "ULTRAMDL"
///         28     4  format version
///         32     4  header size: bytes from the magic to the manifest
///         36     4  reserved, 0
///         40     8  file size                                         filled in after linking
///         48     8  delta from this field to the weights, in memory   filled in after linking; 0 without weights
///         56     8  weights size                                      filled in after linking
///         64     8  manifest size
///         72     8  CRC-64/XZ of the file with this field zero        filled in after linking
///         80        manifest, JSON; then zeros to a multiple of 4
///
/// The code generator defines two hidden, externally initialized constants with these bytes: one in `sectionName`, one
/// in `weightsSectionName`, and computes the address of the weights as `&note + deltaOffset + load(&note + deltaOffset)`.
public enum ArtifactNote {
  /// Section of the note.
  public static let sectionName = ".note.ultra"
  /// Alignment of the note in memory; its 64-bit fields are aligned no better.
  public static let alignment = 4
  /// Section of the placeholder whose program header becomes that of the weights.
  public static let weightsSectionName = ".note.ultra.weights"
  /// Another alignment than the note's, so that linkers keep two program headers.
  public static let weightsAlignment = 8

  /// The version that is written, and the only one that is read.
  public static let formatVersion: UInt32 = 1
  static let magic = [UInt8]("ULTRAMDL".utf8)
  static let name: [UInt8] = [UInt8]("ULTRA".utf8) + [0]
  static let type: UInt32 = 1
  static let descriptorOffset = 20
  static let versionOffset = 28
  static let headerSizeOffset = 32
  static let fileSizeOffset = 40
  /// Offset of the delta field in the note.
  public static let deltaOffset = 48
  static let weightsSizeOffset = 56
  static let manifestSizeOffset = 64
  static let checksumOffset = 72
  /// Offset of the manifest in the note.
  public static let manifestOffset = 80
  /// The largest manifest that is read or written.
  static let maximumManifestSize = 64 << 20

  /// The bytes of the note for a manifest; the fields known only after linking are zero.
  public static func makeNote(manifest: Manifest) throws(ArtifactError) -> [UInt8] {
    try makeNote(manifest: manifest.encoded())
  }

  /// The bytes of the note for a manifest from `Manifest.encoded()`, whose size the code generator needs too.
  public static func makeNote(manifest: [UInt8]) throws(ArtifactError) -> [UInt8] {
    guard manifest.count <= maximumManifestSize else {
      throw ArtifactError(
        path: "", kind: .invalidInput,
        message: "manifest: \(manifest.count) bytes; at most \(maximumManifestSize) are allowed")
    }
    let headerSize = manifestOffset - descriptorOffset
    var note: [UInt8] = []
    note.reserveCapacity(manifestOffset + manifest.count + 4)
    note.append(littleEndian: UInt32(name.count))
    note.append(littleEndian: UInt32(headerSize + manifest.count))
    note.append(littleEndian: type)
    note += name + [0, 0]
    note += magic
    note.append(littleEndian: formatVersion)
    note.append(littleEndian: UInt32(headerSize))
    note.append(littleEndian: UInt32(0))
    for _ in 0..<3 { note.append(littleEndian: UInt64(0)) }
    note.append(littleEndian: UInt64(manifest.count))
    note.append(littleEndian: UInt64(0))
    note += manifest
    while note.count % alignment != 0 { note.append(0) }
    return note
  }

  /// The bytes of the placeholder in `weightsSectionName`: a note of type 2 with eight zero bytes.
  public static let weightsPlaceholder: [UInt8] = {
    var note: [UInt8] = []
    note.append(littleEndian: UInt32(name.count))
    note.append(littleEndian: UInt32(8))
    note.append(littleEndian: UInt32(2))
    note += name
    return note + [UInt8](repeating: 0, count: 32 - note.count)
  }()
}

extension Array where Element == UInt8 {
  mutating func append(littleEndian value: some FixedWidthInteger) {
    Swift.withUnsafeBytes(of: value.littleEndian) { append(contentsOf: $0) }
  }

  /// Overwrites bytes from `offset` on. The caller has checked the bounds.
  mutating func store(_ value: some FixedWidthInteger, at offset: Int) {
    Swift.withUnsafeBytes(of: value.littleEndian) { bytes in
      for (index, byte) in bytes.enumerated() { self[offset + index] = byte }
    }
  }
}
