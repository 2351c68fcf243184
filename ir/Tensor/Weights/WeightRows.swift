/// A weight that is open for reading some of its rows at a time, by any number of threads: what of it is in memory is what
/// is being read, however large it is.
///
/// Rows run along the first axis. Those of a vector are its elements; a single number is one row.
public struct WeightRows: Sendable {
  /// The type of the elements.
  public let element: ElementType
  /// Extents, outermost first.
  public let shape: [Int]
  /// Bytes in memory for each row that is read: its own, and those of what it follows from.
  public let heldBytes: Int
  private let read: @Sendable (Range<Int>, (UnsafeRawBufferPointer) throws -> Void) throws -> Void

  /// A weight whose rows `read` hands to its second argument: exactly the bytes of the rows asked for, which are valid
  /// rows, at any alignment. The bytes are valid during that call only. `heldBytes` are 0 for what lies in memory anyway.
  public init(
    _ element: ElementType, _ shape: [Int], heldBytes: Int = 0,
    read: @escaping @Sendable (Range<Int>, (UnsafeRawBufferPointer) throws -> Void) throws -> Void
  ) {
    self.element = element
    self.shape = shape
    self.heldBytes = max(heldBytes, shape.dropFirst().reduce(element.byteCount, *))
    self.read = read
  }

  /// The rows of a tensor in memory.
  public init(_ tensor: HostTensor) {
    let rowBytes = tensor.shape.dropFirst().reduce(tensor.element.byteCount, *)
    self.init(tensor.element, tensor.shape) { rows, body in
      try tensor.bytes.withUnsafeBytes { try body($0.rows(rows, of: rowBytes)) }
    }
  }

  /// How many rows there are.
  public var count: Int { shape.first ?? 1 }
  /// Bytes of one row.
  public var rowBytes: Int { shape.dropFirst().reduce(element.byteCount, *) }

  /// The bytes of some rows, valid during `body` only, at any alignment. Throws where there are no such rows, or where they
  /// cannot be read.
  public func withRows<R>(_ rows: Range<Int>, _ body: (UnsafeRawBufferPointer) throws -> R) throws -> R {
    guard rows.lowerBound >= 0, rows.upperBound <= count else {
      throw OperationError("rows \(rows) are asked for, but there are \(count)")
    }
    var result: R?
    try read(rows) { bytes in
      guard bytes.count == rows.count * rowBytes else {
        throw OperationError("\(rows.count) rows of \(shape) take \(rows.count * rowBytes) bytes, found \(bytes.count)")
      }
      result = try body(bytes)
    }
    guard let result else { throw OperationError("rows \(rows) were not read") }
    return result
  }

  /// Bytes of a window: as many as make reading fast, few beside what a process takes.
  public static let windowBytes = 8 << 20

  /// All rows in order, cut into windows that hold at most so many bytes in memory, or one unit: of whole multiples of `unit`
  /// rows but the last.
  public func windows(ofBytes bytes: Int = windowBytes, unit: Int = 1) -> [Range<Int>] {
    let step = max(bytes / max(heldBytes * unit, 1), 1) * unit
    return stride(from: 0, to: count, by: step).map { $0..<min($0 + step, count) }
  }

  /// The same bytes under other extents, which multiply to as many elements.
  public func reshaped(_ shape: [Int]) -> WeightRows {
    let rowBytes = shape.dropFirst().reduce(element.byteCount, *)
    let held = (heldBytes * count + (shape.first ?? 1) - 1) / max(shape.first ?? 1, 1)
    return WeightRows(element, shape, heldBytes: held) { rows, body in
      let (start, end) = (rows.lowerBound * rowBytes, rows.upperBound * rowBytes)
      let own = max(self.rowBytes, 1)
      let first = start / own
      try withRows(first..<(end + own - 1) / own) { bytes in
        try body(UnsafeRawBufferPointer(rebasing: bytes[start - first * own..<end - first * own]))
      }
    }
  }
}

extension UnsafeRawBufferPointer {
  /// Some rows of a matrix whose rows take so many bytes each.
  func rows(_ rows: Range<Int>, of rowBytes: Int) -> UnsafeRawBufferPointer {
    UnsafeRawBufferPointer(rebasing: self[rows.lowerBound * rowBytes..<rows.upperBound * rowBytes])
  }
}
