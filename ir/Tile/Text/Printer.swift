import TensorIR

extension Program: CustomStringConvertible {
  /// The program in its text form, which `TileIRParser` reads back to an equal program.
  public var text: String { ProgramPrinter(program: self).text }

  /// The text form.
  public var description: String { text }
}

/// Writes a program down. Takes unsound programs too, so that one can look at what the verifier refuses.
struct ProgramPrinter {
  let program: Program

  var text: String {
    var text =
      "program \(TextName.quoted(program.name))(\(program.dimensions.map(TextName.quoted).joined(separator: ", ")))\n"
    func section(_ lines: [String]) {
      if !lines.isEmpty { text += "\n" + lines.map { $0 + "\n" }.joined() }
    }
    section(program.derivedDimensions.map { "dimension \(TextName.quoted($0.name)) at most \($0.atMost)" })
    section(program.buffers.map(declaration))
    section(program.scalars.map(declaration))
    if !program.setup.isEmpty { section(["setup {"] + program.setup.map { "  " + self.text(of: $0) } + ["}"]) }
    for kernel in program.kernels { section(KernelPrinter(printer: self, kernel: kernel).lines) }
    return text
  }

  // MARK: - Names

  func name(_ buffer: BufferID) -> String {
    guard program.buffers.indices.contains(buffer.index) else { return "@\"buffer \(buffer.index)\"" }
    return "@" + TextName.quoted(program.buffers[buffer.index].name)
  }

  func name(_ scalar: ScalarID) -> String {
    guard program.scalars.indices.contains(scalar.index) else { return "@\"scalar \(scalar.index)\"" }
    return "@" + TextName.quoted(program.scalars[scalar.index].name)
  }

  /// `word(first, label = second, ...)`, without what is nil.
  static func call(_ word: String, _ arguments: [(label: String?, value: String?)]) -> String {
    let written = arguments.compactMap { label, value in value.map { (label.map { "\($0) = " } ?? "") + $0 } }
    return "\(word)(\(written.joined(separator: ", ")))"
  }

  // MARK: - Declarations

  private func declaration(_ buffer: Buffer) -> String {
    let rows = buffer.rows.plus == 0 ? "\(buffer.rows.dimension)" : "(\(buffer.rows.dimension) + \(buffer.rows.plus))"
    let type = "\(rows) x \(buffer.columns) x \(buffer.element.rawValue)"
    return "buffer @\(TextName.quoted(buffer.name)) : \(type) = \(text(of: buffer))"
  }

  private func text(of buffer: Buffer) -> String {
    switch buffer.home {
    case .input(let index): return "input \(index)"
    case .output(let index): return "output \(index)"
    case .weight(let name, let packing):
      // A weight's first buffer has its name already.
      let own = name == buffer.name ? "weight" : "weight \(TextName.literal(name))"
      switch packing {
      case .plain: return own
      case .reversed: return own + " reversed"
      case .coded(let format): return own + " \(format.rawValue)"
      case .codedPanels(let format, let width): return own + " \(format.rawValue) panels(\(width))"
      case .fragments(let transposed, let isFNUZ):
        return own + (transposed ? " transposed" : "") + (isFNUZ ? " fnuz" : "") + " fragments"
      case .matrices(let transposed): return own + (transposed ? " transposed" : "") + " matrices"
      case .panels(let width, let transposed): return own + (transposed ? " transposed" : "") + " panels(\(width))"
      }
    case .table(let numbers): return "table [\(wrapped(numbers))]"
    case .workspace(let slot): return "workspace slot \(slot)"
    }
  }

  /// Numbers with commas, on lines of their own where they are many.
  private func wrapped(_ numbers: [Float]) -> String {
    let columns = 10
    let written = numbers.map(TextName.number)
    if written.count <= columns { return written.joined(separator: ", ") }
    return stride(from: 0, to: written.count, by: columns).map { first in
      "\n  " + written[first..<min(first + columns, written.count)].joined(separator: ", ")
    }.joined(separator: ",") + "\n"
  }

