import Foundation
import Passes
import TensorIR
import TestSupport
import TileIR
import Testing

@Suite("plan-memory")
struct PlanMemoryTests {
  /// Step by step, what is alive: from the first step that names a buffer to the last. Setup is the first step.
  private func conflicts(_ program: Program) -> [String] {
    let setup = program.setup.flatMap(\.writtenBuffers)
    let steps = [setup] + program.kernels.map(\.buffers)
    var conflicts: [String] = []
    for step in steps.indices {
      var slots: [Int: BufferID] = [:]
      for index in program.buffers.indices {
        let id = BufferID(index: index)
        guard case .workspace(let slot) = program[id].home else { continue }
        let before = steps[...step].contains { $0.contains(id) }
        let after = steps[step...].contains { $0.contains(id) }
        guard before, after else { continue }
        if let other = slots[slot] { conflicts.append("\(program[other].name) and \(program[id].name)") }
        slots[slot] = id
      }
    }
    return conflicts
  }

  private func program(_ kind: RandomProgram.Kind, _ seed: UInt64, _ pipeline: String) throws -> Program {
    let random = try RandomProgram(kind, seed: seed)
    return try lowerToTiles(FuseTests.rewritten(random.module, pipeline), function: "forward")
  }

  static let fixtures: [URL] = {
    let folder = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "Fixtures/plan-memory")
    let files = (try? FileManager.default.contentsOfDirectory(at: folder, includingPropertiesForKeys: nil)) ?? []
    return files.filter { $0.pathExtension == "tile" }.sorted { $0.path < $1.path }
  }()

  @Test("every CHECK line holds", arguments: fixtures.map(\.lastPathComponent))
  func fixture(name: String) throws {
    let file = try #require(Self.fixtures.first { $0.lastPathComponent == name })
    var program = try TileIRParser.parse(String(contentsOf: file, encoding: .utf8), file: name)
    planMemory(&program)
    try program.verify()
    let result = try runShell("FileCheck-19 '\(file.path)'", input: program.text)
    #expect(result.status == 0, "\(result.output)")
  }

  @Test("there are fixtures")
  func found() { #expect(Self.fixtures.count >= 5) }

  @Test("no two buffers that are alive share memory", arguments: RandomProgram.Kind.allCases)
  func lifetimes(kind: RandomProgram.Kind) throws {
    var (before, after) = (0, 0)
    for seed in 1...40 as ClosedRange<UInt64> {
      for pipeline in ["dce", "fuse", "fuse{reach=next}"] {
        var program = try program(kind, seed, pipeline)
        before += program.slots.count
        planMemory(&program)
        after += program.slots.count
        #expect(conflicts(program) == [], "\(kind) \(seed), \(pipeline)")
        try program.verify()
        let planned = program
        planMemory(&program)
        #expect(program.text == planned.text, "the plan of a plan is another")
      }
    }
    // One kernel has nothing to share.
    #expect([.embedding, .precision].contains(kind) ? after <= before : after < before)
  }

  @Test("the test's own check finds what the verifier finds", arguments: RandomProgram.Kind.allCases)
  func wrongPlans(kind: RandomProgram.Kind) throws {
    var random = Random(seed: 5)
    var wrong = 0
    for seed in 1...40 as ClosedRange<UInt64> {
      var program = try program(kind, seed, "dce")
      for index in program.buffers.indices {
        if case .workspace = program.buffers[index].home {
          program.buffers[index].home = .workspace(slot: random.integer(in: 0...3))
        }
      }
      #expect(conflicts(program).isEmpty == program.verificationErrors().isEmpty, "\(kind) \(seed)")
      if !conflicts(program).isEmpty { wrong += 1 }
    }
    #expect(wrong > 0)
  }

  @Test("packed memory overlaps nowhere, and is little more than what is alive at once")
  func packing() {
    var random = Random(seed: 9)
    for _ in 0..<200 {
      let requests = (0..<random.integer(in: 0...20)).map { _ in
        let first = random.integer(in: 0...9)
        return MemoryRequest(
          size: random.integer(in: 0...64), lifetime: first...first + random.integer(in: 0...5))
      }
      let (offsets, size) = MemoryRequest.pack(requests)
      for (one, first) in requests.enumerated() {
        #expect(offsets[one] >= 0 && offsets[one] + first.size <= size)
        for (other, second) in requests.enumerated().dropFirst(one + 1)
        where first.lifetime.overlaps(second.lifetime) {
          #expect(offsets[one] + first.size <= offsets[other] || offsets[other] + second.size <= offsets[one])
        }
      }
      let most = (0...14).map { step in
        requests.filter { $0.lifetime.contains(step) }.reduce(0) { $0 + $1.size }
      }
      #expect(size <= 2 * (most.max() ?? 0))
    }
  }
}
