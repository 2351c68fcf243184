import TensorIR

extension Evaluator {
  /// Attention as its formula says, one row, head and visible key after the other; rows x rows is never stored.
  func attention(_ payload: Attention, _ operands: [ValueID]) throws(InterpreterError) -> Tensor<Number> {
    let query = try numbers(operands[0])
    let key = try numbers(operands[1])
    let value = try numbers(operands[2])
    let batch = try sequences(operands[3], targets: payload.hasTargets ? operands[4] : nil)
    let bias = try AttentionBias(
      payload.bias, operands.dropFirst(payload.firstBiasOperand), batch, offsets: operands[3], in: self)
    var seen = batch
    if payload.continuesHistory { seen.targets = Array(repeating: 0, count: batch.count) }
    let divisor = Number(seen.divisor(payload.divisor))
    let isNarrow = function[operands[0]].type.tensor?.element == .bf16
    let queries = try queryRows(payload, operands, batch)
    let alpha = Number(payload.alpha)
    let headWidth = query.width / payload.heads
    let valueWidth = value.width / payload.heads
    var result = Tensor(
      shape: [query.rows, value.width], elements: [Number](repeating: 0, count: query.rows * value.width))

    query.elements.withUnsafeBufferPointer { q in
      key.elements.withUnsafeBufferPointer { k in
        value.elements.withUnsafeBufferPointer { v in
          result.elements.withUnsafeMutableBufferPointer { out in
            guard let q = q.baseAddress, let k = k.baseAddress, let v = v.baseAddress, let out = out.baseAddress
            else { return }
            for sequence in 0..<batch.count {
              let start = batch.start(sequence)
              for (queryRow, position) in queries[sequence] {
                let visible = payload.mask.visibleKeys(
                  position: position, length: batch.length(sequence), targets: seen.targets[sequence])
                for interval in visible {
                  for keyPosition in interval {
                    let added = bias.value(
                      query: position, key: keyPosition, queryRow: queryRow, keyRow: start + keyPosition)
                    for head in 0..<payload.heads {
                      let score = Number.dot(
                        q + queryRow * query.width + head * headWidth,
                        k + (start + keyPosition) * key.width + head * headWidth, stride: 1, count: headWidth)
                      let biased = added.map { alpha * score + $0 } ?? (alpha * score)
                      let weight = payload.activation == .silu ? Number.silu(biased) : biased
                      Number.accumulate(
                        isNarrow ? Number(ElementType.bf16.rounded(Double(weight))) : weight / divisor,
                        v + (start + keyPosition) * value.width + head * valueWidth,
                        into: out + queryRow * value.width + head * valueWidth, count: valueWidth)
                    }
                  }
                }
              }
            }
          }
        }
      }
    }
    if isNarrow { for index in result.elements.indices { result.elements[index] /= divisor } }
    return result
  }

  /// For each sequence its rows of the query tensor, each with its position among all rows of the sequence.
  private func queryRows(
    _ payload: Attention, _ operands: [ValueID], _ batch: Sequences
  ) throws(InterpreterError) -> [[(row: Int, position: Int)]] {
    let positions: [[Int]]
    if let selection = payload.queries {
      positions = try keptPositions(selection, batch, selected: operands[payload.selectedOffsetsOperand])
    } else {
      positions = (0..<batch.count).map { Array(0..<batch.length($0)) }
    }
    var next = 0
    return positions.map { positions in
      defer { next += positions.count }
      return zip(next..., positions).map { ($0, $1) }
    }
  }
}

extension Sequences {
  /// The N that activated scores are divided by.
  func divisor(_ divisor: Attention.Divisor) -> Double {
    switch divisor {
    case .fixed(let divisor): divisor
    case .longestSequence: Double((0..<count).map { length($0) }.max() ?? 0)
    case .longestHistoryPlusTargets:
      // Contextual rows are as many in every sequence: the longest of contextual rows and history together counts them.
      Double(((0..<count).map { length($0) - targets[$0] }.max() ?? 0) + (targets.max() ?? 0))
    }
  }
}

/// What is added to a score, shared by all heads.
private struct AttentionBias<Number: Arithmetic> {
  private var positionWeights: [Number] = []
  private var timeWeights: [Number] = []
  private var queryTimes: [Int64] = []
  private var keyTimes: [Int64] = []
  private var kind: Attention.Bias
  /// The longest sequence: position weights are 2n - 1.
  private var n = 0

  init(
    _ kind: Attention.Bias, _ operands: ArraySlice<ValueID>, _ batch: Sequences, offsets: ValueID,
    in evaluator: Evaluator<Number>
  ) throws(InterpreterError) {
    self.kind = kind
    let operands = Array(operands)
    guard kind != .none else { return }
    positionWeights = try evaluator.numbers(operands[0]).elements
    n = (positionWeights.count + 1) / 2
    for sequence in 0..<batch.count where batch.length(sequence) > n {
      throw .sequenceTooLong(
        argument: evaluator.name(offsets), position: sequence, found: batch.length(sequence), expected: n)
    }
    guard kind == .positionAndTime else { return }
    timeWeights = try evaluator.numbers(operands[1]).elements
    queryTimes = try evaluator.integers(operands[2]).elements
    keyTimes = try evaluator.integers(operands[3]).elements
  }

  /// The bias for a query and a key, given by position in the sequence and by row in the batch; nil where there is none.
  func value(query: Int, key: Int, queryRow: Int, keyRow: Int) -> Number? {
    switch kind {
    case .none: return nil
    case .position: return positionWeights[n - 1 + key - query]
    case .positionAndTime:
      let magnitude = TimeBuckets.magnitude(queryTimes[queryRow], keyTimes[keyRow])
      let bucket = TimeBuckets.bucket(magnitude: magnitude, last: timeWeights.count - 1)
      return positionWeights[n - 1 + key - query] + timeWeights[bucket]
    }
  }
}
