import Codegen
import Foundation
import TensorIR
import TestSupport
import Testing
import TileIR

@testable import Driver

/// Weights that are packed piece by piece, by several threads, are those that are packed whole.
@Suite struct WeightPackingTests {
  private static let packings: [Packing] = [
    .plain, .reversed, .coded(.int4), .codedPanels(.int8, width: 8), .codedPanels(.int4, width: 16),
    .panels(width: 16, transposed: false), .panels(width: 16, transposed: true), .panels(width: 12, transposed: true),
    .fragments(transposed: false), .fragments(transposed: true), .matrices(transposed: false),
    .matrices(transposed: true), .fragments(transposed: true, isFNUZ: true),
  ]

  @Test(arguments: packings) func piecesAreTheWhole(packing: Packing) throws {
    var random = Random(seed: 12)
    let elements: [ElementType] =
      switch packing {
      case .coded, .codedPanels: [.u8]
      case .fragments(_, isFNUZ: true): [.f8e4m3]
      case .fragments, .matrices: [.bf16, .i8, .f8e4m3]
      case .plain, .reversed, .panels: [.f32, .bf16, .i8, .f8e4m3]
      }
    for element in elements {
      for (rows, columns) in [(1, 20), (37, 20), (70, 33), (300, 40), (40, 600)] {
        let bytes = (0..<rows * columns * element.byteCount).map { _ in UInt8(truncatingIfNeeded: random.next()) }
        let weight = WeightRows(try HostTensor(element: element, shape: [rows, columns], bytes: bytes))
        func packed(_ pieceBytes: Int) throws -> (pieces: Int, bytes: [UInt8]) {
          let packed = try WeightPacking(
            packing, of: weight, rows: rows, columns: columns, pieceBytes: pieceBytes)
          var result: [UInt8] = []
          try inOrder(packed.pieceCount, threads: 3, make: { try packed.piece($0) }, take: { result += $0 })
          return (packed.pieceCount, result)
        }
        let whole = try packed(1 << 30)
        #expect(whole.pieces == 1)
        #expect(whole.bytes.count == packing.byteCount(rows: rows, columns: columns, element))
        for pieceBytes in [1, 500, 5000] {
          let found = try packed(pieceBytes)
          #expect(found.bytes == whole.bytes, "\(element) \(rows) x \(columns), \(found.pieces) pieces")
          if pieceBytes == 1, packing == .plain { #expect(found.pieces == rows) }
          if pieceBytes == 1, case .panels(let width, true) = packing {
            #expect(found.pieces == (rows + width - 1) / width)
          }
        }
      }
    }
  }

  @Test func panelsHoldWhatTheirDefinitionSays() throws {
    for (element, width) in [(ElementType.f32, 8), (.bf16, 16), (.i8, 16)] {
      for transposed in [false, true] {
        let (inner, outer, together) = (13, 37, element.contractedTogether)
        var random = Random(seed: 5)
        let size = element.byteCount
        let bytes = (0..<inner * outer * size).map { _ in UInt8(truncatingIfNeeded: random.next()) }
        let shape = transposed ? [outer, inner] : [inner, outer]
        let weight = WeightRows(try HostTensor(element: element, shape: shape, bytes: bytes))
        var packed: [UInt8] = []
        try WeightPacking(
          .panels(width: width, transposed: transposed), of: weight, rows: shape[0], columns: shape[1], pieceBytes: 200
        ).write { packed += $0 }
        let panelBytes = width * element.panelColumnBytes(inner)
        for column in 0..<(outer + width - 1) / width * width {
          let panel = column / width * panelBytes
          var sum: Int32 = 0
          for row in 0..<element.paddedContraction(inner) {
            let place = panel + ((row / together * width + column % width) * together + row % together) * size
            let source = (transposed ? column * inner + row : row * outer + column) * size
            let isThere = row < inner && column < outer
            let expected = isThere ? Array(bytes[source..<source + size]) : [UInt8](repeating: 0, count: size)
            #expect(Array(packed[place..<place + size]) == expected)
            if element == .i8, isThere { sum += Int32(Int8(bitPattern: bytes[source])) }
          }
          if element == .i8 {
            let place = panel + width * element.paddedContraction(inner) + column % width * 4
            #expect(packed.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: place, as: Int32.self) } == -128 * sum)
          }
        }
      }
    }
  }

  /// Two codes that follow each other down a column are where one number of bf16 is.
  @Test(arguments: [ElementType.i8, .f8e4m3], [(32, 32), (33, 40), (65, 300)])
  func codesLieInPairs(element: ElementType, shape: (rows: Int, columns: Int)) throws {
    let (rows, columns) = shape
    let pairs = (rows + 1) / 2
    var random = Random(seed: 3)
    let codes = (0..<rows * columns).map { _ in UInt8(truncatingIfNeeded: random.next()) }
    func code(_ row: Int, _ column: Int) -> UInt8 { row < rows ? codes[row * columns + column] : 0 }
    func transposed(_ bytes: [UInt8], rows: Int, columns: Int) -> [UInt8] {
      (0..<columns).flatMap { column in (0..<rows).map { bytes[$0 * columns + column] } }
    }
    let numbers = (0..<pairs).flatMap { pair in
      (0..<columns).flatMap { [code(2 * pair, $0), code(2 * pair + 1, $0)] }
    }
    func packed(_ packing: Packing, _ element: ElementType, _ rows: Int, _ columns: Int, _ bytes: [UInt8]) throws
      -> [UInt8]
    {
      var result: [UInt8] = []
      let weight = WeightRows(try HostTensor(element: element, shape: [rows, columns], bytes: bytes))
      try WeightPacking(packing, of: weight, rows: rows, columns: columns).write { result += $0 }
      return result
    }
    for (own, turned) in [
      (Packing.fragments(transposed: false), Packing.fragments(transposed: true)),
      (.matrices(transposed: false), .matrices(transposed: true)),
    ] {
      let expected = try packed(own, .bf16, pairs, columns, numbers)
      #expect(try packed(own, element, rows, columns, codes) == expected)
      #expect(try packed(turned, element, columns, rows, transposed(codes, rows: rows, columns: columns)) == expected)
      guard case .fragments = own, element == .f8e4m3 else { continue }
      let halves = try packed(.fragments(transposed: false, isFNUZ: true), element, rows, columns, codes)
      #expect(halves == expected.map(Rounding.fnuzBits))
    }
  }

  @Test func aVectorMayBeARow() throws {
    let weight = WeightRows(HostTensor((0..<100).map { Float($0) }))
    var packed: [UInt8] = []
    try WeightPacking(.reversed, of: weight, rows: 1, columns: 100, pieceBytes: 28).write { packed += $0 }
    #expect(packed == HostTensor((0..<100).reversed().map { Float($0) }).bytes)
    #expect(throws: OperationError.self) { try WeightPacking(.plain, of: weight, rows: 2, columns: 100) }
  }
}

/// Pieces that several threads make.
@Suite struct InOrderTests {
  private struct Failure: Error, Equatable { var number: Int }

