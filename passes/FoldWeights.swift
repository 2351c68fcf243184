import TensorIR

/// Takes constant factors and norms' weights out of the work of every call, into the weights beside them.
///
/// Exact within the rounding of fp32: products are taken in another order, and a folded weight is rounded once more. Weights
/// that are stored narrower, and values that are converted or quantized before their product, are left alone: the published
/// FP8 scheme quantizes a norm's affine result (SEMANTICS section 9), so lower precision comes first.
public let foldWeights = ModulePass(
  name: "fold-weights",
  summary: "fold norms' weights, score scales and factors into other weights, within fp32 rounding",
  options: NoOptions.self, exactness: .exact
) { (module, _, context) throws(PassError) in
  var folds = WeightFolding.Folds()
  for index in module.functions.indices {
    var folding = WeightFolding(module, function: index, folds)
    folding.foldConstants()
    folding.foldFactors()
    (module, folds) = (folding.finished, folding.folds)
  }
  context.note(folds.constants, "constant", "computed ahead of time")
  context.note(folds.norms, "norm", "folded into the products after it")
  context.note(folds.alphas, "score scale", "folded into queries")
  context.note(folds.factors, "factor", "folded into weights")
}

/// One function of a module on its way.
///
/// A weight is replaced only where nothing but the operation at hand reads it: else the artifact would hold it twice.
private struct WeightFolding {
  /// What was done, for the report.
  struct Folds {
    var constants = 0
    var norms = 0
    var alphas = 0
    var factors = 0
  }

  private(set) var folds: Folds
  private var module: Module
  private var function: Function
  private let index: Int
  /// The operations that read a value, once for each operand.
  private var readers: [ValueID: [OperationID]] = [:]
  private var returned: Set<ValueID>
  private var removed: Set<OperationID> = []
  private let readElsewhere: Set<WeightID>

  /// Bytes. A larger table is not copied for the sake of one product for each number that is looked up.
  private static let largestTable = 1 << 26

  /// Factors reach their weights through no more operations than this.
  private static let greatestDepth = 64

  init(_ module: Module, function index: Int, _ folds: Folds) {
    self.folds = folds
    self.module = module
    self.index = index
    function = module.functions[index]
    returned = Set(function.results.map(\.value))
    readElsewhere = module.functions.indices.reduce(into: []) { weights, other in
      if other != index { weights.formUnion(module.functions[other].readWeights) }
    }
    for id in function.body {
      for operand in function[id].operands { readers[operand, default: []].append(id) }
    }
  }

  var finished: Module {
    var result = module
    result.functions[index] = function
    if !removed.isEmpty { result.functions[index].body.removeAll(where: removed.contains) }
    return result
  }

  // MARK: - What is folded

  /// Work on weights alone. Forward: constants make constants of what reads them.
  mutating func foldConstants() {
    for id in function.body {
      let operands = function[id].operands
      guard let weight = operands.first.flatMap({ weight($0) }), isSmall(module[weight].type) else { continue }
      let name = module[weight].name
      switch function[id].payload {
      case .scale(let scale) where isModerate(scale.factor):
        remove(id, [constant("\(name).scaled", as: function[id].results[0], .scale(name, factor: scale.factor))])
      case .split(let split):
        var first = 0
        var slices: [ValueID] = []
        for (width, result) in zip(split.widths, function[id].results) {
          slices.append(constant("\(name).columns", as: result, .slice(name, axis: .columns, first: first)))
          first += width
        }
        remove(id, slices)
      default: continue
      }
      folds.constants += 1
    }
  }

  /// Backward: a factor that joins an earlier one, and a norm behind which a factor has gone, are still to come.
  mutating func foldFactors() {
    for id in function.body.reversed() where !removed.contains(id) {
      switch function[id].payload {
      case .layerNorm: foldNorm(id)
      case .attention(let attention): foldAlpha(id, attention)
      case .scale(let scale): foldFactor(id, scale.factor)
      default: break
      }
    }
  }

