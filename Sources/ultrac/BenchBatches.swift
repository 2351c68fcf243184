import Artifact
import Driver
import TensorIR
import UltraRuntime

/// The batches that `bench` makes up for an entry, of sequences of one length. Of histories that are kept, an entry gets what
/// `prefill` gives for them.
struct BenchBatches {
  let model: LoadedModel
  let entry: Manifest.Entry
  let pool: ThreadPool?
  /// In each batch.
  let sequences: Int

  /// Rows of each sequence.
  struct Rows {
    /// Kept from an earlier call.
    var kept: Int
    /// The call's own.
    var new: Int
    /// How many of the call's own an entry that asks is told to be targets.
    var targets: Int
  }

  /// Whether a call takes what is kept of histories.
  var takesKept: Bool { entry.inputs.contains { $0.keeps != nil } }
  /// Whether a call is told how many of its rows are targets.
  var hasTargets: Bool { entry.inputs.contains { $0.role == .targetCounts } }

  /// Inputs, and the shape of them that work is counted by.
  func make(_ rows: Rows) throws -> (inputs: [String: Tensor], shape: BatchShape) {
    let batch = SyntheticBatch(lengths: lengths(rows.new), targets: rows.targets)
    var shape = BatchShape(lengths: batch.lengths, targets: lengths(rows.targets))
    guard takesKept else { return (try batch.inputs(for: entry), shape) }
    let kept = try prefill(rows.kept)
    let inputs = try batch.inputs(for: entry, kept: kept)
    for port in entry.inputs {
      guard case .offsets = port.type, let name = port.keeps, let offsets = try kept[name]?.values(as: Int64.self)
      else { continue }
      shape.kept[port.name] = zip(offsets, offsets.dropFirst()).map { Int($1 - $0) }
    }
    return (inputs, shape)
  }

  private func lengths(_ rows: Int) -> [Int] { [Int](repeating: rows, count: sequences) }

  /// What `prefill` takes and gives for histories of so many rows.
  private func prefill(_ rows: Int) throws -> [String: Tensor] {
    // The session's memory, a workspace for all rows, is given back before anything is measured.
    let session = try Session(model, entry: "prefill", pool: pool)
    var kept = try SyntheticBatch(lengths: lengths(rows), targets: 0).inputs(for: session.entry)
    for (name, tensor) in try session.run(kept) { kept[name] = tensor }
    return kept
  }
}