  private func declaration(_ scalar: Scalar) -> String {
    "scalar @\(TextName.quoted(scalar.name)) = "
      + {
        switch scalar.formula {
        case .reciprocalOfLongestSequence(let offsets):
          Self.call("reciprocal_of_longest_sequence", [(nil, name(offsets))])
        case .reciprocalOfLongestHistoryPlusTargets(let offsets, let targets):
          Self.call(
            "reciprocal_of_longest_history_plus_targets", [(nil, name(offsets)), ("targets", targets.map(name))])
        }
      }()
  }

  private func text(of step: SetupStep) -> String {
    switch step {
    case .checkOffsets(let offsets, let rows):
      Self.call("check_offsets", [(nil, name(offsets)), ("rows", rows.description)])
    case .checkTargets(let targets, let offsets):
      Self.call("check_targets", [(nil, name(targets)), ("offsets", name(offsets))])
    case .checkIDs(let ids, let entries):
      Self.call("check_ids", [(nil, name(ids)), ("entries", "\(entries)")])
    case .checkLengths(let offsets, let maximum):
      Self.call("check_lengths", [(nil, name(offsets)), ("maximum", "\(maximum)")])
    case .selectOffsets(let selection, let offsets, let targets, let into, let extent):
      "\(name(into)) = "
        + Self.call(
          "select_offsets",
          [
            (nil, selection.text), ("offsets", name(offsets)), ("targets", targets.map(name)),
            ("defines", TextName.quoted(extent)),
          ])
    case .extendOffsets(let addition, let offsets, let targets, let into, let extent):
      "\(name(into)) = "
        + Self.call(
          "extend_offsets",
          [
            (nil, addition.text), ("offsets", name(offsets)), ("targets", targets.map(name)),
            ("defines", TextName.quoted(extent)),
          ])
    case .lengths(let offsets, let into): "\(name(into)) = " + Self.call("lengths", [(nil, name(offsets))])
    case .blockTable(let offsets, let block, let into):
      "\(name(into)) = " + Self.call("block_table", [(nil, name(offsets)), ("block", block.arguments)])
    }
  }
}

/// Writes a kernel down.
private struct KernelPrinter {
  let printer: ProgramPrinter
  let kernel: Kernel

  private var height: String {
    switch kernel.domain {
    case .rows(_, let block, _): "\(block) at a time"
    case .sequences(_, _, _, let block, _): block.text
    }
  }

  var lines: [String] {
    let summary = kernel.summary.isEmpty ? "" : " \(TextName.literal(kernel.summary))"
    let keys =
      kernel.keys.map {
        ", selected from \(printer.name($0.offsets)) by \($0.selection.text)"
          + ($0.continuesHistory ? " as history" : "") + ($0.kept.map { " behind \(printer.name($0))" } ?? "")
      } ?? ""
    let head = "kernel \(TextName.quoted(kernel.name))\(summary) over \(domain)"
    var lines = ["\(head), \(height)\(keys) {"]
    lines += kernel.tiles.map { "  tile %\(TextName.quoted($0.name)) : " + text(of: $0) }
    lines += kernel.indexVectors.map { "  indices %\(TextName.quoted($0))" }
    if lines.count > 1, !kernel.body.isEmpty { lines.append("") }
    for statement in kernel.body { lines += self.lines(statement).map { "  " + $0 } }
    return lines + ["}"]
  }

  private var domain: String {
    switch kernel.domain {
    case .rows(let dimension, _, 1): dimension.description
    case .rows(let dimension, _, let parts):
      ProgramPrinter.call("rows", [(nil, dimension.description), ("parts", "\(parts)")])
    case .sequences(let offsets, let targets, let table, _, let parts):
      ProgramPrinter.call(
        "sequences",
        [
          (nil, printer.name(offsets)), ("targets", targets.map(printer.name)), ("table", printer.name(table)),
          ("parts", "\(parts)"),
        ])
    }
  }

