import TensorIR
import TileIR

// What expressions and statements of a plan read.

extension Expression {
  /// Numbers that are read for each element.
  var elementReads: Int {
    switch self {
    case .tile, .columnValue, .gathered: 1
    case .unary(_, let operand), .unlessIndex(_, _, let operand), .whereBits(_, _, let operand): operand.elementReads
    case .binary(_, let left, let right): left.elementReads + right.elementReads
    case .product, .rowValue, .element, .constant, .scalar, .positionBias, .timeBias: 0
    }
  }

  /// The expression with the product in place of a slice's elements.
  func finishing(_ slice: TileSlice) -> Expression { replacing { $0 == .tile(slice) ? .product : nil } }

  /// Whether the slice's tile is read, and only as this slice, element by element; indices are not read beside it.
  func reads(onlyWhole slice: TileSlice) -> Bool {
    var (count, others) = (0, 0)
    func visit(_ expression: Expression) {
      switch expression {
      case .tile(slice): count += 1
      case .tile(let other), .rowValue(let other): if other.tile == slice.tile { others += 1 }
      case .unary(_, let operand): visit(operand)
      case .unlessIndex, .whereBits, .gathered: others += 1
      case .binary(_, let left, let right):
        visit(left)
        visit(right)
      case .product, .columnValue, .element, .constant, .scalar, .positionBias, .timeBias: break
      }
    }
    visit(self)
    return count == 1 && others == 0
  }
}

extension Statement {
  /// Calls `body` for every vector of indices that a statement of rows reads.
  func forEachIndexVector(_ body: (IndexVectorID) -> Void) {
    func visit(_ expression: Expression) {
      switch expression {
      case .gathered(_, let vector): body(vector)
      case .unlessIndex(let vector, _, let operand), .whereBits(let vector, _, let operand):
        body(vector)
        visit(operand)
      case .unary(_, let operand): visit(operand)
      case .binary(_, let left, let right):
        visit(left)
        visit(right)
      default: break
      }
    }
    switch self {
    case .map(_, let expression, _), .reduce(_, let expression, _), .maximum(_, let expression, _): visit(expression)
    case .gather(_, _, _, let vector, _), .gatherIntegers(_, _, let vector, _), .storeIndices(_, let vector):
      body(vector)
    case .indices(_, .marked(let vector, _, _, _)): body(vector)
    default: break
    }
  }
}
