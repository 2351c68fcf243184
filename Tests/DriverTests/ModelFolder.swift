import Driver
import Foundation
import ModelFormat
import TensorIR
import TestSupport

/// A small trained model in a folder: two production layers on ids.
struct ModelFolder {
  let model: String
  let folder: URL

  /// Under `candidates`, the last rows of sequences are candidates, and the model gives their rows; under `ranks` it gives the five best
  /// items that were not seen too. `others` are fields of the description, `outOfRange` one of the item table.
  init(
    _ folder: URL, layers: Int = 2, candidates: Bool = false, ranks: Bool = false,
    mask: String = "\"form\": \"causal\"",
    others: String = "", outOfRange: String = "\"error\""
  ) throws {
    self.folder = folder
    model = folder.appendingPathComponent("model.json").path
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    var random = Random(seed: 5)
    var tensors = [(name: "_embedding_collection.embeddings.item.weight", tensor: random.tensor([20, 8]))]
    for layer in 0..<layers {
      let prefix = "_hstu_transducer._stu_module._stu_layers.\(layer)."
      tensors += [
        (prefix + "_input_norm_weight", random.tensor([8])), (prefix + "_input_norm_bias", random.tensor([8])),
        (prefix + "_uvqk_weight", random.tensor([8, 32])), (prefix + "_uvqk_beta", random.tensor([32])),
        (prefix + "_output_norm_weight", random.tensor([8])), (prefix + "_output_norm_bias", random.tensor([8])),
        (prefix + "_output_weight", random.tensor([24, 8])),
      ]
    }
    try Safetensors.write(tensors, to: folder.appendingPathComponent("weights.safetensors").path)
    try """
    {
      "format": "ultrac-model/1", "name": "small", "weights": ["weights.safetensors"], "width": 8,
      "names": {"preset": "gr-production"},
      "input": {"kind": "embedding", "item": {"rows": 20, "out_of_range": \(outOfRange)}},
      \(candidates ? "\"sequence\": {\"targets\": true}," : "")\(others)
      "layer_count": 2,
      "layer": {
        "heads": 2, "attention_dim": 4, "hidden_dim": 4, "alpha": 0.5, "divisor": 32,
        "activations": {"u": "silu", "v": "none", "q": "none", "k": "none"},
        "input_norm": {"kind": "layer_norm", "affine": true, "epsilon": 1e-6}, "uvqk": {"bias": true},
        "mask": {\(mask)},
        "output_norm": {"kind": "layer_norm", "affine": true, "epsilon": 1e-6},
        "concatenate": ["u", "attention", "gated"], "output": {"bias": false}
      },
      "output": {"rows": "\(candidates ? "targets" : "last")", "norm": {"kind": "l2", "epsilon": 1e-6}, "name": "users"
        \(ranks ? ", \"top_k\": {\"k\": 5, \"first_row\": 1, \"norm\": {\"kind\": \"none\"}, \"seen\": \"leave_out\"}" : "")}
    }
    """.write(toFile: model, atomically: true, encoding: .utf8)
  }

  func compile(to name: String = "model.ultra") throws -> (bytes: [UInt8], report: CompileReport) {
    var compiler = Compiler(CompileOptions(model: model))
    let path = folder.appendingPathComponent(name).path
    try compiler.compile(to: path)
    return ([UInt8](try Data(contentsOf: URL(fileURLWithPath: path))), compiler.report)
  }
}
