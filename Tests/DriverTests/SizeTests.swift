import CUltra
import Driver
import Foundation
import Interpreter
import TensorIR
import TestSupport
import Testing
import UltraRuntime

/// Batches and models of the smallest and largest sizes.
@Suite struct SizeTests {
  private static let everyCheck = Shared { try (RobustModel.everyCheck(), RobustModel.everyCheck().load()) }

  /// Attention alone: rows of q and k, and of v, for so many heads of a width.
  private static func attention(heads: Int, width: Int, divisor: Double, mask: Mask = .causal) throws -> RobustModel {
    var build = FunctionBuilder(module: Module(name: "attention_\(heads)_\(width)"), name: "forward")
    let names = ["q", "k", "v"]
    let operands = names.map { build.argument($0, .tensor([RobustModel.rows, .fixed(heads * width)], .f32)) }
    let offsets = build.argument("offsets", .offsets(sequences: RobustModel.sequences, rows: RobustModel.rows))
    let attention = Attention(heads: heads, alpha: 0.5, divisor: .fixed(divisor), mask: mask)
    build.result("a", try build.append(.attention(attention), operands + [offsets])[0])
    return RobustModel(build.finish())
  }

  /// Production layers on rows x.
  private static func layers(_ name: String, _ layers: [ProductionLayer]) throws -> RobustModel {
    var build = FunctionBuilder(module: Module(name: name), name: "forward")
    var x = build.argument("x", .tensor([RobustModel.rows, .fixed(layers[0].width)], .f32))
    let offsets = build.argument("offsets", .offsets(sequences: RobustModel.sequences, rows: RobustModel.rows))
    for (index, layer) in layers.enumerated() {
      x = try build.productionLayer(layer, prefix: "layers.\(index).", x: x, offsets: offsets, targets: nil)
    }
    build.result("y", x)
    return RobustModel(build.finish())
  }

  private func expectInterpreted(
    _ model: RobustModel, _ loaded: LoadedModel, _ inputs: [String: HostTensor], _ context: String
  ) throws {
    let found = try loaded.run(inputs)
    let expected = try Interpreter(module: model.module, weights: model.weights, precision: .f64)
      .run("forward", inputs: inputs)
    #expect(found.map(\.name) == expected.map(\.name))
    for (found, expected) in zip(found, expected) {
      let tolerance = RandomProgram.Kind.production.tolerance(of: expected.tensor)
      expectClose(found.tensor, expected.tensor, atol: tolerance, rtol: 0, "\(context): \(found.name)")
    }
  }

  @Test(arguments: [
    [], [0], [0, 0, 0], [1], [1, 1, 1], [0, 1, 0, 2, 0], [40], [2, 40, 0, 33, 31, 32], [Int](repeating: 1, count: 200),
    [Int](repeating: 0, count: 200) + [3],
  ])
  func batches(lengths: [Int]) throws {
    let (model, loaded) = try Self.everyCheck.get()
    let inputs = RobustModel.batch(lengths)
    try expectInterpreted(model, loaded, inputs, "lengths \(lengths)")
    // The same, with every buffer guarded.
    let call = try RawCall(loaded, inputs)
    #expect(call.run() == .ok)
    #expect(try call.results() == loaded.run(inputs).map(\.tensor.bytes))
  }

  @Test(arguments: [(1, 1, 1), (1, 3, 1), (25, 2, 25), (50, 1, 50), (7, 1, 25)])
  func widths(width: Int, heads: Int, headWidth: Int) throws {
    let layer = ProductionLayer(
      width: width, heads: heads, queryWidth: headWidth, valueWidth: headWidth, alpha: 0.2, divisor: .fixed(64))
    let model = try Self.layers("width_\(width)_\(heads)_\(headWidth)", [layer])
    let loaded = try model.load()
    for lengths in [[], [1], [0, 33, 1, 64, 65], [130]] {
      var random = Random(seed: 4)
      let inputs = [
        "x": random.tensor([lengths.reduce(0, +), width], spread: 2),
        "offsets": HostTensor(RobustModel.offsets(lengths)),
      ]
      try expectInterpreted(model, loaded, inputs, "width \(width), \(heads) heads of \(headWidth), lengths \(lengths)")
      #expect(try RawCall(loaded, inputs).run() == .ok)
    }
  }

