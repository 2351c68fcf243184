import Artifact
import Foundation
import TensorIR
import TestSupport
import Testing

/// A 64-bit ARM machine of which QEMU makes this one run programs.
enum ForeignMachine: String, CaseIterable, Sendable {
  /// Without dot products.
  case cortexA72 = "cortex-a72"
  /// With those of bytes.
  case neoverseN1 = "neoverse-n1"
  /// With everything that QEMU knows, products of bf16 among it.
  case max

  /// The level of code that it takes of a file with all.
  var level: String {
    switch self {
    case .cortexA72: "armv8-a"
    case .neoverseN1: "neoverse-n1"
    case .max: "neoverse-v1"
    }
  }

  /// What a call came to.
  struct Answer {
    var status: Int64
    /// The level in use, or why the model has none.
    var text: String
    var results: [(name: String, tensor: HostTensor)] = []

    static let refused: Int64 = 1001
  }

  /// The results of an entry of the model at `path`, at the level that the machine must choose.
  func run(
    _ path: String, _ inputs: [String: HostTensor], entry: String = "forward", level: String? = nil,
    sourceLocation: Testing.SourceLocation = #_sourceLocation
  ) throws -> [(name: String, tensor: HostTensor)] {
    let answer = try call(path, inputs, entry: entry)
    #expect(answer.status == 0, "\(self): \(answer.text)", sourceLocation: sourceLocation)
    #expect(answer.text == level ?? self.level, sourceLocation: sourceLocation)
    return answer.results
  }

  /// Calls an entry of the model at `path`.
  func call(_ path: String, _ inputs: [String: HostTensor], entry: String = "forward") throws -> Answer {
    let caller = try Self.caller.get()
    let shape = try CallShape(ArtifactReader.open(path).manifest, inputs, entry: entry)
    return try withTemporaryFolder { folder in
      let (request, response) = (folder.appending(path: "request"), folder.appending(path: "response"))
      try Self.request(path, shape).write(to: request)
      try Self.runTool(
        "qemu-aarch64", ["-L", "/usr/aarch64-linux-gnu", "-cpu", rawValue, caller, request.path, response.path])
      return try Self.answer(Data(contentsOf: response), shape)
    }
  }

  // MARK: The caller

  /// The path of call.c, compiled, beside these tests.
  private static let caller = Result {
    let tests = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
    let include = tests.deletingLastPathComponent().deletingLastPathComponent().appending(path: "include").path
    let program = URL(fileURLWithPath: CommandLine.arguments[0]).resolvingSymlinksInPath()
      .deletingLastPathComponent().appending(path: "call-aarch64").path
    let unfinished = "\(program)-\(UUID().uuidString)"
    try runTool(
      "aarch64-linux-gnu-gcc",
      ["-O2", "-Wall", "-Wextra", "-I", include, tests.appending(path: "call.c").path, "-o", unfinished])
    guard rename(unfinished, program) == 0 else { throw ToolError(description: "\(program) cannot be written") }
    return program
  }

  /// Runs a program of the PATH. One that is missing is an error, as is an exit status other than 0.
  @discardableResult
  static func runTool(_ program: String, _ arguments: [String]) throws -> String {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
    process.arguments = [program] + arguments
    let pipe = Pipe()
    process.standardOutput = pipe
    process.standardError = pipe
    process.standardInput = FileHandle.nullDevice
    try process.run()
    let text = String(decoding: pipe.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    process.waitUntilExit()
    switch process.terminationStatus {
    case 0: return text
    // As env says that there is no such program.
    case 127: throw ToolError(description: "\(program) is missing: run scripts/install-packages")
    default: throw ToolError(description: "\(program) ended with \(process.terminationStatus): \(text)")
    }
  }

  // MARK: Its files

  private static func request(_ path: String, _ shape: CallShape) -> Data {
    var data = Data()
    func add(_ number: Int) { withUnsafeBytes(of: Int64(number).littleEndian) { data.append(contentsOf: $0) } }
    add(path.utf8.count)
    data.append(contentsOf: path.utf8)
    add(shape.number)
    add(shape.dimensions.count)
    for extent in shape.dimensions { add(Int(extent)) }
    add(shape.inputs.count)
    for input in shape.inputs {
      add(input.count)
      add(input.bytes.count)
      data.append(contentsOf: input.bytes)
    }
    add(shape.rooms.count)
    for (room, output) in zip(shape.rooms, shape.port.outputs) {
      add(room)
      add(output.type.element.byteCount)
    }
    return data
  }

  private static func answer(_ data: Data, _ shape: CallShape) throws -> Answer {
    var rest = [UInt8](data)[...]
    func bytes(_ count: Int) throws -> [UInt8] {
      guard rest.count >= count else { throw ToolError(description: "the response is cut short") }
      defer { rest = rest.dropFirst(count) }
      return Array(rest.prefix(count))
    }
    func number() throws -> Int {
      try bytes(8).reversed().reduce(0) { $0 << 8 | Int($1) }
    }
    let status = try number()
    var answer = Answer(status: Int64(status), text: String(decoding: try bytes(number()), as: UTF8.self))
    guard status == 0 else { return answer }
    for output in shape.port.outputs {
      let count = try number()
      let stored = try bytes(number())
      let element = try #require(ElementType(rawValue: output.type.element.rawValue))
      var extents = [count]
      if case .tensor(_, let shape) = output.type {
        // All but the first are fixed.
        extents = shape.map { if case .fixed(let extent) = $0 { extent } else { -1 } }
        let others = extents.dropFirst().reduce(1, *)
        extents[0] = count / others
      }
      answer.results.append((output.name, try HostTensor(element: element, shape: extents, bytes: stored)))
    }
    return answer
  }

  struct ToolError: Error, CustomStringConvertible {
    let description: String
  }
}
