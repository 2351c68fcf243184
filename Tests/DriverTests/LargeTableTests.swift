import Driver
import Foundation
import ModelFormat
import TensorIR
import TestSupport
import Testing
import UltraRuntime

/// Tables that need not fit in memory: what compiling one takes, and what loading one takes.
@Suite struct LargeTableTests {
  private static let width = 256
  /// 268 MB of fp32.
  private static let rows = 1 << 18

  /// A model that looks rows of one table up, or that ranks its rows too.
  private static func write(rows: Int, ranks: Bool = false, type: String = "F32", in folder: URL) throws {
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    let size = rows * width * (type == "F32" ? 4 : 2)
    var header = "{\"item\":{\"dtype\":\"\(type)\",\"shape\":[\(rows),\(width)],\"data_offsets\":[0,\(size)]}}"
    header += String(repeating: " ", count: (8 - header.utf8.count % 8) % 8)
    let path = folder.appendingPathComponent("weights.safetensors")
    try (withUnsafeBytes(of: UInt64(header.utf8.count).littleEndian) { Data($0) } + Data(header.utf8)).write(to: path)
    let file = try FileHandle(forUpdating: path)
    // Nothing but zeros, which take no room on the disk; numbers in the first and last rows.
    try file.truncate(atOffset: UInt64(8 + header.utf8.count + size))
    if type == "F32" {
      var random = Random(seed: 2)
      for row in [0, rows - 1] {
        try file.seek(toOffset: UInt64(8 + header.utf8.count + row * width * 4))
        try file.write(contentsOf: Data(random.tensor([width]).bytes))
      }
    }
    try file.close()
    let ranking = "\"top_k\": {\"k\": 5, \"first_row\": 0, \"norm\": {\"kind\": \"none\"}, \"seen\": \"keep\"}"
    try """
    {
      "format": "ultrac-model/1", "name": "table", "weights": ["weights.safetensors"], "width": \(width),
      "names": {"preset": "none", "map": {"item_table": "item"}},
      "input": {"kind": "embedding", "item": {"rows": \(rows)}}, "layers": [],
      "output": {"rows": "\(ranks ? "last" : "all")", "norm": {"kind": "none"}\(ranks ? ", " + ranking : "")}
    }
    """.write(to: folder.appendingPathComponent("model.json"), atomically: true, encoding: .utf8)
  }

  // MARK: - Compiling

  /// The most memory that a compilation had, in bytes, pages of files that it had mapped among them.
  private static func peak(
    ofCompiling rows: Int, _ options: String = "", ranks: Bool = false, type: String = "F32"
  ) throws -> Int {
    try withTemporaryFolder { folder in
      try write(rows: rows, ranks: ranks, type: type, in: folder)
      let arguments = ["compile", "model.json", "--target-cpu", "x86-64-v3"]
      let process = ultracProcess(
        arguments + (options.isEmpty ? [] : ["--rewrite", "lower-precision{\(options)}"]), in: folder)
      process.standardOutput = FileHandle.nullDevice
      try process.run()
      // The system keeps the peak as long as the process is there; it ends only after the file is on the disk.
      var peak = 0
      while let status = try? lines("/proc/\(process.processIdentifier)/status"), process.isRunning {
        if let line = status.first(where: { $0.hasPrefix("VmHWM:") }),
          let kilobytes = line.split(separator: " ").dropFirst().first.flatMap({ Int($0) })
        {
          peak = max(peak, kilobytes << 10)
        }
        usleep(2000)
      }
      process.waitUntilExit()
      #expect(process.terminationStatus == 0)
      return peak
    }
  }

  /// What the compiler takes for itself is that of a table of no size; threads hold a window and what becomes of it each.
  private static let allowance = 100 << 20

  private static let small = Shared { try peak(ofCompiling: 64, ranks: true) }

  @Test(arguments: ["", "tables=fp16", "tables=int8", "tables=int4"])
  func compilingALookupTakesLittleMemory(options: String) throws {
    let small = try Self.small.get()
    let large = try Self.peak(ofCompiling: Self.rows, options)
    #expect(small > 10 << 20, "the peak was not seen")
    #expect(large < small + Self.allowance, "\(large >> 20) MiB, of a small table \(small >> 20) MiB")
  }

