import TensorIR
import TileIR

/// What tile programs mean, in plain slow Swift: it holds the lowering to what TensorIR means, and shows what code for a
/// target must do.
///
/// In `f32` every product, sum and reduction has the order and the roundings that TileIR gives it; only the functions
/// (SiLU, sigmoid) are the platform's own. In `f64` all numbers are fp64. Memory that lasts for a call is NaN before it,
/// and so are the tiles of a block, so what is read before it is written shows in the result.
public struct TileInterpreter: Sendable {
  /// The program that is run.
  public let program: Program
  /// The bytes of its weights, not yet packed.
  public let weights: any WeightProvider
  /// The arithmetic of every run.
  public let precision: Interpreter.Precision

  /// An interpreter of a program, which is verified when it runs.
  public init(program: Program, weights: any WeightProvider, precision: Interpreter.Precision = .f64) {
    self.program = program
    self.weights = weights
    self.precision = precision
  }

  /// Runs the program on inputs by buffer name, integers [rows] and fp32 matrices [rows, columns], and gives its outputs in
  /// order, in the element type of `precision`. Throws where an input is missing, too many or unfit (with the errors of a
  /// compiled model), and where the program is not sound.
  public func run(_ inputs: [String: HostTensor]) throws(InterpreterError) -> [(name: String, tensor: HostTensor)] {
    do { try program.verify() } catch {
      throw .invalidFunction(operation: program.name, reason: error.description)
    }
    switch precision {
    case .f32:
      var machine = TileMachine<Float>(program: program, weights: weights)
      try machine.run(inputs)
      return machine.outputs { HostTensor($0, shape: $1) }
    case .f64:
      var machine = TileMachine<Double>(program: program, weights: weights)
      try machine.run(inputs)
      return machine.outputs { HostTensor($0, shape: $1) }
    }
  }
}
