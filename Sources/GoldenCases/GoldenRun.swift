import ModelFormat
import TensorIR

/// What came of one case.
public struct GoldenReport: Sendable {
  /// Whether the case passed, and why not.
  public enum Status: Hashable, Sendable, CustomStringConvertible {
    case passed
    case failed(String)
    /// The case cannot be expressed or run, and why.
    case unsupported(String)

    /// `pass`, or `fail` or `unsupported` with the reason.
    public var description: String {
      switch self {
      case .passed: "pass"
      case .failed(let reason): "fail: \(reason)"
      case .unsupported(let reason): "unsupported: \(reason)"
      }
    }
  }

  /// The kind of case.
  public var kind: String
  /// The case's name.
  public var name: String
  /// What came of it.
  public var status: Status
  /// The largest difference of any element of any output that was compared; nil where none was.
  public var maxError: Double?

  /// A report on the case `name`; `maxError` is a difference of elements, in their own unit.
  public init(kind: String, name: String, status: Status, maxError: Double? = nil) {
    self.kind = kind
    self.name = name
    self.status = status
    self.maxError = maxError
  }
}

/// Runs the program's function on its inputs and gives the results, by name.
public typealias GoldenExecutor = (_ program: GoldenProgram, _ caseName: String) throws -> [(
  name: String, tensor: HostTensor
)]

extension GoldenCase {
  /// The names of the cases in a folder's listing: what has both a .json and a .safetensors file, sorted.
  public static func names(amongFiles files: [String]) -> [String] {
    let tensors = Set(files.filter { $0.hasSuffix(".safetensors") }.map { $0.dropLast(".safetensors".count) })
    return files.filter { $0.hasSuffix(".json") && tensors.contains($0.dropLast(".json".count)) }
      .map { String($0.dropLast(".json".count)) }.sorted()
  }

  /// Builds the case's program, runs it, and compares every expected output within the case's own tolerance.
  public func check(_ execute: GoldenExecutor) -> GoldenReport {
    var report = GoldenReport(kind: kind, name: name, status: .passed)
    do {
      var results: [(name: String, tensor: HostTensor)] = []
      for (index, program) in try programs().enumerated() {
        var program = program
        for name in program.takesResults { program.inputs[name] = results.first { $0.name == name }?.tensor }
        results = try execute(program, index == 0 ? name : "\(name)_\(index + 1)")
        for (output, source) in program.sources {
          let comparison = try compare(output, source, program, results)
          report.maxError = max(report.maxError ?? 0, comparison.maxError)
          if let fault = comparison.fault, report.status == .passed {
            report.status = .failed("\(output.tensorName): \(fault)")
          }
        }
      }
    } catch let error as Unsupported {
      report.status = .unsupported(error.reason)
    } catch let error as ModelError where error.kind == .unknownKey || error.kind == .unexpectedValue {
      report.status = .unsupported("\(error)")
    } catch {
      report.status = .failed("\(error)")
    }
    return report
  }

  private func compare(
    _ output: Output, _ source: GoldenProgram.Source, _ program: GoldenProgram,
    _ results: [(name: String, tensor: HostTensor)]
  ) throws -> Comparison {
    let expected = try tensors.tensor(named: output.tensorName)
    func result(_ name: String) throws -> HostTensor {
      guard let tensor = results.first(where: { $0.name == name })?.tensor else {
        throw Unsupported(reason: "the program gives no result \(name)")
      }
      return tensor
    }
    func input(_ name: String) throws -> HostTensor {
      guard let tensor = program.inputs[name] else { throw Unsupported(reason: "the program has no input \(name)") }
      return tensor
    }
    switch source {
    case .result(let name): return Comparison(try result(name), expected, output.tolerance)
    case .transposedResult(let name):
      return Comparison(try result(name).transposed, expected, output.tolerance)
    case .lengths(let name): return Comparison(try result(name).lengths, expected, output.tolerance)
    case .inputLengths(let name): return Comparison(try input(name).lengths, expected, output.tolerance)
    case .input(let name): return Comparison(try input(name), expected, output.tolerance)
    case .resultCodes(let name): return Comparison(try result(name).float8Codes, expected, output.tolerance)
    case .weight(let name): return Comparison(try program.weight(name), expected, output.tolerance)
    case .transposedWeight(let name):
      return Comparison(try program.transposedWeight(name), expected, output.tolerance)
    case .packedCodes(let name, let width):
      return Comparison(try program.packedCodes(name, width: width), expected, output.tolerance)
    case .packedHalf(let name, let distance):
      return Comparison(try program.packedHalf(name, fromEnd: distance), expected, output.tolerance)
    case .mask(let mask): return Comparison(try squares(mask, like: expected), expected, output.tolerance)
    case .rowIntervals(let mask): return try compareIntervals(mask, expected)
    }
  }

  // MARK: - Masks

