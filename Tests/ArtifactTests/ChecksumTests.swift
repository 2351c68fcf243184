import CUltra
import Testing

@Suite struct ChecksumTests {
  private func checksum(_ bytes: [UInt8], from start: UInt64 = 0) -> UInt64 { ultra_crc64(start, bytes, bytes.count) }

  @Test func itIsThePublishedOne() {
    #expect(checksum([UInt8]("123456789".utf8)) == 0x995D_C9BB_DF19_39FA)
    #expect(checksum([]) == 0)
  }

  /// Bit by bit, from the definition.
  private func slow(_ bytes: [UInt8]) -> UInt64 {
    var value = UInt64.max
    for byte in bytes {
      value ^= UInt64(byte)
      for _ in 0..<8 { value = value & 1 == 1 ? (value >> 1) ^ 0xC96C_5795_D787_0F42 : value >> 1 }
    }
    return ~value
  }

  @Test func everyLengthAndEverySplitAgree() {
    let bytes = (0..<100).map { _ in UInt8.random(in: 0...255) }
    for length in 0...bytes.count {
      let part = Array(bytes[..<length])
      #expect(checksum(part) == slow(part))
      #expect(checksum(Array(bytes[length...]), from: checksum(part)) == slow(bytes))
    }
  }

  @Test func partsJoin() {
    let bytes = (0..<5000).map { _ in UInt8.random(in: 0...255) }
    for length in [0, 1, 15, 16, 17, 255, 256, 4095, 4999, 5000] {
      let (first, second) = (Array(bytes[..<length]), Array(bytes[length...]))
      #expect(
        ultra_crc64_join(checksum(first), checksum(second), UInt64(second.count)) == checksum(bytes), "\(length)")
    }
    // Zeros at the end are told from none.
    #expect(ultra_crc64_join(1, checksum([0]), 1) != 1)
  }
}
