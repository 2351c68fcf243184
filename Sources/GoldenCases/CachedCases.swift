import ModelFormat
import Passes
import TensorIR

/// Stacks whose keys and values are kept: what is computed of a history, then of rows behind it.
extension GoldenCase {
  /// The programs of a case: the history alone, what is kept of it, the rows behind it, and all rows at once. The third reads
  /// what the second gave.
  func cachedPrograms() throws -> [GoldenProgram] {
    let object = try attributes.object([
      "num_layers", "history_lengths", "delta_len", "delta_rows_are_targets", "divisor_N", "pinned",
      "max_abs_diff_delta_vs_full_last_rows", "layers",
    ])
    let behind = try object.required("delta_len").nonNegativeInteger()
    let scores = try object.required("delta_rows_are_targets").bool()
    let divisor = try cachedDivisor(object)
    let layers = try object.required("layers").elements().map { try LayerAttributes($0, divisor: divisor) }
    guard let width = layers.first?.width, layers.allSatisfy({ $0.width == width }) else {
      throw Unsupported(reason: "the layers differ in embedding_dim, or there are none")
    }
    let description = ModelDescription(
      name: name, width: width, names: try productionNames(layers.map(\.layer)), input: .rows, hasTargets: scores,
      layers: layers.map(\.layer), output: .init(rows: .all))
    let history = try input("history_offsets")
    let counts = HostTensor([Int64](repeating: 0, count: max(history.count - 1, 0)))
    let ends = HostTensor((0..<Int64(history.count)).map { $0 * Int64(behind) })

    func program(
      _ entry: String, _ part: String, _ rows: String, _ inputs: [String: HostTensor]
    ) throws -> GoldenProgram {
      var inputs = inputs
      inputs["x"] = try input(rows)
      var program = try self.program(description, inputs, outputs.filter { $0.name.hasPrefix(part) }) { output in
        Self.cachedResult(output).map { .result($0) }
      }
      program.entry = entry
      // The reference keeps every row.
      try PassManager(PassPipeline(parsing: "\(cachedScoring.name){keep=all}")).run(on: &program.module)
      return program
    }
    let targets = scores ? ["num_targets": counts] : [:]
    let all = scores ? ["num_targets": HostTensor(counts.integers.map { _ in Int64(behind) })] : [:]
    var later = try program(
      scores ? "score" : "extend", "delta.", "delta", ["offsets": ends, "cached_offsets": history])
    later.takesResults = layers.indices.flatMap { ["cache.\($0).k", "cache.\($0).v"] }
    return [
      try program("forward", "prefill.out", "history", targets.merging(["offsets": history]) { $1 }),
      try program("prefill", "prefill.layers", "history", ["offsets": history]), later,
      try program(
        "forward", "full.", "full", all.merging(["offsets": try input("full_offsets")]) { $1 }),
    ]
  }

  /// What an output of such a case is called among the results.
  private static func cachedResult(_ output: String) -> String? {
    let parts = output.split(separator: ".")
    switch parts.last {
    case "out" where parts.count == 2: return "out"
    case "k_cache" where parts.count == 4: return "cache.\(parts[2]).k"
    case "v_cache" where parts.count == 4: return "cache.\(parts[2]).v"
    default: return nil
    }
  }

  /// One number for all calls, or each call's own maximum over its rows, those that are kept counted.
  private func cachedDivisor(_ object: JSONObjectReader) throws -> Attention.Divisor {
    let numbers = try object.required("divisor_N").object(["prefill", "delta", "full"])
    let divisors = try ["prefill", "delta", "full"].map { try numbers.required($0).positiveNumber() }
    if try object.required("pinned").bool() {
      guard Set(divisors).count == 1 else { throw numbers.reader.mismatch(expected: "one number") }
      return .fixed(divisors[0])
    }
    func longest(_ name: String) throws -> Double {
      let offsets = try input(name).integers
      return Double(zip(offsets.dropFirst(), offsets).map { $0 - $1 }.max() ?? 0)
    }
    let full = try longest("full_offsets")
    guard divisors == [try longest("history_offsets"), full, full] else {
      throw numbers.reader.mismatch(expected: "the longest sequences of the calls")
    }
    return .longestSequence
  }
}
