import CUltra
import Codegen
import Driver
import Foundation
import Passes
import TensorIR
import TestSupport
import Testing
import UltraRuntime

/// A result depends on its own sequence only, bit for bit: not on the batch, its order, threads, the machine's level, or
/// on what a workspace held before.
@Suite struct BitwiseTests {
  /// A random program with a batch of several sequences, and an artifact for each level of this machine but AMX's, whose
  /// sums have an order of their own (TileTests).
  private struct Subject: Sendable {
    var program: RandomProgram
    var models: [(level: CPULevel, model: LoadedModel)]
    /// What the highest level gives for the whole batch on one thread.
    var results: [(name: String, tensor: HostTensor)]

    var model: LoadedModel { models[models.count - 1].model }

    init(_ kind: RandomProgram.Kind) throws {
      // The first seed whose batch has offsets and at least three sequences with rows.
      var seed: UInt64 = 300
      repeat {
        seed += 1
        program = try RandomProgram(kind, seed: seed, options: .init(fixedDivisor: true))
      } while program.inputs["offsets"] == nil || Self.lengths(program).filter { $0 > 1 }.count < 3
      // Small blocks, so that there are many, with ends in the middle of sequences.
      var schedule = TileSchedule()
      schedule.rows = 8
      schedule.attentionRows = 64
      schedule.shortAttention = .init(rows: 32, below: 10)
      schedule.keys = 32
      (schedule.itemColumns, schedule.itemsOfPart) = (32, 64)
      models = []
      var fused = program.module
      try PassManager(PassPipeline(parsing: "canonicalize,cse,dce,fuse")).run(on: &fused)
      for level in CPULevel.ofOneOrder {
        let compiled = try CompiledProgram(
          fused, weights: program.weights, level: level, schedule: schedule, optimization: .less)
        models.append((level, compiled.model))
      }
      results = try models[models.count - 1].model.run(program.inputs)
    }

    static func lengths(_ program: RandomProgram) -> [Int] {
      zip(program.offsets, program.offsets.dropFirst()).map { $1 - $0 }
    }

    /// Expects that each sequence of `other` has in `found` the bits that it has in `results`; `order` says which
    /// sequences of the batch they are.
    func expectSame(
      _ found: [(name: String, tensor: HostTensor)], of other: RandomProgram, order: [Int], except: Int? = nil,
      _ context: String
    ) throws {
      for (name, tensor) in found where name != "kept_offsets" {
        let ranges = try #require(other.rows(ofResult: name, in: found))
        let expectedRanges = try #require(program.rows(ofResult: name, in: results))
        let expected = try #require(results.first { $0.name == name }).tensor
        for (index, sequence) in order.enumerated() where index != except {
          let (got, wanted) = (
            try tensor.rows(Array(ranges[index])), try expected.rows(Array(expectedRanges[sequence]))
          )
          #expect(got == wanted, "\(program), \(name) of sequence \(sequence), \(context)")
        }
      }
    }
  }

  /// Those whose programs have sequences.
  private static let kinds = RandomProgram.Kind.allCases.filter { $0 != .precision }
  private static let subjects = kinds.map { kind in (kind, Shared { try Subject(kind) }) }

  private func subject(_ kind: RandomProgram.Kind) throws -> Subject {
    try #require(Self.subjects.first { $0.0 == kind }).1.get()
  }

  @Test(arguments: kinds)
  func batchMatesAndTheirOrder(kind: RandomProgram.Kind) throws {
    let subject = try subject(kind)
    let all = Array(0..<subject.program.sequenceCount)
    var random = Random(seed: 3)
    let several = (0..<40).map { _ in random.pick(all) }
    for order in [all, all.reversed(), Array(all.dropFirst()) + [0], several] + all.map({ [$0] }) {
      let other = try subject.program.selecting(order)
      let found = try subject.model.run(other.inputs)
      try subject.expectSame(found, of: other, order: order, "in the batch \(order)")
    }
  }

  @Test(arguments: kinds)
  func threadsAndLevels(kind: RandomProgram.Kind) throws {
    let subject = try subject(kind)
    #expect(subject.models.map(\.model.level) == CPULevel.ofOneOrder.map(\.rawValue))
    let pools = [nil] + (try (1...3).map { try ThreadPool(workers: $0) })
    for (level, model) in subject.models {
      for pool in pools {
        for (got, wanted) in zip(
          try model.run(subject.program.inputs, pool: pool), subject.results)
        {
          let threads = pool?.workers ?? 0
          #expect(got.tensor == wanted.tensor, "\(subject.program), \(got.name), \(level), \(threads) threads")
        }
      }
    }
  }