  private func text(of tile: Tile) -> String {
    let rows =
      switch tile.rows {
      case .block: "block"
      case .keys: "keys"
      case .fixed(let count): "\(count)"
      }
    let home: String
    switch tile.home {
    case .scratch(let capacity, let rowStride):
      home = "scratch(\(capacity) x \(rowStride))" + (tile.isGrouped ? " grouped" : "")
    case .window(let buffer, let column, let columnsPerPart):
      home = printer.name(buffer) + from(column, columnsPerPart)
    case .joined(let kept, let own):
      home = [kept, own].map { columns in
        printer.name(columns.buffer) + from(columns.column, columns.columnsPerPart)
          + (columns.scales.map { " scaled by \(printer.name($0))" } ?? "")
      }
      .joined(separator: " then ")
    case .columns(let base, let column, let columnsPerPart):
      let isThere = kernel.tiles.indices.contains(base.index)
      let tile = isThere ? TextName.quoted(kernel[base].name) : "\"tile \(base.index)\""
      home = "%\(tile)" + from(column, columnsPerPart)
    }
    // A window has its buffer's elements.
    let element = if case .scratch = tile.home, tile.element != .f32 { " x \(tile.element.rawValue)" } else { "" }
    return "\(rows) x \(tile.columns)\(element) in \(home)"
  }

  private func from(_ column: Int, _ columnsPerPart: Int) -> String {
    (column == 0 && columnsPerPart == 0 ? "" : " from column \(column)")
      + (columnsPerPart == 0 ? "" : " + part * \(columnsPerPart)")
  }

  // MARK: - Names

  private func name(_ slice: TileSlice) -> String {
    let columns = "[\(slice.first) : \(slice.first &+ slice.count)]"
    guard kernel.tiles.indices.contains(slice.tile.index) else { return "%\"tile \(slice.tile.index)\"\(columns)" }
    let tile = kernel[slice.tile]
    return "%\(TextName.quoted(tile.name))" + (slice.first == 0 && slice.count == tile.columns ? "" : columns)
  }

  private func name(_ vector: IndexVectorID) -> String {
    guard kernel.indexVectors.indices.contains(vector.index) else { return "%\"indices \(vector.index)\"" }
    return "%\(TextName.quoted(kernel.indexVectors[vector.index]))"
  }

  // MARK: - Statements

  private func lines(_ statement: Statement) -> [String] {
    let loop: String
    switch statement {
    case .forKeys(let mask, let step, _): loop = "for keys of \(mask.text), \(step) at a time {"
    case .forParts(let count, _): loop = "for \(count) parts {"
    default: return [line(statement)]
    }
    return [loop] + statement.inner.flatMap(lines).map { "  " + $0 } + ["}"]
  }

