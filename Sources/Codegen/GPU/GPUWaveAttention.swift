import LLVMKit
import TensorIR
import TileIR

// Attention of a block of queries in one head by AMD's waves, of which each takes 32 queries in two tiles of 16.
//
// Scores are computed with keys as the left side and queries as the right one: a lane then has one query and four neighbouring keys.
// Activated and rounded, these are what the lane must have of the right side of the second product, whose left side are the values,
// transposed: scores never leave registers, nor do they change lanes. Queries stay in registers through all turns. Keys, and values
// column by column, lie in shared memory; those of the next turn wait in registers while one is worked on.
extension GPUKernelEmitter {
  /// Keys of a turn: with 64 wide heads leave room for one block.
  private static let waveTurn = 32
  private static let queryTiles = GPUPlan.warpQueries / 16

  /// What stays the same through the turns.
  private struct WaveShape {
    /// Columns, whole groups of sixteen.
    var queryColumns: Int
    var valueColumns: Int
    /// Bytes from key to key, and of transposed values from column to column: an odd number of 8 bytes keeps 16 of them in different
    /// banks.
    var keyStride: Int
    var valueStride: Int
    /// Bytes of shared memory: keys, then values, then the bounds of intervals.
    var values: Int { GPUKernelEmitter.waveTurn * keyStride }
    var bounds: Int { values + valueColumns * valueStride }

    init(_ attention: GPUPlan.AttentionBlock) {
      queryColumns = (attention.queries.count + 15) / 16 * 16
      valueColumns = (attention.values.count + 15) / 16 * 16
      keyStride = queryColumns * 2 + 8
      valueStride = GPUKernelEmitter.waveTurn * 2 + 8
    }
  }

  /// Emits the block; gives the bytes of shared memory that it takes.
  func emitWaveAttention(_ b: inout IRBuilder, _ attention: GPUPlan.AttentionBlock) throws(GPUError) -> Int {
    let i32 = context.i32
    let shape = WaveShape(attention)
    let sharedBytes = shape.bounds + attention.mask.intervals.count * 2 * plan.rows * 4
    guard sharedBytes <= emitter.target.sharedBytes, plan.rows % GPUPlan.warpQueries == 0 else {
      throw error("attention of heads \(attention.queries.count) wide")
    }
    let hulls = emitBounds(&b, attention.mask, at: shape.bounds)
    let turns = Turns(b, hulls, step: Self.waveTurn)
    let rows = (0..<Self.queryTiles).map { tile in
      b.add(b.add(b.mul(warp, GPUPlan.warpQueries), waveRow(b)), tile * 16)
    }
    let seen = rows.map {
      intervals(b, attention.mask, of: $0, at: b.offset(emitter.shared, bytes: shape.bounds))
    }
    let queries = rows.map { loadQueries(b, attention.queries, row: $0, columns: shape.queryColumns) }
    let pieces = pieces(b, attention, shape)
    let waiting = fetch(&b, pieces, turns, i32.constant(0))
    let sumCount = shape.valueColumns / 16 * Self.queryTiles
    let carried = b.loop(
      from: i32.constant(0), to: turns.count, step: 1, name: "turn", hint: .asWritten,
      carrying: Array(repeating: noSums, count: sumCount) + waiting
    ) { b, turn, carried in
      let (key, count) = turns.first(b, turn)
      barrier(b)
      put(&b, pieces, Array(carried[sumCount...]), count: count)
      barrier(b)
      let next = fetch(&b, pieces, turns, b.add(turn, 1))
      let scores = scores(b, shape, queries)
      let allVisible = areAllVisible(b, hulls, key: key, count: Self.waveTurn)
      /// A lane's four keys of 16.
      func keys(_ b: IRBuilder, _ tile: Int) -> [IRValue] {
        (0..<4).map { b.add(b.add(b.add(key, tile * 16), b.mul(waveSlice(b), 4)), $0) }
      }
      let timeWeights = timeWeights(
        b, attention, rows: rows, keys: (0..<Self.waveTurn / 16).flatMap { keys(b, $0) })
      func activate(_ b: IRBuilder, isMasked: Bool) -> [IRValue] {
        scores.enumerated().map { number, score in
          let (keyTile, tile) = (number / Self.queryTiles, number % Self.queryTiles)
          let numbers = zip(keys(b, keyTile), scalars(b, score)).enumerated().map { place, pair in
            self.activated(
              b, attention, pair.1, row: rows[tile], key: pair.0,
              timeWeight: timeWeights?[tile][4 * keyTile + place],
              intervals: isMasked ? seen[tile] : nil)
          }
          // Rounded to bf16.
          return vector(b, numbers.map { bf16Bits(b, $0) })
        }
      }
      let activated = b.ifThenElse(allVisible) { b in
        activate(b, isMasked: false)
      } otherwise: { b in
        activate(b, isMasked: true)
      }
      return weightedSums(b, shape, activated, onto: Array(carried[..<sumCount])) + next
    }
    let canFinish = canFinish(attention.into, attention.finish, together: 4)
    for (number, sum) in carried[..<sumCount].enumerated() {
      write(
        &b, attention.into, attention.finish, row: rows[number % Self.queryTiles],
        column: b.add(b.mul(waveSlice(b), 4), number / Self.queryTiles * 16), scalars(b, sum), together: canFinish)
    }
    return sharedBytes
  }

