import TensorIR

/// Turns operations into such of fewer bits, and declares the weights that they need.
struct PrecisionWriter {
  private struct QuantizedValue: Hashable {
    var value: ValueID
    var element: ElementType
  }

  /// Values that are converted or quantized already: several operations may read one.
  private var converted: [ValueID: ValueID] = [:]
  private var quantized: [QuantizedValue: [ValueID]] = [:]

  /// Lets the operation compute the same value in this precision; what it then reads is appended to the body. The
  /// operation is one of `PrecisionCandidates`, and the precision one of its kind.
  mutating func lower(
    _ id: OperationID, _ precision: Precision, in function: inout Function, _ module: inout Module
  ) {
    var operands = function[id].operands
    var payload = function[id].payload
    switch (payload, precision) {
    case (.linear, .bf16), (.topK, .itemsBF16):
      operands[0] = narrow(operands[0], in: &function)
      operands[1] = derive(operands[1], "bf16", in: &function, &module) {
        (TensorType($0.type.shape, .bf16), .convert($0.name))
      }
    case (.linear(let linear), .fp8), (.linear(let linear), .int8):
      let element: ElementType = precision == .fp8 ? .f8e4m3 : .i8
      let channels: WeightFormula.Axis = linear.orientation == .inOut ? .columns : .rows
      let codes = derive(operands[1], "\(precision.rawValue).codes", in: &function, &module) {
        (TensorType($0.type.shape, element), .codes($0.name, channels: channels))
      }
      let scales = derive(operands[1], "\(precision.rawValue).scales", in: &function, &module) {
        let count = $0.type.shape[channels == .rows ? 0 : 1]
        return (TensorType([count], .f32), .scales($0.name, channels: channels, of: element))
      }
      operands = quantize(operands[0], to: element, in: &function) + [codes, scales] + operands[2...]
      payload = .quantizedLinear(QuantizedLinear(linear.orientation))
    case (.attention, .attentionBF16):
      for index in 0..<3 { operands[index] = narrow(operands[index], in: &function) }
    case (.gather, .tableFP16):
      operands[0] = derive(operands[0], "fp16", in: &function, &module) {
        (TensorType($0.type.shape, .f16), .convert($0.name))
      }
    case (.gather(var gather), .tableInt8), (.gather(var gather), .tableInt4):
      let format: TableFormat = precision == .tableInt8 ? .int8 : .int4
      let width = function[operands[0]].type.tensor?.shape[1].extent ?? 0
      operands[0] = deriveRows(operands[0], format, in: &function, &module)
      (gather.rows, gather.width) = (format, width)
      payload = .gather(gather)
    case (.topK(var top), .itemsInt8), (.topK(var top), .itemsInt4):
      let format: TableFormat = precision == .itemsInt8 ? .int8 : .int4
      operands[1] = deriveRows(operands[1], format, in: &function, &module)
      top.rows = format
      payload = .topK(top)
    default: return
    }
    function[id].payload = payload
    function[id].operands = operands
  }

  /// The value in bf16.
  private mutating func narrow(_ value: ValueID, in function: inout Function) -> ValueID {
    if let known = converted[value] { return known }
    let type = ValueType.tensor(function[value].type.tensor?.shape ?? [], .bf16)
    let id = function.append(
      .convert(Convert(to: .bf16)), operands: [value], results: [("\(function[value].name).bf16", type)])
    converted[value] = function[id].results[0]
    return function[id].results[0]
  }

  /// The codes of the value, and their scales.
  private mutating func quantize(_ value: ValueID, to element: ElementType, in function: inout Function) -> [ValueID] {
    let key = QuantizedValue(value: value, element: element)
    if let known = quantized[key] { return known }
    let (name, shape) = (function[value].name, function[value].type.tensor?.shape ?? [])
    let id = function.append(
      .quantizeRows(QuantizeRows(to: element)), operands: [value],
      results: [
        ("\(name).codes", .tensor(shape, element)), ("\(name).scales", .tensor(Array(shape.prefix(1)), .f32)),
      ])
    quantized[key] = function[id].results
    return function[id].results
  }

  /// The rows of the matrix that `value` is, as bytes.
  private func deriveRows(
    _ value: ValueID, _ format: TableFormat, in function: inout Function, _ module: inout Module
  ) -> ValueID {
    let bytes = format.byteCount(width: function[value].type.tensor?.shape[1].extent ?? 0)
    return derive(value, format.rawValue, in: &function, &module) {
      (TensorType([$0.type.shape[0], .fixed(bytes)], .u8), .quantizedRows($0.name, format))
    }
  }

  /// The weight that follows from the one that `value` is, by the type and formula that `make` gives.
  private func derive(
    _ value: ValueID, _ suffix: String, in function: inout Function, _ module: inout Module,
    _ make: (Weight) -> (TensorType, WeightFormula)
  ) -> ValueID {
    guard case .weight(let id) = function[value].definition else { return value }
    let (type, formula) = make(module[id])
    return function.value(of: module.deriveWeight("\(module[id].name).\(suffix)", type, formula), in: module)
  }
}
