import Foundation
import ModelFormat
import TensorIR
import TestSupport
import Testing

@Suite struct SafetensorsTests {
  /// A file with this header over so many bytes of data.
  private func file(_ header: String, data: Int = 0) -> [UInt8] {
    let header = Array(header.utf8)
    return withUnsafeBytes(of: UInt64(header.count).littleEndian, Array.init) + header
      + [UInt8](repeating: 0, count: data)
  }

  private func fault(_ bytes: [UInt8]) -> String? {
    do {
      _ = try SafetensorsFile(bytes: bytes, name: "w.safetensors")
      return nil
    } catch {
      return "\(error)"
    }
  }

  private var tensors: [(name: String, tensor: HostTensor)] {
    get throws {
      try [
        ("b", HostTensor([1, 2, 3, 4, 5, 6] as [Float], shape: [2, 3])),
        ("ids", HostTensor([1, -2, .max] as [Int64])),
        ("a \"quoted\"\n", HostTensor([0.5, -0.25] as [Double])),
        ("flags", HostTensor(element: .bool, shape: [3], bytes: [1, 0, 1])),
        ("empty", HostTensor([] as [Float], shape: [0, 4])),
        ("scalar", HostTensor([7] as [Float], shape: [])),
        ("half", HostTensor(element: .f16, shape: [1], bytes: [0, 0x3C])),
        ("brain", HostTensor(element: .bf16, shape: [1], bytes: [0x80, 0x3F])),
        ("int", HostTensor(element: .i32, shape: [1], bytes: [0xFF, 0xFF, 0xFF, 0xFF])),
        ("byte", HostTensor(element: .u8, shape: [2], bytes: [200, 3])),
      ]
    }
  }

  @Test func writesAndReadsEveryType() throws {
    try withTemporaryFolder { folder in
      let path = folder.appendingPathComponent("t.safetensors").path
      try Safetensors.write(tensors, to: path, metadata: [("source", "a \\ test")])
      let file = try SafetensorsFile(path: path)
      #expect(file.names == (try tensors.map(\.name).sorted()))
      #expect(file.metadata.map { "\($0.key)=\($0.value)" } == ["source=a \\ test"])
      for (name, tensor) in try tensors { #expect(try file.tensor(named: name) == tensor) }
      #expect(try file.tensor(named: "half").floats == [1])
      #expect(try file.tensor(named: "brain").floats == [1])
      // Nothing else is left in the folder.
      #expect(try FileManager.default.contentsOfDirectory(atPath: folder.path) == ["t.safetensors"])
    }
  }

  @Test func bytesDoNotDependOnTheOrderGiven() throws {
    #expect(
      try Safetensors.encode(tensors, name: "t") == Safetensors.encode(tensors.reversed(), name: "t"))
  }

  @Test func alignsTensorsToTheirElements() throws {
    let file = try SafetensorsFile(bytes: Safetensors.encode(tensors, name: "t"), name: "t")
    for entry in file.entries { #expect(entry.range.lowerBound * 8 % entry.dtype.bitCount == 0) }
  }

  @Test func refusesTwoTensorsOfOneName() throws {
    let tensor = HostTensor([1] as [Float])
    #expect(throws: ModelError.self) { try Safetensors.encode([("a", tensor), ("a", tensor)], name: "t") }
    #expect(throws: ModelError.self) { try Safetensors.encode([("__metadata__", tensor)], name: "t") }
  }

  @Test func leavesAnOldFileWhereWritingFails() throws {
    try withTemporaryFolder { folder in
      let path = folder.appendingPathComponent("none/t.safetensors").path
      #expect(throws: ModelError(.inaccessible, file: path, "cannot be written: No such file or directory")) {
        try Safetensors.write([], to: path)
      }
      // A folder of the same name cannot be replaced by a file.
      let taken = folder.appendingPathComponent("taken")
      try FileManager.default.createDirectory(at: taken, withIntermediateDirectories: false)
      #expect(throws: ModelError.self) { try Safetensors.write([], to: taken.path) }
      #expect(try FileManager.default.contentsOfDirectory(atPath: folder.path) == ["taken"])
    }
  }

