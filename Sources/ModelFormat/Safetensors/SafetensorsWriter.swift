import TensorIR

/// Writing safetensors files.
public enum Safetensors {
  /// Writes a file whole or not at all. The bytes depend on the tensors alone, not on their order: the widest elements
  /// come first, so that each tensor is aligned to its element, then by name.
  ///
  /// Throws `inaccessible` where the system refuses, `malformed` where a name appears twice or is `__metadata__`.
  public static func write(
    _ tensors: [(name: String, tensor: HostTensor)], to path: String, metadata: [(key: String, value: String)] = []
  ) throws(ModelError) {
    let bytes = try encode(tensors, name: path, metadata: metadata)
    let written = bytes.withUnsafeBytes { bytes in
      Result { () throws(ModelError) in try writeAtomically([bytes], to: path) }
    }
    try written.get()
  }

  /// The bytes of such a file. `name` stands for a path in errors.
  public static func encode(
    _ tensors: [(name: String, tensor: HostTensor)], name: String, metadata: [(key: String, value: String)] = []
  ) throws(ModelError) -> [UInt8] {
    let sorted = tensors.sorted {
      ($1.tensor.element.byteCount, $0.name) < ($0.tensor.element.byteCount, $1.name)
    }
    var seen: Set<String> = ["__metadata__"]
    var fields: [String] = []
    if !metadata.isEmpty {
      let pairs = metadata.map { "\(jsonLiteral($0.key)):\(jsonLiteral($0.value))" }
      fields.append("\"__metadata__\":{\(pairs.joined(separator: ","))}")
    }
    var offset = 0
    for (tensorName, tensor) in sorted {
      guard seen.insert(tensorName).inserted else {
        throw ModelError(.malformed, file: name, place: "tensor \(quoted(tensorName))", "the name is taken already")
      }
      let end = offset + tensor.bytes.count
      let type = SafetensorsType(tensor.element).rawValue
      let shape = tensor.shape.map(String.init).joined(separator: ",")
      fields.append(
        "\(jsonLiteral(tensorName)):{\"dtype\":\"\(type)\",\"shape\":[\(shape)],\"data_offsets\":[\(offset),\(end)]}")
      offset = end
    }
    var header = Array("{\(fields.joined(separator: ","))}".utf8)
    header.append(contentsOf: repeatElement(UInt8(ascii: " "), count: (8 - header.count % 8) % 8))
    var bytes: [UInt8] = []
    bytes.reserveCapacity(8 + header.count + offset)
    withUnsafeBytes(of: UInt64(header.count).littleEndian) { bytes.append(contentsOf: $0) }
    bytes.append(contentsOf: header)
    for (_, tensor) in sorted { bytes.append(contentsOf: tensor.bytes) }
    return bytes
  }
}
