import TensorIR

/// A program that computes every candidate of `forward` twice from the same operands: as it is, and in the precision that
/// `lower-precision` would give it. The differences are those of single operations; none adds to another.
public struct PrecisionProbe: Sendable {
  /// A candidate and where its two values are.
  public struct Pair: Sendable {
    /// What is computed twice.
    public var candidate: PrecisionCandidates.Candidate
    /// How the second value is computed.
    public var precision: Precision
    /// The results of the program that hold both values.
    public var results: (full: String, lowered: String)
  }

  /// The program; its results are those of the pairs, and no others.
  public let module: Module
  /// Every candidate that gets fewer bits, in the order of the function.
  public let pairs: [Pair]

  /// Probes a function of a verified module; nil where no function has this name.
  public init?(_ module: Module, function name: String, _ options: LowerPrecisionOptions) {
    guard let index = module.functions.firstIndex(where: { $0.name == name }) else { return nil }
    var module = module
    var function = module.functions[index]
    function.results = []
    var pairs: [Pair] = []
    var writer = PrecisionWriter()
    for candidate in PrecisionCandidates(function).all {
      let precision = options.precision(of: candidate)
      guard precision != .full else { continue }
      let original = function[candidate.operation]
      // The first result is what is compared.
      let value = original.results[0]
      let copy = function.append(
        original.payload, operands: original.operands,
        results: original.results.map { (function[$0].name, function[$0].type) })
      function.body.removeLast()
      writer.lower(copy, precision, in: &function, &module)
      function.body.append(copy)
      let results = ("full \(pairs.count)", "lowered \(pairs.count)")
      function.results.append(.init(name: results.0, value: value))
      function.results.append(.init(name: results.1, value: function[copy].results[0]))
      pairs.append(Pair(candidate: candidate, precision: precision, results: results))
    }
    module.functions = [function]
    self.module = module
    self.pairs = pairs
  }
}
