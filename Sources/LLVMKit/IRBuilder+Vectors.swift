import CLLVM

extension IRBuilder {
  /// A scalar in every one of `count` lanes; the scalar itself where `count` is 1.
  public func splat(_ scalar: IRValue, _ count: Int) -> IRValue {
    if count == 1 { return scalar }
    let type = IRType(raw: LLVMVectorType(scalar.type.raw, UInt32(count)))
    let first = insert(type.poison(), scalar, 0)
    return shuffle(first, type.poison(), [Int](repeating: 0, count: count))
  }

  /// The vector with one lane replaced.
  public func insert(_ vector: IRValue, _ scalar: IRValue, _ lane: Int) -> IRValue {
    insert(vector, scalar, i32(lane))
  }

  /// The vector with one lane replaced; a lane out of range is poison.
  public func insert(_ vector: IRValue, _ scalar: IRValue, _ lane: IRValue) -> IRValue {
    IRValue(raw: LLVMBuildInsertElement(raw, vector.raw, scalar.raw, lane.raw, ""))
  }

  /// One lane of a vector.
  public func extract(_ vector: IRValue, _ lane: Int) -> IRValue { extract(vector, i32(lane)) }

  /// One lane of a vector; a lane out of range is poison.
  public func extract(_ vector: IRValue, _ lane: IRValue) -> IRValue {
    IRValue(raw: LLVMBuildExtractElement(raw, vector.raw, lane.raw, ""))
  }

  /// A vector of chosen lanes of `a` followed by `b`; a negative choice is poison.
  public func shuffle(_ a: IRValue, _ b: IRValue, _ lanes: [Int]) -> IRValue {
    let type = IRType(raw: LLVMInt32TypeInContext(contextHandle))
    let mask = IRType(raw: LLVMVectorType(type.raw, UInt32(lanes.count)))
      .constants(lanes.map { $0 < 0 ? type.poison() : type.constant($0) })
    return IRValue(raw: LLVMBuildShuffleVector(raw, a.raw, b.raw, mask.raw, ""))
  }

  /// A vector of chosen lanes of one vector.
  public func shuffle(_ a: IRValue, _ lanes: [Int]) -> IRValue { shuffle(a, a.type.poison(), lanes) }

  /// The lanes of `a` followed by those of `b`, which have the same type.
  public func concatenate(_ a: IRValue, _ b: IRValue) -> IRValue {
    shuffle(a, b, Array(0..<2 * a.type.vectorCount))
  }

  /// The mask of the lanes whose number is below `count`, a signed integer of any size.
  public func laneMask(below count: IRValue, lanes: Int) -> IRValue {
    let numbers = IRType(raw: LLVMVectorType(count.type.raw, UInt32(lanes))).lanes()
    return icmp(.slt, numbers, splat(count, lanes))
  }

  /// A field of a structure, or an element of an array, that is a value.
  public func extractField(_ aggregate: IRValue, _ index: Int) -> IRValue {
    IRValue(raw: LLVMBuildExtractValue(raw, aggregate.raw, UInt32(index), ""))
  }

  /// A structure or array that is a value, with one field replaced.
  public func insertField(_ aggregate: IRValue, _ value: IRValue, _ index: Int) -> IRValue {
    IRValue(raw: LLVMBuildInsertValue(raw, aggregate.raw, value.raw, UInt32(index), ""))
  }

  // MARK: Reductions

  /// The sum of the lanes.
  ///
  /// Floating-point lanes are added one after the other, first to last, onto `start` (-0 where nil, which changes
  /// nothing). With `reassociate` the order is the target's, so that the result may differ between processors; see
  /// `reduceByHalves` for an order that is fast and fixed.
  public func reduceAdd(_ vector: IRValue, start: IRValue? = nil, reassociate: Bool = false) -> IRValue {
    if vector.type.isFloatingPoint {
      let start = start ?? vector.type.elementType.constant(-0.0)
      let sum = intrinsic("llvm.vector.reduce.fadd", overloads: [vector.type], [start, vector])
      return reassociate ? relax(sum, .reassociate) : sum
    }
    let sum = reduce("add", vector)
    return start.map { add($0, sum) } ?? sum
  }

  /// The largest lane: as `fmaximumNumber` for floating point, signed for integers.
  public func reduceMax(_ vector: IRValue) -> IRValue {
    reduce(vector.type.isFloatingPoint ? "fmax" : "smax", vector)
  }

  /// The smallest lane: as `fminimumNumber` for floating point, signed for integers.
  public func reduceMin(_ vector: IRValue) -> IRValue {
    reduce(vector.type.isFloatingPoint ? "fmin" : "smin", vector)
  }

  /// Whether any lane of integers has a bit set, or bitwise or.
  public func reduceOr(_ vector: IRValue) -> IRValue { reduce("or", vector) }

  /// Whether all lanes are set, or bitwise and.
  public func reduceAnd(_ vector: IRValue) -> IRValue { reduce("and", vector) }

  /// Combines the upper half of the lanes with the lower until one is left: the same order on every processor.
  ///
  /// The number of lanes is a power of two. `combine` gets the lower half first.
  public func reduceByHalves(_ vector: IRValue, _ combine: (IRBuilder, IRValue, IRValue) -> IRValue) -> IRValue {
    var rest = vector
    var count = vector.type.vectorCount
    precondition(count & (count - 1) == 0, "\(count) lanes cannot be halved down to one")
    while count > 2 {
      count /= 2
      rest = combine(self, shuffle(rest, Array(0..<count)), shuffle(rest, Array(count..<2 * count)))
    }
    return count == 1 ? rest : combine(self, extract(rest, 0), extract(rest, 1))
  }

  private func reduce(_ operation: String, _ vector: IRValue) -> IRValue {
    intrinsic("llvm.vector.reduce.\(operation)", overloads: [vector.type], [vector])
  }
}
