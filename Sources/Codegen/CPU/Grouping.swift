import LLVMKit
import TensorIR
import TileIR

/// How rows of bf16 that lie one by one are brought into the panels of pairs that a contraction streams through.
struct GroupingShape: Hashable {
  var columns: Int
  var panelColumns: Int
  /// Bytes from row to row, and from panel to panel.
  var sourceStride: Int
  var panelStride: Int
}

extension LevelEmitter {
  /// `void (source, target, rows)`: target [panel][rows / 2][panel's columns][2]; a last row without a partner gets zeros.
  func emitGrouping(_ shape: GroupingShape, name: String) -> IRFunction {
    let i64 = context.i64
    let function = addFunction(name, [context.pointer, context.pointer, i64], returns: context.void, noInline: true)
    let (source, target, rows) = (function.parameters[0], function.parameters[1], function.parameters[2])
    var b = IRBuilder(at: function.appendBlock("entry"))
    let lanes = KernelEmitter.lanes
    let vector = context.vector(context.i16, lanes)

    func emitGroup(_ b: inout IRBuilder, _ first: IRValue, _ second: IRValue?, group: IRValue) {
      for column in stride(from: 0, to: shape.columns, by: lanes) {
        let count = min(lanes, shape.columns - column)
        func row(_ b: IRBuilder, _ pointer: IRValue) -> IRValue {
          let place = b.offset(pointer, bytes: column * 2)
          if count == lanes { return b.load(vector, place, alignment: 2) }
          let mask = context.vector(context.i1, lanes).constants((0..<lanes).map { $0 < count ? 1 : 0 })
          return b.maskedLoad(vector, place, mask: mask, alignment: 2)
        }
        let order = (0..<2 * lanes).map { $0 / 2 + ($0 % 2) * lanes }
        let pairs = b.shuffle(row(b, first), second.map { row(b, $0) } ?? vector.null(), order)
        let (panel, place) = column.quotientAndRemainder(dividingBy: shape.panelColumns)
        let out = b.offset(target, bytes: b.mul(group, shape.panelColumns * 4))
        b.store(pairs, b.offset(out, bytes: panel * shape.panelStride + place * 4), alignment: 4)
      }
    }
    let groups = b.lshr(rows, 1)
    b.loop(from: i64.constant(0), to: groups, name: "group", hint: .asWritten) { b, group in
      let first = b.offset(source, bytes: b.mul(group, 2 * shape.sourceStride))
      emitGroup(&b, first, b.offset(first, bytes: shape.sourceStride), group: group)
    }
    b.ifThen(b.icmp(.ne, b.and(rows, 1), 0)) { b in
      emitGroup(&b, b.offset(source, bytes: b.mul(groups, 2 * shape.sourceStride)), nil, group: groups)
    }
    b.ret()
    return function
  }
}

extension KernelEmitter {
  /// A right side of bf16 in panels of pairs: its address, and the bytes from panel to panel.
  func emitGrouped(_ b: inout IRBuilder, _ slice: TileSlice, panelColumns: Int) -> (address: IRValue, panelStride: Int)
  {
    let tile = kernel[slice.tile]
    let shape = GroupingShape(
      columns: slice.count, panelColumns: panelColumns, sourceStride: rowStride(of: tile),
      panelStride: kernel.panelBytes(of: tile))
    let target = b.offset(scratch, bytes: emitter.scratch.panels[number])
    b.call(emitter.grouping(shape), [address(b, slice), target, rows(of: tile)])
    return (target, shape.panelStride)
  }
}

extension Kernel {
  /// Columns of a panel that a contraction brings a tile into: the widest register tile's.
  static var panelColumns: Int { 32 }

  /// Bytes of a panel of a tile's rows.
  func panelBytes(of tile: Tile) -> Int {
    tile.element.paddedContraction(rowCapacity(of: tile)) * Self.panelColumns * tile.element.workingByteCount
  }

  /// The most rows that a tile can have.
  func rowCapacity(of tile: Tile) -> Int {
    switch tile.rows {
    case .block: domain.block
    case .keys: keyStep
    case .fixed(let count): count
    }
  }

  /// Bytes of the greatest right side that a contraction must bring into panels first, or of the greatest panel that it
  /// must decode.
  func panelByteCount(in program: Program) -> Int {
    statements.map { statement in
      guard case .contract(let contraction) = statement else { return 0 }
      guard case .tile(let slice) = contraction.right else {
        guard case .panels(let buffer, _, _, _) = contraction.right, program[buffer].element == .f8e4m3,
          case .weight(_, .panels(let width, _)) = program[buffer].home
        else { return 0 }
        return program[buffer].element.paddedContraction(contraction.left.count) * width * 2
      }
      let tile = self[slice.tile]
      guard tile.element.contractedTogether > 1, !tile.isGrouped else { return 0 }
      return (slice.count + Self.panelColumns - 1) / Self.panelColumns * panelBytes(of: tile)
    }.max() ?? 0
  }
}
