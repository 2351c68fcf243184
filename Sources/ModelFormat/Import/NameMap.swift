extension Describer {
  /// The output norm's weights by role.
  var outputNormWeights: [(ModelRole, String)] {
    [ModelRole.rowNormWeight, .rowNormBias, .timeCombinerWeight, .timeCombinerBias].compactMap { role in
      found[role].map { (role, $0.name) }
    }
  }

  /// `names` of model.json: the preset, with a prefix where all names have one, and a map for the others.
  func nameMap(_ preset: WeightNames.Preset, _ weights: [(ModelRole, String)]) -> JSONNode {
    let withTime = found[.timeBias] != nil
    let ofLayers = found.layers.map { path in
      LayerRole.allCases.compactMap { role in found[.layer(path: path, role)].map { (role, $0.name) } }
    }
    let stems = ofLayers.map { stem(of: $0, preset, withTime: withTime) }
    let pattern = preset.layerPrefix ?? ""
    // What precedes the first layer's names, if the preset knows the rest; else whatever serves most of the others.
    var prefix = ""
    let first = pattern.replacing("{i}", with: "0")
    if let stem = stems.first, stem.hasSuffix(first) {
      prefix = String(stem.dropLast(first.count))
    } else if let (role, name) = weights.first, let known = preset.name(of: role), name.hasSuffix(known) {
      prefix = String(name.dropLast(known.count))
    }
    if !stems.allSatisfy({ $0.hasPrefix(prefix) }) { prefix = "" }
    let rests = stems.map { String($0.dropFirst(prefix.count)) }

    var map: [(key: String, value: JSONNode?)] = []
    for (role, name) in weights where preset.name(of: role).map({ prefix + $0 }) != name {
      map.append((role.key, .text(name)))
    }
    for (index, layer) in ofLayers.enumerated() {
      for (role, name) in layer where preset.name(of: role, withTime: withTime).map({ stems[index] + $0 }) != name {
        map.append(("layers.\(index).\(role.rawValue)", .text(name)))
      }
    }
    return .object([
      ("preset", .text(preset.rawValue)), ("prefix", prefix.isEmpty ? nil : .text(prefix)),
      ("layer_prefix", layerPrefix(rests, pattern)), ("map", map.isEmpty ? nil : .object(map)),
    ])
  }

  /// What precedes the preset's names in a layer's; of the first weight that has one of them.
  private func stem(of layer: [(LayerRole, String)], _ preset: WeightNames.Preset, withTime: Bool) -> String {
    for (role, name) in layer {
      if let known = preset.name(of: role, withTime: withTime), name.hasSuffix(known) {
        return String(name.dropLast(known.count))
      }
    }
    return ""
  }

  /// nil where the preset's serves; a text with {i}, or one a layer.
  private func layerPrefix(_ stems: [String], _ preset: String) -> JSONNode? {
    func fits(_ pattern: String) -> Bool {
      stems.enumerated().allSatisfy { index, stem in pattern.replacing("{i}", with: "\(index)") == stem }
    }
    if fits(preset) { return nil }
    // A checkpoint's names could have "{i}" in them.
    if let first = stems.first, !first.contains("{i}") {
      let parts = first.split(separator: ".", omittingEmptySubsequences: false)
      for index in parts.indices.reversed() where parts[index] == "0" {
        var pattern = parts.map(String.init)
        pattern[index] = "{i}"
        let text = pattern.joined(separator: ".")
        if fits(text) { return .text(text) }
      }
    }
    return .list(stems.map { .text($0) })
  }
}
