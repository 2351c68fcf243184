import Artifact
import Codegen
@testable import Driver
import Foundation
import ModelFormat
import Passes
import TensorIR
import TestSupport
import Testing
import TileIR

@Suite struct CompilerTests {
  /// Of -O2, the default.
  private static let passes = [
    "canonicalize", "cse", "dce", "fold-weights", "prune-demand", "canonicalize", "dce", "fuse",
  ]

  @Test func equalModelsGiveEqualBytesWhateverTheFolder() throws {
    try withTemporaryFolder { folder in
      let first = try ModelFolder(folder.appendingPathComponent("a")).compile()
      let second = try ModelFolder(folder.appendingPathComponent("a longer name")).compile(to: "other.ultra")
      #expect(first.bytes == second.bytes)
    }
  }

  @Test func reportTellsTheStepsTheWorkAndTheResult() throws {
    try withTemporaryFolder { folder in
      let (bytes, report) = try ModelFolder(folder).compile()
      #expect(report.model == "small")
      let names = report.steps.map(\.name)
      let lowering = ["to-tiles", "plan-memory", "code", "object", "artifact"]
      #expect(names == ["import", "checksum"] + Self.passes + lowering)
      // 1024 rows: two layers of 8 x 32 and 24 x 8, and attention with 8 + 8 columns over half of all pairs.
      let products = 2.0 * 1024 * (8 * 32 + 24 * 8)
      let attention = 2.0 * 1024 * 1025 / 2 * 16
      #expect(report.steps[0].flops == 2 * (products + attention))
      #expect(report.steps[2...9].allSatisfy { $0.exactness == "exact" })
      #expect(report.written?.bytes == bytes.count)
      let last = try #require(report.lines(withTimes: false).last)
      #expect(last.contains("model.ultra") && last.contains(Quantity.bytes(Double(bytes.count))))
    }
  }

  @Test func manifestTellsHowItWasMade() throws {
    try withTemporaryFolder { folder in
      _ = try ModelFolder(folder).compile()
      let manifest = try ArtifactReader.open(folder.appendingPathComponent("model.ultra").path, verify: .full).manifest
      #expect(manifest.compiler.flags == ["-O2", "--target-cpu", "x86-64-v3,x86-64-v4"])
      #expect(manifest.levels.map(\.name) == ["x86-64-v4", "x86-64-v3"])
      #expect(manifest.passes.map(\.name) == Self.passes)
      #expect(manifest.kernels.allSatisfy { $0.entry == "forward" && !$0.computes.isEmpty && !$0.domain.isEmpty })
      #expect(manifest.kernels.count { $0.computes.contains("attention + ") } == 2)
      #expect(manifest.passes.allSatisfy { $0.exactness == .exact })
      let ids = try #require(manifest.entries.first?.inputs.first { $0.name == "item_ids" })
      #expect(ids.role == .ids(below: 20))
      let program = try TensorIRParser.parse(try #require(manifest.program))
      #expect(program.function(named: "forward") != nil)
    }
  }

  @Test func failedCompilationLeavesWhatWasThere() throws {
    try withTemporaryFolder { folder in
      let model = try ModelFolder(folder, layers: 1)
      let path = folder.appendingPathComponent("model.ultra").path
      try "old".write(toFile: path, atomically: true, encoding: .utf8)
      // The second layer's weights are missing.
      #expect(throws: ModelError.self) { try model.compile() }
      #expect(try String(contentsOfFile: path, encoding: .utf8) == "old")
      let files = try FileManager.default.contentsOfDirectory(atPath: folder.path).sorted()
      #expect(files == ["model.json", "model.ultra", "weights.safetensors"])
    }
  }

  @Test func formsOfTheProgramAreReadable() throws {
    try withTemporaryFolder { folder in
      let model = try ModelFolder(folder).model
      func text(_ form: CompileOptions.Text) throws -> String {
        var compiler = Compiler(CompileOptions(model: model))
        return try compiler.text(form)
      }
      #expect(try TensorIRParser.parse(text(.tensorIR)).name == "small")
      #expect(try TileIRParser.parse(text(.tileIR)).name == "forward")
      #expect(try text(.llvmIR).contains("define"))
      #expect(try text(.assembly).contains("vfmadd"))
    }
  }

  @Test func passesAreChosenAndPrinted() throws {
    try withTemporaryFolder { folder in
      var options = CompileOptions(model: try ModelFolder(folder).model)
      options.passes = "dce,cse"
      options.printAfter = ["cse"]
      var printed: [String] = []
      var compiler = Compiler(options)
      compiler.onProgram = { printed.append($0) }
      _ = try compiler.text(.tensorIR)
      #expect(compiler.report.steps.map(\.name) == ["import", "checksum", "dce", "cse"])
      #expect(printed.count == 1 && printed[0].contains("After cse"))
    }
  }

  @Test func rewritesRunBeforeTheUsualPasses() throws {
    try withTemporaryFolder { folder in
      var options = CompileOptions(model: try ModelFolder(folder).model)
      options.rewrites = "semi-local-attention{local=4,global=2}"
      options.passes = "dce"
      #expect(options.flags.suffix(4) == ["--rewrite", "semi-local-attention{local=4,global=2}", "--passes", "dce"])
      var compiler = Compiler(options)
      #expect(try compiler.text(.tensorIR).contains("causal window(4) tail(2)"))
      #expect(
        compiler.report.steps.map(\.name)
          == ["import", "checksum", "semi-local-attention{local=4,global=2}", "dce"])
    }
  }
}

@Suite struct TargetCPUTests {
  @Test func namesOfLevels() throws {
    #expect(try [CPULevel](targetCPU: "x86-64-v3") == [.avx2])
    #expect(try [CPULevel](targetCPU: "znver4,x86-64-v3,znver4") == [.avx2, .avx512BF16])
    #expect(try [CPULevel](targetCPU: "sapphirerapids,znver4") == [.avx512BF16, .amx])
    #expect(try [CPULevel](targetCPU: "native") == [CPULevel.native])
  }

  @Test func narrowNumbersHaveTheirLevelUnasked() throws {
    var options = CompileOptions(model: "model.json")
    #expect(try options.usualLevels() == [.avx2, .avx512])
    options.rewrites = "lower-precision{matmul=bf16}"
    #expect(try options.usualLevels() == [.avx2, .avx512, .avx512BF16])
    options.rewrites = "lower-precision{matmul=bf17}"
    #expect(throws: PassError.self) { try options.usualLevels() }
  }

  @Test(arguments: ["", "x86-64-v2", "x86-64-v3,", "native,,", "X86-64-V3"])
  func otherNamesAreRefusedWithTheKnownOnes(text: String) {
    #expect {
      try [CPULevel](targetCPU: text)
    } throws: { error in
      "\(error)".contains(
        "expected x86-64-v3, x86-64-v4, znver4, sapphirerapids, armv8-a, neoverse-n1, neoverse-v1, native")
    }
  }
}
