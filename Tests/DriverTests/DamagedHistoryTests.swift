import CUltra
import Foundation
import TestSupport
import Testing
import UltraRuntime

/// Blocks of kept histories that are damaged, lie, or are none: they are refused, and nothing outside them is read. The header's
/// fields are those of docs/abi.md.
@Suite struct DamagedHistoryTests {
  private static let headerBytes = 128

  /// The helper's view of a model, and a block of 5 rows with room for 9.
  private struct Fixture {
    let model: KeptModel
    let cache: OpaquePointer
    let block: [UInt8]

    init() throws {
      model = try KeptModel(candidates: true)
      var cache: OpaquePointer?
      #expect(ultra_cache_create(model.model.table, &cache) == 0)
      self.cache = try #require(cache)
      let stored = try model.histories([[1, 2, 3, 4, 5]])[0].bytes
      let from = try GuardedMemory(stored, alignment: 64)
      let size = try model.cache.byteCount(capacity: 9)
      let into = try GuardedMemory(byteCount: size, alignment: 64)
      let status = ultra_cache_copy(
        self.cache, ultra_cache_block(memory: from.address, size: stored.count),
        ultra_cache_block(memory: into.address, size: size), 9)
      #expect(status == 0 && from.isIntact && into.isIntact)
      block = into.bytes
    }

    /// What a check of these bytes says, which end where memory does.
    func check(_ bytes: [UInt8], size: Int? = nil) throws -> ultra_cache_status {
      let memory = try GuardedMemory(bytes, alignment: 64)
      let block = ultra_cache_block(memory: memory.address, size: size ?? bytes.count)
      let status = ultra_cache_check(cache, block)
      // Whatever else is asked of a refused block is refused, too.
      if status != 0 {
        #expect(ultra_cache_rows(cache, block) == -1 && ultra_cache_capacity(cache, block) == -1)
        let other = try GuardedMemory(byteCount: self.block.count, alignment: 64)
        other.fill(7)
        let into = ultra_cache_block(memory: other.address, size: self.block.count)
        #expect(ultra_cache_copy(cache, block, into, 9) == status)
        #expect(other.bytes.allSatisfy { $0 == 7 })
        var offsets: [Int64] = [0, 0]
        #expect(begin(&offsets, block) == status)
      }
      #expect(memory.isIntact && memory.bytes == bytes)
      return ultra_cache_status(UInt32(bitPattern: status))
    }

    /// Begins a call of `extend` without rows.
    private func begin(_ offsets: inout [Int64], _ block: ultra_cache_block) -> Int32 {
      guard let entry = ultra_cache_entry(cache, ULTRA_CACHE_EXTEND.rawValue)?.pointee else { return -1 }
      var dimensions = [Int64](repeating: 0, count: Int(entry.dimension_count))
      var outputs = [ultra_tensor](repeating: ultra_tensor(), count: Int(entry.output_count))
      return offsets.withUnsafeMutableBytes { offsets in
        var inputs = [ultra_tensor](
          repeating: ultra_tensor(data: offsets.baseAddress, count: 2), count: Int(entry.input_count))
        return dimensions.withUnsafeMutableBufferPointer { dimensions in
          inputs.withUnsafeMutableBufferPointer { inputs in
            outputs.withUnsafeMutableBufferPointer { outputs in
              withUnsafePointer(to: block) { block in
                var call = ultra_cache_call()
                call.struct_size = UInt32(MemoryLayout<ultra_cache_call>.size)
                call.kind = ULTRA_CACHE_EXTEND.rawValue
                call.users = 1
                call.blocks = block
                call.dimensions = dimensions.baseAddress
                call.inputs = inputs.baseAddress
                call.outputs = outputs.baseAddress
                return ultra_cache_begin(cache, &call)
              }
            }
          }
        }
      }
    }
  }

  /// The header with its checksum put right.
  private static func sealed(_ bytes: [UInt8]) -> [UInt8] {
    var bytes = bytes
    let count = min(headerBytes, bytes.count)
    for place in 56..<64 { bytes[place] = 0 }
    let sum = ultra_crc64(0, bytes, count)
    for place in 0..<8 { bytes[56 + place] = UInt8(truncatingIfNeeded: sum >> (8 * UInt64(place))) }
    return bytes
  }

  private static func set<Number: FixedWidthInteger>(_ number: Number, at place: Int, in bytes: [UInt8]) -> [UInt8] {
    var bytes = bytes
    withUnsafeBytes(of: number.littleEndian) { bytes.replaceSubrange(place..<place + $0.count, with: $0) }
    return bytes
  }

  @Test func everyFlippedBitOfAHeaderIsSeen() throws {
    let fixture = try Fixture()
    #expect(try fixture.check(fixture.block) == ULTRA_CACHE_OK)
    for place in 0..<Self.headerBytes {
      for bit in 0..<8 {
        var bytes = fixture.block
        bytes[place] ^= 1 << bit
        let expected =
          switch place {
          case 0..<8: ULTRA_CACHE_NO_BLOCK
          case 8..<12: ULTRA_CACHE_OTHER_VERSION
          case 16..<24: ULTRA_CACHE_OTHER_MODEL
          default: ULTRA_CACHE_DAMAGED
          }
        #expect(try fixture.check(bytes) == expected, "byte \(place), bit \(bit)")
      }
    }
    // Numbers in sections are not covered: they are only numbers.
    var bytes = fixture.block
    bytes[Self.headerBytes] ^= 1
    #expect(try fixture.check(bytes) == ULTRA_CACHE_OK)
  }

