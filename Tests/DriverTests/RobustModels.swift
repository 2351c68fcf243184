import Codegen
import Driver
import Foundation
import Passes
import TensorIR
import TestSupport
import UltraRuntime

/// A program with its weights and an artifact of it, for tests of what callers and disks may do to it.
struct RobustModel: Sendable {
  let module: Module
  let weights: WeightTable

  init(_ module: Module) {
    self.module = module
    var random = Random(seed: 11)
    var table = WeightTable()
    for weight in module.weights {
      let shape = weight.type.shape.compactMap(\.extent)
      table.tensors[weight.name] = random.tensor(
        shape, center: weight.name.hasSuffix("norm_weight") ? 1 : 0, spread: 0.5)
    }
    weights = table
  }

  var backend: Backend {
    Backend(
      levels: CPULevel.supportedByHost, compiler: .init(name: "ultrac", version: "test", flags: []),
      model: .init(name: module.name, sourceChecksum: "0"))
  }

  /// Compiles it in a folder of its own, which is removed once the file is loaded.
  func load() throws -> LoadedModel {
    try withTemporaryFolder { folder in
      let path = folder.appendingPathComponent("\(module.name).ultra").path
      try backend.compile(module, weights: weights, to: path)
      return try LoadedModel(path: path)
    }
  }

  static let rows = Dimension.symbol("rows")
  static let sequences = Dimension.symbol("sequences")

  /// Entries of the table of `everyCheck`, its longest sequence, and its width.
  static let entries = 20, longest = 40, width = 8

  /// A model that makes every check of its inputs: ids of a table, targets, a bias with a greatest length, and a
  /// truncation, whose outputs' extents only the call knows.
  static func everyCheck() throws -> RobustModel {
    var build = FunctionBuilder(module: Module(name: "every_check"), name: "forward")
    let ids = build.argument("ids", .tensor([rows], .i64))
    let offsets = build.argument("offsets", .offsets(sequences: sequences, rows: rows))
    let targets = build.argument("targets", .tensor([sequences], .i64))
    var x = try build.emit(.gather(Gather()), build.weight("item_table", [entries, width]), ids)
    let production = ProductionLayer(
      width: width, heads: 2, queryWidth: 3, valueWidth: 5, alpha: 0.5, divisor: .fixed(32),
      mask: Mask(.windowed(window: 6, fullTail: 2)))
    x = try build.productionLayer(production, prefix: "layers.0.", x: x, offsets: offsets, targets: targets)
    var research = ResearchLayer(
      width: width, heads: 1, queryWidth: 4, valueWidth: 4, divisor: .fixed(Double(longest)), n: longest)
    research.bias = .position
    x = try build.researchLayer(research, prefix: "layers.1.", x: x, offsets: offsets, times: nil)
    build.result("y", x)
    build.result("last", try build.emit(.lastRows(LastRows()), x, offsets))
    let selection = RowSelection.latest(keep: 4, contextual: 1)
    let kept = try build.append(.selectOffsets(SelectOffsets(selection, into: "kept")), [offsets, targets])[0]
    build.result("kept_offsets", kept)
    build.result("inner", try build.append(.selectRows(SelectRows(selection)), [x, offsets, kept, targets])[0])
    return RobustModel(build.finish())
  }

  /// A batch for `everyCheck`; half of each sequence's rows, rounded down, are targets.
  static func batch(_ lengths: [Int], seed: UInt64 = 1) -> [String: HostTensor] {
    var random = Random(seed: seed)
    return [
      "ids": HostTensor((0..<lengths.reduce(0, +)).map { _ in Int64(random.integer(in: 0...entries - 1)) }),
      "offsets": HostTensor(offsets(lengths)), "targets": HostTensor(lengths.map { Int64($0 / 2) }),
    ]
  }

  static func offsets(_ lengths: [Int]) -> [Int64] {
    lengths.reduce(into: [0]) { $0.append(($0.last ?? 0) + Int64($1)) }
  }
}

/// Makes a value once for all tests of a suite, whichever asks first.
final class Shared<Value: Sendable>: @unchecked Sendable {
  private let lock = NSLock()
  private let make: @Sendable () throws -> Value
  private var result: Result<Value, any Error>?

  init(_ make: @escaping @Sendable () throws -> Value) { self.make = make }

  func get() throws -> Value {
    lock.lock()
    defer { lock.unlock() }
    if let result { return try result.get() }
    let fresh = Result { try make() }
    result = fresh
    return try fresh.get()
  }
}
