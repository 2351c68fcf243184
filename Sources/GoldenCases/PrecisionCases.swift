import ModelFormat
import TensorIR

/// Products of rows quantized to fp8, and tables quantized to 4 bits, code by code.
extension GoldenCase {
  /// Both projections of a layer, each fed with its own input: stages do not follow one another.
  func float8Program() throws -> GoldenProgram {
    let object = try attributes.object([
      "embedding_dim", "num_heads", "attention_dim", "hidden_dim", "lengths", "num_targets", "divisor_N", "alpha",
      "format", "fp8_max", "activation_scale", "weight_scale", "code", "product", "uvqk_bias", "output_bias",
      "attention", "bf16_result",
    ])
    try object.require("format", "float8_e4m3fn")
    try object.require("activation_scale", "amax(row)/448 in float32, 1 when amax is 0")
    try object.require("code", "round to nearest even of clamp(x/scale, -448, 448), a true float32 division")
    try object.require("uvqk_bias", "1-D beta")
    try object.require("output_bias", "2-D residual x")
    var builder = FunctionBuilder(module: Module(name: name), name: "forward")
    var weights = WeightTable()
    var inputs: [String: HostTensor] = [:]
    for (stage, input, weight) in [("uvqk", "normed", "_uvqk_weight"), ("out", "out_input", "_output_weight")] {
      let x = try argument(input, &builder, &inputs)
      let matrix = try self.weight(weight, &builder, &weights)
      let rows = try builder.append(.quantizeRows(QuantizeRows(to: .f8e4m3)), [x], names: ["codes", "scales"])
      let codes = builder.derivedWeight(
        "\(stage).weight_codes", matrix.shape, .f8e4m3, .codes(weight, channels: .columns))
      let scales = builder.derivedWeight(
        "\(stage).weight_scale", [matrix.shape[1]], .f32, .scales(weight, channels: .columns, of: .f8e4m3))
      let bias =
        stage == "uvqk"
        ? try self.weight("_uvqk_beta", &builder, &weights).value : try argument("x", &builder, &inputs)
      let product = Payload.quantizedLinear(QuantizedLinear())
      // As the numbers that they stand for: compiled code gives none of its results as codes.
      builder.result("\(stage).act_codes", try builder.emit(.convert(Convert(to: .f32)), rows[0]))
      builder.result("\(stage).act_scale", rows[1])
      builder.result("\(stage).product", try builder.append(product, rows + [codes, scales])[0])
      builder.result("\(stage).result", try builder.append(product, rows + [codes, scales, bias])[0])
    }
    return GoldenProgram(
      module: builder.finish(), weights: weights, inputs: inputs,
      sources: try sources { output in
        let (stage, value) = output.splitAtDot
        guard ["uvqk", "out"].contains(stage) else { return nil }
        return switch value {
        case "act_codes": .resultCodes(output)
        case "act_scale", "product", "result": .result(output)
        // Its tolerance is what rounding to bf16 may change.
        case "result_bf16": .result("\(stage).result")
        case "weight_codes": .transposedWeight(output)
        case "weight_scale": .weight(output)
        default: nil
        }
      })
  }

