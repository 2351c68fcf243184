import ArtifactFixture
import Foundation
import Testing
import UltraRuntime

@Suite struct PoolTests {
  /// The C pool under the thread sanitizer, which ends the program with an error where it sees a race.
  @Test(arguments: ["-O2", "-fsanitize=thread"])
  func everyIndexRunsOnceAndNothingRaces(flag: String) throws {
    try ModelFixture.withTemporaryFolder { folder in
      let program = try compile("pool_test.c", in: folder, flags: [flag])
      // The sanitizer cannot place its shadow memory under some settings of address randomization.
      #expect(try ModelFixture.run("/usr/bin/setarch", ["-R", program]) == "ok\n")
    }
  }

  @Test func workersSleepBetweenCalls() throws {
    try ModelFixture.withTemporaryFolder { folder in
      let program = try compile("pool_sleep_test.c", in: folder)
      #expect(try ModelFixture.run(program, []) == "ok\n")
    }
  }

  // MARK: - Processors

  @Test func theAffinityMaskLimitsProcessors() throws {
    try ModelFixture.withTemporaryFolder { folder in
      let root = folder.appending(path: "root")
      try FileManager.default.createDirectory(at: root, withIntermediateDirectories: true)
      let program = try compile("cpus_test.c", in: folder, flags: [Self.root(root)])
      for count in 1...ProcessInfo.processInfo.activeProcessorCount {
        let text = try ModelFixture.run(program, ["\(count)"])
        let numbers = text.split(whereSeparator: \.isWhitespace)
        // It prints the mask's size, which is `count` where the process may use so many, and what was found.
        #expect(numbers.count == 2 && numbers[0] == numbers[1] && numbers[0] != "0", "\(text)")
      }
      #expect(try ModelFixture.run(program, ["1"]) == "1 1\n")
    }
  }

  /// Files of control groups by path, and the processors that they pay for.
  @Test(
    arguments: [
      // Version 2: half a processor, rounded up; above the group at hand; where a container sees its group as the root.
      (["proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "50000 100000\n"], 1),
      (["proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "100000 100000\n"], 1),
      (["proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "100000 100000\n"], 1),
      (["proc/self/cgroup": "0::/elsewhere\n", "sys/fs/cgroup/cpu.max": "10000 100000\n"], 1),
      // Version 1: by the controllers' names, or by the short one.
      (
        [
          "proc/self/cgroup": "9:memory:/a\n4:cpu,cpuacct:/a\n",
          "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "100000\n",
          "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "100000\n",
        ], 1
      ),
      (
        [
          "proc/self/cgroup": "4:cpuacct,cpu:/\n", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "5000\n",
          "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        ], 1
      ),
      // No quota, one larger than the machine, one of something else, and files of anything.
      (["proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "max 100000\n"], nil),
      (["proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "999999999 100000\n"], nil),
      (
        [
          "proc/self/cgroup": "4:cpu:/a\n", "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "-1\n",
          "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000\n",
        ], nil
      ),
      (["proc/self/cgroup": "9:memory:/a\n", "sys/fs/cgroup/memory/a/cpu.max": "1 100000\n"], nil),
      (["proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "100000 0\n"], nil),
      (["proc/self/cgroup": "::\n:\n0\n\0\n"], nil),
    ] as [([String: String], Int?)])
  func quotasLimitProcessors(files: [String: String], expected: Int?) throws {
    try ModelFixture.withTemporaryFolder { folder in
      let root = folder.appending(path: "root")
      try FileManager.default.createDirectory(at: root, withIntermediateDirectories: true)
      for (path, text) in files {
        let file = root.appending(path: path)
        try FileManager.default.createDirectory(at: file.deletingLastPathComponent(), withIntermediateDirectories: true)
        try Data(text.utf8).write(to: file)
      }
      let program = try compile("cpus_test.c", in: folder, flags: [Self.root(root)])
      let all = ProcessInfo.processInfo.activeProcessorCount
      let numbers = try ModelFixture.run(program, ["\(all)"]).split(whereSeparator: \.isWhitespace)
      // Without a quota all that the mask has.
      #expect(numbers.count == 2 && numbers[1] == expected.map { "\($0)" } ?? numbers[0], "\(numbers)")
    }
  }

  private static func root(_ folder: URL) -> String { "-DULTRA_CPUS_ROOT=\"\(folder.path)\"" }

  /// A program of one test file with the pool beside ultra.h; its path.
  private func compile(_ source: String, in folder: URL, flags: [String] = ["-O2"]) throws -> String {
    let include = ModelFixture.root.appending(path: "include").path
    let program = folder.appending(path: "program").path
    try ModelFixture.run(
      "/usr/bin/cc",
      ["-std=c11", "-g", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-pthread", "-I" + include] + flags
        + [ModelFixture.root.appending(path: "Tests/ArtifactFixture/\(source)").path]
        + ["ultra_pool.c", "ultra_cpus.c"].map { "\(include)/\($0)" } + ["-o", program])
    return program
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