  @Test(arguments: [1, 2, 7]) func piecesAreTakenInOrder(threads: Int) throws {
    for count in [0, 1, 2, 50] {
      var taken: [Int] = []
      try inOrder(
        count, threads: threads,
        make: { number in
          // Later pieces are ready first.
          if number % 7 == 0 { usleep(300) }
          return number
        }, take: { taken.append($0) })
      #expect(taken == Array(0..<count))
    }
  }

  @Test(arguments: [1, 2, 7]) func theFirstFailureIsThrown(threads: Int) {
    var taken: [Int] = []
    #expect(throws: Failure(number: 5)) {
      try inOrder(
        100, threads: threads,
        make: { number in
          if number == 5 { usleep(500) }
          if number >= 5 { throw Failure(number: number) }
          return number
        }, take: { taken.append($0) })
    }
    #expect(taken == Array(0..<5))
    #expect(throws: Failure(number: 3)) {
      try inOrder(100, threads: threads, make: { $0 }, take: { if $0 >= 3 { throw Failure(number: $0) } })
    }
  }

  @Test(arguments: [2, 7]) func noMorePiecesThanThreadsAreThere(threads: Int) throws {
    let pieces = Pieces()
    try inOrder(200, threads: threads, make: { _ in Piece(pieces) }, take: { _ in usleep(50) })
    #expect(pieces.most <= threads && pieces.alive == 0)
  }

  /// How many there are.
  private final class Pieces: @unchecked Sendable {
    // Sendable: counted under a lock.
    private let lock = NSLock()
    private(set) var (alive, most) = (0, 0)

    func add(_ count: Int) { lock.withLock { (alive, most) = (alive + count, max(most, alive + count)) } }
  }

  private final class Piece: Sendable {
    private let pieces: Pieces

    init(_ pieces: Pieces) {
      self.pieces = pieces
      pieces.add(1)
    }

    deinit { pieces.add(-1) }
  }
}
