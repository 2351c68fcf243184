import CUltra
import Codegen
import Foundation
import Interpreter
import Passes
import TensorIR
import TestSupport
import Testing

/// Calls captured into graphs, by the functions of include/ultra_gpu.h.
@Suite("Calls as graphs", .serialized)
struct GPUGraphTests {
  private static let stream = 0x55

  /// A model on a GPU, and what it should give.
  private struct Subject {
    let module: Module
    let weights: DerivedWeights
    let gpu: EmulatedGPU

    init(_ target: GPUTarget, _ module: Module, _ base: WeightTable) throws {
      self.module = module
      weights = DerivedWeights(module, base: base)
      gpu = try EmulatedGPU(module, weights, target)
    }

    /// Stacks of layers that were compiled: the suite's tests run one after the other.
    nonisolated(unsafe) private static var stacks: [GPUTarget: Subject] = [:]

    static func stack(_ target: GPUTarget) throws -> Subject {
      if let known = stacks[target] { return known }
      let (module, weights) = try GPUStubTests.model(headWidth: target == .sm90a ? 64 : 16)
      let made = try Subject(target, module, weights)
      stacks[target] = made
      return made
    }

    func expect(_ call: EmulatedCall, _ inputs: [String: HostTensor], _ what: String) throws {
      let expected = try Interpreter(module: module, weights: weights, precision: .f64).run("forward", inputs: inputs)
      for (found, expected) in zip(try call.results(), expected) {
        let largest = expected.tensor.doubles.reduce(1) { max($0, abs($1)) }
        expectClose(found.tensor, expected.tensor, atol: 0x1p-6 * largest, rtol: 0, "\(what): \(expected.name)")
      }
    }

    func capture(
      _ call: EmulatedCall, _ state: UnsafeMutableRawPointer, _ graph: inout ultra_gpu_graph,
      stream: Int = GPUGraphTests.stream
    ) -> Int32 {
      var (host, gpu) = (FakeDriver.host, gpu.gpu)
      return call.with(state: state, stream: stream) { ultra_gpu_capture(&gpu, gpu.entries, &host, &$0, &graph) }
    }
  }

  private static func inputs(_ random: inout Random, lengths: [Int], targets: [Int]) -> [String: HostTensor] {
    [
      "x": random.tensor([lengths.reduce(0, +), 32]), "targets": HostTensor(targets.map(Int64.init)),
      "offsets": HostTensor(lengths.reduce(into: [Int64(0)]) { $0.append($0[$0.count - 1] + Int64($1)) }),
    ]
  }

