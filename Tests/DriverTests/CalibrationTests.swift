@testable import Driver
import Foundation
import Interpreter
import ModelFormat
import Passes
import TensorIR
import TestSupport
import Testing

/// The error that a compilation reports is the error that is measured, and a budget is kept.
@Suite struct CalibrationTests {
  private static let all = "lower-precision{matmul=fp8,attention=bf16,tables=int4}"

  /// A small model and a file of inputs for it.
  private struct Subject {
    let model: String
    let imported: ImportedModel
    let file: String
    var inputs: [String: HostTensor]

    init(_ folder: URL, lengths: [Int] = [5, 0, 12, 1, 9]) throws {
      model = try ModelFolder(folder).model
      imported = try importModel(at: model)
      var random = Random(seed: 8)
      let rows = lengths.reduce(0, +)
      inputs = [
        "item_ids": HostTensor((0..<rows).map { _ in Int64(random.integer(in: 0...19)) }),
        "offsets": HostTensor(lengths.reduce(into: [Int64(0)]) { $0.append(($0.last ?? 0) + Int64($1)) }),
      ]
      file = folder.appendingPathComponent("inputs.safetensors").path
      try Safetensors.write(inputs.sorted { $0.key < $1.key }.map { ($0.key, $0.value) }, to: file)
    }

    func compile(
      _ rewrites: String?, maxError: Double? = nil, metric: Calibration.Metric = .error
    ) throws -> (module: Module, report: PrecisionReport) {
      var options = CompileOptions(model: model)
      options.rewrites = rewrites
      options.passes = "dce"
      options.calibration = try Calibration(file: file)
      options.calibration?.maxError = maxError
      options.calibration?.metric = metric
      var compiler = Compiler(options)
      let module = try TensorIRParser.parse(compiler.text(.tensorIR))
      return (module, try #require(compiler.report.precision))
    }

    func run(_ module: Module) throws -> [(name: String, tensor: HostTensor)] {
      try Interpreter(module: module, weights: imported.weights, precision: .f32).run("forward", inputs: inputs)
    }

    /// The largest error of each result as a share of its largest magnitude, worked out here.
    func errors(of module: Module) throws -> [String: Double] {
      var errors: [String: Double] = [:]
      for (expected, found) in zip(try run(imported.module), try run(module)) {
        let (expectedNumbers, foundNumbers) = (expected.tensor.doubles, found.tensor.doubles)
        let largest = zip(expectedNumbers, foundNumbers).map { abs($0 - $1) }.max() ?? 0
        errors[expected.name] = largest / (expectedNumbers.map { abs($0) }.max() ?? 1)
      }
      return errors
    }
  }

