import ModelFormat
import TensorIR

/// One golden case: what the reference implementation computed for a set of weights, inputs and attributes, in the
/// format of Tests/Golden/README.md.
public struct GoldenCase: Sendable {
  /// A tensor that the reference computed, and how near a result must come to it.
  public struct Output: Sendable {
    /// Its name without `expected.`, or `expected_alt.`.
    public var name: String
    /// Whether it is what the reference's other reading gives: a case may have both (the clamp of time buckets).
    public var isAlternative = false
    /// nil where it must be met exactly.
    public var tolerance: Tolerance?

    static func prefix(isAlternative: Bool) -> String { isAlternative ? "expected_alt." : "expected." }

    var tensorName: String { Self.prefix(isAlternative: isAlternative) + name }
  }

  /// A result passes where `|got - expected| <= absolute + relative * |expected|` for every element.
  public struct Tolerance: Hashable, Sendable {
    /// The difference allowed whatever is expected; at least 0.
    public var absolute: Double
    /// The difference allowed for each unit of the expected magnitude; at least 0.
    public var relative: Double
  }

  /// The name of its files without their extensions.
  public let name: String
  /// What was run: one of `supportedKinds`, or a kind that cannot be run here.
  public let kind: String
  /// The settings that the reference ran with, as the file has them.
  public let attributes: JSONReader
  /// What is compared; none where the kind cannot be run.
  public let outputs: [Output]
  /// The names of the weights, in the order of the layers.
  public let weightNames: [String]
  /// Weights, `input.*` and `expected.*`.
  public let tensors: SafetensorsFile

  /// Reads `<name>.json` and `<name>.safetensors` in `folder`.
  public init(_ name: String, in folder: String) throws(ModelError) {
    let path = "\(folder)/\(name)"
    let file = try MappedFile(path: path + ".json")
    let document = try JSONDocument(bytes: file.bytes, file: "\(name).json")
    let object = try JSONReader(document).object([
      "case", "kind", "provenance", "attributes", "weights", "inputs", "outputs", "note", "tolerance_note",
    ])
    self.name = name
    kind = try object.required("kind").string()
    attributes = try object.required("attributes")
    weightNames = try object.required("weights").elements().map { (element) throws(ModelError) in
      try element.string()
    }
    tensors = try SafetensorsFile(path: path + ".safetensors")
    // Outputs of kinds that cannot be run follow rules of their own.
    outputs =
      try Self.supportedKinds.contains(kind)
      ? object.required("outputs").anyObject().values.map { (key, value) throws(ModelError) in
        try Self.output(key, value)
      } : []
  }

  private static func output(_ key: String, _ reader: JSONReader) throws(ModelError) -> Output {
    let isAlternative = key.hasPrefix(Output.prefix(isAlternative: true))
    let prefix = Output.prefix(isAlternative: isAlternative)
    guard key.hasPrefix(prefix) else {
      throw reader.error(.unexpectedValue, "expected a name that begins with expected.")
    }
    let name = String(key.dropFirst(prefix.count))
    let object = try reader.object([
      "shape", "dtype", "exact", "atol", "rtol", "max_abs", "float32_reference_max_abs_error",
    ])
    if let exact = object.optional("exact"), try exact.bool() {
      return Output(name: name, isAlternative: isAlternative, tolerance: nil)
    }
    return Output(
      name: name, isAlternative: isAlternative,
      tolerance: Tolerance(
        absolute: try object.required("atol").finiteNumber(), relative: try object.required("rtol").finiteNumber()))
  }

  func input(_ name: String) throws(ModelError) -> HostTensor { try tensors.tensor(named: "input." + name) }

  func hasInput(_ name: String) -> Bool { tensors.entry(named: "input." + name) != nil }
}

/// A case as a program: what to run on which inputs, and where each expected tensor is found.
public struct GoldenProgram: Sendable {
  /// How one of the case's outputs is obtained.
  enum Source: Sendable {
    /// A result of the program.
    case result(String)
    /// A result with rows and columns changed places.
    case transposedResult(String)
    /// The lengths that a result of offsets gives, or an input.
    case lengths(String)
    case inputLengths(String)
    /// An input as it is.
    case input(String)
    /// The f8e4m3 codes of a result that holds their numbers.
    case resultCodes(String)
    /// The mask of each sequence, as a square of zeros and ones [sequences, n, n].
    case mask(Mask)
    /// The keys of each row as `[0, a)` and `[b, c)`: rows of (a, b, c).
    case rowIntervals(Mask)
    /// A weight of the program, as it is or with rows and columns changed places.
    case weight(String)
    case transposedWeight(String)
    /// Of a weight that is a table of 4 bits the codes, one a byte, and the half so many bytes before each row's end.
    case packedCodes(String, width: Int)
    case packedHalf(String, fromEnd: Int)
  }

  /// A function, `forward` unless `entry` names another, that computes the case.
  public var module: Module
  /// The function that is run.
  public var entry = "forward"
  /// Arguments that are results of the program before, under the same names.
  var takesResults: [String] = []
  /// The bytes of the module's weights.
  public var weights: any WeightProvider
  /// The arguments of the function, by name.
  public var inputs: [String: HostTensor]
  var sources: [(output: GoldenCase.Output, source: Source)]
}

/// A case that cannot be expressed: not a failure of the arithmetic.
struct Unsupported: Error {
  var reason: String
}

extension GoldenCase {
  /// The kinds of case that can be run.
  public static let supportedKinds = [
    "attention", "attention_key_prefix", "stu_stack", "stu_l2", "stu_truncating", "research_hstu", "fp8_rowwise",
    "int4_rowwise", "dlrm_hstu", "stu_cached",
  ]

  /// The case as programs: one, but for cases with two readings, or with several calls. Throws `Unsupported` or `ModelError`.
  func programs() throws -> [GoldenProgram] {
    if kind == "dlrm_hstu" { return try rankingPrograms() }
    if kind == "stu_cached" { return try cachedPrograms() }
    if let other = outputs.first(where: \.isAlternative) {
      throw Unsupported(reason: "\(other.tensorName) is not covered")
    }
    return [try program()]
  }

  private func program() throws -> GoldenProgram {
    switch kind {
    case "attention": try attentionProgram()
    case "attention_key_prefix": try keyPrefixProgram()
    case "stu_stack": try stackProgram()
    case "stu_l2": try restoringStackProgram()
    case "stu_truncating": try truncatingStackProgram()
    case "research_hstu": try researchProgram()
    case "fp8_rowwise": try float8Program()
    case "int4_rowwise": try int4Program()
    default:
      throw Unsupported(reason: "golden-runner has no reading of this kind")
    }
  }

  /// Where the outputs are, those of all or some; throws `Unsupported` for one that `source` does not know.
  func sources(
    of some: [Output]? = nil, _ source: (String) -> GoldenProgram.Source?
  ) throws -> [(output: Output, source: GoldenProgram.Source)] {
    try (some ?? outputs).map { output in
      guard let found = source(output.name) else {
        throw Unsupported(reason: "\(output.tensorName) is not covered")
      }
      return (output, found)
    }
  }
}
