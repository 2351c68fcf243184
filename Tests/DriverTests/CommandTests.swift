import Foundation
import ModelFormat
import TensorIR
import TestSupport
import Testing

/// The command as a user runs it: what it prints where, and its exit codes.
@Suite struct CommandTests {
  private func write(_ tensors: [(name: String, tensor: HostTensor)], _ name: String, in folder: URL) throws {
    try Safetensors.write(tensors, to: folder.appendingPathComponent(name).path)
  }

  @Test func everySubcommandTeaches() throws {
    for name in ["import", "compile", "run", "check", "bench", "inspect", "opt"] {
      let help = try ultrac(name, "--help")
      #expect(help.status == 0 && help.errors.isEmpty)
      #expect(help.output.contains("ultrac \(name) "), "an example of \(name)")
    }
    #expect(try ultrac("--version").output.hasPrefix("0."))
  }

  @Test func wrongUsageIsToldFromFailure() throws {
    let unknown = try ultrac("compile", "model.json", "--fast")
    #expect(unknown.status == 64 && unknown.errors.hasPrefix("error: Unknown option '--fast'"))
    let missing = try ultrac("compile", "there is no such.json")
    #expect(missing.status == 1 && missing.output.isEmpty)
    #expect(missing.errors.hasPrefix("error: there is no such.json: cannot be opened"))
  }

  @Test func compileRunCheckBenchInspect() throws {
    try withTemporaryFolder { folder in
      _ = try ModelFolder(folder)
      let compiled = try ultrac("compile", "model.json", "--target-cpu", "x86-64-v3", in: folder)
      #expect(compiled.status == 0 && compiled.errors.isEmpty)
      #expect(compiled.output.contains("wrote model.ultra"))

      let inspected = try ultrac("inspect", "model.ultra", "--verify", in: folder)
      #expect(inspected.status == 0 && inspected.output.contains("verified"))
      let kernel = /\n  attention_\d+ .*attention \+ .*linear \+ add .*128 at a time, 64 below 1024 rows\n/
      #expect(inspected.output.contains(kernel), "\(inspected.output)")
      let json = try ultrac("inspect", "model.ultra", "--json", in: folder).output
      let object = try #require(try JSONSerialization.jsonObject(with: Data(json.utf8)) as? [String: Any])
      #expect(object.keys.sorted() == ["file", "manifest"])

      let inputs = [
        (name: "item_ids", tensor: HostTensor([3, 19, 0] as [Int64])),
        (name: "input.offsets", tensor: HostTensor([0, 1, 3] as [Int64])),
      ]
      try write(inputs, "in.safetensors", in: folder)
      let run = try ultrac(
        "run", "model.ultra", "--inputs", "in.safetensors", "--outputs", "out.safetensors", in: folder)
      #expect(run.status == 0 && run.output.contains("3 rows, 2 sequences"))
      let users = try SafetensorsFile(path: folder.appendingPathComponent("out.safetensors").path).tensor(
        named: "users")
      #expect(users.shape == [2, 8])

      try write(inputs + [("expected.users", users)], "case.safetensors", in: folder)
      let check = try ultrac("check", "model.ultra", "--inputs", "case.safetensors", "--atol", "0", in: folder)
      #expect(check.status == 0 && check.output.contains("pass"))
      var wrong = users.floats
      wrong[9] += 0.01
      try write(inputs + [("expected.users", HostTensor(wrong, shape: [2, 8]))], "wrong.safetensors", in: folder)
      let failed = try ultrac("check", "model.ultra", "--inputs", "wrong.safetensors", in: folder)
      #expect(failed.status == 1 && failed.output.contains("FAIL: 1 over tolerance, the first at element 9"))
      let nothing = try ultrac("check", "model.ultra", "--inputs", "in.safetensors", in: folder)
      #expect(nothing.status == 1 && nothing.errors.contains("nothing to compare with"))

      let bench = try ultrac(
        "bench", "model.ultra", "--lengths", "7,20", "--batch", "2", "--seconds", "0.05", "--json", "--trace", "t.json",
        in: folder)
      let report = try #require(try JSONSerialization.jsonObject(with: Data(bench.output.utf8)) as? [String: Any])
      let points = try #require(report["points"] as? [[String: Any]])
      #expect(points.map { $0["length"] as? Int } == [7, 20])
      #expect(points.allSatisfy { ($0["p99"] as? Double ?? 0) >= ($0["median"] as? Double ?? 1) })
      let kernels = try #require(points.last?["kernels"] as? [[String: Any]])
      let flops = kernels.compactMap { $0["flops"] as? Double }.reduce(0, +)
      #expect(kernels.allSatisfy { ($0["bytes"] as? Double ?? 0) > 0 } && flops == points.last?["flops"] as? Double)
      let traced = try Data(contentsOf: folder.appendingPathComponent("t.json"))
      let trace = try #require(try JSONSerialization.jsonObject(with: traced) as? [String: Any])
      let spans = try #require(trace["traceEvents"] as? [[String: Any]])
      let names = Set(spans.compactMap { $0["name"] as? String })
      #expect(names.isSuperset(of: kernels.compactMap { $0["name"] as? String } + ["setup"]))
    }
  }