  /// `(n w + b) W + c = n (diag(w) W) + (b W + c)`.
  private mutating func foldNorm(_ id: OperationID) {
    let operands = function[id].operands
    guard operands.count == 3, let factors = weight(operands[1]), let offsets = weight(operands[2]),
      let products = products(reading: function[id].results[0])
    else { return }
    for (product, linear) in products {
      let matrix = name(function[product].operands[1])
      let bias = function[product].operands.dropFirst(2).first
      guard let result = function[function[product].results[0]].type.tensor else { continue }
      let offset = WeightFormula.product(
        vector: module[offsets].name, matrix: matrix, bias: bias.map(name), orientation: linear.orientation)
      let vector = module.deriveWeight(
        "\(bias.map(name) ?? matrix).norm_bias", TensorType([result.shape[1]], result.element), offset)
      setOperand(2, of: product, to: function.value(of: vector, in: module))
      let axis = linear.orientation == .inOut ? WeightFormula.Axis.rows : .columns
      derive(1, of: product, "normed", .scaleAxis(matrix, by: module[factors].name, axis: axis))
    }
    for operand in operands[1...] { readers[operand]?.removeAll { $0 == id } }
    function[id].operands = [operands[0]]
    folds.norms += 1
  }

  /// A score's scale is one of the query's. What of a product is not a query keeps its size.
  private mutating func foldAlpha(_ id: OperationID, _ attention: Attention) {
    let query = function[id].operands[0]
    guard attention.alpha != 1, isModerate(attention.alpha), isRead(query, byOnly: id) else { return }
    if canScale(query, by: attention.alpha) {
      scale(query, by: attention.alpha)
    } else if let producer = function.producer(of: query), case .split(let split) = producer.payload,
      let place = producer.results.firstIndex(of: query), let product = ownProduct(producer.operands[0])
    {
      let factors = split.widths.indices.map { $0 == place ? attention.alpha : 1 }
      scaleOutput(of: product) { .scaleRanges($0, axis: $1, widths: split.widths, factors: factors) }
    } else {
      return
    }
    var unscaled = attention
    unscaled.alpha = 1
    function[id].payload = .attention(unscaled)
    folds.alphas += 1
  }

  /// `x f`: into the products that read it, or into the weights that x is made of.
  private mutating func foldFactor(_ id: OperationID, _ factor: Double) {
    let operand = function[id].operands[0]
    guard isModerate(factor) else { return }
    if let products = products(reading: function[id].results[0]) {
      for (product, _) in products {
        derive(1, of: product, "scaled", .scale(name(function[product].operands[1]), factor: factor))
      }
    } else if canScale(operand, by: factor) {
      scale(operand, by: factor)
    } else {
      return
    }
    remove(id, [operand])
    folds.factors += 1
  }

  // MARK: - Where factors go

  /// Whether the value can be scaled by other weights: it has one reader, and is a sum of what is made of weights that have
  /// no other.
  private func canScale(_ value: ValueID, by factor: Double, depth: Int = 0) -> Bool {
    guard depth < Self.greatestDepth, readers[value]?.count == 1, !returned.contains(value),
      let producer = function.producer(of: value)
    else { return false }
    switch producer.payload {
    case .linear: return ownProduct(value) != nil
    case .gather: return ownWeight(producer.operands[0]).map { isSmall(module[$0].type) } ?? false
    case .add: return producer.operands.allSatisfy { canScale($0, by: factor, depth: depth + 1) }
    case .zeroRows: return canScale(producer.operands[0], by: factor, depth: depth + 1)
    case .scale(let own): return isModerate(own.factor * factor)
    default: return false
    }
  }

  /// Whether numbers stay far from the ends of fp32's range.
  private func isModerate(_ factor: Double) -> Bool { (0x1p-40...0x1p40).contains(abs(factor)) }

  private func isSmall(_ type: TensorType) -> Bool {
    (type.fixedElementCount ?? .max) <= Self.largestTable / type.element.byteCount
  }

  /// Scales what `canScale` said yes to.
  private mutating func scale(_ value: ValueID, by factor: Double) {
    guard case .result(let id, _) = function[value].definition else { return }
    switch function[id].payload {
    case .linear: scaleOutput(of: id) { source, _ in .scale(source, factor: factor) }
    case .gather: derive(0, of: id, "scaled", .scale(name(function[id].operands[0]), factor: factor))
    case .add: for operand in function[id].operands { scale(operand, by: factor) }
    case .zeroRows: scale(function[id].operands[0], by: factor)
    case .scale(let own): function[id].payload = .scale(Scale(factor: own.factor * factor))
    default: break
    }
  }

