import TensorIR

/// Computes products, attention and embedding tables in fewer bits.
///
/// Approximate. Source of fp8: arXiv 2602.16986 and GR's ops/pytorch/pt_fp8.py, one scale for each row of activations, taken
/// from the fp32 value of the whole row that is multiplied (the affine output of a norm, the whole concatenation), one
/// for each output channel of a weight, bias or residual added in fp32. int8 has the same scheme. Tables, and items
/// that are ranked, are in FBGEMM's layouts. Position tables, norms, biases and activations stay fp32.
///
/// It goes before passes that fold a norm's affine into the next product: those would change what is quantized.
public let lowerPrecision = ModulePass(
  name: "lower-precision", summary: "compute products, attention, tables and items in fewer bits",
  options: LowerPrecisionOptions.self, exactness: .approximate
) { (module, options, context) throws(PassError) in
  var counts: [Precision: Int] = [:]
  var unknown = options.names
  for index in module.functions.indices {
    let candidates = PrecisionCandidates(module.functions[index])
    let plan = candidates.all.map { ($0.operation, options.precision(of: $0)) }
    unknown.subtract(candidates.all.map(\.name))
    for (_, precision) in plan { counts[precision, default: 0] += 1 }
    lower(&module, index, Dictionary(uniqueKeysWithValues: plan))
  }
  if let name = unknown.min() { throw PassError("no product, attention, lookup or ranking is called \"\(name)\"") }
  for precision in Precision.allCases {
    context.note(counts[precision, default: 0], precision.noun, precision.adverb)
  }
}

/// Rewrites the operations of one function that `plan` gives fewer bits.
private func lower(_ module: inout Module, _ index: Int, _ plan: [OperationID: Precision]) {
  let uses = module.functions[index].useCounts
  var rewriter = FunctionRewriter(module.functions[index])
  var writer = PrecisionWriter()
  var merged: Set<OperationID> = []
  rewriter.visit { id, function in
    if let precision = plan[id] {
      writer.lower(id, precision, in: &function, &module)
    } else if case .add = function[id].payload {
      // A residual is the bias of the product that it is added to, unless that has one already.
      let operands = function[id].operands
      for (value, residual) in [(operands[0], operands[1]), (operands[1], operands[0])] where uses[value] == 1 {
        guard case .result(let product, _) = function[value].definition,
          case .quantizedLinear = function[product].payload, function[product].operands.count == 4
        else { continue }
        function[id].payload = function[product].payload
        function[id].operands = function[product].operands + [residual]
        merged.insert(product)
        break
      }
    }
    return nil
  }
  var function = rewriter.function
  function.body.removeAll(where: merged.contains)
  module.functions[index] = function
}

extension Function {
  /// How often each value is read, by operations and as a result; a result counts twice, since it must stay.
  fileprivate var useCounts: [ValueID: Int] {
    var counts: [ValueID: Int] = [:]
    for id in body { for operand in self[id].operands { counts[operand, default: 0] += 1 } }
    for result in results { counts[result.value, default: 0] += 2 }
    return counts
  }
}

/// How an operation is computed.
public enum Precision: String, Encodable, Hashable, Sendable, CaseIterable {
  /// As it is.
  case full = "fp32"
  /// A product of bf16 numbers, with fp32 sums.
  case bf16
  /// A product of f8e4m3 codes, with a scale a row.
  case fp8
  /// A product of int8 codes, with a scale a row.
  case int8
  /// Attention whose products are of bf16 numbers.
  case attentionBF16 = "bf16 attention"
  /// A key or value that is kept as codes of fp8, with a scale a row (`cached-scoring`).
  case cacheFP8 = "fp8 cache"
  /// A table of halves.
  case tableFP16 = "fp16 table"
  /// A table of FBGEMM's rows of 8 bits.
  case tableInt8 = "int8 table"
  /// A table of FBGEMM's rows of 4 bits.
  case tableInt4 = "int4 table"
  /// Products of bf16 queries and items.
  case itemsBF16 = "bf16 items"
  /// Items in FBGEMM's rows of 8 bits; queries are fp32.
  case itemsInt8 = "int8 items"
  /// Items in FBGEMM's rows of 4 bits; queries are fp32.
  case itemsInt4 = "int4 items"

  fileprivate var noun: String {
    switch self {
    case .full: "operation"
    case .bf16, .fp8, .int8: "product"
    case .attentionBF16: "attention"
    case .cacheFP8: "kept value"
    case .tableFP16, .tableInt8, .tableInt4: "lookup"
    case .itemsBF16, .itemsInt8, .itemsInt4: "ranking"
    }
  }

