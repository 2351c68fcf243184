import TensorIR

/// What TensorIR means, in plain slow Swift: the oracle of every test.
///
/// In `f64` every number is read, computed and given back in fp64; in `f32` in fp32, sums included, each from its first
/// term to its last. Values of narrower element types (f16, bf16, codes) are rounded to them.
/// Time buckets are fp32 in both, since they decide integers (`TimeBuckets`). Derived weights that are declared f32 are
/// computed in the arithmetic of the run, narrower ones are the same numbers in both (`DerivedWeights`).
///
/// Inputs are checked as a compiled model checks them (include/ultra.h): nothing is read before offsets, targets, ids
/// and extents are known to fit. Keys that a mask hides are not read at all.
public struct Interpreter: Sendable {
  /// The arithmetic of a run: every number in fp32, or every number in fp64.
  public enum Precision: Sendable { case f32, f64 }

  /// The module whose functions can be run.
  public let module: Module
  /// The bytes of its weights, but for those that follow from others.
  public let weights: any WeightProvider
  /// The arithmetic of every run.
  public let precision: Precision

  /// An interpreter of a module; what is not valid in it shows when a function runs.
  public init(module: Module, weights: any WeightProvider, precision: Precision = .f64) {
    self.module = module
    self.weights = weights
    self.precision = precision
  }

  /// Runs a function on inputs by argument name and gives its results in order.
  ///
  /// Floating-point inputs have their argument's element type, and results that of `precision`, but for codes, which are
  /// results of their own type. Offsets arguments and results are int64 tensors [sequences + 1]. Throws where an input is missing, too many or unfit, and where the
  /// function is not valid.
  public func run(
    _ function: String, inputs: [String: HostTensor]
  ) throws(InterpreterError) -> [(name: String, tensor: HostTensor)] {
    guard let body = module.function(named: function) else {
      throw .unknownFunction(name: function, known: module.functions.map(\.name))
    }
    switch precision {
    case .f32:
      var evaluator = Evaluator<Float>(module: module, function: body, weights: weights)
      return try evaluator.run(inputs).map {
        ($0.name, $0.value.hostTensor(type: $0.type) { HostTensor($0, shape: $1) })
      }
    case .f64:
      var evaluator = Evaluator<Double>(module: module, function: body, weights: weights)
      return try evaluator.run(inputs).map {
        ($0.name, $0.value.hostTensor(type: $0.type) { HostTensor($0, shape: $1) })
      }
    }
  }
}

extension RuntimeValue {
  /// The value as bytes; `numbers` makes a tensor of floating-point numbers and a shape.
  func hostTensor(type: ValueType, numbers: ([Number], [Int]) -> HostTensor) -> HostTensor {
    switch self {
    case .numbers(let tensor):
      type.tensor.flatMap { tensor.codes($0.element) } ?? numbers(tensor.elements, tensor.shape)
    case .integers(let tensor): HostTensor(tensor.elements, shape: tensor.shape)
    case .offsets(let offsets): HostTensor(offsets.map(Int64.init))
    }
  }
}

extension Tensor where Element: Arithmetic {
  /// The codes as bytes; nil where `element` is no type of codes.
  fileprivate func codes(_ element: ElementType) -> HostTensor? {
    guard element.isCode else { return nil }
    let bytes = elements.map {
      element == .i8 ? UInt8(bitPattern: Rounding.int8(Float($0))) : Rounding.float8Bits(Float($0))
    }
    return try? HostTensor(element: element, shape: shape, bytes: bytes)
  }
}
