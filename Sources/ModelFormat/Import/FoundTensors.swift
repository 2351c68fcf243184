/// The tensors of a checkpoint by what they are for, and the numbers that their shapes tell.
struct FoundTensors {
  /// A tensor with its name in the checkpoint.
  struct Tensor {
    var entry: SafetensorsEntry
    var file: SafetensorsFile

    var name: String { entry.name }
    /// How errors name it.
    var place: String { "tensor \(quoted(name))" }
  }

  /// A number with the tensor that told it first.
  struct Told {
    var value: Int
    var tensor: Tensor
  }

  let checkpoint: Checkpoint
  private(set) var tensors: [TensorRole: Tensor] = [:]
  private(set) var extents: [Extent: Told] = [:]
  /// The numbers of the layers, in the order in which they run.
  private(set) var layers: [[Int]] = []

  /// Sorts the tensors whose names begin with `prefix` and binds every extent of their shapes.
  ///
  /// Throws where two tensors are for the same, where a shape has another rank than its role or contradicts that of another tensor, and
  /// where nothing belongs to the family.
  init(_ checkpoint: Checkpoint, _ family: FamilyNames, prefix: String) throws(ModelError) {
    self.checkpoint = checkpoint
    var found: [(role: TensorRole, shape: [Extent], tensor: Tensor)] = []
    for name in checkpoint.names where name.hasPrefix(prefix) {
      guard let path = ModulePath(String(name.dropFirst(prefix.count)), roots: family.roots)?.path,
        let (file, entry) = checkpoint.find(name)
      else { continue }
      let tensor = Tensor(entry: entry, file: file)
      if let refusal = family.refusal(of: path) {
        throw ModelError(
          .unexpectedTensor, file: file.path, place: tensor.place, refusal.reason, hint: refusal.hint)
      }
      guard let (role, shape) = family.match(path) else { continue }
      if let other = tensors.updateValue(tensor, forKey: role) {
        throw ModelError(
          .unexpectedTensor, file: file.path, place: tensor.place,
          "it is for the same as tensor \(quoted(other.name))",
          hint: "say with --prefix with what the names of the wanted tensors begin")
      }
      found.append((role, shape, tensor))
    }
    guard !found.isEmpty else {
      throw Self.nothing(of: family, in: checkpoint, prefix)
    }
    layers = Set(tensors.keys.compactMap { if case .layer(let path, _) = $0 { path } else { nil } })
      .sorted { $0.lexicographicallyPrecedes($1) }
    let numbers = Dictionary(uniqueKeysWithValues: layers.enumerated().map { ($1, $0) })
    // Tensors of layers say most clearly what a width should be, so theirs come first, layer by layer.
    func rank(_ role: TensorRole) -> (Int, Int) {
      switch role {
      case .layer(let path, let role): (numbers[path] ?? 0, LayerRole.allCases.firstIndex(of: role) ?? 0)
      default: (.max, 0)
      }
    }
    found.sort { one, other in
      let (left, right) = (rank(one.role), rank(other.role))
      return (left.0, left.1, one.tensor.name) < (right.0, right.1, other.tensor.name)
    }
    for (_, shape, tensor) in found { try bind(tensor, to: shape) }
  }

  private static func nothing(of family: FamilyNames, in checkpoint: Checkpoint, _ prefix: String) -> ModelError {
    let names = checkpoint.names.filter { $0.hasPrefix(prefix) }
    let message = "no tensor has a name of \(family.title)"
    let other = [FamilyNames.ranking, .research, .stack].first { other in
      names.contains { ModulePath($0, roots: other.roots).flatMap { other.match($0.path) } != nil }
    }
    if let other, other.title != family.title {
      return ModelError(
        .missingTensor, file: checkpoint.fileNames, message, hint: "there are names of \(other.title)")
    }
    let some =
      names.isEmpty ? "there are none" : "here are \(names.prefix(3).map { quoted($0) }.joined(separator: ", "))"
    return ModelError(
      .missingTensor, file: checkpoint.fileNames, message,
      hint: "names are as \(quoted(family.example)), whatever precedes it; \(some)")
  }

  /// The number that shapes tell; nil where no tensor does.
  subscript(extent: Extent) -> Int? { extents[extent]?.value }

