/// What a code object of AMD's says of itself in its note, a map in MessagePack (LLVM, "User Guide for AMDGPU Backend", "Code Object
/// V5 Metadata").
struct CodeObjectMetadata {
  /// What each kernel takes, by name.
  var resources: [String: KernelResources] = [:]

  /// Reads the note of a code object. Throws where there is none, or it says not what it should.
  init(_ code: [UInt8]) throws {
    var note = ByteCursor(try Self.note(of: code))
    guard case .map(let fields) = try MessagePack(&note), case .array(let kernels)? = fields["amdhsa.kernels"] else {
      throw Self.error("its note has no amdhsa.kernels")
    }
    for kernel in kernels {
      guard case .map(let fields) = kernel, case .text(let name)? = fields[".name"],
        case .integer(let registers)? = fields[".vgpr_count"],
        case .integer(let scratch)? = fields[".private_segment_fixed_size"]
      else { throw Self.error("a kernel without .name, .vgpr_count or .private_segment_fixed_size") }
      resources[name] = KernelResources(registers: registers, spilledBytes: scratch)
    }
  }

  fileprivate static func error(_ what: String) -> DriverError {
    DriverError("the code object cannot be read: \(what)")
  }

  /// The contents of the note: of ELF's segments of notes, the one of owner AMDGPU and type 32.
  private static func note(of code: [UInt8]) throws -> ArraySlice<UInt8> {
    guard code.starts(with: [0x7F, 0x45, 0x4C, 0x46, 2, 1]) else { throw error("no 64-bit ELF file") }
    var header = ByteCursor(code[...])
    try header.skip(32)
    let table = try header.integer(8)
    try header.skip(14)
    let (size, count) = (try header.integer(2), try header.integer(2))
    for index in 0..<count {
      var segment = ByteCursor(code[...])
      try segment.skip(table)
      try segment.skip(index * size)
      guard try segment.integer(4) == 4 else { continue }
      try segment.skip(4)
      let offset = try segment.integer(8)
      try segment.skip(16)
      let length = try segment.integer(8)
      var notes = ByteCursor(code[...])
      try notes.skip(offset)
      notes = ByteCursor(try notes.bytes(length))
      while !notes.isAtEnd {
        let (nameSize, contentSize, type) = (try notes.integer(4), try notes.integer(4), try notes.integer(4))
        let name = try notes.bytes(nameSize, alignment: 4)
        let content = try notes.bytes(contentSize, alignment: 4)
        if type == 32, name.starts(with: "AMDGPU".utf8) { return content }
      }
    }
    throw error("no note of AMDGPU")
  }
}

/// Bytes that are read one after the other; what is not there is an error.
private struct ByteCursor {
  private var rest: ArraySlice<UInt8>

  init(_ bytes: ArraySlice<UInt8>) { rest = bytes }

  var isAtEnd: Bool { rest.isEmpty }

  /// The next bytes; others behind them make their count a multiple of `alignment`, unless these are the last.
  mutating func bytes(_ count: Int, alignment: Int = 1) throws -> ArraySlice<UInt8> {
    guard count >= 0, count <= rest.count else { throw CodeObjectMetadata.error("it ends too early") }
    let result = rest.prefix(count)
    rest = rest.dropFirst(count).dropFirst((alignment - count % alignment) % alignment)
    return result
  }

  mutating func skip(_ count: Int) throws { _ = try bytes(count) }

  mutating func byte() throws -> UInt8 {
    let byte = try bytes(1)
    return byte[byte.startIndex]
  }

  /// A number without a sign, its lowest byte first, or last.
  mutating func integer(_ size: Int, bigEndian: Bool = false) throws -> Int {
    let bytes = try bytes(size)
    let value = (bigEndian ? Array(bytes) : bytes.reversed()).reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
    guard let result = Int(exactly: value) else { throw CodeObjectMetadata.error("a number past 2^63") }
    return result
  }
}

/// A value in MessagePack, as much of that as metadata has.
private indirect enum MessagePack {
  case integer(Int)
  case text(String)
  case array([MessagePack])
  case map([String: MessagePack])
  /// Nothing, true or false.
  case other

  init(_ cursor: inout ByteCursor, depth: Int = 0) throws {
    guard depth < 16 else { throw CodeObjectMetadata.error("it is nested too deep") }
    let head = try cursor.byte()
    func text(_ count: Int) throws -> MessagePack { .text(String(decoding: try cursor.bytes(count), as: UTF8.self)) }
    func array(_ count: Int) throws -> MessagePack {
      var elements: [MessagePack] = []
      for _ in 0..<count { elements.append(try MessagePack(&cursor, depth: depth + 1)) }
      return .array(elements)
    }
    func map(_ count: Int) throws -> MessagePack {
      var fields: [String: MessagePack] = [:]
      for _ in 0..<count {
        guard case .text(let key) = try MessagePack(&cursor, depth: depth + 1) else {
          throw CodeObjectMetadata.error("a key that is no text")
        }
        fields[key] = try MessagePack(&cursor, depth: depth + 1)
      }
      return .map(fields)
    }
    func size(_ first: UInt8, bytes: Int = 1) throws -> Int {
      try cursor.integer(bytes << Int(head - first), bigEndian: true)
    }
    switch head {
    case 0x00...0x7F: self = .integer(Int(head))
    case 0x80...0x8F: self = try map(Int(head & 15))
    case 0x90...0x9F: self = try array(Int(head & 15))
    case 0xA0...0xBF: self = try text(Int(head & 31))
    case 0xC0, 0xC2, 0xC3: self = .other
    case 0xCC...0xCF: self = .integer(try size(0xCC))
    case 0xD9...0xDB: self = try text(try size(0xD9))
    case 0xDC...0xDD: self = try array(try size(0xDC, bytes: 2))
    case 0xDE...0xDF: self = try map(try size(0xDE, bytes: 2))
    default: throw CodeObjectMetadata.error("a value of kind \(head)")
    }
  }
}
