import LLVMKit
import TensorIR
import TileIR

// Rows of tables by index, read where they are used: decoded sixteen elements at a time, and asked for some rows ahead.
extension KernelEmitter {
  /// What gives the numbers of the buffer's row `index`; a quantized row's scale and bias are read here.
  func rowReader(
    _ b: IRBuilder, _ buffer: BufferID, _ index: IRValue, width: Int
  ) -> (IRBuilder, Columns) -> IRValue {
    let row = b.offset(address(b, buffer), bytes: b.mul(index, rowByteCount(of: buffer)))
    let declared = emitter.program[buffer]
    guard case .weight(_, .coded(let format)) = declared.home else {
      return { b, columns in self.load(b, row, columns, declared.element) }
    }
    return decoder(b, row, format, width: width)
  }

  private func rowByteCount(of buffer: BufferID) -> Int {
    emitter.program[buffer].columns * emitter.program[buffer].element.byteCount
  }

  // MARK: - Decoding

  /// What gives the numbers of a row that begins at `bytes`: code * scale + bias, both rounded to fp32.
  private func decoder(
    _ b: IRBuilder, _ bytes: IRValue, _ format: TableFormat, width: Int
  ) -> (IRBuilder, Columns) -> IRValue {
    let (scale, bias) = scaleAndBias(b, bytes, format, width: width)
    func number(_ b: IRBuilder, _ codes: IRValue) -> IRValue {
      let lanes = codes.type.vectorCount
      let product = b.fmul(b.uitofp(codes, to: codes.type.withElement(context.f32)), b.splat(scale, lanes))
      return b.fadd(product, b.splat(bias, lanes))
    }
    guard format == .int4, emitter.level.floatLanes == Self.lanes, width > 1 else {
      return { b, columns in number(b, self.codes(b, bytes, format, columns, width: width)) }
    }
    // A row has sixteen numbers at most, and a register holds them: codes are indices into it.
    let numbers = number(b, context.vector(context.i32, Self.lanes).constants(Array(0..<Self.lanes)))
    return { b, columns in
      let packed = self.loadCodes(b, bytes, format, columns, width: width)
      return b.intrinsic("llvm.x86.avx512.permvar.sf.512", [numbers, self.halfByteIndices(b, packed)])
    }
  }

  private func scaleAndBias(
    _ b: IRBuilder, _ bytes: IRValue, _ format: TableFormat, width: Int
  ) -> (scale: IRValue, bias: IRValue) {
    let type = format == .int8 ? context.f32 : context.f16
    let size = format == .int8 ? 4 : 2
    let end = format.byteCount(width: width) - 2 * size
    let numbers = [end, end + size].map { offset in
      let number = b.load(type, b.offset(bytes, bytes: offset), alignment: 1)
      return format == .int8 ? number : b.fpext(number, to: context.f32)
    }
    return (numbers[0], numbers[1])
  }

  /// The codes of these columns, in 32 bits each.
  private func codes(
    _ b: IRBuilder, _ bytes: IRValue, _ format: TableFormat, _ columns: Columns, width: Int
  ) -> IRValue {
    let lanes = columns.lanes
    let i32 = lanes == 1 ? context.i32 : context.vector(context.i32, lanes)
    let codes = loadCodes(b, bytes, format, columns, width: width)
    switch format {
    case .int8: return b.zext(codes, to: i32)
    case .int4:
      if lanes == 1 { return b.zext(b.and(codes, 15), to: i32) }
      let halves = b.shuffle(b.and(codes, 15), b.lshr(codes, 4), (0..<lanes).map { $0 / 2 + ($0 % 2) * lanes / 2 })
      return b.zext(halves, to: i32)
    }
  }

  /// The bytes that hold the codes of these columns; what else they hold at the end of a row is undefined.
  private func loadCodes(
    _ b: IRBuilder, _ bytes: IRValue, _ format: TableFormat, _ columns: Columns, width: Int
  ) -> IRValue {
    let (first, count, rest) =
      format == .int8
      ? (columns.first, columns.lanes, width % Self.lanes)
      : (b.lshr(columns.first, 1), (columns.lanes + 1) / 2, (width % Self.lanes + 1) / 2)
    let pointer = b.offset(bytes, bytes: first)
    if count == 1 { return b.load(context.i8, pointer, alignment: 1) }
    let type = context.vector(context.i8, count)
    guard columns.mask != nil else { return b.load(type, pointer, alignment: 1) }
    // Byte by byte, since narrow loads under a mask are no instructions of every level.
    return (0..<rest).reduce(type.null()) {
      b.insert($0, b.load(context.i8, b.offset(pointer, bytes: $1), alignment: 1), $1)
    }
  }