  /// The length and the number of targets of each sequence. The mask counts no targets where attention does not.
  private func sequences() throws -> [(length: Int, targets: Int)] {
    let offsets = try input("seq_offsets").integers.map(Int.init)
    let targetAware = try attributes.anyObject().flag("target_aware", true)
    let targets = targetAware && hasInput("num_targets") ? try input("num_targets").integers.map(Int.init) : nil
    guard !offsets.isEmpty, targets == nil || targets?.count == offsets.count - 1,
      zip(offsets, offsets.dropFirst()).allSatisfy({ $0 <= $1 })
    else { throw Unsupported(reason: "input.seq_offsets and input.num_targets do not fit each other") }
    return (0..<offsets.count - 1).map { (offsets[$0 + 1] - offsets[$0], targets?[$0] ?? 0) }
  }

  private func squares(_ mask: Mask, like expected: HostTensor) throws -> HostTensor {
    let sequences = try sequences()
    guard expected.shape.count == 3, expected.shape[0] == sequences.count, expected.shape[1] == expected.shape[2],
      sequences.allSatisfy({ $0.length <= expected.shape[1] })
    else { throw Unsupported(reason: "expected.mask has shape \(expected.shape)") }
    let size = expected.shape[1]
    var bytes = [UInt8](repeating: 0, count: expected.count)
    for (index, sequence) in sequences.enumerated() {
      for row in 0..<sequence.length {
        for keys in mask.visibleKeys(position: row, length: sequence.length, targets: sequence.targets) {
          for key in keys { bytes[(index * size + row) * size + key] = 1 }
        }
      }
    }
    return try HostTensor(element: .u8, shape: expected.shape, bytes: bytes)
  }

  /// Compares as sets of keys: the reference writes empty intervals in several ways.
  private func compareIntervals(_ mask: Mask, _ expected: HostTensor) throws -> Comparison {
    let numbers = expected.integers.map(Int.init)
    var row = 0
    for (index, sequence) in try sequences().enumerated() {
      for position in 0..<sequence.length {
        guard numbers.count >= 3 * (row + 1) else {
          return Comparison(maxError: 1, fault: "shape \(expected.shape) has too few rows")
        }
        let triple = numbers[3 * row..<3 * row + 3]
        let (prefix, start, end) = (triple[3 * row], triple[3 * row + 1], triple[3 * row + 2])
        let reference = Set(0..<max(prefix, 0)).union(start < end ? start..<end : 0..<0)
        let own = Set(
          mask.visibleKeys(position: position, length: sequence.length, targets: sequence.targets).joined())
        guard own == reference else {
          return Comparison(
            maxError: 1,
            fault: "sequence \(index), row \(position) sees \(own.sorted()), expected \(reference.sorted())")
        }
        row += 1
      }
    }
    return Comparison(maxError: 0, fault: numbers.count == 3 * row ? nil : "\(row) rows, expected \(numbers.count / 3)")
  }
}

extension HostTensor {
  /// A matrix of numbers with rows and columns changed places.
  fileprivate var transposed: HostTensor {
    guard shape.count == 2 else { return self }
    let (rows, columns, numbers) = (shape[0], shape[1], doubles)
    return HostTensor((0..<rows * columns).map { numbers[$0 % rows * columns + $0 / rows] })
  }

  /// Of offsets how far each is from the one before.
  fileprivate var lengths: HostTensor {
    let offsets = integers
    return HostTensor(zip(offsets.dropFirst(), offsets).map { $0 - $1 })
  }

  /// The codes of numbers that f8e4m3 has, as bytes, which is how cases have them. Throws where a number is none of those.
  fileprivate var float8Codes: HostTensor {
    get throws {
      let codes = try floats.map { number in
        let code = Rounding.float8Bits(number)
        guard Float(float8Bits: code) == number else { throw OperationError("\(number) is no f8e4m3 number") }
        return code
      }
      return try HostTensor(element: .u8, shape: shape, bytes: codes)
    }
  }
}

/// How far a result is from what was expected.
struct Comparison {
  var maxError: Double
  /// Why it does not pass; nil where it does.
  var fault: String?

  init(maxError: Double, fault: String?) {
    self.maxError = maxError
    self.fault = fault
  }

  /// Shapes may differ in how columns are grouped (heads apart or side by side), not in the number of elements.
  init(_ got: HostTensor, _ expected: HostTensor, _ tolerance: GoldenCase.Tolerance?) {
    guard got.count == expected.count else {
      self.init(maxError: .infinity, fault: "shape \(got.shape), expected \(expected.shape)")
      return
    }
    let (gotValues, expectedValues) = (got.doubles, expected.doubles)
    var maxError = 0.0
    var worst: (index: Int, excess: Double, allowed: Double)?
    for index in gotValues.indices {
      // A NaN is worse than any number.
      let difference = abs(gotValues[index] - expectedValues[index])
      let error = difference.isNaN ? Double.infinity : difference
      let allowed = tolerance.map { $0.absolute + $0.relative * abs(expectedValues[index]) } ?? 0
      maxError = max(maxError, error)
      if error > allowed, error - allowed > worst?.excess ?? 0 { worst = (index, error - allowed, allowed) }
    }
    let fault = worst.map {
      "element \($0.index) is \(gotValues[$0.index]), expected \(expectedValues[$0.index]) within \($0.allowed)"
    }
    self.init(maxError: maxError, fault: fault)
  }
}