  @Test func namesWhatCannotBeOpened() throws {
    try withTemporaryFolder { folder in
      #expect(
        throws: ModelError(.inaccessible, file: folder.path + "/x", "cannot be opened: No such file or directory")
      ) { try SafetensorsFile(path: folder.path + "/x") }
      #expect(throws: ModelError(.inaccessible, file: folder.path, "is not a regular file")) {
        try SafetensorsFile(path: folder.path)
      }
    }
  }

  @Test func refusesUseOfTypesWithoutOne() throws {
    let header =
      #"{"q":{"dtype":"F8_E5M2","shape":[2],"data_offsets":[0,2]},"x":{"dtype":"I8","shape":[1],"data_offsets":[2,3]}}"#
    let file = try SafetensorsFile(bytes: file(header, data: 3), name: "w.safetensors")
    do {
      _ = try file.tensor(named: "q")
      Issue.record("accepted")
    } catch {
      #expect(
        "\(error)"
          == "w.safetensors: tensor \"q\": elements of type F8_E5M2 cannot be used, expected F64, F32, F16, BF16, I64, I32, U8, BOOL, I8 or F8_E4M3"
      )
    }
    do {
      _ = try file.tensor(named: "weight")
      Issue.record("accepted")
    } catch {
      #expect("\(error)" == "w.safetensors: tensor \"weight\": there is no tensor of this name")
    }
  }

  @Test func findsFaultsOfTheHeader() {
    func entry(_ fields: String) -> String { "{\"w\":{\(fields)}}" }
    let cases: [(bytes: [UInt8], message: String)] = [
      ([1, 2, 3], "w.safetensors: a safetensors file has at least 8 bytes, found 3"),
      (
        [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF],
        "w.safetensors: the header takes 18446744073709551615 bytes, but only 0 follow; the file may be cut short"
      ),
      ([0, 0, 0, 0, 0, 0, 0, 0], "w.safetensors: the header must begin with '{'; is this a safetensors file?"),
      (file("[]"), "w.safetensors: the header must begin with '{'; is this a safetensors file?"),
      (file("{"), "w.safetensors: header:1: column 2: expected a key in quotes, found the end of the text"),
      (file("{\"w\":3}"), "w.safetensors: tensor \"w\": its header entry must be an object"),
      (
        file(entry("\"dtype\":\"F33\",\"shape\":[1],\"data_offsets\":[0,4]"), data: 4),
        "w.safetensors: tensor \"w\": unknown dtype \"F33\", expected F64, F32, F16, BF16, I64, I32, U8, BOOL, I16, I8, U16, U32, U64, F8_E4M3, F8_E5M2, F8_E8M0, F6_E2M3, F6_E3M2, F4 or C64"
      ),
      (
        file(entry("\"shape\":[1],\"data_offsets\":[0,4]"), data: 4),
        "w.safetensors: tensor \"w\": dtype must be a string"
      ),
      (
        file(entry("\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]"), data: 4),
        "w.safetensors: tensor \"w\": shape must be an array of non-negative integers"
      ),
      (
        file(entry("\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]"), data: 4),
        "w.safetensors: tensor \"w\": shape must be an array of non-negative integers"
      ),
      (
        file(entry("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":1"), data: 4),
        "w.safetensors: tensor \"w\": unknown key \"x\" in its header entry, expected dtype, shape or data_offsets"
      ),
      (
        file(entry("\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]"), data: 4),
        "w.safetensors: tensor \"w\": data_offsets [0, 8] must be two offsets in order within the 4 bytes of data; the file may be cut short"
      ),
      (
        file(entry("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]"), data: 4),
        "w.safetensors: tensor \"w\": data_offsets [4, 0] must be two offsets in order within the 4 bytes of data; the file may be cut short"
      ),
      (
        file(entry("\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]"), data: 8),
        "w.safetensors: tensor \"w\": shape [3] of F32 takes 12 bytes, but data_offsets give 8"
      ),
      (
        file(entry("\"dtype\":\"F32\",\"shape\":[4611686018427387904,4],\"data_offsets\":[0,0]")),
        "w.safetensors: tensor \"w\": shape [4611686018427387904, 4] of F32 has no size in whole bytes"
      ),
      (
        file(entry("\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,2]"), data: 2),
        "w.safetensors: tensor \"w\": shape [3] of F4 has no size in whole bytes"
      ),
      (
        file(entry("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]"), data: 3),
        "w.safetensors: 2 bytes at the end belong to no tensor"
      ),
      (
        file(entry("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[2,3]"), data: 3),
        "w.safetensors: tensor \"w\": 2 bytes before it belong to no tensor"
      ),
      (
        file(
          "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}",
          data: 3), "w.safetensors: tensor \"b\": its bytes overlap those of tensor \"a\""
      ),
      (file("{\"__metadata__\":{\"k\":1}}"), "w.safetensors: __metadata__: the value of \"k\" must be a string"),
      (
        file("{\"w\":{},\"w\":{}}"),
        "w.safetensors: header:1: column 9: the key \"w\" appears twice in one object, first on line 1"
      ),
    ]
    for (bytes, message) in cases { #expect(fault(bytes) == message) }
    #expect(fault(file("{}   ")) == nil)
    #expect(fault(file(entry("\"dtype\":\"F32\",\"shape\":[0,9223372036854775807,9],\"data_offsets\":[0,0]"))) == nil)
  }

  /// Files cut short or with bytes changed: each is refused with an error of ours or read as a valid file, and what is
  /// read is as large as its shape says.
  @Test(arguments: ["attn_semilocal_tail_small", "research_2layer", "l2_concat_back"])
  func survivesDamage(name: String) throws {
    let original = try [UInt8](Data(contentsOf: URL(fileURLWithPath: "\(goldenFolder)/\(name).safetensors")))
    let headerEnd = 8 + original[0..<8].enumerated().reduce(0) { $0 + Int($1.element) << (8 * $1.offset) }
    var random = SplitMix(seed: 0x5AFE)
    var refused = 0
    for _ in 0..<400 {
      var bytes = original
      switch random.next(below: 4) {
      case 0: bytes.removeLast(1 + random.next(below: bytes.count))
      case 1: bytes.append(contentsOf: [UInt8](repeating: 0, count: 1 + random.next(below: 16)))
      case 2:
        for _ in 0...random.next(below: 4) {
          bytes[random.next(below: headerEnd)] = UInt8(random.next(below: 256))
        }
      default:
        // A digit becomes another one: shapes and offsets that lie.
        let digits = (8..<headerEnd).filter { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(bytes[$0]) }
        for _ in 0...random.next(below: 3) {
          bytes[digits[random.next(below: digits.count)]] = UInt8(ascii: "0") + UInt8(random.next(below: 10))
        }
      }
      do {
        let file = try SafetensorsFile(bytes: bytes, name: name)
        for entry in file.entries where entry.dtype.element != nil {
          let tensor = try file.tensor(named: entry.name)
          #expect(tensor.bytes.count * 8 == entry.shape.reduce(entry.dtype.bitCount, *))
        }
      } catch {
        #expect(error.description.hasPrefix(name))
        refused += 1
      }
    }
    #expect(refused > 300, "damage went unnoticed")
  }
}

/// SplitMix64: small, seeded, the same everywhere.
struct SplitMix {
  private var state: UInt64
  init(seed: UInt64) { state = seed }

  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var mixed = state
    mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
    mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
    return mixed ^ (mixed >> 31)
  }

  mutating func next(below bound: Int) -> Int { Int(next() % UInt64(bound)) }

  /// A number in -1..<1.
  mutating func nextNumber() -> Float { Float(next() >> 40) / Float(1 << 23) - 1 }
}
