/// What an artifact says about itself: signatures, how it was compiled, where its weights lie.
///
/// It is stored as JSON (keys sorted, so equal manifests are equal bytes) in the note of the file, readable without
/// loading it, and `ultra_model.manifest` points to the same bytes. Reading checks every name, extent and offset.
public struct Manifest: Codable, Hashable, Sendable {
  /// Version of this description; a reader refuses others.
  public static let currentVersion = 1

  /// The version that this description was written in.
  public var version = Manifest.currentVersion
  /// What wrote the file.
  public var compiler: Compiler
  /// What was compiled.
  public var model: Model
  /// Every symbol that a shape may name, callers' extents first.
  public var dimensions: [Dimension]
  /// In the order of `ultra_model.entries`.
  public var entries: [Entry]
  /// What was done to a stack of plain layers, in order: first what the model was trained with, then the passes that ran.
  public var passes: [Pass] = []
  /// Code levels in the file, the most capable first.
  public var levels: [Level] = []
  /// In the order of the weights segment.
  public var weights: [Weight] = []
  /// The kernels of every entry, in the order in which a call runs them, each one loop of the caller's threads.
  public var kernels: [Kernel] = []
  /// Code for GPUs in the file, in the order of `ultra_model.gpus`; nil where there is none.
  public var gpus: [GPU]?
  /// The program as it was compiled, in the compiler's text form: what tools read to count its work.
  public var program: String?

  /// A manifest without passes, levels, weights and kernels.
  public init(compiler: Compiler, model: Model, dimensions: [Dimension], entries: [Entry]) {
    self.compiler = compiler
    self.model = model
    self.dimensions = dimensions
    self.entries = entries
  }

  /// The compiler that wrote the file.
  public struct Compiler: Codable, Hashable, Sendable {
    /// The command's name.
    public var name: String
    /// Its version, as the command prints it.
    public var version: String
    /// The options that decided the result, without paths: two compiles that differ only in folders write equal bytes.
    public var flags: [String]

    /// A compiler of this name, version and options.
    public init(name: String, version: String, flags: [String]) {
      self.name = name
      self.version = version
      self.flags = flags
    }
  }

  /// The model that was compiled.
  public struct Model: Codable, Hashable, Sendable {
    /// The name in the model's description.
    public var name: String
    /// A checksum of the model description and of its checkpoints, in the compiler's own notation.
    public var sourceChecksum: String

    /// A model of this name; the checksum is text in the compiler's own notation.
    public init(name: String, sourceChecksum: String) {
      self.name = name
      self.sourceChecksum = sourceChecksum
    }
  }

  /// A named extent of a batch.
  public struct Dimension: Codable, Hashable, Sendable {
    /// The name that shapes use.
    public var name: String
    /// Null where the caller gives the extent. Otherwise the model computes it, and this is what it is at most.
    public var atMost: Bound?
    /// Of rows that the model computes, how many a sequence has at most; null where only `atMost` is known.
    public var atMostOfSequence: Int?

    /// A dimension that the caller gives, or one that the model computes and that is at most so much.
    public init(name: String, atMost: Bound? = nil, atMostOfSequence: Int? = nil) {
      self.name = name
      self.atMost = atMost
      self.atMostOfSequence = atMostOfSequence
    }
  }

  /// A sum of multiples of extents that the caller gives: `kept_rows` is at most `rows`, and with three rows before each
  /// sequence there are at most `rows` + 3 * `sequences`.
  public struct Bound: Hashable, Sendable {
    /// So many times an extent.
    public struct Term: Codable, Hashable, Sendable {
      /// The name of a dimension that the caller gives.
      public var dimension: String
      /// How many times its extent is counted.
      public var times: Int

      /// So many times the extent of a dimension.
      public init(_ dimension: String, times: Int = 1) {
        self.dimension = dimension
        self.times = times
      }
    }

    /// What is added up, each dimension once.
    public var terms: [Term]
    /// What comes on top.
    public var constant: Int

    /// The sum of these multiples and a number.
    public init(_ terms: [Term], constant: Int = 0) {
      self.terms = terms
      self.constant = constant
    }

