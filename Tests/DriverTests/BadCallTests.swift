import CUltra
import TensorIR
import Testing
import UltraRuntime

/// Callers that do not do as include/ultra.h says, and batches that are not as the model needs them: every status, with
/// every field of the error, from a compiled artifact.
@Suite struct BadCallTests {
  private static let model = Shared { try RobustModel.everyCheck().load() }
  private static let lengths = [5, 0, 9, 1, 40]
  private static let rows = Int64(lengths.reduce(0, +))
  /// SIZE_MAX, as Swift reads a `size_t`.
  private static let sizeMax = -1

  /// Calls `body` with a good call, and checks afterwards that it still is one and gives what it gave before.
  private func withCall(
    _ lengths: [Int] = lengths, _ body: (RawCall) throws -> Void
  ) throws {
    let model = try Self.model.get()
    let call = try RawCall(model, RobustModel.batch(lengths))
    #expect(call.run() == .ok)
    let before = call.results()
    let (dimensions, inputs, outputs, size) = (call.dimensions, call.inputs, call.outputs, call.workspaceSize)
    try body(call)
    (call.dimensions, call.inputs, call.outputs, call.workspaceSize) = (dimensions, inputs, outputs, size)
    #expect(call.run() == .ok)
    #expect(call.results() == before)
  }

  /// Runs the call with another tensor for one of its inputs.
  private func run(_ call: RawCall, _ name: String, _ values: [Int64]) throws -> RawCall.Outcome {
    let index = try #require(call.port.inputs.firstIndex { $0.name == name })
    let memory = try GuardedMemory(HostTensor(values).bytes, alignment: 8)
    let before = call.inputs[index]
    defer { call.inputs[index] = before }
    call.inputs[index] = ultra_tensor(data: memory.address, count: Int64(values.count))
    return call.run()
  }

  private func outcome(
    _ status: ultra_status, _ argument: Int32 = -1, at position: Int64 = 0, _ found: Int64 = 0, _ expected: Int64 = 0
  ) -> RawCall.Outcome {
    .init(status: status.rawValue, argument: argument, position: position, found: found, expected: expected)
  }

  @Test func portsAreInTheOrderThatTheseTestsName() throws {
    try withCall { call in
      #expect(call.port.inputs.map(\.name) == ["ids", "offsets", "targets"])
      #expect(call.port.outputs.map(\.name) == ["y", "last", "kept_offsets", "inner"])
      #expect(call.port.dimensions == ["rows", "sequences"])
    }
  }