  /// Rows of a long sequence against the sum that defines them, in fp64.
  @Test func attentionOf16384Rows() throws {
    let (count, width) = (16384, 4)
    let loaded = try Self.attention(heads: 1, width: width, divisor: Double(count)).load()
    var random = Random(seed: 5)
    var inputs = ["offsets": HostTensor(RobustModel.offsets([count]))]
    for name in ["q", "k", "v"] { inputs[name] = random.tensor([count, width], center: 0.5, spread: 2) }
    let call = try RawCall(loaded, inputs)
    #expect(call.run() == .ok)
    let result = try #require(loaded.run(inputs, pool: ThreadPool(workers: 2)).first).tensor
    #expect(call.results() == [result.bytes])
    let (q, k, v) = (inputs["q"]?.doubles ?? [], inputs["k"]?.doubles ?? [], inputs["v"]?.doubles ?? [])
    let found = result.doubles
    // In units of fp32's half last place of the sum of the terms' magnitudes. Adding up 16384 terms in fp32, one by one,
    // costs tens of them; compiled code may cost no more than that.
    for row in [0, 1, 63, 64, 127, 128, 129, 1000, 8191, 8192, 16320, 16382, 16383] {
      var (exact, magnitudes) = ([Double](repeating: 0, count: width), [Double](repeating: 0, count: width))
      var serial = [Float](repeating: 0, count: width)
      for key in 0...row {
        let score = 0.5 * (0..<width).reduce(0.0) { $0 + q[row * width + $1] * k[key * width + $1] }
        let weight = score / (1 + exp(-score)) / Double(count)
        for column in 0..<width {
          let term = weight * v[key * width + column]
          exact[column] += term
          magnitudes[column] += abs(term)
          serial[column] += Float(term)
        }
      }
      func error(_ sums: [Double]) -> Double {
        (0..<width).map { abs(sums[$0] - exact[$0]) / magnitudes[$0] * 0x1p24 }.max() ?? 0
      }
      let (got, least) = (error(Array(found[row * width..<(row + 1) * width])), error(serial.map(Double.init)))
      #expect(got <= least + 4, "row \(row): \(got) units; term by term \(least)")
    }
  }

  /// Two layers with a window: any rows depend on those just before them only, which the interpreter can take alone.
  @Test func layersOf16384Rows() throws {
    let (count, width, window) = (16384, 8, 20)
    var layer = ProductionLayer(
      width: width, heads: 1, queryWidth: 4, valueWidth: 4, alpha: 0.5, divisor: .fixed(16))
    layer.mask = Mask(.windowed(window: window, fullTail: 0))
    let model = try Self.layers("long", [layer, layer])
    let loaded = try model.load()
    var random = Random(seed: 6)
    let x = random.tensor([count, width], spread: 2)
    func inputs(_ rows: Range<Int>) throws -> [String: HostTensor] {
      ["x": try x.rows(Array(rows)), "offsets": HostTensor(RobustModel.offsets([rows.count]))]
    }
    let call = try RawCall(loaded, try inputs(0..<count))
    #expect(call.run() == .ok)
    let whole = try HostTensor(element: .f32, shape: [count, width], bytes: call.results()[0])
    let interpreter = Interpreter(module: model.module, weights: model.weights, precision: .f64)
    for start in [0, 4090, 8180, 16384 - 150] {
      let rows = start..<start + 150
      let piece = try inputs(rows)
      let expected = try interpreter.run("forward", inputs: piece)[0].tensor
      let own = Array((start == 0 ? 0 : 2 * window)..<rows.count)
      let wanted = try expected.rows(own)
      let tolerance = RandomProgram.Kind.production.tolerance(of: wanted)
      expectClose(
        try whole.rows(own.map { $0 + start }), wanted, atol: tolerance, rtol: 0, "rows \(rows) of \(count)")
    }
  }

  @Test func memoryGrowsWithTheRowsAndNoFaster() throws {
    let loaded = try Self.everyCheck.get().1
    let entry = try #require(loaded.table.pointee.entries?.pointee)
    for workers: UInt32 in [1, 2, 8] {
      for rows: Int64 in [4096, 16384, 1 << 20, 1 << 29] {
        // One sequence, and sequences of 16 rows.
        for sequences in [1, rows / 16] {
          let size = entry.workspace_size([rows, sequences], workers)
          let twice = entry.workspace_size([2 * rows, 2 * sequences], workers)
          #expect(Double(twice) <= 2.1 * Double(size) && twice > size, "\(rows) rows, \(sequences) sequences")
        }
      }
    }
    let per = Double(entry.workspace_size([1 << 20, 1], 1)) / Double(1 << 20)
    // The widest value of a row is the projection of 32 columns; a handful of such are alive at once.
    #expect(per < 1024, "\(per) bytes a row")
  }
}
