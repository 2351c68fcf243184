import Foundation
import Synchronization
import TensorIR
import TestSupport
import Testing
import UltraRuntime

/// One loaded model serves any number of threads at once.
@Suite struct ManyThreadsTests {
  private struct Work: Sendable {
    var inputs: [String: Tensor]
    var expected: [[UInt8]]
  }

  @Test func eightThreadsGetWhatOneGets() throws {
    let model = try RobustModel.everyCheck().load()
    // Different batches of different sizes for each thread.
    let work = try (0..<8).map { thread in
      try (0..<12).map { round in
        var random = Random(seed: UInt64(thread * 100 + round))
        let lengths = (0..<random.integer(in: 0...9)).map { _ in random.integer(in: 0...RobustModel.longest) }
        let inputs = try RobustModel.batch(lengths, seed: random.next()).mapValues {
          try Tensor($0)
        }
        return Work(inputs: inputs, expected: try model.run(inputs: inputs).map(\.tensor.bytes))
      }
    }
    let pool = try ThreadPool(workers: 3)
    let failures = Mutex<[String]>([])
    let calls = Atomic(0)
    let group = DispatchGroup()
    for (thread, batches) in work.enumerated() {
      group.enter()
      // Threads of their own: a queue starts no more than there are processors.
      let started = Thread {
        defer { group.leave() }
        do {
          // Half of the sessions share a pool.
          let session = try Session(model, pool: thread % 2 == 0 ? pool : nil)
          for _ in 0..<5 {
            for (round, batch) in batches.enumerated() {
              let got = try session.run(batch.inputs).map(\.tensor.bytes)
              if got != batch.expected { failures.withLock { $0.append("thread \(thread), batch \(round)") } }
              calls.add(1, ordering: .relaxed)
            }
          }
        } catch {
          failures.withLock { $0.append("thread \(thread): \(error)") }
        }
      }
      started.start()
    }
    group.wait()
    #expect(failures.withLock { $0 } == [])
    #expect(calls.load(ordering: .relaxed) == 8 * 12 * 5)
  }

  /// Sessions that come and go while the file is loaded and let go of by others.
  @Test func loadingAndCallingAtOnce() throws {
    try withTemporaryFolder { folder in
      let model = try RobustModel.everyCheck()
      let path = folder.appendingPathComponent("model.ultra").path
      try model.backend.compile(model.module, weights: model.weights, to: path)
      let inputs = try RobustModel.batch([7, 0, 12]).mapValues {
        try Tensor($0)
      }
      let expected = try LoadedModel(path: path).run(inputs: inputs).map(\.tensor)
      let failures = Mutex<[String]>([])
      let group = DispatchGroup()
      for thread in 0..<8 {
        group.enter()
        Thread {
          defer { group.leave() }
          for _ in 0..<20 {
            do {
              let got = try LoadedModel(path: path).run(inputs: inputs).map(\.tensor)
              if got != expected { failures.withLock { $0.append("thread \(thread)") } }
            } catch {
              failures.withLock { $0.append("thread \(thread): \(error)") }
            }
          }
        }.start()
      }
      group.wait()
      #expect(failures.withLock { $0 } == [])
    }
  }
}
