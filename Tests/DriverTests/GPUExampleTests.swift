import ArtifactFixture
import Foundation
import TestSupport
import Testing

/// The example in C that serves on a GPU where there is one.
@Suite struct GPUExampleTests {
  @Test("the example takes the code that the driver takes, and leaves nothing behind")
  func serves() throws {
    try withTemporaryFolder { folder in
      let root = ModelFixture.root
      let model = folder.appending(path: "model.ultra").path
      let compiled = try ultrac(
        "compile", root.appending(path: "examples/movielens-ultra/retrieval.json").path, "-O1", "--gpu", "sm_80,sm_90a",
        "--rewrite", "lower-precision{matmul=bf16,attention=bf16}", "-o", model)
      try #require(compiled.status == 0, "\(compiled.errors)")
      func compile(_ source: String, to name: String, _ flags: [String]) throws -> String {
        let program = folder.appending(path: name).path
        try ModelFixture.run(
          "/usr/bin/cc",
          ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O2", "-I" + root.appending(path: "include").path]
            + flags + [root.appending(path: source).path, "-ldl", "-o", program])
        return program
      }
      let example = try compile("examples/c/gpu.c", to: "gpu", [])
      _ = try compile("Tests/DriverTests/driver.c", to: "libcuda.so.1", ["-shared", "-fPIC"])
      let served = try ModelFixture.run("/usr/bin/env", ["LD_LIBRARY_PATH=\(folder.path)", example, model])
        .split(separator: "\n").map(String.init)
      #expect(served.first == "sm_90a: status \(driverFailed), cuModuleLoadData says 218", "\(served)")
      #expect(served.dropFirst().first?.hasPrefix("sm_80: ") == true, "\(served)")
      let last = try #require(served.last)
      #expect(last.hasSuffix(" launches, 0 modules and 0 pieces of memory left") && !last.hasPrefix("0 "), "\(served)")
    }
  }

  /// `ULTRA_DRIVER_FAILED`.
  private var driverFailed: Int { 12 }
}