  @Test("a header that lies under a right checksum is seen through")
  func lies() throws {
    let fixture = try Fixture()
    let size = Int64(fixture.block.count)
    let room = Int64(try fixture.model.cache.byteCount(capacity: 11))
    let lies: [(place: Int, bytes: [UInt8], status: ultra_cache_status)] = [
      (12, Self.set(UInt32(64), at: 12, in: fixture.block), ULTRA_CACHE_DAMAGED),
      (12, Self.set(UInt32.max, at: 12, in: fixture.block), ULTRA_CACHE_DAMAGED),
      (24, Self.set(size - 64, at: 24, in: fixture.block), ULTRA_CACHE_DAMAGED),
      (24, Self.set(size + 64, at: 24, in: fixture.block), ULTRA_CACHE_DAMAGED),
      // Another capacity, and the size that belongs to it.
      (32, Self.set(room, at: 24, in: Self.set(Int64(11), at: 32, in: fixture.block)), ULTRA_CACHE_TOO_SMALL),
      (32, Self.set(Int64(11), at: 32, in: fixture.block), ULTRA_CACHE_DAMAGED),
      (32, Self.set(Int64(4), at: 32, in: fixture.block), ULTRA_CACHE_DAMAGED),
      (32, Self.set(Int64(-1), at: 32, in: fixture.block), ULTRA_CACHE_DAMAGED),
      (32, Self.set(Int64.max, at: 32, in: fixture.block), ULTRA_CACHE_DAMAGED),
      (32, Self.set(Int64(1) << 56, at: 32, in: fixture.block), ULTRA_CACHE_DAMAGED),
      (40, Self.set(Int64(10), at: 40, in: fixture.block), ULTRA_CACHE_DAMAGED),
      (40, Self.set(Int64(-1), at: 40, in: fixture.block), ULTRA_CACHE_DAMAGED),
      (48, Self.set(UInt32(0), at: 48, in: fixture.block), ULTRA_CACHE_DAMAGED),
      (48, Self.set(UInt32.max, at: 48, in: fixture.block), ULTRA_CACHE_DAMAGED),
      (52, Self.set(UInt32(0), at: 52, in: fixture.block), ULTRA_CACHE_DAMAGED),
      (52, Self.set(UInt32.max, at: 52, in: fixture.block), ULTRA_CACHE_DAMAGED),
      (64, Self.set(Int64(10), at: 64, in: fixture.block), ULTRA_CACHE_DAMAGED),
      (64, Self.set(Int64(-1), at: 64, in: fixture.block), ULTRA_CACHE_DAMAGED),
      (64, Self.set(Int64.max, at: 64, in: fixture.block), ULTRA_CACHE_DAMAGED),
    ]
    for (index, lie) in lies.enumerated() {
      #expect(try fixture.check(Self.sealed(lie.bytes)) == lie.status, "lie \(index), of the field at \(lie.place)")
    }
    #expect(try fixture.check(Self.sealed(fixture.block)) == ULTRA_CACHE_OK)
  }

  @Test func lessThanABlockIsRefused() throws {
    let fixture = try Fixture()
    for count in [0, 1, 8, 63, 64, 65, 127, 128, 129, fixture.block.count - 64, fixture.block.count - 1] {
      #expect(try fixture.check(Array(fixture.block.prefix(count)), size: count) == ULTRA_CACHE_TOO_SMALL, "\(count)")
    }
    let memory = try GuardedMemory(byteCount: fixture.block.count + 64, alignment: 64)
    let block = ultra_cache_block(memory: memory.address + 8, size: fixture.block.count)
    #expect(ultra_cache_check(fixture.cache, block) == ULTRA_CACHE_NOT_ALIGNED.rawValue)
    #expect(ultra_cache_initialise(fixture.cache, block, 9) == ULTRA_CACHE_NOT_ALIGNED.rawValue)
    let none = ultra_cache_block(memory: nil, size: 1000)
    #expect(ultra_cache_check(fixture.cache, none) == ULTRA_CACHE_BAD_CALL.rawValue)
    let small = ultra_cache_block(memory: memory.address, size: fixture.block.count - 1)
    #expect(ultra_cache_initialise(fixture.cache, small, 9) == ULTRA_CACHE_TOO_SMALL.rawValue)
    #expect(ultra_cache_initialise(fixture.cache, small, -1) == ULTRA_CACHE_FULL.rawValue)
  }

  @Test func noiseIsNoBlock() throws {
    let fixture = try Fixture()
    var random = Random(seed: 9)
    for _ in 0..<2000 {
      var bytes = fixture.block
      // Noise in the header, mostly with what makes it look like a block.
      for _ in 0..<random.integer(in: 1...12) {
        bytes[random.integer(in: 12...Self.headerBytes - 1)] = UInt8(truncatingIfNeeded: random.next())
      }
      let kept = Array(fixture.block[16..<24])
      if !random.once(in: 4) { bytes.replaceSubrange(16..<24, with: kept) }
      bytes = Self.sealed(bytes)
      guard try fixture.check(bytes) == ULTRA_CACHE_OK else { continue }
      // What is accepted is a block: its numbers are within the memory.
      #expect(Array(bytes[12..<40]) == Array(fixture.block[12..<40]))
      #expect((0...9).contains(bytes[40]) && (0...9).contains(bytes[64]))
    }
  }
}
