import LLVMKit
import TensorIR
import TileIR

// Biases by how far the times of a query and a key are apart.
extension GPUKernelEmitter {
  /// The times, int64 seconds, of the block's rows as queries, i32. Past the last row it is the last one's again.
  func queryTimes(_ b: IRBuilder, _ bias: TimeBias, _ rows: [IRValue]) -> [IRValue] {
    rows.map { time(b, bias.queryTimes, firstRow, $0, last: b.sub(rowCount, 1)) }
  }

  /// The times of keys, i32, counted from the first of their sequence. Past the last key it is the last one's again.
  func keyTimes(_ b: IRBuilder, _ bias: TimeBias, _ keys: [IRValue]) -> [IRValue] {
    let last = b.trunc(b.sub(keyLength, 1), to: context.i32)
    return keys.map { time(b, bias.keyTimes, keySequenceStart, $0, last: last) }
  }

  private func time(
    _ b: IRBuilder, _ buffer: BufferID, _ first: IRValue, _ index: IRValue, last: IRValue
  ) -> IRValue {
    integer(b, buffer, b.add(first, b.zext(b.smin(index, last), to: context.i64)))
  }

  /// The weights of pairs of a thread's queries and keys, of a query all keys together; nil where scores have none.
  func timeWeights(
    _ b: IRBuilder, _ attention: GPUPlan.AttentionBlock, rows: [IRValue], keys: [IRValue]
  ) -> [[IRValue]]? {
    guard let bias = attention.timeBias else { return nil }
    let keyTimes = keyTimes(b, bias, keys)
    return queryTimes(b, bias, rows).map { query in keyTimes.map { timeWeight(b, bias, query: query, key: $0) } }
  }

  /// The weight of the bucket that two times are apart.
  func timeWeight(_ b: IRBuilder, _ bias: TimeBias, query: IRValue, key: IRValue) -> IRValue {
    let (f32, i64) = (context.f32, context.i64)
    func number(_ buffer: BufferID, _ index: IRValue) -> IRValue {
      b.load(f32, b.element(address(buffer), f32, b.zext(index, to: i64)), alignment: 4, invariant: true)
    }
    // The difference wraps, but its magnitude as an unsigned number is exact.
    let magnitude = b.select(b.icmp(.sgt, query, key), b.sub(query, key), b.sub(key, query))
    let rounded = b.uitofp(magnitude, to: f32)
    let seconds = b.select(b.fcmp(.olt, rounded, f32.constant(1.0)), f32.constant(1.0), rounded)
    let count = emitter.program[bias.thresholds].columns
    let bucket = b.timeBucket(of: seconds, count: count, integers: context.i32) { bucket, _ in
      count == 0 ? f32.constant(.infinity) : number(bias.thresholds, b.smin(bucket, count - 1))
    }
    return number(bias.weights, bucket)
  }
}