  subscript(role: TensorRole) -> Tensor? { tensors[role] }

  subscript(role: ModelRole) -> Tensor? { tensors[.model(role)] }

  /// The names of the embedding tables, sorted.
  var tables: [String] {
    tensors.keys.compactMap { if case .model(.table(let name)) = $0 { name } else { nil } }.sorted()
  }

  private mutating func bind(_ tensor: Tensor, to shape: [Extent]) throws(ModelError) {
    let found = tensor.entry.shape
    func error(_ message: String, hint: String? = nil) -> ModelError {
      ModelError(.unexpectedTensor, file: tensor.file.path, place: tensor.place, message, hint: hint)
    }
    let words = shape.map(\.words).joined(separator: ", ")
    guard found.count == shape.count else {
      let hasSpareAxis = found.count > shape.count && found.count - shape.count <= found.count { $0 == 1 }
      throw error(
        "shape \(found), expected \(shape.count) extents [\(words)]",
        hint: hasSpareAxis
          ? "take an axis of extent 1 out where the checkpoint is saved, with tensor.squeeze(axis)" : nil)
    }
    for (extent, value) in zip(shape, found) {
      if case .fixed(let expected) = extent {
        guard value == expected else { throw error("shape \(found), expected [\(words)]") }
      } else if let told = extents[extent] {
        guard told.value == value else {
          throw error(
            "shape \(found), expected [\(words)], where \(extent.words) is \(told.value) in tensor \(quoted(told.tensor.name)) of shape \(told.tensor.entry.shape)"
          )
        }
      } else {
        extents[extent] = Told(value: value, tensor: tensor)
      }
    }
  }

  /// The numbers that a setting's tensor holds. Throws where it is no list of whole numbers.
  func integers(of setting: StoredSetting) throws(ModelError) -> [Int]? {
    guard let tensor = self[.stored(setting)] else { return nil }
    func error(_ message: String) -> ModelError {
      ModelError(.unexpectedTensor, file: tensor.file.path, place: tensor.place, message)
    }
    let count = tensor.entry.range.count * 8 / tensor.entry.dtype.bitCount
    guard (1...4096).contains(count) else { throw error("shape \(tensor.entry.shape), expected 1 to 4096 numbers") }
    let numbers = try tensor.file.tensor(named: tensor.name).doubles
    let integers = numbers.compactMap { Int(exactly: $0) }
    guard integers.count == numbers.count, integers.allSatisfy({ $0 > 0 }) else {
      throw error("expected whole numbers from 1, found \(numbers)")
    }
    return integers
  }
}

/// The names of a family of checkpoints.
struct FamilyNames {
  /// How errors call the family.
  var title: String
  /// A name of it, for errors.
  var example: String
  /// Modules that it begins with.
  var roots: Set<Substring>
  var patterns: [NamePattern]
  /// Modules that have no counterpart here, by how their path begins, and what to do about it.
  var refusals: [(path: String, reason: String, hint: String?)] = []

  private let exact: [String: Int]
  private let open: [Int]

  init(
    title: String, example: String, roots: Set<Substring>, patterns: [NamePattern],
    refusals: [(path: String, reason: String, hint: String?)] = []
  ) {
    self.title = title
    self.example = example
    self.roots = roots
    self.patterns = patterns
    self.refusals = refusals
    exact = Dictionary(
      patterns.indices.filter { !patterns[$0].name.contains("{") }.map { (patterns[$0].name, $0) },
      uniquingKeysWith: { first, _ in first })
    open = patterns.indices.filter { patterns[$0].name.contains("{") }
  }

  /// What the tensor at this path of the module tree is for; nil where it is none of the family's.
  func match(_ path: [Substring]) -> (role: TensorRole, shape: [Extent])? {
    if let index = exact[path.joined(separator: ".")] { return patterns[index].match(path) }
    for index in open {
      if let match = patterns[index].match(path) { return match }
    }
    return nil
  }

  func refusal(of path: [Substring]) -> (path: String, reason: String, hint: String?)? {
    refusals.first { refusal in path.starts(with: refusal.path.split(separator: ".")) }
  }
}
