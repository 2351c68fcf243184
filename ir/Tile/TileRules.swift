import TensorIR

// Rules of a kernel's tiles: where they lie, and what their rows are.
extension KernelVerifier {
  func problem(of tile: Tile) -> String? {
    if !(1...largestNumber).contains(tile.columns) { return "columns must lie in 1...2^40, found \(tile.columns)" }
    if case .fixed(let count) = tile.rows, !(1...largestNumber).contains(count) {
      return "rows must lie in 1...2^40, found \(count)"
    }
    if tile.rows == .keys, offsets == nil { return "a tile of keys needs a kernel over sequences" }
    switch tile.home {
    case .scratch(let capacity, let rowStride):
      if !tile.element.isTileElement {
        return "elements must be f32, bf16, f8e4m3 or i8, found \(tile.element.rawValue)"
      }
      if tile.isGrouped, tile.element != .bf16 { return "only bf16 is grouped, found \(tile.element.rawValue)" }
      if rowStride < tile.columns { return "a row has \(tile.columns) columns, but room for \(rowStride)" }
      if byteCount(capacity, rowStride, tile.element.workingByteCount) == nil {
        return "\(capacity) x \(rowStride) must take at most 2^48 bytes"
      }
      let needed =
        switch tile.rows {
        case .block: block
        case .keys: keyStep
        case .fixed(let count): count
        }
      if capacity < needed { return "has up to \(needed) rows, but room for \(capacity)" }
      // Code for keys works on whole vectors of queries, and panels of them.
      if tile.rows == .keys, tile.columns != block || block % 32 != 0 {
        return "a tile of keys in scratch must have the block's rows as columns, a multiple of 32; "
          + "found \(tile.columns) columns and blocks of \(block)"
      }
      return nil
    case .window(let id, let column, let columnsPerPart):
      guard program.exists(id) else { return "there is no buffer \(id.index)" }
      return problem(ofWindow: tile, program.program[id], id, column, columnsPerPart)
    case .joined(let kept, let own): return problem(ofJoined: tile, kept, own)
    case .columns(let id, let column, let columnsPerPart):
      return problem(ofColumns: tile, of: id, column, columnsPerPart)
    }
  }

  /// Whether `count` columns from `column` on lie within `width` ones for every part.
  private func fits(_ column: Int, _ columnsPerPart: Int, count: Int, width: Int) -> Bool {
    guard (0...largestNumber).contains(column), (0...largestNumber).contains(columnsPerPart),
      let last = byteCount(max(kernel.parts, 1) - 1, columnsPerPart)
    else { return false }
    return column + last + count <= width
  }

  private func problem(ofColumns tile: Tile, of id: TileID, _ column: Int, _ columnsPerPart: Int) -> String? {
    guard kernel.tiles.indices.contains(id.index) else { return "there is no tile \(id.index)" }
    let base = kernel[id]
    let name = "%\(TextName.quoted(base.name))"
    guard case .scratch = base.home, base.rows != .keys else { return "\(name) must be a tile in scratch, not of keys" }
    if base.rows != tile.rows { return "\(name) has other rows" }
    if base.element != tile.element || base.isGrouped != tile.isGrouped { return "\(name) has other elements" }
    return fits(column, columnsPerPart, count: tile.columns, width: base.columns)
      ? nil : "reaches past the \(base.columns) columns of \(name)"
  }

  private func problem(ofJoined tile: Tile, _ kept: BufferColumns, _ own: BufferColumns) -> String? {
    for columns in [kept, own] where !program.exists(columns.buffer) {
      return "there is no buffer \(columns.buffer.index)"
    }
    guard tile.rows == .keys, let offsets = kernel.keys?.kept else {
      return "rows of two buffers are keys, in a kernel whose rows were put behind those of others"
    }
    if kept.columnsPerPart != own.columnsPerPart {
      return "columns of both buffers move alike with the part, found \(kept.columnsPerPart) and \(own.columnsPerPart)"
    }
    for (columns, rows, word) in [(kept, program.cutRows[offsets], "kept"), (own, rows, "own")] {
      let buffer = program.program[columns.buffer]
      var stored = tile
      if let scales = columns.scales {
        stored.element = .f8e4m3
        if let problem = problem(ofScales: scales, of: columns.buffer) { return problem }
      }
      if let problem = problem(ofWindow: stored, buffer, columns.buffer, columns.column, columns.columnsPerPart) {
        return problem
      }
      if let rows, buffer.rows != Extent(rows) {
        return "the \(word) rows are \(rows), but \(program.name(columns.buffer)) has \(buffer.rows.dimension)"
      }
    }
    return nil
  }

  /// Why a buffer has no scale for each row of codes; nil where it has.
  private func problem(ofScales scales: BufferID, of codes: BufferID) -> String? {
    guard program.exists(scales) else { return "there is no buffer \(scales.index)" }
    let (buffer, rows) = (program.program[scales], program.program[codes].rows)
    if !program.program[codes].holdsCallersCodes { return "\(program.name(codes)) must hold codes that a caller gives" }
    return buffer.element == .f32 && buffer.columns == 1 && buffer.rows == rows
      ? nil
      : "\(program.name(scales)) must be \(rows.dimension) x 1 x f32, a scale for each row of \(program.name(codes))"
  }

  private func problem(
    ofWindow tile: Tile, _ buffer: Buffer, _ id: BufferID, _ column: Int, _ columnsPerPart: Int
  ) -> String? {
    let name = program.name(id)
    if !buffer.element.isTileElement {
      return "\(name) must be f32, bf16, f8e4m3 or i8, found \(buffer.element.rawValue)"
    }
    if tile.element != buffer.element { return "has other elements than \(name): \(buffer.element.rawValue)" }
    if tile.isGrouped { return "rows of \(name) lie one by one; only a tile in scratch has groups" }
    if case .weight(_, let packing) = buffer.home, packing != .plain {
      return "\(name) is packed; a window needs rows as they are"
    }
    guard fits(column, columnsPerPart, count: tile.columns, width: buffer.columns) else {
      return "reaches past the \(buffer.columns) columns of \(name)"
    }
    switch tile.rows {
    case .block:
      if let rows, buffer.rows != Extent(rows) {
        return "the kernel's rows are \(rows), but \(name) has \(buffer.rows.dimension)"
      }
    case .keys:
      if case .window = tile.home, let keyRows, buffer.rows != Extent(keyRows) {
        return "the rows of keys are \(keyRows), but \(name) has \(buffer.rows.dimension)"
      }
    case .fixed(let count):
      guard let extent = buffer.rows.dimension.extent, count <= extent else {
        return "has \(count) rows, which \(name) need not have"
      }
    }
    // Parts run at once: what they write must lie apart.
    if targets.contains(id), parts > 1, columnsPerPart < tile.columns {
      return "the parts of a kernel write \(name), so columns must lie apart: at least \(tile.columns) a part, "
        + "found \(columnsPerPart)"
    }
    return nil
  }
}