  @Test func reportsAreForProgramsToo() throws {
    try withTemporaryFolder { folder in
      _ = try ModelFolder(folder)
      func report(_ arguments: String...) throws -> [String: Any] {
        let outcome = try ultrac(["compile", "model.json", "--json"] + arguments, in: folder)
        #expect(outcome.status == 0 && outcome.errors.isEmpty)
        return try #require(try JSONSerialization.jsonObject(with: Data(outcome.output.utf8)) as? [String: Any])
      }
      let whole = try report("--target-cpu", "x86-64-v3")
      #expect(whole["model"] as? String == "small" && whole["length"] as? Int == 1024)
      let steps = try #require(whole["steps"] as? [[String: Any]])
      #expect(steps.first?["name"] as? String == "import" && steps.last?["name"] as? String == "artifact")
      #expect(steps.allSatisfy { $0["seconds"] is Double })
      let written = try #require(whole["written"] as? [String: Any])
      #expect(written["path"] as? String == "model.ultra" && written["levels"] as? [String] == ["x86-64-v3"])
      let attributes = try FileManager.default.attributesOfItem(
        atPath: folder.appendingPathComponent("model.ultra").path)
      #expect(written["bytes"] as? Int == attributes[.size] as? Int)

      let short = try report("--emit", "tensor-ir", "-o", "p.tir", "--rows", "10")
      let program = try #require(short["written"] as? [String: Any])
      #expect(program["levels"] as? [String] == [] && program["gpus"] as? [String] == [])
      let text = try report(
        "--gpu", "sm_80", "--emit", "ptx", "-o", "p.ptx", "--rewrite", "lower-precision{matmul=bf16,attention=bf16}")
      let code = try #require(text["written"] as? [String: Any])
      #expect(code["levels"] as? [String] == [] && code["gpus"] as? [String] == ["sm_80"])
      let first = try #require((short["steps"] as? [[String: Any]])?.first)
      // Two layers on 10 rows: products of 8 x 32 and 24 x 8, attention with 8 + 8 columns over 55 pairs.
      let flops: Double = 2 * (2 * 10 * (8 * 32 + 24 * 8) + 2 * 55 * 16)
      #expect(first["flops"] as? Double == flops)
      for wrong in [["--json", "--emit", "tensor-ir"], ["--rows", "0"]] {
        #expect(try ultrac(["compile", "model.json"] + wrong, in: folder).status == 64)
      }
    }
  }

  @Test func badInputsAreNamed() throws {
    try withTemporaryFolder { folder in
      _ = try ModelFolder(folder)
      _ = try ultrac("compile", "model.json", in: folder)
      func refusal(_ ids: [Int64], _ offsets: [Int64]) throws -> String {
        try write([("item_ids", HostTensor(ids)), ("offsets", HostTensor(offsets))], "in.safetensors", in: folder)
        let outcome = try ultrac(
          "run", "model.ultra", "--inputs", "in.safetensors", "--outputs", "out.safetensors", in: folder)
        #expect(outcome.status == 1 && outcome.output.isEmpty)
        return outcome.errors
      }
      #expect(try refusal([3, 20], [0, 2]) == "error: item_ids[1]: 20 is outside 0..<20\n")
      #expect(try refusal([3, 4], [0, 2, 1, 2]).hasPrefix("error: offsets[2]: "))
      #expect(try refusal([3, 4], [0, 3]).hasPrefix("error: offsets"))
      // The last entry is held against the number of rows, even where it is below the entry before it.
      #expect(try refusal([3, 4], [0, 5, 1]) == refusal([3, 4], [0, 0, 1]))
      try write([("ids", HostTensor([3] as [Int64]))], "in.safetensors", in: folder)
      let outcome = try ultrac(
        "run", "model.ultra", "--inputs", "in.safetensors", "--outputs", "out.safetensors", in: folder)
      #expect(outcome.errors.contains("no tensor \"item_ids\"") && outcome.errors.contains("hint: the file has ids"))
      let files = try FileManager.default.contentsOfDirectory(atPath: folder.path)
      #expect(!files.contains("out.safetensors"))
    }
  }

  @Test func damagedArtifactsAreRefused() throws {
    try withTemporaryFolder { folder in
      _ = try ModelFolder(folder)
      _ = try ultrac("compile", "model.json", in: folder)
      let path = folder.appendingPathComponent("model.ultra")
      let bytes = try Data(contentsOf: path)
      try bytes.prefix(bytes.count - 100).write(to: path)
      let cut = try ultrac("bench", "model.ultra", in: folder)
      #expect(cut.status == 1 && cut.errors.hasPrefix("error: model.ultra: "))
      var flipped = bytes
      flipped[bytes.count - 5] ^= 1
      try flipped.write(to: path)
      let damaged = try ultrac("inspect", "model.ultra", "--verify", in: folder)
      #expect(damaged.status == 1 && damaged.errors.contains("checksum"))
    }
  }

  @Test func optPrintsWhatItReads() throws {
    try withTemporaryFolder { folder in
      _ = try ModelFolder(folder)
      let program = try ultrac("compile", "model.json", "--emit", "tensor-ir", in: folder).output
      #expect(program.hasPrefix("module "))
      try program.write(to: folder.appendingPathComponent("p.tir"), atomically: true, encoding: .utf8)
      let same = try ultrac("opt", "p.tir", in: folder)
      #expect(same.status == 0 && same.output == program)
      let passes = try ultrac("opt", "p.tir", "--passes", "cse, dce", "--print-ir-after", "cse", in: folder)
      #expect(passes.output == program && passes.errors.contains("After cse"))
      #expect(try ultrac("opt", "--help-passes").output.contains("dce"))
      let unknown = try ultrac("opt", "p.tir", "--passes", "faster", in: folder)
      #expect(unknown.status == 1 && unknown.errors.hasPrefix("error: there is no pass \"faster\"; known are "))
      try "module m\nfunc @f( {\n".write(
        to: folder.appendingPathComponent("bad.tir"), atomically: true, encoding: .utf8)
      let bad = try ultrac("opt", "bad.tir", in: folder)
      #expect(bad.status == 1 && bad.errors.hasPrefix("error: bad.tir:2:"))
    }
  }
}
