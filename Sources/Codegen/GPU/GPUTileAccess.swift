import LLVMKit
import TensorIR
import TileIR

// Where elements of tiles are, and how they are read and written: some neighbours in a row at once.
extension GPUKernelEmitter {
  /// Elements of a row from a column on, both counted within the block and its tiles.
  struct Elements {
    /// i32.
    var row: IRValue
    /// i32, a multiple of `lanes`.
    var column: IRValue
    var lanes: Int
  }

  /// Bytes from one row to the next.
  func rowStride(of tile: TileID) -> Int {
    switch kernel[tile].home {
    case .scratch: plan.places[tile]?.rowStride ?? 0
    case .columns(let base, _, _): rowStride(of: base)
    // Its rows lie in two places: each has an address of its own.
    case .joined: 0
    case .window(let buffer, _, _): rowBytes(of: buffer)
    }
  }

  /// Bytes of a buffer's row.
  func rowBytes(of buffer: BufferID) -> Int {
    emitter.program[buffer].columns * emitter.program[buffer].element.deviceByteCount
  }

  /// The address of a slice's element in a row of the block (of keys: counted from the first of the sequence), at column 0.
  func rowAddress(_ b: IRBuilder, _ slice: TileSlice, row: IRValue) -> IRValue {
    let tile = kernel[slice.tile]
    let size = tile.element.deviceByteCount
    switch tile.home {
    case .scratch:
      let place = plan.places[slice.tile] ?? GPUPlan.Place(offset: 0, rowStride: 0)
      return b.offset(
        b.offset(emitter.shared, bytes: b.mul(row, place.rowStride)), bytes: place.offset + slice.first * size)
    case .columns(let base, let column, let columnsPerPart):
      let first = rowAddress(b, TileSlice(base, first: column + slice.first, count: slice.count), row: row)
      return columnsPerPart == 0 ? first : b.offset(first, bytes: b.mul(part, columnsPerPart * size))
    case .joined(let kept, let own):
      let key = b.zext(row, to: context.i64)
      return b.select(
        b.icmp(.slt, key, keptLength), columnsAddress(b, kept, first: slice.first, row: b.add(keptStart, key)),
        columnsAddress(b, own, first: slice.first, row: b.add(b.sub(sequenceStart, keptLength), key)))
    case .window(let buffer, let column, let columnsPerPart):
      let start: IRValue
      switch tile.rows {
      case .block: start = firstRow
      case .keys: start = keySequenceStart
      case .fixed: start = context.i64.constant(0)
      }
      return columnsAddress(
        b, BufferColumns(buffer, column: column, columnsPerPart: columnsPerPart), first: slice.first,
        row: b.add(start, b.zext(row, to: context.i64)))
    }
  }

  /// The address of the first of a part's columns, or of a later one, in a row of their buffer.
  private func columnsAddress(_ b: IRBuilder, _ columns: BufferColumns, first: Int, row: IRValue) -> IRValue {
    let size = emitter.program[columns.buffer].element.deviceByteCount
    let bytes = b.add(
      b.mul(row, rowBytes(of: columns.buffer)), b.mul(b.zext(part, to: context.i64), columns.columnsPerPart * size))
    return b.offset(b.offset(address(columns.buffer), bytes: bytes), bytes: (columns.column + first) * size)
  }

  /// The address of an element, or of the first of neighbours, counted as the slice counts columns.
  func elementAddress(_ b: IRBuilder, _ slice: TileSlice, row: IRValue, column: IRValue) -> IRValue {
    let size = kernel[slice.tile].element.deviceByteCount
    guard let place = plan.places[slice.tile], place.isSwizzled else {
      return b.offset(rowAddress(b, slice, row: row), bytes: b.mul(column, size))
    }
    // Sixteen bytes each lie in the order that the row's number within its eight gives.
    let byte = b.mul(b.add(column, slice.first), size)
    let chunk = b.xor(b.and(b.lshr(byte, 4), 7), b.and(row, 7))
    let within = b.add(b.shl(chunk, 4), b.and(byte, 15))
    let atoms = b.mul(b.udiv(byte, place.rowStride), plan.rows * place.rowStride)
    return b.offset(
      b.offset(emitter.shared, bytes: b.add(b.add(atoms, b.mul(row, place.rowStride)), within)), bytes: place.offset)
  }

  /// What every row's first element of a slice is a multiple of in memory, in bytes, at most 16.
  func alignment(of slice: TileSlice) -> Int {
    let tile = kernel[slice.tile]
    let size = tile.element.deviceByteCount
    switch tile.home {
    case .scratch: return Self.alignment(rowStride(of: slice.tile), slice.first * size)
    case .columns(let base, let column, let columnsPerPart):
      return Self.alignment(rowStride(of: base), (column + slice.first) * size, columnsPerPart * size)
    case .joined(let kept, let own):
      return min(alignment(of: kept, first: slice.first), alignment(of: own, first: slice.first))
    case .window(let buffer, let column, let columnsPerPart):
      return alignment(
        of: BufferColumns(buffer, column: column, columnsPerPart: columnsPerPart), first: slice.first)
    }
  }

  private func alignment(of columns: BufferColumns, first: Int) -> Int {
    let size = emitter.program[columns.buffer].element.deviceByteCount
    return Self.alignment(
      rowBytes(of: columns.buffer), (columns.column + first) * size, columns.columnsPerPart * size)
  }