    /// The bound for the extents that `extent` gives; nil where it lacks one, or the sum passes 64 bits.
    public func value(_ extent: (String) -> Int?) -> Int? {
      terms.reduce(constant) { sum, term in
        guard let sum, let extent = extent(term.dimension) else { return nil }
        let (product, overflow) = extent.multipliedReportingOverflow(by: term.times)
        let (next, overflows) = sum.addingReportingOverflow(product)
        return overflow || overflows ? nil : next
      }
    }
  }

  /// A function of the model.
  public struct Entry: Codable, Hashable, Sendable {
    /// The name to call it by: `forward`.
    public var name: String
    /// The dimensions whose extents a call gives, in the order of `ultra_call.dimensions`.
    public var dimensions: [String]
    /// In the order of `ultra_call.inputs`.
    public var inputs: [Port]
    /// In the order of `ultra_call.outputs`.
    public var outputs: [Port]
    /// The most rows that a sequence may have; null where there is no limit.
    public var maximumSequenceLength: Int?
    /// What it does, for people.
    public var description: String?

    /// The signature of a function.
    public init(
      name: String, dimensions: [String], inputs: [Port], outputs: [Port], maximumSequenceLength: Int? = nil,
      description: String? = nil
    ) {
      self.name = name
      self.dimensions = dimensions
      self.inputs = inputs
      self.outputs = outputs
      self.maximumSequenceLength = maximumSequenceLength
      self.description = description
    }
  }

  /// An input or an output.
  public struct Port: Hashable, Sendable {
    /// The name of the argument or the result.
    public var name: String
    /// Element type and shape, or that these are offsets.
    public var type: PortType
    /// What the numbers of an integer input mean, where the model depends on it.
    public var role: Role?
    /// Of an input that the caller keeps from one call to the next, the input or output of `prefill` whose rows it brings
    /// back; null for what is new with each call.
    public var keeps: String?
    /// Of offsets that are kept, which of their rows are needed; null where all are.
    public var window: Window?
    /// What it is, for people.
    public var description: String?

    /// An input or output of this name and type.
    public init(
      name: String, type: PortType, role: Role? = nil, keeps: String? = nil, window: Window? = nil,
      description: String? = nil
    ) {
      self.name = name
      self.type = type
      self.role = role
      self.keeps = keeps
      self.window = window
      self.description = description
    }
  }

  /// The rows of a kept history that later calls can see: its first and its latest ones. The others may be left out, an even number at a
  /// time, so that keys stay in the pairs that they are multiplied in.
  public struct Window: Codable, Hashable, Sendable {
    /// Rows at the start of a sequence.
    public var first: Int
    /// Rows at its end, 1 at least.
    public var latest: Int

    /// So many first and latest rows.
    public init(first: Int, latest: Int) {
      self.first = first
      self.latest = latest
    }
  }

  /// What the numbers of an integer input mean: enough to make up a valid batch, and to explain a refused one.
  public enum Role: Hashable, Sendable {
    /// Rows of a table: every value is in `0 ..< below`.
    case ids(below: Int)
    /// One number a sequence: how many of its rows, at its end, are targets.
    case targetCounts
    /// Offsets of features of a sequence, of which a few rows are read, rather than of the sequences themselves.
    case featureOffsets
    /// Seconds.
    case timestamps
  }

  /// The type of an input or output.
  public enum PortType: Hashable, Sendable {
    /// Dense, row-major, little-endian.
    case tensor(element: Element, shape: [Extent])
    /// `sequences + 1` non-decreasing int64 numbers, the first 0, the last `rows`: sequence s is rows
    /// `offsets[s] ..< offsets[s + 1]`.
    case offsets(sequences: Extent, rows: Extent)

    /// The type of one number.
    public var element: Element {
      switch self {
      case .tensor(let element, _): element
      case .offsets: .i64
      }
    }
  }

  /// One extent of a shape: a number, or the name of a dimension.
  public enum Extent: Hashable, Sendable {
    case fixed(Int)
    case symbol(String)
  }

  /// The type of one stored number.
  public enum Element: String, Codable, Hashable, Sendable, CaseIterable {
    case f64, f32, f16, bf16, f8e4m3, i64, i32, i8, u8, bool

    /// Bytes of one number.
    public var byteCount: Int {
      switch self {
      case .f64, .i64: 8
      case .f32, .i32: 4
      case .f16, .bf16: 2
      case .f8e4m3, .i8, .u8, .bool: 1
      }
    }
  }

