import Foundation
import Interpreter
import ModelFormat
import TensorIR
import TestSupport
import Testing

/// One golden case: its attributes and its tensors (Tests/Golden/README.md).
struct GoldenCase {
  let name: String
  let attributes: [String: Any]
  /// Weights, `input.*` and `expected.*`.
  let tensors: [String: HostTensor]
  /// The names of the weights, in the order of the layers.
  let weightNames: [String]
  private let outputs: [String: [String: Any]]

  init(_ name: String) throws {
    self.name = name
    let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
      .appendingPathComponent("Golden")
    let json = try JSONSerialization.jsonObject(with: Data(contentsOf: folder.appendingPathComponent("\(name).json")))
    let object = try #require(json as? [String: Any])
    attributes = try #require(object["attributes"] as? [String: Any])
    outputs = try #require(object["outputs"] as? [String: [String: Any]])
    weightNames = try #require(object["weights"] as? [String])
    tensors = try SafetensorsFile.tensors(path: folder.appendingPathComponent("\(name).safetensors").path)
  }

  func tensor(_ name: String) throws -> HostTensor { try #require(tensors[name], "\(self.name): \(name)") }

  func integer(_ key: String) throws -> Int { try #require(attributes[key] as? Int, "\(name): \(key)") }

  var hasTargets: Bool { tensors["input.num_targets"] != nil }

  var layers: [[String: Any]] { attributes["layers"] as? [[String: Any]] ?? [] }

  /// The name prefix of each layer's weights, in order.
  func layerPrefixes(endingIn suffix: String) -> [String] {
    weightNames.filter { $0.hasSuffix(suffix) }.map { String($0.dropLast(suffix.count)) }
  }

  /// Compares a result with `expected.<output>`: in fp32 within the case's own tolerance; in fp64 within the rounding of
  /// the stored fp32, since the reference ran in fp64 too; integers exactly.
  func expect(
    _ got: HostTensor, is output: String, _ precision: Interpreter.Precision,
    sourceLocation: Testing.SourceLocation = #_sourceLocation
  ) throws {
    let expected = try tensor("expected." + output)
    let attributes = try #require(outputs["expected." + output], "\(name): \(output)")
    var flat = got
    // Heads are an axis of their own in the case, and columns here.
    if got.count == expected.count { flat.shape = expected.shape }
    var (atol, rtol) = (0.0, 0.0)
    if attributes["exact"] as? Bool != true {
      atol = precision == .f64 ? 1e-12 : try #require(attributes["atol"] as? Double)
      rtol = precision == .f64 ? 0x1p-24 : try #require(attributes["rtol"] as? Double)
    }
    expectClose(
      flat, expected, atol: atol, rtol: rtol, "\(name) \(output) in \(precision)", sourceLocation: sourceLocation)
  }
}

extension SafetensorsFile {
  /// All tensors of a file, by name.
  static func tensors(path: String) throws -> [String: HostTensor] {
    let file = try SafetensorsFile(path: path)
    return try Dictionary(uniqueKeysWithValues: file.names.map { ($0, try file.tensor(named: $0)) })
  }
}
