import Foundation
import Interpreter
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

  private func lowered(_ random: RandomProgram, _ pipeline: String) throws -> Lowered {
    let module = try FuseTests.rewritten(random.module, pipeline)
    return Lowered(program: try lowerToTiles(module, function: "forward"), module: module)
  }

  /// A program, and the module that it was lowered from.
  private struct Lowered {
    var program: Program
    let module: Module
  }

  static let fixtures = TileFixtures.files("plan-memory")

  @Test("every CHECK line holds", arguments: fixtures.map(\.lastPathComponent))
  func fixture(name: String) throws {
    let file = try #require(Self.fixtures.first { $0.lastPathComponent == name })
    try TileFixtures.check(file) { planMemory(&$0) }
  }

  @Test("there are fixtures")
  func found() { #expect(Self.fixtures.count >= 12) }

  @Test("memory of selected rows is sized by what is kept of a sequence, or by all rows where targets are kept")
  func selectedRows() throws {
    let file = try #require(Self.fixtures.first { $0.lastPathComponent == "gathered.tile" })
    let source = try String(contentsOf: file, encoding: .utf8)
    let withTargets = source.replacing("buffer @y", with: "buffer @t : sequences x 1 x i64 = input 2\nbuffer @y")
      .replacing(
        "@kept_offsets = select_offsets(latest(4), offsets = @offsets,",
        with: """
          check_targets(@t, offsets = @offsets)
            @kept_offsets = select_offsets(latest(4), offsets = @offsets, targets = @t,
          """
      )
      .replacing("over sequences(@kept_offsets,", with: "over sequences(@kept_offsets, targets = @t,")
      .replacing(
        "before_selection(latest(4), offsets = @offsets)",
        with: """
          before_selection(latest(4), offsets = @offsets, targets = @t)
          """)
    for (source, rows) in [
      (source, 4), (source.replacing("latest(4)", with: "latest(4) contextual(2)"), 6), (withTargets, 100),
    ] {
      let program = try TileIRParser.parse(source, file: "")
      let index = try #require(program.buffers.firstIndex { $0.name == "b" })
      #expect(program.byteCount(of: BufferID(index: index), forOneSequenceOf: 100) == rows * 8 * 4)
      #expect(program.byteCount(of: BufferID(index: index), forOneSequenceOf: 3) == 3 * 8 * 4)
    }
  }

  /// What the program gives, where buffers of a slot share memory indeed.
  private func results(_ lowered: Lowered, _ random: RandomProgram) throws -> [HostTensor] {
    let weights = DerivedWeights(lowered.module, base: random.weights)
    return try TileInterpreter(program: lowered.program, weights: weights, precision: .f32).run(random.inputs).map(
      \.tensor)
  }

  @Test(
    "a plan takes less memory and keeps every bit", arguments: RandomProgram.Kind.allCases,
    ["dce", "fuse", "fuse{reach=next,project=own}", "fuse{project=own}"])
  func plans(kind: RandomProgram.Kind, pipeline: String) throws {
    var (before, after) = (0, 0)
    for seed in 1...40 as ClosedRange<UInt64> {
      let random = try RandomProgram(kind, seed: seed, options: RandomProgram.Options(longest: 20))
      let apart = try lowered(random, pipeline)
      var planned = apart
      planMemory(&planned.program)
      try planned.program.verify()
      (before, after) = (before + apart.program.slots.count, after + planned.program.slots.count)
      if seed <= 8 { #expect(try results(planned, random) == results(apart, random), "\(random), \(pipeline)") }
      let text = planned.program.text
      planMemory(&planned.program)
      #expect(planned.program.text == text, "the plan of a plan is another")
    }
    // One kernel has nothing to share.
    #expect([.embedding, .operation, .precision, .ranking].contains(kind) ? after <= before : after < before)
  }

  /// Where nothing that shares memory is alive at once a plan is right, and where something is, right only where one buffer
  /// takes the other's place.
  @Test("of plans at random the verifier lets none pass that changes a bit", arguments: RandomProgram.Kind.allCases)
  func plansAtRandom(kind: RandomProgram.Kind) throws {
    var random = Random(seed: 5)
    var (wrong, inPlace) = (0, 0)
    for seed in 1...40 as ClosedRange<UInt64> {
      let given = try RandomProgram(kind, seed: seed, options: RandomProgram.Options(longest: 20))
      let apart = try lowered(given, seed % 2 == 0 ? "dce" : "fuse{project=own}")
      var moved = apart
      if seed % 4 > 1 { planMemory(&moved.program) }
      let buffers = moved.program.slots.flatMap(\.buffers)
      guard !buffers.isEmpty else { continue }
      let (one, other) = (random.pick(buffers), random.pick(buffers))
      moved.program[one].home = moved.program[other].home
      let isSound = moved.program.verificationErrors().isEmpty
      if !isSound { wrong += 1 }
      if conflicts(moved.program).isEmpty {
        #expect(isSound, "\(given)")
      } else if isSound {
        inPlace += 1
        if inPlace <= 4 { #expect(try results(moved, given) == results(apart, given), "\(given)") }
      }
    }
    #expect(wrong > 0)
    // The last ones have no two kernels of which one gives what the other reads, row by row.
    #expect(inPlace > 0 || [.narrowAttention, .operation, .precision, .ranking].contains(kind))
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
