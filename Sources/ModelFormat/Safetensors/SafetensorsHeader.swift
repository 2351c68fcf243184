/// The header of a safetensors file, checked against the file's length.
///
/// The format: 8 bytes, little-endian, with the length of the header; the header, a JSON object that begins with `{`
/// and may end in spaces; then the tensors' bytes, which cover the rest of the file without a gap.
struct SafetensorsHeader {
  /// The format's own limit.
  static let lengthLimit = 100_000_000

  var entries: [SafetensorsEntry]
  var metadata: [(key: String, value: String)]

  init(bytes: UnsafeRawBufferPointer, file: String) throws(ModelError) {
    guard bytes.count >= 8 else {
      throw ModelError(.malformed, file: file, "a safetensors file has at least 8 bytes, found \(bytes.count)")
    }
    let length = UInt64(littleEndian: bytes.loadUnaligned(as: UInt64.self))
    guard length <= UInt64(bytes.count - 8) else {
      throw ModelError(
        .malformed, file: file, "the header takes \(length) bytes, but only \(bytes.count - 8) follow",
        hint: "the file may be cut short")
    }
    guard length <= UInt64(Self.lengthLimit) else {
      throw ModelError(.malformed, file: file, "the header takes \(length) bytes, the limit is \(Self.lengthLimit)")
    }
    let dataStart = 8 + Int(length)
    guard length > 0, bytes[8] == UInt8(ascii: "{") else {
      throw ModelError(.malformed, file: file, "the header must begin with '{'", hint: "is this a safetensors file?")
    }
    let document = try JSONDocument(
      bytes: UnsafeRawBufferPointer(rebasing: bytes[8..<dataStart]), file: "\(file): header")
    var reader = Reader(file: file, dataStart: dataStart, dataCount: bytes.count - dataStart)
    guard case .object(let members) = document.root.value else {
      throw ModelError(.malformed, file: file, "the header must be a JSON object")
    }
    for member in members { try reader.read(member) }
    try reader.checkCoverage()
    entries = reader.entries
    metadata = reader.metadata
  }

  private struct Reader {
    let file: String
    let dataStart: Int
    let dataCount: Int
    var entries: [SafetensorsEntry] = []
    var metadata: [(key: String, value: String)] = []

    func error(_ name: String, _ message: String, hint: String? = nil) -> ModelError {
      ModelError(.malformed, file: file, place: "tensor \(quoted(name))", message, hint: hint)
    }

    mutating func read(_ member: JSONMember) throws(ModelError) {
      let name = member.key
      guard case .object(let fields) = member.value.value else {
        throw error(name, "its header entry must be an object")
      }
      if name == "__metadata__" {
        for field in fields {
          guard case .string(let text) = field.value.value else {
            throw ModelError(
              .malformed, file: file, place: "__metadata__", "the value of \(quoted(field.key)) must be a string")
          }
          metadata.append((field.key, text))
        }
        return
      }
      let known = ["dtype", "shape", "data_offsets"]
      for field in fields where !known.contains(field.key) {
        throw error(name, "unknown key \(quoted(field.key)) in its header entry, expected \(alternatives(known))")
      }
      let type = try type(name, member.value["dtype"])
      let shape = try integers(name, "shape", member.value["shape"])
      let offsets = try integers(name, "data_offsets", member.value["data_offsets"])
      guard offsets.count == 2, offsets[0] <= offsets[1], offsets[1] <= dataCount else {
        throw error(
          name, "data_offsets \(offsets) must be two offsets in order within the \(dataCount) bytes of data",
          hint: "the file may be cut short")
      }
      let count = offsets[1] - offsets[0]
      guard let expected = byteCount(type, shape) else {
        throw error(name, "shape \(shape) of \(type.rawValue) has no size in whole bytes")
      }
      guard count == expected else {
        throw error(name, "shape \(shape) of \(type.rawValue) takes \(expected) bytes, but data_offsets give \(count)")
      }
      entries.append(
        SafetensorsEntry(
          name: name, dtype: type, shape: shape, range: dataStart + offsets[0]..<dataStart + offsets[1]))
    }

    private func type(_ name: String, _ node: JSONNode?) throws(ModelError) -> SafetensorsType {
      guard case .string(let text)? = node?.value else { throw error(name, "dtype must be a string") }
      guard let type = SafetensorsType(rawValue: text) else {
        throw error(
          name, "unknown dtype \(quoted(text)), expected \(alternatives(SafetensorsType.allCases.map(\.rawValue)))")
      }
      return type
    }

    private func integers(_ name: String, _ field: String, _ node: JSONNode?) throws(ModelError) -> [Int] {
      guard case .array(let nodes)? = node?.value else {
        throw error(name, "\(field) must be an array of non-negative integers")
      }
      var result: [Int] = []
      for node in nodes {
        guard case .number(let number) = node.value, let value = number.integer, value >= 0 else {
          throw error(name, "\(field) must be an array of non-negative integers")
        }
        result.append(value)
      }
      return result
    }

    /// nil where the product overflows or does not fill whole bytes.
    private func byteCount(_ type: SafetensorsType, _ shape: [Int]) -> Int? {
      // A zero anywhere makes the size zero, whatever the other extents multiply to.
      if shape.contains(0) { return 0 }
      var bits = type.bitCount
      for extent in shape {
        let (product, overflow) = bits.multipliedReportingOverflow(by: extent)
        if overflow { return nil }
        bits = product
      }
      return bits % 8 == 0 ? bits / 8 : nil
    }

    /// Sorts the entries by place and checks that they follow one another from the first byte to the last.
    mutating func checkCoverage() throws(ModelError) {
      entries.sort {
        ($0.range.lowerBound, $0.range.upperBound, $0.name) < ($1.range.lowerBound, $1.range.upperBound, $1.name)
      }
      var end = dataStart
      var previous: SafetensorsEntry?
      for entry in entries {
        let start = entry.range.lowerBound
        if start < end, let previous {
          throw error(entry.name, "its bytes overlap those of tensor \(quoted(previous.name))")
        }
        if start > end {
          throw error(entry.name, "\(start - end) bytes before it belong to no tensor")
        }
        end = entry.range.upperBound
        previous = entry
      }
      let rest = dataStart + dataCount - end
      if rest > 0 {
        throw ModelError(.malformed, file: file, "\(rest) bytes at the end belong to no tensor")
      }
    }
  }
}
