import Artifact

/// An entry's types, ready to check inputs, find extents and size outputs.
struct EntrySignature: Sendable {
  let entry: Manifest.Entry
  /// For each dimension that the model computes, what it is at most.
  private let bounds: [String: Manifest.Bound]

  init(_ entry: Manifest.Entry, _ manifest: Manifest) {
    self.entry = entry
    var bounds: [String: Manifest.Bound] = [:]
    for dimension in manifest.dimensions { bounds[dimension.name] = dimension.atMost }
    self.bounds = bounds
  }

  private func invalid(_ message: String) -> RuntimeError { RuntimeError(.invalidInput, message) }

  /// Checks that there are all inputs but those that are `lent`, and no others, and that their elements are the entry's.
  func checkElements(of inputs: [String: Tensor], lent: Set<String>) throws(RuntimeError) {
    for name in inputs.keys.sorted() {
      guard entry.inputs.contains(where: { $0.name == name }) else {
        let names = entry.inputs.map(\.name).filter { !lent.contains($0) }.joined(separator: ", ")
        throw invalid("\(name): no input of \"\(entry.name)\", which takes \(names)")
      }
      if lent.contains(name) { throw invalid("\(name): the kept history brings it") }
    }
    for port in entry.inputs where !lent.contains(port.name) {
      guard let tensor = inputs[port.name] else {
        throw invalid("\(port.name): missing; \"\(entry.name)\" needs it as \(port.type)")
      }
      guard tensor.element == port.type.element else {
        throw invalid("\(port.name): \(tensor.element.rawValue), expected \(port.type)")
      }
    }
  }

  /// Checks the inputs, and gives the extents of the entry's dimensions, in order. Of inputs that are `lent`, extents are given.
  func extents(
    of inputs: [String: Tensor], given: [String: Int], lent: Set<String> = []
  ) throws(RuntimeError) -> [Int] {
    try checkElements(of: inputs, lent: lent)
    var found: [String: (extent: Int, source: String)] = [:]
    for name in given.keys.sorted() {
      guard let extent = given[name], entry.dimensions.contains(name) else {
        throw invalid("\(name): no dimension of \"\(entry.name)\"")
      }
      found[name] = (extent, "as given")
    }

    func bind(_ name: String, _ extent: Int, _ input: String, _ shape: [Int]) throws(RuntimeError) {
      if let known = found[name], known.extent != extent {
        throw invalid("\(input): shape \(shape) makes \(name) \(extent), but it is \(known.extent) \(known.source)")
      }
      if found[name] == nil { found[name] = (extent, "in \(input)") }
    }

    for port in entry.inputs {
      guard let tensor = inputs[port.name] else { continue }
      switch port.type {
      case .tensor(_, let shape):
        guard shape.count == tensor.shape.count else {
          throw invalid("\(port.name): shape \(tensor.shape), expected \(port.type)")
        }
        for (extent, actual) in zip(shape, tensor.shape) {
          switch extent {
          case .fixed(let expected):
            if actual != expected { throw invalid("\(port.name): shape \(tensor.shape), expected \(port.type)") }
          case .symbol(let name): try bind(name, actual, port.name, tensor.shape)
          }
        }
      case .offsets(let sequences, _):
        guard tensor.shape.count == 1, let count = tensor.shape.first, count > 0 else {
          throw invalid("\(port.name): shape \(tensor.shape), expected one more number than sequences, at least one")
        }
        switch sequences {
        case .fixed(let expected):
          if count - 1 != expected {
            throw invalid("\(port.name): \(count) offsets, expected \(expected + 1)")
          }
        case .symbol(let name): try bind(name, count - 1, port.name, tensor.shape)
        }
      }
    }
    // Rows that no tensor's shape tells are told by the last offset.
    for port in entry.inputs {
      guard case .offsets(_, .symbol(let name)) = port.type, found[name] == nil, let tensor = inputs[port.name],
        let last = try tensor.values(as: Int64.self).last, let rows = Int(exactly: last)
      else { continue }
      found[name] = (rows, "in \(port.name)")
    }
    var extents: [Int] = []
    for name in entry.dimensions {
      guard let extent = found[name]?.extent else {
        throw invalid("\(name): no input's shape tells this dimension of \"\(entry.name)\"; it must be given")
      }
      extents.append(extent)
    }
    return extents
  }

  private func extent(_ extent: Manifest.Extent, _ extents: [Int]) -> (value: Int, isComputed: Bool)? {
    switch extent {
    case .fixed(let value): return (value, false)
    case .symbol(let name):
      func given(_ name: String) -> Int? { entry.dimensions.firstIndex(of: name).map { extents[$0] } }
      guard let bound = bounds[name] else { return given(name).map { ($0, false) } }
      return bound.value(given).map { ($0, true) }
    }
  }

  /// The largest shape of each output for a batch of these extents.
  func outputShapes(_ extents: [Int]) throws(RuntimeError) -> [[Int]] {
    var shapes: [[Int]] = []
    for port in entry.outputs {
      var shape: [Int] = []
      switch port.type {
      case .tensor(_, let declared):
        for dimension in declared {
          guard let value = extent(dimension, extents)?.value else {
            throw invalid("\(port.name): \(dimension) cannot be computed")
          }
          shape.append(value)
        }
      case .offsets(let sequences, _):
        guard let value = extent(sequences, extents)?.value, value < Int.max else {
          throw invalid("\(port.name): \(sequences) cannot be computed")
        }
        shape = [value + 1]
      }
      guard shape.allSatisfy({ $0 >= 0 }), Tensor.byteCount(port.type.element, shape) != nil else {
        throw invalid("\(port.name): a batch of \(describe(extents)) is too large or negative")
      }
      shapes.append(shape)
    }
    return shapes
  }

  /// The shape of output `index` after `written` of its elements were written; `largest` is from `outputShapes`.
  func finalShape(ofOutput index: Int, largest: [Int], extents: [Int], written: Int) throws(RuntimeError) -> [Int] {
    let port = entry.outputs[index]
    var shape = largest
    if case .tensor(_, let declared) = port.type,
      let computed = declared.firstIndex(where: { extent($0, extents)?.isComputed == true })
    {
      let others = largest.enumerated().reduce(1) { $1.offset == computed ? $0 : $0 * $1.element }
      let count = others == 0 ? 0 : written / others
      if count <= largest[computed] { shape[computed] = count }
    }
    guard written >= 0, shape.reduce(1, *) == written else {
      throw RuntimeError(
        .loading, "\(port.name): the call wrote \(written) elements, which do not make \(port.type); compile it again")
    }
    return shape
  }

  /// "rows 12, sequences 3".
  func describe(_ extents: [Int]) -> String {
    zip(entry.dimensions, extents).map { "\($0) \($1)" }.joined(separator: ", ")
  }
}
