import Foundation
import LLVMKit
import Testing

/// An object file linked into a shared object and loaded, for the length of this value's life.
final class LoadedObject {
  private let handle: UnsafeMutableRawPointer
  private let folder: URL

  fileprivate init(handle: UnsafeMutableRawPointer, folder: URL) {
    self.handle = handle
    self.folder = folder
  }

  deinit {
    dlclose(handle)
    try? FileManager.default.removeItem(at: folder)
  }

  /// A symbol's address as a C function: `object.function("f", as: (@convention(c) (Float) -> Float).self)`.
  func function<Function>(_ name: String, as type: Function.Type) throws -> Function {
    unsafeBitCast(try address(name), to: type)
  }

  /// A symbol's address.
  func address(_ name: String) throws -> UnsafeMutableRawPointer {
    guard let address = dlsym(handle, name) else { throw HarnessError(text: "no symbol \(name)") }
    return address
  }
}

/// What went wrong between an object file and its loaded code.
struct HarnessError: Error, CustomStringConvertible {
  let text: String
  var description: String { text }
}

/// Links an object the way an artifact is linked, with no library at all, and loads it.
func loadObject(_ object: [UInt8]) throws -> LoadedObject {
  let folder = FileManager.default.temporaryDirectory.appendingPathComponent("codegen-\(UUID().uuidString)")
  try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
  do {
    let input = folder.appendingPathComponent("object.o")
    let output = folder.appendingPathComponent("object.so")
    try Data(object).write(to: input)
    let linker = Process()
    linker.executableURL = URL(fileURLWithPath: "/usr/bin/ld")
    linker.arguments = [
      "-shared", "-nostdlib", "--no-undefined", "-z", "noexecstack", "-o", output.path, input.path,
    ]
    let complaints = Pipe()
    linker.standardError = complaints
    try linker.run()
    let text = String(decoding: complaints.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    linker.waitUntilExit()
    guard linker.terminationStatus == 0 else { throw HarnessError(text: "ld: \(text)") }
    guard let handle = dlopen(output.path, RTLD_NOW | RTLD_LOCAL) else {
      throw HarnessError(text: dlerror().map { String(cString: $0) } ?? "dlopen failed")
    }
    return LoadedObject(handle: handle, folder: folder)
  } catch {
    try? FileManager.default.removeItem(at: folder)
    throw error
  }
}

/// Verifies, optimizes, emits, links and loads a module for this machine.
func load(_ module: IRModule, optimizing pipeline: String? = "default<O2>") throws -> LoadedObject {
  try module.verify()
  let machine = try TargetMachine(triple: "x86_64-unknown-linux-gnu")
  if let pipeline { try module.optimize(pipeline, for: machine) }
  return try loadObject(try machine.emitObject(module))
}
