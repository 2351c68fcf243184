/// Where each weight lies in the weights segment: known before any of their bytes.
public struct WeightsLayout: Hashable, Sendable {
  /// Every weight begins at a multiple of this many bytes from the start of the segment, whose address is a multiple
  /// too: a cache line, and the widest vector.
  public static let alignment = 64

  /// Byte offset of each weight from the start of the segment, in the order given.
  public let offsets: [Int]
  /// Bytes of the whole segment; 0 without weights.
  public let byteCount: Int

  /// Lays weights of these sizes one after the other.
  public init(byteCounts: [Int]) throws(ArtifactError) {
    var offsets: [Int] = []
    offsets.reserveCapacity(byteCounts.count)
    var end = 0
    for (index, count) in byteCounts.enumerated() {
      let (padded, first) = end.addingReportingOverflow(Self.alignment - 1)
      let offset = padded / Self.alignment * Self.alignment
      let (next, second) = offset.addingReportingOverflow(count)
      if count < 0 || first || second {
        throw ArtifactError(
          path: "", kind: .invalidInput, message: "weight \(index): \(count) bytes are negative or too many")
      }
      offsets.append(offset)
      end = next
    }
    self.offsets = offsets
    byteCount = end
  }
}
