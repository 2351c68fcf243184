import Foundation
import Interpreter
import Passes
import TensorIR

/// Measures what `lower-precision` costs, and finds which operations must keep more bits for a budget.
///
/// Errors are those of the fp32 interpreter: of the lowered program against the program as it was. Operations are raised
/// one step at a time (fp8 and int8 to bf16 to fp32, int4 to int8 to fp32), those with the lowest SQNR of their own first;
/// the fewest steps whose error is within the budget are found by bisection, and measured. The same inputs give the same
/// result on every machine.
struct PrecisionSearch {
  let module: Module
  let weights: any WeightProvider
  let inputs: [String: HostTensor]
  let reference: [(name: String, tensor: HostTensor)]
  let candidates: [PrecisionCandidates.Candidate]
  let metric: Calibration.Metric
  /// The output whose rows are ranked: the widest, the first of several; nil where the metric is another.
  let ranked: String?

  /// Runs the module as it is. Throws where the metric says nothing of any output.
  init(
    _ module: Module, weights: any WeightProvider, inputs: [String: HostTensor], metric: Calibration.Metric
  ) throws {
    self.metric = metric
    self.module = module
    self.weights = weights
    self.inputs = inputs
    reference = try Self.run(module, weights, inputs)
    candidates = module.function(named: Backend.entry).map { PrecisionCandidates($0).all } ?? []
    guard case .best(let count) = metric else {
      ranked = nil
      return
    }
    ranked = reference.max { $0.tensor.columns < $1.tensor.columns }
      .flatMap { $0.tensor.columns > count ? $0.name : nil }
    if ranked == nil {
      throw DriverError(
        "--metric best-\(count): no output has more than \(count) columns to rank",
        hint: "the outputs are \(reference.map { "\($0.name) \($0.tensor.shape)" }.joined(separator: ", "))")
    }
  }

  static func run(
    _ module: Module, _ weights: any WeightProvider, _ inputs: [String: HostTensor]
  ) throws -> [(name: String, tensor: HostTensor)] {
    try Interpreter(module: module, weights: weights, precision: .f32).run(Backend.entry, inputs: inputs)
  }

  /// The options with as many operations raised as the budget needs, and what they cost.
  func options(
    within budget: Double?, from asked: LowerPrecisionOptions
  ) throws -> (options: LowerPrecisionOptions, layers: [PrecisionReport.Layer], outputs: [PrecisionReport.Output]) {
    var outputs = try self.outputs(asked)
    var options = asked
    if let budget, !isWithin(budget, outputs) {
      let raises = try self.raises(from: asked)
      // The fewest that are enough lie in fewest...enough; all of them leave the program as it is, without an error.
      var (fewest, enough) = (1, raises.count)
      while fewest < enough {
        let middle = (fewest + enough) / 2
        if isWithin(budget, try self.outputs(raising(asked, raises.prefix(middle)))) {
          enough = middle
        } else {
          fewest = middle + 1
        }
      }
      options = raising(asked, raises.prefix(enough))
      outputs = try self.outputs(options)
    }
    return (options, try layers(options), outputs)
  }

  private func isWithin(_ budget: Double, _ outputs: [PrecisionReport.Output]) -> Bool {
    outputs.allSatisfy { $0.error(metric) ?? 0 <= budget }
  }

  /// The errors of the outputs under these options.
  private func outputs(_ options: LowerPrecisionOptions) throws -> [PrecisionReport.Output] {
    var lowered = module
    try PassManager(PassPipeline([.init(lowerPrecision, options.settings)])).run(on: &lowered)
    return try zip(reference, try Self.run(lowered, weights, inputs)).compactMap { expected, found in
      guard expected.tensor.element.isFloatingPoint else { return nil }
      let errors = try Errors(found.tensor, expected.tensor)
      var output = PrecisionReport.Output(
        name: expected.name, error: errors.share, signalToNoise: errors.decibels)
      if case .best(let count) = metric, expected.name == ranked {
        output.lost = found.tensor.shareLost(ofBest: count, in: expected.tensor)
      }
      return output
    }
  }

