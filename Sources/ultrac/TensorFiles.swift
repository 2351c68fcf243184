import Artifact
import Driver
import ModelFormat
import TensorIR
import UltraRuntime

/// Where a case's tensors are in a file: inputs under their own name or with "input." before it, expected results with
/// "expected.".
struct CaseFile {
  let file: SafetensorsFile

  init(path: String) throws {
    file = try SafetensorsFile(path: path)
  }

  /// The inputs of an entry that the file has, as the types that the entry takes. Other tensors are left alone.
  func inputs(for entry: Manifest.Entry) throws -> [String: Tensor] {
    var inputs: [String: Tensor] = [:]
    for port in entry.inputs {
      let names = [port.name, "input.\(port.name)"]
      guard let name = names.first(where: { file.entry(named: $0) != nil }) else {
        throw DriverError(
          "\(file.path): no tensor \"\(port.name)\" or \"input.\(port.name)\", which \"\(entry.name)\" takes as \(port.type)",
          hint: "the file has \(file.names.joined(separator: ", "))")
      }
      guard let element = ElementType(rawValue: port.type.element.rawValue) else { continue }
      let tensor = try file.tensor(named: name).widened(to: element, name: "\(file.path): \"\(name)\"")
      inputs[port.name] = try Tensor(tensor)
    }
    return inputs
  }

  /// Names of results that the file has expected values for.
  var expectedNames: [String] {
    file.names.filter { $0.hasPrefix("expected.") }.map { String($0.dropFirst("expected.".count)) }
  }

  func expected(_ name: String) throws -> HostTensor { try file.tensor(named: "expected.\(name)") }
}

/// The worker threads that --threads asks for; nil where the calling thread does all.
func makePool(threads: Int) throws -> ThreadPool? {
  threads == 1 ? nil : try ThreadPool(workers: threads)
}