  private func line(_ statement: Statement) -> String {
    switch statement {
    case .map(let into, let expression, let masked):
      return "\(name(into)) = \(text(of: expression))" + (masked ? " where visible" : "")
    case .reduce(let into, let sum, let columns):
      return "\(name(into)) = sum over \(columns) columns of \(text(of: sum))"
    case .maximum(let into, let expression, let columns):
      return "\(name(into)) = maximum over \(columns) columns of \(text(of: expression))"
    case .contract(let contraction):
      let sign = contraction.accumulate ? "+=" : "="
      let value = text(of: contraction.finish ?? .product, product: text(of: contraction))
      return "\(name(contraction.into)) \(sign) \(value)" + (contraction.masked ? " where visible" : "")
    case .transpose(let into, let from, let factor):
      return "\(name(into)) = "
        + ProgramPrinter.call("transpose", [(nil, name(from)), ("factor", TextName.number(factor))])
    case .indices(let vector, let source): return "\(name(vector)) = \(text(of: source))"
    case .gather(let into, let from, let first, let indices, let keepMissing):
      let call = ProgramPrinter.call(
        "gather",
        [(nil, printer.name(from)), ("rows", name(indices)), ("column", first == 0 ? nil : "\(first)")])
      return "\(name(into)) = \(call)" + (keepMissing ? " keep missing" : "")
    case .gatherIntegers(let into, let from, let indices, let missing):
      let otherwise: String? = if case .number(let number) = missing { "\(number)" } else { nil }
      let call = ProgramPrinter.call(
        "gather", [(nil, printer.name(from)), ("rows", name(indices)), ("otherwise", otherwise)])
      return "\(printer.name(into)) = \(call)" + (missing == .kept ? " keep missing" : "")
    case .nextIntegers(let into, let from, let last):
      return "\(printer.name(into)) = "
        + ProgramPrinter.call("next", [(nil, printer.name(from)), ("last", printer.name(last))])
    case .storeIndices(let into, let vector): return "\(printer.name(into)) = \(name(vector))"
    case .clear(let slice): return "clear \(name(slice))"
    case .best(let best):
      return "\(name(best.scores)), \(printer.name(best.ids)) = "
        + ProgramPrinter.call(
          "best_columns",
          [
            (nil, name(best.left)), (nil, printer.name(best.right)), ("products", name(best.products)),
            ("first", best.firstID == 0 ? nil : "\(best.firstID)"), ("without", best.seen.map { printer.name($0.ids) }),
            ("of", best.seen.map { printer.name($0.offsets) }),
          ])
    case .merge(let merged):
      return "\(name(merged.scores)), \(printer.name(merged.ids)) = "
        + ProgramPrinter.call(
          "merge",
          [(nil, printer.name(merged.partScores)), (nil, printer.name(merged.partIDs)), ("parts", "\(merged.parts)")])
    case .sort(let into, let from, let offsets, let modulo):
      return "\(printer.name(into)) = "
        + ProgramPrinter.call(
          "sort",
          [
            (nil, printer.name(from)), ("offsets", printer.name(offsets)), ("modulo", modulo.map { "\($0)" }),
          ])
    case .forKeys, .forParts: return ""
    }
  }

  private func text(of contraction: Contraction) -> String {
    let left = contraction.left
    let right: String
    switch contraction.right {
    case .tile(let slice): right = name(slice)
    case .panels(let buffer, let firstRow, let rows, let firstColumn):
      let all = firstRow == 0 && rows == left.count ? "" : "[\(firstRow) : \(firstRow &+ left.count)] of \(rows)"
      right = printer.name(buffer) + all + from(firstColumn, 0)
    }
    return "contract(\(contraction.leftTransposed ? "transposed " : "")\(name(left)), \(right))"
  }

  private func text(of source: IndexSource) -> String {
    switch source {
    case .loaded(let buffer, let entries, .modulo):
      ProgramPrinter.call("load", [(nil, printer.name(buffer)), ("modulo", "\(entries)")])
    case .loaded(let buffer, let entries, .unchanged):
      ProgramPrinter.call("load", [(nil, printer.name(buffer)), ("below", entries == .max ? nil : "\(entries)")])
    case .loaded(let buffer, let entries, .fallback(let fallback)):
      ProgramPrinter.call(
        "load",
        [
          (nil, printer.name(buffer)), ("below", entries == .max ? nil : "\(entries)"),
          ("otherwise", "\(fallback)"),
        ])
    case .expression(let expression): "index \(expression)"
    case .beforeSelection(let selection, let offsets, let targets):
      ProgramPrinter.call(
        "before_selection",
        [(nil, selection.text), ("offsets", printer.name(offsets)), ("targets", targets.map(printer.name))])
    case .afterSelection(let selection, let selected):
      ProgramPrinter.call("after_selection", [(nil, selection.text), ("selected", printer.name(selected))])
    case .beforeAddition(let addition, let added, let offsets):
      ProgramPrinter.call(
        added ? "added_rows" : "before_addition", [(nil, addition.text), ("offsets", printer.name(offsets))])
    case .afterAddition(let addition, let extended):
      ProgramPrinter.call("after_addition", [(nil, addition.text), ("extended", printer.name(extended))])
    case .sequence(let position): ProgramPrinter.call("sequence", [("position", "\(position)")])
    case .pickedRow(let row, let offsets, let lengths, let minimum):
      ProgramPrinter.call(
        "row_of_sequence",
        [
          (nil, printer.name(offsets)), ("row", "\(row)"), ("lengths", lengths.map(printer.name)),
          ("minimum", lengths.map { _ in "\(minimum)" }),
        ])
    case .lastRow(let offsets): ProgramPrinter.call("last_row", [(nil, printer.name(offsets))])
    case .bucket(let times, let queries, let thresholds):
      ProgramPrinter.call(
        "bucket",
        [(nil, printer.name(times)), ("queries", printer.name(queries)), ("thresholds", printer.name(thresholds))])
    case .calendar(let times, let unit, let count):
      ProgramPrinter.call("calendar", [(nil, printer.name(times)), ("unit", "\(unit)"), ("count", "\(count)")])
    case .marked(let vector, let bits, let values, let least):
      ProgramPrinter.call(
        "mark",
        [(nil, name(vector)), ("bits", "\(bits)"), ("values", printer.name(values)), ("least", "\(least)")])
    }
  }

