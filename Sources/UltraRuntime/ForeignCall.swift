import CFFI
import CUltra

/// A C function that is known only by its address and by the types of its signature, called through libffi.
struct ForeignFunction: @unchecked Sendable {
  /// A C type of the ABI.
  enum CType {
    case pointer, int32, uint32, size

    var ffi: UnsafeMutablePointer<ffi_type>? {
      switch self {
      case .pointer: cffi_pointer()
      case .int32: cffi_sint32()
      case .uint32: cffi_uint32()
      case .size: cffi_uint64()
      }
    }
  }

  /// The call interface and the types that it points to; never written after it is prepared.
  private final class Interface {
    let cif: UnsafeMutablePointer<ffi_cif>
    let types: UnsafeMutablePointer<UnsafeMutablePointer<ffi_type>?>

    init?(arguments: [CType], result: CType) {
      cif = .allocate(capacity: 1)
      cif.initialize(to: ffi_cif())
      types = .allocate(capacity: max(1, arguments.count))
      for (index, type) in arguments.enumerated() { (types + index).initialize(to: type.ffi) }
      guard ffi_prep_cif(cif, FFI_DEFAULT_ABI, UInt32(arguments.count), result.ffi, types) == FFI_OK else { return nil }
    }

    deinit {
      cif.deallocate()
      types.deallocate()
    }
  }

  private let interface: Interface
  private let address: UnsafeMutableRawPointer

  init(_ address: UnsafeMutableRawPointer, arguments: [CType], result: CType) throws(RuntimeError) {
    guard let interface = Interface(arguments: arguments, result: result) else {
      throw RuntimeError(.loading, "libffi refused the signature of an entry")
    }
    self.interface = interface
    self.address = address
  }

  /// Calls the function with arguments at these addresses, as many and of the types as it was made for. Returns the
  /// result's register; results narrower than it are widened by libffi.
  func call(_ arguments: UnsafeMutablePointer<UnsafeMutableRawPointer?>) -> UInt64 {
    var result: UInt64 = 0
    let function = unsafeBitCast(address, to: (@convention(c) () -> Void).self)
    ffi_call(interface.cif, function, &result, arguments)
    return result
  }
}

/// The two functions of an entry, by the signatures of ultra.h.
struct EntryFunctions: Sendable {
  private let workspaceSize: ForeignFunction
  private let run: ForeignFunction
  nonisolated(unsafe) let entry: UnsafePointer<ultra_entry>

  init(_ entry: UnsafePointer<ultra_entry>) throws(RuntimeError) {
    guard let sizeFunction = entry.pointee.workspace_size, let runFunction = entry.pointee.run else {
      throw RuntimeError(.loading, "an entry of the table has no code")
    }
    self.entry = entry
    workspaceSize = try ForeignFunction(
      unsafeBitCast(sizeFunction, to: UnsafeMutableRawPointer.self), arguments: [.pointer, .uint32], result: .size)
    run = try ForeignFunction(
      unsafeBitCast(runFunction, to: UnsafeMutableRawPointer.self), arguments: [.pointer], result: .int32)
  }

  /// Bytes of workspace; nil where an extent is too large for the model.
  func workspaceSize(dimensions: UnsafePointer<Int64>?, workers: Int) -> Int? {
    var pointer = dimensions
    var count = UInt32(clamping: workers)
    let size = withUnsafeMutablePointer(to: &pointer) { first in
      withUnsafeMutablePointer(to: &count) { second in
        withUnsafeTemporaryAllocation(of: UnsafeMutableRawPointer?.self, capacity: 2) { arguments in
          arguments.initializeElement(at: 0, to: UnsafeMutableRawPointer(first))
          arguments.initializeElement(at: 1, to: UnsafeMutableRawPointer(second))
          return arguments.baseAddress.map { workspaceSize.call($0) } ?? UInt64.max
        }
      }
    }
    return Int(exactly: size)
  }

  /// Runs the entry; the status that it returned.
  func run(_ call: UnsafePointer<ultra_call>) -> Int32 {
    var pointer = call
    return withUnsafeMutablePointer(to: &pointer) { argument in
      var slot: UnsafeMutableRawPointer? = UnsafeMutableRawPointer(argument)
      return Int32(truncatingIfNeeded: run.call(&slot))
    }
  }
}
