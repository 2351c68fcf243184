import Foundation
import Testing

/// Memory whose end meets an unreadable page, with known bytes around it: reading or writing a page beyond either end
/// faults, and a write just outside shows.
final class GuardedMemory {
  let address: UnsafeMutableRawPointer
  let byteCount: Int
  private let readable: UnsafeMutableRawBufferPointer
  private let mapping: UnsafeMutableRawBufferPointer
  private static let guardByte: UInt8 = 0xA5

  /// The data ends at the unreadable page, except for what the alignment takes.
  init(byteCount: Int, alignment: Int) throws {
    let page = sysconf(Int32(_SC_PAGESIZE))
    // At least a page of known bytes lies before the data.
    let readableCount = (byteCount + page - 1) / page * page + page
    let mapped = mmap(
      nil, readableCount + 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    guard let mapped, mapped != MAP_FAILED else { throw POSIXError(.ENOMEM) }
    mapping = UnsafeMutableRawBufferPointer(start: mapped, count: readableCount + 2 * page)
    readable = UnsafeMutableRawBufferPointer(start: mapped + page, count: readableCount)
    memset(mapped + page, Int32(Self.guardByte), readableCount)
    mprotect(mapped, page, PROT_NONE)
    mprotect(mapped + page + readableCount, page, PROT_NONE)
    let start = mapped + page + readableCount - byteCount
    address = start - Int(UInt(bitPattern: start) % UInt(alignment))
    self.byteCount = byteCount
  }

  convenience init(_ bytes: [UInt8], alignment: Int) throws {
    try self.init(byteCount: bytes.count, alignment: alignment)
    bytes.withUnsafeBytes { if let source = $0.baseAddress { address.copyMemory(from: source, byteCount: $0.count) } }
  }

  deinit { if let start = mapping.baseAddress { munmap(start, mapping.count) } }

  var bytes: [UInt8] { Array(UnsafeRawBufferPointer(start: address, count: byteCount)) }

  func fill(_ byte: UInt8) { memset(address, Int32(byte), byteCount) }

  /// Makes the data read-only: writing to it faults.
  func protect() { if let start = readable.baseAddress { mprotect(start, readable.count, PROT_READ) } }

  /// Whether the known bytes around the data are as they were.
  var isIntact: Bool {
    let start = readable.baseAddress.map { address - $0 } ?? 0
    return readable[..<start].allSatisfy { $0 == Self.guardByte }
      && readable[(start + byteCount)...].allSatisfy { $0 == Self.guardByte }
  }
}

@Suite struct GuardedMemoryTests {
  @Test(arguments: [0, 1, 4, 64, 4095, 4096, 4100], [1, 4, 64])
  func aByteWrittenOutsideShows(byteCount: Int, alignment: Int) throws {
    let page = sysconf(Int32(_SC_PAGESIZE))
    let memory = try GuardedMemory(byteCount: byteCount, alignment: alignment)
    #expect(UInt(bitPattern: memory.address) % UInt(alignment) == 0)
    // Less than the alignment lies between the data and the unreadable page.
    let slack = page - Int(UInt(bitPattern: memory.address + byteCount) % UInt(page))
    #expect(slack % page < alignment)
    memory.fill(0xFF)
    #expect(memory.isIntact)
    for place in [-1, -page] {
      let byte = memory.address.load(fromByteOffset: place, as: UInt8.self)
      memory.address.storeBytes(of: byte ^ 1, toByteOffset: place, as: UInt8.self)
      #expect(!memory.isIntact)
      memory.address.storeBytes(of: byte, toByteOffset: place, as: UInt8.self)
    }
    #expect(memory.isIntact)
  }
}