  /// Every operation in a kernel of its own, and regions that reach as far as they can, with large blocks.
  @Test(arguments: kinds, ["", "fuse", "fuse{project=own}", "fuse{reach=next,project=own}"])
  func regions(kind: RandomProgram.Kind, passes: String) throws {
    let subject = try subject(kind)
    var module = subject.program.module
    try PassManager(PassPipeline(parsing: passes)).run(on: &module)
    let level = try #require(CPULevel.ofOneOrder.last)
    let compiled = try CompiledProgram(
      module, weights: subject.program.weights, level: level, optimization: .less)
    for (got, wanted) in zip(try compiled.run(subject.program.inputs), subject.results) {
      #expect(got.tensor == wanted.tensor, "\(subject.program), \(got.name), passes \"\(passes)\"")
    }
  }

  /// A loop may run its pieces in any order, each on any of its workers.
  @Test(arguments: kinds)
  func ordersOfTheLoop(kind: RandomProgram.Kind) throws {
    let subject = try subject(kind)
    let backward: @convention(c) (UnsafeMutableRawPointer?, Int64, ultra_body?, UnsafeMutableRawPointer?) -> Void = {
      _, count, body, context in
      for index in (0..<count).reversed() { body?(context, index, UInt32(index * 3 % 5)) }
    }
    let shuffled: @convention(c) (UnsafeMutableRawPointer?, Int64, ultra_body?, UnsafeMutableRawPointer?) -> Void = {
      _, count, body, context in
      for index in stride(from: 0, to: count, by: 2) { body?(context, index, 4) }
      for index in stride(from: 1, to: count, by: 2) { body?(context, index, 0) }
    }
    let call = try RawCall(subject.model, subject.program.inputs, workers: 5)
    for loop in [backward, shuffled] {
      let parallel = ultra_parallel(
        struct_size: UInt32(MemoryLayout<ultra_parallel>.size), workers: 5, pool: nil, parallel_for: loop)
      call.workspace.fill(0xFF)
      call.fillOutputs(0xFF)
      #expect(withUnsafePointer(to: parallel) { pointer in call.run { $0.parallel = pointer } } == .ok)
      #expect(call.results() == subject.results.map(\.tensor.bytes), "\(subject.program)")
    }
  }

  /// Ids are no numbers, and of some rows an output needs none.
  @Test(arguments: kinds.filter { $0 != .embedding && $0 != .recommendation && $0 != .ranking })
  func numbersThatAreNoneStayInTheirSequence(kind: RandomProgram.Kind) throws {
    let subject = try subject(kind)
    let lengths = Subject.lengths(subject.program)
    let all = Array(0..<subject.program.sequenceCount)
    for victim in all {
      for number: Float in [.nan, .infinity, -.infinity, .greatestFiniteMagnitude] {
        var program = subject.program
        let rows = program.offsets[victim]..<program.offsets[victim + 1]
        for (name, input) in program.inputs where input.element == .f32 && input.shape[0] == program.offsets.last {
          var values = input.floats
          let width = input.shape[1]
          for index in rows.lowerBound * width..<rows.upperBound * width { values[index] = number }
          program.inputs[name] = HostTensor(values, shape: input.shape)
        }
        let found = try subject.model.run(program.inputs)
        try subject.expectSame(found, of: program, order: all, except: victim, "\(number) in sequence \(victim)")
        let changed = zip(found, subject.results).contains { $0.tensor != $1.tensor }
        #expect(!changed || lengths[victim] > 0)
        // Some programs give back rows that are picked or chosen, of which a sequence may have none.
        if ![.operation, .contextual, .mixture].contains(kind) {
          #expect(changed == (lengths[victim] > 0), "\(number) reaches the results of its own sequence")
        }
      }
    }
  }

  @Test(arguments: kinds)
  func oneSessionAfterOtherBatches(kind: RandomProgram.Kind) throws {
    let subject = try subject(kind)
    let all = Array(0..<subject.program.sequenceCount)
    func tensors(_ program: RandomProgram) throws -> [String: Tensor] {
      try program.inputs.mapValues {
        try Tensor($0)
      }
    }
    for pool in [nil, try ThreadPool(workers: 2)] {
      let session = try Session(subject.model, pool: pool)
      for order in [all, [], all + all + all, [all[0]], Array(all.reversed())] {
        _ = try session.run(tensors(subject.program.selecting(order)))
        for (got, wanted) in zip(try session.run(tensors(subject.program)), subject.results) {
          #expect(got.tensor.bytes == wanted.tensor.bytes, "\(subject.program), \(got.name) after \(order)")
        }
      }
    }
  }

  @Test(arguments: kinds)
  func whatTheWorkspaceHeldBefore(kind: RandomProgram.Kind) throws {
    let subject = try subject(kind)
    for (level, model) in subject.models {
      let call = try RawCall(model, subject.program.inputs)
      // All ones are a NaN, and -1 as an integer; the others a small and a large number.
      for byte: UInt8 in [0xFF, 0x00, 0x7F, 0x01] {
        call.workspace.fill(byte)
        call.fillOutputs(byte)
        #expect(call.run() == .ok)
        for (got, wanted) in zip(call.results(), subject.results) {
          #expect(got == wanted.tensor.bytes, "\(subject.program), \(wanted.name), \(level), filled with \(byte)")
        }
      }
    }
  }
}
