import ModelFormat
import TensorIR

/// Real inputs that the error of a lower precision is measured on.
public struct Calibration: Sendable {
  /// The file that the inputs are in, for reports.
  public var file: String
  /// The model's inputs by name, as `ultrac run` takes them.
  public var tensors: SafetensorsFile
  /// The most sequences that are run: the interpreter is slow. Where the file has more, they are taken evenly from it.
  public var sequences = 32
  /// What the budget limits.
  public enum Metric: Encodable, Hashable, Sendable {
    /// The largest error of an output, as a share of the output's largest magnitude.
    case error
    /// Of each row's best so many columns of the widest output, the share that is no longer among them.
    case best(Int)
  }

  /// What is held to `maxError`.
  public var metric = Metric.error
  /// The most that is allowed; nil only measures.
  public var maxError: Double?

  /// Opens the file; throws where it is no safetensors file.
  public init(file: String) throws {
    self.file = file
    tensors = try SafetensorsFile(path: file)
  }

  /// The inputs of a function, under the names of its arguments or with "input." before them, cut down to some of the
  /// sequences. Throws where one is missing or of a type that is not the argument's.
  func inputs(of function: Function) throws -> [String: HostTensor] {
    var inputs: [String: HostTensor] = [:]
    for argument in function.arguments {
      let (name, type) = (function[argument].name, function[argument].type)
      guard let found = [name, "input.\(name)"].first(where: { tensors.entry(named: $0) != nil }) else {
        throw DriverError(
          "\(file): no tensor \"\(name)\" or \"input.\(name)\", which the model takes as \(type)",
          hint: "the file has \(tensors.names.joined(separator: ", "))")
      }
      inputs[name] = try tensors.tensor(named: found).widened(to: type.element, name: "\(file): \"\(found)\"")
    }
    return try inputs.selected(evenly: sequences, of: function, file: file)
  }
}

extension Calibration.Metric {
  /// Reads what `--metric` takes: `error`, or `best-10` for any number from 1.
  public init?(_ text: String) {
    let number = text.hasPrefix("best-") ? Int(text.dropFirst(5)) : nil
    if text == "error" {
      self = .error
    } else if let number, number > 0 {
      self = .best(number)
    } else {
      return nil
    }
  }
}

extension ValueType {
  fileprivate var element: ElementType { tensor?.element ?? .i64 }
}

extension HostTensor {
  /// The tensor with elements of the type wanted, where that loses nothing.
  public func widened(to wanted: ElementType, name: String) throws(DriverError) -> HostTensor {
    switch (element, wanted) {
    case (.i32, .i64), (.u8, .i64): return HostTensor(integers, shape: shape)
    case (.f16, .f32), (.bf16, .f32): return HostTensor(floats, shape: shape)
    default:
      guard element == wanted else {
        throw DriverError(
          "\(name) holds \(element.rawValue), expected \(wanted.rawValue)",
          hint: "convert it; only conversions that lose nothing are made here")
      }
      return self
    }
  }

  /// Some rows of the tensor, in the order given.
  fileprivate func rows(_ ranges: [Range<Int>]) throws -> HostTensor {
    let size = shape.dropFirst().reduce(element.byteCount, *)
    return try HostTensor(
      element: element, shape: [ranges.reduce(0) { $0 + $1.count }] + shape.dropFirst(),
      bytes: ranges.flatMap { bytes[$0.lowerBound * size..<$0.upperBound * size] })
  }
}

extension [String: HostTensor] {
  /// The inputs of at most `count` sequences, evenly taken from all. Throws where the offsets are no offsets.
  fileprivate func selected(evenly count: Int, of function: Function, file: String) throws -> [String: HostTensor] {
    let cuts = function.arguments.compactMap { argument -> (name: String, sequences: Dimension, rows: Dimension)? in
      guard case .offsets(let sequences, let rows) = function[argument].type else { return nil }
      return (function[argument].name, sequences, rows)
    }
    // Programs with several offsets, or with none, are run on all there is.
    guard cuts.count == 1, let cut = cuts.first, let offsets = self[cut.name]?.integers.map(Int.init),
      offsets.count - 1 > count
    else { return self }
    let total = offsets.count - 1
    let chosen = (0..<count).map { $0 * total / count }
    guard offsets.first == 0, zip(offsets, offsets.dropFirst()).allSatisfy({ $0 <= $1 }) else {
      throw DriverError("\(file): \"\(cut.name)\" must begin with 0 and never decrease")
    }
    var selected = self
    for argument in function.arguments {
      let (name, type) = (function[argument].name, function[argument].type)
      guard let tensor = self[name] else { continue }
      if name == cut.name {
        selected[name] = HostTensor(
          chosen.reduce(into: [Int64(0)]) { $0.append(($0.last ?? 0) + Int64(offsets[$1 + 1] - offsets[$1])) })
      } else if type.dimensions.first == cut.rows, tensor.shape.first == offsets.last {
        selected[name] = try tensor.rows(chosen.map { offsets[$0]..<offsets[$0 + 1] })
      } else if type.dimensions.first == cut.sequences, tensor.shape.first == total {
        selected[name] = try tensor.rows(chosen.map { $0..<$0 + 1 })
      }
    }
    return selected
  }
}

extension Function {
  /// How many sequences the inputs have; nil where nothing cuts them.
  func sequenceCount(of inputs: [String: HostTensor]) -> Int? {
    for argument in arguments {
      if case .offsets = self[argument].type { return inputs[self[argument].name].map { $0.count - 1 } }
    }
    return nil
  }
}