  /// A table as FBGEMM packs it, all of it decoded, and the rows of some ids.
  func int4Program() throws -> GoldenProgram {
    let object = try attributes.object([
      "rows", "dim", "format", "row_bytes", "row_layout", "bias", "scale", "code", "dequantize",
    ])
    try object.require("format", "FBGEMM fused 4-bit row-wise, half scale and bias")
    let width = try object.required("dim").positiveInteger()
    let rows = try object.required("rows").positiveInteger()
    let rowBytes = try object.required("row_bytes")
    guard try rowBytes.positiveInteger() == TableFormat.int4.byteCount(width: width) else {
      throw rowBytes.mismatch(expected: "\(TableFormat.int4.byteCount(width: width))")
    }
    var builder = FunctionBuilder(module: Module(name: name), name: "forward")
    var weights = WeightTable()
    _ = try weight("weight", &builder, &weights)
    let packed = builder.derivedWeight(
      "packed", [rows, TableFormat.int4.byteCount(width: width)], .u8, .quantizedRows("weight", .int4))
    let inputs = ["ids": try input("ids"), "all_ids": HostTensor((0..<rows).map(Int64.init))]
    for (result, ids, dimension) in [("rows", "ids", "rows"), ("dequantized", "all_ids", "entries")] {
      let ids = builder.argument(ids, .tensor([.symbol(dimension)], .i64))
      builder.result(result, try builder.emit(.gather(Gather(rows: .int4, width: width)), packed, ids))
    }
    return GoldenProgram(
      module: builder.finish(), weights: weights, inputs: inputs,
      sources: try sources { output in
        switch output {
        case "rows", "dequantized": .result(output)
        case "packed": .weight(output)
        case "codes": .packedCodes("packed", width: width)
        case "scale": .packedHalf("packed", fromEnd: 4)
        case "bias": .packedHalf("packed", fromEnd: 2)
        default: nil
        }
      })
  }

  private func argument(
    _ name: String, _ builder: inout FunctionBuilder, _ inputs: inout [String: HostTensor]
  ) throws -> ValueID {
    let tensor = try input(name)
    inputs[name] = tensor
    return builder.argument(name, .tensor([.symbol("rows"), .fixed(tensor.shape.last ?? 0)], .f32))
  }

  private func weight(
    _ name: String, _ builder: inout FunctionBuilder, _ weights: inout WeightTable
  ) throws -> (value: ValueID, shape: [Int]) {
    let tensor = try tensors.tensor(named: name)
    weights.tensors[name] = tensor
    return (try builder.weight(name, tensor.shape), tensor.shape)
  }
}

extension String {
  /// What stands before the first dot, and after it.
  fileprivate var splitAtDot: (Substring, Substring) {
    let dot = firstIndex(of: ".") ?? endIndex
    return (self[..<dot], self[dot...].dropFirst())
  }
}

// MARK: - Weights as the case shows them

extension GoldenProgram {
  /// A weight of the program, its codes as bytes.
  func weight(_ name: String) throws -> HostTensor {
    try DerivedWeights(module, base: weights).withWeight(name) {
      try HostTensor(element: $0 == .f8e4m3 ? .u8 : $0, shape: $1, bytes: [UInt8]($2))
    }
  }

  /// A weight of bytes with rows and columns changed places.
  func transposedWeight(_ name: String) throws -> HostTensor {
    let tensor = try weight(name)
    let (rows, columns) = (tensor.shape[0], tensor.shape[1])
    let bytes = (0..<tensor.count).map { tensor.bytes[$0 % rows * columns + $0 / rows] }
    return try HostTensor(element: .u8, shape: [columns, rows], bytes: bytes)
  }

  /// The codes of a table of 4 bits, one a byte.
  func packedCodes(_ name: String, width: Int) throws -> HostTensor {
    let tensor = try weight(name)
    var bytes: [UInt8] = []
    for row in 0..<tensor.shape[0] {
      for column in 0..<width {
        let pair = tensor.bytes[row * tensor.shape[1] + column / 2]
        bytes.append(column % 2 == 0 ? pair & 15 : pair >> 4)
      }
    }
    return try HostTensor(element: .u8, shape: [tensor.shape[0], width], bytes: bytes)
  }

  /// The half of every row that begins so many bytes before its end.
  func packedHalf(_ name: String, fromEnd distance: Int) throws -> HostTensor {
    let tensor = try weight(name)
    var bytes: [UInt8] = []
    for row in 0..<tensor.shape[0] {
      let start = (row + 1) * tensor.shape[1] - distance
      bytes += tensor.bytes[start..<start + 2]
    }
    return try HostTensor(element: .f16, shape: [tensor.shape[0]], bytes: bytes)
  }
}