  /// The greatest power of two, at most 16, that divides all of them.
  static func alignment(_ bytes: Int...) -> Int {
    bytes.reduce(16) { known, bytes in bytes == 0 ? known : min(known, bytes & -bytes) }
  }

  // MARK: - Numbers

  /// Whether a tile is rows of codes that a caller gives or gets.
  func holdsCallersCodes(_ tile: TileID) -> Bool {
    guard case .window(let buffer, _, _) = kernel[tile].home else { return false }
    return emitter.program[buffer].holdsCallersCodes
  }

  /// fp32 numbers at an address; `areCallers` where codes are a caller's.
  func load(
    _ b: IRBuilder, _ pointer: IRValue, _ element: ElementType, lanes: Int, alignment: Int, invariant: Bool = false,
    areCallers: Bool = false
  ) -> IRValue {
    let (i32, f32) = (context.i32, context.f32)
    switch element {
    case .bf16:
      if lanes == 1 {
        let bits = b.load(context.i16, pointer, alignment: 2, invariant: invariant)
        return b.bitcast(b.shl(b.zext(bits, to: i32), 16), to: f32)
      }
      let words = words(b, pointer, count: lanes / 2, alignment: alignment, invariant: invariant)
      return vector(b, words.flatMap { word in [b.shl(word, 16), b.and(word, -65536)].map { b.bitcast($0, to: f32) } })
    case .f16: return b.fpext(b.load(context.f16, pointer, alignment: 2, invariant: invariant), to: f32)
    case .f8e4m3, .i8:
      return codes(
        b, pointer, element, lanes: lanes, alignment: alignment, invariant: invariant, areCallers: areCallers)
    default:
      if lanes == 1 { return b.load(f32, pointer, alignment: 4, invariant: invariant) }
      let words = words(b, pointer, count: lanes, alignment: alignment, invariant: invariant)
      return vector(b, words.map { b.bitcast($0, to: f32) })
    }
  }

  /// Words of 32 bits, four in one instruction where the alignment lets it.
  func words(_ b: IRBuilder, _ pointer: IRValue, count: Int, alignment: Int, invariant: Bool) -> [IRValue] {
    let together = max(1, min(4, count, alignment / 4))
    return stride(from: 0, to: count, by: together).flatMap { first in
      let place = b.offset(pointer, bytes: 4 * first)
      if together == 1 { return [b.load(context.i32, place, alignment: 4, invariant: invariant)] }
      let loaded = b.load(
        context.vector(context.i32, together), place, alignment: 4 * together, invariant: invariant)
      return (0..<together).map { b.extract(loaded, $0) }
    }
  }

  /// Writes fp32 numbers, rounded to the element; `areCallers` where codes are a caller's.
  func store(
    _ b: IRBuilder, _ value: IRValue, _ pointer: IRValue, _ element: ElementType, alignment: Int,
    areCallers: Bool = false
  ) {
    let numbers = scalars(b, value)
    switch element {
    case .bf16:
      if numbers.count == 1 { return b.store(bf16Bits(b, numbers[0]), pointer, alignment: 2) }
      let words = stride(from: 0, to: numbers.count, by: 2).map { pair(b, numbers[$0], numbers[$0 + 1]) }
      store(b, words: words, pointer, alignment: alignment)
    case .f8e4m3, .i8:
      if numbers.count == 1 {
        return b.store(
          b.trunc(codeWord(b, numbers, element, areCallers: areCallers), to: context.i8), pointer, alignment: 1)
      }
      let words = stride(from: 0, to: numbers.count, by: 4).map {
        codeWord(b, Array(numbers[$0..<$0 + 4]), element, areCallers: areCallers)
      }
      store(b, words: words, pointer, alignment: alignment)
    default: store(b, words: numbers.map { b.bitcast($0, to: context.i32) }, pointer, alignment: alignment)
    }
  }

  private func store(_ b: IRBuilder, words: [IRValue], _ pointer: IRValue, alignment: Int) {
    let together = max(1, min(4, words.count, alignment / 4))
    for first in stride(from: 0, to: words.count, by: together) {
      let place = b.offset(pointer, bytes: 4 * first)
      if together == 1 {
        b.store(words[first], place, alignment: 4)
      } else {
        b.store(vector(b, Array(words[first..<first + together])), place, alignment: 4 * together)
      }
    }
  }

  /// A number as an element holds it.
  func rounded(_ b: IRBuilder, _ value: IRValue, _ element: ElementType) -> IRValue {
    switch element {
    case .f32: value
    default:
      vector(
        b,
        scalars(b, value).map { number in
          switch element {
          case .bf16:
            return b.bitcast(b.shl(b.zext(bf16Bits(b, number), to: context.i32), 16), to: context.f32)
          case .f8e4m3: return b.float8(number)
          case .i8: return b.sitofp(integerCode(b, number), to: context.f32)
          default: return number
          }
        })
    }
  }

  /// The lanes of a vector; the number itself of one.
  func scalars(_ b: IRBuilder, _ value: IRValue) -> [IRValue] {
    value.type.isVector ? (0..<value.type.vectorCount).map { b.extract(value, $0) } : [value]
  }

  /// A vector of numbers; the number itself where there is one.
  func vector(_ b: IRBuilder, _ numbers: [IRValue]) -> IRValue {
    if numbers.count == 1 { return numbers[0] }
    let type = context.vector(numbers[0].type, numbers.count)
    return numbers.enumerated().reduce(type.poison()) { b.insert($0, $1.element, $1.offset) }
  }
}
