import ArtifactFixture
import Foundation
import Testing
import UltraRuntime

@Suite struct PoolTests {
  /// The C pool under the thread sanitizer, which ends the program with an error where it sees a race.
  @Test(arguments: ["-O2", "-fsanitize=thread"])
  func everyIndexRunsOnceAndNothingRaces(flag: String) throws {
    try ModelFixture.withTemporaryFolder { folder in
      let include = ModelFixture.root.appending(path: "include").path
      let program = folder.appending(path: "pool_test").path
      try ModelFixture.run(
        "/usr/bin/cc",
        ["-std=c11", "-g", "-Wall", "-Wextra", "-Wpedantic", "-Werror", flag, "-pthread", "-I" + include]
          + [ModelFixture.root.appending(path: "Tests/ArtifactFixture/pool_test.c").path]
          + ["ultra_pool.c", "ultra_cpus.c"].map { "\(include)/\($0)" } + ["-o", program])
      // The sanitizer cannot place its shadow memory under some settings of address randomization.
      #expect(try ModelFixture.run("/usr/bin/setarch", ["-R", program]) == "ok\n")
    }
  }

  @Test func poolsHaveTheSizeAskedFor() throws {
    #expect(ThreadPool.usableProcessors >= 1)
    #expect(ThreadPool.usableProcessors <= ProcessInfo.processInfo.processorCount)
    #expect(try ThreadPool().workers == ThreadPool.usableProcessors)
    #expect(try ThreadPool(workers: 3).workers == 3)
    #expect(throws: RuntimeError.self) { try ThreadPool(workers: 0) }
    #expect(throws: RuntimeError.self) { try ThreadPool(workers: -1) }
  }
}
