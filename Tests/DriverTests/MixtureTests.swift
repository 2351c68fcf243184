import Artifact
import Codegen
import Interpreter
import ModelFormat
import Passes
import TensorIR
import TestSupport
import Testing
import UltraRuntime

/// Random mixtures of transducers, imported, compiled and run, against the interpreter.
@Suite struct MixtureTests {
  private static let widths = [5, 8, 25]

  /// A mixture of one to three transducers of one or two layers each, and its weights.
  private func model(_ random: inout Random, isRecommender: Bool = false) throws -> ImportedModel {
    let width = random.pick(Self.widths)
    let rows = random.pick([ModelDescription.Output.Rows.targets, .targets, .last])
    var tensors: [(name: String, tensor: HostTensor)] = [("items", random.tensor([20, width]))]
    var transducers: [ModelDescription] = []
    for name in ["watched", "liked", "bought"].prefix(random.integer(in: 1...3)) {
      let (heads, query, value) = (
        random.integer(in: 1...3), random.pick([3, 8]), random.pick([4, 7])
      )
      let form = random.pick([Mask.Form.causal, .windowed(window: 3, fullTail: 2)])
      let layer = ModelDescription.Layer(
        heads: heads, attentionDim: query, hiddenDim: value, alpha: 0.5, divisor: .fixed(16),
        activations: .init(u: .silu, v: .none, q: .none, k: .none),
        inputNorm: .init(.layerNorm, affine: false, epsilon: 1e-6), uvqkBias: false,
        mask: Mask(form),
        outputNorm: .init(.layerNorm, affine: false, epsilon: 1e-6),
        concatenate: [.u, .attention, .gated],
        outputBias: false)
      let count = random.integer(in: 1...2)
      for index in 0..<count {
        let prefix = "\(name)._hstu_transducer._stu_module._stu_layers.\(index)."
        let spread = 1 / Float(width).squareRoot()
        tensors.append(
          (
            prefix + "_uvqk_weight",
            random.tensor([width, 2 * heads * (query + value)], spread: spread)
          ))
        tensors.append(
          (prefix + "_output_weight", random.tensor([3 * heads * value, width], spread: spread)))
      }
      transducers.append(
        ModelDescription(
          name: name, width: width,
          names: WeightNames(
            preset: .production, prefix: "\(name).", modelNames: [.itemTable: "items"]),
          input: .embedding(.init(item: .init(rows: 20, outOfRange: .modulo))), hasTargets: true,
          layers: Array(repeating: layer, count: count), output: .init(rows: .all)))
    }
    let isOutIn = random.once(in: 2)
    let inner = transducers.count * width
    tensors.append(
      ("fusion", random.tensor(isOutIn ? [width, inner] : [inner, width], spread: 0.3)))
    var description = ModelDescription(
      name: "mixture", width: width,
      names: WeightNames(preset: .none, modelNames: [.fusionWeight: "fusion"]),
      input: transducers[0].input, hasTargets: true, layers: [], output: .init(rows: rows))
    if isRecommender {
      description.names.modelNames[.itemTable] = "items"
      let scores = ModelDescription.Output.Scores(firstRow: 1, norm: .none)
      description.output = .init(
        rows: .last, scores: scores, topK: .init(count: 5, scores: scores, leavesOutSeen: true))
    }
    description.mixture = .init(
      transducers: transducers, layout: isOutIn ? .outIn : .inOut, bias: false)
    return try description.build(
      from: Checkpoint([
        SafetensorsFile(bytes: Safetensors.encode(tensors, name: "w"), name: "w.safetensors")
      ]))
  }

  /// Histories of their own before targets that all transducers have.
  private func batch(for function: Function, _ random: inout Random) -> [String: HostTensor] {
    let targets = (0..<random.integer(in: 0...4)).map { _ in random.integer(in: 0...3) }
    var inputs = ["num_targets": HostTensor(targets.map(Int64.init))]
    for argument in function.arguments {
      let name = function[argument].name
      guard name.hasSuffix(".offsets") else { continue }
      var offsets: [Int64] = [0]
      for count in targets {
        offsets.append((offsets.last ?? 0) + Int64(count + random.pick([0, 0, 1, 9, 40])))
      }
      inputs[name] = HostTensor(offsets)
      let ids = (0..<(offsets.last ?? 0)).map { _ in Int64(random.integer(in: -30...60)) }
      inputs[name.replacing(".offsets", with: ".item_ids")] = HostTensor(ids)
    }
    return inputs
  }

  @Test(
    "compiled mixtures give what the interpreter gives", arguments: 1...8 as ClosedRange<UInt64>)
  func agrees(seed: UInt64) throws {
    var random = Random(seed: seed)
    let model = try model(&random)
    var module = model.module
    try PassManager(PassPipeline(level: 2)).run(on: &module)
    let levels = CPULevel.supportedByHost
    let compiled = try CompiledProgram(
      module, weights: model.weights, level: levels[Int(seed) % levels.count], optimization: .less)
    let function = try #require(module.function(named: "forward"))
    for _ in 0..<3 {
      let inputs = batch(for: function, &random)
      let expected = try Interpreter(module: model.module, weights: model.weights, precision: .f64)
        .run("forward", inputs: inputs)[0].tensor
      let found = try compiled.run(inputs)[0].tensor
      let largest = expected.doubles.reduce(1) { max($0, abs($1)) }
      expectClose(found, expected, atol: 2e-5 * largest, rtol: 0, "seed \(seed)")
    }
  }