  @Test func structsThatAreTooSmall() throws {
    try withCall { call in
      for size: UInt32 in [0, 4, 71] {
        // Nothing behind the size may be read: not even where the error is.
        let refused = call.run { $0.struct_size = size }
        #expect(refused.status == ULTRA_BAD_CALL.rawValue && refused.found == RawCall.Outcome.untouched)
      }
      #expect(call.run { $0.struct_size = 1000 } == .ok, "a newer caller")
      #expect(call.run { $0.struct_size = .max } == .ok, "a newer caller")
      let refused = call.run {
        $0.error.pointee.struct_size = 39
        $0.input_count = 7
      }
      #expect(refused.status == ULTRA_BAD_ARGUMENT_COUNT.rawValue && refused.found == RawCall.Outcome.untouched)
      #expect(
        call.run {
          $0.error = nil
          $0.output_count = 0
        }.status == ULTRA_BAD_ARGUMENT_COUNT.rawValue)
    }
  }

  @Test func pointersThatAreNull() throws {
    try withCall { call in
      #expect(call.entry.run(nil) == Int32(ULTRA_BAD_CALL.rawValue))
      #expect(call.entry.workspace_size(nil, 1) == Self.sizeMax)
      #expect(call.run { $0.dimensions = nil } == outcome(ULTRA_BAD_CALL))
      #expect(call.run { $0.inputs = nil } == outcome(ULTRA_BAD_CALL))
      #expect(call.run { $0.outputs = nil } == outcome(ULTRA_BAD_CALL))
    }
  }

  @Test func parallelLoopsThatCannotRun() throws {
    try withCall { call in
      func run(_ parallel: ultra_parallel) -> RawCall.Outcome {
        withUnsafePointer(to: parallel) { pointer in call.run { $0.parallel = pointer } }
      }
      let good = ultra_parallel(
        struct_size: UInt32(MemoryLayout<ultra_parallel>.size), workers: 1, pool: nil,
        parallel_for: { _, count, body, context in for index in 0..<count { body?(context, index, 0) } })
      #expect(run(good) == .ok)
      var bad = good
      bad.struct_size = 23
      #expect(run(bad) == outcome(ULTRA_BAD_CALL, -1, 23, 24))
      bad = good
      bad.parallel_for = nil
      #expect(run(bad) == outcome(ULTRA_BAD_CALL))
      bad = good
      bad.workers = 0
      #expect(run(bad) == outcome(ULTRA_BAD_CALL, -1, 0, 1))
      // More workers than the workspace was made for.
      bad.workers = 3
      let need = Int64(call.entry.workspace_size(call.dimensions, 3))
      #expect(need > call.workspaceSize)
      #expect(run(bad) == outcome(ULTRA_BAD_WORKSPACE, -1, Int64(call.workspaceSize), need))
    }
  }

  @Test func wrongCounts() throws {
    try withCall { call in
      #expect(call.run { $0.dimension_count = 1 } == outcome(ULTRA_BAD_CALL, -1, 1, 2))
      #expect(call.run { $0.dimension_count = .max } == outcome(ULTRA_BAD_CALL, -1, Int64(UInt32.max), 2))
      for count: UInt32 in [0, 2, 5, .max] {
        #expect(call.run { $0.input_count = count } == outcome(ULTRA_BAD_ARGUMENT_COUNT, -1, Int64(count), 3))
        #expect(call.run { $0.output_count = count } == outcome(ULTRA_BAD_ARGUMENT_COUNT, -1, Int64(count), 4))
      }
    }
  }

  @Test(arguments: [-1, .min, Int64(Int32.max) + 1, 1 << 62, .max])
  func dimensionsThatAreNegativeOrHuge(extent: Int64) throws {
    try withCall { call in
      for index in 0..<2 {
        let before = call.dimensions
        call.dimensions[index] = extent
        #expect(call.run() == outcome(ULTRA_BAD_DIMENSION, Int32(index), extent, Int64(Int32.max)))
        #expect(call.entry.workspace_size(call.dimensions, 1) == Self.sizeMax)
        call.dimensions = before
      }
    }
  }

  @Test func theLargestDimensionsHaveASize() throws {
    try withCall { call in
      for index in 0..<2 {
        let before = call.dimensions
        call.dimensions[index] = Int64(Int32.max)
        for workers: UInt32 in [1, .max] {
          let size = call.entry.workspace_size(call.dimensions, workers)
          #expect(size > Int(Int32.max) && size < Int.max)
        }
        let need = Int64(call.entry.workspace_size(call.dimensions, 1))
        #expect(call.run() == outcome(ULTRA_BAD_WORKSPACE, -1, Int64(call.workspaceSize), need))
        call.dimensions = before
      }
      #expect(call.entry.workspace_size(call.dimensions, 0) == Self.sizeMax, "no worker at all")
    }
  }

  @Test func inputsOfAnotherSize() throws {
    try withCall { call in
      for index in 0..<3 {
        let good = call.inputs[index]
        for count in [good.count - 1, good.count + 1, 0, -1, .min, .max] {
          call.inputs[index].count = count
          #expect(call.run() == outcome(ULTRA_BAD_INPUT, Int32(index), count, good.count))
        }
        call.inputs[index] = ultra_tensor(data: nil, count: good.count)
        #expect(call.run() == outcome(ULTRA_BAD_INPUT, Int32(index), good.count, good.count))
        call.inputs[index] = good
      }
    }
  }

  @Test func outputsThatAreTooSmall() throws {
    try withCall { call in
      _ = call.run()
      let needed = call.written
      #expect(needed == [Self.rows * 8, 5 * 8, 6, needed[3]] && needed[3] < needed[0])
      for index in 0..<4 {
        let good = call.outputs[index]
        for count in [needed[index] - 1, 0, -1, .min] {
          call.outputs[index].count = count
          #expect(call.run() == outcome(ULTRA_BAD_OUTPUT, Int32(index), count, needed[index]))
          var untouched = call.outputs.map(\.count)
          untouched[index] = count
          #expect(call.written == untouched, "a refused call leaves the room as it was")
        }
        call.outputs[index] = ultra_tensor(data: nil, count: good.count)
        #expect(call.run() == outcome(ULTRA_BAD_OUTPUT, Int32(index), good.count, needed[index]))
        call.outputs[index] = ultra_tensor(data: good.data, count: needed[index])
        #expect(call.run() == .ok, "exactly the room that is needed")
        call.outputs[index] = ultra_tensor(data: good.data, count: .max)
        #expect(call.run() == .ok, "more room than is needed")
        #expect(call.written == needed)
        call.outputs[index] = good
      }
    }
  }

  @Test func workspacesThatCannotBeUsed() throws {
    try withCall { call in
      let need = Int64(call.workspaceSize)
      #expect(call.run { $0.workspace = nil } == outcome(ULTRA_BAD_WORKSPACE, -1, need, need))
      for shift in [1, 8, 32, 63] {
        #expect(call.run { $0.workspace += shift } == outcome(ULTRA_BAD_WORKSPACE, -1, need, need))
      }
      for size in [0, 1, 64, call.workspaceSize - 1] {
        #expect(call.run { $0.workspace_size = size } == outcome(ULTRA_BAD_WORKSPACE, -1, Int64(size), need))
      }
      #expect(call.run { $0.workspace_size = .max } == .ok)
    }
  }

  @Test func offsetsThatDoNotCutTheRows() throws {
    try withCall([2, 3, 4]) { call throws in
      for (values, position, found, expected): ([Int64], Int64, Int64, Int64) in [
        ([1, 2, 5, 9], 0, 1, 0), ([-1, 2, 5, 9], 0, -1, 0), ([.min, 2, 5, 9], 0, .min, 0),
        ([0, 5, 4, 9], 2, 4, 5), ([0, -1, 5, 9], 1, -1, 0), ([0, .max, 5, 9], 2, 5, .max),
        ([0, 2, .max, .min], 3, .min, 9), ([0, 2, 10, 9], 3, 9, 10),
        ([0, 2, 5, 8], 3, 8, 9), ([0, 2, 5, 10], 3, 10, 9), ([0, 2, 5, .max], 3, .max, 9), ([0, 0, 0, 0], 3, 0, 9),
      ] {
        #expect(
          try run(call, "offsets", values) == outcome(ULTRA_BAD_OFFSETS, 1, at: position, found, expected), "\(values)")
      }
    }
    try withCall([]) { call throws in
      #expect(try run(call, "offsets", [1]) == outcome(ULTRA_BAD_OFFSETS, 1, at: 0, 1, 0))
    }
  }

  @Test func targetsThatTheSequenceHasNot() throws {
    try withCall([2, 0, 4]) { call throws in
      for (values, position, found, expected): ([Int64], Int64, Int64, Int64) in [
        ([3, 0, 0], 0, 3, 2), ([-1, 0, 0], 0, -1, 2), ([0, 1, 0], 1, 1, 0), ([0, 0, .max], 2, .max, 4),
        ([0, 0, .min], 2, .min, 4), ([0, -1, 5], 1, -1, 0),
      ] {
        #expect(
          try run(call, "targets", values) == outcome(ULTRA_BAD_TARGETS, 2, at: position, found, expected), "\(values)")
      }
      #expect(try run(call, "targets", [2, 0, 4]) == .ok)
    }
  }

  @Test(arguments: [-1, 20, 21, Int64.min, .max, 1 << 32, -1 << 32, 1 << 61])
  func idsThatTheTableHasNot(id: Int64) throws {
    try withCall([2, 3]) { call throws in
      for position in 0..<5 {
        var ids = [Int64](repeating: 19, count: 5)
        ids[position] = id
        #expect(try run(call, "ids", ids) == outcome(ULTRA_ID_OUT_OF_RANGE, 0, at: Int64(position), id, 20))
      }
      #expect(try run(call, "ids", [0, 19, 0, 19, 0]) == .ok)
    }
  }

  @Test func sequencesThatAreTooLong() throws {
    // As long as the table of positions allows is good: every other test has such a sequence.
    let call = try RawCall(try Self.model.get(), RobustModel.batch([3, 41, 50]))
    #expect(call.run() == outcome(ULTRA_SEQUENCE_TOO_LONG, 1, at: 1, 41, 40))
  }
}