  @Test func compilingAHalfPrecisionTableTakesLittleMemory() throws {
    let large = try Self.peak(ofCompiling: 2 * Self.rows, "tables=int4", type: "BF16")
    #expect(large < (try Self.small.get()) + Self.allowance, "\(large >> 20) MiB")
  }

  @Test(arguments: ["", "items=bf16", "items=int8", "items=int4"])
  func compilingARankingTakesLittleMemory(options: String) throws {
    let large = try Self.peak(ofCompiling: Self.rows, options, ranks: true)
    #expect(large < (try Self.small.get()) + Self.allowance, "\(large >> 20) MiB")
  }

  @Test func progressIsShownToPeopleOnly() throws {
    #expect(
      Progress(phrase: "packing weights", done: 430_000_000, total: 1_320_000_000, seconds: 2).line
        == "packing weights [#######.................] 32 % of 1.32 GB, 215 MB/s, 4 s left")
    #expect(Progress(phrase: "x", done: 0, total: 0, seconds: 0).line == "x [########################] 100 % of 0 B")
    try withTemporaryFolder { folder in
      try Self.write(rows: 1000, in: folder)
      let (primary, terminal) = try Self.terminal()
      defer { for end in [primary, terminal] { close(end) } }
      let process = ultracProcess(["compile", "model.json", "--json"], in: folder)
      process.standardOutput = FileHandle.nullDevice
      process.standardError = FileHandle(fileDescriptor: terminal, closeOnDealloc: false)
      try process.run()
      process.waitUntilExit()
      #expect(process.terminationStatus == 0)
      var bytes = [UInt8](repeating: 0, count: 1 << 16)
      let count = read(primary, &bytes, bytes.count)
      let text = String(decoding: bytes.prefix(max(count, 0)), as: UTF8.self)
      #expect(text.contains("reading weights [########################] 100 % of 1.02 MB"), "\(text)")
      #expect(text.contains("packing weights [########################] 100 % of 1.02 MB"), "\(text)")
      #expect(text.hasSuffix("\r\u{1B}[K"))
    }
  }

  /// Both ends of a terminal: what is written to the second is read from the first.
  private static func terminal() throws -> (primary: Int32, secondary: Int32) {
    let primary = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK)
    // Unlocks the other end, and gives its number.
    var (lock, number): (Int32, UInt32) = (0, 0)
    try #require(primary >= 0 && ioctl(primary, 0x4004_5431, &lock) == 0 && ioctl(primary, 0x8004_5430, &number) == 0)
    return (primary, open("/dev/pts/\(number)", O_RDWR | O_NOCTTY))
  }

  // MARK: - Loading

  /// A file of /proc, which says of itself that it is empty.
  private static func lines(_ path: String) throws -> [Substring] {
    let file = try FileHandle(forReadingFrom: URL(fileURLWithPath: path))
    defer { try? file.close() }
    return String(decoding: try file.readToEnd() ?? Data(), as: UTF8.self).split(separator: "\n")
  }

  /// What /proc/PID/smaps says of a process's mappings of a file.
  private struct Mapping {
    /// Numbers by their names, in bytes.
    var numbers: [String: Int] = [:]
    /// What the system was told, by two letters each.
    var flags: [Substring] = []

    subscript(name: String) -> Int { numbers[name] ?? 0 }
  }

  /// The mappings of the file at `path`, the largest last.
  private static func mappings(of path: String, in process: String) throws -> [Mapping] {
    var found: [Mapping] = []
    var isOfFile = false
    for line in try lines("/proc/\(process)/smaps") {
      let words = line.split(separator: " ")
      if let first = words.first, first.contains("-"), !first.hasSuffix(":") {
        isOfFile = line.hasSuffix(path)
        if isOfFile { found.append(Mapping()) }
      } else if isOfFile, words.first == "VmFlags:" {
        found[found.count - 1].flags = Array(words.dropFirst())
      } else if isOfFile, words.count == 3, let kilobytes = Int(words[1]) {
        found[found.count - 1].numbers[String(words[0].dropLast())] = kilobytes << 10
      }
    }
    return found.sorted { $0["Size"] < $1["Size"] }
  }

  private static func ids(_ ids: [Int64]) throws -> [String: Tensor] {
    try [
      "item_ids": Tensor(HostTensor(ids)), "offsets": Tensor(HostTensor([0, Int64(ids.count)])),
    ]
  }

  @Test func onlyRowsThatAreReadBecomeResident() throws {
    try withTemporaryFolder { folder in
      try Self.write(rows: Self.rows, in: folder)
      #expect(try ultrac("compile", "model.json", in: folder).status == 0)
      let path = folder.appendingPathComponent("model.ultra").path
      let model = try LoadedModel(path: path, verification: .full)
      let size = Self.rows * Self.width * 4
      let before = try #require(try Self.mappings(of: path, in: "self").last)
      #expect(before["Size"] >= size)
      #expect(before["Rss"] < 4 << 20, "loading reads no weights through the mapping")
      let result = try model.run(inputs: Self.ids([0, Int64(Self.rows) - 1]))
      let numbers = try #require(result.first).tensor.values(as: Float.self)
      #expect(numbers.count == 2 * Self.width && numbers.contains { $0 != 0 })
      // However much around a row the system maps with it, it is far from the whole.
      let after = try #require(try Self.mappings(of: path, in: "self").last)
      #expect((1...size / 8).contains(after["Rss"]), "\(after)")
      #expect(after["Private_Dirty"] == 0 && after["Anonymous"] == 0)
    }
  }

  /// The system's read-ahead, in vain for single rows, is for files that fit in memory.
  @Test func tablesLargerThanMemoryAreReadByRows() throws {
    try withTemporaryFolder { folder in
      try Self.write(rows: Self.rows, in: folder)
      #expect(try ultrac("compile", "model.json", in: folder).status == 0)
      let path = folder.appendingPathComponent("model.ultra").path
      for memory in [1 << 40, Self.rows * Self.width] {
        let model = try LoadedModel(path: path, verification: .structure, memory: memory)
        let table = try #require(try Self.mappings(of: path, in: "self").last)
        #expect(table.flags.contains("rr") == (memory < 1 << 40), "\(table)")
        #expect(try model.run(inputs: Self.ids([7])).first?.tensor.shape == [1, Self.width])
      }
    }
  }

  @Test func processesShareATable() throws {
    try withTemporaryFolder { folder in
      let rows = Self.rows / 8
      try Self.write(rows: rows, in: folder)
      #expect(try ultrac("compile", "model.json", in: folder).status == 0)
      let path = folder.appendingPathComponent("model.ultra").path
      // It looks rows up until it is told to stop.
      let other = ultracProcess(["bench", path, "--lengths", "4096", "--seconds", "600"])
      let errors = Pipe()
      other.standardOutput = FileHandle.nullDevice
      other.standardError = errors
      try other.run()
      defer {
        other.terminate()
        other.waitUntilExit()
      }
      let model = try LoadedModel(path: path)
      _ = try model.run(inputs: Self.ids((0..<Int64(rows)).map(\.self)))
      let whole = rows * Self.width * 4
      while other.isRunning {
        if let theirs = try Self.mappings(of: path, in: "\(other.processIdentifier)").last, theirs["Rss"] > whole / 2 {
          break
        }
        usleep(10000)
      }
      try #require(other.isRunning, "\(String(decoding: errors.fileHandleForReading.availableData, as: UTF8.self))")
      let own = try #require(try Self.mappings(of: path, in: "self").last)
      #expect(own["Rss"] >= whole)
      // What both have counts half for each.
      #expect(own["Pss"] < whole * 9 / 10, "\(own)")
      #expect(own["Shared_Clean"] > whole / 4 && own["Private_Dirty"] == 0, "\(own)")
    }
  }
}
