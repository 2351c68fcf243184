import Interpreter
import TensorIR
import TestSupport
import Testing

/// A stack of production layers built from a golden case's attributes.
struct GoldenStack {
  let golden: GoldenCase
  var build: FunctionBuilder
  var x: ValueID
  var offsets: ValueID
  let targets: ValueID
  private let prefixes: [String]
  private let runTimeDivisor: Bool

  init(_ golden: GoldenCase, runTimeDivisor: Bool = false) throws {
    self.golden = golden
    self.runTimeDivisor = runTimeDivisor
    prefixes = golden.layerPrefixes(endingIn: "_uvqk_weight")
    build = FunctionBuilder(module: Module(name: golden.name), name: "forward")
    let width = try #require(golden.layers.first?["embedding_dim"] as? Int)
    x = build.argument("x", .tensor([.symbol("rows"), .fixed(width)], .f32))
    offsets = build.argument("seq_offsets", .offsets(sequences: .symbol("sequences"), rows: .symbol("rows")))
    targets = build.argument("num_targets", .tensor([.symbol("sequences")], .i64))
  }

  mutating func appendLayer(_ index: Int) throws {
    let layer = try ProductionLayer(golden.layers[index], runTimeDivisor: runTimeDivisor)
    x = try build.productionLayer(layer, prefix: prefixes[index], x: x, offsets: offsets, targets: targets)
  }

  mutating func truncate(_ selection: RowSelection) throws {
    let selected = try build.emit(.selectOffsets(SelectOffsets(selection, into: "kept")), offsets, targets)
    x = try build.emit(.selectRows(SelectRows(selection)), x, offsets, selected, targets)
    offsets = selected
  }

  /// Runs the stack and compares every result with the case's tensor of the same name.
  func check(_ precision: Interpreter.Precision) throws {
    let results = try Interpreter(
      module: build.finish(), weights: WeightTable(golden.tensors), precision: precision
    ).run("forward", inputs: golden.inputs())
    #expect(!results.isEmpty)
    for (name, tensor) in results { try golden.expect(tensor, is: name, precision) }
  }
}

extension GoldenCase {
  /// The `input.*` tensors without their prefix.
  func inputs() throws -> [String: HostTensor] {
    var inputs: [String: HostTensor] = [:]
    for (name, tensor) in tensors where name.hasPrefix("input.") { inputs[String(name.dropFirst(6))] = tensor }
    return inputs
  }

  /// Length and targets of every sequence.
  func batch() throws -> [(length: Int, targets: Int)] {
    let lengths = try #require(attributes["lengths"] as? [Int])
    let targets = attributes["num_targets"] as? [Int] ?? lengths.map { _ in 0 }
    return Array(zip(lengths, targets)).map { (length: $0, targets: $1) }
  }
}

extension Mask {
  /// The mask of a case's or a layer's attributes. `sla_k1` and `sla_k2` are TER's; without either it is GR's mask.
  init(_ attributes: [String: Any]) throws {
    let contextual = attributes["contextual_seq_len"] as? Int ?? 0
    let local = attributes["sla_k1"] as? Int ?? 0
    let global = attributes["sla_k2"] as? Int ?? 0
    let window = attributes["max_attn_len"] as? Int ?? 0
    if local > 0 || global > 0 {
      self.init(.keyPrefix(local: local, global: global, targets: .history), contextual: contextual)
    } else if window > 0 {
      let tail = attributes["min_full_attn_seq_len"] as? Int ?? 0
      self.init(.windowed(window: window, fullTail: tail), contextual: contextual)
    } else {
      self.init(.causal, contextual: contextual)
    }
  }
}

extension ProductionLayer {
  init(_ attributes: [String: Any], runTimeDivisor: Bool) throws {
    func integer(_ key: String) throws -> Int { try #require(attributes[key] as? Int, "\(key)") }
    self.init(
      width: try integer("embedding_dim"), heads: try integer("num_heads"), queryWidth: try integer("attention_dim"),
      valueWidth: try integer("hidden_dim"), alpha: try #require(attributes["alpha"] as? Double),
      divisor: runTimeDivisor ? .longestSequence : .fixed(Double(try integer("divisor_N"))),
      mask: try Mask(attributes))
    let norm = try #require(attributes["output_norm"] as? [String: Any])
    outputNorm = norm["kind"] as? String == "group_norm" ? .group : .layer
    concatenatesU = try #require(attributes["concat_u"] as? Bool)
    concatenatesAttention = try #require(attributes["concat_x"] as? Bool)
  }
}
