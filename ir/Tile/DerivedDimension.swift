import TensorIR

/// An extent that a setup step defines.
public struct DerivedDimension: Hashable, Sendable {
  /// Its name, different from that of every other dimension.
  public var name: String
  /// What it never exceeds.
  public var atMost: ExtentBound

  /// An extent called `name` that never exceeds `atMost`.
  public init(name: String, atMost: ExtentBound) {
    self.name = name
    self.atMost = atMost
  }
}

/// A sum of multiples of extents.
public struct ExtentBound: Hashable, Sendable, CustomStringConvertible {
  /// A multiple of one extent.
  public struct Term: Hashable, Sendable {
    /// The extent.
    public var dimension: Dimension
    /// How many times it is counted.
    public var times: Int

    /// So many times this extent.
    public init(_ dimension: Dimension, times: Int = 1) {
      self.dimension = dimension
      self.times = times
    }
  }

  /// What is added up.
  public var terms: [Term]

  /// The sum of these multiples.
  public init(_ terms: [Term]) { self.terms = terms }

  /// One extent itself.
  public init(_ dimension: Dimension) { self.init([Term(dimension)]) }

  /// What the rows after an addition never exceed; `appended` are those of the batch that is appended, where one is.
  public init(_ addition: RowAddition, rows: Dimension, sequences: Dimension, appended: Dimension? = nil) {
    let bound = addition.bound
    self.init([Term(rows, times: bound.rows)])
    if let appended { terms.append(Term(appended)) }
    if bound.perSequence > 0 { terms.append(Term(sequences, times: bound.perSequence)) }
  }

  /// Whether this is one extent itself.
  public var isOneExtent: Bool { terms.count == 1 && terms[0].times == 1 }

  /// As in the text form: `rows + 3 * sequences`.
  public var description: String {
    terms.map { $0.times == 1 ? "\($0.dimension)" : "\($0.times) * \($0.dimension)" }.joined(separator: " + ")
  }
}

extension Program {
  /// The bound of an extent by those that the caller gives, each once in their order, and perhaps a number: itself, where it is
  /// one of them. Nil where it is more than 2^31 times all extents, or where there is none.
  public func givenBound(of name: String) -> ExtentBound? {
    var known: [String: GivenSum] = [:]
    for given in dimensions { known[given] = GivenSum(times: [given: 1]) }
    // Each is bounded by those before it.
    for derived in derivedDimensions where known[derived.name] == nil {
      var sum = GivenSum()
      for term in derived.atMost.terms {
        switch term.dimension {
        case .fixed(let count): sum.add(GivenSum(constant: count), times: term.times)
        case .symbol(let name): sum.add(known[name] ?? .unbounded, times: term.times)
        }
      }
      known[derived.name] = sum
    }
    guard let sum = known[name], sum.isBounded else { return nil }
    var terms = dimensions.compactMap { given in sum.times[given].map { ExtentBound.Term(.symbol(given), times: $0) } }
    if sum.constant > 0 || terms.isEmpty { terms.append(ExtentBound.Term(.fixed(sum.constant))) }
    return ExtentBound(terms)
  }

  /// How many rows of a sequence a derived dimension counts at most, and the dimension of the sequences: those of a selection of
  /// the latest rows, unless it keeps targets too, of which there may be any number. Nil where nothing is known.
  public func keptRows(of name: String) -> (ofSequence: Int, sequences: String)? {
    for case .selectOffsets(let selection, let offsets, nil, _, name) in setup {
      let most: (keep: Int, contextual: Int)
      switch selection {
      case .latest(let keep, let contextual): most = (keep, contextual)
      case .pairedLatest(let keep, let contextual): most = (keep, contextual + 1)
      case .targets: return nil
      }
      guard case .symbol(let sequences) = self[offsets].rows.dimension, dimensions.contains(sequences) else {
        return nil
      }
      // More is no bound, and a product with the number of sequences must be one of 64 bits.
      let (count, overflow) = most.keep.addingReportingOverflow(most.contextual)
      return overflow || count > Int(Int32.max) ? nil : (count, sequences)
    }
    return nil
  }

  /// The most rows that an extent can have, which memory is sized by before the setup; `given` are the extents that the caller
  /// gives.
  public func greatestRows(_ extent: Extent, given: (String) -> Int) -> Int {
    guard case .symbol(let name) = extent.dimension else { return (extent.dimension.extent ?? 0) + extent.plus }
    var rows =
      givenBound(of: name)?.terms.reduce(0) { sum, term in
        switch term.dimension {
        case .fixed(let count): sum + term.times * count
        case .symbol(let name): sum + term.times * given(name)
        }
      } ?? 0
    if let kept = keptRows(of: name) { rows = min(rows, kept.ofSequence * given(kept.sequences)) }
    return rows + extent.plus
  }
}

/// Multiples of the extents that a caller gives, and a number.
private struct GivenSum {
  var constant = 0
  var times: [String: Int] = [:]
  var isBounded = true

  static let unbounded = GivenSum(isBounded: false)

  mutating func add(_ other: GivenSum, times factor: Int) {
    func total(_ value: Int, _ added: Int, most: Int) -> Int? {
      let (product, overflow) = added.multipliedReportingOverflow(by: factor)
      let (sum, overflows) = value.addingReportingOverflow(product)
      return overflow || overflows || !(0...most).contains(sum) ? nil : sum
    }
    guard isBounded, other.isBounded, let constant = total(constant, other.constant, most: largestNumber) else {
      isBounded = false
      return
    }
    self.constant = constant
    for (name, count) in other.times {
      guard let sum = total(times[name] ?? 0, count, most: Int(Int32.max)) else {
        isBounded = false
        return
      }
      times[name] = sum
    }
    // With extents of 31 bits, sums are of 63.
    if times.values.reduce(0, +) > Int(Int32.max) { isBounded = false }
  }
}