  /// Every candidate with the errors of its own result.
  private func layers(_ options: LowerPrecisionOptions) throws -> [PrecisionReport.Layer] {
    guard let probe = PrecisionProbe(module, function: Backend.entry, options) else { return [] }
    let values = Dictionary(
      uniqueKeysWithValues: try Self.run(probe.module, weights, inputs).map { ($0.name, $0.tensor) })
    return try candidates.map { candidate in
      if let pair = probe.pairs.first(where: { $0.candidate == candidate }), let full = values[pair.results.full],
        let lowered = values[pair.results.lowered]
      {
        let errors = try Errors(lowered, full)
        return PrecisionReport.Layer(
          name: candidate.name, precision: pair.precision, signalToNoise: errors.decibels,
          largestError: errors.largest)
      }
      return PrecisionReport.Layer(name: candidate.name, precision: .full, signalToNoise: .infinity, largestError: 0)
    }
  }

  /// Every step up that there is, the operation whose own result suffers most first.
  private func raises(from asked: LowerPrecisionOptions) throws -> [String] {
    var raises: [(name: String, signalToNoise: Double)] = []
    var options = asked
    while true {
      let layers = try layers(options).filter { $0.precision != .full }
      if layers.isEmpty { break }
      for layer in layers {
        // A second step never comes before the first.
        let before = raises.last { $0.name == layer.name }?.signalToNoise ?? -.infinity
        raises.append((layer.name, max(layer.signalToNoise, before)))
      }
      options = raising(options, layers.map(\.name))
    }
    // Ties in the order of the program.
    return raises.enumerated().sorted { ($0.element.signalToNoise, $0.offset) < ($1.element.signalToNoise, $1.offset) }
      .map(\.element.name)
  }

  /// The options with a step more for every name, as often as it is there: raised where that has fewer bits than fp32, then
  /// kept.
  private func raising(_ asked: LowerPrecisionOptions, _ names: some Sequence<String>) -> LowerPrecisionOptions {
    var options = asked
    for name in names {
      var raised = options
      raised.raise.append(name)
      let isLow = candidates.contains { $0.name == name && raised.precision(of: $0) != .full }
      if isLow && !options.raise.contains(name) {
        options = raised
      } else {
        options.raise.removeAll { $0 == name }
        options.keep.append(name)
      }
    }
    return options
  }
}

extension HostTensor {
  /// Of a matrix; of others 0.
  fileprivate var columns: Int { shape.count == 2 ? shape[1] : 0 }

  /// The columns of each row with the largest numbers, of equal ones the first.
  private func best(_ count: Int) -> [Set<Int>] {
    let (numbers, width) = (doubles, shape[1])
    return (0..<shape[0]).map { row in
      let order = (0..<width).sorted { (-numbers[row * width + $0], $0) < (-numbers[row * width + $1], $1) }
      return Set(order.prefix(count))
    }
  }

  /// The share of the best columns of `expected` that are not among the best of this tensor, over all rows.
  fileprivate func shareLost(ofBest count: Int, in expected: HostTensor) -> Double {
    guard shape[0] > 0 else { return 0 }
    let kept = zip(best(count), expected.best(count)).reduce(0) { $0 + $1.0.intersection($1.1).count }
    return 1 - Double(kept) / Double(count * shape[0])
  }
}

/// How far numbers are from what was expected.
struct Errors {
  /// The largest |found - expected|; infinite where a number is none.
  let largest: Double
  /// The largest error over the largest magnitude expected.
  let share: Double
  /// Signal to noise: 20 log10 of the root mean square expected over that of the errors.
  let decibels: Double

  init(_ found: HostTensor, _ expected: HostTensor) throws {
    let comparison = try TensorComparison(
      found: found, expected: expected, absoluteTolerance: 0, relativeTolerance: 0)
    largest = comparison.largestError.isNaN ? .infinity : comparison.largestError
    let numbers = expected.doubles
    share = largest == 0 ? 0 : largest / numbers.reduce(0) { max($0, abs($1)) }
    let signal = (numbers.reduce(0) { $0 + $1 * $1 } / Double(max(numbers.count, 1))).squareRoot()
    decibels =
      largest == 0 ? .infinity : largest.isFinite ? 20 * log10(signal / comparison.rootMeanSquareError) : -.infinity
  }
}