  /// A lane's numbers of a query, four of each 16 columns; zeros past the last column. Rows past the last are the last one again.
  private func loadQueries(_ b: IRBuilder, _ slice: TileSlice, row: IRValue, columns: Int) -> [IRValue] {
    let i16 = context.i16
    let address = rowAddress(b, slice, row: b.smin(row, b.sub(rowCount, 1)))
    let isWide = slice.count % 4 == 0 && alignment(of: slice) >= 8
    return stride(from: 0, to: columns, by: 16).map { step in
      let first = b.add(b.mul(waveSlice(b), 4), step)
      /// Neighbours from a column of the query on.
      func load(_ type: IRType, _ column: IRValue, alignment: Int) -> IRValue {
        if step + 16 <= slice.count {
          return b.load(type, b.offset(address, bytes: b.mul(column, 2)), alignment: alignment)
        }
        let isThere = b.icmp(.slt, column, slice.count)
        let safe = b.select(isThere, column, context.i32.constant(0))
        let numbers = b.load(type, b.offset(address, bytes: b.mul(safe, 2)), alignment: alignment)
        return b.select(isThere, numbers, type.null())
      }
      if isWide { return load(context.vector(i16, 4), first, alignment: 8) }
      return vector(b, (0..<4).map { load(i16, b.add(first, $0), alignment: 2) })
    }
  }

  // MARK: - Into shared memory

  /// A thread's share of what a turn brings into shared memory.
  private struct Piece {
    /// The keys or values.
    var slice: TileSlice
    /// The first of its keys, counted from the turn's first, and of its columns; whether the thread has it, nil where every one has.
    var row: IRValue
    var column: IRValue
    var isOwn: IRValue?
    /// How many keys, and neighbouring columns of each, which are loaded together.
    var rows: Int
    var columns: Int
    /// Where it goes. Of several keys those of a column lie together, the next column `stride` bytes further.
    var place: IRValue
    var stride: Int
  }

  /// The pieces of a thread in every turn.
  private func pieces(_ b: IRBuilder, _ attention: GPUPlan.AttentionBlock, _ shape: WaveShape) -> [Piece] {
    // Sixteen bytes of a key at once, two columns of four keys' values, where they can be loaded so.
    let (keys, values) = (attention.keys, attention.values)
    let keyColumns = keys.count % 8 == 0 && alignment(of: keys) == 16 ? 8 : 1
    let valueColumns = values.count % 2 == 0 && alignment(of: values) >= 4 ? 2 : 1
    return pieces(b, keys, rows: 1, columns: keyColumns, of: shape.queryColumns) { row, column in
      b.add(b.mul(row, shape.keyStride), b.mul(column, 2))
    }
      + pieces(b, values, rows: 4, columns: valueColumns, of: shape.valueColumns, stride: shape.valueStride) {
        row, column in b.add(b.add(b.mul(column, shape.valueStride), b.mul(row, 2)), shape.values)
      }
  }

  private func pieces(
    _ b: IRBuilder, _ slice: TileSlice, rows: Int, columns: Int, of width: Int, stride: Int = 0,
    _ place: (IRValue, IRValue) -> IRValue
  ) -> [Piece] {
    let each = width / columns
    let all = Self.waveTurn / rows * each
    return (0..<(all + plan.threads - 1) / plan.threads).map { number in
      let index = b.add(thread, number * plan.threads)
      let (row, column) = (b.mul(b.udiv(index, each), rows), b.mul(b.urem(index, each), columns))
      return Piece(
        slice: slice, row: row, column: column,
        isOwn: (number + 1) * plan.threads > all ? b.icmp(.slt, index, all) : nil, rows: rows, columns: columns,
        place: b.offset(emitter.shared, bytes: place(row, column)), stride: stride)
    }
  }

