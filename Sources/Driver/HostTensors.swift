import Artifact
import TensorIR
import UltraRuntime

// The compiler's tensors and the runtime's are two types, since neither room knows the other. Both lists of element
// types name the same ones.

extension UltraRuntime.Tensor {
  /// The same tensor for a call of a compiled model.
  public init(_ tensor: HostTensor) throws {
    guard let element = Manifest.Element(rawValue: tensor.element.rawValue) else {
      throw DriverError("a compiled model has no elements of type \(tensor.element.rawValue)")
    }
    try self.init(element: element, shape: tensor.shape, bytes: tensor.bytes)
  }
}

extension HostTensor {
  /// The same tensor for files, comparisons and the interpreter.
  public init(_ tensor: UltraRuntime.Tensor) throws {
    guard let element = ElementType(rawValue: tensor.element.rawValue) else {
      throw DriverError("TensorIR has no elements of type \(tensor.element.rawValue)")
    }
    try self.init(element: element, shape: tensor.shape, bytes: tensor.bytes)
  }
}
