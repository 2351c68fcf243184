import Interpreter
import Passes
import TensorIR

/// What it costs to keep keys and values as codes, measured by the fp32 interpreter on real inputs.
struct CachePrecision {
  private(set) var layers: [PrecisionReport.Layer] = []
  private(set) var outputs: [PrecisionReport.Output] = []

  /// Measures a module before `cached-scoring` runs on it; nil where that keeps no codes.
  init?(
    _ module: Module, _ options: CachedScoringOptions, weights: any WeightProvider, inputs: [String: HostTensor]
  ) throws {
    guard let probe = try KeptProbe(module, options) else { return nil }
    let rows = Dictionary(
      uniqueKeysWithValues: try PrecisionSearch.run(probe.rows, weights, inputs).map { ($0.name, $0.tensor) })
    for pair in probe.pairs {
      guard let full = rows[pair.results.full], let coded = rows[pair.results.coded] else { continue }
      let errors = try Errors(coded, full)
      layers.append(
        PrecisionReport.Layer(
          name: pair.name, precision: .cacheFP8, signalToNoise: errors.decibels, largestError: errors.largest))
    }
    let expected = try PrecisionSearch.run(module, weights, inputs)
    for (expected, found) in zip(expected, try PrecisionSearch.run(probe.outputs, weights, inputs))
    where expected.tensor.element.isFloatingPoint {
      let errors = try Errors(found.tensor, expected.tensor)
      outputs.append(
        PrecisionReport.Output(name: expected.name, error: errors.share, signalToNoise: errors.decibels))
    }
  }
}