  /// A pass that ran, or one that would do what the model was trained with.
  public struct Pass: Codable, Hashable, Sendable {
    /// As on the command line: `dce`.
    public var name: String
    /// As on the command line, without braces: `local=256,global=256`.
    public var options: String
    /// Whether it kept what the model computes.
    public var exactness: Exactness
    /// What it did, or its measured error.
    public var note: String?

    /// A pass that ran with these options.
    public init(name: String, options: String = "", exactness: Exactness, note: String? = nil) {
      self.name = name
      self.options = options
      self.exactness = exactness
      self.note = note
    }
  }

  /// Whether a pass keeps what the model computes.
  public enum Exactness: String, Codable, Hashable, Sendable, CaseIterable {
    case exact
    case approximate
    /// It changes what a stack of plain layers would compute, but the model was trained with that change.
    case asTrained = "as-trained"

    /// In the words of reports.
    public var words: String { self == .asTrained ? "as trained" : rawValue }
  }

  /// One level of processor features that the file has code for.
  public struct Level: Codable, Hashable, Sendable {
    /// As on the command line: `x86-64-v3`, `znver4`.
    public var name: String
    /// What a machine needs for it, to complete "needs ...": "AVX2, FMA and F16C".
    public var needs: String

    /// A level and what it needs.
    public init(name: String, needs: String) {
      self.name = name
      self.needs = needs
    }
  }

  /// A tensor of the weights segment.
  public struct Weight: Codable, Hashable, Sendable {
    /// The tensor's name in the program; the packing follows in parentheses where it is not row-major.
    public var name: String
    /// The element type of the model's tensor, before packing.
    public var element: Element
    /// The shape of the model's tensor, before packing.
    public var shape: [Int]
    /// Bytes from the start of the segment; a multiple of `WeightsLayout.alignment`.
    public var offset: Int
    /// Bytes that it takes in the segment.
    public var bytes: Int
    /// How it is laid out there: `plain` (row-major), or the name of a kernel's own layout.
    public var packing: String

    /// Whether its rows lie there one after the other, as those of tables do that are looked up by ids.
    public var isRowMajor: Bool { ["plain", "int8 rows", "int4 rows"].contains(packing) }

    /// A tensor at `offset`, taking `bytes` there.
    public init(name: String, element: Element, shape: [Int], offset: Int, bytes: Int, packing: String = "plain") {
      self.name = name
      self.element = element
      self.shape = shape
      self.offset = offset
      self.bytes = bytes
      self.packing = packing
    }
  }
}

extension Manifest {
  /// Code that a call runs over blocks of rows, all of them before the next kernel begins.
  public struct Kernel: Codable, Hashable, Sendable {
    /// Its name, unique in the file: `attention_3`.
    public var name: String
    /// The entry that runs it.
    public var entry: String
    /// The operations that it computes: `attention + layer_norm + linear`; empty where it only prepares or gathers what another
    /// kernel does.
    public var computes: String
    /// What its blocks cover, for people: `rows, 64 at a time`.
    public var domain: String

    /// A kernel of this name.
    public init(name: String, entry: String, computes: String, domain: String) {
      self.name = name
      self.entry = entry
      self.computes = computes
      self.domain = domain
    }
  }
}

extension Manifest.Extent: ExpressibleByIntegerLiteral, ExpressibleByStringLiteral, CustomStringConvertible {
  /// A fixed extent.
  public init(integerLiteral value: Int) { self = .fixed(value) }
  /// The dimension of this name.
  public init(stringLiteral value: String) { self = .symbol(value) }

  /// The number, or the dimension's name.
  public var description: String {
    switch self {
    case .fixed(let extent): "\(extent)"
    case .symbol(let name): name
    }
  }
}

extension Manifest.PortType: CustomStringConvertible {
  /// For people: `rows x 64 x f32`, or `offsets of sequences in rows`.
  public var description: String {
    switch self {
    case .tensor(let element, let shape): (shape.map(\.description) + [element.rawValue]).joined(separator: " x ")
    case .offsets(let sequences, let rows): "offsets of \(sequences) in \(rows)"
    }
  }
}