  // MARK: - Expressions

  /// How tightly an expression holds together: sums 1, products 2, everything else 3.
  private func strength(_ expression: Expression) -> Int {
    switch expression {
    case .binary(.add, _, _), .binary(.subtract, _, _): 1
    case .binary(.multiply, _, _), .binary(.divide, _, _): 2
    default: 3
    }
  }

  /// `product` is what stands for the product in an expression that finishes one.
  private func text(of expression: Expression, atLeast least: Int = 1, product: String = "product") -> String {
    let strength = strength(expression)
    let text = bareText(of: expression, strength, product)
    return strength < least ? "(\(text))" : text
  }

  private func bareText(of expression: Expression, _ strength: Int, _ product: String) -> String {
    func text(of operand: Expression, atLeast least: Int = 1) -> String {
      self.text(of: operand, atLeast: least, product: product)
    }
    switch expression {
    case .product: return product
    case .tile(let slice): return name(slice)
    case .rowValue(let slice): return "row(\(name(slice)))"
    case .columnValue(let buffer, let first):
      return ProgramPrinter.call(
        "column", [(nil, printer.name(buffer)), ("from", first == 0 ? nil : "\(first)")])
    case .gathered(let buffer, let vector): return "\(printer.name(buffer))[\(name(vector))]"
    case .element(let buffer, let index): return "\(printer.name(buffer))[\(index)]"
    case .constant(let number): return TextName.number(number)
    case .scalar(let scalar): return printer.name(scalar)
    case .unary(let function, let operand): return "\(function.rawValue)(\(text(of: operand)))"
    case .binary(let function, let left, let right):
      // Operators of equal strength group from the left.
      let (first, second) = (text(of: left, atLeast: strength), text(of: right, atLeast: strength + 1))
      switch function {
      case .add: return "\(first) + \(second)"
      case .subtract: return "\(first) - \(second)"
      case .multiply: return "\(first) * \(second)"
      case .divide: return "\(first) / \(second)"
      case .maximum, .nonzero: return "\(function.rawValue)(\(text(of: left)), \(text(of: right)))"
      }
    case .unlessIndex(let vector, let id, let operand):
      return "unless(\(name(vector)) = \(id), \(text(of: operand)))"
    case .whereBits(let vector, let mask, let operand):
      return "bits(\(name(vector)), \(mask), \(text(of: operand)))"
    case .positionBias(let weights, let reference):
      return ProgramPrinter.call("position_bias", [(nil, printer.name(weights)), ("reference", "\(reference)")])
    case .timeBias(let bias):
      return ProgramPrinter.call(
        "time_bias",
        [
          (nil, printer.name(bias.weights)), ("thresholds", printer.name(bias.thresholds)),
          ("queries", printer.name(bias.queryTimes)), ("keys", printer.name(bias.keyTimes)),
        ])
    }
  }
}

extension BlockHeight {
  /// As a step of the setup has it: "128, short = 64, below = 1024".
  var arguments: String { "\(most)" + (short.map { ", short = \($0.rows), below = \($0.below)" } ?? "") }
  /// As it stands in a kernel's head: "128 at a time, 64 below 1024 rows".
  public var text: String { "\(most) at a time" + (short.map { ", \($0.rows) below \($0.below) rows" } ?? "") }
}