  /// Sixteen numbers of 32 bits whose lowest four are those of the sixteen halves of eight bytes, in their order.
  private func halfByteIndices(_ b: IRBuilder, _ packed: IRValue) -> IRValue {
    let lanes = Array(0..<Self.lanes)
    let all = b.splat(b.bitcast(packed, to: context.i64), Self.lanes / 2)
    let words = context.vector(context.i32, Self.lanes)
    if emitter.level.features.contains(where: { $0.name == "avx512vbmi" }) {
      // Each byte of the result takes eight bits from a place of its own; only the lowest byte of a word counts.
      let places = lanes.flatMap { [4 * $0, 0, 0, 0] }
      let bytes = context.vector(context.i8, 4 * Self.lanes)
      let picked = b.intrinsic(
        "llvm.x86.avx512.pmultishift.qb.512", [bytes.constants(places), b.bitcast(all, to: bytes)])
      return b.bitcast(picked, to: words)
    }
    let halves = b.shuffle(b.bitcast(all, to: words), lanes.map { $0 / 8 })
    return b.lshr(halves, words.constants(lanes.map { 4 * ($0 % 8) }))
  }

  // MARK: - Asking ahead

  /// A step on the way of rows into a core: how many rows ahead they are asked for, into which cache (3: the nearest),
  /// and the size of tables, in bytes, and of rows, in cache lines, that it pays for.
  private struct Step {
    var ahead: Int
    var locality: Int
    var leastTable: Int
    var mostLines: Int
  }

  /// Memory answers about as late as sixteen rows take. Lines on their way into the first-level cache keep other reads
  /// and writes from it, so they come to the second level first; from there they are as late as three rows. What goes
  /// on for longer than some lines processors fetch by themselves once they see it begin.
  private static let steps = [
    Step(ahead: 16, locality: 2, leastTable: 1 << 20, mostLines: .max),
    Step(ahead: 3, locality: 3, leastTable: 32 << 10, mostLines: linesAhead),
  ]
  private static let linesAhead = 8

  /// Asks for what the first rows of a block read from tables.
  func askForFirstRows(_ b: inout IRBuilder, of expression: Expression, _ count: IRValue) {
    for step in Self.steps {
      let tables = tables(in: expression, for: step)
      guard !tables.isEmpty else { continue }
      forRows(&b, b.smin(count, step.ahead)) { b, row in ask(b, for: row, of: tables, step) }
    }
  }

  /// Asks for what rows after this one read from tables.
  func askForRows(_ b: inout IRBuilder, of expression: Expression, after row: IRValue, _ count: IRValue) {
    for step in Self.steps {
      let tables = tables(in: expression, for: step)
      guard !tables.isEmpty else { continue }
      let later = b.add(row, step.ahead)
      b.ifThen(b.icmp(.slt, later, count)) { b in ask(b, for: later, of: tables, step) }
    }
  }

  private func ask(_ b: IRBuilder, for row: IRValue, of tables: [(BufferID, IndexVectorID)], _ step: Step) {
    for (buffer, vector) in tables {
      let index = b.load(context.i64, b.element(indexVector(b, vector), context.i64, row))
      let bytes = b.offset(address(b, buffer), bytes: b.mul(index, rowByteCount(of: buffer)))
      for line in 0..<min(lines(of: buffer), Self.linesAhead) {
        b.prefetch(b.offset(bytes, bytes: 64 * line), locality: step.locality)
      }
    }
  }

  /// Whether indices were computed from places in sequences: their rows follow each other, and processors fetch them
  /// by themselves.
  private func arePositions(_ vector: IndexVectorID) -> Bool {
    kernel.statements.contains { statement in
      guard case .indices(vector, .loaded(let buffer, _, _)) = statement else { return false }
      return emitter.program.kernels.flatMap(\.statements).contains {
        if case .storeIndices(into: buffer, _) = $0 { true } else { false }
      }
    }
  }

  private func lines(of buffer: BufferID) -> Int { (rowByteCount(of: buffer) + 63) / 64 }

  private func tables(in expression: Expression, for step: Step) -> [(BufferID, IndexVectorID)] {
    switch expression {
    case .gathered(let buffer, let vector):
      let size = (emitter.program[buffer].rows.dimension.extent ?? 0) * rowByteCount(of: buffer)
      let pays = size > step.leastTable && lines(of: buffer) <= step.mostLines && !arePositions(vector)
      return pays ? [(buffer, vector)] : []
    case .unary(_, let operand), .unlessIndex(_, _, let operand), .whereBits(_, _, let operand):
      return tables(in: operand, for: step)
    case .binary(_, let left, let right): return tables(in: left, for: step) + tables(in: right, for: step)
    case .tile, .product, .rowValue, .columnValue, .element, .constant, .scalar, .positionBias, .timeBias: return []
    }
  }
}