  @Test("items that any transducer's sequence has are left out of the best", arguments: 51...54 as ClosedRange<UInt64>)
  func recommends(seed: UInt64) throws {
    var random = Random(seed: seed)
    let model = try model(&random, isRecommender: true)
    var module = model.module
    try PassManager(PassPipeline(level: 2)).run(on: &module)
    let compiled = try CompiledProgram(
      module, weights: model.weights, level: try #require(CPULevel.native), optimization: .less)
    let function = try #require(module.function(named: "forward"))
    for _ in 0..<3 {
      let inputs = batch(for: function, &random)
      try expectBest(
        try compiled.run(inputs), of: model, inputs, firstRow: 1,
        seen: { user in
          inputs.filter { $0.key.hasSuffix(".item_ids") }.flatMap { name, ids in
            let offsets = inputs[name.replacing(".item_ids", with: ".offsets")]?.integers ?? []
            return seenItems(ids.integers[Int(offsets[user])..<Int(offsets[user + 1])], .modulo, rows: 20)
          }
        })
    }
  }

  @Test("made-up batches have sequences of every transducer, and features beside them")
  func syntheticBatches() throws {
    let level = try #require(CPULevel.native)
    var random = Random(seed: 5)
    let mixture = try model(&random)
    let ranking = try RandomRankingModel(seed: 43)
    for model in [mixture, try ranking.description.build(from: ranking.checkpoint)] {
      let compiled = try CompiledProgram(model.module, weights: model.weights, level: level, optimization: .less).model
      let inputs = try SyntheticBatch(lengths: [20, 5], targets: 3).inputs(for: compiled.manifest.entries[0])
      #expect(try compiled.run(inputs: inputs)[0].tensor.shape[0] > 1)
      for (name, tensor) in inputs where name.hasSuffix("offsets") {
        let end = name.hasPrefix("about_") ? 2 : 25
        #expect(try tensor.values(as: Int64.self).last == Int64(end), "\(name)")
      }
    }
  }

  @Test(
    "mixtures of whole ranking models, whose contextual rows are made once",
    arguments: 41...44 as ClosedRange<UInt64>)
  func ranking(seed: UInt64) throws {
    let one = try RandomRankingModel(seed: seed)
    var random = Random(seed: seed)
    let width = one.description.width
    var description = one.description
    description.names.modelNames = [.fusionWeight: "fusion.weight", .fusionBias: "fusion.bias"]
    (description.layers, description.truncations) = ([], [])
    // Both by the same weights, over other histories.
    let transducers = ["long", "short"].map { name in
      var transducer = one.description
      transducer.name = name
      return transducer
    }
    description.mixture = .init(transducers: transducers, layout: .outIn, bias: true)
    let fusion = [
      (name: "fusion.weight", tensor: random.tensor([width, 2 * width], spread: 0.3)),
      ("fusion.bias", random.tensor([width])),
    ]
    let file = try SafetensorsFile(
      bytes: Safetensors.encode(fusion, name: "fusion"), name: "fusion.safetensors")
    let model = try description.build(from: Checkpoint(one.checkpoint.files + [file]))
    try model.module.verify()

    // The short sequences lack the later half of history.
    var (kept, shorter, start): ([Int], [Int64], Int) = ([], [0], 0)
    for (length, candidates) in zip(one.lengths, one.candidates) {
      let history = (length - candidates) / 2
      kept += Array(start..<start + history) + Array(start + length - candidates..<start + length)
      start += length
      shorter.append(Int64(kept.count))
    }
    var inputs: [String: HostTensor] = [:]
    for (name, tensor) in one.inputs {
      if name == "num_targets" || name.hasPrefix("about_") {
        inputs[name] = tensor
        continue
      }
      inputs["long.\(name)"] = tensor
      inputs["short.\(name)"] = name == "offsets" ? HostTensor(shorter) : try tensor.rows(kept)
    }
    let expected = try Interpreter(module: model.module, weights: model.weights, precision: .f64)
      .run("forward", inputs: inputs)[0].tensor

    var module = model.module
    try PassManager(PassPipeline(level: 2)).run(on: &module)
    let picked = module.functions[0].body.count { id in
      if case .pickRows = module.functions[0][id].payload { true } else { false }
    }
    guard case .events(let events) = one.description.input else { return }
    // A least number of events is one of each transducer's own.
    #expect(picked == events.contextual.reduce(0) { $0 + $1.slots * ($1.minimumEvents > 0 ? 2 : 1) })
    let compiled = try CompiledProgram(
      module, weights: model.weights, level: try #require(CPULevel.native), optimization: .less)
    let largest = expected.doubles.reduce(1) { max($0, abs($1)) }
    expectClose(
      try compiled.run(inputs)[0].tensor, expected, atol: 2e-5 * largest, rtol: 0, "seed \(seed)")
  }
}