  @Test func whatKeepingCodesLosesIsMeasured() throws {
    try withTemporaryFolder { folder in
      let subject = try Subject(folder)
      for rewrites in ["cached-scoring{cache=fp8}", Self.all + ",cached-scoring{cache=fp8}"] {
        var options = CompileOptions(model: subject.model)
        options.rewrites = rewrites
        options.calibration = try Calibration(file: subject.file)
        var compiler = Compiler(options)
        _ = try compiler.text(.tensorIR)
        let report = try #require(compiler.report.cachePrecision)
        #expect((compiler.report.precision != nil) == rewrites.hasPrefix(Self.all))
        #expect(report.layers.map(\.name) == ["cache.0.k", "cache.0.v", "cache.1.k", "cache.1.v"])
        // A code's relative error is 2^-4 at most, and a third of that is usual.
        #expect(report.layers.allSatisfy { $0.precision == .cacheFP8 && (25...45).contains($0.signalToNoise) })
        guard rewrites.hasPrefix("cached") else { continue }
        let probe = try #require(try KeptProbe(subject.imported.module, CachedScoringOptions(cache: .fp8)))
        let errors = try subject.errors(of: probe.outputs)
        #expect(report.outputs.map(\.name).sorted() == errors.keys.sorted())
        for output in report.outputs { #expect(errors[output.name] == output.error && output.error > 0) }
        let steps = compiler.report.steps.filter { $0.name == rewrites }
        #expect(steps.map(\.exactness) == ["approximate"])
        #expect(compiler.report.lines(withTimes: false).contains { $0.contains("cache.1.v") })
      }
      let none = try KeptProbe(subject.imported.module, CachedScoringOptions())
      #expect(none?.pairs.count == nil)
    }
  }

  @Test func theErrorReportedIsTheErrorMeasured() throws {
    try withTemporaryFolder { folder in
      let subject = try Subject(folder)
      let (module, report) = try subject.compile(Self.all)
      let errors = try subject.errors(of: module)
      #expect(report.outputs.map(\.name).sorted() == errors.keys.sorted())
      for output in report.outputs {
        #expect(output.error == errors[output.name])
        #expect(output.error > 1e-4, "\(output.name) shows no error to speak of")
      }
      #expect(report.sequences == 5)
      #expect(report.layers.map(\.precision.rawValue).filter { $0 == "fp8" }.count == 4)
      #expect(report.layers.map(\.precision.rawValue).filter { $0 == "bf16 attention" }.count == 2)
      #expect(report.layers.map(\.precision.rawValue).filter { $0 == "int4 table" }.count == 1)
    }
  }

  /// The first projection by hand, from the rows that it reads in the model as it was.
  @Test func aLayersErrorIsItsOwn() throws {
    try withTemporaryFolder { folder in
      let subject = try Subject(folder)
      let report = try subject.compile(Self.all).report
      var module = subject.imported.module
      let function = module.functions[0]
      let id = try #require(function.body.first { function[$0].payload.mnemonic == "linear" })
      let (operands, result) = (function[id].operands, function[id].results[0])
      module.functions[0].results = [.init(name: "x", value: operands[0]), .init(name: "y", value: result)]
      let values = try subject.run(module)
      let (x, y) = (values[0].tensor, values[1].tensor)
      let weight = try subject.imported.weights.withWeight(function[operands[1]].name) {
        try HostTensor(element: $0, shape: $1, bytes: [UInt8]($2)).floats
      }
      let bias = try subject.imported.weights.withWeight(function[operands[2]].name) {
        try HostTensor(element: $0, shape: $1, bytes: [UInt8]($2)).floats
      }
      let (input, output) = (x.shape[1], y.shape[1])
      let columns = (0..<output).map { column in
        RowQuantization.quantize((0..<input).map { weight[$0 * output + column] }, to: .f8e4m3)
      }
      var (largest, noise, signal) = (0.0, 0.0, 0.0)
      for row in 0..<x.shape[0] {
        let quantized = RowQuantization.quantize(x.floats[row * input..<(row + 1) * input], to: .f8e4m3)
        for column in 0..<output {
          let sum = zip(quantized.codes, columns[column].codes).map { Double($0) * Double($1) }.reduce(0, +)
          let found = sum * Double(quantized.scale) * Double(columns[column].scale) + Double(bias[column])
          let expected = y.doubles[row * output + column]
          largest = max(largest, abs(found - expected))
          noise += (found - expected) * (found - expected)
          signal += expected * expected
        }
      }
      let layer = try #require(report.layers.first { $0.name == function[result].name })
      #expect(abs(layer.largestError - largest) <= 1e-5)
      #expect(abs(layer.signalToNoise - 10 * log10(signal / noise)) <= 0.01)
      #expect((15...45).contains(layer.signalToNoise))
    }
  }

  @Test func aBudgetIsKept() throws {
    try withTemporaryFolder { folder in
      let subject = try Subject(folder)
      let asked = try subject.compile(Self.all).report
      var lowered: [Int] = []
      for budget in [1, asked.error, asked.error / 4, asked.error / 30, 1e-4, 0] {
        let (module, report) = try subject.compile(Self.all, maxError: budget)
        #expect(report.error <= budget)
        #expect(report.maxError == budget)
        let errors = try subject.errors(of: module)
        for output in report.outputs { #expect(output.error == errors[output.name]) }
        #expect(try subject.compile(Self.all, maxError: budget).module.text == module.text)
        lowered.append(
          report.layers.filter { ["fp8", "bf16 attention", "int4 table"].contains($0.precision.rawValue) }.count)
      }
      // Less is lowered the smaller the budget; nothing at last.
      #expect(lowered[0] == 7 && lowered[1] == 7)
      #expect(lowered == lowered.sorted(by: >))
      #expect(lowered[3] < 7)
      #expect(lowered.last == 0)
      let untouched = try subject.compile(Self.all, maxError: 0)
      #expect(untouched.report.layers.allSatisfy { $0.precision == .full })
      #expect(try subject.run(untouched.module).map(\.tensor) == subject.run(subject.imported.module).map(\.tensor))
    }
  }

  /// The ranking of the columns of the one output that there is.
  @Test func aRankingIsKept() throws {
    try withTemporaryFolder { folder in
      let subject = try Subject(folder, lengths: (0..<20).map { 1 + $0 % 9 })
      func lost(_ module: Module) throws -> Double {
        let (expected, found) = (try subject.run(subject.imported.module)[0].tensor, try subject.run(module)[0].tensor)
        let width = expected.shape[1]
        func best(_ numbers: [Double], _ row: Int) -> [Int] {
          Array((0..<width).sorted { numbers[row * width + $0] > numbers[row * width + $1] }.prefix(3)).sorted()
        }
        var missing = 0
        for row in 0..<expected.shape[0] {
          missing += Set(best(expected.doubles, row)).subtracting(best(found.doubles, row)).count
        }
        return Double(missing) / Double(3 * expected.shape[0])
      }
      let asked = try subject.compile(Self.all, metric: .best(3))
      let loss = try #require(asked.report.outputs[0].lost)
      #expect(abs(loss - (try lost(asked.module))) < 1e-12)
      #expect(loss > 0)
      let held = try subject.compile(Self.all, maxError: loss / 2, metric: .best(3))
      #expect(try lost(held.module) <= loss / 2 + 1e-12)
      #expect(held.report.error == held.report.outputs[0].lost)
      #expect(held.report.layers != asked.report.layers)
      // The output has 8 columns.
      #expect(throws: DriverError.self) { try subject.compile(Self.all, metric: .best(8)) }
    }
  }

  @Test(arguments: ["", "best", "best-0", "best--1", "best-x", "Error"]) func metricsThatThereAreNot(text: String) {
    #expect(Calibration.Metric(text) == nil)
    #expect(Calibration.Metric("best-10") == .best(10) && Calibration.Metric("error") == .error)
  }

  @Test func manySequencesAreTakenEvenly() throws {
    try withTemporaryFolder { folder in
      var subject = try Subject(folder, lengths: (0..<100).map { $0 % 7 })
      let (module, report) = try subject.compile(Self.all)
      #expect(report.sequences == 32)
      let chosen = (0..<32).map { $0 * 100 / 32 }
      let (ids, offsets) = (subject.inputs["item_ids"]?.integers ?? [], subject.inputs["offsets"]?.integers ?? [])
      subject.inputs["item_ids"] = HostTensor(chosen.flatMap { Array(ids[Int(offsets[$0])..<Int(offsets[$0 + 1])]) })
      subject.inputs["offsets"] = HostTensor(
        chosen.reduce(into: [Int64(0)]) { $0.append(($0.last ?? 0) + offsets[$1 + 1] - offsets[$1]) })
      let errors = try subject.errors(of: module)
      for output in report.outputs { #expect(output.error == errors[output.name]) }
    }
  }

  @Test func whatCannotBeMeasuredIsRefused() throws {
    try withTemporaryFolder { folder in
      let subject = try Subject(folder)
      #expect(throws: DriverError.self) { try subject.compile(nil) }
      try Safetensors.write([("offsets", HostTensor([0, 1] as [Int64]))], to: subject.file)
      #expect {
        _ = try subject.compile(Self.all)
      } throws: {
        "\($0)".contains("no tensor \"item_ids\" or \"input.item_ids\", which the model takes as tensor<rows x i64>")
      }
      try Safetensors.write(
        [("offsets", HostTensor([0, 1] as [Int64])), ("item_ids", HostTensor([1] as [Float]))], to: subject.file)
      #expect {
        _ = try subject.compile(Self.all)
      } throws: { "\($0)".contains("\"item_ids\" holds f32, expected i64") }
    }
  }

  @Test func theReportIsATable() {
    var report = PrecisionReport(file: "in.safetensors", sequences: 4)
    report.layers = [
      .init(name: "uvqk", precision: .fp8, signalToNoise: 31.25, largestError: 0.0123),
      .init(name: "out", precision: .full, signalToNoise: .infinity, largestError: 0),
    ]
    report.outputs = [.init(name: "users", error: 0.004, signalToNoise: 40)]
    report.maxError = 0.005
    #expect(
      report.lines == [
        "precision on 4 sequences of in.safetensors        SQNR dB  largest error",
        "  uvqk                                      fp8      31.3        1.2e-02",
        "  out                                       fp32",
        "output users                                         40.0        4.0e-03",
        "an output's error is a share of its largest magnitude; at most 5.0e-03 is allowed",
      ])
  }
}