  @Test("replays give what their inputs then hold, each from its own memory", arguments: GPUStubTests.targets)
  func replays(target: GPUTarget) throws {
    let subject = try Subject.stack(target)
    var random = Random(seed: 31)
    try subject.gpu.withState(order: .descending, arrival: .late) { state, driver in
      var batches = [
        Self.inputs(&random, lengths: [40, 0, 3], targets: [2, 0, 3]),
        Self.inputs(&random, lengths: [5], targets: [1]),
      ]
      let calls = try batches.map { try EmulatedCall(subject.gpu, $0) }
      driver.pinned = calls.flatMap(\.hostMemory)
      var graphs = [ultra_gpu_graph(), ultra_gpu_graph()]
      for index in calls.indices {
        let before = driver.calls.count
        #expect(subject.capture(calls[index], state, &graphs[index]) == 0)
        // Nothing ran, and nothing was asked for that does at once.
        #expect(driver.launches.isEmpty && driver.capturing == nil && driver.graphs.isEmpty)
        let own = Set(driver.calls[before...])
        let isHIP = target.vendor == .amd
        let wanted: Set =
          isHIP
          ? [
            "hipStreamBeginCapture", "hipSetDevice", "hipMemcpyHtoDAsync", "hipModuleLaunchKernel",
            "hipStreamEndCapture", "hipGraphInstantiateWithFlags", "hipGraphDestroy",
          ]
          : [
            "cuStreamBeginCapture_v2", "cuCtxSetCurrent", "cuMemcpyHtoDAsync_v2", "cuLaunchKernel",
            "cuStreamEndCapture", "cuGraphInstantiateWithFlags", "cuGraphDestroy",
          ]
        // Attention that takes block after block begins with a count of 0.
        #expect(own.subtracting(["cuMemsetD32Async"]) == wanted)
        #expect(own.contains("cuMemsetD32Async") == (target == .sm90a))
      }
      // In turns, with the numbers of the capture, then with others.
      for round in 0..<2 {
        for index in calls.indices.reversed() {
          if round > 0 {
            let rows = try #require(batches[index]["x"]).shape
            batches[index]["x"] = random.tensor(rows)
            calls[index].set("x", try #require(batches[index]["x"]))
          }
          calls[index].clearResults()
          #expect(ultra_gpu_replay(&graphs[index], UnsafeMutableRawPointer(bitPattern: 0x66), nil) == 0)
          try subject.expect(calls[index], batches[index], "\(target), batch \(index), round \(round)")
        }
      }
      for index in graphs.indices { #expect(ultra_gpu_release(&graphs[index], nil) == 0) }
      #expect(driver.executables.isEmpty && graphs[0].executable == nil)
      #expect(ultra_gpu_replay(&graphs[0], nil, nil) == Int32(ULTRA_BAD_CALL.rawValue))
      #expect(ultra_gpu_release(&graphs[0], nil) == 0)
    }
  }

  @Test("ids in the host's memory are those of the replay", arguments: GPUStubTests.targets.filter { $0 != .sm90a })
  func ids(target: GPUTarget) throws {
    var random = Random(seed: 35)
    func numbers(_ shape: [Int]) -> HostTensor {
      HostTensor((0..<shape.reduce(1, *)).map { _ in Float(random.integer(in: -3...3)) }, shape: shape)
    }
    let weights = WeightTable(["items": numbers([1100, 8])])
    let subject = try Subject(target, TopKTests.module(1100, width: 8, TopK(count: 10)), weights)
    func inputs() -> [String: HostTensor] {
      [
        "x": numbers([3, 8]), "offsets": HostTensor([0, 4, 4, 9] as [Int64]),
        "seen": HostTensor((0..<9).map { _ in Int64(random.integer(in: 0...1099)) }),
      ]
    }
    try subject.gpu.withState(order: .shuffled, arrival: .late) { state, driver in
      let call = try EmulatedCall(subject.gpu, inputs())
      driver.pinned = call.hostMemory
      var graph = ultra_gpu_graph()
      #expect(subject.capture(call, state, &graph) == 0)
      for _ in 0..<3 {
        var given = inputs()
        let best = try Interpreter(module: subject.module, weights: subject.weights, precision: .f32).run(
          "forward", inputs: given)
        // What would be best was seen.
        given["seen"] = HostTensor(Array(best[1].tensor.integers.prefix(4)) + (0..<5).map { Int64($0) })
        for (name, tensor) in given { call.set(name, tensor) }
        call.clearResults()
        #expect(ultra_gpu_replay(&graph, nil, nil) == 0)
        let expected = try Interpreter(module: subject.module, weights: subject.weights, precision: .f32).run(
          "forward", inputs: given)
        for (found, expected) in zip(try call.results(), expected) { #expect(found.tensor == expected.tensor) }
      }
      #expect(ultra_gpu_release(&graph, nil) == 0)
    }
  }

  @Test("memory of the host that the driver has not pinned cannot be captured")
  func notPinned() throws {
    let subject = try Subject.stack(.sm80)
    var random = Random(seed: 32)
    try subject.gpu.withState(order: .ascending, arrival: .early) { state, driver in
      let call = try EmulatedCall(subject.gpu, Self.inputs(&random, lengths: [5], targets: [1]))
      driver.pinned = Array(call.hostMemory.dropFirst())
      var graph = ultra_gpu_graph()
      #expect(subject.capture(call, state, &graph) == Int32(ULTRA_DRIVER_FAILED.rawValue))
      #expect(call.failure.function.map { String(cString: $0) } == "cuMemcpyHtoDAsync_v2")
      #expect(call.failure.driver_status == 900 && driver.capturing == nil && graph.executable == nil)
    }
  }

  @Test("the default stream is refused, and a bad batch ends the capture")
  func refusals() throws {
    let subject = try Subject.stack(.sm80)
    var random = Random(seed: 33)
    try subject.gpu.withState(order: .ascending, arrival: .early) { state, driver in
      let call = try EmulatedCall(subject.gpu, Self.inputs(&random, lengths: [5], targets: [1]))
      driver.pinned = call.hostMemory
      var graph = ultra_gpu_graph()
      #expect(subject.capture(call, state, &graph, stream: 0) == Int32(ULTRA_BAD_CALL.rawValue))
      #expect(!driver.calls.contains("cuStreamBeginCapture_v2"))
      call.set("targets", HostTensor([6] as [Int64]))
      #expect(subject.capture(call, state, &graph) == Int32(ULTRA_BAD_TARGETS.rawValue))
      #expect(driver.capturing == nil && driver.graphs.isEmpty && driver.executables.isEmpty && graph.executable == nil)
      // The stream can be captured again.
      call.set("targets", HostTensor([1] as [Int64]))
      #expect(subject.capture(call, state, &graph) == 0 && ultra_gpu_release(&graph, nil) == 0)
    }
  }

  @Test(
    "what the driver lacks or refuses is named, and nothing is left behind",
    arguments: GPUStubTests.targets.filter { $0 != .sm90a })
  func failures(target: GPUTarget) throws {
    let subject = try Subject.stack(target)
    var random = Random(seed: 34)
    let isHIP = target.vendor == .amd
    let names =
      [
        "StreamBeginCapture\(isHIP ? "" : "_v2")", "StreamEndCapture", "GraphInstantiateWithFlags", "GraphDestroy",
        "GraphLaunch", "GraphExecDestroy",
      ].map { (isHIP ? "hip" : "cu") + $0 }
    try subject.gpu.withState(order: .ascending, arrival: .early) { state, driver in
      let inputs = Self.inputs(&random, lengths: [5], targets: [1])
      let call = try EmulatedCall(subject.gpu, inputs)
      driver.pinned = call.hostMemory
      for name in names {
        var graph = ultra_gpu_graph()
        (driver.missing, driver.refused) = (name, nil)
        #expect(subject.capture(call, state, &graph) == Int32(ULTRA_NO_DRIVER.rawValue))
        #expect(call.failure.function.map { String(cString: $0) } == name)
        (driver.missing, driver.refused) = (nil, (name, driver.calls.count { $0 == name } + 1))
        var error = ultra_gpu_error()
        error.struct_size = UInt32(MemoryLayout<ultra_gpu_error>.size)
        var status = subject.capture(call, state, &graph)
        if status != 0 { error = call.failure }
        if status == 0 { status = ultra_gpu_replay(&graph, nil, &error) }
        let released = status == 0 ? ultra_gpu_release(&graph, &error) : ultra_gpu_release(&graph, nil)
        #expect(max(status, released) == Int32(ULTRA_DRIVER_FAILED.rawValue))
        #expect(error.function.map { String(cString: $0) } == name && error.driver_status == 999)
        #expect(driver.capturing == nil && driver.graphs.isEmpty && driver.executables.isEmpty, "\(name)")
        #expect(graph.executable == nil)
      }
    }
  }

  @Test(
    "the header is clean C99 and C++",
    arguments: [["/usr/bin/cc", "-std=c99"], ["/usr/bin/c++", "-xc++", "-std=c++11"]].filter {
      FileManager.default.isExecutableFile(atPath: $0[0])
    })
  func header(compiler: [String]) throws {
    try withTemporaryFolder { folder in
      let source = folder.appendingPathComponent("header.c")
      try "#include \"ultra_gpu.h\"\nint main(void) { return ultra_gpu_release(NULL, NULL); }\n"
        .write(to: source, atomically: true, encoding: .utf8)
      let include = URL(fileURLWithPath: #filePath).deletingLastPathComponent().appendingPathComponent("../../include")
      let process = Process()
      process.executableURL = URL(fileURLWithPath: compiler[0])
      process.arguments =
        compiler.dropFirst()
        + ["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I", include.path, "-fsyntax-only", source.path]
      try process.run()
      process.waitUntilExit()
      #expect(process.terminationStatus == 0)
    }
  }
}
