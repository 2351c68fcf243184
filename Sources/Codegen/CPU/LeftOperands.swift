import LLVMKit
import TensorIR

// The left words of a register tile's rows, each in every lane: what one step multiplies.
extension LevelEmitter {
  /// The words of one step at `pointer`, row by row; each is read when first asked for where nothing is gained by reading
  /// several together.
  func leftWords(_ b: IRBuilder, _ shape: RegisterTile, _ pointer: IRValue, _ word: IRType) -> (Int) -> IRValue {
    guard level.multipliesByLane, shape.leftRowStride == 4 else {
      return { row in
        let place = b.offset(pointer, bytes: row * shape.leftRowStride)
        return b.splat(b.load(word, place, alignment: shape.element.workingByteCount), self.level.floatLanes)
      }
    }
    // Rows lie one after the other: a vector holds those of several.
    let most = level.floatLanes
    let vectors = stride(from: 0, to: shape.height, by: most).map { first in
      leftLanes(b, shape, pointer, row: first, count: min(most, shape.height - first))
    }
    return { row in self.splatLane(b, vectors[row / most], row % most) }
  }

  /// `count` words that lie together from the row's first on.
  ///
  /// Pairs of bf16 are read as numbers of fp32: of these, LLVM knows that an instruction takes a lane.
  func leftLanes(_ b: IRBuilder, _ shape: RegisterTile, _ pointer: IRValue, row: Int, count: Int) -> IRValue {
    let scalar = shape.element == .i8 ? context.i32 : context.f32
    let type = count == 1 ? scalar : context.vector(scalar, count)
    let place = b.offset(pointer, bytes: row * shape.leftRowStride)
    return b.load(type, place, alignment: shape.element.workingByteCount)
  }

  /// One of the words in every lane of a whole vector.
  func splatLane(_ b: IRBuilder, _ words: IRValue, _ lane: Int) -> IRValue {
    let lanes = level.floatLanes
    return words.type.isVector ? b.shuffle(words, [Int](repeating: lane, count: lanes)) : b.splat(words, lanes)
  }
}

extension RegisterTile {
  /// How many steps' words are read at once from each row; nil where one is read for itself.
  func leftWordsTogether(at level: CPULevel) -> Int? {
    level.multipliesByLane && leftStepStride == 4 && leftRowStride != 4 ? level.floatLanes : nil
  }
}
