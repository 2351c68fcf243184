import TensorIR

// Programs and results sequence by sequence.
extension RandomProgram {
  /// Where each sequence begins, and the number of rows; one sequence where the program has no offsets.
  public var offsets: [Int] { inputs["offsets"]?.integers.map(Int.init) ?? [0, rows] }
  /// How many sequences the batch has.
  public var sequenceCount: Int { offsets.count - 1 }
  private var rows: Int { inputs.values.map { $0.shape[0] }.max() ?? 0 }

  /// The same program on a batch of some of its sequences, in the order given; a sequence may be there twice.
  public func selecting(_ sequences: [Int]) throws -> RandomProgram {
    var program = self
    let function = module.function(named: "forward")
    for argument in function?.arguments ?? [] {
      guard let value = function?[argument], let input = inputs[value.name] else { continue }
      switch value.type {
      case .offsets:
        let offsets = input.integers
        var selected: [Int64] = [0]
        for sequence in sequences {
          selected.append(selected[selected.count - 1] + offsets[sequence + 1] - offsets[sequence])
        }
        program.inputs[value.name] = HostTensor(selected)
      case .tensor(let type) where type.shape[0] == .symbol("sequences"):
        program.inputs[value.name] = try input.rows(sequences)
      case .tensor(let type):
        guard let offsets = offsets(cutting: type.shape[0]) else { continue }
        program.inputs[value.name] = try input.rows(sequences.flatMap { offsets[$0]..<offsets[$0 + 1] })
      }
    }
    return program
  }
}

extension RandomProgram {
  /// What the argument holds that cuts so many rows into sequences.
  private func offsets(cutting rows: Dimension) -> [Int]? {
    guard let function = module.function(named: "forward") else { return nil }
    for argument in function.arguments {
      guard case .offsets(_, rows) = function[argument].type else { continue }
      return inputs[function[argument].name]?.integers.map { Int($0) }
    }
    return nil
  }
}

extension HostTensor {
  /// Some rows of the tensor, in the order given.
  public func rows(_ rows: [Int]) throws -> HostTensor {
    let size = shape.dropFirst().reduce(element.byteCount, *)
    return try HostTensor(
      element: element, shape: [rows.count] + shape.dropFirst(),
      bytes: rows.flatMap { bytes[$0 * size..<($0 + 1) * size] })
  }
}

extension RandomProgram {
  /// The rows of a result that belong to each sequence, by the dimension that its type begins with; nil where `results`
  /// lacks the offsets that tell.
  public func rows(
    ofResult name: String, in results: [(name: String, tensor: HostTensor)]
  ) -> [Range<Int>]? {
    guard let function = module.function(named: "forward"),
      let result = function.results.first(where: { $0.name == name })
    else { return nil }
    let kept = results.first { $0.name == "kept_offsets" }?.tensor.integers.map(Int.init)
    let offsets: [Int]? =
      switch function[result.value].type.tensor?.shape.first {
      case .symbol("rows"): self.offsets
      case .symbol("sequences"): Array(0...sequenceCount)
      default: kept
      }
    return offsets.map { zip($0, $0.dropFirst()).map { $0..<$1 } }
  }
}