  fileprivate var adverb: String {
    switch self {
    case .full: "left in fp32"
    case .bf16, .fp8, .int8: "in \(rawValue)"
    case .attentionBF16: "in bf16"
    case .cacheFP8: "in fp8"
    case .tableFP16: "of fp16 rows"
    case .tableInt8: "of int8 rows"
    case .tableInt4: "of int4 rows"
    case .itemsBF16: "of bf16 items"
    case .itemsInt8: "of int8 items"
    case .itemsInt4: "of int4 items"
    }
  }

  /// The next that has more bits.
  public var higher: Precision {
    switch self {
    case .fp8, .int8: .bf16
    case .full, .bf16, .attentionBF16, .cacheFP8, .tableFP16, .itemsBF16: .full
    case .tableInt8: .tableFP16
    case .tableInt4: .tableInt8
    case .itemsInt8: .itemsBF16
    case .itemsInt4: .itemsInt8
    }
  }
}

/// What `lower-precision` takes.
public struct LowerPrecisionOptions: PassOptions {
  /// Of matrix products.
  public enum Matmul: String, CaseIterable, Sendable { case bf16, fp8, int8 }
  /// Of attention.
  public enum Attention: String, CaseIterable, Sendable { case bf16 }
  /// Of embedding tables.
  public enum Tables: String, CaseIterable, Sendable { case fp16, int8, int4 }
  /// Of items that queries are ranked against.
  public enum Items: String, CaseIterable, Sendable { case bf16, int8, int4 }

  /// nil leaves products in fp32.
  public var matmul: Matmul?
  /// nil leaves attention in fp32.
  public var attention: Attention?
  /// nil leaves tables in fp32.
  public var tables: Tables?
  /// nil leaves items that are ranked in fp32.
  public var items: Items?
  /// Operations that stay fp32, by the name of their result.
  public var keep: [String] = []
  /// Operations with more bits than the others, but not fp32: products in bf16, tables and items one step wider.
  public var raise: [String] = []

  /// None of them.
  public init() {}

  /// `matmul`, `attention`, `tables`, `items`, `keep` and `raise`.
  public static var list: [PassOption<LowerPrecisionOptions>] {
    [
      .word("matmul", \.matmul, summary: "of matrix products; fp32 where it is not given"),
      .word("attention", \.attention, summary: "of attention; fp32 where it is not given"),
      .word("tables", \.tables, summary: "of embedding tables; fp32 where it is not given"),
      .word("items", \.items, summary: "of items that queries are ranked against; fp32 where it is not given"),
      .names("keep", \.keep, summary: "results of products, attention, lookups and rankings that stay fp32"),
      .names(
        "raise", \.raise,
        summary: "those of products in bf16 rather than fp8 or int8, of tables and items one step wider"),
    ]
  }

  /// Nothing to lower, or one name told to do two things.
  public var problem: String? {
    if matmul == nil && attention == nil && tables == nil && items == nil {
      return "one of the options matmul, attention, tables and items must be given"
    }
    return Set(keep).intersection(raise).min().map { "\"\($0)\" is in both keep and raise" }
  }

  fileprivate var names: Set<String> { Set(keep + raise) }

  /// How the operation is computed.
  public func precision(of candidate: PrecisionCandidates.Candidate) -> Precision {
    let asked: Precision? =
      switch candidate.kind {
      case .product: matmul.flatMap { Precision(rawValue: $0.rawValue) }
      case .attention: attention.map { _ in .attentionBF16 }
      case .table: tables.flatMap { Precision(rawValue: "\($0.rawValue) table") }
      case .items: items.flatMap { Precision(rawValue: "\($0.rawValue) items") }
      }
    guard let asked, !keep.contains(candidate.name) else { return .full }
    return raise.contains(candidate.name) ? asked.higher : asked
  }

  /// As written between braces, defaults left out.
  public var settings: [PassSetting] {
    [
      ("matmul", matmul?.rawValue), ("attention", attention?.rawValue), ("tables", tables?.rawValue),
      ("items", items?.rawValue),
      ("keep", keep.isEmpty ? nil : keep.joined(separator: "+")),
      ("raise", raise.isEmpty ? nil : raise.joined(separator: "+")),
    ].compactMap { name, value in value.map { PassSetting(name: name, value: $0) } }
  }
}