  /// Whether a piece's key of this number, of so many, and its columns are there.
  private func isThere(_ b: IRBuilder, _ piece: Piece, key: Int, of count: IRValue) -> IRValue {
    var isThere = b.icmp(.slt, b.add(piece.row, key), count)
    if let isOwn = piece.isOwn { isThere = b.and(isThere, isOwn) }
    if piece.slice.count % 16 != 0 { isThere = b.and(isThere, b.icmp(.slt, piece.column, piece.slice.count)) }
    return isThere
  }

  /// What the pieces hold of a turn; something else where there is nothing. Nothing is done with it here: it is on its way.
  private func fetch(_ b: inout IRBuilder, _ pieces: [Piece], _ turns: Turns, _ turn: IRValue) -> [IRValue] {
    let types = pieces.flatMap { piece in
      let type =
        switch piece.columns {
        case 8: context.vector(context.i32, 4)
        case 2: context.i32
        default: context.i16
        }
      return Array(repeating: type, count: piece.rows)
    }
    return b.ifThenElse(b.icmp(.slt, turn, turns.count)) { b in
      let (key, count) = turns.first(b, turn)
      var types = types[...]
      return pieces.flatMap { piece in
        (0..<piece.rows).map { number in
          // A turn's first key is always there.
          let isThere = isThere(b, piece, key: number, of: count)
          let row = b.select(isThere, b.add(key, b.add(piece.row, number)), key)
          let column = b.select(isThere, piece.column, context.i32.constant(0))
          let source = b.offset(rowAddress(b, piece.slice, row: row), bytes: b.mul(column, 2))
          return b.load(types.removeFirst(), source, alignment: 2 * piece.columns)
        }
      }
    } otherwise: { _ in
      types.map { $0.null() }
    }
  }

  /// Writes what `fetch` gave of a turn of so many keys into shared memory, zeros past the last key and the last column.
  private func put(_ b: inout IRBuilder, _ pieces: [Piece], _ numbers: [IRValue], count: IRValue) {
    var numbers = numbers[...]
    for piece in pieces {
      let own = (0..<piece.rows).map { key in
        let number = numbers.removeFirst()
        return b.select(isThere(b, piece, key: key, of: count), number, number.type.null())
      }
      func store(_ b: IRBuilder) {
        guard piece.rows > 1 else { return b.store(own[0], piece.place, alignment: min(8, 2 * piece.columns)) }
        for column in 0..<piece.columns {
          let keys = own.map { b.trunc(b.lshr($0, 16 * column), to: context.i16) }
          b.store(vector(b, keys), b.offset(piece.place, bytes: column * piece.stride), alignment: 2 * piece.rows)
        }
      }
      if let isOwn = piece.isOwn { b.ifThen(isOwn) { store($0) } } else { store(b) }
    }
  }

  // MARK: - A turn

  /// Four neighbours of a lane's row of 16 in shared memory, from the column `4 * slice` on.
  private func neighbours(_ b: IRBuilder, from bytes: Int, stride: Int) -> IRValue {
    let own = b.add(b.mul(waveRow(b), stride), b.mul(waveSlice(b), 8))
    return b.load(
      context.vector(context.i16, 4), b.offset(b.offset(emitter.shared, bytes: own), bytes: bytes), alignment: 8)
  }

  /// The scores of a turn: of each 16 keys those of each tile of queries, of a lane's query four keys from `4 * slice` on.
  private func scores(_ b: IRBuilder, _ shape: WaveShape, _ queries: [[IRValue]]) -> [IRValue] {
    (0..<Self.waveTurn / 16).flatMap { tile in
      var scores = queries.map { _ in noSums }
      for step in 0..<shape.queryColumns / 16 {
        let keys = neighbours(b, from: tile * 16 * shape.keyStride + step * 32, stride: shape.keyStride)
        for (number, query) in queries.enumerated() {
          scores[number] = multiplyByWave(b, keys, query[step], onto: scores[number])
        }
      }
      return scores
    }
  }

  /// The sums with a turn's values added, weighted: of each 16 columns those of each tile of queries, of a lane's query four columns from
  /// `4 * slice` on.
  private func weightedSums(
    _ b: IRBuilder, _ shape: WaveShape, _ weights: [IRValue], onto sums: [IRValue]
  ) -> [IRValue] {
    var sums = sums
    for keyTile in 0..<Self.waveTurn / 16 {
      for tile in 0..<shape.valueColumns / 16 {
        let values = neighbours(
          b, from: shape.values + tile * 16 * shape.valueStride + keyTile * 32, stride: shape.valueStride)
        for query in 0..<Self.queryTiles {
          let place = tile * Self.queryTiles + query
          sums[place] = multiplyByWave(b, values, weights[keyTile * Self.queryTiles + query], onto: sums[place])
        }
      }
    }
    return sums
  }
}
