/// A number that the shapes of a checkpoint's tensors tell.
enum Extent: Hashable {
  case width
  /// Columns of a layer's first product: u, v, q and k of all heads.
  case uvqk
  /// What a layer's last product reads.
  case outputInner
  /// Elements of the norm of attention.
  case outputNorm
  /// Elements of the research form's biases: 2n - 1 positions, and one more than the last time bucket.
  case positionBias, timeBias
  case maskSize
  case itemRows, actionRows, positionRows, timeRows
  case tableRows(String), tableWidth(String)
  case bits, bitWidth, actionWidth
  case slots, contextualWidth
  case combined, periods
  case hidden(PerceptronRole), inner(PerceptronRole), tasks
  /// A number that the family fixes.
  case fixed(Int)

  /// The number in words, for errors and reports.
  var words: String {
    switch self {
    case .width: "model width"
    case .uvqk: "columns of u, v, q and k"
    case .outputInner: "rows of the last product"
    case .outputNorm: "width of attention's norm"
    case .positionBias: "2n - 1 positions"
    case .timeBias: "time buckets + 1"
    case .maskSize: "n"
    case .itemRows: "items"
    case .actionRows: "actions"
    case .positionRows: "positions"
    case .timeRows: "times"
    case .tableRows(let name): "rows of table \(quoted(name))"
    case .tableWidth(let name): "width of table \(quoted(name))"
    case .bits: "bits of actions"
    case .bitWidth: "width of a bit's row"
    case .actionWidth: "bits x width of a bit's row"
    case .slots: "contextual slots"
    case .contextualWidth: "width of contextual tables"
    case .combined: "model width + 2 a period"
    case .periods: "periods"
    case .hidden(let role): "hidden width of the \(role.rawValue) perceptron"
    case .inner(let role): "input of the \(role.rawValue) perceptron"
    case .tasks: "tasks"
    case .fixed(let value): "\(value)"
    }
  }
}

/// What a tensor is for, with the layer that it is of.
enum TensorRole: Hashable {
  /// `path` is the number of the layer; nested stacks have several numbers, which order layers as they run.
  case layer(path: [Int], LayerRole)
  case model(ModelRole)
  case stored(StoredSetting)
  /// The research form's buffer [n, n]; its values are not read.
  case attentionMask
}

/// A name under which a family of checkpoints keeps a weight, and what its shape tells.
struct NamePattern {
  enum Role {
    case layer(LayerRole)
    case model(ModelRole)
    /// An embedding table, whose name stands in the tensor's.
    case table
    case stored(StoredSetting)
    case attentionMask
  }

  /// Components with dots between. `{i}` stands for the number of a layer, or for those of nested stacks; `{table}` for a name.
  var name: String
  var role: Role
  var shape: [Extent]

  init(_ name: String, _ role: Role, _ shape: [Extent]) {
    self.name = name
    self.role = role
    self.shape = shape
  }

  /// What a tensor is for whose path in the module tree is `path`; nil where the pattern is of another.
  func match(_ path: [Substring]) -> (role: TensorRole, shape: [Extent])? {
    var layer: [Int] = []
    var table = ""
    var rest = path[...]
    for component in name.split(separator: ".") {
      switch component {
      case "{i}":
        guard let numbers = Self.layerPath(&rest) else { return nil }
        layer = numbers
      case "{table}":
        guard let name = rest.popFirst(), !name.isEmpty else { return nil }
        table = String(name)
      default:
        guard rest.popFirst() == component else { return nil }
      }
    }
    guard rest.isEmpty else { return nil }
    switch role {
    case .layer(let role): return (.layer(path: layer, role), shape)
    case .model(let role): return (.model(role), shape)
    case .table: return (.model(.table(table)), [.tableRows(table), .tableWidth(table)])
    case .stored(let setting): return (.stored(setting), shape)
    case .attentionMask: return (.attentionMask, shape)
    }
  }

  /// The numbers of a layer: `3`, or in a stack that a layer of another one wraps (GR's L2STU and SDSTU) `1._stu._stu_layers.0`.
  private static func layerPath(_ rest: inout ArraySlice<Substring>) -> [Int]? {
    guard let first = rest.popFirst().flatMap(number) else { return nil }
    var path = [first]
    while rest.first == "_stu" {
      rest.removeFirst()
      guard rest.first == "_stu_layers" else { continue }
      rest.removeFirst()
      guard let next = rest.popFirst().flatMap(number), path.count < 8 else { return nil }
      path.append(next)
    }
    return path
  }

  /// A number without sign or leading zeros, as PyTorch counts modules.
  private static func number(_ text: Substring) -> Int? {
    guard let value = Int(text), (0..<4096).contains(value), "\(value)" == text else { return nil }
    return value
  }
}

/// The place of a tensor in the module tree, by its name in a checkpoint.
struct ModulePath {
  /// Components that training puts around modules: data parallelism, torch.compile, sharding, activation checkpoints.
  static let wrappers: Set<Substring> = [
    "module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_dmp_wrapped_module",
  ]

  /// From the family's first module on, without wrappers.
  var path: [Substring]

  /// nil where none of the components is one of `roots`, the modules that the family begins with: what precedes them is the
  /// checkpoint's own, `module.`, `model_state_dict.` or the like.
  init?(_ name: String, roots: Set<Substring>) {
    let components = name.split(separator: ".", omittingEmptySubsequences: false)
    guard let start = components.firstIndex(where: roots.contains) else { return nil }
    path = []
    for component in components[start...] {
      // A table may be called as it likes.
      if Self.wrappers.contains(component) && path.last != "embeddings" { continue }
      path.append(component)
    }
  }
}
