import TestSupport
import Testing
import UltraRuntime

@Suite struct KernelRecorderTests {
  private let model: LoadedModel

  init() throws { model = try RobustModel.everyCheck().load() }

  private func session(_ lengths: [Int], workers: Int?) throws -> Session {
    let pool = try workers.map { workers throws(RuntimeError) in try ThreadPool(workers: workers) }
    let session = try Session(model, pool: pool)
    try session.bind(RobustModel.batch(lengths, seed: 7).mapValues { try Tensor($0) })
    return session
  }

  @Test(arguments: [nil, 1, 3])
  func everyBlockOfEveryKernelIsSeenOnce(workers: Int?) throws {
    let session = try session([RobustModel.longest, 3, 0, 5], workers: workers)
    try session.call()
    let expected = try session.results().map(\.tensor.bytes)
    let record = try session.record(blocks: true)
    #expect(try session.results().map(\.tensor.bytes) == expected)
    #expect(!record.kernels.isEmpty)
    var end = 0
    for (number, kernel) in record.kernels.enumerated() {
      #expect(kernel.start >= end && kernel.end >= kernel.start && kernel.end <= record.duration)
      end = kernel.end
      let blocks = record.blocks.filter { $0.kernel == number }
      #expect(blocks.map(\.index) == Array(0..<kernel.blocks))
      for block in blocks {
        #expect(block.start >= kernel.start && block.end >= block.start && block.end <= kernel.end)
        #expect((0..<(workers ?? 1)).contains(block.worker))
      }
    }
    let alone = try session.record()
    #expect(alone.blocks.isEmpty)
    #expect(alone.kernels.map(\.blocks) == record.kernels.map(\.blocks))
  }

  /// Kernels are told apart by their order, so a batch that gives one nothing to do must not skip its loop.
  @Test func anEmptyBatchHasAsManyKernels() throws {
    let full = try session([RobustModel.longest, 2], workers: 2).record()
    for lengths in [[], [0, 0], [1]] {
      let record = try session(lengths, workers: 2).record()
      #expect(record.kernels.count == full.kernels.count)
    }
  }
}
