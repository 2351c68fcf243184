extension Manifest {
  /// Refuses a manifest whose parts contradict each other; `path` is the file that errors name.
  func validate(path: String) throws(ArtifactError) {
    func fail(_ message: String) -> ArtifactError {
      ArtifactError(path: path, kind: .manifest, message: "manifest: " + message)
    }
    guard version == Self.currentVersion else {
      throw ArtifactError(
        path: path, kind: .unsupportedVersion,
        message: "manifest: version \(version); this reader knows version \(Self.currentVersion)")
    }

    func unique(_ names: [String], _ place: String) throws(ArtifactError) {
      var seen: Set<String> = []
      for (index, name) in names.enumerated() {
        if name.isEmpty || name.utf8.contains(0) { throw fail("\(place)[\(index)].name: empty, or with a zero byte") }
        if !seen.insert(name).inserted { throw fail("\(place)[\(index)].name: \"\(name)\" is there twice") }
      }
    }
    try unique(dimensions.map(\.name), "dimensions")
    try unique(entries.map(\.name), "entries")
    try unique(levels.map(\.name), "levels")
    try unique(weights.map(\.name), "weights")
    try unique(gpus?.map(\.target) ?? [], "gpus")
    for (index, gpu) in (gpus ?? []).enumerated() {
      for case (let key, let bytes?) in [("ptxBytes", gpu.ptxBytes), ("codeBytes", gpu.codeBytes)] where bytes <= 0 {
        throw fail("gpus[\(index)].\(key): \(bytes); expected a positive number")
      }
      if gpu.ptxBytes == nil, gpu.codeBytes == nil { throw fail("gpus[\(index)]: neither ptxBytes nor codeBytes") }
      try unique(gpu.kernels.map(\.name), "gpus[\(index)].kernels")
      for kernel in gpu.kernels where !entries.contains(where: { $0.name == kernel.entry }) {
        throw fail("gpus[\(index)].kernels: there is no entry \"\(kernel.entry)\"")
      }
    }
    var known: Set<[String]> = []
    for (index, kernel) in kernels.enumerated() {
      if kernel.name.isEmpty { throw fail("kernels[\(index)].name: empty, or with a zero byte") }
      guard entries.contains(where: { $0.name == kernel.entry }) else {
        throw fail("kernels[\(index)].entry: there is no entry \"\(kernel.entry)\"")
      }
      if !known.insert([kernel.entry, kernel.name]).inserted {
        throw fail("kernels[\(index)].name: \"\(kernel.name)\" is there twice")
      }
    }

    let given = Set(dimensions.lazy.filter { $0.atMost == nil }.map(\.name))
    for (index, dimension) in dimensions.enumerated() {
      if let most = dimension.atMostOfSequence, most < 0 || dimension.atMost == nil {
        throw fail("dimensions[\(index)].atMostOfSequence: \(most) is negative, or the caller gives the extent")
      }
      guard let bound = dimension.atMost else { continue }
      if bound.constant < 0 || (bound.terms.isEmpty && bound.constant == 0) {
        throw fail("dimensions[\(index)].atMost: no terms, or a negative constant")
      }
      for term in bound.terms {
        if !given.contains(term.dimension) {
          throw fail("dimensions[\(index)].atMost: \"\(term.dimension)\" is no dimension that a caller gives")
        }
        if term.times < 1 {
          throw fail(
            "dimensions[\(index)].atMost: \(term.times) times \"\(term.dimension)\"; expected a positive number")
        }
      }
    }
    for (index, entry) in entries.enumerated() {
      try validate(entry, "entries[\(index)]", given: given, path: path)
      try unique(entry.inputs.map(\.name), "entries[\(index)].inputs")
      try unique(entry.outputs.map(\.name), "entries[\(index)].outputs")
      try unique(entry.dimensions, "entries[\(index)].dimensions")
    }

    var end = 0
    for (index, weight) in weights.enumerated() {
      guard weight.shape.allSatisfy({ $0 >= 0 }) else { throw fail("weights[\(index)].shape: a negative extent") }
      guard weight.bytes >= 0, weight.offset >= end, weight.offset % WeightsLayout.alignment == 0 else {
        throw fail(
          "weights[\(index)]: offset \(weight.offset), \(weight.bytes) bytes; expected a multiple of "
            + "\(WeightsLayout.alignment) from \(end) on, and no negative size")
      }
      let (next, overflow) = weight.offset.addingReportingOverflow(weight.bytes)
      if overflow { throw fail("weights[\(index)]: offset \(weight.offset) and \(weight.bytes) bytes overflow") }
      end = next
    }
  }

  private func validate(
    _ entry: Entry, _ place: String, given: Set<String>, path: String
  ) throws(ArtifactError) {
    func fail(_ message: String) -> ArtifactError {
      ArtifactError(path: path, kind: .manifest, message: "manifest: " + message)
    }
    for (index, name) in entry.dimensions.enumerated() where !given.contains(name) {
      throw fail("\(place).dimensions[\(index)]: \"\(name)\" is no dimension that a caller gives")
    }
    let inputSymbols = Set(entry.dimensions)
    var outputSymbols = inputSymbols
    for dimension in dimensions {
      if let bound = dimension.atMost, bound.terms.allSatisfy({ inputSymbols.contains($0.dimension) }) {
        outputSymbols.insert(dimension.name)
      }
    }

    func check(_ ports: [Port], _ side: String, _ symbols: Set<String>) throws(ArtifactError) {
      for (index, port) in ports.enumerated() {
        if case .ids(let below) = port.role, below <= 0 {
          throw fail("\(place).\(side)[\(index)].below: \(below); ids need at least one value")
        }
        var fixedCount = 1
        for extent in port.type.extents {
          switch extent {
          case .symbol(let name):
            if !symbols.contains(name) {
              throw fail("\(place).\(side)[\(index)].shape: \"\(name)\" is no dimension of this entry")
            }
          case .fixed(let value):
            let (product, overflow) = fixedCount.multipliedReportingOverflow(by: value)
            if value < 0 || overflow || product > Int.max / 8 {
              throw fail("\(place).\(side)[\(index)].shape: extent \(value) is negative or too large")
            }
            fixedCount = product
          }
        }
      }
    }
    if let most = entry.maximumSequenceLength, most < 0 {
      throw fail("\(place).maximumSequenceLength: \(most) is negative")
    }
    let prefill = entries.first { $0.name == "prefill" }
    for (index, port) in entry.inputs.enumerated() {
      guard let window = port.window else { continue }
      if window.first < 0 || window.latest < 1 || port.keeps == nil {
        throw fail(
          "\(place).inputs[\(index)].window: \(window.first) first and \(window.latest) latest rows of what is kept")
      }
    }
    for (index, port) in entry.inputs.enumerated() {
      guard let kept = port.keeps else { continue }
      if prefill?.inputs.contains(where: { $0.name == kept }) == true { continue }
      guard prefill?.outputs.contains(where: { $0.name == kept }) == true else {
        throw fail("\(place).inputs[\(index)].keeps: \"\(kept)\" is no input or output of \"prefill\"")
      }
    }
    try check(entry.inputs, "inputs", inputSymbols)
    try check(entry.outputs, "outputs", outputSymbols)
  }
}

extension Manifest.PortType {
  /// The extents that the type names: a tensor's shape, or the sequences and rows of offsets.
  public var extents: [Manifest.Extent] {
    switch self {
    case .tensor(_, let shape): shape
    case .offsets(let sequences, let rows): [sequences, rows]
    }
  }
}
