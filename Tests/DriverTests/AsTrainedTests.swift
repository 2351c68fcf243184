import Artifact
import Driver
import Foundation
import Interpreter
import ModelFormat
import Passes
import TensorIR
import TestSupport
import Testing

/// What a model was trained with is told from what a pass did to it.
@Suite struct AsTrainedTests {
  private static let examples = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
    .appendingPathComponent("../../examples").standardizedFileURL

  private var ultra: String { Self.examples.appendingPathComponent("movielens-ultra/model.json").path }

  /// The parts of a model, as passes on the command line with what is said of them.
  private func parts(of path: String) throws -> [String] {
    try importModel(at: path).trainedStructure.map { part in
      "\(part.pass){\(part.options.map { "\($0.name)=\($0.value)" }.joined(separator: ","))} \(part.summary)"
    }
  }

  @Test func theParts() throws {
    #expect(
      try parts(of: ultra) == [
        "semi-local-attention{local=32,global=16,form=tail} all 4 layers",
        "attention-truncation{after=2,keep=64,form=drop} layers 2 to 3 on the latest 64 history rows, "
          + "older ones are dropped",
      ])
    #expect(try parts(of: Self.examples.appendingPathComponent("movielens-100k/model.json").path) == [])
  }

  @Test("masks that differ by layer, prefixes and skips")
  func otherForms() throws {
    try withTemporaryFolder { folder in
      let model = try ModelFolder(folder)
      func parts(_ mask: String, _ truncation: String, _ sequence: String = "{}") throws -> [String] {
        let text = try String(contentsOfFile: model.model, encoding: .utf8)
          .replacing(#""mask": {"form": "causal"}"#, with: #""mask": \#(mask)"#)
          .replacing(
            #""output": {"rows""#, with: #""truncation": \#(truncation), "sequence": \#(sequence), "output": {"rows""#)
        let path = folder.appendingPathComponent("other.json").path
        try text.write(toFile: path, atomically: true, encoding: .utf8)
        return try self.parts(of: path)
      }
      #expect(
        try parts(#"{"form": "windowed", "window": 5}"#, "[]") == [
          "semi-local-attention{local=5,global=0,form=tail} all 2 layers"
        ])
      let prefix = #"{"form": "key_prefix", "local": 4, "global": 2, "targets": "windowed"}"#
      #expect(
        try parts(prefix, "[]", #"{"contextual": 1, "targets": true}"#) == [
          "semi-local-attention{local=4,global=2,form=prefix,targets=windowed} all 2 layers"
        ])
      #expect(
        try parts(#"{"form": "causal"}"#, #"[{"form": "skip", "after": 0, "until": 1, "keep": 3, "contextual": 2}]"#)
          == [
            "attention-truncation{after=0,keep=3,form=skip,contextual=2} layer 0 on the latest 3 history rows, "
              + "older ones skip them"
          ])
    }
  }

  @Test(
    "the passes that parts are like make them of the plain program", arguments: ["movielens-ultra", "movielens-100k"])
  func passesMakeThem(example: String) throws {
    let model = try importModel(at: Self.examples.appendingPathComponent("\(example)/model.json").path)
    var program = model.plainProgram
    for part in model.trainedStructure {
      let settings = part.options.map { PassSetting(name: $0.name, value: $0.value) }
      let step = try PassPipeline.Step(ModulePass.named(part.pass), settings)
      try PassManager(PassPipeline([step])).run(on: &program)
      let batch = BatchShape(lengths: [3, 100, 200])
      #expect(program.functions[0].cost(on: batch).flops == part.program.functions[0].cost(on: batch).flops)
      #expect(try results(program, of: model) == results(part.program, of: model))
    }
    #expect(try results(program, of: model) == results(model.module, of: model))
  }

  private func results(_ module: Module, of model: ImportedModel) throws -> [[Double]] {
    var random = Random(seed: 3)
    let lengths = [0, 1, 90, 40]
    let rows = lengths.reduce(0, +)
    func numbers(_ count: Int, below: Int) -> HostTensor {
      HostTensor((0..<count).map { _ in Int64(random.integer(in: 0...below - 1)) })
    }
    let inputs = [
      "item_ids": numbers(rows, below: 1683), "actions": numbers(rows, below: 6),
      "offsets": HostTensor([0, 0, 1, 91, 131] as [Int64]), "timestamps": numbers(rows, below: 9999),
      "query_timestamps": numbers(lengths.count, below: 9999),
    ]
    let names = module.functions[0].arguments.map { module.functions[0][$0].name }
    return try Interpreter(module: module, weights: model.weights, precision: .f32)
      .run("forward", inputs: inputs.filter { names.contains($0.key) }).map(\.tensor.doubles)
  }

  @Test func reportAndManifestSaySo() throws {
    try withTemporaryFolder { folder in
      let model = try ModelFolder(folder)
      try String(contentsOfFile: model.model, encoding: .utf8)
        .replacing(#""mask": {"form": "causal"}"#, with: #""mask": {"form": "windowed", "window": 5, "full_tail": 3}"#)
        .write(toFile: model.model, atomically: true, encoding: .utf8)
      let compiled = try ultrac(
        "compile", "model.json", "--target-cpu", "x86-64-v3", "--rewrite", "attention-truncation{after=1,keep=8}",
        in: folder)
      #expect(compiled.status == 0)
      let lines = compiled.output.split(separator: "\n").map(String.init)
      func expectOneLine(_ lines: [String], _ parts: String...) {
        #expect(lines.count { line in parts.allSatisfy(line.contains) } == 1, "\(parts) in \(lines)")
      }
      expectOneLine(lines, "  semi-local-attention{local=5,global=3,form=tail}  all 2 layers", "as trained")
      expectOneLine(lines, "  attention-truncation{after=1,keep=8} ", "approximate")
      expectOneLine(lines, "  cse ", "exact")
      let manifest = try ArtifactReader.open(folder.appendingPathComponent("model.ultra").path, verify: .full).manifest
      #expect(
        manifest.passes.prefix(3).map { "\($0.name) \($0.exactness.rawValue)" } == [
          "semi-local-attention as-trained", "attention-truncation approximate", "canonicalize exact",
        ])
      #expect(manifest.passes[0].options == "local=5,global=3,form=tail" && manifest.passes[0].note == "all 2 layers")
      let inspected = try ultrac("inspect", "model.ultra", in: folder).output.split(separator: "\n").map(String.init)
      expectOneLine(inspected, "semi-local-attention{local=5,global=3,form=tail}", "as trained", "all 2 layers")
      expectOneLine(inspected, "attention-truncation{after=1,keep=8}", "approximate")
    }
  }

  @Test func theReportCountsWhatTheStructureSaves() throws {
    var compiler = Compiler(CompileOptions(model: ultra))
    _ = try compiler.text(.tensorIR)
    let model = try importModel(at: ultra)
    func flops(_ module: Module) -> Double {
      module.functions[0].cost(on: BatchShape(lengths: [compiler.report.length])).flops
    }
    let steps = compiler.report.steps
    #expect(
      steps.map(\.name).prefix(3).map { $0.prefix { $0 != "{" } }
        == ["import", "semi-local-attention", "attention-truncation"])
    #expect(steps[0].flops == flops(model.plainProgram))
    #expect(steps[1].flops == flops(model.trainedStructure[0].program))
    #expect(steps[2].flops == flops(model.module))
    #expect(flops(model.module) < 0.7 * flops(model.plainProgram))
  }
}
