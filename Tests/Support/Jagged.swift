import TensorIR

// Programs and results sequence by sequence.
extension RandomProgram {
  public var offsets: [Int] { inputs["offsets"]?.integers.map(Int.init) ?? [0, rows] }
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
        var selected: [Int64] = [0]
        for sequence in sequences {
          selected.append(selected[selected.count - 1] + Int64(offsets[sequence + 1] - offsets[sequence]))
        }
        program.inputs[value.name] = HostTensor(selected)
      case .tensor(let type) where type.shape[0] == .symbol("rows"):
        program.inputs[value.name] = try input.rows(sequences.flatMap { offsets[$0]..<offsets[$0 + 1] })
      case .tensor(let type) where type.shape[0] == .symbol("sequences"):
        program.inputs[value.name] = try input.rows(sequences)
      case .tensor: break
      }
    }
    return program
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