  /// Gives a product another matrix, and another bias where it has one; `formula` gets a source and the axis of its columns
  /// of output.
  private mutating func scaleOutput(
    of product: OperationID, _ formula: (String, WeightFormula.Axis) -> WeightFormula
  ) {
    guard case .linear(let linear) = function[product].payload else { return }
    let operands = function[product].operands
    derive(1, of: product, "scaled", formula(name(operands[1]), linear.orientation == .inOut ? .columns : .rows))
    if operands.count == 3 { derive(2, of: product, "scaled", formula(name(operands[2]), .rows)) }
  }

  // MARK: - Who reads what

  /// The weight that the value is, of the element types that formulas keep whole; nil for everything else.
  private func weight(_ value: ValueID) -> WeightID? {
    guard case .weight(let id) = function[value].definition else { return nil }
    switch module[id].type.element {
    case .f32, .f64: return id
    default: return nil
    }
  }

  /// The weight that the value is, where one operation alone reads it.
  private func ownWeight(_ value: ValueID) -> WeightID? {
    guard let id = weight(value), readers[value]?.count == 1, !returned.contains(value), !readElsewhere.contains(id)
    else { return nil }
    return id
  }

  private func isRead(_ value: ValueID, byOnly id: OperationID) -> Bool {
    readers[value] == [id] && !returned.contains(value)
  }

  /// Whether the operation is a product with a matrix of its own, its bias a weight too.
  private func hasOwnMatrix(_ operation: Operation) -> Bool {
    ownWeight(operation.operands[1]) != nil && operation.operands.dropFirst(2).allSatisfy { weight($0) != nil }
  }

  /// The product that gives the value to one reader alone, where its weights may be replaced.
  private func ownProduct(_ value: ValueID) -> OperationID? {
    guard case .result(let id, _) = function[value].definition, case .linear = function[id].payload,
      readers[value]?.count == 1, !returned.contains(value), hasOwnMatrix(function[id])
    else { return nil }
    return id
  }

  /// The products that read the value as their rows, where nothing else does and their weights may be replaced.
  private func products(reading value: ValueID) -> [(OperationID, Linear)]? {
    guard let ids = readers[value], !ids.isEmpty, !returned.contains(value) else { return nil }
    var products: [(OperationID, Linear)] = []
    for id in ids {
      guard case .linear(let linear) = function[id].payload, function[id].operands[0] == value,
        hasOwnMatrix(function[id])
      else { return nil }
      products.append((id, linear))
    }
    return products
  }

  // MARK: - Edits

  private func name(_ value: ValueID) -> String { function[value].name }

  /// A weight that stands in for a value of its type.
  private mutating func constant(_ name: String, as value: ValueID, _ formula: WeightFormula) -> ValueID {
    guard let type = function[value].type.tensor else { return value }
    return function.value(of: module.deriveWeight(name, type, formula), in: module)
  }

  /// Puts a weight that follows from it in the place of the operation's operand.
  private mutating func derive(_ operand: Int, of id: OperationID, _ suffix: String, _ formula: WeightFormula) {
    let value = function[id].operands[operand]
    setOperand(operand, of: id, to: constant("\(name(value)).\(suffix)", as: value, formula))
  }

  /// Sets an operand, or appends it behind the last.
  private mutating func setOperand(_ operand: Int, of id: OperationID, to value: ValueID) {
    if operand < function[id].operands.count {
      let before = function[id].operands[operand]
      if let place = readers[before]?.firstIndex(of: id) { readers[before]?.remove(at: place) }
      function[id].operands[operand] = value
    } else {
      function[id].operands.append(value)
    }
    readers[value, default: []].append(id)
  }

  /// Takes an operation out; values stand in for its results, one for each.
  private mutating func remove(_ id: OperationID, _ values: [ValueID]) {
    removed.insert(id)
    for operand in function[id].operands { readers[operand]?.removeAll { $0 == id } }
    for (result, value) in zip(function[id].results, values) {
      for reader in readers.removeValue(forKey: result) ?? [] {
        if let place = function[reader].operands.firstIndex(of: result) {
          function[reader].operands[place] = value
          readers[value, default: []].append(reader)
        }
      }
      if returned.remove(result) != nil { returned.insert(value) }
      function.results = function.results.map { $0.value == result ? .init(name: $0.name, value: value) : $0 }
    }
  }
}

extension Function {
  /// The operation that defines the value; nil for arguments and weights.
  fileprivate func producer(of value: ValueID) -> Operation? {
    if case .result(let id, _) = self[value].definition { self[id] } else { nil }
  }
}
